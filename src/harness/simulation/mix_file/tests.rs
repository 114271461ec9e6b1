use std::time::Duration;

use super::*;

fn parsed(text: &str, hosts: Option<u32>) -> Result<HostMix, String> {
    HostMix::parse(text, Path::new("m.toml"), hosts).map_err(|error| error.to_string())
}

fn wrong(text: &str, hosts: Option<u32>) -> String {
    parsed(text, hosts).expect_err("refused")
}

const SAMPLE: &str = include_str!("../../../../fixtures/simulation/mixed-fleet.toml");

#[test]
fn counts_are_exact_and_shares_divide_the_rest() {
    let mix = |hosts| {
        let mix = parsed(
            "[[group]]\nname = \"a\"\ncount = 10\n[[group]]\nname = \"b\"\nshare = 2\n\
             [[group]]\nname = \"c\"\nshare = 1\n",
            Some(hosts),
        );
        mix.expect("a mix").groups.iter().map(|group| group.hosts).collect::<Vec<_>>()
    };
    assert_eq!(mix(100), [10, 60, 30]);
    assert_eq!(mix(111), [10, 67, 34]);
    assert_eq!(mix(11), [10, 0, 1]);
    let counted =
        parsed("[[group]]\nname = \"a\"\ncount = 10\n[[group]]\nname = \"b\"\ncount = 3\n", None);
    assert_eq!(counted.expect("a mix").hosts, 13);
}

#[test]
fn every_key_means_what_it_says() {
    let group = parsed(
        "description = \"d\"\n[[group]]\nname = \"a\"\ncount = 1\nsanta_version = \"2026.8=3,2025.7=1\"\n\
         os_version = \"99.1\"\nos_build = \"99A1\"\nmodel = [\"Mac1,1\", \"Mac2,1\"]\nencoding = \"gzip\"\n\
         transfer = \"protobuf\"\ninterval = \"2m\"\nevents_per_hour = 7\nevent_bytes = \"0=9,4000=1\"\n\
         denied = \"30%\"\nprompt_uploads = 0\nbundle_binaries = 12\n",
        None,
    );
    let group = group.expect("a mix").groups.remove(0);
    let expected = HostGroup {
        versions: Some("2026.8=3,2025.7=1".parse().expect("a mix")),
        systems: Some(Mix::only("99.1/99A1".to_owned())),
        models: Some(Mix::evenly(vec!["Mac1,1".to_owned(), "Mac2,1".to_owned()])),
        encodings: Some(Mix::only("gzip".to_owned())),
        transfers: Some(Mix::only("protobuf".to_owned())),
        interval_secs: Some(120),
        events_per_hour: Some(Mix::only(7)),
        event_bytes: Some("0=9,4000=1".parse().expect("a mix")),
        denied_percent: Some(30),
        prompt_percent: Some(0),
        bundle_binaries: Some(Mix::only(12)),
        ..HostGroup::new("a".to_owned(), 1)
    };
    assert_eq!(group, expected);
}

#[test]
fn a_mistake_is_answered_with_file_line_and_what_is_allowed() {
    let many = |groups: usize| -> String {
        let groups: Vec<_> =
            (0..groups).map(|n| format!("{{ name = \"{n}\", count = 1 }}")).collect();
        format!("group = [\n{}\n]", groups.join(",\n"))
    };
    assert!(parsed(&many(MAX_GROUPS), None).is_ok());
    let group = |rest: &str| format!("[[group]]\nname = \"a\"\ncount = 5\n{rest}\n");
    for (text, line, words) in [
        (group("sanata_version = \"1\""), 4, "unknown field `sanata_version`, expected one of"),
        (group("encoding = \"br\""), 4, "\"br\" is not one of deflate, gzip, none"),
        (group("transfer = \"json=1,xml=1\""), 4, "\"xml\" is not one of json, protobuf"),
        (group("interval = \"59s\""), 4, "is not an interval from \"60s\" to \"7d\""),
        (group("model = 5"), 4, "a model, or a list of models"),
        (group("denied = \"101%\""), 4, "write a share from \"0%\" to \"100%\""),
        (group("events_per_hour = \"many\""), 4, "is not VALUE=WEIGHT"),
        (group("events_per_hour = true"), 4, "a value, or several as"),
        (group("bundle_binaries = 10001"), 4, "a bundle has up to 10000"),
        (group("os_version = \"99.1\""), 4, "the build of 99.1 is not known; add os_build"),
        (group("os_build = \"99A1\""), 4, "a build needs its os_version"),
        (
            group("os_version = \"1.0=1,2.0=1\"\nos_build = \"A\""),
            5,
            "a build belongs to one os_version",
        ),
        (group("share = 3"), 4, "give a count or a share, not both"),
        (group("") + "[[group]]\nname = \"b\"\n", 6, "give the group a count or a share"),
        (group("") + &group(""), 6, "there are two groups with the name \"a\""),
        (group("") + "[[group]]\nname = \"b\"\nshare = 0\n", 7, "a weight from 1 to 1000000"),
        ("[[group]]\nname = \"\"\ncount = 1\n".to_owned(), 2, "must have 1 to 64 characters"),
        ("[[group]]\nname = \"a\\nb\"\ncount = 1\n".to_owned(), 2, "no control characters"),
        (many(MAX_GROUPS + 1), MAX_GROUPS + 2, "there are 101 groups; the maximum is 100"),
        ("description = \"nothing\"".to_owned(), 1, "there is no [[group]] of hosts"),
        ("[[groups]]\nname = \"a\"".to_owned(), 1, "unknown field `groups`"),
    ] {
        let message = wrong(&text, None);
        assert!(message.starts_with("m.toml: "), "{message}");
        assert!(message.contains(&format!("line {line}")), "{text}: {message}");
        assert!(message.contains(words), "{text}: {message}");
    }
    let shared = group("") + "[[group]]\nname = \"b\"\nshare = 1\n";
    for (text, hosts, words) in [
        (&group(""), Some(4), "line 3: the groups so far have 5 hosts, more than 4"),
        (&group(""), Some(6), "line 2: the groups have only 5 of 6 hosts; give one a share"),
        (&shared, None, "line 7: a share needs the number of all hosts: give --hosts"),
        (&shared, Some(5), "line 7: the groups with a count have all 5 hosts already"),
    ] {
        assert_eq!(
            wrong(text, hosts).split_once(words).map(|(before, _)| before),
            Some("m.toml: "),
            "{}",
            wrong(text, hosts)
        );
    }
}

/// Every key is in the documentation, in code marks, and in the sample.
#[test]
fn every_key_is_documented_and_shown() {
    let docs = include_str!("../../../../docs/harness.md");
    for start in ["", "[[group]]\nname = \"a\"\n"] {
        let message = wrong(&format!("{start}no_such_key = 1"), None);
        let (_, allowed) = message.split_once("expected ").expect("a list");
        let keys: Vec<_> = allowed.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() > 1, "{message}");
        for key in keys {
            let forms = [format!("`{key}`"), format!("`[[{key}]]`")];
            assert!(forms.iter().any(|form| docs.contains(form.as_str())), "{key}");
            assert!(SAMPLE.contains(key), "{key}");
        }
    }
}

#[test]
fn the_sample_is_a_mix() {
    let mix = parsed(SAMPLE, Some(1000)).expect("a mix");
    assert_eq!(mix.groups.iter().map(|group| group.hosts).sum::<u32>(), 1000);
    let mut plan = SimulationPlan::new(String::new());
    (plan.hosts, plan.groups) = (mix.hosts, mix.groups);
    plan.lasting = Duration::from_mins(5);
    assert_eq!(plan.check(), Ok(()));
}

#[test]
fn only_a_regular_file_is_a_mix() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("m.toml");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it ran").success());
    for path in [&fifo, Path::new("/nonexistent.toml")] {
        let error = HostMix::load(path, None).expect_err("refused");
        assert!(matches!(error, TomlFileError::Read { .. }), "{error}");
    }
}
