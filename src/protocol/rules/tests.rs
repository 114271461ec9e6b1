use super::*;

const SHA: &str = "EE382E19b1cdd9ef5b1bd2d6a3f2b1a2c4c2a8a0a1a2a3a4a5a6a7a8a9b00eab";

fn page(body: &str) -> Page {
    page_of(Transfer::Json, body.as_bytes()).expect(body)
}

fn reasons(page: &Page) -> Vec<(u32, &str)> {
    page.rejected.iter().map(|r| (r.index, r.reason.as_str())).collect()
}

/// RULE-4, case 69: legacy key, aliases, both spellings, normalisation.
#[test]
fn rule_4_rules_are_normalised_whatever_their_spelling() {
    let page = page(&format!(
        r#"{{"rules":[
          {{"sha256":"{SHA}","policy":"BLOCKLIST","rule_type":"BINARY"}},
          {{"identifier":"{SHA}","policy":"BLACKLIST","ruleType":"CERTIFICATE","custom_msg":"Hi There"}},
          {{"identifier":"PLATFORM:com.apple.yes","policy":"allowlist","rule_type":"signingid"}},
          {{"identifier":"abcdefghij:com:example","policy":1,"rule_type":4}},
          {{"identifier":"aaaaaaaaaa","policy":"BLOCKLIST","rule_type":"TEAMID"}},
          {{"identifier":"DBE8c39801f93e05fc7bc53a02af5b4d3cfc670a","policy":"REMOVE","rule_type":"CDHASH"}}
        ],"cursor":"next"}}"#
    ));
    let rules: Vec<_> = page.rules.iter().collect();
    let named: Vec<_> = rules.iter().map(|r| (r.identifier.to_string(), r.policy)).collect();
    assert_eq!(
        named,
        [
            (SHA.to_lowercase(), Policy::Blocklist),
            (SHA.to_lowercase(), Policy::Blocklist),
            ("platform:com.apple.yes".to_owned(), Policy::Allowlist),
            ("ABCDEFGHIJ:com:example".to_owned(), Policy::Allowlist),
            ("AAAAAAAAAA".to_owned(), Policy::Blocklist),
            ("dbe8c39801f93e05fc7bc53a02af5b4d3cfc670a".to_owned(), Policy::Remove),
        ]
    );
    assert_eq!(rules[1].details.custom_msg, "Hi There");
    assert_eq!(page.cursor.as_ref().map(Cursor::as_str), Some("next"));
    assert!(page.rejected.is_empty());
}

/// RULE-4, RULE-6, cases 124 to 129: each bad rule alone, with its place.
#[test]
fn rule_4_bad_rules_are_rejected_alone_with_their_reason() {
    let page = page(
        r#"{"rules":[
          {"policy":"ALLOWLIST","rule_type":"BINARY"},
          {"identifier":"an-identifier","policy":"ALLOWLIST","rule_type":"BINARY"},
          {"identifier":"AAAAAAAAAA","policy":"OTHERPOLICY","rule_type":"TEAMID"},
          {"identifier":"AAAAAAAAAA","policy":"ALLOWLIST","rule_type":"OTHER_RULE_TYPE"},
          {"identifier":"A","policy":"ALLOWLIST","rule_type":"TEAMID"},
          {"identifier":"ßßßßßßßßßß","policy":"ALLOWLIST","rule_type":"TEAMID"},
          {"identifier":":com.example","policy":"ALLOWLIST","rule_type":"SIGNINGID"},
          {"identifier":"ABCDEFGHIJ:","policy":"ALLOWLIST","rule_type":"SIGNINGID"},
          {"identifier":"ABC:com.example","policy":"ALLOWLIST","rule_type":"SIGNINGID"},
          {"identifier":"AAAAAAAAAA","policy":"CEL","rule_type":"TEAMID"},
          {"identifier":"BBBBBBBBBB","policy":"ALLOWLIST","rule_type":"TEAMID"}
        ]}"#,
    );
    assert_eq!(page.rules.len(), 1);
    assert_eq!(
        reasons(&page),
        [
            (0, "the identifier is missing"),
            (1, "a BINARY identifier is 64 hex digits"),
            (2, "the policy is missing or unknown (policy \"OTHERPOLICY\")"),
            (3, "the rule type is missing or unknown (rule_type \"OTHER_RULE_TYPE\")"),
            (4, "a TEAMID identifier is 10 ASCII letters or digits"),
            (5, "a TEAMID identifier is 10 ASCII letters or digits"),
            (6, "a SIGNINGID identifier is TEAMID:name or platform:name"),
            (7, "a SIGNINGID identifier is TEAMID:name or platform:name"),
            (8, "a SIGNINGID identifier is TEAMID:name or platform:name"),
            (9, "the policy is CEL and the expression is missing"),
        ]
    );
}

/// JSON-1: a rule of the wrong shape costs neither the page nor the cursor.
#[test]
fn json_1_one_rule_of_the_wrong_shape_never_costs_the_page() {
    let page = page(
        r#"{"cursor":18446744073709551617,"rules":[
          {"identifier":"AAAAAAAAAA","policy":"ALLOWLIST","rule_type":"TEAMID"},
          null,
          {"identifier":"BROKEN","policy":{"x":1},"rule_type":"TEAMID"},
          "nonsense",
          {"identifier":"BBBBBBBBBB","policy":"ALLOWLIST","rule_type":"TEAMID","unknown":[{}]}
        ]}"#,
    );
    assert_eq!(page.rules.len(), 2);
    let rejected: Vec<_> = page.rejected.iter().map(|r| (r.index, r.identifier.as_str())).collect();
    assert_eq!(rejected, [(2, "BROKEN"), (3, "")]);
    assert_eq!(page.cursor.as_ref().map(Cursor::as_str), Some("18446744073709551617"));
}

/// HTTP-7, RULE-2: what is an empty page, and what only looks like one.
#[test]
fn an_error_report_is_no_empty_page() {
    for empty in
        ["{}", r#"{"rules":null}"#, r#"{"rules":[]}"#, r#"{"rules":[],"x":1}"#, r#"{"cursor":""}"#]
    {
        assert_eq!(page(empty), Page::default(), "{empty}");
    }
    assert!(page("").without_body && page(")]}'\n").without_body);
    let error = page_of(Transfer::Json, br#"{"reason":"no such host","a\nb":1}"#);
    let Err(BodyError::WrongShape { reason, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(
        reason,
        r#"neither `rules` nor `cursor` is there, but "reason", "a\nb" (an error report?)"#
    );
    for wrong in
        [r#"{"rules":{}}"#, "[]", "[null]", "[[]]", "null", "7", r#"[[{"identifier":"x"}]]"#]
    {
        let read = page_of(Transfer::Json, wrong.as_bytes());
        assert!(matches!(read, Err(BodyError::WrongShape { .. })), "{wrong}: {read:?}");
    }
}

/// HTTP-8: what is rejected costs no memory that grows with the page, and no
/// rule can bring endless text; in either transfer form.
#[test]
fn http_8_a_page_of_nonsense_keeps_little_of_it() {
    use prost::Message as _;
    let count = 20_000;
    let body = format!("{{\"rules\":[{}{{}}]}}", "{},".repeat(count - 1));
    let page = page_of(Transfer::Json, body.as_bytes()).expect("a page");
    assert_eq!((page.rejected.len(), page.rejected_unlisted), (100, count as u64 - 100));
    let binary = [10_u8, 0].repeat(count);
    let page = page_of(Transfer::Protobuf, &binary).expect("a page");
    assert_eq!((page.rejected.len(), page.rejected_unlisted), (100, count as u64 - 100));

    let rule = wire::Rule {
        identifier: "AAAAAAAAAA".into(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        custom_msg: "x".repeat(1 << 20),
        ..Default::default()
    };
    let sent = wire::RuleDownloadResponse { rules: vec![rule], cursor: "next".into() };
    let page = page_of(Transfer::Protobuf, &sent.encode_to_vec()).expect("a page");
    assert_eq!((page.rules.len(), page.rejected.len()), (0, 1));
    assert_eq!(page.cursor.as_ref().map(Cursor::as_str), Some("next"));
    let cut = &sent.encode_to_vec()[..100];
    assert!(matches!(page_of(Transfer::Protobuf, cut), Err(BodyError::NotProtobuf { .. })));

    let long =
        format!(r#"{{"rules":[{{"identifier":"A","policy":["{}"]}}]}}"#, "\u{7}x".repeat(9999));
    let page =
        page_of(Transfer::Json, long.replace('\u{7}', "\\u0007").as_bytes()).expect("a page");
    assert!(page.rejected[0].reason.len() < 1000, "{}", page.rejected[0].reason);
}

/// RULE-4: the label is cut by characters, not bytes.
#[test]
fn rule_4_a_button_label_is_cut_to_48_characters() {
    let label = "ä".repeat(60);
    let mut rule = wire::Rule {
        identifier: "AAAAAAAAAA".into(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        event_detail_button_label: label,
        ..Default::default()
    };
    let details =
        check(&mut rule, &mut CelBudget::default()).expect("a rule").details.expect("a label");
    assert_eq!(details.event_detail_button_label, "ä".repeat(48));
}

/// JSON-1, RULE-4: the short way to read plain rules and the long one agree,
/// whatever the names and identifiers.
#[test]
fn json_1_a_plain_rule_is_read_like_any_other() {
    let names = (0..20).filter_map(|n| Some(wire::Policy::try_from(n).ok()?.as_str_name()));
    let names: Vec<_> = names.chain(["allowlist", "WHITELIST", "NONE"]).collect();
    let types = (0..9).filter_map(|n| Some(wire::RuleType::try_from(n).ok()?.as_str_name()));
    let types: Vec<_> = types.chain(["binary", "OTHER"]).collect();
    let identifiers = [
        SHA,
        "dbe8c39801f93e05fc7bc53a02af5b4d3cfc670a",
        "abcdefghij",
        "abcdefghij:com.example",
        "a\\u0062",
        "",
    ];
    let mut short = 0;
    let kinds = names.iter().flat_map(|policy| types.iter().map(move |kind| (policy, kind)));
    for ((policy, rule_type), identifier) in
        kinds.flat_map(|kind| identifiers.map(|identifier| (kind, identifier)))
    {
        let fields =
            format!(r#""identifier":"{identifier}","policy":"{policy}","rule_type":"{rule_type}""#);
        short += usize::from(json::plain(&format!("{{{fields}}}"), false).is_some());
        let read = |rule: &str| {
            let page = page(&format!(r#"{{"rules":[{rule}]}}"#));
            (page.rules, page.rejected)
        };
        assert_eq!(read(&format!("{{{fields}}}")), read(&format!(r#"{{{fields},"":0}}"#)));
    }
    assert!(short > 30, "{short} rules were read the short way");
    let list = page(&format!(r#"{{"rules":[["{SHA}","ALLOWLIST","BINARY"]]}}"#));
    assert_eq!((list.rules.len(), list.rejected.len()), (0, 1), "a list is no rule");
}

fn read(received: ResponseBody<'_>) -> Result<DecodedBody<Page>, BodyError> {
    read_page(received, 1, &mut CelBudget::default(), &|| false)
}

/// HTTP-15, RULE-2: an error report is a failed attempt; beside the fields of a stage it is
/// a warning.
#[test]
fn http_15_an_error_report_is_no_page() {
    for error in
        [r#"{"error":"x"}"#, r#"{"rules":null,"Errors":["x"]}"#, r#"{"cursor":null,"err":1}"#]
    {
        let read = page_of(Transfer::Json, error.as_bytes());
        assert!(matches!(read, Err(BodyError::ErrorInResponse { .. })), "{error}: {read:?}");
    }
    let beside = read(ResponseBody::new(Transfer::Json, br#"{"rules":[],"error":"x"}"#.as_slice()));
    let warnings = beside.expect("a page").warnings;
    assert_eq!((warnings[0].field.as_str(), warnings[0].value.as_str()), ("error", "x"));
    assert_eq!(page(r#"{"rules":[],"error":null}"#), Page::default());
}

/// JSON-1: a part of a rule that cannot be read counts as absent; if the rule
/// can do without, it is taken, with a warning.
#[test]
fn json_1_a_rule_is_taken_without_a_part_that_cannot_be_read() {
    let body = r#"{"rules":[
        {"identifier":"AAAAAAAAAA","policy":"BLOCKLIST","rule_type":"TEAMID","custom_msg":{},
         "file_bundle_binary_count":"many"},
        {"identifier":"BBBBBBBBBB","policy":"CEL","rule_type":"TEAMID","cel_expr":7},
        {"identifier":["CCCCCCCCCC"],"policy":"BLOCKLIST","rule_type":"TEAMID"}
    ]}"#;
    let DecodedBody { message: page, warnings } =
        read(ResponseBody::new(Transfer::Json, body.as_bytes())).expect("a page");
    assert_eq!(page.rules.len(), 1);
    let fields: Vec<_> = warnings.iter().map(|w| (w.field.as_str(), w.value.as_str())).collect();
    assert_eq!(
        fields,
        [("rules[0].custom_msg", "{}"), ("rules[0].file_bundle_binary_count", "many")]
    );
    assert_eq!(
        reasons(&page),
        [(1, "the policy is CEL and the expression is missing"), (2, "the identifier is missing")]
    );
}

/// JSON-3: a text that is not UTF-8 rejects its rule, and neither the page nor
/// the rules beside it.
#[test]
fn json_3_a_rule_that_is_not_utf_8_is_rejected_alone() {
    let body = b"{\"rules\":[
        {\"identifier\":\"AAAAAAAAAA\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"TEAMID\"},
        {\"identifier\":\"AAAAAAAAAA:a\xffb\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"SIGNINGID\"},
        {\"identifier\":\"BBBBBBBBBB\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"TEAMID\",\"custom_msg\":\"\xc3\"},
        {\"identifier\":\"CCCCCCCCCC\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"TEAMID\",\"custom_msg\":\"\xc3\xa4\"},
        {\"identifier\":\"DDDDDDDDDD\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"TEAMID\",\"custom_msg\":\"\\udc00\"},
        {\"identifier\":\"EEEEEEEEEE\",\"policy\":\"BLOCKLIST\",\"rule_type\":\"TEAMID\",\"note\":\"\xff\"}
    ],\"cursor\":\"next\"}";
    let page = page_of(Transfer::Json, body).expect("a page");
    let taken: Vec<_> = page.rules.iter().map(|rule| rule.identifier.to_string()).collect();
    assert_eq!(taken, ["AAAAAAAAAA", "CCCCCCCCCC", "EEEEEEEEEE"]);
    assert_eq!(
        reasons(&page),
        [
            (1, "its identifier is not UTF-8"),
            (2, "its custom_msg is not UTF-8"),
            (4, "its custom_msg is not Unicode"),
        ]
    );
    assert_eq!(page.cursor.as_ref().map(Cursor::as_str), Some("next"));
}

/// HTTP-8, JSON-3: without its cursor a page would pass for the last.
#[test]
fn http_8_json_3_a_cursor_that_cannot_be_taken_is_an_error() {
    let long = "x".repeat((64 << 10) + 1);
    for cursor in [
        format!("\"{long}\""),
        format!("\"{}\"", "\\u0041".repeat(long.len())),
        "1".repeat(long.len()),
    ] {
        let read = page_of(Transfer::Json, format!("{{\"cursor\":{cursor}}}").as_bytes());
        assert!(matches!(read, Err(BodyError::CursorTooLong(_))), "{read:?}");
    }
    assert!(page(&format!("{{\"cursor\":\"{}\"}}", &long[1..])).cursor.is_some());
    for wrong in [
        &b"{\"cursor\":\"a\xff\"}"[..],
        b"{\"cursor\":\"\\ud800\"}",
        b"{\"cursor\":{}}",
        b"{\"cursor\":true}",
    ] {
        let read = page_of(Transfer::Json, wrong);
        assert!(
            matches!(&read, Err(BodyError::WrongShape { path, .. }) if path == "cursor"),
            "{read:?}"
        );
    }
    let binary = |text: &[u8]| {
        let mut body = vec![0x12];
        prost::encoding::encode_varint(text.len() as u64, &mut body);
        page_of(Transfer::Protobuf, &[&body, text].concat())
    };
    assert!(matches!(binary(b"a\xff"), Err(BodyError::NotProtobuf { .. })));
    assert!(matches!(binary(long.as_bytes()), Err(BodyError::CursorTooLong(_))));
    assert!(binary(&long.as_bytes()[1..]).expect("a page").cursor.is_some());
}

/// HTTP-8: each part of a rule has its length, and the whole, too; in either
/// form the last byte counts.
#[test]
fn http_8_a_rule_beyond_its_limits_is_rejected_alone() {
    use prost::Message as _;
    fn rule() -> wire::Rule {
        wire::Rule {
            identifier: "AAAAAAAAAA:x".into(),
            policy: wire::Policy::Cel.into(),
            rule_type: wire::RuleType::Signingid.into(),
            cel_expr: "true".into(),
            ..Default::default()
        }
    }
    type Set = fn(&mut wire::Rule, String);
    let fields: [(&str, usize, Set); 5] = [
        ("identifier", 1 << 10, |rule, text| rule.identifier = text),
        ("cel_expr", 64 << 10, |rule, text| rule.cel_expr = text),
        ("custom_msg", 16 << 10, |rule, text| rule.custom_msg = text),
        ("custom_url", 16 << 10, |rule, text| rule.custom_url = text),
        ("notification_app_name", 16 << 10, |rule, text| rule.notification_app_name = text),
    ];
    for (name, limit, set) in fields {
        for (over, taken) in [(0, 1), (1, 0)] {
            let mut rule = rule();
            let start = match name {
                "identifier" => "AAAAAAAAAA:",
                "cel_expr" => "//",
                _ => "",
            };
            let end = if name == "cel_expr" { "\n1" } else { "" };
            let filling = "x".repeat(limit + over - start.len() - end.len());
            set(&mut rule, format!("{start}{filling}{end}"));
            let sent = wire::RuleDownloadResponse { rules: vec![rule], cursor: String::new() };
            let bodies = [
                (Transfer::Json, serde_json::to_vec(&sent).expect("JSON")),
                (Transfer::Protobuf, sent.encode_to_vec()),
            ];
            for (transfer, body) in bodies {
                let page = page_of(transfer, &body).expect("a page");
                assert_eq!(
                    page.rules.len(),
                    taken,
                    "{name} {over} {transfer:?}: {:?}",
                    page.rejected
                );
                for rejected in &page.rejected {
                    assert_eq!(rejected.reason, format!("its {name} is longer than {limit} bytes"));
                }
            }
        }
    }
    let body = format!(
        r#"{{"rules":[{{"identifier":"AAAAAAAAAA","policy":"REMOVE","rule_type":"TEAMID","x":"{}"}}]}}"#,
        "y".repeat(MAX_RULE_BYTES)
    );
    let page = page_of(Transfer::Json, body.as_bytes()).expect("a page");
    assert_eq!(page.rejected[0].identifier, "AAAAAAAAAA");
    assert_eq!(page.rejected[0].reason, "it is longer than 262144 bytes");
    let unknown = [&[0xf2, 0x07, 0x81, 0x80, 0x10][..], &vec![0; (256 << 10) + 1]].concat();
    let mut body = vec![10];
    prost::encoding::encode_varint(unknown.len() as u64, &mut body);
    let page = page_of(Transfer::Protobuf, &[body, unknown].concat()).expect("a page");
    assert_eq!(page.rejected[0].reason, "it is longer than 262144 bytes");
}

/// JSON-3: what must not pass for a page of rules, and what is an empty one.
#[test]
fn json_3_only_protobuf_passes_for_a_page() {
    let under = |body: &'static [u8], content_type| {
        read(ResponseBody::new(Transfer::Protobuf, body).under(content_type))
            .map(|read| read.message)
    };
    for text in
        [&b"Error"[..], b"Internal Server Error", b"ok", b"{}", b"<html>", b"\x0a", b"\x08\x01"]
    {
        for content_type in [None, Some("application/x-protobuf")] {
            let read = under(text, content_type);
            assert!(matches!(read, Err(BodyError::NotProtobuf { .. })), "{text:?}: {read:?}");
        }
    }
    let page = b"\x12\x01x";
    for (content_type, taken) in [
        (None, true),
        (Some("application/json"), true),
        (Some("application/x-protobuf"), true),
        (Some("text/plain; charset=utf-8"), false),
        (Some(" Text/HTML"), false),
    ] {
        assert_eq!(under(page, content_type).is_ok(), taken, "{content_type:?}");
    }
    for (content_type, without_body) in [
        (None, true),
        (Some("text/plain"), true),
        (Some("application/json"), true),
        (Some("application/octet-stream"), true),
        (Some("application/x-protobuf"), false),
        (Some("Application/Protobuf; messageType=x"), false),
    ] {
        let page = under(b"", content_type).expect("an empty page");
        assert_eq!(page.without_body, without_body, "{content_type:?}");
    }
}

/// JSON-3: one rule of another wire type, or not UTF-8, is rejected alone.
#[test]
fn json_3_a_binary_rule_that_cannot_be_read_is_rejected_alone() {
    use prost::Message as _;
    let good = wire::Rule {
        identifier: "AAAAAAAAAA".into(),
        policy: wire::Policy::Blocklist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        ..Default::default()
    };
    let bytes = good.encode_to_vec();
    let rules: [Vec<u8>; 5] = [
        bytes.clone(),
        // custom_msg as a number.
        [&bytes[..], &[0x20, 0x01]].concat(),
        // custom_msg that is not UTF-8.
        [&bytes[..], &[0x22, 0x01, 0xff]].concat(),
        // An unknown policy, and a bundle count out of range.
        [&bytes[..], &[0x10, 0x63]].concat(),
        [&bytes[..], &[0x38, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat(),
    ];
    let mut body = Vec::new();
    for rule in rules {
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut body);
        prost::encoding::encode_varint(rule.len() as u64, &mut body);
        body.extend(rule);
    }
    let DecodedBody { message: page, warnings } =
        read(ResponseBody::new(Transfer::Protobuf, body)).expect("a page");
    assert_eq!(page.rules.len(), 2);
    assert_eq!(
        reasons(&page),
        [
            (1, "not of a rule's shape: custom_msg is of wire type Varint"),
            (2, "its custom_msg is not UTF-8"),
            (3, "the policy is missing or unknown (policy \"99\")"),
        ]
    );
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].field, "rules[4].file_bundle_binary_count");
}

/// SYNC-6: whoever waits for a page can end its reading within a few rules.
#[test]
fn sync_6_the_reading_of_a_page_ends_when_told_to() {
    use std::cell::Cell;
    let rule = r#"{"identifier":"ABCDE12345","policy":"ALLOWLIST","rule_type":"TEAMID"}"#;
    let json = format!(r#"{{"rules":[{}]}}"#, vec![rule; 10_000].join(",")).into_bytes();
    let wire = wire::RuleDownloadResponse {
        rules: vec![
            wire::Rule {
                identifier: "ABCDE12345".into(),
                policy: wire::Policy::Allowlist.into(),
                rule_type: wire::RuleType::Teamid.into(),
                ..Default::default()
            };
            10_000
        ],
        ..Default::default()
    };
    let nulls = format!(r#"{{"rules":[{}]}}"#, vec!["null"; 10_000].join(",")).into_bytes();
    for (transfer, body, rules) in [
        (Transfer::Json, json, 10_000),
        (Transfer::Json, nulls, 0),
        (Transfer::Protobuf, prost::Message::encode_to_vec(&wire), 10_000),
    ] {
        let asked = Cell::new(0_u64);
        let third = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let received = ResponseBody::new(transfer, body.clone());
        let read = read_page(received, 1, &mut CelBudget::default(), &third);
        assert_eq!(read.map(|page| page.message.rules.len()), Err(BodyError::GivenUp));
        assert_eq!(asked.get(), 3);
        let received = ResponseBody::new(transfer, body);
        let read = read_page(received, 1, &mut CelBudget::default(), &|| false).expect("a page");
        assert_eq!(read.message.rules.len(), rules);
    }
}
