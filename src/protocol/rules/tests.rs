use super::*;

const SHA: &str = "EE382E19b1cdd9ef5b1bd2d6a3f2b1a2c4c2a8a0a1a2a3a4a5a6a7a8a9b00eab";

fn page(body: &str) -> Page {
    read_page(Transfer::Json, body.as_bytes(), 1).expect(body)
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
    let named: Vec<_> = page.rules.iter().map(|r| (r.identifier.to_string(), r.policy)).collect();
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
    assert_eq!(page.rules[1].details.as_ref().map(|d| d.custom_msg.as_str()), Some("Hi There"));
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
            (2, "the policy is missing or unknown"),
            (3, "the rule type is missing or unknown"),
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
          {"identifier":"BROKEN","policy":{"x":1},"rule_type":"TEAMID"},
          "nonsense", null,
          {"identifier":"BBBBBBBBBB","policy":"ALLOWLIST","rule_type":"TEAMID","unknown":[{}]}
        ]}"#,
    );
    assert_eq!(page.rules.len(), 2);
    let rejected: Vec<_> = page.rejected.iter().map(|r| (r.index, r.identifier.as_str())).collect();
    assert_eq!(rejected, [(1, "BROKEN"), (2, "")]);
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
    let error = read_page(Transfer::Json, br#"{"error":"no such host"}"#, 1);
    assert!(matches!(&error, Err(BodyError::WrongShape { .. })), "{error:?}");
    for wrong in
        [r#"{"rules":{}}"#, "[]", "[null]", "[[]]", "null", "7", r#"[[{"identifier":"x"}]]"#]
    {
        let read = read_page(Transfer::Json, wrong.as_bytes(), 1);
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
    let page = read_page(Transfer::Json, body.as_bytes(), 1).expect("a page");
    assert_eq!((page.rejected.len(), page.rejected_unlisted), (100, count as u64 - 100));
    let binary = [10_u8, 0].repeat(count);
    let page = read_page(Transfer::Protobuf, &binary, 1).expect("a page");
    assert_eq!((page.rejected.len(), page.rejected_unlisted), (100, count as u64 - 100));

    let rule = wire::Rule {
        identifier: "AAAAAAAAAA".into(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        custom_msg: "x".repeat(1 << 20),
        ..Default::default()
    };
    assert_eq!(check(rule.clone()), Err(RuleError::TooLong));
    let sent = wire::RuleDownloadResponse { rules: vec![rule], cursor: "next".into() };
    let page = read_page(Transfer::Protobuf, &sent.encode_to_vec(), 1).expect("a page");
    assert_eq!((page.rules.len(), page.rejected.len()), (0, 1));
    assert_eq!(page.cursor.as_ref().map(Cursor::as_str), Some("next"));
    let cut = &sent.encode_to_vec()[..100];
    assert!(matches!(read_page(Transfer::Protobuf, cut, 1), Err(BodyError::NotProtobuf { .. })));

    let long =
        format!(r#"{{"rules":[{{"identifier":"A","policy":["{}"]}}]}}"#, "\u{7}x".repeat(9999));
    let page =
        read_page(Transfer::Json, long.replace('\u{7}', "\\u0007").as_bytes(), 1).expect("a page");
    assert!(page.rejected[0].reason.len() < 1000, "{}", page.rejected[0].reason);
}

/// RULE-4: the label is cut by characters, not bytes.
#[test]
fn rule_4_a_button_label_is_cut_to_48_characters() {
    let label = "ä".repeat(60);
    let rule = wire::Rule {
        identifier: "AAAAAAAAAA".into(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        event_detail_button_label: label,
        ..Default::default()
    };
    let details = check(rule).expect("a rule").details.expect("a label");
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
        let raw: Box<RawValue> = serde_json::from_str(&format!("{{{fields}}}")).expect("JSON");
        short += usize::from(plain(&raw).is_some());
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
