//! kill -9 at every place where it could hurt: before and after each effect.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

use santa_sync::harness::{FakeServer, Fault, every, fixtures};
use santa_sync::model::{ClientMode, Stage};
use santa_sync::protocol::wire;

use crate::agent::Agent;

const EFFECTS: [&str; 6] =
    ["send", "stage_settings", "read_events", "settle_events", "commit_rules", "apply_settings"];

/// SYNC-4, EV-2, RULE-1, STATE-2: a killed sync leaves the old or the new
/// rules, the old or the new settings, and every event; the next one finishes
/// the work.
#[test]
fn sync_4_a_sync_killed_anywhere_leaves_no_mix() {
    for effect in EFFECTS {
        for when in ["before", "after"] {
            killed_at(&format!("{when}:{effect}"));
        }
    }
    killed_at("before:finish");
}

fn killed_at(place: &str) {
    let server = FakeServer::builder()
        .rules(fixtures::rules(30, 1))
        .page_size(10)
        .batch_size(5)
        .settings(wire::PreflightResponse {
            client_mode: wire::ClientMode::Monitor.into(),
            ..Default::default()
        })
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0), "{place}");
    let old_hash = agent.store().rules_hash().expect("read");

    server.set_rules(fixtures::rules(40, 2));
    server.change_settings(|s| s.client_mode = wire::ClientMode::Lockdown.into());
    let events: Vec<_> = fixtures::events(12, 3).map(|event| event.to_json()).collect();
    agent.queue(events.clone());

    let killed = agent.run(&["sync", "--json", "--clean-all", "--kill-at", place]);
    assert_eq!(killed.status.signal(), Some(9), "{place}: the process was not killed");

    // Whatever was in effect is whole.
    let store = agent.store();
    let hash = store.rules_hash().expect("read");
    let mode = store.client_mode(None).expect("read");
    assert_eq!(agent.rules(), if hash == old_hash { 30 } else { 40 }, "{place}: half a rule set");
    if mode == ClientMode::Lockdown {
        assert_ne!(hash, old_hash, "{place}: LOCKDOWN before its rules");
    }
    drop(store);
    let taken = server.events_received();
    assert!(agent.pending() + taken >= 12, "{place}: an event is neither here nor there");

    // The next sync finishes the work, and nothing is lost.
    let next = agent.sync(&[]);
    assert_eq!(next.code, Some(0), "{place}: {}", next.stderr);
    let store = agent.store();
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown, "{place}");
    assert_ne!(store.rules_hash().expect("read"), old_hash, "{place}");
    let fresh = Agent::of(&server);
    fresh.sync(&[]);
    assert_eq!(
        store.rules_hash().expect("read"),
        fresh.store().rules_hash().expect("read"),
        "{place}: the rules are not the server's"
    );
    let unique = |events: Vec<serde_json::Value>| -> BTreeSet<String> {
        events.iter().map(ToString::to_string).collect()
    };
    let received = unique(server.events().iter().map(fixtures::AnyEvent::to_json).collect());
    assert_eq!(received, unique(events), "{place}: the server has not got every event");
    assert_eq!(agent.pending(), 0, "{place}");
    let history = store.history(3).expect("read");
    let kind = history[1].error.as_ref().map(|e| e.kind.as_str());
    assert_eq!(kind, Some("interrupted"), "{place}");
}

/// SYNC-4, EV-6: a sync that fails and is killed while it notes a refusal or
/// reverts the settings leaves the old settings and every event.
#[test]
fn sync_4_a_failing_sync_killed_anywhere_leaves_the_old_settings() {
    for (stage, status, effect) in
        [(Stage::EventUpload, 400, "note_refusal"), (Stage::RuleDownload, 404, "drop_staged")]
    {
        for when in ["before", "after"] {
            let place = format!("{when}:{effect}");
            let server = FakeServer::builder().rules(fixtures::rules(30, 1)).start().unwrap();
            let agent = Agent::of(&server);
            assert_eq!(agent.sync(&[]).code, Some(0), "{place}");
            let old_hash = agent.store().rules_hash().expect("read");
            server.set_rules(fixtures::rules(40, 2));
            server.change_settings(|s| s.client_mode = wire::ClientMode::Lockdown.into());
            let events: Vec<_> = fixtures::events(4, 3).map(|event| event.to_json()).collect();
            agent.queue(events);
            server.fault(stage, every(), Fault::status(status));

            let killed = agent.run(&["sync", "--json", "--kill-at", &place]);
            assert_eq!(killed.status.signal(), Some(9), "{place}: the process was not killed");
            let store = agent.store();
            assert_eq!(store.client_mode(None).expect("read"), ClientMode::Monitor, "{place}");
            assert_eq!(store.rules_hash().expect("read"), old_hash, "{place}");
            drop(store);
            assert_eq!(agent.pending() + server.events_received(), 4, "{place}: events are lost");

            server.clear_faults();
            let next = agent.sync(&[]);
            assert_eq!(next.code, Some(0), "{place}: {}", next.stderr);
            let store = agent.store();
            assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown, "{place}");
            assert_eq!((agent.rules(), agent.pending()), (40, 0), "{place}");
            assert_eq!(server.events_received(), 4, "{place}");
        }
    }
}

/// EV-2: killed between the server's 200 and the delete, the batch is sent
/// again: twice there, never lost.
#[test]
fn ev_2_a_batch_taken_but_not_deleted_is_sent_again() {
    let server = FakeServer::builder().batch_size(50).start().expect("a server");
    let agent = Agent::of(&server);
    agent.queue(fixtures::events(20, 3).map(|event| event.to_json()));
    let killed = agent.run(&["sync", "--kill-at", "before:settle_events"]);
    assert_eq!(killed.status.signal(), Some(9));
    assert_eq!((server.events_received(), agent.pending()), (20, 20));
    agent.sync(&[]);
    assert_eq!((server.events_received(), agent.pending()), (40, 0));
}
