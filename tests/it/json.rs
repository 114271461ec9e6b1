//! Our JSON reader and writer against prost-reflect's, on generated messages:
//! two programs that share nothing but the descriptors must agree.

use santa_sync::model::Transfer;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::strategy::Union;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, SerializeOptions, Value,
};
use santa_sync::protocol::body::{self, BodyError, ResponseBody, encode};
use santa_sync::protocol::{json, wire};

fn decode<M>(transfer: Transfer, body: &[u8]) -> Result<M, BodyError>
where
    M: prost::Message + json::Message,
{
    body::decode(ResponseBody::new(transfer, body)).map(|decoded| decoded.message)
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(wire::DESCRIPTORS).expect("the schema's descriptors")
}

fn message(name: &str) -> MessageDescriptor {
    let full = format!("santa.sync.v1.{name}");
    pool().get_message_by_name(&full).unwrap_or_else(|| panic!("{full} is not in the schema"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a kind the schema gains fails here")]
fn scalar(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::String => prop_oneof!["\\PC{0,12}", "(?s).{0,6}"].prop_map(Value::String).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Uint32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Int32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Double => prop_oneof![
            any::<i32>().prop_map(f64::from),
            prop::num::f64::NORMAL,
            Just(1_751_111_111.25),
            Just(f64::INFINITY),
        ]
        .prop_map(Value::F64)
        .boxed(),
        Kind::Enum(descriptor) => {
            let numbers: Vec<i32> = descriptor.values().map(|value| value.number()).collect();
            prop::sample::select(numbers).prop_map(Value::EnumNumber).boxed()
        }
        Kind::Message(descriptor) => messages(descriptor).prop_map(Value::Message).boxed(),
        other => panic!("the schema has no {other:?}"),
    }
}

fn value(field: &FieldDescriptor) -> BoxedStrategy<Value> {
    if field.is_map() {
        return prop::collection::hash_map("[a-z]{1,6}", "\\PC{0,6}", 0..4)
            .prop_map(|map| {
                let entries = map.into_iter();
                Value::Map(entries.map(|(k, v)| (MapKey::String(k), Value::String(v))).collect())
            })
            .boxed();
    }
    if field.cardinality() == Cardinality::Repeated {
        return prop::collection::vec(scalar(field.kind()), 0..4).prop_map(Value::List).boxed();
    }
    scalar(field.kind())
}

/// Messages of any type of the schema, each field set or not.
fn messages(descriptor: MessageDescriptor) -> BoxedStrategy<DynamicMessage> {
    let fields: Vec<_> = descriptor
        .fields()
        .map(|field| {
            let set = value(&field).prop_map(Some);
            Union::new([Just(None).boxed(), set.boxed()]).prop_map(move |v| (field.clone(), v))
        })
        .collect();
    fields
        .prop_map(move |values| {
            let mut message = DynamicMessage::new(descriptor.clone());
            for (field, value) in values {
                if let Some(value) = value {
                    message.set_field(&field, value);
                }
            }
            message
        })
        .boxed()
}

/// Ours reads what theirs wrote, and theirs reads what ours wrote.
fn agree<M>(theirs: &DynamicMessage) -> Result<(), TestCaseError>
where
    M: prost::Message + json::Message + serde::Serialize + PartialEq + Debug,
{
    let typed: M = theirs.transcode_to().expect("the same schema");

    for options in [SerializeOptions::new(), SerializeOptions::new().use_proto_field_name(true)] {
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut text);
        theirs.serialize_with_options(&mut serializer, &options).expect("their JSON");
        let read: M = decode(Transfer::Json, &text)
            .map_err(|e| TestCaseError::fail(format!("{e}: {}", String::from_utf8_lossy(&text))))?;
        prop_assert_eq!(&read, &typed, "{}", String::from_utf8_lossy(&text));
    }

    let ours = encode(Transfer::Json, &typed).expect("our JSON");
    let mut deserializer = serde_json::Deserializer::from_slice(&ours);
    let back = DynamicMessage::deserialize(theirs.descriptor(), &mut deserializer)
        .map_err(|e| TestCaseError::fail(format!("{e}: {}", String::from_utf8_lossy(&ours))))?;
    let back: M = back.transcode_to().expect("the same schema");
    prop_assert_eq!(&back, &typed, "{}", String::from_utf8_lossy(&ours));

    let binary = encode(Transfer::Protobuf, &typed).expect("our binary");
    prop_assert_eq!(decode::<M>(Transfer::Protobuf, &binary).expect("our binary"), typed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// JSON-1, JSON-2, JSON-3: every message of the protocol.
    #[test]
    fn json_1_json_2_both_readers_and_writers_agree(
        preflight_request in messages(message("PreflightRequest")),
        preflight_response in messages(message("PreflightResponse")),
        upload_request in messages(message("EventUploadRequest")),
        upload_response in messages(message("EventUploadResponse")),
        rules_request in messages(message("RuleDownloadRequest")),
        rules_response in messages(message("RuleDownloadResponse")),
        postflight_request in messages(message("PostflightRequest")),
        postflight_response in messages(message("PostflightResponse")),
    ) {
        agree::<wire::PreflightRequest>(&preflight_request)?;
        agree::<wire::PreflightResponse>(&preflight_response)?;
        agree::<wire::EventUploadRequest>(&upload_request)?;
        agree::<wire::EventUploadResponse>(&upload_response)?;
        agree::<wire::RuleDownloadRequest>(&rules_request)?;
        agree::<wire::RuleDownloadResponse>(&rules_response)?;
        agree::<wire::PostflightRequest>(&postflight_request)?;
        agree::<wire::PostflightResponse>(&postflight_response)?;
    }
}

/// The short way from a stored event to a body against the long one.
mod stored {
    use super::*;
    use santa_sync::model::{EventRow, MachineId};
    use santa_sync::protocol::body::EncodedBody;
    use santa_sync::protocol::events::EventBatch;
    use santa_sync::protocol::stored::{DecodedEvent, QueuedEvent, decode_row, encode as store};
    use santa_sync::protocol::wire::EventUploadRequest;

    fn rows(message: &EventUploadRequest) -> Vec<EventRow> {
        let EventUploadRequest { events, file_access_events, audit_events, .. } = message.clone();
        let executions = events.into_iter().map(|event| QueuedEvent::Execution(Box::new(event)));
        let accesses = file_access_events.into_iter().map(Box::new).map(QueuedEvent::FileAccess);
        let audits = audit_events.into_iter().map(QueuedEvent::Audit);
        let stored = executions.chain(accesses).chain(audits).map(|event| store(&event));
        (1..)
            .zip(stored)
            .map(|(id, data)| EventRow { id, unique_id: id.to_string(), data, oversize: None })
            .collect()
    }

    /// The batch of rows, its body not compressed.
    fn batch(rows: Vec<EventRow>, transfer: Transfer) -> EventBatch {
        let host = MachineId::new("host").expect("an id");
        EventBatch::of_rows(rows, &host, transfer, EncodedBody::plain)
    }

    /// The batch of rows with the body of whole messages.
    fn long_way(rows: &[EventRow], transfer: Transfer) -> (Vec<i64>, Vec<(i64, String)>, Vec<u8>) {
        let mut message = EventUploadRequest { machine_id: "host".into(), ..Default::default() };
        let (mut ids, mut rejected) = (Vec::new(), Vec::new());
        for EventRow { id, data, .. } in rows {
            match decode_row(data) {
                DecodedEvent::Sendable(event) => {
                    ids.push(*id);
                    match event {
                        QueuedEvent::Execution(event) => message.events.push(*event),
                        QueuedEvent::FileAccess(event) => message.file_access_events.push(*event),
                        QueuedEvent::Audit(event) => message.audit_events.push(event),
                    }
                }
                DecodedEvent::Undecodable { reason } => rejected.push((*id, reason)),
                DecodedEvent::Unsendable { kind } => panic!("our own form holds no {kind}"),
            }
        }
        (ids, rejected, encode(transfer, &message).expect("a body"))
    }

    fn same(rows: &[EventRow]) -> Result<(), TestCaseError> {
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let EventBatch { ids, body, rejected, .. } = batch(rows.to_vec(), transfer);
            let (long_ids, long_rejected, long_body) = long_way(rows, transfer);
            // Without an event there is no request, and so no body.
            let long_body = if long_ids.is_empty() { Vec::new() } else { long_body };
            prop_assert_eq!(ids, long_ids);
            prop_assert_eq!(rejected, long_rejected);
            let text = String::from_utf8_lossy;
            prop_assert_eq!(text(&body.bytes), text(&long_body));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        /// EV-1, JSON-2: a stored event is sent as the message it is, whichever way.
        #[test]
        fn ev_1_json_2_stored_events_are_sent_as_the_messages_they_are(
            message in messages(message("EventUploadRequest")),
        ) {
            same(&rows(&message.transcode_to().expect("the same schema")))?;
        }

        /// EV-5: rows that are damaged, or that are well-formed and not as we
        /// write them, come out the same, too.
        #[test]
        fn ev_5_damaged_rows_are_told_from_odd_ones_either_way(
            message in messages(message("EventUploadRequest")),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
        ) {
            let mut rows = rows(&message.transcode_to().expect("the same schema"));
            for row in &mut rows {
                for (at, byte, how) in &changes {
                    let at = 5 + at.index(row.data.len() - 4);
                    match how {
                        _ if at >= row.data.len() => row.data.push(*byte),
                        0 => row.data.truncate(at),
                        1 => row.data.insert(at, *byte),
                        2 => row.data[at] ^= 1 << (byte % 8),
                        // The same again, behind: fields twice and out of order.
                        _ => row.data.extend_from_within(at..),
                    }
                }
            }
            same(&rows)?;
        }
    }
}

/// JSON-1: whatever bytes a server sends, the readers answer and do not panic.
mod bytes {
    use super::*;
    use santa_sync::protocol::rules::page_of;

    proptest! {
        #[test]
        fn json_1_no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for transfer in [Transfer::Json, Transfer::Protobuf] {
                let _ = decode::<wire::PreflightResponse>(transfer, &body);
                let _ = page_of(transfer, &body);
            }
        }

        #[test]
        fn json_1_no_json_makes_the_reader_panic(
            body in "[\\[\\]{}\",:0-9a-z_ ]{0,80}",
            key in prop::sample::select(vec!["rules", "cursor", "batch_size", "sync_type"]),
        ) {
            let body = format!("{{\"{key}\":{body}}}");
            let _ = decode::<wire::PreflightResponse>(Transfer::Json, body.as_bytes());
            let _ = page_of(Transfer::Json, body.as_bytes());
        }
    }
}

/// Every enum alias and field of the schema's document, straight from the
/// descriptors: the spelling written is the first, every one is read.
#[test]
fn json_1_every_alias_of_every_enum_is_read_in_any_case() {
    use santa_sync::protocol::json::{Enumeration, enum_name, enum_number};
    fn check<E: Enumeration>(full: &str) {
        let descriptor = pool().get_enum_by_name(full).expect(full);
        let declared = &descriptor.enum_descriptor_proto().value;
        assert_eq!(declared.len(), E::NAMES.len(), "{full}");
        for value in declared {
            for spelling in
                [value.name().to_owned(), value.name().to_lowercase(), value.name().to_uppercase()]
            {
                assert_eq!(enum_number::<E>(&spelling), value.number(), "{full} {spelling}");
            }
            let first = declared.iter().find(|v| v.number() == value.number()).expect("itself");
            assert_eq!(enum_name::<E>(value.number()), Some(first.name()), "{full}");
        }
        assert_eq!(enum_number::<E>("NO_SUCH_NAME"), 0, "{full}");
    }
    check::<wire::ClientMode>("santa.sync.v1.ClientMode");
    check::<wire::SyncType>("santa.sync.v1.SyncType");
    check::<wire::FileAccessAction>("santa.sync.v1.FileAccessAction");
    check::<wire::Decision>("santa.sync.v1.Decision");
    check::<wire::SigningStatus>("santa.sync.v1.SigningStatus");
    check::<wire::FileAccessDecision>("santa.sync.v1.FileAccessDecision");
    check::<wire::Policy>("santa.sync.v1.Policy");
    check::<wire::RuleType>("santa.sync.v1.RuleType");
}
