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
        ("[settings]\n\nclient_mod = \"LOCKDOWN\"", 3, "is not a setting; give one of client_mode"),
        ("[settings]\nclient_mode = \"LOCKED\"", 2, "client_mode is one of UNKNOWN_CLIENT_MODE"),
        ("[settings]\nbatch_size = \"many\"", 2, "batch_size cannot be \"many\""),
        ("[style]\ncursor = \"cursed\"", 2, "give one of opaque, fresh"),
        ("[style]\nlost_session_status = 42", 2, "give 400 to 599"),
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
}

#[test]
fn a_setting_that_is_wrong_is_reported_in_its_line_wherever_it_stands() {
    let group =
        "[[machines]]\nname = \"m\"\nmatch = [\"*\"]\n[machines.settings]\nbatch_size = 5\n";
    for (start, line) in [
        ("[settings]\nbatch_size = 5\n", 3),
        (group, 6),
        ("[[change]]\nafter_syncs = 1\n[change.do.settings]\n", 4),
    ] {
        for mistake in ["client_mode = \"LOCKED\"", "client_mod = \"LOCKDOWN\""] {
            let message = wrong(&format!("{start}{mistake}\n"));
            assert!(message.contains(&format!("at line {line}")), "{message}");
        }
    }
}

#[test]
fn what_no_agent_can_meet_is_refused_with_its_line() {
    let expect = |name: &str, rest: &str| format!("[[expect]]\nname = \"{name}\"\n{rest}\n");
    let a = |rest: &str| expect("a", rest);
    let b = |rest: &str| expect("b", rest);
    for (text, words) in [
        (b("after = \"a\""), r#"line 3: expectation "b" comes after "a", which does not exist"#),
        (a("after = \"a\""), r#"line 3: expectation "a" would come after itself: a -> a"#),
        (
            a("after = \"b\"") + &b("after = \"a\""),
            r#"line 3: expectation "a" would come after itself: a -> b -> a"#,
        ),
        (
            a("after = \"b\"") + &b("after = \"b\""),
            r#"line 6: expectation "b" would come after itself: b -> b"#,
        ),
        (
            a("min = 2\nmax = 1"),
            r#"line 4: expectation "a" cannot be met: at least 2 and at most 1"#,
        ),
        (a("") + &a(""), r#"line 5: there are two expectations with the name "a""#),
        (
            a("max = 0") + &b("after = \"a\""),
            r#"line 6: expectation "b" comes after "a", which is met while nothing comes (max = 0)"#,
        ),
        (
            "[[change]]\nafter_syncs = 1\n[change.do]\ngroup = \"lab\"\n".to_owned(),
            r#"line 3: there is no group "lab" of machines"#,
        ),
    ] {
        assert_eq!(wrong(&text), format!("s.toml: {words}"), "{text}");
    }
    let fine = a("min = 1\nmax = 1") + &b("max = 0\nafter = \"a\"");
    assert!(Scenario::parse(&fine, Path::new("s.toml")).is_ok());
}

#[test]
fn only_a_regular_file_is_a_scenario() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path(), "s.toml");
    for path in [Path::new("/dev/zero"), Path::new("/"), &fifo] {
        let message = Scenario::load(path).unwrap_err().to_string();
        assert!(message.contains("not a file"), "{message}");
    }
    fifo_of_rules(dir.path());
}

/// A FIFO that nobody writes to, so that whoever waits for it waits for ever.
fn fifo(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

fn fifo_of_rules(dir: &Path) {
    let rules = fifo(dir, "r.json");
    let file = dir.join("names-it.toml");
    std::fs::write(&file, "[rules]\nfile = \"r.json\"\n").unwrap();
    let message = Scenario::load(&file).unwrap_err().to_string();
    assert!(message.contains(rules.to_str().unwrap()) && message.contains("a FIFO"), "{message}");
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
