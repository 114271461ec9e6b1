//! The body of an event upload, written event by event: the messages of a batch
//! are never in memory all at once.

use crate::model::Transfer;
use prost::encoding;

use super::json::{self, Message as _};
use super::stored::{self, EventKind, QueuedEvent};
use super::wire;

/// The body of an [`super::wire::EventUploadRequest`] being written.
#[derive(Debug)]
pub(super) struct EventUploadBody {
    transfer: Transfer,
    events: Vec<u8>,
    audit_events: Vec<u8>,
    file_access_events: Vec<u8>,
}

/// Field numbers of the message.
const EVENTS_FIELD: u32 = 1;
const MACHINE_ID_FIELD: u32 = 2;
const AUDIT_EVENTS_FIELD: u32 = 3;
const FILE_ACCESS_EVENTS_FIELD: u32 = 4;

/// The field number of an execution's decision.
const DECISION_FIELD: u64 = 8;

impl EventUploadBody {
    pub(super) const fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            events: Vec::new(),
            audit_events: Vec::new(),
            file_access_events: Vec::new(),
        }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// If it has no JSON form; then it is not in the body.
    pub(super) fn push(&mut self, event: &QueuedEvent) -> Result<(), serde_json::Error> {
        let Self { transfer, events, audit_events, file_access_events } = self;
        match event {
            QueuedEvent::Execution(event) => add(*transfer, EVENTS_FIELD, &**event, events),
            QueuedEvent::Audit(event) => add(*transfer, AUDIT_EVENTS_FIELD, event, audit_events),
            QueuedEvent::FileAccess(event) => {
                add(*transfer, FILE_ACCESS_EVENTS_FIELD, &**event, file_access_events)
            }
        }
    }

    /// Adds the event of a row's payload, if it can be had without reading the
    /// event: in JSON, from our own stored form, unless it belongs to a bundle
    /// that a server asked for. Returns whether it was added.
    pub(super) fn push_stored(&mut self, data: &[u8]) -> bool {
        if self.transfer != Transfer::Json {
            return false;
        }
        let Some((kind, message)) = stored::message_of(data) else { return false };
        let (to, fields) = match kind {
            EventKind::Execution => {
                let decision = json::varint_field(message, DECISION_FIELD);
                if decision == Some(wire::Decision::BundleBinary as u64) {
                    return false;
                }
                (&mut self.events, wire::Event::FIELDS)
            }
            EventKind::Audit => (&mut self.audit_events, wire::AuditEvent::FIELDS),
            EventKind::FileAccess => (&mut self.file_access_events, wire::FileAccessEvent::FIELDS),
        };
        let before = to.len();
        if before > 0 {
            to.push(b',');
        }
        let added = json::transcode(fields, message, to).is_some();
        if !added {
            to.truncate(before);
        }
        added
    }

    /// The body with everything added, from this host.
    pub(super) fn finish(self, machine_id: &str) -> Vec<u8> {
        let Self { transfer, mut events, audit_events, file_access_events } = self;
        if transfer == Transfer::Protobuf {
            if !machine_id.is_empty() {
                encoding::string::encode(MACHINE_ID_FIELD, &machine_id.to_owned(), &mut events);
            }
            events.extend(audit_events);
            events.extend(file_access_events);
            return events;
        }
        let id = serde_json::Value::from(machine_id).to_string();
        let length = events.len() + audit_events.len() + file_access_events.len() + id.len();
        let mut body = Vec::with_capacity(length + 100);
        let mut entry = |name: &str, open: &str, value: &[u8], close: &str| {
            if value.is_empty() {
                return;
            }
            body.push(if body.is_empty() { b'{' } else { b',' });
            for part in ["\"", name, "\":", open] {
                body.extend_from_slice(part.as_bytes());
            }
            body.extend_from_slice(value);
            body.extend_from_slice(close.as_bytes());
        };
        entry("events", "[", &events, "]");
        if !machine_id.is_empty() {
            entry("machine_id", "", id.as_bytes(), "");
        }
        entry("audit_events", "[", &audit_events, "]");
        entry("file_access_events", "[", &file_access_events, "]");
        if body.is_empty() {
            body.push(b'{');
        }
        body.push(b'}');
        body
    }
}

fn add<M>(
    transfer: Transfer,
    number: u32,
    event: &M,
    to: &mut Vec<u8>,
) -> Result<(), serde_json::Error>
where
    M: prost::Message + serde::Serialize,
{
    if transfer == Transfer::Protobuf {
        encoding::message::encode(number, event, to);
        return Ok(());
    }
    let before = to.len();
    if before > 0 {
        to.push(b',');
    }
    serde_json::to_writer(&mut *to, event).inspect_err(|_| to.truncate(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{body, wire};

    /// EV-1: what programs hand us goes the short way.
    #[test]
    #[cfg(feature = "harness")]
    fn ev_1_events_as_programs_queue_them_are_not_read_again() {
        use crate::harness::fixtures;

        let decision = wire::Event::FIELDS.iter().find(|field| field.key == "\"decision\":");
        assert_eq!(decision.map(|field| u64::from(field.number)), Some(DECISION_FIELD));
        let mut upload = EventUploadBody::new(Transfer::Json);
        let mut message = wire::EventUploadRequest::default();
        for event in fixtures::events(200, 7) {
            match QueuedEvent::from(event) {
                QueuedEvent::Execution(event) => message.events.push(*event),
                QueuedEvent::FileAccess(event) => message.file_access_events.push(*event),
                QueuedEvent::Audit(event) => message.audit_events.push(event),
            }
        }
        for event in message.events.iter().cloned().map(Box::new).map(QueuedEvent::Execution) {
            let bundled = stored::bundle_of(&event).is_some();
            assert_eq!(upload.push_stored(&stored::encode(&event)), !bundled);
            if bundled {
                upload.push(&event).unwrap();
            }
        }
        for access in message.file_access_events.iter().cloned().map(Box::new) {
            assert!(upload.push_stored(&stored::encode(&QueuedEvent::FileAccess(access))));
        }
        for audit in message.audit_events.iter().cloned() {
            assert!(upload.push_stored(&stored::encode(&QueuedEvent::Audit(audit))));
        }
        assert!(message.events.len() > 50 && !message.file_access_events.is_empty());
        assert_eq!(upload.finish(""), body::encode(Transfer::Json, &message).unwrap());
    }

    /// EV-1: execution and file-access events share one message, and the body
    /// is that message's.
    #[test]
    fn ev_1_the_body_is_that_of_the_message() {
        let event = |name: &str| wire::Event { file_name: name.into(), ..Default::default() };
        let access =
            |name: &str| wire::FileAccessEvent { target: name.into(), ..Default::default() };
        let audit = || wire::AuditEvent::default();
        for machine_id in ["", "a\"b"] {
            for parts in 0..8 {
                let some = |bit: i32| parts & bit != 0;
                let mut message = wire::EventUploadRequest {
                    machine_id: machine_id.to_owned(),
                    ..Default::default()
                };
                if some(1) {
                    message.events = vec![event("1"), event(""), event("\u{e9}\n")];
                }
                if some(2) {
                    message.file_access_events = vec![access("2"), access("3")];
                }
                if some(4) {
                    message.audit_events = vec![audit(), audit()];
                }
                for transfer in [Transfer::Json, Transfer::Protobuf] {
                    let mut upload = EventUploadBody::new(transfer);
                    for access in &message.file_access_events {
                        upload.push(&QueuedEvent::FileAccess(Box::new(access.clone()))).unwrap();
                    }
                    for event in &message.events {
                        upload.push(&QueuedEvent::Execution(Box::new(event.clone()))).unwrap();
                    }
                    for audit in &message.audit_events {
                        upload.push(&QueuedEvent::Audit(audit.clone())).unwrap();
                    }
                    let made = upload.finish(machine_id);
                    assert_eq!(made, body::encode(transfer, &message).unwrap(), "{message:?}");
                }
            }
        }
    }
}
