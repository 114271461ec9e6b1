//! EV-6: a server that refuses events must not keep policy away, and what it
//! takes must arrive.

use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::store::{EventStore, Rejected};
use serde_json::{Value, json};

use crate::agent::Agent;

const RULES: usize = 10;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(RULES, 1)).batch_size(50).start().expect("a server")
}

fn rejected(agent: &Agent) -> Vec<Rejected> {
    let queue = EventStore::open_read_only(&agent.state_dir).expect("a queue");
    queue.rejected(100).expect("read")
}

/// `count` events, of which those at `poison` carry the word that the server
/// refuses.
fn events(count: usize, poison: &[usize]) -> Vec<Value> {
    let mut events: Vec<_> = fixtures::events(count, 3).map(|event| event.to_json()).collect();
    for place in poison {
        let event = &mut events[*place];
        let name = if event.get("file_name").is_some() {
            &mut event["file_name"]
        } else {
            &mut event["file_access_event"]["target"]
        };
        *name = json!("poisoned-by-test");
    }
    events
}

/// Syncs until one succeeds, and returns how many it took.
fn syncs_until_success(agent: &Agent) -> usize {
    let successes = |n: &usize| {
        let synced = agent.sync(&[]);
        assert!(matches!(synced.code, Some(0 | 2)), "sync {n}: {}", synced.stderr);
        synced.code == Some(0)
    };
    (1..=20).find(successes).expect("the syncs do not converge")
}

/// A body limit: nothing is wrong with the events, and all of them arrive. No
/// size that was too large is tried twice in one sync.
#[test]
fn ev_6_behind_a_body_limit_everything_arrives_in_one_sync() {
    let server = FakeServer::builder()
        .style(|style| style.request_max = Some(200_000))
        .rules(fixtures::rules(RULES, 1))
        .batch_size(50)
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    let mut large = events(500, &[]);
    for event in &mut large {
        if event.get("file_name").is_some() {
            event["parent_name"] = json!("x".repeat(12_000));
        }
    }
    agent.queue(large);
    let plain = ["--set", "SyncClientContentEncoding=none"];
    let synced = agent.sync(&plain);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    assert_eq!((server.events_received(), agent.pending(), agent.rules()), (500, 0, 10));
    let stage = &synced.json["stages"][1];
    let (requests, attempts) = (stage["requests"].as_u64(), stage["attempts"].as_u64());
    assert_eq!(requests, attempts, "413 is no reason to repeat a request");
    let too_large = server.transcript().iter().filter(|e| e.status == Some(413)).count();
    assert!((1..=3).contains(&too_large), "{too_large} refusals");
    assert!(rejected(&agent).is_empty());

    // The next sync begins with what passed.
    agent.queue(events(10, &[]));
    let before = server.transcript().len();
    assert_eq!(agent.sync(&plain).code, Some(0));
    assert!(server.transcript()[before..].iter().all(|e| e.status == Some(200)));
}

/// One event that is too large by itself: it alone is set aside, in one sync.
#[test]
fn ev_6_events_too_large_by_themselves_are_set_aside_in_one_sync() {
    for poison in [vec![0], vec![499], vec![237], vec![0, 1, 250, 499]] {
        let server = server();
        server.refuse_event("poisoned-by-test", 413);
        let agent = Agent::of(&server);
        agent.queue(events(500, &poison));
        let synced = agent.sync(&[]);
        assert_eq!(synced.code, Some(0), "{poison:?}: {}", synced.stderr);
        assert_eq!(server.events_received(), 500 - poison.len() as u64);
        assert_eq!((agent.pending(), agent.rules()), (0, 10));
        assert_eq!(rejected(&agent).len(), poison.len());
        assert_eq!(synced.json["events_rejected"], poison.len(), "{poison:?}");
    }
}

/// One event that is wrong: eight syncs at most, and it alone is set aside.
#[test]
fn ev_6_one_wrong_event_keeps_policy_away_for_less_than_eight_syncs() {
    for (code, poison) in [(400, 0), (422, 499), (400, 237)] {
        let server = server();
        server.refuse_event("poisoned-by-test", code);
        let agent = Agent::of(&server);
        agent.queue(events(500, &[poison]));
        let syncs = syncs_until_success(&agent);
        assert!(syncs <= 8, "{syncs} syncs for the event at {poison}");
        assert_eq!((server.events_received(), agent.pending()), (499, 0));
        assert_eq!(agent.rules(), 10);
        let rejected = rejected(&agent);
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].reason.contains(&code.to_string()), "{}", rejected[0].reason);
    }
}

/// Several wrong events: policy comes every eighth sync at the latest, and in
/// the end everything else has arrived.
#[test]
fn ev_6_several_wrong_events_are_found_while_policy_arrives() {
    let server = server();
    server.refuse_event("poisoned-by-test", 400);
    let agent = Agent::of(&server);
    agent.queue(events(200, &[3, 120, 199]));
    let mut since_success = 0;
    for _ in 0..40 {
        let synced = agent.sync(&[]);
        since_success = if synced.code == Some(0) { 0 } else { since_success + 1 };
        assert!(since_success < 8, "policy is kept away: {}", synced.stderr);
        if agent.pending() == 0 {
            break;
        }
    }
    assert_eq!((server.events_received(), agent.pending()), (197, 0));
    assert_eq!(rejected(&agent).len(), 3);
}
