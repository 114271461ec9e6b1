//! The demonstrations: what a new user runs first.

use crate::program::program;

fn shown(args: &[&str]) -> String {
    let output = program().arg("demo").args(args).output().expect("run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}

#[test]
fn the_demonstration_ends_with_the_servers_rules() {
    let text = shown(&["--rules", "60", "--events", "10"]);
    assert!(text.contains("the server received 10 events"), "{text}");
}

/// RELAY: the chain of server, agent and a host that syncs with the agent alone. The
/// command itself compares rules, order, hash and settings after each step.
#[test]
fn relay_6_the_demonstration_of_the_relay_keeps_a_host_in_step() {
    let text = shown(&["--relay", "--rules", "60", "--events", "10"]);
    for expected in [
        "killed; it starts again",
        "a CLEAN_ALL sync",
        "10 events queued downstream, 10 at the server, 0 left",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}
