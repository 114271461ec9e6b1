//! SYNC-7, SYNC-2: every end of a sync leaves a right record.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use santa_sync::harness::{FakeServer, Fault, every, fixtures, nth};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;
use serde_json::{Value, json};

use crate::agent::Agent;

fn server() -> FakeServer {
    FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .settings(wire::PreflightResponse {
            client_mode: wire::ClientMode::Lockdown.into(),
            ..wire::PreflightResponse::default()
        })
        .start()
        .expect("a server")
}

/// The newest record of `history --json`.
fn newest(agent: &Agent) -> Value {
    let output = agent.run(&["history", "--json"]);
    let history: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    history["syncs"][0].clone()
}

/// SYNC-7: a sync that cannot commit because another program holds the rules,
/// and cannot write its record for the same reason, is still recorded as what
/// it was: at once for whoever looks, and in the database once the lock is gone.
#[test]
fn sync_7_a_sync_that_meets_a_locked_store_leaves_a_right_record() {
    let server = server();
    let agent = Agent::of(&server);
    server.fault(Stage::RuleDownload, nth(1), Fault::Hold);
    let running = agent.spawn(&["sync", "--json"]);
    assert!(server.wait_for(Stage::RuleDownload, 1, Duration::from_secs(30)));
    let other = rusqlite::Connection::open(agent.state_dir.join("rules.db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    server.release();
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let record = newest(&agent);
    for record in [&printed, &record] {
        assert_eq!(record["result"], "rule_download_failed");
        assert_eq!(record["error"]["kind"], "store");
        let message = record["error"]["message"].as_str().expect("a message");
        assert!(message.contains("locked by another program"), "{message}");
        assert_eq!(record["settings_reverted"][0]["setting"], "client_mode");
    }
    assert_eq!(printed["id"], record["id"]);

    other.execute_batch("ROLLBACK").expect("unlocked");
    assert_eq!(agent.sync(&[]).code, Some(0));
    let output = agent.run(&["history", "--json"]);
    let history: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let syncs = history["syncs"].as_array().expect("syncs");
    assert_eq!(syncs.len(), 2);
    assert_eq!((&syncs[0]["result"], &syncs[1]), (&json!("success"), &record));
    assert!(!agent.state_dir.join("left-records.json").exists());
}

/// SYNC-7: a sync that could not begin leaves a record, too.
#[test]
fn sync_7_a_missing_machine_id_leaves_a_record() {
    let server = server();
    let mut agent = Agent::of(&server);
    agent.machine_id = "%SerialNumber%".to_owned();
    let synced = agent.sync(&[]);
    assert!(matches!(synced.code, Some(7)), "{:?} {}", synced.code, synced.stderr);
    agent.machine_id = "test-host".to_owned();
    let record = newest(&agent);
    assert_eq!(
        (&record["result"], &record["exit_code"]),
        (&json!("missing_machine_id"), &json!(7))
    );
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(newest(&agent)["result"], "success");
    // A dry run leaves nothing anywhere.
    let fresh = Agent::of(&server);
    fresh.run(&["sync", "--dry-run", "--set", "MachineID=%SerialNumber%"]);
    assert!(!fresh.state_dir.exists());
}

/// SYNC-2: a stop does not erase what the sync was waiting to repeat, wherever
/// one looks.
#[test]
fn sync_2_a_stopped_sync_shows_why_it_was_waiting() {
    let server = server();
    server.fault(Stage::RuleDownload, every(), Fault::status(503));
    let agent = Agent::of(&server);
    // The waits take as long as they say.
    let mut running = agent
        .command_at_rate(1, &["sync", "--json", "--log-level", "info"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let log = BufReader::new(running.stderr.take().expect("piped"));
    let waits = log.lines().map_while(Result::ok).any(|line| line.contains("attempt failed"));
    assert!(waits, "the sync never waited");
    let pid = i32::try_from(running.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::TERM)
        .expect("told");
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed["error"]["kind"], "cancelled");
    assert_eq!(printed["error"]["cause"]["http_status"], 503);
    for command in [&["history"][..], &["status"], &["doctor"]] {
        let shown = String::from_utf8_lossy(&agent.run(command).stdout).into_owned();
        assert!(shown.contains("server_error"), "{command:?}: {shown}");
    }
}
