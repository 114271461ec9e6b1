use std::path::Path;

use super::*;

/// The message about a scenario of this text.
fn wrong(text: &str) -> String {
    Scenario::parse(text, Path::new("s.toml")).unwrap_err().to_string()
}

#[test]
fn a_mistake_is_answered_with_file_line_and_what_is_allowed() {
    let message = wrong("[rules]\ngenerat = 3\n");
    assert!(message.starts_with("s.toml: TOML parse error at line 2"), "{message}");
    assert!(message.contains("expected one of `list`, `file`, `generate`"), "{message}");
    for (text, line, words) in [
        ("\npreset = \"mozor\"", 2, "give one of plain, moroz"),
        ("[rules]\ngenerate = 99999999999", 2, "at most 5000000 rules"),
        ("misbehave = [\"CLEAN-99\"]", 1, "neither a requirement, as CLEAN-04"),
        ("[settings]\n\nclient_mod = \"LOCKDOWN\"", 1, "is not a setting; give one of client_mode"),
        ("[settings]\nclient_mode = \"LOCKED\"", 1, "client_mode is one of UNKNOWN_CLIENT_MODE"),
        ("[settings]\nbatch_size = \"many\"", 1, "batch_size cannot be \"many\""),
        ("[style]\ncursor = \"cursed\"", 2, "give one of opaque, fresh"),
        ("[[fault]]\nat = \"rules\"\nfault = \"stall\"", 2, "give one of preflight, event_upload"),
        ("[[fault]]\nat = \"xsrf\"\nfault = \"stal\"", 3, "is not a fault; give one of status"),
        ("[[fault]]\nat = \"xsrf\"\nfault = \"stall\"\nprobability = 2", 4, "from 0 to 1"),
        ("[[fault]]\nat = \"xsrf\"\nfault = \"stall\"\noccurrence = 0", 4, "N- (from it on)"),
        (
            "[rules]\nlist = [{ identifier = \"A\", policy = \"ALLOW\", rule_type = \"TEAMID\" }]",
            2,
            "give one of ALLOWLIST, WHITELIST",
        ),
    ] {
        let message = wrong(text);
        assert!(message.contains(&format!("at line {line}")), "{text}: {message}");
        assert!(message.contains(words), "{text}: {message}");
    }
    let after = wrong("[[expect]]\nname = \"b\"\nafter = \"a\"");
    assert_eq!(after, r#"s.toml: expectation "b" comes after "a", which does not exist"#);
}

#[test]
fn only_a_regular_file_is_a_scenario() {
    for path in ["/dev/zero", "/"] {
        let message = Scenario::load(Path::new(path)).unwrap_err().to_string();
        assert!(message.contains("not a file"), "{message}");
    }
}

#[test]
fn a_scenario_may_be_empty() {
    assert!(Scenario::parse("", Path::new("s.toml")).is_ok());
}

#[test]
fn rules_of_a_file_stand_before_generated_ones() {
    let dir = tempfile::tempdir().unwrap();
    let rule = r#"{"identifier": "ABCDE12345", "policy": "BLOCKLIST", "rule_type": "TEAMID", "comment": "c"}"#;
    std::fs::write(dir.path().join("r.json"), format!(r#"{{"rules": [{rule}]}}"#)).unwrap();
    let file = dir.path().join("s.toml");
    std::fs::write(&file, "[rules]\nfile = \"r.json\"\ngenerate = 2\n").unwrap();
    let scenario = Scenario::load(&file).unwrap();
    let server = crate::harness::FakeServer::builder().scenario(scenario).start().unwrap();
    let rules = server.rules();
    assert_eq!((rules.len(), rules[0].identifier.as_str()), (3, "ABCDE12345"));

    std::fs::write(dir.path().join("r.json"), r#"{"rules": [{"identifier": "A"}]}"#).unwrap();
    let message = Scenario::load(&file).unwrap_err().to_string();
    assert!(message.contains("r.json: missing field `policy`"), "{message}");
}

/// Every key is in the documentation, and in code marks.
#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../../docs/harness.md");
    let fault = "[[fault]]\nat = \"xsrf\"\nfault = \"stall\"\n";
    for start in [
        "",
        "[rules]\n",
        "[style]\n",
        "[style.header]\n",
        "[[machines]]\nname = \"m\"\nmatch = []\n",
        fault,
        "[[change]]\nafter_syncs = 1\n",
        "[change.do]\n",
        "[[expect]]\nname = \"e\"\n",
    ] {
        let text = match start {
            "[change.do]\n" => {
                "[[change]]\nafter_syncs = 1\n[change.do]\nno_such_key = 1".to_owned()
            }
            start => format!("{start}no_such_key = 1"),
        };
        let message = wrong(&text);
        let (_, allowed) = message.split_once("expected ").unwrap();
        let keys: Vec<_> = allowed.split('`').skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{message}");
        for key in keys {
            let forms = [format!("`{key}`"), format!("`[[{key}]]`")];
            assert!(forms.iter().any(|form| docs.contains(form.as_str())), "{key}");
        }
    }
}
