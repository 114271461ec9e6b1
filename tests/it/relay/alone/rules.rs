//! What it does with rules, and what it says of them.

use santa_sync::harness::{FakeServer, SyncTypePolicy, fixtures};
use santa_sync::model::{Stage, SyncType, Transfer};
use santa_sync::protocol::wire;
use serde_json::Value;

use super::{OTHER, SHA, rule, team};
use crate::agent::Agent;
use crate::relay::santa::{
    Age, LOCAL_BINARY, Row, RuleTable, Santa, Status, TRANSITIVE, UNCOMPILABLE, row,
};
use crate::relay::stored;

/// Changes by syncs of every kind leave what our own client stores, in every release
/// and both forms: two programs that share nothing but the schema.
#[test]
fn every_release_and_our_own_client_store_the_same() {
    for age in Age::ALL {
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let rules: Vec<_> = fixtures::rules(60, 3).collect();
            let server = FakeServer::builder().rules(rules.clone()).page_size(25).start().unwrap();
            let santa = Santa::new(age, &server.url()).with(|profile| {
                profile.transfer = transfer;
                "santa".clone_into(&mut profile.machine_id);
            });
            let agent = Agent::of(&server);
            let kinds = [SyncType::Normal, SyncType::Clean, SyncType::CleanAll];
            for (round, kind) in kinds.into_iter().enumerate() {
                if kind != SyncType::Normal {
                    let kind = if kind == SyncType::Clean { "CLEAN" } else { "CLEAN_ALL" };
                    let kind = serde_json::from_value::<wire::PreflightResponse>(
                        serde_json::json!({ "sync_type": kind }),
                    );
                    let kind = kind.unwrap().sync_type;
                    server.change_settings(|settings| settings.sync_type = kind);
                }
                let synced = santa.sync();
                assert_eq!(synced.status, Status::Success, "{age:?} {synced:?}");
                assert_eq!(agent.sync(&[]).code, Some(0));
                let known: Vec<_> = stored::rows(&agent.state_dir);
                let known: Vec<_> = known.into_iter().filter(|row| is_known(age, row)).collect();
                assert_eq!(santa.rows(), known, "{age:?} {transfer:?} {round}");
                let changes = fixtures::changes(&server.rules(), (7, 5, 9), round as u64);
                server.queue_changes(changes);
            }
            if age == Age::Y2026M7 {
                let store = agent.store();
                assert_eq!(santa.rules_hash(), store.rules_hash().unwrap());
            }
        }
    }
}

fn is_known(age: Age, row: &Row) -> bool {
    match row.state {
        9 => age.knows(wire::Policy::Cel),
        12 | 13 => age.knows(wire::Policy::SilentGuiBlocklist),
        _ => true,
    }
}

/// The hash of cases 156 and 157.
#[test]
fn the_hash_is_the_one_that_santa_has_for_its_sample() {
    use wire::{Policy, RuleType};
    let mut table = RuleTable::default();
    for rule in [
        rule(
            "7ae80b9ab38af0c63a9a81765f434d9a7cd8f720eb6037ef303de39d779bc258",
            RuleType::Certificate,
            Policy::Allowlist,
        ),
        rule(
            "b7c1e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b670",
            RuleType::Binary,
            Policy::Blocklist,
        ),
        team("ABCDEFGHIJ", Policy::Blocklist),
        rule("ABCDEFGHIJ:signingID", RuleType::Signingid, Policy::Blocklist),
    ] {
        table.put(row(&rule, Age::Y2026M7, false).unwrap());
    }
    assert_eq!(table.hash(), "a6cb5171bbb8895820d61e395592b293");
    table.put(Row {
        identifier: OTHER.to_owned(),
        state: TRANSITIVE,
        rule_type: 1000,
        ..Row::default()
    });
    assert_eq!(table.hash(), "a6cb5171bbb8895820d61e395592b293");
    assert_eq!((table.counts().binary, table.counts().transitive), (2, 1));
}

/// The counts have `StaticRules` in them, transitive rules in those of binaries, and
/// compilers by state.
#[test]
fn counts_are_those_of_the_table_and_of_static_rules() {
    let santa = Santa::new(Age::Y2026M7, "http://127.0.0.1:1/").with(|profile| {
        let rule = team("ABCDEFGHIJ", wire::Policy::AllowlistCompiler);
        profile.static_rules = vec![row(&rule, Age::Y2026M7, false).unwrap()];
    });
    santa.add_transitive(OTHER);
    santa.add_of_user(SHA);
    let sent = santa.preflight();
    let counts = [sent.binary_rule_count, sent.transitive_rule_count, sent.compiler_rule_count];
    assert_eq!((counts, sent.teamid_rule_count), ([2, 1, 1], 1));
}

/// Who asks for everything gets CLEAN raised to `CLEAN_ALL`; `CLEAN_RULES` and
/// `CLEAN_STANDALONE` are NORMAL to it; the request ends with the first clean sync.
#[test]
fn the_type_of_a_sync_is_negotiated_as_santa_does() {
    use wire::SyncType as Said;
    for (said, required, done) in [
        (Said::Normal, SyncType::CleanAll, SyncType::Normal),
        (Said::Clean, SyncType::CleanAll, SyncType::CleanAll),
        (Said::Clean, SyncType::Clean, SyncType::Clean),
        (Said::Clean, SyncType::Normal, SyncType::Clean),
        (Said::CleanAll, SyncType::Normal, SyncType::CleanAll),
        (Said::CleanRules, SyncType::Clean, SyncType::Normal),
        (Said::CleanStandalone, SyncType::Clean, SyncType::Normal),
    ] {
        let server = FakeServer::builder()
            .rules(fixtures::rules(3, 1))
            .sync_type(SyncTypePolicy::Always(said))
            .start()
            .unwrap();
        let santa = Santa::new(Age::Y2026M7, &server.url());
        santa.require(required);
        assert_eq!(santa.sync().sync_type, done, "{said:?} {required:?}");
        let left = if done == SyncType::Normal { required } else { SyncType::Normal };
        assert_eq!(santa.required(), left);
    }
    let server = FakeServer::builder().sync_type(SyncTypePolicy::LegacyFlag).start().unwrap();
    let santa = Santa::new(Age::Y2024M12, &server.url());
    assert_eq!(santa.sync().sync_type, SyncType::CleanAll);
    assert_eq!(santa.sync().sync_type, SyncType::Normal);
}

/// CLEAN keeps transitive rules and takes users' rules away, `CLEAN_ALL` takes both; an
/// expression that does not compile costs its own rule only, and is counted.
#[test]
fn clean_syncs_take_what_santa_lets_them_take() {
    let mut cel = team("AAAAAAAAAA", wire::Policy::Cel);
    UNCOMPILABLE.clone_into(&mut cel.cel_expr);
    let server = FakeServer::builder()
        .rules([cel, team("ABCDEFGHIJ", wire::Policy::Blocklist)])
        .sync_type(SyncTypePolicy::Always(wire::SyncType::Clean))
        .start()
        .unwrap();
    let santa = Santa::new(Age::Y2026M7, &server.url());
    santa.require(SyncType::Normal);
    santa.add_transitive(OTHER);
    santa.add_of_user(SHA);
    assert!(santa.rows().iter().any(|row| row.state == LOCAL_BINARY));
    let done = santa.sync();
    assert_eq!((done.received, done.processed), (2, 2));
    let states: Vec<_> = santa.rows().iter().map(|row| row.state).collect();
    assert_eq!(states, [TRANSITIVE, 2]);
    server.change_style(|style| {
        style.sync_type = SyncTypePolicy::Always(wire::SyncType::CleanAll);
    });
    santa.sync();
    assert_eq!(santa.rows().len(), 1);
    assert_eq!(santa.rows(), santa.server_rows());
    // Drift shows in the hash of a release that reports one, and in nothing else.
    let before = santa.preflight();
    santa.drift(|table| table.remove("ABCDEFGHIJ", 4000));
    assert_ne!(santa.preflight().rules_hash, before.rules_hash);
    assert_eq!(santa.required(), SyncType::Normal);
    // A downloaded rule replaces a transitive one, never the other way round.
    santa.add_transitive(SHA);
    server.queue_changes(vec![rule(SHA, wire::RuleType::Binary, wire::Policy::Blocklist)]);
    santa.sync();
    santa.add_transitive(SHA);
    assert_eq!(santa.rows().last().map(|row| (row.identifier.as_str(), row.state)), Some((SHA, 2)));
}

/// Policies that a release cannot name cost their rules; they count as received.
#[test]
fn unknown_policies_cost_their_rules() {
    let mut cel = team("AAAAAAAAAA", wire::Policy::Cel);
    "true".clone_into(&mut cel.cel_expr);
    let rules = [cel, team("BBBBBBBBBB", wire::Policy::SilentGuiBlocklist)];
    for (age, kept) in [(Age::Y2024M12, 0), (Age::Y2025M7, 1), (Age::Y2026M3, 1), (Age::Y2026M7, 2)]
    {
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let server = FakeServer::builder().rules(rules.clone()).start().unwrap();
            let santa = Santa::new(age, &server.url()).with(|profile| profile.transfer = transfer);
            let done = santa.sync();
            assert_eq!((done.received, done.processed), (2, kept), "{age:?}");
            assert_eq!(santa.rows().len(), kept as usize);
        }
    }
}

/// Tokens of sync v2 that are left over have it send what only v2 sends, and store
/// CEL rules in another state, until a clean sync of a release that clears.
#[test]
fn tokens_left_over_make_it_speak_v2_until_a_clean_sync() {
    for age in [Age::Y2026M3, Age::Y2026M7] {
        let mut cel = team("AAAAAAAAAA", wire::Policy::Cel);
        "true".clone_into(&mut cel.cel_expr);
        let server = FakeServer::builder().rules([cel]).start().unwrap();
        let santa = Santa::new(age, &server.url());
        santa.hold_tokens();
        santa.require(SyncType::Normal);
        santa.sync();
        let sent: Value = serde_json::from_str(&server.requests(Stage::Preflight)[0].text).unwrap();
        assert!(sent["fileAccessRulesHash"].is_string(), "{sent}");
        assert!(sent["network_flow_rules_hash"].is_string(), "{sent}");
        assert_eq!(santa.rows()[0].state, 10);
        for _ in 0..2 {
            santa.require(SyncType::Clean);
            santa.sync();
        }
        assert_eq!(santa.speaks_v2(), age == Age::Y2026M3);
        assert_eq!(santa.rows()[0].state, if age == Age::Y2026M3 { 10 } else { 9 });
        assert_ne!(santa.rows(), vec![Row::default()]);
    }
}
