//! The request of `event_upload`.
//!
//! Each event is read alone and turned into its stored form at once, so that an
//! upload is in memory twice at most: as it came and as it is stored. One that is not
//! UTF-8 is copied once more, to mark the bytes that are not. The stored forms lie in
//! one buffer: so many pieces would leave the heap in holes.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{self, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::RequestError;
use crate::mapped_buffer::MappedBuffer;
use crate::model::{EventBundle, EventDigest, RelayedEvent, RelayedKind, Transfer};
use crate::protocol::binary::{self, FieldValue};
use crate::protocol::body::{self, BodyError, ResponseBody};
use crate::protocol::json::{FieldKind as _, MemberName, Message, Nested, Text};
use crate::protocol::lenient::{Notes, Warning};
use crate::protocol::stored::{self, EventKind, QueuedEvent};
use crate::protocol::wire::{self, EventUploadRequest};

/// The most events of one request. The relay asks for batches of 100.
pub const MAX_UPLOADED_EVENTS: usize = 10_000;

/// The largest event that is queued, in bytes of its stored form. A typical one
/// has 5 KB.
const MAX_EVENT_BYTES: usize = 1 << 20;
/// The largest JSON form of an event that is read, in bytes: six times the stored
/// one, for a byte may be written `\u0041`.
const MAX_EVENT_JSON_BYTES: usize = 6 * MAX_EVENT_BYTES;
/// The largest event that is kept whole when it is set aside, in bytes.
const MAX_WHOLE_BYTES: usize = 16 << 20;
/// How much of a larger one is kept, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// The events of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EventUpload {
    /// The machine id in the body; empty if there is none.
    pub machine_id: String,
    /// The events, in the order of the body.
    pub events: Vec<RelayedEvent>,
    /// Values that were read as absent or zero.
    pub warnings: Vec<Warning>,
}

/// Reads an upload. What is wrong with an event concerns that event alone: it is
/// among the events, to be set aside.
///
/// # Errors
/// If the body is not the message or has too many events.
pub fn read_upload(transfer: Transfer, body: &[u8]) -> Result<EventUpload, RequestError> {
    match transfer {
        Transfer::Json => read_json(body),
        Transfer::Protobuf => read_protobuf(body),
    }
}

fn read_json(body: &[u8]) -> Result<EventUpload, RequestError> {
    let wrong = |error| RequestError::of(EventUploadRequest::NAME, error);
    let text = ResponseBody::new(Transfer::Json, body).into_json().map_err(wrong)?;
    let mut reader = UploadReader::new(text.is_marked(), body.len());
    let text = text.as_str();
    if !text.is_empty() {
        let mut json = serde_json::Deserializer::from_str(text);
        let read = json.deserialize_map(&mut reader).and_then(|()| json.end());
        if let Err(error) = read {
            return Err(if reader.too_many {
                RequestError::TooManyEvents
            } else {
                wrong(body::json_error(EventUploadRequest::NAME, ".", text, &error))
            });
        }
    }
    Ok(reader.finish())
}

fn read_protobuf(mut body: &[u8]) -> Result<EventUpload, RequestError> {
    let wrong = |reason: &str| {
        let (message, reason) = (EventUploadRequest::NAME, body::shown(reason));
        RequestError::of(message, BodyError::NotProtobuf { message, reason })
    };
    let mut reader = UploadReader::new(false, body.len());
    let mut found = body.is_empty();
    while let Some(entry) = binary::next_entry(EventUploadRequest::FIELDS, &mut body)
        .map_err(|reason| wrong(&reason))?
    {
        found = true;
        let FieldValue::Block(block) = entry.value else { continue };
        match entry.field.name {
            "machine_id" => {
                reader.upload.machine_id = String::from_utf8_lossy(block).into_owned();
            }
            "events" => reader.binary(block, &EXECUTIONS),
            "audit_events" => reader.binary(block, &AUDITS),
            "file_access_events" => reader.binary(block, &FILE_ACCESSES),
            _ => {}
        }
        if reader.too_many {
            return Err(RequestError::TooManyEvents);
        }
    }
    if found { Ok(reader.finish()) } else { Err(wrong("it has none of its fields")) }
}

/// One of the arrays of an upload.
struct EventArray<M> {
    name: &'static str,
    kind: EventKind,
    queued: fn(M) -> QueuedEvent,
}

const EXECUTIONS: EventArray<wire::Event> = EventArray {
    name: "events",
    kind: EventKind::Execution,
    queued: |event| QueuedEvent::Execution(Box::new(event)),
};
const AUDITS: EventArray<wire::AuditEvent> =
    EventArray { name: "audit_events", kind: EventKind::Audit, queued: QueuedEvent::Audit };
const FILE_ACCESSES: EventArray<wire::FileAccessEvent> = EventArray {
    name: "file_access_events",
    kind: EventKind::FileAccess,
    queued: |event| QueuedEvent::FileAccess(Box::new(event)),
};

struct UploadReader {
    upload: EventUpload,
    /// The stored forms of its events.
    data: MappedBuffer,
    /// Where each lies.
    places: Vec<Range<usize>>,
    notes: Notes,
    marked: bool,
    /// How many events of each kind have been seen.
    seen: [usize; 3],
    too_many: bool,
}

impl UploadReader {
    fn new(marked: bool, body_bytes: usize) -> Self {
        Self {
            upload: EventUpload::default(),
            data: MappedBuffer::new(body_bytes),
            places: Vec::new(),
            notes: Notes::response(marked),
            marked,
            seen: [0; 3],
            too_many: false,
        }
    }

    fn finish(self) -> EventUpload {
        let Self { mut upload, data, places, notes, .. } = self;
        let data = Bytes::from_owner(data);
        for (event, place) in upload.events.iter_mut().zip(places) {
            event.data = data.slice(place);
        }
        EventUpload { warnings: notes.into_warnings(), ..upload }
    }

    /// Adds an event, whose `data` will be the bytes given here.
    fn push(&mut self, event: RelayedEvent, data: &[u8]) {
        let start = self.data.len();
        self.data.push_bytes(data);
        self.places.push(start..self.data.len());
        self.upload.events.push(event);
    }

    /// Counts an event; returns false if it is one too many.
    fn count(&mut self, kind: EventKind) -> bool {
        self.too_many = self.seen.iter().sum::<usize>() == MAX_UPLOADED_EVENTS;
        self.seen[kind as usize] += 1;
        !self.too_many
    }

    /// Reads an event in binary form.
    fn binary<M>(&mut self, block: &[u8], array: &EventArray<M>)
    where
        M: prost::Message + Message + PartialEq,
    {
        if !self.count(array.kind) {
            return;
        }
        if block.len() > MAX_EVENT_BYTES {
            let size = format!("{} bytes", block.len());
            return self.too_large(&stored::encode_message(array.kind, block), &size);
        }
        let mut notes = Notes::upload(false);
        match binary::decode_with::<M>(block, &mut notes) {
            Ok(event) if event != M::default() => self.take(event, array, notes),
            Ok(_) => self.unreadable(&stored::encode_message(array.kind, block), NO_FIELDS),
            Err(reason) => {
                let reason = format!("it cannot be read: {}", body::shown(&reason));
                self.unreadable(&stored::encode_message(array.kind, block), &reason);
            }
        }
    }

    /// Reads an event in JSON.
    fn json<M>(&mut self, raw: &str, array: &EventArray<M>)
    where
        M: Message + PartialEq + serde::Serialize + for<'de> serde::Deserialize<'de>,
    {
        if raw.len() > MAX_EVENT_JSON_BYTES {
            return self.too_large(raw.as_bytes(), &format!("{} bytes of JSON", raw.len()));
        }
        let mut notes = Notes::upload(self.marked);
        match Nested::<M>::read_raw(raw, &mut notes) {
            Some(event) if event != M::default() => self.take(event, array, notes),
            Some(_) => self.unreadable(raw.as_bytes(), NO_FIELDS),
            None => self.unreadable(raw.as_bytes(), "it is not a JSON object"),
        }
    }

    /// Takes an event that was read with these notes.
    fn take<M>(&mut self, event: M, array: &EventArray<M>, notes: Notes) {
        let event = (array.queued)(event);
        let data = stored::encode(&event);
        let index = self.seen[array.kind as usize] as u64 - 1;
        self.notes.extend_from_element(array.name, index, notes);
        if data.len() > MAX_EVENT_BYTES {
            return self.too_large(&data, &format!("{} bytes", data.len()));
        }
        let kind = match (stored::bundle_of(&event), &event) {
            (Some((hash, executables)), _) => {
                EventBundle::new(hash, executables).map(RelayedKind::Member)
            }
            (None, QueuedEvent::Execution(event)) => {
                EventBundle::new(&event.file_bundle_hash, event.file_bundle_binary_count)
                    .map(RelayedKind::OfBundle)
            }
            (None, QueuedEvent::FileAccess(_) | QueuedEvent::Audit(_)) => None,
        };
        let relayed = RelayedEvent {
            digest: digest(&data),
            data: Bytes::new(),
            actionable: stored::is_actionable(&event),
            denial: stored::is_denial(&event),
            kind: kind.unwrap_or(RelayedKind::Plain),
        };
        self.push(relayed, &data);
    }

    fn too_large(&mut self, data: &[u8], size: &str) {
        let cut = if data.len() > MAX_WHOLE_BYTES { "; only its beginning is kept" } else { "" };
        let reason = format!("the event has {size}, more than any that is sent{cut}");
        self.set_aside(data, RelayedKind::TooLarge { reason });
    }

    fn unreadable(&mut self, data: &[u8], reason: &str) {
        let reason = format!("the authorizer uploaded something that is no event: {reason}");
        self.set_aside(data, RelayedKind::Unreadable { reason });
    }

    fn set_aside(&mut self, data: &[u8], kind: RelayedKind) {
        let kept = if data.len() > MAX_WHOLE_BYTES { &data[..HEAD_BYTES] } else { data };
        let relayed = RelayedEvent {
            digest: digest(data),
            data: Bytes::new(),
            actionable: true,
            denial: false,
            kind,
        };
        self.push(relayed, kept);
    }
}

const NO_FIELDS: &str = "it has no field that this version knows";

fn digest(data: &[u8]) -> EventDigest {
    let hash = Sha256::digest(data);
    EventDigest::from_bytes(std::array::from_fn(|at| hash[at]))
}

impl<'de> Visitor<'de> for &mut UploadReader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", EventUploadRequest::NAME)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(MemberName(name)) = map.next_key::<MemberName<'_>>()? {
            let raw = map.next_value::<&'de RawValue>()?.get();
            let read = match &*name {
                "events" => elements(self, raw, &EXECUTIONS),
                "audit_events" | "auditEvents" => elements(self, raw, &AUDITS),
                "file_access_events" | "fileAccessEvents" => elements(self, raw, &FILE_ACCESSES),
                "machine_id" | "machineId" if raw != "null" => {
                    self.notes.enter("machine_id");
                    self.upload.machine_id =
                        Text::read_raw(raw, &mut self.notes).unwrap_or_default();
                    self.notes.leave();
                    Ok(())
                }
                _ => Ok(()),
            };
            read.map_err(de::Error::custom)?;
        }
        Ok(())
    }
}

/// Reads the elements of an array; null is an empty one.
fn elements<M>(
    reader: &mut UploadReader,
    raw: &str,
    array: &EventArray<M>,
) -> Result<(), serde_json::Error>
where
    M: Message + PartialEq + serde::Serialize + for<'de> serde::Deserialize<'de>,
{
    if raw == "null" {
        return Ok(());
    }
    if !raw.starts_with('[') {
        reader.notes.enter(array.name);
        reader.notes.unreadable(raw);
        reader.notes.leave();
        return Ok(());
    }
    serde_json::Deserializer::from_str(raw).deserialize_seq(Elements { reader, array })
}

struct Elements<'a, M> {
    reader: &'a mut UploadReader,
    array: &'a EventArray<M>,
}

impl<'de, M> Visitor<'de> for Elements<'_, M>
where
    M: Message + PartialEq + serde::Serialize + for<'any> serde::Deserialize<'any>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        let Self { reader, array } = self;
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if !reader.count(array.kind) {
                return Err(de::Error::custom("too many events"));
            }
            if raw.get() != "null" {
                reader.json(raw.get(), array);
            }
        }
        Ok(())
    }
}
