//! What the property test may take long to come upon, case by case.

use std::time::Duration;

use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::host::AuthorizerReport;
use santa_sync::model::{ClientMode, Stage, SyncType, Transfer};
use santa_sync::protocol::wire;

use super::link::Loss;
use super::santa::{Act, Age, LOCAL_BINARY, Row, RuleTable, Status, Step, UNCOMPILABLE};
use super::world::World;

const SHA: &str = "84de9c61777ca36b13228e2446d53e966096e78db7a72c632b5c185b2ffe68a6";

fn team(name: &str, policy: wire::Policy) -> wire::Rule {
    wire::Rule {
        identifier: format!("{name:0>10}"),
        rule_type: wire::RuleType::Teamid.into(),
        policy: policy.into(),
        ..wire::Rule::default()
    }
}

/// A world in step, with these rules.
fn in_step(age: Age, rules: impl IntoIterator<Item = wire::Rule>) -> World {
    let mut world = World::with(age, false);
    world.server.set_rules(rules);
    world.settle();
    world
}

fn allowed(number: u64) -> AnyEvent {
    let mut event = fixtures::events(20, number).find_map(|event| match event {
        AnyEvent::Execution(event) => Some(event),
        AnyEvent::FileAccess(_) => None,
    });
    let mut event = event.take().unwrap();
    event.set_decision(wire::Decision::AllowUnknown);
    AnyEvent::Execution(event)
}

/// RELAY-6: changes go as changes, to every release, and a sync that changes nothing
/// brings nothing.
#[test]
fn relay_6_changes_go_as_changes() {
    for age in Age::ALL {
        let mut world = in_step(age, fixtures::rules(200, 1));
        world.server.queue_changes(fixtures::changes(&world.server.rules(), (3, 2, 4), 2));
        world.pull();
        let done = world.push();
        assert_eq!((done.received, done.sync_type), (9, SyncType::Normal), "{age:?}");
        world.assert_in_step();
        assert_eq!(world.push().received, 0);
    }
}

/// RELAY-15: a rule that becomes one the release does not know does not stay in its
/// former form.
#[test]
fn relay_15_a_rule_that_becomes_unknown_to_the_release_is_removed() {
    let mut world = in_step(
        Age::Y2024M12,
        [team("A", wire::Policy::Allowlist), team("B", wire::Policy::Allowlist)],
    );
    let mut cel = team("A", wire::Policy::Cel);
    "true".clone_into(&mut cel.cel_expr);
    let silent = team("B", wire::Policy::SilentGuiBlocklist);
    world.server.queue_changes(vec![cel, silent]);
    world.pull();
    let done = world.push();
    assert_eq!((done.received, done.processed, done.sync_type), (2, 2, SyncType::Normal));
    let rows = world.santa.rows();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].identifier.as_str(), rows[0].state), ("000000000B", 3));
    world.assert_in_step();
}

/// RELAY-6, RELAY-7: a postflight that never comes costs at most the same changes
/// again; with a hash not even that.
#[test]
fn relay_7_a_lost_postflight_leads_to_the_same_changes_at_most() {
    for age in Age::ALL {
        // Without policies that the release does not know: its hash would be another.
        let rules = (0..50).map(|n| team(&format!("X{n}"), wire::Policy::Allowlist));
        let mut world = in_step(age, rules);
        world.server.queue_changes(vec![team("A", wire::Policy::Blocklist)]);
        world.pull();
        let done = world.push_with(&mut |step| {
            let strikes = matches!(step, Step::Attempt { stage: Stage::Postflight, .. });
            if strikes { Act::Lose(Loss::Request) } else { Act::Go }
        });
        assert_eq!((done.received, done.status), (1, Status::Success));
        world.server.queue_changes(vec![team("B", wire::Policy::Blocklist)]);
        world.pull();
        let done = world.push();
        if age.reports_hash() {
            assert_eq!((done.received, done.sync_type), (1, SyncType::Normal), "{age:?}");
            world.assert_in_step();
        }
        world.settle();
    }
}

/// RELAY-3: while no clean sync has filled the agent's store, what Santa had from
/// elsewhere stays, whatever Santa asks for.
#[test]
fn relay_3_nothing_is_deleted_for_a_server_that_sent_a_part() {
    for age in Age::ALL {
        let mut world = World::with(age, false);
        let foreign =
            Row { identifier: SHA.to_owned(), state: 2, rule_type: 1000, ..Row::default() };
        world.santa.drift(|table| table.put(foreign.clone()));
        world.server.set_rules([team("A", wire::Policy::Blocklist)]);
        world.pull_as(wire::SyncType::Normal);
        for _ in 0..3 {
            world.santa.require(SyncType::CleanAll);
            assert_eq!(world.push().sync_type, SyncType::Normal);
        }
        let rows = world.santa.rows();
        assert_eq!((rows.len(), &rows[0]), (2, &foreign), "{age:?}");
        world.server.queue_changes(vec![team("B", wire::Policy::Blocklist)]);
        world.pull_as(wire::SyncType::Normal);
        let done = world.push();
        assert_eq!((done.received, done.sync_type), (1, SyncType::Normal), "changes only");

        // The first clean sync fills it, and then the authorizer has just its rules.
        world.santa.require(SyncType::Normal);
        world.pull_as(wire::SyncType::Clean);
        world.settle();
        assert_eq!(world.santa.rows().len(), 2, "{age:?}");
        assert!(!world.santa.rows().contains(&foreign));
    }
}

/// RELAY-3: even if no clean sync ever fills the store, a rule that the server removes is removed
/// from Santa, and rules from elsewhere stay.
#[test]
fn relay_3_an_unfilled_store_removes_only_what_the_server_removed() {
    for (age, loses_state) in Age::ALL.into_iter().flat_map(|age| [(age, false), (age, true)]) {
        let mut world = World::with(age, false);
        let foreign =
            Row { identifier: SHA.to_owned(), state: 2, rule_type: 1000, ..Row::default() };
        world.server.set_rules([
            team("A", wire::Policy::Allowlist),
            team("B", wire::Policy::Allowlist),
            team("C", wire::Policy::Allowlist),
        ]);
        world.pull_as(wire::SyncType::Normal);
        for _ in 0..2 {
            world.push();
        }
        // What Santa holds becomes unknown, by its hash or because the relay's state is lost.
        world.santa.drift(|table| table.put(foreign.clone()));
        if loses_state {
            world.relay.kill();
            std::fs::remove_file(world.agent.state_dir.join("relay.json")).unwrap();
            world.relay.restart();
        }
        let mut cel = team("B", wire::Policy::Cel);
        "true".clone_into(&mut cel.cel_expr);
        world.server.queue_changes(vec![team("A", wire::Policy::Remove), cel]);
        world.pull_as(wire::SyncType::Normal);
        assert_eq!(world.push().sync_type, SyncType::Normal);
        let mut expected = world.expected_rows();
        expected.push(foreign);
        let mut rows = world.santa.server_rows();
        expected.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        rows.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        assert_eq!(rows, expected, "{age:?} {loses_state}: {}", world.relay.why());
        assert_eq!(world.push().received, 0, "{age:?}: once");
    }
}

/// RELAY-7, RELAY-10: if the relay can write neither the authorizer's report nor its own state,
/// the authorizer still gets its rules, and only once.
#[test]
fn relay_7_a_full_disk_does_not_block_rules() {
    for age in Age::ALL {
        let mut world = World::with(age, false);
        world.server.change_settings(|settings| settings.enable_bundles = Some(true));
        world.server.set_rules([team("A", wire::Policy::Blocklist)]);
        world.pull();
        // A file cannot be renamed over a directory.
        let files = ["relay.json", "authorizer.json"].map(|file| world.agent.state_dir.join(file));
        for file in &files {
            std::fs::create_dir(file).unwrap();
        }
        for _ in 0..2 {
            world.push();
        }
        assert_eq!(world.santa.server_rows(), world.expected_rows(), "{age:?}");
        assert_eq!(world.push().received, 0, "{age:?}");
        for file in &files {
            std::fs::remove_dir(file).unwrap();
        }
        world.push();
        // The next sync writes the state that was kept in memory.
        world.relay.restart();
        assert_eq!(world.push().received, 0, "{age:?}: {}", world.relay.why());
        world.assert_in_step();
        world.server.change_settings(|settings| settings.enable_bundles = None);
        world.pull_as(wire::SyncType::Clean);
        world.settle();
    }
}

/// RELAY-3: before the first sync with the server there is nothing to hand out, and
/// nothing is taken for nothing.
#[test]
fn relay_3_before_the_first_sync_there_is_nothing_to_hand_out() {
    let mut world = World::with(Age::Y2026M7, false);
    let done = world.push();
    assert_eq!((done.status, done.http_status), (Status::PreflightFailed, Some(503)));
    world.observe(&allowed(1));
    world.settle();
}

/// RULE-11: the guard counts only rules that the authorizer loses, not REMOVEs without a matching
/// rule or of rules that it never had.
#[test]
fn rule_11_the_guard_counts_rules_that_the_authorizer_loses() {
    for age in Age::ALL {
        let named = |kind: &str, numbers: std::ops::Range<u32>, policy| -> Vec<_> {
            numbers.map(|number| team(&format!("{kind}{number}"), policy)).collect()
        };
        let mut world = World::guarded(age, false, Some(50));
        world.server.set_rules(named("X", 0..100, wire::Policy::Allowlist));
        world.settle();

        let remove = wire::Policy::Remove;
        world.server.queue_changes(named("M", 0..60, remove));
        world.server.queue_changes(named("Y", 0..60, wire::Policy::Allowlist));
        world.pull();
        world.server.queue_changes(named("Y", 0..60, remove));
        world.server.queue_changes(vec![team("B", wire::Policy::Blocklist)]);
        world.pull();
        world.push();
        world.assert_in_step();

        // A third at a time, and more than half in total.
        for part in [0..33, 33..56] {
            world.server.queue_changes(named("X", part, remove));
            world.pull();
        }
        assert_eq!(world.push().received, 0, "{age:?}");
        assert_eq!(world.santa.rows().len(), 101, "{age:?}: {}", world.relay.why());
    }
}

/// RELAY-6: users' rules in standalone mode are in the hash; changes go on being
/// changes, and the users' rules stay.
#[test]
fn relay_6_users_rules_in_standalone_mode_stay() {
    let mut world = in_step(Age::Y2026M7, fixtures::rules(20, 1));
    world.server.change_settings(|settings| settings.set_client_mode(wire::ClientMode::Standalone));
    world.settle();
    assert_eq!(world.santa.client_mode(), ClientMode::Standalone);
    world.santa.add_of_user(SHA);
    for name in ["A", "B"] {
        world.server.queue_changes(vec![team(name, wire::Policy::Blocklist)]);
        world.pull();
        let done = world.push();
        assert_eq!((done.received, done.sync_type), (1, SyncType::Normal));
        assert_eq!(world.santa.server_rows(), world.expected_rows());
        assert_eq!(world.push().received, 0);
    }
    assert!(world.santa.rows().iter().any(|row| row.state == LOCAL_BINARY));
}

/// RELAY-6: an expression that Santa does not compile is drift that is known: no sync
/// is clean because of it.
#[test]
fn relay_6_a_rule_that_santa_does_not_compile_is_known_drift() {
    let mut cel = team("A", wire::Policy::Cel);
    UNCOMPILABLE.clone_into(&mut cel.cel_expr);
    let mut world = World::with(Age::Y2026M7, false);
    world.server.set_rules([cel, team("B", wire::Policy::Blocklist)]);
    world.pull();
    for _ in 0..2 {
        world.push();
    }
    assert_eq!(world.santa.rows().len(), 1);
    for name in ["C", "D"] {
        world.server.queue_changes(vec![team(name, wire::Policy::Blocklist)]);
        world.pull();
        let done = world.push();
        assert_eq!((done.received, done.sync_type), (1, SyncType::Normal), "{}", world.relay.why());
        assert_eq!((world.push().received, world.relay.lacks()), (0, false));
    }
}

/// RELAY-6, RELAY-15: a set that a release takes in another form is no drift, and its
/// hash tells that the authorizer holds it, also if the postflight was lost.
#[test]
fn relay_15_a_set_in_the_form_of_a_release_is_no_drift() {
    for age in [Age::Y2025M7, Age::Y2026M3] {
        let silent = team("A", wire::Policy::SilentGuiBlocklist);
        let mut world = in_step(age, [silent, team("B", wire::Policy::Allowlist)]);
        assert!(!world.relay.sees_drift(), "{age:?}");
        world.server.queue_changes(vec![team("C", wire::Policy::SilentTtyBlocklist)]);
        world.pull();
        let done = world.push_with(&mut |step| {
            let strikes = matches!(step, Step::Attempt { stage: Stage::Postflight, .. });
            if strikes { Act::Lose(Loss::Request) } else { Act::Go }
        });
        assert_eq!((done.received, done.status), (1, Status::Success));
        let done = world.push();
        assert_eq!((done.received, done.sync_type), (0, SyncType::Normal), "{age:?}");
        world.assert_in_step();
        assert!(!world.relay.sees_drift(), "{age:?}");
        // A rule that is not ours still is.
        let foreign =
            Row { identifier: SHA.to_owned(), state: 2, rule_type: 1000, ..Row::default() };
        world.santa.drift(|table| table.put(foreign));
        let types: Vec<_> = (0..2).map(|_| world.push().sync_type).collect();
        assert!(types.contains(&SyncType::Clean), "{age:?} {types:?}");
    }
}

/// RELAY-15: after an upgrade or a downgrade, Santa holds its rules in the form of its new
/// release, including those that the old release could not take.
#[test]
fn relay_15_another_release_gets_its_own_form_of_the_rules() {
    for from in Age::ALL {
        for to in Age::ALL.into_iter().filter(|to| *to != from) {
            let mut cel = team("A", wire::Policy::Cel);
            "true".clone_into(&mut cel.cel_expr);
            let silent = team("B", wire::Policy::SilentTtyBlocklist);
            let mut world = in_step(from, [cel, silent, team("C", wire::Policy::Allowlist)]);
            world.santa.profile.age = to;
            for _ in 0..2 {
                world.push();
            }
            let why = world.relay.why();
            assert_eq!(world.santa.server_rows(), world.expected_rows(), "{from:?} {to:?}: {why}");
            assert_eq!(world.push().received, 0, "{from:?} {to:?}");
        }
        // If the form makes no difference, nothing is sent again.
        let mut world = in_step(from, [team("C", wire::Policy::Allowlist)]);
        world.santa.profile.age = Age::Y2026M7;
        if from.reports_hash() {
            let done = world.push();
            assert_eq!((done.received, done.sync_type), (0, SyncType::Normal), "{from:?}");
        }
    }
}

/// RELAY-6: a setting that an old release kept in a clean sync is cleared after an upgrade to a
/// release that clears settings.
#[test]
fn relay_6_a_setting_that_a_release_kept_is_cleared_after_an_upgrade() {
    for from in [Age::Y2024M12, Age::Y2025M7, Age::Y2026M3] {
        let mut world = in_step(from, [team("A", wire::Policy::Blocklist)]);
        let regex = Some("^/opt/.*".to_owned());
        world.server.change_settings(|settings| settings.allowed_path_regex = regex.clone());
        world.settle();
        world.server.change_settings(|settings| settings.allowed_path_regex = None);
        world.pull_as(wire::SyncType::Clean);
        world.settle();
        assert_eq!(world.santa.settings().get("allowed_path_regex"), regex.as_ref());
        world.relay.restart();
        world.santa.profile.age = Age::Y2026M7;
        for _ in 0..2 {
            world.push();
        }
        assert_eq!(world.santa.settings().get("allowed_path_regex"), None, "{from:?}");
        assert_eq!(world.push().sync_type, SyncType::Normal, "once");
        world.assert_in_step();
    }
}

/// RELAY-10: SIP flags that a release does not report are left out. Zero would mean that SIP is
/// fully enabled.
#[test]
fn relay_10_flags_that_a_release_does_not_report_are_not_zero() {
    for (age, flags, reported) in
        [(Age::Y2024M12, 0x6f, None), (Age::Y2025M7, 0x6f, Some(0x6f)), (Age::Y2025M7, 0, Some(0))]
    {
        let mut world = World::with(age, false);
        world.santa.profile.sip_status = flags;
        world.push();
        let report = AuthorizerReport::read(&world.agent.state_dir).expect("a report");
        assert_eq!(report.sip_status, reported, "{age:?}");
    }
}

/// RELAY-4: a new installation of Santa is not put into LOCKDOWN before it has rules, although
/// the previous installation had acknowledged them.
#[test]
fn relay_4_a_new_installation_gets_its_rules_with_the_mode() {
    for age in Age::ALL {
        let mut world = in_step(age, [team("A", wire::Policy::Allowlist)]);
        let mode = wire::ClientMode::Lockdown;
        world.server.change_settings(|settings| settings.set_client_mode(mode));
        world.settle();
        assert_eq!(world.santa.client_mode(), ClientMode::Lockdown);
        world.santa.lose_state();
        world.lose_rules();
        world.relay.pass(Duration::from_secs(61));
        assert_eq!(world.push().received, 0, "events first");
        assert_eq!((world.santa.rows().len(), world.santa.client_mode()), (0, ClientMode::Monitor));
        world.push();
        assert_eq!(world.santa.client_mode(), ClientMode::Lockdown);
        world.assert_in_step();
    }
}

/// RELAY-6: an authorizer without a hash that loses its rules right after it has
/// acknowledged them is sent them again. CEL rules, which it is not sent, are no loss.
#[test]
fn relay_6_an_emptied_authorizer_without_a_hash_is_filled_again() {
    let mut cel = team("A", wire::Policy::Cel);
    "true".clone_into(&mut cel.cel_expr);
    let mut world = World::with(Age::Y2024M12, false);
    world.server.set_rules([
        cel,
        team("B", wire::Policy::Blocklist),
        team("C", wire::Policy::Allowlist),
    ]);
    world.pull();
    for _ in 0..2 {
        world.push();
    }
    assert_eq!(world.santa.rows().len(), 2);
    world.santa.drift(|table| *table = RuleTable::default());
    for _ in 0..2 {
        world.push();
    }
    assert_eq!(world.santa.rows().len(), 2, "{}", world.relay.why());
    world.settle();
    assert!(!world.relay.sees_drift());
}

/// RELAY-6: events that have waited for longer than a minute are uploaded before a
/// clean sync, which would delete them.
#[test]
fn relay_6_events_are_uploaded_before_a_clean_sync() {
    for (transfer, age) in [(Transfer::Json, Age::Y2026M7), (Transfer::Protobuf, Age::Y2024M12)] {
        let mut world = in_step(age, fixtures::rules(10, 1));
        world.santa.profile.transfer = transfer;
        (0..5).for_each(|number| world.observe(&allowed(number)));
        world.relay.pass(Duration::from_secs(61));
        world.server.set_rules(fixtures::rules(10, 2));
        world.pull_as(wire::SyncType::Clean);
        let done = world.push();
        assert_eq!((done.sync_type, done.received), (SyncType::Normal, 0));
        assert_eq!((done.uploaded, done.deleted_unsent), (5, 0));
        let done = world.push();
        assert_eq!((done.sync_type, done.deleted_unsent), (SyncType::Clean, 0));
        world.settle();

        // Where the profile keeps them, there is no need.
        let mut world = World::with(age, true);
        world.server.set_rules(fixtures::rules(10, 1));
        world.pull();
        world.observe(&allowed(1));
        let done = world.push();
        assert_eq!((done.sync_type, done.uploaded), (SyncType::CleanAll, 1));
    }
}

/// RELAY-6: once the relay has the postflight, the sync counts as having uploaded all events, even
/// if Santa's sync service is killed before it records that.
#[test]
fn relay_6_a_sync_killed_after_its_postflight_has_uploaded_all_events() {
    for age in Age::ALL {
        let mut world = in_step(age, [team("A", wire::Policy::Allowlist)]);
        world.relay.pass(Duration::from_secs(61));
        world.observe(&allowed(1));
        let done = world.push_with(&mut |step| {
            let noted = matches!(step, Step::Answered { stage: Stage::Postflight, .. });
            if noted { Act::Kill } else { Act::Go }
        });
        assert_eq!((done.status, done.uploaded), (Status::Killed, 1));
        world.pull_as(wire::SyncType::CleanAll);
        let done = world.push();
        assert_eq!((done.sync_type, done.deleted_unsent), (SyncType::CleanAll, 0), "{age:?}");
        world.settle();
    }
}

/// RELAY-6: an empty set empties Santa, which ignores clean sets without rules.
#[test]
fn relay_6_an_empty_set_empties_santa() {
    for age in Age::ALL {
        let mut world = in_step(age, fixtures::rules(10, 1));
        world.add_transitive(SHA);
        world.server.set_rules([]);
        world.pull_as(wire::SyncType::Clean);
        let done = world.push();
        assert_eq!((done.sync_type, done.received, done.processed), (SyncType::Clean, 1, 1));
        assert_eq!(world.santa.server_rows(), []);
        world.settle();
    }
}

/// RELAY-6: transitive rules go with a `CLEAN_ALL` of the server's, even one that
/// changes nothing else, and stay otherwise.
#[test]
fn relay_6_a_clean_all_of_the_server_is_handed_on() {
    for age in Age::ALL {
        let mut world = in_step(age, fixtures::rules(10, 1));
        world.add_transitive(SHA);
        world.pull_as(wire::SyncType::Clean);
        assert_eq!(world.push().received, 0, "nothing has changed");
        world.pull_as(wire::SyncType::CleanAll);
        let done = world.push();
        assert_eq!(done.sync_type, SyncType::CleanAll);
        assert_eq!(world.santa.rows(), world.expected_rows());
        world.settle();
    }
}

/// RELAY-6: a store that was rebuilt with other texts and the same hash is no reason
/// to call the authorizer in step.
#[test]
fn relay_6_another_store_with_the_same_hash_is_another_set() {
    let worded = |text: &str| {
        let mut rule = team("A", wire::Policy::Blocklist);
        text.clone_into(&mut rule.custom_msg);
        [rule]
    };
    for (text, received) in [("two", 1), ("one", 0)] {
        let mut world = in_step(Age::Y2026M7, worded("one"));
        world.add_transitive(SHA);
        world.server.set_rules(worded(text));
        world.rebuild(false);
        world.pull();
        // First its events, then the rules.
        let received_in_all: u32 = (0..2).map(|_| world.push().received).sum();
        assert_eq!(received_in_all, received, "{}", world.relay.why());
        world.settle();
    }
}

/// RELAY-6: rules that were reordered on the host may get the hash of a generation that was never
/// sent there. They lack that generation's texts.
#[test]
fn relay_6_a_generation_that_was_never_sent_is_not_taken_for_held() {
    let rules = [team("A", wire::Policy::Blocklist), team("B", wire::Policy::Blocklist)];
    let mut world = in_step(Age::Y2026M7, rules.clone());
    let first = world.santa.server_rows().first().cloned().expect("a row");
    world.santa.drift(|table| table.put(first));
    // The server sends A again, with a text: it is now the last one here, too.
    let [mut changed, _] = rules;
    "a text".clone_into(&mut changed.custom_msg);
    world.server.queue_changes(vec![changed]);
    world.pull();
    assert_eq!(world.agent.store().rules_hash().expect("read"), world.santa.rules_hash());
    assert_ne!(world.santa.server_rows(), world.expected_rows());
    world.push();
    world.push();
    world.assert_in_step();
    world.settle();
}

/// RELAY-6, RULE-12: a store that was rebuilt, and whose first commit has no rules, does not
/// reuse the numbers of the lost store. Even if it did, the digest would show that the
/// acknowledged generation is a different one.
#[test]
fn relay_6_a_rebuilt_store_is_not_mistaken_for_the_lost_one() {
    for age in Age::ALL {
        for (change, relay_runs) in
            [(team("A", wire::Policy::Remove), false), (team("B", wire::Policy::Blocklist), true)]
        {
            let mut world = in_step(age, [team("A", wire::Policy::Allowlist)]);
            world.server.set_rules([]);
            world.rebuild(relay_runs);
            world.pull();
            world.server.queue_changes(vec![change]);
            world.settle();
        }
    }
}

/// RELAY-6: what a server of sync v2 left behind goes with the first clean sync, where
/// the release clears its state in clean syncs; elsewhere it is no reason for one.
#[test]
fn relay_6_what_sync_v2_left_is_cleared_once() {
    for age in [Age::Y2025M7, Age::Y2026M3, Age::Y2026M7] {
        let mut cel = team("A", wire::Policy::Cel);
        "true".clone_into(&mut cel.cel_expr);
        let mut world = World::with(age, false);
        world.santa.hold_tokens();
        world.server.set_rules([cel, team("B", wire::Policy::Blocklist)]);
        world.pull();
        let kinds: Vec<_> = (0..5).map(|_| world.push().sync_type).collect();
        assert_eq!(kinds[3..], [SyncType::Normal; 2], "{age:?} {kinds:?}");
        assert_eq!(world.santa.speaks_v2(), !age.clears_settings());
        assert_eq!(world.push().received, 0);
        if age.clears_settings() {
            world.assert_in_step();
        }
    }
}

/// RELAY-5, RELAY-7: of two pages the second breaks off, which Santa takes for the
/// end: what it then holds is not acknowledged, and the next sync brings all.
#[test]
fn relay_7_a_page_that_breaks_off_is_not_acknowledged() {
    let mut world = World::with(Age::Y2026M7, false);
    world.server.set_rules(fixtures::rules(50_100, 1));
    world.pull();
    world.push();
    let done = world.push_with(&mut |step| {
        let second = matches!(step, Step::Attempt { stage: Stage::RuleDownload, request: 2, .. });
        if second { Act::Lose(Loss::HalfOfBody) } else { Act::Go }
    });
    assert_eq!((done.pages, done.received), (2, 50_000));
    assert!(world.relay.lacks());
    let done = world.push();
    assert_eq!((done.pages, done.received, done.sync_type), (2, 50_100, SyncType::Clean));
    world.assert_in_step();
}
