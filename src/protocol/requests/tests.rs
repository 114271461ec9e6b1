use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::model::{RelayedEvent, RelayedKind};
use crate::protocol::stored::{self, DecodedEvent, QueuedEvent};
use crate::protocol::wire;

fn json_upload(body: &Value) -> Result<EventUpload, RequestError> {
    read_upload(Transfer::Json, body.to_string().as_bytes())
}

fn execution(name: &str) -> wire::Event {
    wire::Event {
        file_sha256: "ab".repeat(32),
        file_name: name.to_owned(),
        execution_time: 1_750_000_000.25,
        decision: wire::Decision::BlockBinary.into(),
        pid: 7,
        ..wire::Event::default()
    }
}

fn decoded(event: &RelayedEvent) -> QueuedEvent {
    let DecodedEvent::Sendable(event) = stored::decode_row(&event.data) else {
        panic!("it cannot be sent: {event:?}")
    };
    event
}

fn reason(event: &RelayedEvent) -> &str {
    let (RelayedKind::TooLarge { reason } | RelayedKind::Unreadable { reason }) = &event.kind
    else {
        panic!("it is queued: {:?}", event.kind)
    };
    reason
}

/// RELAY-8: all three kinds, as they are, in either form; an event is the same one in
/// both.
#[test]
fn relay_8_an_upload_is_the_same_in_json_and_protobuf() {
    let access = wire::FileAccessEvent {
        rule_name: "r".to_owned(),
        decision: wire::FileAccessDecision::AuditOnly.into(),
        ..wire::FileAccessEvent::default()
    };
    let rule = wire::StandaloneModeRuleCreation { timestamp: 5, ..Default::default() };
    let audit = wire::AuditEvent {
        event: Some(wire::audit_event::Event::StandaloneModeRuleCreation(rule)),
    };
    let allowed = wire::Event {
        decision: wire::Decision::AllowUnknown.into(),
        entitlement_info: Some(wire::EntitlementInfo::default()),
        ..execution("allowed")
    };
    let message = wire::EventUploadRequest {
        machine_id: "M".to_owned(),
        events: vec![execution("blocked"), allowed],
        file_access_events: vec![access],
        audit_events: vec![audit],
    };
    let read = |transfer| {
        let body = body::encode(transfer, &message).expect("encodes");
        read_upload(transfer, &body).expect("read")
    };
    let (from_json, from_binary) = (read(Transfer::Json), read(Transfer::Protobuf));
    assert_eq!(from_json.events, from_binary.events);
    assert_eq!((from_json.machine_id.as_str(), from_binary.machine_id.as_str()), ("M", "M"));
    assert_eq!((from_json.warnings, from_binary.warnings), (vec![], vec![]));

    let told: Vec<_> = from_json.events.iter().map(|e| (e.actionable, e.denial)).collect();
    // Audit events come before file accesses in the body.
    assert_eq!(told, [(true, true), (false, false), (true, false), (false, false)]);
    assert!(from_json.events.iter().all(|event| event.kind == RelayedKind::Plain));
    let queued = decoded(&from_json.events[0]);
    assert_eq!(queued, QueuedEvent::Execution(Box::new(execution("blocked"))));
}

/// RELAY-8: a digest is of all fields.
#[test]
fn relay_8_events_that_differ_in_any_field_have_digests_of_their_own() {
    let events = vec![
        execution("a"),
        execution("b"),
        wire::Event { pid: 8, ..execution("a") },
        wire::Event { execution_time: 1_750_000_000.5, ..execution("a") },
        execution("a"),
    ];
    let message = wire::EventUploadRequest { events, ..Default::default() };
    let upload = json_upload(&json!(message)).expect("read");
    let mut digests: Vec<_> = upload.events.iter().map(|event| event.digest).collect();
    assert_eq!(digests[0], digests[4]);
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 4);
    let unique_id = upload.events[0].digest.unique_id();
    assert!(unique_id.starts_with("relay:") && unique_id.len() == 6 + 32, "{unique_id}");
}

/// RELAY-8, EV-9: what names a bundle, and what is a member of one.
#[test]
fn relay_8_bundles_and_their_executables_are_told_apart() {
    let of = |decision: &str, hash: &str, count: u32| {
        json!({"file_name": "x", "decision": decision, "file_bundle_hash": hash,
               "file_bundle_binary_count": count})
    };
    let long = "x".repeat(257);
    let upload = json_upload(&json!({"events": [
        of("BLOCK_BINARY", "h", 3), of("BUNDLE_BINARY", "h", 3), of("BLOCK_BINARY", "", 3),
        of("BUNDLE_BINARY", "", 3), of("BLOCK_BINARY", &long, 1),
    ]}))
    .expect("read");
    let kinds: Vec<_> = upload.events.into_iter().map(|event| event.kind).collect();
    let bundle = || crate::model::EventBundle::new("h", 3).expect("a hash");
    let (named, member) = (RelayedKind::OfBundle(bundle()), RelayedKind::Member(bundle()));
    assert_eq!(kinds, [named, member, RelayedKind::Plain, RelayedKind::Plain, RelayedKind::Plain]);
}

/// RELAY-8, JSON-1: read as leniently as a response; a bad event costs itself.
#[test]
fn relay_8_a_bad_value_costs_its_field_and_a_bad_event_itself() {
    let upload = json_upload(&json!({
        "unknown": {"a": [1]},
        "events": [
            {"file_name": "a", "pid": "12", "decision": "BLOCK_NEW_KIND", "new_field": 1},
            null, 5, {}, {"file_name": "b", "pid": {"a": 1}, "executionTime": "1.5"},
        ],
        "fileAccessEvents": {"not": "an array"},
        "audit_events": null,
        "machineId": "M",
    }))
    .expect("read");
    assert_eq!((upload.machine_id.as_str(), upload.events.len()), ("M", 4));
    let QueuedEvent::Execution(first) = decoded(&upload.events[0]) else { panic!("another kind") };
    assert_eq!((first.file_name.as_str(), first.pid, first.decision), ("a", 12, 0));
    assert!(reason(&upload.events[1]).ends_with("it is not a JSON object"));
    assert!(reason(&upload.events[2]).ends_with("no field that this version knows"));
    let QueuedEvent::Execution(last) = decoded(&upload.events[3]) else { panic!("another kind") };
    assert_eq!((last.pid, last.execution_time.to_bits()), (0, 1.5_f64.to_bits()));
    let fields: Vec<_> = upload.warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["events[0].decision", "events[4].pid", "file_access_events"]);

    for nothing in ["", "{}", r#"{"events":[]}"#] {
        let upload = read_upload(Transfer::Json, nothing.as_bytes()).expect(nothing);
        assert_eq!(upload, EventUpload::default());
    }
    assert_eq!(read_upload(Transfer::Protobuf, &[]), Ok(EventUpload::default()));
}

/// RELAY-8: bytes that are not UTF-8 cost their own text; the event stays.
#[test]
fn relay_8_a_text_that_is_not_utf_8_costs_its_field() {
    let mut body = br#"{"events":[{"file_name":"x","parent_name":"a"#.to_vec();
    body.extend_from_slice(b"\xff\"},{\"file_name\":\"y\"}]}");
    let upload = read_upload(Transfer::Json, &body).expect("read");
    let names: Vec<_> = upload
        .events
        .iter()
        .map(|event| {
            let QueuedEvent::Execution(event) = decoded(event) else { panic!("another kind") };
            (event.file_name, event.parent_name)
        })
        .collect();
    assert_eq!(names, [("x".to_owned(), String::new()), ("y".to_owned(), String::new())]);
    assert_eq!(upload.warnings[0].field, "events[0].parent_name");
}

/// RELAY-8: an event of over 1 MiB is set aside whole, in either form, also where it
/// cannot be read; others of its upload are taken.
#[test]
fn relay_8_an_event_of_more_than_a_mebibyte_is_set_aside() {
    let large = |bytes: usize| wire::Event { parent_name: "x".repeat(bytes), ..execution("large") };
    let base = stored::encode(&QueuedEvent::Execution(Box::new(large(1 << 17)))).len() - (1 << 17);
    let fits = (1 << 20) - base;
    let message = wire::EventUploadRequest {
        events: vec![large(fits - 2), large(fits + 8), execution("small")],
        ..Default::default()
    };
    for transfer in [Transfer::Json, Transfer::Protobuf] {
        let body = body::encode(transfer, &message).expect("encodes");
        let upload = read_upload(transfer, &body).expect("read");
        let [first, second, third] = &upload.events[..] else { panic!("{}", upload.events.len()) };
        assert_eq!((&first.kind, &third.kind), (&RelayedKind::Plain, &RelayedKind::Plain));
        assert!(reason(second).contains("more than any that is sent"), "{}", reason(second));
        // Requeued, it is the event.
        let QueuedEvent::Execution(event) = decoded(second) else { panic!("another kind") };
        assert_eq!(*event, message.events[1]);
    }
    for (transfer, bytes, kept) in
        [(Transfer::Json, 6 << 20, 6 << 20), (Transfer::Protobuf, 16 << 20, 64 << 10)]
    {
        let events = vec![large(bytes), execution("small")];
        let message = wire::EventUploadRequest { events, ..Default::default() };
        let body = body::encode(transfer, &message).expect("encodes");
        let upload = read_upload(transfer, &body).expect("read");
        let (huge, whole) = (&upload.events[0], kept == bytes);
        assert_eq!((upload.events.len(), huge.data.len() > bytes), (2, whole));
        assert_eq!(reason(huge).ends_with("only its beginning is kept"), !whole);
        assert!(huge.data.len() >= kept);
    }
}

/// RELAY-8, RELAY-12: nothing in an upload of 64 MiB makes many objects.
#[test]
fn relay_12_the_events_of_an_upload_and_the_elements_of_an_event_are_bounded() {
    let events = |count: usize| format!("{{\"events\":[{}1]}}", "1,".repeat(count - 1));
    let upload = read_upload(Transfer::Json, events(MAX_UPLOADED_EVENTS).as_bytes()).expect("read");
    assert_eq!(upload.events.len(), MAX_UPLOADED_EVENTS);
    let many = read_upload(Transfer::Json, events(MAX_UPLOADED_EVENTS + 1).as_bytes());
    assert_eq!(many, Err(RequestError::TooManyEvents));
    // Of three arrays together.
    let two = format!(
        "{{\"events\":[{0}1],\"audit_events\":[{0}1]}}",
        "1,".repeat(MAX_UPLOADED_EVENTS / 2)
    );
    let many = read_upload(Transfer::Json, two.as_bytes());
    assert_eq!(many.map(|_| ()), Err(RequestError::TooManyEvents));
    let binary = [0x0a, 0].repeat(MAX_UPLOADED_EVENTS + 1);
    assert_eq!(read_upload(Transfer::Protobuf, &binary), Err(RequestError::TooManyEvents));
    assert_eq!(RequestError::TooManyEvents.http_status(), 413);

    let chain = format!("[{}{{}}]", "{},".repeat(400_000));
    let body = format!("{{\"events\":[{{\"file_name\":\"x\",\"signing_chain\":{chain}}}]}}");
    let upload = read_upload(Transfer::Json, body.as_bytes()).expect("read");
    let QueuedEvent::Execution(event) = decoded(&upload.events[0]) else { panic!("another kind") };
    assert_eq!(event.signing_chain.len(), 10_000);
    let event = wire::Event { logged_in_users: vec![String::new(); 400_000], ..execution("x") };
    let message = wire::EventUploadRequest { events: vec![event], ..Default::default() };
    let binary = message.encode_to_vec();
    let upload = read_upload(Transfer::Protobuf, &binary).expect("read");
    let QueuedEvent::Execution(event) = decoded(&upload.events[0]) else { panic!("another kind") };
    assert_eq!(event.logged_in_users.len(), 10_000);
    assert_eq!(upload.warnings.len(), 1);
}

/// RELAY-2, RELAY-8: what is no upload is refused, with words that can be shown.
#[test]
fn relay_8_a_body_that_is_no_upload_is_refused() {
    for body in ["{\"events\":[{\"file_name\":", "[]", "<html>", "\u{1b}[31m", "{\"events\":[1,]}"]
    {
        let refused = read_upload(Transfer::Json, body.as_bytes()).expect_err(body);
        assert_eq!(refused.http_status(), 400);
        let words = refused.to_string();
        assert!(words.starts_with("the body is not a valid EventUploadRequest: "), "{words}");
        assert!(!words.contains(char::is_control), "{words}");
    }
    for body in [&b"\x08\x01"[..], b"\x0a\x05ab", b"\x7a\x01a"] {
        let refused = read_upload(Transfer::Protobuf, body).expect_err("refused");
        assert!(refused.to_string().contains("not binary protobuf"), "{refused}");
    }
}

/// RELAY-2: the other requests, with the names of Santa's older and newer releases.
#[test]
fn relay_2_requests_are_read_with_the_names_of_any_release() {
    for names in [["rulesHash", "sipStatus"], ["rules_hash", "sip_status"]] {
        let [hash, sip] = names;
        let body = json!({"serial_num": "S", "client_mode": "LOCKDOWN", hash: "abc", sip: 3,
                          "transitive_rule_count": 4, "request_clean_sync": true, "new": []});
        let read = read::<wire::PreflightRequest>(Transfer::Json, body.to_string().as_bytes());
        let message = read.expect("read").message;
        assert_eq!((message.rules_hash.as_str(), message.sip_status), ("abc", 3));
        assert_eq!(message.client_mode(), wire::ClientMode::Lockdown);
        assert!(message.request_clean_sync && message.transitive_rule_count == 4);
    }
    for name in ["sync_type", "syncType"] {
        let body = json!({"rules_received": 2, "rules_processed": "1", name: "clean_all"});
        let read = read::<wire::PostflightRequest>(Transfer::Json, body.to_string().as_bytes());
        let message = read.expect("read").message;
        assert_eq!((message.rules_received, message.rules_processed), (2, 1));
        assert_eq!(message.sync_type(), wire::SyncType::CleanAll);
    }
    let read_pages =
        |body: &str| read::<wire::RuleDownloadRequest>(Transfer::Json, body.as_bytes());
    assert_eq!(read_pages("").expect("read").message, wire::RuleDownloadRequest::default());
    assert_eq!(read_pages(r#"{"cursor":null}"#).expect("read").message.cursor, "");
    assert!(read_pages("{\"cursor\":").is_err() && read_pages(r#"{"error":"x"}"#).is_err());
}
