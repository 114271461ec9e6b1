//! Standard error that nobody reads: neither a sync nor the daemon waits for it.

use std::io::{BufRead as _, BufReader, PipeReader, Write as _};
use std::process::{Child, Stdio};

use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process};
use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::model::Stage;
use serde::de::Deserialize as _;
use serde_json::Value;

use crate::agent::Agent;
use crate::daemon::PATIENCE;

/// A pipe that takes no more: the first byte that is written to it blocks.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("set");
    let line = format!("{}\n", "x".repeat(1023));
    for piece in [line.as_bytes(), b"\n"] {
        while writer.write(piece).is_ok() {}
    }
    ioctl_fionbio(&writer, false).expect("set");
    (reader, writer.into())
}

/// What was written behind the filling.
fn lines_of(reader: PipeReader) -> Vec<String> {
    let lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
    lines.filter(|line| !line.chars().all(|c| c == 'x')).collect()
}

fn spawn(agent: &Agent, args: &[&str], stderr: Stdio) -> Child {
    let mut command = agent.command(args);
    command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the program runs")
}

/// SYNC-6, NEVER "block the timer".
#[test]
fn sync_6_a_log_that_nobody_reads_does_not_hold_up_a_sync() {
    let server = FakeServer::builder().rules(fixtures::rules(50, 1)).page_size(1).start().unwrap();
    let agent = Agent::of(&server);
    let (reader, stderr) = full_pipe();
    let mut child = spawn(&agent, &["sync", "--json", "--log-level", "trace"], stderr);
    // The record is written when the sync is over, and all rules are there.
    let mut stdout = serde_json::Deserializer::from_reader(child.stdout.take().expect("piped"));
    let record = Value::deserialize(&mut stdout).expect("JSON");
    assert_eq!(record["result"], "success", "{record}");
    assert_eq!(agent.rules(), 50);
    // What was logged meanwhile has waited, in its order.
    let lines = lines_of(reader);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let at = |words: &str| lines.iter().position(|line| line.contains(words)).expect(words);
    assert!(at("sync begins") < at("attempt succeeded"), "{lines:#?}");
    assert!(at("attempt succeeded") < at("sync ends"), "{lines:#?}");
}

/// DAEMON-3: neither its own log nor that of its syncs keeps it from ending.
#[test]
fn daemon_3_a_log_that_nobody_reads_does_not_stop_the_daemon() {
    let server = FakeServer::builder().rules(fixtures::rules(50, 1)).page_size(1).start().unwrap();
    let agent = Agent::of(&server);
    let (_reader, stderr) = full_pipe();
    // Its deadline in its own fast time.
    let args = ["daemon", "--log-level", "debug", "--set", "SyncDeadline=86400"];
    let mut child = spawn(&agent, &args, stderr);
    assert!(server.wait_for(Stage::Postflight, 2, PATIENCE), "two syncs by the clock");
    let clock = SystemClock::new();
    let began = clock.now().elapsed;
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let took = clock.now().elapsed.saturating_sub(began);
    assert!(took.as_secs() < 5, "it took {took:?}");
}
