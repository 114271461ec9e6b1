//! The state directory, with whole processes: many at once, and other users'.

use std::io::Write as _;
use std::process::{Child, Stdio};

use santa_sync::harness::FakeServer;
use santa_sync::harness::fixtures::{self, AnyEvent};

use crate::agent::Agent;

/// A producer of one event.
fn producer(agent: &Agent, number: u32) -> Child {
    let mut child = agent
        .command(&["events", "add"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let event = serde_json::json!({
        "file_sha256": format!("{number:064x}"),
        "file_path": "/opt",
        "file_name": format!("program-{number}"),
        "decision": "BLOCK_UNKNOWN",
        "execution_time": 1_700_000_000,
        "executing_user": "root",
    });
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "{event}").expect("written");
    child
}

/// STATE-2, NEVER: the stores are created under any number of processes at
/// once, and none of them loses its event or is told to move a file away.
#[test]
fn state_2_producers_and_a_first_sync_at_once_create_the_stores_and_lose_nothing() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    for round in 0..6 {
        let agent = Agent::of(&server);
        let mut children: Vec<_> = (0..6).map(|n| producer(&agent, 6 * round + n)).collect();
        children.insert(3, agent.spawn(&["sync"]));
        for child in children {
            let output = child.wait_with_output().expect("ended");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}: {:?} {said}", output.status);
        }
        // Whatever the first sync was too early for.
        assert_eq!(agent.sync(&[]).code, Some(0));
        assert_eq!(agent.pending(), 0);
        assert_eq!(agent.rules(), 10);
    }
    let mut uploaded: Vec<_> = server.events().iter().filter_map(name_of).collect();
    uploaded.sort();
    uploaded.dedup();
    assert_eq!(uploaded.len(), 36, "{uploaded:?}");
}

fn name_of(event: &AnyEvent) -> Option<String> {
    match event {
        AnyEvent::Execution(event) => Some(event.file_name.clone()),
        AnyEvent::FileAccess(_) => None,
    }
}
