//! Generations and the log of changes (RULE-12), against a model of them.

use std::ops::ControlFlow;
use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;

use super::generations::{Bounds, Changes, prune};
use crate::model::{
    CleanSyncReason, Identifier, Policy, Rule, RuleDetails, RuleSet, RuleState, RuleType, Settings,
    StoredRule, SyncType, Timestamp,
};
use crate::store::{
    Generation, GenerationSource, LoggedChange, LoggedRule, RuleCommit, RuleGuard, RuleRow,
    RulesSnapshot, RulesStanding, Store,
};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);
const START: Timestamp = Timestamp::from_millis(i64::MIN);

fn open(dir: &Path) -> Store {
    Store::open(dir, NOW).expect("a store").0
}

fn set(rules: Vec<Rule>) -> RuleSet {
    let mut set = RuleSet::default();
    set.push_page(rules, Vec::new());
    set
}

fn rule(name: &str, policy: Policy, message: &str) -> Rule {
    Rule {
        identifier: Identifier::SigningId(format!("platform:{name}").into()),
        policy,
        details: Some(Box::new(RuleDetails {
            custom_msg: message.to_owned(),
            cel_expr: if policy == Policy::Cel { "true".to_owned() } else { String::new() },
            ..RuleDetails::default()
        })),
    }
}

fn allow(names: &[&str]) -> RuleSet {
    set(names.iter().map(|name| rule(name, Policy::Allowlist, "")).collect())
}

fn commit(store: &mut Store, rules: &RuleSet, sync_type: SyncType) -> Option<Generation> {
    let done = store.commit_rules(rules, (sync_type, NOW)).expect("committed");
    done.generation.map(|number| store.generation(number).expect("read").expect("kept"))
}

fn generations(store: &Store) -> Vec<Generation> {
    let mut found = Vec::new();
    let mut keep = |generation| {
        found.push(generation);
        ControlFlow::Continue(())
    };
    store.visit_generations(START, &mut keep).expect("read");
    found
}

fn changes(store: &Store, generation: i64, identifier: &str) -> Vec<(LoggedChange, String)> {
    let mut found = Vec::new();
    let mut keep = |LoggedRule { change, identifier, .. }| {
        found.push((change, identifier.replace("platform:", "")));
        ControlFlow::Continue(())
    };
    store.visit_changes(generation, identifier, &mut keep).expect("read");
    found
}

fn removed_since(store: &Store, base: i64) -> Vec<(String, RuleType)> {
    let snapshot = RulesSnapshot::open(store.dir()).expect("a snapshot");
    let places = snapshot.changes_since(base).expect("read").removed;
    let mut found = Vec::new();
    let mut keep = |identifier: &str, rule_type| {
        found.push((identifier.to_owned(), rule_type));
        ControlFlow::Continue(())
    };
    snapshot.visit_changes_at(&places, &mut keep).expect("read");
    found
}

fn sent_since(store: &Store, base: i64) -> Vec<Entry> {
    let snapshot = RulesSnapshot::open(store.dir()).expect("a snapshot");
    let places = snapshot.changes_since(base).expect("read").sent;
    let mut found = Vec::new();
    let mut keep = |rule: &RuleRow<'_>| {
        found.push(row_entry(rule));
        ControlFlow::Continue(())
    };
    snapshot.visit_rules_at(&places, &mut keep).expect("read");
    found
}

/// RULE-12: a generation counts and lists what its commit did to each rule.
#[test]
fn rule_12_a_generation_says_what_became_of_each_rule() {
    use LoggedChange::{Added, Missed, Removed, Replaced, Reworded, SentAgain};
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    assert_eq!(store.newest_generation().expect("read"), None);
    assert_eq!(commit(&mut store, &RuleSet::default(), SyncType::Normal), None);
    let first = commit(&mut store, &allow(&["a", "b", "c", "d"]), SyncType::Normal).expect("one");
    assert_eq!((first.number, first.added, first.complete), (1, 4, true));

    let second = set(vec![
        rule("b", Policy::Blocklist, ""),
        rule("new", Policy::Allowlist, ""),
        rule("a", Policy::Allowlist, "a text"),
        rule("c", Policy::Remove, ""),
        rule("none", Policy::Remove, ""),
        rule("d", Policy::Allowlist, ""),
    ]);
    let sync = Some("the sync".to_owned());
    let order = RuleCommit { sync: sync.clone(), ..(SyncType::Normal, NOW).into() };
    store.commit_rules(&second, order).expect("committed");
    let second = store.newest_generation().expect("read").expect("one");
    assert_eq!((second.number, second.sync, second.committed_at), (2, sync, NOW));
    assert_eq!((second.added, second.replaced, second.reworded, second.sent_again), (1, 1, 1, 1));
    assert_eq!((second.removed, second.missed), (1, 1));
    assert_eq!(second.rules_hash, store.rules_hash().expect("a hash"));
    let all = [Replaced, Added, Reworded, Removed, Missed, SentAgain];
    let expected = all.into_iter().zip(["b", "new", "a", "c", "none", "d"].map(str::to_owned));
    assert_eq!(changes(&store, 2, ""), expected.collect::<Vec<_>>());
    assert_eq!(changes(&store, 2, "PLATFORM:N").len(), 2);

    // A clean sync that repeats the rules changes nothing, and lists nothing.
    let again = set(vec![
        rule("b", Policy::Blocklist, ""),
        rule("new", Policy::Allowlist, ""),
        rule("a", Policy::Allowlist, "a text"),
        rule("d", Policy::Allowlist, ""),
    ]);
    let third = commit(&mut store, &again, SyncType::Clean).expect("one");
    assert_eq!((third.sent_again, third.removed, third.complete), (4, 0, true));
    assert_eq!((&third.digest, changes(&store, 3, "")), (&second.digest, vec![]));
    // So does a NORMAL one that sends all of them in their order.
    let normal = commit(&mut store, &again, SyncType::Normal).expect("one");
    assert_eq!((normal.number, normal.sent_again), (4, 4));
    assert_eq!((&normal.digest, changes(&store, 4, "")), (&second.digest, vec![]));
    // In another order it is another set, though each rule is as it was.
    let turned = set(vec![
        rule("new", Policy::Allowlist, ""),
        rule("b", Policy::Blocklist, ""),
        rule("a", Policy::Allowlist, "a text"),
        rule("d", Policy::Allowlist, ""),
    ]);
    let fourth = commit(&mut store, &turned, SyncType::CleanAll).expect("one");
    assert_ne!(fourth.digest, third.digest);
    // A text alone is not in the reference's hash.
    let fifth = set(vec![rule("d", Policy::Allowlist, "a text")]);
    let fifth = commit(&mut store, &fifth, SyncType::Normal).expect("one");
    assert_eq!(fifth.rules_hash, fourth.rules_hash);
    assert_ne!(fifth.digest, fourth.digest);

    let empty = commit(&mut store, &RuleSet::default(), SyncType::Clean).expect("one");
    assert_eq!((empty.number, empty.removed), (7, 4));
    assert_eq!(commit(&mut store, &RuleSet::default(), SyncType::Clean), None, "nothing deleted");
    assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
}

/// RULE-12: REMOVEs that hit nothing here may hit something elsewhere; rules
/// that came back are not removed.
#[test]
fn rule_12_what_was_removed_since_is_what_does_not_exist() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let remove =
        |names: &[&str]| set(names.iter().map(|name| rule(name, Policy::Remove, "")).collect());
    commit(&mut store, &allow(&["a", "b"]), SyncType::Normal);
    commit(&mut store, &remove(&["a", "x", "b"]), SyncType::Normal);
    commit(&mut store, &allow(&["b"]), SyncType::Normal);
    let names = |base| -> Vec<String> {
        removed_since(&store, base).into_iter().map(|(identifier, _)| identifier).collect()
    };
    assert_eq!(names(1), ["platform:a", "platform:x"]);
    assert_eq!(names(2), [""; 0]);
    assert_eq!(sent_since(&store, 2).len(), 1);
}

/// RULE-12: what another program wrote is a generation without its changes.
#[test]
fn rule_12_rules_of_another_program_are_a_generation_of_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    commit(&mut store, &allow(&["a"]), SyncType::Normal);
    let other = Connection::open(dir.path().join("rules.db")).expect("open");
    let insert = |identifier: &str, state: RuleState| {
        let sql = "INSERT INTO execution_rules (identifier, state, type) VALUES (?1, ?2, 1000)";
        other.execute(sql, (identifier, state.number())).expect("inserted");
    };
    // The host's own transitive rules are in no set of the server's.
    insert(&"0".repeat(64), RuleState::AllowTransitive);
    commit(&mut store, &allow(&["b"]), SyncType::Normal);
    assert_eq!(generations(&store).len(), 2);
    insert(&"1".repeat(64), RuleState::AllowLocalBinary);
    commit(&mut store, &allow(&["c"]), SyncType::Normal);
    let found: Vec<_> =
        generations(&store).into_iter().map(|g| (g.number, g.source, g.complete)).collect();
    let sync = GenerationSource::Sync;
    assert_eq!(
        found,
        [(4, sync, true), (3, GenerationSource::Found, false), (2, sync, true), (1, sync, true)]
    );
    assert!(!store.rules_since(2).expect("read").expect("kept").complete);
    assert!(store.rules_since(3).expect("read").expect("kept").complete);
    assert_eq!(store.rules_since(9).expect("read"), None);
}

/// A store that replaced a damaged one with a generation.
fn rebuilt(dir: &Path) -> Store {
    commit(&mut open(dir), &allow(&["a"]), SyncType::Normal);
    std::fs::write(dir.join("rules.db"), "broken").expect("written");
    open(dir)
}

/// RULE-12: numbers never come again, also where the database was lost.
#[test]
fn rule_12_numbers_go_on_after_a_rebuild() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = rebuilt(dir.path());
    let reasons: Vec<_> =
        store.clean_sync_requests().expect("read").into_iter().map(|r| r.reason).collect();
    assert_eq!(reasons, [CleanSyncReason::RulesRecreated]);
    let one = commit(&mut store, &allow(&["a"]), SyncType::Clean).expect("one");
    assert_eq!(one.number, NOW.as_secs());
    let next = commit(&mut store, &allow(&["b"]), SyncType::Normal).expect("one");
    assert_eq!(next.number, one.number + 1);
}

/// RULE-12: numbers also go on if the first commit to the new database has no rules.
#[test]
fn rule_12_numbers_go_on_after_a_rebuild_with_an_empty_set() {
    for sync_type in [SyncType::Normal, SyncType::Clean, SyncType::CleanAll] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = rebuilt(dir.path());
        let one = commit(&mut store, &RuleSet::default(), sync_type).expect("one");
        assert_eq!((one.number, one.added, one.removed), (NOW.as_secs(), 0, 0));
        assert_eq!(commit(&mut store, &RuleSet::default(), SyncType::Normal), None, "once");
    }
}

/// RULE-12: what is kept is bounded, in the same transaction.
#[test]
fn rule_12_old_generations_and_changes_are_pruned() {
    const WIDE: Bounds = Bounds { generations: 100, changes: 100, bytes: 1 << 20, clean: 100 };
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    for name in ["a", "b", "c", "d", "e"] {
        commit(&mut store, &allow(&[name, "again"]), SyncType::Normal);
    }
    let mut pruned = |bounds| {
        let tx = store.rules.transaction().expect("begun");
        prune(&tx, bounds).expect("pruned");
        let kept = "SELECT number, complete, changes = (SELECT count(*) FROM agent_rule_changes \
                    WHERE generation = number) FROM agent_generations ORDER BY number";
        let mut statement = tx.prepare(kept).expect("prepared");
        let rows = statement.query_map([], |row| {
            assert!(row.get::<_, bool>(2).expect("the count is right"));
            Ok((row.get(0)?, row.get(1)?))
        });
        rows.expect("asked").collect::<Result<Vec<(i64, bool)>, _>>().expect("read")
    };
    let all = |from| (from..=5).map(|n| (n, true)).collect::<Vec<_>>();
    assert_eq!(pruned(WIDE), all(1));
    assert_eq!(pruned(Bounds { generations: 3, ..WIDE }), all(3));
    let last = [(1, false), (2, false), (3, false), (4, true), (5, true)];
    assert_eq!(pruned(Bounds { changes: 5, ..WIDE }), last);
    assert_eq!(pruned(Bounds { bytes: 300, ..WIDE }), last);

    // A commit that is larger than the log is not looked into.
    let counts = store.rule_counts().expect("counts");
    let found = |rules: &RuleSet, sync_type| {
        let bounds = Bounds { changes: 6, clean: 7, ..WIDE };
        let found = Changes::find(&store.rules, rules, sync_type, &counts, bounds);
        found.expect("found").is_kept()
    };
    assert!(found(&allow(&["x"; 6]), SyncType::Normal));
    assert!(!found(&allow(&["x"; 7]), SyncType::Normal));
    assert!(found(&allow(&["x"]), SyncType::Clean), "six are deleted, one is sent");
    assert!(!found(&allow(&["x", "y"]), SyncType::Clean));
}

/// RELAY-3, RELAY-6: who passes the rules on hears whether they are all of the
/// server's, and of a `CLEAN_ALL` that is not this agent's own affair.
#[test]
fn relay_6_a_commit_says_what_matters_to_those_who_pass_rules_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let standing = || RulesSnapshot::open(dir.path()).expect("opened").rules_standing();
    let standing = || standing().expect("read");
    assert_eq!(standing(), RulesStanding { unrecorded: false, ..RulesStanding::default() });
    commit(&mut store, &allow(&["a"]), SyncType::Normal);
    let now = standing();
    assert!(now.complete && !now.filled && !now.to_be_replaced && now.clean_all.is_none());
    assert_eq!(now.unguarded, Some(1));

    let request = |store: &mut Store, reason| {
        store.request_clean_sync(SyncType::CleanAll, reason, NOW).expect("noted");
    };
    request(&mut store, CleanSyncReason::RulesRecreated);
    assert!(standing().to_be_replaced);
    commit(&mut store, &allow(&["a"]), SyncType::CleanAll);
    assert!(standing().filled);
    assert_eq!(standing().clean_all, None, "this agent needed it");
    store.stage_settings(&Settings::default(), SyncType::CleanAll).expect("staged");
    store.apply_staged(true, Some(SyncType::CleanAll), NOW).expect("applied");
    assert!(!standing().to_be_replaced);

    let guard = Some(RuleGuard::new(10));
    let guarded = RuleCommit { guard, ..(SyncType::CleanAll, NOW).into() };
    store.commit_rules(&allow(&["a"]), guarded).expect("committed");
    assert_eq!((standing().clean_all, standing().unguarded), (Some(3), Some(2)), "the server's");
    request(&mut store, CleanSyncReason::NewState);
    request(&mut store, CleanSyncReason::Operator);
    commit(&mut store, &set(Vec::new()), SyncType::CleanAll);
    assert_eq!(standing().clean_all, Some(4), "the operator's");
    commit(&mut store, &set(Vec::new()), SyncType::CleanAll);
    assert_eq!(standing().clean_all, Some(5), "also if nothing was there");

    let other = Connection::open(dir.path().join("rules.db")).expect("open");
    let sql = "INSERT INTO execution_rules (identifier, state, type) VALUES ('x', 2, 4000)";
    other.execute(sql, []).expect("inserted");
    assert!(standing().unrecorded);
}

/// RELAY-5: a snapshot stays as it was, whatever is committed meanwhile.
#[test]
fn relay_5_a_snapshot_is_of_one_moment() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    commit(&mut store, &allow(&["a", "b", "c"]), SyncType::Normal);
    let snapshot = RulesSnapshot::open(dir.path()).expect("opened");
    commit(&mut store, &allow(&["d"]), SyncType::CleanAll);
    let mut found = Vec::new();
    let mut keep = |rule: &RuleRow<'_>| {
        found.push(rule.identifier.replace("platform:", ""));
        ControlFlow::Continue(())
    };
    snapshot.visit_rules_after(i64::MIN, &mut keep).expect("read");
    assert_eq!(found, ["a", "b", "c"]);
    let newest = snapshot.newest_generation().expect("read").expect("one");
    assert_eq!(newest.number, 1);
}

/// RULE-12: since when a rule stands, and whether that is known.
#[test]
fn rule_12_a_rule_knows_since_when_it_decides() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let since = |store: &Store, name: &str| {
        let mut found = None;
        let mut keep = |rule: StoredRule| {
            if rule.identifier == format!("platform:{name}") {
                found = store.rule_since(&rule).expect("read");
            }
            ControlFlow::Continue(())
        };
        store.visit_rules(&crate::store::RuleFilter::default(), &mut keep).expect("read");
        found.map(|since| (since.generation, since.exact))
    };
    commit(&mut store, &allow(&["a", "b"]), SyncType::Normal);
    commit(&mut store, &set(vec![rule("a", Policy::Allowlist, "text")]), SyncType::Normal);
    commit(&mut store, &set(vec![rule("b", Policy::Blocklist, "")]), SyncType::Normal);
    commit(&mut store, &set(vec![rule("b", Policy::Blocklist, "")]), SyncType::Normal);
    assert_eq!(since(&store, "a"), Some((1, true)), "a text decides nothing");
    assert_eq!(since(&store, "b"), Some((3, true)));
    store
        .rules
        .execute_batch(
            "DELETE FROM agent_rule_changes WHERE generation <= 2; \
             UPDATE agent_generations SET complete = 0 WHERE number <= 2",
        )
        .expect("pruned");
    assert_eq!(since(&store, "a"), Some((2, false)), "with it or earlier");
    assert_eq!(since(&store, "b"), Some((3, true)));
}

/// RULE-12, RULE-7: a database of the version before has one generation, found
/// with its rules; its clean-sync requests stay.
#[test]
fn rule_12_a_database_without_generations_is_migrated() {
    let dir = tempfile::tempdir().expect("a directory");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/db/016-agent3.sql");
    let sql = std::fs::read_to_string(fixture).expect("a fixture");
    let conn = Connection::open(dir.path().join("rules.db")).expect("a database");
    conn.execute_batch(&sql).expect("filled");
    drop(conn);
    let (store, notices) = Store::open(dir.path(), NOW).expect("migrated");
    assert_eq!(notices, []);
    let [only] = generations(&store).try_into().expect("one");
    assert_eq!(
        (only.number, only.source, only.rules_hash.as_str()),
        (1, GenerationSource::Found, "a6cb5171bbb8895820d61e395592b293")
    );
    assert_eq!((only.sync_type, only.complete), (None, false));
    let requests = store.clean_sync_requests().expect("read");
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].reason, CleanSyncReason::Operator);
    assert!(store.rules_complete().expect("read"));
    assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
    drop(store);
    assert_eq!(generations(&open(dir.path())).len(), 1, "found once");
}

/// Everything that the digest covers of a rule of these tests.
type Entry = (String, RuleType, RuleState, String, String);

fn row_entry(rule: &RuleRow<'_>) -> Entry {
    let RuleRow { identifier, rule_type, state, cel_expr, custom_msg, .. } = rule;
    (
        (*identifier).to_owned(),
        *rule_type,
        *state,
        cel_expr.clone().into_owned(),
        custom_msg.clone().into_owned(),
    )
}

/// The rules that belong to a server, in order.
#[derive(Clone, Debug, Default, PartialEq)]
struct RuleEntries(Vec<Entry>);

impl RuleEntries {
    fn remove(&mut self, identifier: &str, rule_type: RuleType) {
        self.0.retain(|(i, t, ..)| (i.as_str(), *t) != (identifier, rule_type));
    }

    fn send(&mut self, entry: Entry) {
        self.remove(&entry.0, entry.1);
        self.0.push(entry);
    }

    fn download(&mut self, rules: &[Rule], sync_type: SyncType) {
        let local = [RuleState::AllowLocalBinary, RuleState::AllowLocalSigningId];
        self.0.retain(|(_, _, state, ..)| match sync_type {
            SyncType::Normal | SyncType::CleanFileAccessRules => true,
            SyncType::CleanStandalone => !local.contains(state),
            SyncType::Clean | SyncType::CleanRules | SyncType::CleanAll => false,
        });
        for rule in rules {
            let (identifier, rule_type) =
                (rule.identifier.to_string(), rule.identifier.rule_type());
            match rule.policy.state() {
                None => self.remove(&identifier, rule_type),
                Some(state) => {
                    let details = rule.details.clone().unwrap_or_default();
                    self.send((identifier, rule_type, state, details.cel_expr, details.custom_msg));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum CommitStep {
    Download(SyncType, Vec<Rule>),
    Local(u8),
    Reopen,
    Vacuum,
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let policies =
        vec![Policy::Allowlist, Policy::Blocklist, Policy::Cel, Policy::Remove, Policy::Remove];
    (0..12_u8, prop::sample::select(policies), 0..3_u8).prop_map(|(n, policy, text)| {
        let message = if text == 0 { String::new() } else { text.to_string() };
        rule(&n.to_string(), policy, &message)
    })
}

fn any_step() -> impl Strategy<Value = CommitStep> {
    let sync_type = prop::sample::select(vec![
        SyncType::Normal,
        SyncType::Normal,
        SyncType::Normal,
        SyncType::Normal,
        SyncType::Clean,
        SyncType::CleanAll,
        SyncType::CleanStandalone,
        SyncType::CleanFileAccessRules,
    ]);
    prop_oneof![
        12 => (sync_type, prop::collection::vec(any_rule(), 0..8))
            .prop_map(|(sync_type, rules)| CommitStep::Download(sync_type, rules)),
        1 => (0..4_u8).prop_map(CommitStep::Local),
        1 => Just(CommitStep::Reopen),
        1 => Just(CommitStep::Vacuum),
    ]
}

fn compare(steps: Vec<CommitStep>, bulk: usize) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let mut rules = RuleEntries::default();
    // What the store held at each generation.
    let mut held = vec![(0, Generation::none().digest, RuleEntries::default())];
    for step in steps {
        match step {
            CommitStep::Download(sync_type, sent) => {
                let filler = |n: usize| rule(&format!("filler-{n}"), Policy::Allowlist, "");
                let sent: Vec<Rule> = (0..bulk).map(filler).chain(sent).collect();
                rules.download(&sent, sync_type);
                commit(&mut store, &set(sent), sync_type);
            }
            CommitStep::Local(n) => {
                let identifier = format!("platform:{n}");
                let other = Connection::open(dir.path().join("rules.db")).expect("open");
                let sql = "INSERT OR REPLACE INTO execution_rules (identifier, state, type) \
                           VALUES (?1, ?2, 2000)";
                let state = RuleState::AllowLocalSigningId;
                other.execute(sql, (&identifier, state.number())).expect("inserted");
                let text = String::new();
                rules.send((identifier, RuleType::SigningId, state, text.clone(), text));
                // Noticed at the next opening.
                drop(store);
                store = open(dir.path());
            }
            CommitStep::Reopen => {
                drop(store);
                store = open(dir.path());
            }
            CommitStep::Vacuum => store.rules.execute_batch("VACUUM").expect("rewritten"),
        }
        let Some(newest) = store.newest_generation().expect("read") else { continue };
        prop_assert_eq!(&newest.rules_hash, &store.rules_hash().expect("a hash"));
        if held.last().is_none_or(|(number, ..)| *number != newest.number) {
            held.push((newest.number, newest.digest.clone(), rules.clone()));
        }
        for (base, digest, before) in &held {
            prop_assert_eq!(*digest == newest.digest, *before == rules);
            let since = store.rules_since(*base).expect("read").expect("kept");
            prop_assert_eq!(since.same, *before == rules);
            if !since.complete || !since.clean.is_empty() {
                continue;
            }
            // Whoever holds the base comes to the same rules in the same order.
            let mut told = before.clone();
            for (identifier, rule_type) in removed_since(&store, *base) {
                told.remove(&identifier, rule_type);
            }
            for rule in sent_since(&store, *base) {
                told.send(rule);
            }
            prop_assert_eq!(&told, &rules);
        }
    }
    prop_assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// RULE-12: from any generation the changes since lead to the newest rules,
    /// in every column and in order; equal digests mean equal rules.
    #[test]
    fn rule_12_changes_since_any_generation_lead_to_the_newest(
        steps in prop::collection::vec(any_step(), 1..14)
    ) {
        compare(steps, 0)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// RULE-12: the same where every download is worth making the index again.
    #[test]
    fn rule_12_changes_of_large_downloads_lead_to_the_newest(
        steps in prop::collection::vec(any_step(), 1..6)
    ) {
        compare(steps, 1_000)?;
    }
}
