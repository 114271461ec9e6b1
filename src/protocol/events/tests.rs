use super::*;

/// The batch of rows, its body not compressed.
fn batch(rows: Vec<EventRow>, transfer: Transfer) -> EventBatch {
    let host = MachineId::new("host").expect("an id");
    EventBatch::of_rows(rows, &host, transfer, EncodedBody::plain)
}
use crate::protocol::stored::encode;

fn execution(decision: wire::Decision) -> QueuedEvent {
    QueuedEvent::Execution(Box::new(wire::Event {
        file_sha256: "ab".repeat(32),
        file_name: "x".to_owned(),
        execution_time: 1.0,
        decision: decision.into(),
        ..wire::Event::default()
    }))
}

fn row(id: i64, data: Vec<u8>) -> EventRow {
    EventRow { id, unique_id: id.to_string(), data, oversize: None }
}

/// EV-4 and EV-5: each row of a batch is sent, counted or set aside.
#[test]
fn ev_4_rows_are_sorted_by_what_becomes_of_them() {
    let access = wire::FileAccessEvent { rule_name: "n".to_owned(), ..Default::default() };
    let archive = br#"<plist version="1.0"><dict>
        <key>$top</key><dict><key>root</key><dict><key>CF$UID</key><integer>1</integer></dict></dict>
        <key>$objects</key><array><string>$null</string>
        <dict><key>$class</key><dict><key>CF$UID</key><integer>2</integer></dict></dict>
        <dict><key>$classname</key><string>SNTStoredNetworkMountEvent</string></dict></array>
        </dict></plist>"#;
    let rows = vec![
        row(1, encode(&execution(wire::Decision::BlockBinary))),
        row(2, archive.to_vec()),
        row(3, encode(&QueuedEvent::FileAccess(Box::new(access.clone())))),
        row(4, b"junk".to_vec()),
        row(5, encode(&QueuedEvent::Audit(wire::AuditEvent::default()))),
    ];
    let sorted = batch(rows, Transfer::Json);
    assert_eq!(sorted.ids, [1, 3, 5]);
    assert_eq!(sorted.dropped, [(2, "NetworkMount".to_owned())]);
    assert_eq!(sorted.rejected.len(), 1);
    assert_eq!(sorted.rejected[0].0, 4);
    let request: wire::EventUploadRequest = serde_json::from_slice(&sorted.body.bytes).unwrap();
    assert_eq!(request.machine_id, "host");
    assert_eq!(request.events.len(), 1);
    assert_eq!(request.file_access_events, [access]);
    assert_eq!(request.audit_events.len(), 1);
}

/// EV-5: the beginning of a payload is no event, even where it reads as one.
#[test]
fn ev_5_a_payload_too_large_to_be_an_event_is_set_aside_with_its_size() {
    for transfer in [Transfer::Json, Transfer::Protobuf] {
        let beginning = encode(&execution(wire::Decision::BlockBinary));
        let row = EventRow { oversize: Some(17 << 20), ..row(1, beginning) };
        let sorted = batch(vec![row], transfer);
        assert_eq!(sorted.ids, Vec::<i64>::new());
        let [(1, reason)] = sorted.rejected.as_slice() else { panic!("{sorted:?}") };
        assert!(reason.starts_with("the payload has 17825792 bytes"), "{reason}");
    }
}

/// EV-9: which bundle a delivered executable belongs to.
#[test]
fn ev_9_executables_of_bundles_are_told_with_their_bundle() {
    let QueuedEvent::Execution(mut event) = execution(wire::Decision::BundleBinary) else {
        panic!("an execution")
    };
    event.file_bundle_hash = "h".to_owned();
    event.file_bundle_binary_count = 2;
    let bundled = encode(&QueuedEvent::Execution(event));
    let plain = encode(&execution(wire::Decision::BlockBinary));
    let rows = vec![row(1, bundled.clone()), row(2, plain), row(3, bundled)];
    let sorted = batch(rows, Transfer::Json);
    assert_eq!(sorted.bundles, [("h".to_owned(), 2), ("h".to_owned(), 2)]);
}

#[test]
fn ev_9_bundles_are_asked_for_once_each_in_the_servers_order() {
    let hashes = ["b", "a", "", "b"].map(str::to_owned).to_vec();
    let response = wire::EventUploadResponse { event_upload_bundle_binaries: hashes };
    assert_eq!(bundle_requests(response), ["b", "a"]);
}

/// EV-7: which executions are taken in, by decision and policy.
#[test]
fn ev_7_the_policy_takes_in_what_was_blocked_or_unknown_or_audited() {
    use wire::Decision as D;
    let admits = |all, no_unknown, decision, audited| {
        let policy =
            IngestPolicy { enable_all_event_upload: all, disable_unknown_event_upload: no_unknown };
        policy.admits(&execution(decision), audited)
    };
    let decisions = (0..20).filter_map(|number| D::try_from(number).ok());
    for decision in decisions {
        let blocked = matches!(
            decision,
            D::Unknown
                | D::BlockUnknown
                | D::BlockBinary
                | D::BlockCertificate
                | D::BlockScope
                | D::BlockTeamid
                | D::BlockSigningid
                | D::BlockCdhash
                | D::BundleBinary
                | D::BlockBinaryMismatch
        );
        let unknown = decision == D::AllowUnknown;
        assert_eq!(admits(false, false, decision, false), blocked || unknown, "{decision:?}");
        assert_eq!(admits(false, true, decision, false), blocked, "{decision:?}");
        assert!(admits(true, true, decision, false), "{decision:?}");
        assert!(admits(false, true, decision, true), "{decision:?}");
    }
    let access = QueuedEvent::FileAccess(Box::default());
    assert!(IngestPolicy::default().admits(&access, false));
}

/// EV-7: server over configuration, key by key.
#[test]
fn ev_7_the_servers_settings_win_over_the_configuration() {
    let silent = Settings::default();
    let policy = IngestPolicy::new(&silent, Some(true), None);
    assert!(policy.enable_all_event_upload && !policy.disable_unknown_event_upload);
    let server = Settings {
        enable_all_event_upload: Some(false),
        disable_unknown_event_upload: Some(true),
        ..Settings::default()
    };
    let policy = IngestPolicy::new(&server, Some(true), Some(false));
    assert!(!policy.enable_all_event_upload && policy.disable_unknown_event_upload);
}

const LINE: &str = r#""file_name":"x","execution_time":1.5,"decision":"BLOCK_BINARY""#;

#[test]
fn a_line_is_an_event_in_either_spelling_with_unknown_fields_passed_over() {
    let hash = "AB".repeat(32);
    let line = format!(
        r#"{{"fileSha256":"{hash}",{LINE},"csFlags":3,"future":{{"a":[1]}},"auditReturn":true}}"#
    );
    let incoming = read_line(line.as_bytes()).expect("an event");
    assert!(incoming.audited);
    assert_eq!(incoming.summary.unique_id, format!("{}:audit", "ab".repeat(32)));
    let QueuedEvent::Execution(event) = incoming.event else { panic!("an execution") };
    assert_eq!((event.file_sha256.as_str(), event.cs_flags), ("ab".repeat(32).as_str(), 3));
}

#[test]
fn a_line_that_is_no_single_event_is_refused() {
    let hash = "ab".repeat(32);
    let access = r#""file_access_event":{"rule_name":"n"}"#;
    for (line, words) in [
        ("{}".to_owned(), "expected the fields of one Event"),
        (format!(r#"{{"file_sha256":"{hash}",{LINE},{access}}}"#), "expected the fields of one"),
        (format!(r#"{{"file_sha256":"{hash}",{LINE}}} x"#), "trailing characters"),
        (format!("{{{access}}}"), "rule_version is missing"),
        (r#"{"audit_event":{}}"#.to_owned(), "standalone_mode_rule_creation is missing"),
        (r#"{"file_access_event":{"process_chain":[{"pid":[]}]}}"#.to_owned(), "pid"),
        (String::new(), "EOF"),
    ] {
        let error = read_line(line.as_bytes()).expect_err(&line).to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
}
