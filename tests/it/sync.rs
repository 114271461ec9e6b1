//! Whole syncs: the program as a process against the fake server.

use santa_sync::harness::{
    AcceptedForms, FakeServer, Fault, SyncTypePolicy, every, first, fixtures, nth,
};
use santa_sync::model::{ClientMode, Stage};
use santa_sync::protocol::wire;
use serde_json::{Value, json};

use crate::agent::Agent;

fn lockdown() -> wire::PreflightResponse {
    wire::PreflightResponse {
        client_mode: wire::ClientMode::Lockdown.into(),
        full_sync_interval_seconds: 900,
        ..wire::PreflightResponse::default()
    }
}

fn server(rules: usize) -> FakeServer {
    FakeServer::builder()
        .rules(fixtures::rules(rules, 1))
        .page_size(20)
        .batch_size(10)
        .settings(lockdown())
        .start()
        .expect("a server")
}

fn events(n: usize) -> impl Iterator<Item = Value> {
    fixtures::events(n, 3).map(|event| event.to_json())
}

/// What differs from run to run, as placeholders.
fn redacted(mut record: Value) -> Value {
    record["id"] = json!("(id)");
    record["started_at"] = json!("(time)");
    record["duration_ms"] = json!(0);
    for stage in record["stages"].as_array_mut().into_iter().flatten() {
        stage["duration_ms"] = json!(0);
        // The host's own name and versions are in the request.
        stage["bytes_sent"] = json!(0);
    }
    record
}

/// SYNC-1, SYNC-7, EXIT 0: what `sync --json` prints of a first sync.
#[test]
fn a_first_sync_replaces_everything_and_uploads_what_is_queued() {
    let server = server(50);
    let agent = Agent::of(&server);
    agent.queue(events(25));
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    insta::assert_json_snapshot!("first_sync", redacted(synced.json));
    let stages: Vec<_> = server
        .transcript()
        .iter()
        .filter_map(|e| e.route.map(|route| route.name().to_owned()))
        .collect();
    assert_eq!(
        stages,
        [
            "preflight",
            "event_upload",
            "event_upload",
            "event_upload",
            "rule_download",
            "rule_download",
            "rule_download",
            "postflight"
        ]
    );
    assert_eq!((server.events_received(), agent.pending()), (25, 0));
    assert_eq!(agent.store().client_mode(None).expect("read"), ClientMode::Lockdown);
}

/// RULE-1, RULE-3, RULE-8: changes, removals and additions of a NORMAL sync,
/// and the counts that preflight tells of them.
#[test]
fn rule_3_a_normal_sync_changes_what_the_server_changed() {
    let server = server(50);
    let agent = Agent::of(&server);
    agent.sync(&[]);
    server.queue_changes(fixtures::changes(&server.rules(), (5, 3, 4), 9));
    let synced = agent.sync(&[]);
    assert_eq!(synced.json["sync_type"], "NORMAL");
    assert_eq!(
        (&synced.json["rules_received"], &synced.json["rules_processed"]),
        (&json!(12), &json!(12))
    );
    let counts = agent.store().rule_counts().expect("read");
    assert_eq!(agent.rules(), 51);
    agent.sync(&[]);
    let told = server.requests(Stage::Preflight);
    let last = &told.last().expect("a preflight").body;
    assert_eq!(last["binary_rule_count"], counts.binary);
    assert_eq!(last["rulesHash"], agent.store().rules_hash().expect("read"));
    assert_eq!(last["client_mode"], "LOCKDOWN");
}

/// RULE-8: two hosts of one server have one hash; so has one that syncs by
/// protobuf.
#[test]
fn rule_8_two_clean_syncs_of_one_server_give_one_hash() {
    let server = server(60);
    let hash = |more: &[&str]| {
        let agent = Agent::of(&server);
        agent.sync(more).json["rules_hash"].as_str().expect("a hash").to_owned()
    };
    let first = hash(&[]);
    assert_eq!(first.len(), 32);
    assert_eq!(hash(&[]), first);
    assert_eq!(hash(&["--set", "SyncEnableProtoTransfer=true"]), first, "JSON-3");
    assert_eq!(hash(&["--set", "SyncClientContentEncoding=gzip"]), first, "HTTP-5");
    assert_eq!(hash(&["--set", "SyncClientContentEncoding=none"]), first, "HTTP-5");
}

/// JSON-3: both directions are binary, and nothing else is accepted.
#[test]
fn json_3_proto_transfer_speaks_binary_only() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(30, 1))
        .transfer(AcceptedForms::Protobuf)
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    agent.queue(events(3));
    assert_eq!(agent.sync(&["--set", "SyncEnableProtoTransfer=true"]).code, Some(0));
    assert_eq!(server.events_received(), 3);
    assert_eq!(agent.sync(&[]).code, Some(1));
}

/// SYNC-2, SYNC-3, STATE-5, EXIT 1 to 4: each stage in turn fails for good.
#[test]
fn sync_2_a_stage_that_fails_leaves_what_was_in_force() {
    for (stage, code) in [
        (Stage::Preflight, 1),
        (Stage::EventUpload, 2),
        (Stage::RuleDownload, 3),
        (Stage::Postflight, 4),
    ] {
        let server = server(30);
        let agent = Agent::of(&server);
        server.change_settings(|s| s.client_mode = wire::ClientMode::Monitor.into());
        assert_eq!(agent.sync(&[]).code, Some(0));
        let before = agent.store().rules_hash().expect("read");

        server.change_settings(|s| s.client_mode = wire::ClientMode::Lockdown.into());
        server.queue_changes(fixtures::changes(&server.rules(), (2, 2, 2), 9));
        server.fault(stage, every(), Fault::status(503));
        agent.queue(events(5));
        let synced = agent.sync(&[]);
        assert_eq!(synced.code, Some(code), "{stage}: {}", synced.stderr);
        assert_eq!(
            (synced.kind(), &synced.json["error"]["http_status"]),
            ("server_error", &json!(503))
        );
        assert_eq!(synced.json["error"]["stage"], stage.name());

        let store = agent.store();
        let applied = stage == Stage::Postflight;
        let mode = if applied { ClientMode::Lockdown } else { ClientMode::Monitor };
        assert_eq!(store.client_mode(None).expect("read"), mode, "{stage}");
        assert_eq!(store.rules_hash().expect("read") == before, !applied, "{stage}");
        let reverted = synced.json["settings_reverted"].as_array().expect("a list").len();
        let was_staged = matches!(stage, Stage::EventUpload | Stage::RuleDownload);
        assert_eq!(reverted, usize::from(was_staged), "{stage}");
        let kept = if stage <= Stage::EventUpload { 5 } else { 0 };
        assert_eq!(agent.pending(), kept, "{stage}");

        server.clear_faults();
        assert_eq!(agent.sync(&[]).code, Some(0), "{stage}: recovers");
        assert_eq!(agent.store().client_mode(None).expect("read"), ClientMode::Lockdown);
        assert_eq!(server.events_received(), 5, "{stage}");
    }
}

/// SYNC-2: what a failed sync would have changed does not read as if it had.
#[test]
fn sync_2_a_setting_that_was_not_applied_is_shown_with_the_one_in_effect() {
    let server = server(5);
    let agent = Agent::of(&server);
    server.change_settings(|s| s.client_mode = wire::ClientMode::Lockdown.into());
    server.fault(Stage::RuleDownload, every(), Fault::status(404));
    let not_applied = || {
        let output = agent.run(&["sync"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("reverted") && !text.contains("->"), "{text}");
        let lines = text.lines().filter(|line| line.contains("client_mode"));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(not_applied(), ["not applied    client_mode: LOCKDOWN; unset stays in effect"]);
    server.clear_faults();
    assert_eq!(agent.sync(&[]).code, Some(0));
    server.change_settings(|s| s.client_mode = wire::ClientMode::Monitor.into());
    server.fault(Stage::RuleDownload, every(), Fault::status(404));
    assert_eq!(not_applied(), ["not applied    client_mode: MONITOR; LOCKDOWN stays in effect"]);
}

/// SYNC-3, PRE-3: a failed postflight keeps the request; a success ends it.
#[test]
fn pre_3_a_clean_sync_request_outlasts_a_failed_postflight() {
    let server = server(10);
    let agent = Agent::of(&server);
    agent.sync(&[]);
    server.fault(Stage::Postflight, every(), Fault::status(404));
    assert_eq!(agent.sync(&["--clean-all"]).code, Some(4));
    assert_eq!(agent.store().clean_sync_requests().expect("read").len(), 1);
    server.clear_faults();
    let synced = agent.sync(&[]);
    assert_eq!((&synced.json["requested_sync_type"], synced.code), (&json!("CLEAN_ALL"), Some(0)));
    assert_eq!(agent.store().clean_sync_requests().expect("read").len(), 0);
}

/// PRE-7: another server makes everything anew, and the old rules stay until
/// the new ones are there.
#[test]
fn pre_7_another_server_replaces_rules_only_once_its_own_are_there() {
    let (one, two) = (server(30), server(20));
    let mut agent = Agent::of(&one);
    agent.sync(&[]);
    let before = agent.store().rules_hash().expect("read");
    agent.base_url = two.url();
    two.fault(Stage::RuleDownload, every(), Fault::status(404));
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, &synced.json["requested_sync_type"]), (Some(3), &json!("CLEAN_ALL")));
    assert_eq!(agent.store().rules_hash().expect("read"), before);
    two.clear_faults();
    assert_eq!(agent.sync(&[]).json["rules_removed"], 30);
    assert_eq!(agent.rules(), 20);
}

/// HTTP-6, HTTP-7, HTTP-8, HTTP-15, RULE-6, JSON-1: answers that are wrong,
/// each with its own kind; rules are never applied in part.
#[test]
fn wrong_answers_are_named_and_nothing_of_them_is_applied() {
    let wrong_shape = Fault::WrongShape(json!({"reason": "no such host"}));
    let error = Fault::WrongShape(json!({"error": "no such host"}));
    for (fault, kind, code) in [
        (Fault::Html, "html", 3),
        (Fault::NotJson, "not_json", 3),
        (wrong_shape, "wrong_shape", 3),
        (error, "error_in_response", 3),
        (Fault::EmptyBody, "empty_body", 3),
        (Fault::Truncate, "truncated", 3),
        (Fault::RepeatCursor, "cursor_not_advancing", 3),
        (Fault::Redirect("https://elsewhere.example/".to_owned()), "redirected", 3),
        (Fault::CorruptGzip, "bad_encoding", 3),
    ] {
        let server = server(60);
        let agent = Agent::of(&server);
        agent.sync(&[]);
        let before = agent.store().rules_hash().expect("read");
        let asked = server.count(Stage::RuleDownload);
        // The first page is good: the second must not apply it alone.
        for n in 2..9 {
            server.fault(Stage::RuleDownload, nth(asked + n), fault.clone());
        }
        let synced = agent.sync(&["--clean"]);
        assert_eq!((synced.kind(), synced.code), (kind, Some(code)), "{}", synced.stderr);
        assert_eq!(agent.store().rules_hash().expect("read"), before, "{kind}");
        let message = synced.json["error"]["message"].as_str().expect("a message");
        assert!(message.len() > 20 && !message.contains('\u{1b}'), "{message}");
    }
}

/// JSON-1, RULE-6: one broken rule, one unknown enum value: only they are lost.
#[test]
fn rule_6_a_broken_rule_costs_itself_alone() {
    let server = server(60);
    server.fault(Stage::RuleDownload, nth(2), Fault::BrokenRule(7));
    server.fault(Stage::RuleDownload, nth(3), Fault::UnknownEnum);
    let agent = Agent::of(&server);
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, &synced.json["rules_received"]), (Some(0), &json!(60)));
    assert_eq!(synced.json["rules_processed"], 58);
    let rejected: Vec<_> = synced.json["rules_rejected"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| (r["page"].clone(), r["index"].clone()))
        .collect();
    assert_eq!(rejected, [(json!(2), json!(7)), (json!(3), json!(0))]);
    assert_eq!(synced.stderr.matches("rule rejected").count(), 2, "{}", synced.stderr);
    let told = server.requests(Stage::Postflight);
    assert_eq!(told[0].body["rules_processed"], 58);
}

/// RULE-2: a complete and empty set of a clean sync deletes.
#[test]
fn rule_2_an_empty_clean_sync_deletes_every_rule() {
    let server = server(20);
    let agent = Agent::of(&server);
    agent.sync(&[]);
    server.set_rules([]);
    let synced = agent.sync(&["--clean"]);
    assert_eq!((synced.code, &synced.json["rules_removed"]), (Some(0), &json!(20)));
    assert_eq!(
        agent.store().rule_counts().expect("read"),
        santa_sync::model::RuleCounts::default()
    );
}

/// EV-3: held back in a clean sync by configuration, and sent by the next.
#[test]
fn ev_3_events_held_back_in_a_clean_sync_stay_queued() {
    let server = server(10);
    let agent = Agent::of(&server);
    agent.queue(events(4));
    let hold = ["--set", "SyncEnableCleanSyncEventUpload=false"];
    agent.sync(&hold);
    assert_eq!((agent.pending(), server.events_received()), (4, 0));
    agent.sync(&hold);
    assert_eq!((agent.pending(), server.events_received()), (0, 4));
}

/// A dry run leaves every file as it was, and tells the difference.
#[test]
fn a_dry_run_changes_nothing() {
    let server = server(30);
    let agent = Agent::of(&server);
    let fresh = agent.sync(&["--dry-run"]);
    assert_eq!((fresh.code, &fresh.json["rules_preview"]["added"]), (Some(0), &json!(30)));
    assert!(!agent.state_dir.exists(), "a dry run makes no state");

    agent.sync(&[]);
    agent.queue(events(3));
    server.queue_changes(fixtures::changes(&server.rules(), (2, 3, 4), 9));
    server.change_settings(|s| s.client_mode = wire::ClientMode::Standalone.into());
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(&agent.state_dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| !path.to_string_lossy().ends_with("-shm"))
            .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let synced = agent.sync(&["--dry-run"]);
    assert_eq!(files(), before);
    let preview = &synced.json["rules_preview"];
    assert_eq!(
        (&preview["added"], &preview["replaced"], &preview["removed"]),
        (&json!(4), &json!(2), &json!(3))
    );
    assert_eq!(synced.json["settings_applied"][0]["after"], "STANDALONE");
    assert_eq!(server.count(Stage::Postflight), 1);
    assert_eq!(server.events_received(), 0);

    let shown = agent.run(&["sync", "--dry-run", "--clean-all"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("nothing was changed")
            && text.contains("client_mode: LOCKDOWN -> STANDALONE"),
        "{text}"
    );
    // Everything was sent: 30 of before, of which 2 are changed and 3 gone, and 4 more.
    assert!(
        text.contains("would add 4, replace 2, remove 3; 25 of those sent are stored already"),
        "{text}"
    );
    // Only the changes are sent, which says nothing of the other rules.
    server.queue_changes(fixtures::changes(&server.rules(), (1, 1, 1), 10));
    let shown = agent.run(&["sync", "--dry-run"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("; 0 of those sent are stored already"), "{text}");
}

/// SYNC-6, EXIT 5: one runs, one waits, a third is one too many.
#[test]
fn sync_6_a_third_sync_is_one_too_many() {
    let server = server(10);
    server.fault(Stage::Preflight, nth(1), Fault::Hold);
    let agent = Agent::of(&server);
    let running = agent.spawn(&["sync", "--json"]);
    let held = server.wait_for(Stage::Preflight, 1, std::time::Duration::from_secs(30));
    assert!(held, "the first sync did not reach the server");
    assert_eq!(agent.sync(&["--no-wait"]).code, Some(5));

    let mut waiting = agent.spawn(&["sync", "--json"]);
    // The waiting one holds the directory; until it does, a third would wait in its place.
    while !waits(&agent.state_dir) {
        assert!(waiting.try_wait().expect("a status").is_none(), "it does not wait");
        // A look holds the lock for an instant, in which the sync must not find it each time.
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let third = agent.sync(&[]);
    assert_eq!((third.code, third.result()), (Some(5), "too_many_syncs"));
    assert!(waiting.try_wait().expect("a status").is_none(), "the second one still waits");
    server.release();
    for child in [running, waiting] {
        let ended = crate::agent::synced(&child.wait_with_output().expect("an end"));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    assert_eq!(server.count(Stage::Postflight), 2);
}

/// SYNC-6: whoever waits says so, and for whom.
#[test]
fn sync_6_a_sync_or_an_import_that_waits_says_for_whom() {
    use std::io::{BufRead as _, BufReader};
    let server = server(10);
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let export = agent.state_dir.with_file_name("rules.json");
    std::fs::write(&export, agent.run(&["rules", "export"]).stdout).expect("written");
    for args in [&["sync"][..], &["rules", "import", "--force", export.to_str().expect("UTF-8")]] {
        let lock = santa_sync::store::StateLock::acquire(&agent.state_dir, false).expect("free");
        let mut waiting = agent.spawn(args);
        let mut says = BufReader::new(waiting.stderr.take().expect("piped")).lines();
        let who = format!("(process {}); waiting for it to finish", std::process::id());
        assert!(says.any(|line| line.expect("text").contains(&who)), "{args:?} says nothing");
        drop(lock);
        assert!(says.all(|line| line.is_ok()));
        assert!(waiting.wait_with_output().expect("an end").status.success(), "{args:?}");
    }
}

/// Whether somebody holds the waiting place, which is the lock of the
/// directory itself.
fn waits(dir: &std::path::Path) -> bool {
    let file = std::fs::File::open(dir).expect("a directory");
    let is_held = file.try_lock_shared().is_err();
    // Closing is not enough while a process that another thread starts has a copy.
    let _ = file.unlock();
    is_held
}

/// SYNC-2, DAEMON-3: a sync told to terminate reverts and says so.
#[test]
fn a_sync_told_to_terminate_reverts_and_leaves_a_record() {
    let server = server(10);
    let agent = Agent::of(&server);
    server.fault(Stage::RuleDownload, first(1), Fault::Hold);
    let child = agent.spawn(&["sync", "--json"]);
    assert!(server.wait_for(Stage::RuleDownload, 1, std::time::Duration::from_secs(30)));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let ended = crate::agent::synced(&child.wait_with_output().expect("an end"));
    assert_eq!((ended.code, ended.kind()), (Some(3), "cancelled"), "{}", ended.stderr);
    assert_eq!(ended.json["settings_reverted"].as_array().map(Vec::len), Some(2));
    let history = agent.store().history(5).expect("read");
    assert_eq!(history[0].error.as_ref().map(|e| e.kind.as_str()), Some("cancelled"));
}

/// PRE-4: every type a server may answer with, and what it says of itself in
/// postflight.
#[test]
fn pre_4_the_type_of_sync_is_the_servers_to_say() {
    use wire::SyncType::{CleanFileAccessRules, CleanRules, CleanStandalone};
    for sync_type in [CleanStandalone, CleanRules, CleanFileAccessRules] {
        let server = FakeServer::builder()
            .rules(fixtures::rules(10, 1))
            .sync_type(SyncTypePolicy::Always(sync_type))
            .start()
            .expect("a server");
        let agent = Agent::of(&server);
        assert_eq!(agent.sync(&[]).code, Some(0));
        let told = server.requests(Stage::Postflight);
        assert_eq!(told[0].body["syncType"], sync_type.as_str_name());
    }
}

/// PRE-3: whoever asked for a clean sync learns that there was none, and can
/// take the request back.
#[test]
fn pre_3_a_clean_sync_answered_normal_says_so_and_can_be_withdrawn() {
    let normal = SyncTypePolicy::Always(wire::SyncType::Normal);
    let server = FakeServer::builder().sync_type(normal).start().expect("a server");
    let agent = Agent::of(&server);
    // The request of a new state ends with any sync that succeeds.
    assert_eq!(agent.sync(&[]).json["warnings"], json!([]));
    let synced = agent.sync(&["--clean"]);
    assert_eq!(synced.code, Some(0));
    let warning = &synced.json["warnings"][0];
    assert_eq!((&warning["field"], &warning["value"]), (&json!("sync_type"), &json!("NORMAL")));
    let action = warning["action"].as_str().expect("an action");
    assert!(action.starts_with("nothing was cleaned; the request stays"), "{action}");
    assert!(action.contains("--forget-clean"), "{action}");
    let text = String::from_utf8_lossy(&agent.run(&["sync"]).stdout).into_owned();
    assert!(text.contains("nothing was cleaned; the request stays"), "{text}");
    let synced = agent.sync(&["--forget-clean"]);
    assert_eq!(
        (&synced.json["requested_sync_type"], &synced.json["warnings"]),
        (&json!("NORMAL"), &json!([]))
    );
    let again = agent.run(&["sync", "--forget-clean"]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && told.contains("no clean sync was requested"), "{told}");
}

/// SYNC-7: what a person sees: `status` and `history` after a success and a
/// failure.
#[test]
fn sync_7_status_and_history_tell_how_it_went() {
    let server = server(20);
    let agent = Agent::of(&server);
    let never = agent.run(&["status", "--max-age", "2h"]);
    assert_eq!(never.status.code(), Some(1));
    agent.sync(&[]);
    assert_eq!(agent.run(&["status", "--max-age", "2h"]).status.code(), Some(0));
    server.fault(Stage::RuleDownload, every(), Fault::Html);
    agent.sync(&["--clean"]);
    let json =
        |args: &[&str]| -> Value { serde_json::from_slice(&agent.run(args).stdout).expect("JSON") };
    let status = json(&["status", "--json"]);
    assert_eq!(status["last_attempt"]["result"], "rule_download_failed");
    assert_eq!(status["last_attempt"]["error"]["kind"], "html");
    assert_eq!(status["failures_in_a_row"], 1);
    assert_eq!(status["full_sync_interval"], json!({"seconds": 900, "origin": "server"}));
    assert_eq!(status["clean_sync_requests"][0]["reason"], "operator");
    assert_eq!(status["clean_sync_requests"][0]["last_answer"], "CLEAN");
    assert_eq!(status["client_mode"], "LOCKDOWN");
    let history = json(&["history", "--json"]);
    assert_eq!(history["syncs"].as_array().map(Vec::len), Some(2));
    let text = String::from_utf8_lossy(&agent.run(&["history"]).stdout).into_owned();
    assert!(text.contains("rule_download_failed") && text.contains("[html]"), "{text}");
}

/// SYNC-7, PRE-3, STATE-5: all of `status` and `history`, for people and as
/// JSON, after a success, after a failure, and on a host that never synced.
#[test]
fn sync_7_status_and_history_to_the_letter() {
    let server = server(20);
    let agent = Agent::of(&server);
    let state_dir = agent.state_dir.display().to_string();
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&regex_of(&state_dir), "(state dir)");
    settings.add_filter(r"127\.0\.0\.1:\d+", "127.0.0.1:(port)");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "(time)");
    settings.add_filter(r#""(id)": "[0-9a-f]{16}""#, r#""$1": "(id)""#);
    settings.add_filter(r#""(\w+_ms|age_seconds|bytes_\w+)": \d+"#, r#""$1": 0"#);
    settings.add_filter(r"\(\d+ s ago\)", "(0 s ago)");
    settings.add_filter(r" +\d+ ms", " 0 ms");
    let _guard = settings.bind_to_scope();
    let shown = |args: &[&str]| {
        let output = agent.run(args);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    insta::assert_snapshot!("status_never_synced", shown(&["status"]));
    agent.sync(&[]);
    agent.queue(events(3));
    insta::assert_snapshot!("status_healthy", shown(&["status"]));
    server.fault(Stage::RuleDownload, every(), Fault::status(503));
    agent.sync(&["--clean"]);
    insta::assert_snapshot!("status_failed", shown(&["status"]));
    insta::assert_snapshot!("status_failed_json", shown(&["status", "--json"]));
    insta::assert_snapshot!("history", shown(&["history"]));
    insta::assert_snapshot!("history_json", shown(&["history", "--json"]));
}

/// A text as a pattern that matches it alone.
fn regex_of(text: &str) -> String {
    text.chars()
        .flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c]))
        .collect()
}
