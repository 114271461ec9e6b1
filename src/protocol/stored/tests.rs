use plist::Value;
use proptest::prelude::*;

use super::*;
use crate::protocol::archive::archiver::Archiver;

/// A certificate that says it is `cn` of `org`, `ou`.
fn certificate(cn: &str, org: &str, ou: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, cn);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, org);
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, ou);
    params.not_before = rcgen::date_time_ymd(2020, 10, 29);
    params.not_after = rcgen::date_time_ymd(2026, 10, 24);
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").der().to_vec()
}

/// Fields of an object in the making.
type Fields = Vec<(&'static str, Value)>;

/// The fields every execution has.
fn execution(a: &mut Archiver, decision: u64) -> Fields {
    vec![
        ("idx", a.add(2_546_102_776_u64)),
        ("fileSHA256", a.add("fb2c6a695f556367f141f0c069695078c5e35e9154de35cb0fbd017af5be194e")),
        ("filePath", a.add("/usr/bin/yes")),
        ("occurrenceDate", a.date(1_751_111_111.0)),
        ("decision", a.add(decision)),
    ]
}

fn archived(class: &str, fields: impl Fn(&mut Archiver) -> Fields) -> DecodedEvent {
    let mut a = Archiver::new();
    let fields_of = fields(&mut a);
    let root = a.instance(class, fields_of);
    let binary = decode_row(&a.binary(root));
    let mut a = Archiver::new();
    let fields_of = fields(&mut a);
    let root = a.instance(class, fields_of);
    assert_eq!(decode_row(&a.xml(root)), binary, "XML reads as binary does");
    binary
}

fn event(decoded: DecodedEvent) -> wire::Event {
    let DecodedEvent::Sendable(QueuedEvent::Execution(event)) = decoded else {
        panic!("{decoded:?}")
    };
    *event
}

fn reason(decoded: DecodedEvent) -> String {
    let DecodedEvent::Undecodable { reason } = decoded else { panic!("{decoded:?}") };
    reason
}

fn texts(a: &mut Archiver, texts: &[&str]) -> Value {
    let elements = texts.iter().map(|text| a.add(*text)).collect();
    a.list(elements)
}

fn chain(a: &mut Archiver, certificates: &[&[u8]]) -> Value {
    let mut elements = Vec::new();
    for (n, der) in certificates.iter().enumerate() {
        // Inline or as an object of its own: both forms occur.
        let data = Value::Data(der.to_vec());
        let data = if n % 2 == 0 { data } else { a.instance("NSData", [("NS.data", data)]) };
        elements.push(a.instance("MOLCertificate", [("certData", data)]));
    }
    a.list(elements)
}

/// The facts the reference's own test of its upload expects.
#[test]
fn an_archived_execution_has_every_field_on_the_wire() {
    let leaf = certificate("Software Signing", "Apple Inc.", "Apple Software");
    let root = certificate("Apple Root CA", "Apple Inc.", "Apple Certification Authority");
    let mut event = event(archived("SNTStoredExecutionEvent", |a| {
        let mut fields = execution(a, 1 << 48);
        fields.extend([
            ("loggedInUsers", texts(a, &["foo", "bar"])),
            ("currentSessions", texts(a, &["nobody@console"])),
            ("executingUser", a.add("foo")),
            ("pid", a.add(2222)),
            ("ppid", a.add(1)),
            ("parentName", a.add("launchd")),
            ("signingChain", chain(a, &[&leaf, &root])),
            ("teamID", a.add("ZMCG7MLDV9")),
            ("signingID", a.add("platform:com.apple.yes")),
            ("cdhash", a.add("e6088e2df9163416c1d66a0c0bc74dfe34419fa7")),
            ("codesigningFlags", a.add(603_980_545)),
            ("signingStatus", a.add(4)),
            ("secureSigningTime", a.date(1_751_421_846.9)),
            ("signingTime", a.date(1_751_335_446.0)),
            ("staticRule", a.add(true)),
            ("holdAndAsk", a.add(false)),
            ("ruleId", a.add(42)),
            ("fileBundleHash", a.add("beef")),
            ("fileBundleHashMilliseconds", a.add(1500)),
            ("fileBundleBinaryCount", a.add(7)),
            ("fileBundleName", a.add("Yes")),
            ("fileBundlePath", a.add("/Applications/Yes.app")),
            ("fileBundleExecutableRelPath", a.add("Contents/MacOS/Yes")),
            ("fileBundleID", a.add("com.example.yes")),
            ("fileBundleVersion", a.add("2003004001")),
            ("fileBundleVersionString", a.add("2.3.4")),
            ("quarantineDataURL", a.add("https://example.com/yes.zip")),
            ("quarantineRefererURL", a.add("https://example.com/")),
            ("quarantineTimestamp", a.date(1_464_204_868.0)),
            ("quarantineAgentBundleID", a.add("com.google.Chrome")),
        ]);
        fields
    }));
    for certificate in &mut event.signing_chain {
        assert_eq!(certificate.sha256.len(), 64);
        "[sha256]".clone_into(&mut certificate.sha256);
    }
    insta::assert_json_snapshot!("archived_execution", event);
}

#[test]
fn an_archived_file_access_has_its_process_and_the_parents() {
    for class in ["SNTStoredProcess", "SNTStoredFileAccessProcess"] {
        let decoded = archived("SNTStoredFileAccessEvent", |a| {
            let parent_fields = vec![("pid", a.add(1)), ("filePath", a.add("/sbin/launchd"))];
            let parent = a.instance(class, parent_fields);
            let process_fields = vec![
                ("filePath", a.add("/bin/mkdir")),
                ("fileSHA256", a.add("58fd")),
                ("cdhash", a.add("dda7")),
                ("signingID", a.add("com.apple.mkdir")),
                ("teamID", a.add("T")),
                ("pid", a.add(123)),
                ("parent", parent),
            ];
            let process = a.instance(class, process_fields);
            vec![
                ("idx", a.add(1)),
                ("occurrenceDate", a.date(1_753_333_333.5)),
                ("ruleVersion", a.add("MyRuleVersion")),
                ("ruleName", a.add("MyRule")),
                ("accessedPath", a.add("/you/are/being/watched")),
                ("process", process),
                ("decision", a.add(5)),
            ]
        });
        let DecodedEvent::Sendable(event) = decoded else { panic!("{decoded:?}") };
        let summary = summarize(&event, false).expect("a summary");
        assert_eq!(summary.unique_id, "MyRule|MyRuleVersion|58fd");
        assert!(!summary.actionable, "it was only recorded");
        let QueuedEvent::FileAccess(event) = event else { panic!("{event:?}") };
        insta::allow_duplicates! { insta::assert_json_snapshot!("archived_file_access", event); }
    }
}

/// EV-4: every decision of the existing daemon, by its bit.
#[test]
fn ev_4_each_decision_has_its_wire_form_or_is_counted_under_its_name() {
    let mut lines = Vec::new();
    let mut states: Vec<u64> = vec![0, 1, 0xff_ffff << 16, 0xff_ffff << 40];
    states.extend((16..26).chain(40..57).map(|bit| 1_u64 << bit));
    for state in states {
        let decoded = archived("SNTStoredExecutionEvent", |a| execution(a, state));
        let what = if let DecodedEvent::Sendable(QueuedEvent::Execution(event)) = decoded {
            let decision = json::enum_name::<wire::Decision>(event.decision);
            format!("{} at {}", decision.unwrap_or("?"), event.execution_time)
        } else {
            format!("{decoded:?}")
        };
        lines.push(format!("{state:#018x} {what}"));
    }
    insta::assert_snapshot!("archived_decisions", lines.join("\n"));
}

#[test]
fn each_signing_status_is_one_more_on_the_wire_and_an_absent_one_is_unsigned() {
    use wire::SigningStatus as S;
    let status = |stored: Option<i64>| {
        let decoded = archived("SNTStoredExecutionEvent", |a| {
            let mut fields = execution(a, 1 << 17);
            fields.extend(stored.map(|stored| ("signingStatus", a.add(stored))));
            fields
        });
        S::try_from(event(decoded).signing_status).expect("a status")
    };
    assert_eq!(status(None), S::Unsigned);
    let all = [S::Unsigned, S::Invalid, S::Adhoc, S::Development, S::Production];
    for (stored, expected) in (0..).zip(all) {
        assert_eq!(status(Some(stored)), expected);
    }
    assert_eq!(status(Some(9)), S::Unspecified);
}

/// EV-4: what only version 2 of the protocol carries leaves the queue counted.
#[test]
fn ev_4_events_of_version_2_are_unsendable_and_unknown_classes_undecodable() {
    for (class, kind) in [
        ("SNTStoredTemporaryMonitorModeEnterAuditEvent", "TemporaryMonitorModeEnterAudit"),
        ("SNTStoredTemporaryAdminModeLeaveAuditEvent", "TemporaryAdminModeLeaveAudit"),
        ("SNTStoredNetworkMountEvent", "NetworkMount"),
        // Counted for ever, and therefore under a known word.
        ("SNTStoredNetworkMountEventOfAnyName", "NetworkMount"),
        ("SNTStoredTemporaryMonitorModeAnyName", "TemporaryMonitorMode"),
    ] {
        let decoded = archived(class, |a| vec![("idx", a.add(1))]);
        assert_eq!(decoded, DecodedEvent::Unsendable { kind: kind.to_owned() });
    }
    let unknown = reason(archived("SNTStoredNext\u{7}", |a| vec![("idx", a.add(1))]));
    assert_eq!(unknown, "SNTStoredNext\\u{7} was archived, a class this version does not know");
    let list = {
        let mut a = Archiver::new();
        let root = a.list(Vec::new());
        reason(decode_row(&a.binary(root)))
    };
    assert_eq!(list, "a list was archived, not an event");
}

/// EV-5: the class of every event before executions had one of their own. The
/// facts are those the reference's test of its upload expects.
#[test]
fn ev_5_a_row_of_the_legacy_class_is_an_execution() {
    let bundled = |a: &mut Archiver| {
        let mut fields = execution(a, 1);
        fields.extend([
            ("fileBundleID", a.add("com.luckymarmot.Paw")),
            ("fileBundlePath", a.add("/Applications/Paw.app")),
            ("fileBundleVersion", a.add("2003004001")),
            ("fileBundleVersionString", a.add("2.3.4")),
            ("quarantineTimestamp", a.date(1_464_204_868.0)),
            ("quarantineAgentBundleID", a.add("com.google.Chrome")),
            ("quarantineDataURL", a.add("https://example.com/Paw.zip")),
            ("quarantineRefererURL", a.add("https://luckymarmot.com/paw")),
        ]);
        fields
    };
    let legacy = event(archived("SNTStoredEvent", bundled));
    assert_eq!(legacy.decision(), wire::Decision::BundleBinary);
    assert_eq!(legacy.file_bundle_id, "com.luckymarmot.Paw");
    #[expect(deprecated, reason = "servers still read the quarantine fields")]
    let quarantine = (legacy.quarantine_timestamp, legacy.quarantine_referer_url.as_str());
    assert_eq!(quarantine, (1_464_204_868, "https://luckymarmot.com/paw"));
    assert_eq!(legacy, event(archived("SNTStoredExecutionEvent", bundled)));

    let unsent = archived("SNTStoredEvent", |a| execution(a, 1 << 45));
    assert_eq!(unsent, DecodedEvent::Unsendable { kind: "AllowTransitive".to_owned() });
    // The bare base class of later releases has none of the fields.
    let bare = reason(archived("SNTStoredEvent", |a| vec![("idx", a.add(1))]));
    assert_eq!(bare, "SNTStoredEvent.fileSHA256 is missing");
    let unknown = reason(archived("SNTStoredEvent", |a| execution(a, 3 << 20)));
    assert_eq!(unknown, "SNTStoredEvent.decision is 0x300000, which this version does not know");
}

/// EV-5: each key an event cannot do without, and each value of a wrong kind.
#[test]
fn ev_5_what_an_archive_lacks_or_has_wrong_is_named() {
    for key in ["fileSHA256", "filePath", "occurrenceDate", "decision"] {
        let decoded = archived("SNTStoredExecutionEvent", |a| {
            let mut fields = execution(a, 1 << 17);
            fields.retain(|(name, _)| *name != key);
            fields
        });
        assert_eq!(reason(decoded), format!("SNTStoredExecutionEvent.{key} is missing"));
    }
    for (key, expected) in [
        ("filePath", "SNTStoredExecutionEvent.filePath is a whole number, not text"),
        ("occurrenceDate", "SNTStoredExecutionEvent.occurrenceDate is a whole number, not a date"),
        ("loggedInUsers", "SNTStoredExecutionEvent.loggedInUsers is a whole number, not a list"),
        (
            "entitlements",
            "SNTStoredExecutionEvent.entitlements is a whole number, not a dictionary",
        ),
        ("pid", "SNTStoredExecutionEvent.pid is 8589934592, not a number in range"),
    ] {
        let decoded = archived("SNTStoredExecutionEvent", |a| {
            let wrong = a.add(8_589_934_592_u64);
            let mut fields = execution(a, 1 << 17);
            fields.retain(|(name, _)| *name != key);
            fields.push((key, wrong));
            fields
        });
        assert_eq!(reason(decoded), expected);
    }
}

#[test]
fn a_chain_of_parents_that_does_not_end_is_undecodable() {
    let decoded = archived("SNTStoredFileAccessEvent", |a| {
        let path = a.add("/bin/sh");
        // Its own parent: the class follows the object that is made first.
        let warm_up = a.instance("SNTStoredProcess", []);
        let own = Archiver::number(a.next());
        let process = a.instance("SNTStoredProcess", [("filePath", path), ("parent", own.clone())]);
        assert_eq!(process, own, "after {warm_up:?} no class is added");
        vec![
            ("occurrenceDate", a.date(0.0)),
            ("ruleVersion", a.add("v")),
            ("ruleName", a.add("n")),
            ("accessedPath", a.add("/x")),
            ("process", process),
            ("decision", a.add(1)),
        ]
    });
    assert_eq!(reason(decoded), "more than 128 processes, each the parent of the one before");
}

#[test]
fn a_certificate_that_cannot_be_parsed_keeps_its_hash() {
    let event = event(archived("SNTStoredExecutionEvent", |a| {
        let mut fields = execution(a, 1 << 18);
        fields.push(("signingChain", chain(a, &[b"no DER"])));
        fields
    }));
    let expected = wire::Certificate {
        sha256: "b33049fe0536181355219303c1eaa9fb75a76218317a0fd73aad082a52659414".to_owned(),
        ..wire::Certificate::default()
    };
    assert_eq!(event.signing_chain, [expected]);
}

fn entitlements(build: impl Fn(&mut Archiver) -> Fields) -> (Option<bool>, Vec<(String, String)>) {
    let event = event(archived("SNTStoredExecutionEvent", |a| {
        let mut fields = execution(a, 1 << 17);
        fields.extend(build(a));
        fields
    }));
    let info = event.entitlement_info.expect("it is always present");
    let pairs = info
        .entitlements
        .into_iter()
        .map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default()));
    (info.entitlements_filtered, pairs.collect())
}

#[test]
fn entitlements_are_json_text() {
    assert_eq!(entitlements(|_| Vec::new()), (Some(false), Vec::new()));
    let (filtered, pairs) = entitlements(|a| {
        let values = [
            ("text", a.add("a\"b")),
            ("flag", a.add(true)),
            ("number", a.add(-3)),
            ("real", a.add(0.5)),
            ("data", a.add(Value::Data(vec![1, 2, 255]))),
            ("date", a.date(1_751_421_846.25)),
            ("list", texts(a, &["x", "y"])),
        ];
        let entries = values.into_iter().map(|(key, value)| (a.add(key), value)).collect();
        vec![("entitlements", a.dictionary(entries))]
    });
    assert_eq!(filtered, Some(false));
    let expected = [
        ("text", r#""a\"b""#),
        ("flag", "true"),
        ("number", "-3"),
        ("real", "0.5"),
        ("data", r#""AQL/""#),
        ("date", r#""2025-07-02T02:04:06.250Z""#),
        ("list", r#"["x","y"]"#),
    ];
    assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn entitlements_are_clipped_at_64_entries_and_five_levels_and_say_so() {
    let many = |n: usize| {
        entitlements(move |a| {
            let value = a.add(1);
            let entries = (0..n).map(|i| (a.add(format!("k{i}")), value.clone())).collect();
            vec![("entitlements", a.dictionary(entries))]
        })
    };
    assert_eq!((many(64).0, many(64).1.len()), (Some(false), 64));
    assert_eq!((many(65).0, many(65).1.len()), (Some(true), 64));

    let nested = |levels: usize| {
        entitlements(move |a| {
            let mut value = a.add("deep");
            for _ in 0..levels {
                value = a.list(vec![value]);
            }
            let key = a.add("k");
            vec![("entitlements", a.dictionary(vec![(key, value)]))]
        })
    };
    assert_eq!(nested(4), (Some(false), vec![("k".to_owned(), r#"[[[["deep"]]]]"#.to_owned())]));
    assert_eq!(nested(5), (Some(true), vec![("k".to_owned(), "[[[[null]]]]".to_owned())]));

    let filtered_before = entitlements(|a| vec![("entitlementsFiltered", a.add(true))]);
    assert_eq!(filtered_before.0, Some(true));
}

/// EV-5: what cannot be read says why.
#[test]
fn what_is_no_event_is_undecodable_with_a_reason() {
    for (data, words) in [
        (&b""[..], "no payload"),
        (b"junk", "neither a property list"),
        (b"bplist00", "not a property list"),
        (b"<plist><array/></plist>", "no keyed archive"),
        (b"\xf5sse", "breaks off"),
        (b"\xf5sse\x09", "newer santa-sync"),
        (b"\xf5sse\x01\xff", "damaged"),
    ] {
        let reason = reason(decode_row(data));
        assert!(reason.contains(words), "{reason}");
    }
}

fn blocked() -> wire::Event {
    wire::Event {
        file_sha256: "AB".repeat(32),
        file_name: "x".to_owned(),
        execution_time: 1.5,
        decision: wire::Decision::BlockBinary.into(),
        ..wire::Event::default()
    }
}

fn execution_event(change: impl Fn(&mut wire::Event)) -> QueuedEvent {
    let mut event = blocked();
    change(&mut event);
    QueuedEvent::Execution(Box::new(event))
}

#[test]
fn our_own_form_reads_back_as_it_was() {
    let audit = wire::AuditEvent {
        event: Some(wire::audit_event::Event::StandaloneModeRuleCreation(
            wire::StandaloneModeRuleCreation {
                decision: wire::Decision::AllowBinary.into(),
                identifier: "i".to_owned(),
                timestamp: 7,
            },
        )),
    };
    let access = wire::FileAccessEvent { rule_name: "n".to_owned(), ..Default::default() };
    for event in [
        execution_event(|_| {}),
        QueuedEvent::FileAccess(Box::new(access)),
        QueuedEvent::Audit(audit),
    ] {
        assert_eq!(decode_row(&encode(&event)), DecodedEvent::Sendable(event));
    }
}

#[test]
fn a_summary_tells_events_apart_and_whether_something_was_blocked() {
    let summary = |change: &dyn Fn(&mut wire::Event), audited| {
        let summary = summarize(&execution_event(change), audited).expect("a summary");
        (summary.unique_id, summary.actionable)
    };
    let hash = "ab".repeat(32);
    let allow = |event: &mut wire::Event| event.decision = wire::Decision::AllowBinary.into();
    assert_eq!(summary(&|_| {}, false), (hash.clone(), true));
    assert_eq!(summary(&allow, false), (hash.clone(), false));
    assert_eq!(summary(&allow, true), (format!("{hash}:audit"), true));
    let bundle = |event: &mut wire::Event| {
        event.decision = wire::Decision::BundleBinary.into();
        event.execution_time = 0.0;
    };
    assert_eq!(summary(&bundle, false), (hash, true));
}

#[test]
fn an_event_that_lacks_what_every_event_has_cannot_be_queued() {
    let error = |change: &dyn Fn(&mut wire::Event)| {
        summarize(&execution_event(change), false).expect_err("an error").to_string()
    };
    assert_eq!(error(&|e| e.file_sha256.clear()), "file_sha256 is missing");
    assert_eq!(error(&|e| e.file_name.clear()), "file_name is missing");
    assert_eq!(error(&|e| e.decision = 0), "decision is missing");
    assert_eq!(error(&|e| e.execution_time = 0.0), "execution_time is missing");
    assert!(error(&|e| e.decision = 17).contains("one of the protocol's decisions"));
    assert!(error(&|e| e.execution_time = f64::NAN).contains("seconds since 1970"));
    assert!(error(&|e| e.file_sha256 = "zz".repeat(32)).contains("64 hex digits"));
}

/// EV-9: which queued events belong to a bundle that a server asked for.
#[test]
fn ev_9_only_executables_of_a_bundle_belong_to_it() {
    let mut event = blocked();
    event.file_bundle_hash = "h".to_owned();
    event.file_bundle_binary_count = 3;
    assert_eq!(bundle_of(&QueuedEvent::Execution(Box::new(event.clone()))), None);
    event.decision = wire::Decision::BundleBinary.into();
    assert_eq!(bundle_of(&QueuedEvent::Execution(Box::new(event))), Some(("h", 3)));
}

proptest! {
    /// EV-5: whatever happens to an archive, reading it ends in a response.
    #[test]
    fn a_damaged_archive_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut a = Archiver::new();
        let mut fields = execution(&mut a, 1 << 17);
        fields.push(("loggedInUsers", texts(&mut a, &["foo", "bar"])));
        fields.push(("signingChain", chain(&mut a, &[b"0", b"1"])));
        let root = a.instance("SNTStoredExecutionEvent", fields);
        let mut bytes = a.binary(root);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode_row(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode_row(&bytes);
    }
}
