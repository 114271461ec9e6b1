//! Ingests events: those that programs add, a line of JSON each, and those that the
//! authorizer of this host uploads to the relay. Reads them, filters the former, and
//! queues them in one commit.
//!
//! Promise: a line whose outcome is [`IngestOutcome::Added`] is on disk, and so is
//! an upload that was taken. A bad line affects only itself.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use thiserror::Error;

use crate::model::{Now, Transfer};
use crate::protocol::events::{IncomingEvent, IngestPolicy, read_line};
use crate::protocol::lenient::Warning;
use crate::protocol::requests::{RequestError, read_upload};
use crate::protocol::stored::{encode, is_denial};
use crate::store::{EventStore, Limits, NewEvent, Queued, Relayed, StoreError, TakeError};

/// The longest line read, in bytes. An event with its certificates takes 5 KB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What became of an event that was handed over, as every JSON form shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "result", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum IngestOutcome {
    /// It is queued.
    Added,
    /// An event with the same unique id is already queued.
    Duplicate,
    /// An equal record of something allowed was queued in the last 4 h.
    BackedOff,
    /// The policy does not record such events.
    Filtered,
    /// It is not an event.
    Invalid {
        /// Why.
        reason: String,
    },
}

impl IngestOutcome {
    /// Returns the name that `--json` uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// An event that was handed over, with what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestedEvent {
    /// Distinguishes the event from others; empty if it is not an event.
    pub unique_id: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: IngestOutcome,
    /// Whether it reports a denial (EV-10); false once it has been serialized.
    #[serde(skip)]
    pub denial: bool,
}

impl IngestedEvent {
    /// A line that is not an event.
    #[must_use]
    pub fn invalid(reason: String) -> Self {
        let outcome = IngestOutcome::Invalid { reason };
        Self { unique_id: String::new(), outcome, denial: false }
    }

    /// Whether it is queued and the server should hear of it soon (EV-10).
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.denial && matches!(self.outcome, IngestOutcome::Added)
    }
}

/// Ingests the events of lines, in their order, and returns the outcome of each.
///
/// # Errors
/// If they cannot be written; then none of them is queued.
pub fn ingest_lines(
    store: &mut EventStore,
    policy: IngestPolicy,
    limits: Limits,
    lines: &[impl AsRef<[u8]>],
    now: Now,
) -> Result<Vec<IngestedEvent>, StoreError> {
    let mut results = Vec::with_capacity(lines.len());
    let mut events = Vec::with_capacity(lines.len());
    let mut places = Vec::with_capacity(lines.len());
    for line in lines {
        results.push(match read_line(line.as_ref()) {
            Err(error) => IngestedEvent::invalid(error.to_string()),
            Ok(IncomingEvent { event, audited, summary }) => {
                let unique_id = summary.unique_id.clone();
                let denial = is_denial(&event);
                if policy.admits(&event, audited) {
                    places.push(results.len());
                    events.push(NewEvent { summary, data: encode(&event) });
                }
                IngestedEvent { unique_id, outcome: IngestOutcome::Filtered, denial }
            }
        });
    }
    let queued = store.queue_events(&events, now, limits)?;
    for (place, queued) in places.into_iter().zip(queued) {
        results[place].outcome = match queued {
            Queued::Added => IngestOutcome::Added,
            Queued::Duplicate => IngestOutcome::Duplicate,
            Queued::BackedOff => IngestOutcome::BackedOff,
        };
    }
    Ok(results)
}

/// An upload of the authorizer that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestedUpload {
    /// What became of its events.
    pub relayed: Relayed,
    /// Values that were read as absent or zero.
    pub warnings: Vec<Warning>,
}

/// Why an upload was not taken.
#[derive(Debug, Error)]
pub enum UploadError {
    /// The body is not an upload.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The queue is full or cannot be used; the authorizer is to keep its events.
    #[error(transparent)]
    Take(#[from] TakeError),
}

/// Takes the events in the body of an `event_upload` request of the authorizer, as
/// they are (RELAY-8). They are on disk when this returns.
///
/// # Errors
/// If the body is not an upload, or the queue is full or cannot be used; then none of
/// the events is taken.
pub fn ingest_upload(
    store: &mut EventStore,
    transfer: Transfer,
    body: &[u8],
    now: Now,
    limits: Limits,
) -> Result<IngestedUpload, UploadError> {
    let upload = read_upload(transfer, body)?;
    let relayed = store.take_relayed(&upload.events, now, limits)?;
    Ok(IngestedUpload { relayed, warnings: upload.warnings })
}
