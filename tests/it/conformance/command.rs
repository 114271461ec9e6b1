//! `harness conformance` as a command.

use std::fs;
use std::process::Output;

use santa_sync::harness::{FakeServer, Misbehaviour, fixtures};
use serde_json::Value;

use crate::program::program;

pub(super) fn server() -> santa_sync::harness::Builder {
    FakeServer::builder().rules(fixtures::rules(5, 1)).page_size(2)
}

pub(super) fn run(url: &str, args: &[&str]) -> Output {
    program().args(["harness", "conformance", url, "--no-slow"]).args(args).output().unwrap()
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_server_that_meets_everything_ends_with_0_and_the_leftovers() {
    let server = server().start().unwrap();
    let output = run(&server.url(), &[]);
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", stderr(&output));
    let first = shown.lines().next().unwrap();
    assert!(first.starts_with(&server.url()) && first.ends_with(" pass"), "{first}");
    assert!(!first.contains("fail"), "{first}");
    assert!(shown.contains("Left on the server:"), "{shown}");
    assert!(stderr(&output).starts_with("note: checks 88 requirements"), "{}", stderr(&output));
}

#[test]
fn a_requirement_that_is_not_met_ends_with_1_and_is_explained() {
    let server = server().misbehave(Misbehaviour::Pre09Standalone).start().unwrap();
    let output = run(&server.url(), &["--only", "PRE"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    for part in [
        "fail           PRE-09  all three client modes are accepted",
        "    preflight with client_mode STANDALONE: 500",
        "    matters because: hosts in the mode that is refused cannot sync",
        "-> 500 in ",
        "\"client_mode\":\"STANDALONE\"",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn a_warning_ends_with_0_unless_strict() {
    let server = server().misbehave(Misbehaviour::Enc03NoGzip).start().unwrap();
    for (args, code) in [(&["--only", "ENC-03"][..], 0), (&["--only", "ENC-03", "--strict"], 1)] {
        assert_eq!(run(&server.url(), args).status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn known_deviations_are_pinned_and_what_is_new_or_gone_fails() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known.txt");
    let known = file.to_str().unwrap();
    let server = server().misbehave(Misbehaviour::Enc03NoGzip).start().unwrap();
    let url = server.url();
    let written = run(&url, &["--only", "ENC", "--write-expect", known]);
    assert_eq!(written.status.code(), Some(0));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with("\nENC-03 warning\n"), "{text}");

    let as_known = run(&url, &["--only", "ENC", "--expect", known]);
    assert_eq!(as_known.status.code(), Some(0));
    assert!(stdout(&as_known).ends_with("As expected.\n"));

    server.behave();
    let gone = run(&url, &["--only", "ENC", "--expect", known, "--json"]);
    assert_eq!(gone.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&gone.stdout).unwrap();
    assert_eq!(report["deviations"]["gone"][0]["id"], "ENC-03");
    assert_eq!(report["deviations"]["new"], serde_json::json!([]));
}

#[test]
fn the_json_report_and_the_transcript_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.jsonl");
    let server = server().misbehave(Misbehaviour::Page06Error).start().unwrap();
    let args = ["--only", "PAGE-06", "--json", "--transcript", file.to_str().unwrap()];
    let report: Value = serde_json::from_slice(&run(&server.url(), &args).stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    let result = &report["results"][0];
    assert_eq!((&result["id"], &result["verdict"]), (&"PAGE-06".into(), &"warning".into()));
    let number = &result["evidence"][0]["exchange"];
    let text = fs::read_to_string(&file).unwrap();
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(report["requests"], entries.len());
    let entry = entries.iter().find(|entry| entry["exchange"] == *number).unwrap();
    assert_eq!((&entry["requirement"], &entry["status"]), (&"PAGE-06".into(), &500.into()));
    let sent = entry["request_body"]["text"].as_str().unwrap();
    assert!(sent.contains("probe-no-such-cursor"), "{sent}");
}

#[test]
fn outputs_are_checked_before_the_run_and_nothing_to_check_is_an_error() {
    let server = server().start().unwrap();
    for (args, words) in [
        (&["--html", "/nonexistent/r.html"][..], "cannot write /nonexistent/r.html"),
        (&["--only", "PAGE", "--skip", "PAGE"], "nothing is left to check"),
    ] {
        let output = run(&server.url(), args);
        assert_eq!(output.status.code(), Some(64), "{}", stdout(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    assert_eq!(server.hosts(), [""; 0], "nothing was sent");
}

#[test]
fn a_key_that_would_be_ignored_is_an_error() {
    let server = server().start().unwrap();
    let url = server.url();
    for (set, words) in [
        ("SyncExtraHeader={}", "--set: SyncExtraHeader"),
        ("SyncEnableProtoTransfer=perhaps", "--set: SyncEnableProtoTransfer"),
        ("SyncClientContentEncoding=brotli", "--set: SyncClientContentEncoding"),
        (r#"SyncExtraHeaders={"Host":"other"}"#, "--set: SyncExtraHeaders"),
        ("SyncEnableProtoTransfer", "write --set Key=Value"),
    ] {
        for command in ["conformance", "simulate"] {
            let output = program().args(["harness", command, &url, "--set", set]).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(64), "{command} {set}: {said}");
            assert!(said.contains(words), "{command} {set}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    assert_eq!(server.hosts(), [""; 0], "nothing was sent");
}

/// Agents can use such a proxy, so the message must not suggest that its URL is wrong.
#[test]
fn a_proxy_that_these_checks_cannot_use_ends_with_78_and_what_to_do() {
    for (proxy, kind) in
        [("https://127.0.0.1:1/", "an https:// proxy"), ("socks5h://127.0.0.1:1", "a SOCKS proxy")]
    {
        let output = program()
            .args(["harness", "conformance", "https://santa.invalid/"])
            .env("HTTPS_PROXY", proxy)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{proxy}");
        let said = stderr(&output);
        for part in [&*format!("is {kind}: agents can use it"), "HTTPS_PROXY", "NO_PROXY"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}

#[test]
fn machine_ids_need_a_confirmation() {
    let server = server().start().unwrap();
    let args = ["--only", "CLEAN-04", "--machine-id", "PROBE-HOST-1"];
    let refused = run(&server.url(), &args);
    assert_eq!(refused.status.code(), Some(64));
    assert!(stderr(&refused).contains("add --yes"), "{}", stderr(&refused));
    assert_eq!(server.hosts(), [""; 0], "nothing was sent");

    let output = run(&server.url(), &[&args[..], &["--yes"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(server.hosts(), ["PROBE-HOST-1"]);
    // It leaves the machine to a clean sync.
    let last = server.host("PROBE-HOST-1").unwrap().last_preflight.unwrap();
    assert!(last.request_clean_sync);
}

#[test]
fn what_keeps_a_run_from_starting_is_said_with_its_fix() {
    let enrolled = server().style(|style| style.enrolled = Some(Vec::new())).start().unwrap();
    let output = run(&enrolled.url(), &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("give ids that belong to no real host with --machine-id"),
        "{}",
        stderr(&output)
    );

    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&format!("http://{unused}/"), &[]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("start the server"), "{}", stderr(&output));

    let output = run("http://127.0.0.1:1/", &["--only", "CLEAN-99"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("no requirement is called CLEAN-99"));

    let output = run("ftp://127.0.0.1/", &[]);
    assert_eq!(output.status.code(), Some(64));
}
