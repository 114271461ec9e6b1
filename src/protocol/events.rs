//! Events on their way in and out: a line of `events add`, what the policy
//! lets into the queue, and the message that carries a batch.
//!
//! What a stored row holds is [`super::stored`]'s.

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Deserialize as _;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use thiserror::Error;

use super::body::EncodedBody;
use super::json::{Message as _, Nested, read_value};
use super::lenient::Notes;
use super::stored::{
    DecodedEvent, EventError, QueuedEvent, allows, bundle_of, decode_row, summarize,
};
use super::upload::EventUploadBody;
use super::{json, wire};
use crate::model::{EventRow, EventSummary, MachineId, Settings, SettledEvents, Transfer};

/// A batch of events on its way from the queue to the server.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EventBatch {
    /// The rows whose events are in `body`.
    pub ids: Vec<i64>,
    /// The [`wire::EventUploadRequest`] that carries them, as it goes over the
    /// wire; empty if no row can be sent.
    pub body: EncodedBody,
    /// Rows whose event version 1 of the protocol cannot carry, with its kind.
    pub dropped: Vec<(i64, String)>,
    /// Rows that cannot be read, with the reason.
    pub rejected: Vec<(i64, String)>,
    /// For each executable in `body` of a bundle that a server requested: the
    /// bundle's hash, and how many executables the bundle has.
    pub bundles: Vec<(String, u32)>,
}

impl EventBatch {
    /// Builds the batch of these rows; `pack` compresses its body.
    #[must_use]
    pub fn of_rows(
        rows: Vec<EventRow>,
        machine_id: &MachineId,
        transfer: Transfer,
        pack: impl FnOnce(Vec<u8>) -> EncodedBody,
    ) -> Self {
        let mut batch = Self::default();
        let mut upload = EventUploadBody::new(transfer);
        for row in rows {
            let id = row.id;
            if row.oversize.is_none() && upload.push_stored(&row.data) {
                batch.ids.push(id);
                continue;
            }
            match decode(&row) {
                DecodedEvent::Sendable(event) => match upload.push(&event) {
                    Ok(()) => {
                        batch.ids.push(id);
                        let bundle = bundle_of(&event);
                        batch.bundles.extend(bundle.map(|(hash, count)| (hash.to_owned(), count)));
                    }
                    Err(error) => batch.rejected.push((id, error.to_string())),
                },
                DecodedEvent::Unsendable { kind } => batch.dropped.push((id, kind)),
                DecodedEvent::Undecodable { reason } => batch.rejected.push((id, reason)),
            }
        }
        if !batch.ids.is_empty() {
            batch.body = pack(upload.finish(machine_id.as_str()));
        }
        batch
    }

    /// How many rows it is of, and the last of them.
    #[must_use]
    pub fn extent(&self) -> (usize, Option<i64>) {
        let others = self.dropped.iter().chain(&self.rejected).map(|(id, _)| id);
        let rows = self.ids.len() + self.dropped.len() + self.rejected.len();
        (rows, self.ids.iter().chain(others).max().copied())
    }

    /// What becomes of its rows once the server has accepted the body.
    #[must_use]
    pub fn settled(self, bundle_requests: Vec<String>) -> SettledEvents {
        let Self { ids, body: _, dropped, rejected, bundles } = self;
        SettledEvents {
            delivered: ids,
            dropped,
            rejected,
            bundle_requests,
            bundles_delivered: bundles,
        }
    }
}

/// Reads the event of a row.
#[must_use]
pub fn decode(row: &EventRow) -> DecodedEvent {
    match row.oversize {
        None => decode_row(&row.data),
        Some(bytes) => DecodedEvent::Undecodable {
            reason: format!(
                "the payload has {bytes} bytes, more than any event; only its beginning is kept"
            ),
        },
    }
}

/// The bundle hashes a server asks for, each once, in its order.
#[must_use]
pub fn bundle_requests(response: wire::EventUploadResponse) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let hashes = response.event_upload_bundle_binaries.into_iter();
    hashes.filter(|hash| !hash.is_empty() && seen.insert(hash.clone())).collect()
}

/// Which executions the queue takes in. File accesses and audit events it
/// always takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IngestPolicy {
    /// Every execution is taken in.
    pub enable_all_event_upload: bool,
    /// Executions allowed because no rule spoke against them are not, unless
    /// every one is.
    pub disable_unknown_event_upload: bool,
}

impl IngestPolicy {
    /// What the server's settings say or, where they are silent, the
    /// configuration's `EnableAllEventUpload` and `DisableUnknownEventUpload`.
    #[must_use]
    pub fn new(applied: &Settings, all: Option<bool>, no_unknown: Option<bool>) -> Self {
        Self {
            enable_all_event_upload: applied.enable_all_event_upload.or(all).unwrap_or(false),
            disable_unknown_event_upload: applied
                .disable_unknown_event_upload
                .or(no_unknown)
                .unwrap_or(false),
        }
    }

    /// Whether the queue takes an event in. `audited` as in [`summarize`].
    #[must_use]
    pub fn admits(self, event: &QueuedEvent, audited: bool) -> bool {
        let QueuedEvent::Execution(event) = event else { return true };
        if self.enable_all_event_upload || audited {
            return true;
        }
        match wire::Decision::try_from(event.decision) {
            Ok(wire::Decision::AllowUnknown) => !self.disable_unknown_event_upload,
            Ok(decision) => !allows(decision),
            Err(_) => true,
        }
    }
}

/// An event that a program hands us.
#[derive(Clone, Debug, PartialEq)]
pub struct IncomingEvent {
    /// The event.
    pub event: QueuedEvent,
    /// A rule asked for a record of this execution, though it was allowed.
    pub audited: bool,
    /// What the queue must know of it.
    pub summary: EventSummary,
}

/// Why a line is not an event.
#[derive(Debug, Error)]
pub enum EventLineError {
    /// Not JSON, or not of the shape.
    #[error("{reason}{}", At(.path))]
    Json {
        /// What the reader says.
        reason: String,
        /// Where in the object; empty if at its top.
        path: String,
    },
    /// No field of an event in it, or those of two.
    #[error(
        "expected the fields of one Event, or one of \"file_access_event\" and \"audit_event\""
    )]
    NoEvent,
    /// An event that lacks something.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// Where in an object something was met, as an addition to an error.
struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (at {})", self.0) }
    }
}

/// Reads a line: the JSON form of an `Event`, to which `"audit_return": true`
/// may be added; or an object with `file_access_event` or `audit_event`.
///
/// # Errors
/// If the line is none of these, or the event lacks what every one has.
pub fn read_line(line: &[u8]) -> Result<IncomingEvent, EventLineError> {
    // A mark that editors on other systems put before UTF-8.
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let read = EventLine::deserialize(tracked).and_then(|line| deserializer.end().map(|()| line));
    let line = read.map_err(|error| EventLineError::Json {
        // There is but one line.
        reason: error.to_string().replace(" at line 1 column ", " at column "),
        path: Some(track.path().to_string()).filter(|path| path != ".").unwrap_or_default(),
    })?;
    let audited = line.audited;
    let mut event = line.event()?;
    let summary = summarize(&event, audited)?;
    if let QueuedEvent::Execution(event) = &mut event {
        event.file_sha256.make_ascii_lowercase();
    }
    Ok(IncomingEvent { event, audited, summary })
}

/// A line as it came.
#[derive(Default)]
struct EventLine {
    execution: Option<Box<wire::Event>>,
    file_access: Option<Box<wire::FileAccessEvent>>,
    audit: Option<wire::AuditEvent>,
    audited: bool,
}

impl EventLine {
    /// The one event of the line.
    fn event(self) -> Result<QueuedEvent, EventLineError> {
        match (self.execution, self.file_access, self.audit) {
            (Some(event), None, None) => Ok(QueuedEvent::Execution(event)),
            (None, Some(event), None) => Ok(QueuedEvent::FileAccess(event)),
            (None, None, Some(event)) => Ok(QueuedEvent::Audit(event)),
            _ => Err(EventLineError::NoEvent),
        }
    }
}

impl<'de> de::Deserialize<'de> for EventLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LineVisitor;
        impl<'de> Visitor<'de> for LineVisitor {
            type Value = EventLine;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object that is an event")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventLine, A::Error> {
                let mut line = EventLine::default();
                let mut event = Box::<wire::Event>::default();
                let notes = &mut Notes::strict();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "file_access_event" | "fileAccessEvent" => {
                            line.file_access = read_value::<Nested<wire::FileAccessEvent>, A>(
                                "file_access_event",
                                &mut map,
                                notes,
                            )?
                            .map(Box::new);
                        }
                        "audit_event" | "auditEvent" => {
                            line.audit = read_value::<Nested<wire::AuditEvent>, A>(
                                "audit_event",
                                &mut map,
                                notes,
                            )?;
                        }
                        "audit_return" | "auditReturn" => {
                            line.audited =
                                read_value::<json::Bool, A>("audit_return", &mut map, notes)?
                                    .unwrap_or_default();
                        }
                        name if event.read_field(name, &mut map, notes)? => {}
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                line.execution = Some(event).filter(|event| **event != wire::Event::default());
                Ok(line)
            }
        }
        deserializer.deserialize_map(LineVisitor)
    }
}
