//! Scenarios: every sample of `fixtures/scenarios` with an agent, and what the
//! program says of expectations that are not met.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use santa_sync::harness::{FakeServer, Outcome, Scenario, fixtures};
use santa_sync::model::Stage;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness_serve::{Serve, post, refused};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios").join(name)
}

fn server_of(name: &str) -> FakeServer {
    let scenario = Scenario::load(&sample(name)).unwrap();
    FakeServer::builder().scenario(scenario).start().unwrap()
}

/// The expectations that are not met.
fn unmet(server: &FakeServer) -> Vec<Outcome> {
    let outcomes = server.outcomes();
    assert!(!outcomes.is_empty());
    outcomes.into_iter().filter(|outcome| !outcome.met).collect()
}

#[test]
fn a_first_sync_meets_what_is_expected_of_it() {
    let server = server_of("first-sync.toml");
    assert_eq!(unmet(&server).len(), 3, "nothing has come");
    assert_eq!(Agent::of(&server).sync(&[]).code, Some(0));
    assert_eq!(unmet(&server), []);
    Agent::of(&server).sync(&[]);
    let more: Vec<_> = unmet(&server).into_iter().map(|outcome| outcome.reason).collect();
    assert_eq!(
        more,
        ["at most 3 requests expected, 6 seen", "at most 0 requests expected, 5 seen"],
        "a second host comes after the first one's postflight"
    );
}

#[test]
fn hosts_of_a_group_get_rules_and_settings_of_their_own() {
    let server = server_of("groups.toml");
    let mut laboratory = Agent::of(&server);
    "lab-7".clone_into(&mut laboratory.machine_id);
    assert_eq!(laboratory.sync(&[]).code, Some(0));
    let office = Agent::of(&server);
    assert_eq!(office.sync(&[]).code, Some(0));
    assert_eq!((laboratory.rules(), office.rules()), (2, 20));
    let mode = |agent: &Agent| {
        let status = agent.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        status.to_string()
    };
    assert!(mode(&laboratory).contains("LOCKDOWN") && !mode(&office).contains("LOCKDOWN"));
    assert_eq!(unmet(&server), []);
}

#[test]
fn changes_happen_after_the_syncs_they_are_for() {
    let server = server_of("live-changes.toml");
    let agent = Agent::of(&server);
    for rules in [30, 31, 0] {
        assert_eq!(agent.sync(&[]).code, Some(0));
        assert_eq!(agent.rules(), rules);
    }
    assert_eq!(unmet(&server), []);
}

#[test]
fn faults_strike_by_occurrence_and_by_chance() {
    let server = server_of("bad-day.toml");
    assert_eq!(Agent::of(&server).sync(&[]).code, Some(0));
    assert_eq!(unmet(&server), []);
    let notes = |server: &FakeServer| -> Vec<String> {
        for _ in 0..40 {
            post(&server.url(), "postflight/A", &json!({}));
        }
        server.requests(Stage::Postflight).into_iter().map(|one| one.note).collect()
    };
    let first = notes(&server);
    let late = first.iter().filter(|note| *note == "delay").count();
    assert!((10..=31).contains(&late), "{late} of 41 are late");
    let again = server_of("bad-day.toml");
    assert_eq!(Agent::of(&again).sync(&[]).code, Some(0));
    assert_eq!(notes(&again), first, "the same seed, the same faults");
}

#[test]
fn events_and_bundles_are_expected() {
    let server = server_of("events.toml");
    let agent = Agent::of(&server);
    agent.queue(
        fixtures::events(30, 3)
            .filter_map(|event| {
                let mut event = event.to_json();
                event["file_path"] = json!("/opt/tool/bin");
                event.get("file_sha256").is_some().then_some(event)
            })
            .take(3),
    );
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(unmet(&server), []);
    let hash = "7466e3687f540bcb7792c6d14d5a186667dbe18a85021857b42effe9f0370805";
    let requested = agent.run(&["events", "bundles", "--json"]);
    assert!(String::from_utf8_lossy(&requested.stdout).contains(hash));
}

#[test]
fn a_scenario_may_name_a_preset_and_break_requirements() {
    let server = server_of("broken-server.toml");
    let mut agent = Agent::of(&server);
    "50C7E1EB-2EF5-42D4-A084-A7966FC45A95".clone_into(&mut agent.machine_id);
    for _ in 0..2 {
        let synced = agent.sync(&[]);
        assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    }
    assert_eq!(unmet(&server), []);
}

/// The sections of the samples' README: the name of each, and its script.
fn sections(readme: &str) -> Vec<(&str, &str)> {
    let sections = readme.split("\n## ").skip(1).map(|section| {
        let (name, rest) = section.split_once('\n').unwrap();
        let (_, rest) = rest.split_once("```sh\n").expect(name);
        (name, rest.split_once("```").expect(name).0)
    });
    sections.collect()
}

/// Each sample with the commands that its README shows, as they stand there.
#[test]
fn what_the_readme_shows_passes_every_sample() {
    let readme = fs::read_to_string(sample("README.md")).unwrap();
    let sections = sections(&readme);
    let mut files: Vec<_> = fs::read_dir(sample(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    files.sort();
    let mut named: Vec<_> = sections.iter().map(|(name, _)| (*name).to_owned()).collect();
    named.sort();
    assert_eq!(named, files, "each sample has a section");
    // The program with nothing of this machine, under its own name.
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("santa-sync");
    let target = env!("CARGO_BIN_EXE_santa-sync");
    let text = format!("#!/bin/sh\nexec {target:?} --system-root /nowhere \"$@\"\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let path = path.as_str();
    // Most of the time passes in waits of bad-day.toml.
    std::thread::scope(|scope| {
        for (name, script) in sections {
            scope.spawn(move || {
                let dir = tempfile::tempdir().unwrap();
                let mut serve = Serve::start(&["--scenario", sample(name).to_str().unwrap()]);
                let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
                let output = std::process::Command::new("/bin/sh")
                    .args(["-e", "-c", script])
                    .current_dir(dir.path())
                    .env_clear()
                    .env("PATH", path)
                    .env("URL", &url)
                    .output()
                    .unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{name}: {stderr}");
                let (printed, code) = serve.ended();
                assert!(!printed.contains("NOT MET") && printed.contains("met     "), "{printed}");
                assert_eq!(code, Some(0), "{name}: {printed}");
            });
        }
    });
}

/// EXIT: expectations decide how the program ends.
#[test]
fn expectations_that_are_not_met_are_listed_and_make_the_exit_code() {
    let path = sample("first-sync.toml");
    let path = path.to_str().unwrap();
    let mut serve = Serve::start(&["--scenario", path]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    post(&url, "preflight/A", &json!({"request_clean_sync": true, "machine_id": "A"}));
    let (printed, code) = serve.ended();
    assert_eq!(code, Some(1));
    assert!(printed.contains("met     the new host wishes a clean sync\n"), "{printed}");
    let missing = "NOT MET three pages are requested: at least 3 requests expected, 0 seen\n";
    assert!(printed.contains(missing), "{printed}");

    let mut serve = Serve::start(&["--json", "--scenario", path]);
    let url = serve.json()["url"].as_str().unwrap().to_owned();
    let agent = Agent::at(&url);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let (printed, code) = serve.ended();
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(code, Some(0), "{last}");
    assert_eq!(
        last["expectations"][1],
        json!({"name": "three pages are requested", "met": true, "seen": 3, "min": 3, "max": 3,
            "reason": ""})
    );
}

#[test]
fn a_hangup_reads_the_scenario_again_and_keeps_what_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    let team = |name: &str| {
        format!("{{ identifier = \"{name}\", policy = \"ALLOWLIST\", rule_type = \"TEAMID\" }}")
    };
    let write = |rules: &str, mode: &str| {
        let text = format!(
            "[rules]\nlist = [{rules}]\n[settings]\nclient_mode = \"{mode}\"\n\
             [[expect]]\nname = \"a preflight\"\nstage = \"preflight\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(&team("AAAAAAAAAA"), "MONITOR");
    let mut serve = Serve::start(&["--scenario", file.to_str().unwrap()]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    let agent = Agent::at(&url);
    assert_eq!(agent.sync(&[]).json["rules_received"], 1);

    write(&[team("AAAAAAAAAA"), team("BBBBBBBBBB")].join(", "), "LOCKDOWN");
    serve.signal(Signal::HUP);
    // The signal is heard some time after it is sent.
    let mode = || post(&url, "preflight/test-host", &json!({"teamid_rule_count": 1}));
    let told = std::iter::repeat_with(mode).find(|told| told["clientMode"] == "LOCKDOWN");
    assert_eq!(told.unwrap()["syncType"], "NORMAL");
    assert_eq!(agent.sync(&[]).json["rules_received"], 1, "the new rule alone");
    assert_eq!(agent.rules(), 2);
    assert_eq!(serve.ended().1, Some(0));
}

#[test]
fn a_wrong_scenario_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    fs::write(&file, "[rules]\nnumber = 3\n").unwrap();
    let out = refused(&["--scenario", file.to_str().unwrap()]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("line 2") && err.contains("unknown field `number`"), "{err}");
    let out = refused(&["--scenario", "/nonexistent.toml"]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("name a file that this user may read"), "{err}");
}
