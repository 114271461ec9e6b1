//! Ingests events that programs add, a line of JSON each: reads them, filters them,
//! and queues them in one commit.
//!
//! Promise: a line whose outcome is [`IngestOutcome::Added`] is on disk. A bad line
//! affects only itself.

use crate::model::Now;
use crate::protocol::events::{EventLineError, IncomingEvent, IngestPolicy, read_line};
use crate::protocol::stored::{encode, is_denial};
use crate::store::{EventStore, Limits, NewEvent, Queued, StoreError};

/// The longest line read, in bytes. An event with its certificates takes 5 KB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What became of a line.
#[derive(Debug)]
pub enum IngestOutcome {
    /// Its event is queued.
    Added,
    /// An event of the same unique id waits already.
    Duplicate,
    /// An equal record of something allowed was taken in less than 4 h ago.
    BackedOff,
    /// The policy does not take such events in.
    Filtered,
    /// It is not an event.
    Invalid(EventLineError),
}

impl IngestOutcome {
    /// Its name in `--json`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Duplicate => "duplicate",
            Self::BackedOff => "backed_off",
            Self::Filtered => "filtered",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// A line with what became of it.
#[derive(Debug)]
pub struct IngestedEvent {
    /// The unique id of its event; empty if it is not an event.
    pub unique_id: String,
    /// What became of it.
    pub answer: IngestOutcome,
    /// Whether its event reports a denial (EV-10).
    pub denial: bool,
}

impl IngestedEvent {
    /// Whether it is queued and the server should hear of it soon (EV-10).
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.denial && matches!(self.answer, IngestOutcome::Added)
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
    lines: &[Vec<u8>],
    now: Now,
) -> Result<Vec<IngestedEvent>, StoreError> {
    let mut answers = Vec::with_capacity(lines.len());
    let mut events = Vec::with_capacity(lines.len());
    let mut places = Vec::with_capacity(lines.len());
    for line in lines {
        let (unique_id, answer, denial) = match read_line(line) {
            Err(error) => (String::new(), IngestOutcome::Invalid(error), false),
            Ok(IncomingEvent { event, audited, summary }) => {
                let unique_id = summary.unique_id.clone();
                let denial = is_denial(&event);
                if policy.admits(&event, audited) {
                    places.push(answers.len());
                    events.push(NewEvent { summary, data: encode(&event) });
                }
                (unique_id, IngestOutcome::Filtered, denial)
            }
        };
        answers.push(IngestedEvent { unique_id, answer, denial });
    }
    let queued = store.queue_events(&events, now, limits)?;
    for (place, queued) in places.into_iter().zip(queued) {
        answers[place].answer = match queued {
            Queued::Added => IngestOutcome::Added,
            Queued::Duplicate => IngestOutcome::Duplicate,
            Queued::BackedOff => IngestOutcome::BackedOff,
        };
    }
    Ok(answers)
}
