//! Uploads between syncs, because something was denied (EV-10).

use santa_sync::ingest::IngestOutcome;
use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::agent::piped;

/// A daemon that has synced once and has nothing to do.
fn synced_once(more: &[&str]) -> (FakeServer, Agent, Daemon) {
    let server = FakeServer::builder().batch_size(3).start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, more);
    assert_eq!(sync(&agent).result, SyncResult::Success);
    (server, agent, daemon)
}

/// An execution of that number with that decision.
fn execution(number: u32, decision: &str) -> Value {
    json!({
        "file_sha256": format!("{number:064x}"), "file_path": "/bin", "file_name": "x",
        "executing_user": "u", "execution_time": 1_700_000_000.5, "decision": decision,
    })
}

fn add(agent: &Agent, events: Vec<Value>) {
    let count = events.len();
    let ControlResponse::EventsAdded { results } =
        ask(agent, &ControlRequest::events_add(events).expect("JSON"))
    else {
        panic!("not added")
    };
    assert_eq!(results.len(), count);
    assert!(results.iter().all(|result| result.outcome == IngestOutcome::Added), "{results:?}");
}

/// What `status` says of the last upload, once there is one like that.
fn told(agent: &Agent, like: impl Fn(&Value) -> bool) -> Value {
    let clock = SystemClock::new();
    let until = clock.now().elapsed + PATIENCE;
    loop {
        let ControlResponse::Status(beat) = ask(agent, &ControlRequest::Status) else {
            panic!("no status")
        };
        let upload = serde_json::to_value(&beat.prompt_upload).unwrap();
        if like(&upload) {
            return upload;
        }
        assert!(clock.now().elapsed < until, "{upload}");
    }
}

/// EV-10: a blocked execution brings the whole queue up, oldest first, in
/// batches of the size that the last preflight gave, without a preflight and
/// without rules, and leaves no record.
#[test]
fn ev_10_a_blocked_execution_is_uploaded_between_syncs() {
    let (server, agent, _daemon) = synced_once(&[]);
    add(&agent, (0..4).map(|n| execution(n, "ALLOW_UNKNOWN")).collect());
    add(&agent, vec![execution(9, "BLOCK_BINARY")]);
    assert!(server.wait_for(Stage::EventUpload, 2, PATIENCE));
    let upload = told(&agent, |upload| upload["result"] == "uploaded");
    assert_eq!((&upload["events"], &upload["error"]), (&5.into(), &Value::Null));
    assert_eq!((server.events_received(), agent.pending()), (5, 0));
    let stages = [Stage::Preflight, Stage::EventUpload, Stage::RuleDownload, Stage::Postflight];
    assert_eq!(stages.map(|stage| server.count(stage)), [1, 2, 1, 1], "no more than that");
    assert_eq!(agent.store().history(10).unwrap().len(), 1);
    let shown = agent.run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("Prompt Upload") && shown.contains("5 events"), "{shown}");
}

/// EV-10: what was allowed waits for the next sync, and so does everything where
/// the configuration says so. A file access that was denied does not wait.
#[test]
fn ev_10_only_what_was_denied_is_urgent() {
    let file_access = |decision: &str| {
        let decision = format!("FILE_ACCESS_DECISION_{decision}");
        json!({"file_access_event": {
            "rule_name": "r", "rule_version": decision, "target": "/t", "decision": decision,
            "access_time": 1_700_000_000.5, "process_chain": [{"file_path": "/p"}],
        }})
    };
    let (server, agent, daemon) = synced_once(&[]);
    let off = ["--set", "PromptEventUpload=false"];
    let (off_server, off_agent, off_daemon) = synced_once(&off);
    add(&off_agent, vec![execution(1, "BLOCK_BINARY")]);
    add(&agent, vec![execution(1, "ALLOW_UNKNOWN")]);
    add(&agent, vec![file_access("AUDIT_ONLY")]);
    add(&agent, vec![file_access("DENIED")]);
    told(&agent, |upload| upload["events"] == 3);
    assert_eq!(server.count(Stage::EventUpload), 1);
    // The other daemon had its event first, and has not moved.
    let ControlResponse::Status(beat) = ask(&off_agent, &ControlRequest::Status) else {
        panic!("no status")
    };
    assert_eq!((beat.prompt_upload, off_server.count(Stage::EventUpload)), (None, 0));
    drop((daemon, off_daemon));
}

/// EV-10: events that `events add` queues itself, with a configuration of its
/// own, are told to the daemon.
#[test]
fn ev_10_events_added_beside_the_daemon_are_uploaded_too() {
    let (server, agent, _daemon) = synced_once(&[]);
    let (producer, mut input) = piped(&mut agent.command(&["events", "add"]));
    writeln!(input, "{}", execution(1, "BLOCK_UNKNOWN")).unwrap();
    drop(input);
    let output = producer.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("because of --set"), "{said}");
    assert!(server.wait_for(Stage::EventUpload, 1, PATIENCE));
    told(&agent, |upload| upload["events"] == 1);
    assert_eq!(agent.pending(), 0);
}

/// EV-10: one attempt. What fails stays queued, `status` says why, and the next
/// sync takes it.
#[test]
fn ev_10_a_failed_upload_is_left_to_the_next_sync() {
    let (server, agent, _daemon) = synced_once(&[]);
    server.fault(Stage::EventUpload, nth(1), Fault::status(503));
    add(&agent, vec![execution(1, "BLOCK_BINARY")]);
    let upload = told(&agent, |upload| upload["result"] == "failed");
    assert!(upload["error"].as_str().unwrap().contains("503"), "{upload}");
    assert_eq!((server.count(Stage::EventUpload), agent.pending()), (1, 1));
    let record = sync(&agent);
    assert_eq!((record.result, record.events_uploaded), (SyncResult::Success, 1));
    let shown = agent.run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("failed, left to the next sync"), "{shown}");
}

/// EV-10: no upload while a sync runs, but one right after it for what the sync
/// did not take; a sync that is asked for waits for an upload that runs.
#[test]
fn ev_10_syncs_and_uploads_do_not_overlap() {
    let (server, agent, _daemon) = synced_once(&[]);
    let downloads = server.count(Stage::RuleDownload);
    server.fault(Stage::RuleDownload, nth(downloads + 1), Fault::Hold);
    let mut asker = client(&agent);
    asker.ask(&ControlRequest::Sync(SyncRequest::default())).unwrap();
    assert!(server.wait_for(Stage::RuleDownload, 2, PATIENCE));
    // Its events have gone; this one comes too late for it.
    add(&agent, vec![execution(1, "BLOCK_BINARY")]);
    assert_eq!(server.count(Stage::EventUpload), 0);
    server.fault(Stage::EventUpload, nth(1), Fault::Hold);
    server.release();
    assert_eq!(synced(&mut asker).events_uploaded, 0);
    assert!(server.wait_for(Stage::EventUpload, 1, PATIENCE));
    asker.ask(&ControlRequest::Sync(SyncRequest::default())).unwrap();
    assert_eq!(server.count(Stage::Preflight), 2, "the upload runs");
    server.release();
    let record = synced(&mut asker);
    assert_eq!((record.result, record.events_uploaded), (SyncResult::Success, 0));
    assert_eq!(server.events_received(), 1);
}

/// EV-10: a host that has never synced with its server syncs first.
#[test]
fn ev_10_a_new_host_syncs_first() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let _daemon = Daemon::start(&agent, 1, &[]);
    add(&agent, vec![execution(1, "BLOCK_BINARY")]);
    told(&agent, |upload| upload["result"] == "not_yet");
    assert_eq!(server.count(Stage::EventUpload), 0);
    assert_eq!(sync(&agent).events_uploaded, 1);
    assert_eq!(ask(&agent, &ControlRequest::UploadEvents), ControlResponse::Done);
}

/// EV-10: a sync that dies before it begins to upload leaves what is urgent to the
/// upload after it.
#[test]
#[cfg(any(debug_assertions, feature = "test-hooks"))]
fn ev_10_a_sync_that_panics_does_not_forget_what_was_denied() {
    let (server, agent, _daemon) = synced_once(&["--misbehave", "2:panic:before:send"]);
    add(&agent, vec![execution(1, "BLOCK_BINARY")]);
    assert_eq!(sync(&agent).result, SyncResult::InternalError);
    told(&agent, |upload| upload["events"] == 1);
    assert_eq!((server.count(Stage::Preflight), server.events_received()), (1, 1));
}
