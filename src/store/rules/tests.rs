//! What the rule store must do, seen from outside.

use std::path::Path;

use crate::model::{
    Executable, Identifier, Policy, Rule, RuleCounts, RuleDetails, RuleOrigin, RuleSet, RuleState,
    RuleType, StaticRules, SyncType, Timestamp,
};
use crate::store::{Notice, Store, StoreError};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn rule(rule_type: RuleType, identifier: &str, policy: Policy) -> Rule {
    let identifier = Identifier::parse(rule_type, identifier).expect("an identifier");
    Rule { identifier, policy, details: None }
}

fn set(rules: Vec<Rule>) -> RuleSet {
    let mut set = RuleSet::default();
    set.push_page(rules, Vec::new());
    set
}

fn open(dir: &Path) -> Store {
    Store::open(dir, NOW).expect("a store").0
}

/// The rules of the reference's own test of its hash.
fn sample() -> Vec<Rule> {
    vec![
        rule(
            RuleType::Certificate,
            "7ae80b9ab38af0c63a9a81765f434d9a7cd8f720eb6037ef303de39d779bc258",
            Policy::Allowlist,
        ),
        rule(
            RuleType::Binary,
            "b7c1e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b670",
            Policy::Blocklist,
        ),
        rule(RuleType::TeamId, "ABCDEFGHIJ", Policy::Blocklist),
        rule(RuleType::SigningId, "ABCDEFGHIJ:signingID", Policy::Blocklist),
    ]
}

/// RULE-8: the reference's vectors, with and without a transitive rule, and of
/// an empty store.
#[test]
fn rule_8_the_hash_is_the_references() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    assert_eq!(store.rules_hash().expect("a hash"), "99aa06d3014798d86001c324468d497f");
    let committed =
        store.commit_rules(&set(sample()), (SyncType::CleanAll, NOW)).expect("committed");
    assert_eq!(committed.hash, "a6cb5171bbb8895820d61e395592b293");
    assert_eq!((committed.processed, committed.added, committed.changed), (4, 4, true));
    assert_eq!(
        store.rule_counts().expect("counts"),
        RuleCounts { binary: 1, certificate: 1, teamid: 1, signingid: 1, ..RuleCounts::default() }
    );
    drop(store);
    let store = Store::open_read_only(dir.path()).expect("a store to read");
    assert_eq!(store.rules_hash().expect("a hash"), "a6cb5171bbb8895820d61e395592b293");
}

/// RULE-3, RULE-8: a replaced rule moves to the end, which changes the hash.
#[test]
fn rule_3_a_later_rule_replaces_and_remove_deletes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let first = store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let again = vec![sample().remove(0)];
    let moved = store.commit_rules(&set(again), (SyncType::Normal, NOW)).expect("committed");
    assert_eq!((moved.added, moved.replaced), (0, 1));
    assert_ne!(moved.hash, first.hash);
    let reordered = [&sample()[1..], &sample()[..1]].concat();
    let fresh = tempfile::tempdir().expect("a directory");
    let expected = open(fresh.path())
        .commit_rules(&set(reordered), (SyncType::Normal, NOW))
        .expect("committed");
    assert_eq!(moved.hash, expected.hash);

    let remove = vec![rule(RuleType::TeamId, "abcdefghij", Policy::Remove)];
    let removed =
        store.commit_rules(&set(remove.clone()), (SyncType::Normal, NOW)).expect("removed");
    assert_eq!((removed.processed, removed.removed_by_rule, removed.counts.teamid), (1, 1, 0));
    let nothing = store.commit_rules(&set(remove), (SyncType::Normal, NOW)).expect("nothing to do");
    assert_eq!((nothing.removed_by_rule, nothing.changed), (0, false));
    assert_eq!(nothing.hash, removed.hash);
}

/// RULE-2: a complete empty download of a clean sync empties the store.
#[test]
fn rule_2_an_empty_clean_download_deletes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let committed =
        store.commit_rules(&RuleSet::default(), (SyncType::Clean, NOW)).expect("committed");
    assert_eq!((committed.removed_by_cleanup, committed.added), (4, 0));
    assert_eq!(committed.hash, "99aa06d3014798d86001c324468d497f");
}

/// STATE-5: complete from the first committed download on, also an empty one.
#[test]
fn state_5_a_store_is_complete_after_its_first_download() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    assert!(!store.rules_complete().expect("known"));
    store.commit_rules(&RuleSet::default(), (SyncType::Normal, NOW)).expect("committed");
    assert!(store.rules_complete().expect("known"));
}

/// STATE-3: a file that is no database is set aside, never deleted.
#[test]
fn state_3_a_corrupt_database_is_set_aside_and_recreated() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("rules.db"), "this is no database").expect("written");
    let (mut store, notices) = Store::open(dir.path(), NOW).expect("a fresh store");
    let path = dir.path().join("rules.db.corrupt-20250812T120000Z");
    let reason = "file is not a database".to_owned();
    assert_eq!(notices, [Notice::SetAside { path: path.clone(), reason }]);
    assert_eq!(std::fs::read_to_string(path).expect("kept"), "this is no database");
    assert!(!store.rules_complete().expect("known"));
    store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("it can be used");
}

/// RULE-7: a newer schema is refused and left alone.
#[test]
fn rule_7_a_newer_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let path = dir.path().join("rules.db");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.pragma_update(None, "user_version", 17).expect("set");
    drop(conn);
    let before = std::fs::read(&path).expect("read");
    let error = Store::open(dir.path(), NOW).expect_err("too new");
    assert!(matches!(error, StoreError::TooNew { found: 17, supported: 16, .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("read"), before);
}

/// STATE-4: another program's exclusive lock is named.
#[test]
fn state_4_a_locked_database_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let holder = rusqlite::Connection::open(dir.path().join("rules.db")).expect("open");
    holder
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE x (y); COMMIT;",
        )
        .expect("held");
    let error = Store::open(dir.path(), NOW).expect_err("locked");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("locked by another program"), "{error}");
}

#[test]
fn reopening_keeps_the_data() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path()).commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let (store, notices) = Store::open(dir.path(), NOW).expect("open again");
    assert_eq!(notices, []);
    assert_eq!(store.rules_hash().expect("a hash"), "a6cb5171bbb8895820d61e395592b293");
}

/// A dry run says what a commit would do, and does not do it.
#[test]
fn a_preview_tells_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let mut download = vec![
        rule(RuleType::TeamId, "AAAAAAAAAA", Policy::Allowlist),
        rule(RuleType::TeamId, "ABCDEFGHIJ", Policy::Allowlist),
        rule(RuleType::SigningId, "ABCDEFGHIJ:signingID", Policy::Remove),
    ];
    download.push(sample().remove(1));
    let preview = store.preview_rules(&set(download.clone()), SyncType::Normal, 2).expect("told");
    assert_eq!((preview.added, preview.replaced, preview.removed, preview.unchanged), (1, 1, 1, 1));
    assert_eq!((preview.changes.len(), preview.truncated), (2, true));
    let clean = store.preview_rules(&set(download), SyncType::Clean, 10).expect("told");
    assert_eq!((clean.added, clean.replaced, clean.removed, clean.unchanged), (1, 1, 2, 1));
    assert_eq!(store.rules_hash().expect("a hash"), "a6cb5171bbb8895820d61e395592b293");
}

const SHA: &str = "b7c1e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b670";
const CERTIFICATE: &str = "7ae80b9ab38af0c63a9a81765f434d9a7cd8f720eb6037ef303de39d779bc258";
const CDHASH: &str = "dbe8c39801f93e05fc7bc53a02af5b4d3cfc670a";
const TRANSITIVE: &str = "1111e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b111";

/// A rule of every type, in the order of precedence.
fn of_every_type() -> Vec<Rule> {
    vec![
        rule(RuleType::Cdhash, CDHASH, Policy::Blocklist),
        rule(RuleType::Binary, SHA, Policy::Blocklist),
        rule(RuleType::SigningId, "ABCDEFGHIJ:signingID", Policy::Blocklist),
        rule(RuleType::Certificate, CERTIFICATE, Policy::Allowlist),
        rule(RuleType::TeamId, "ABCDEFGHIJ", Policy::Blocklist),
    ]
}

fn executable(rules: &[Rule]) -> Executable {
    rules.iter().fold(Executable::default(), |e, rule| e.with(rule.identifier.clone()))
}

/// Puts rules of states that no download carries into the store, as the
/// authorizer does.
fn insert_local(dir: &Path, identifier: &str, state: RuleState) {
    let conn = rusqlite::Connection::open(dir.join("rules.db")).expect("open");
    conn.execute(
        "INSERT INTO execution_rules (identifier, state, type, timestamp) VALUES (?1, ?2, 1000, 7)",
        rusqlite::params![identifier, state.number()],
    )
    .expect("inserted");
}

/// RULE-9: the order of the types, case 145.
#[test]
fn rule_9_the_narrower_rule_decides() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    // Stored the other way round, so that the order of the rows says nothing.
    let stored = of_every_type().into_iter().rev().collect();
    store.commit_rules(&set(stored), (SyncType::Normal, NOW)).expect("committed");
    let mut known = of_every_type();
    for expected in RuleType::ALL {
        let found = store.find_rule(&executable(&known)).expect("looked up").expect("a rule");
        assert_eq!(found.rule_type, *expected);
        assert_eq!(found.identifier, known.remove(0).identifier.to_string());
    }
    assert_eq!(store.find_rule(&executable(&known)).expect("looked up"), None);
}

/// RULE-9: a transitive rule loses to every other (cases 146 and 148), and
/// decides nothing while transitive rules are disabled.
#[test]
fn rule_9_a_transitive_rule_comes_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    insert_local(dir.path(), TRANSITIVE, RuleState::AllowTransitive);
    let binary = rule(RuleType::Binary, TRANSITIVE, Policy::Allowlist);
    let alone = executable(std::slice::from_ref(&binary));
    let none = StaticRules::default();
    let found = store.lookup(&alone, &none, true).expect("looked up").expect("a rule");
    assert_eq!((found.rule.state, found.rule.timestamp), (RuleState::AllowTransitive, 7));
    assert_eq!(store.lookup(&alone, &none, false).expect("looked up"), None);

    let others = [0, 2, 3, 4].map(|place| of_every_type().remove(place));
    for other in others {
        store.commit_rules(&set(vec![other.clone()]), (SyncType::Normal, NOW)).expect("committed");
        let both = executable(&[binary.clone(), other.clone()]);
        let found = store.find_rule(&both).expect("looked up").expect("a rule");
        assert_eq!(found.rule_type, other.identifier.rule_type());
    }
}

/// RULE-5: a compiler rule is a plain ALLOWLIST while transitive rules are
/// disabled.
#[test]
fn rule_5_a_compiler_rule_counts_as_allow_while_transitive_rules_are_disabled() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let compiler = vec![rule(RuleType::Binary, SHA, Policy::AllowlistCompiler)];
    let committed =
        store.commit_rules(&set(compiler.clone()), (SyncType::Normal, NOW)).expect("committed");
    assert_eq!((committed.counts.compiler, committed.counts.binary), (1, 1));
    let none = StaticRules::default();
    let state = |enabled| {
        let found = store.lookup(&executable(&compiler), &none, enabled).expect("looked up");
        found.expect("a rule").rule.state
    };
    assert_eq!((state(true), state(false)), (RuleState::AllowCompiler, RuleState::Allow));
}

/// The configuration's rules come before the store's, whatever their type.
#[test]
fn static_rules_come_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(of_every_type()), (SyncType::Normal, NOW)).expect("committed");
    let configured =
        StaticRules::new([rule(RuleType::TeamId, "ABCDEFGHIJ", Policy::SilentBlocklist)]);
    let found = store.lookup(&executable(&of_every_type()), &configured, false);
    let found = found.expect("looked up").expect("a rule");
    assert_eq!(found.origin, RuleOrigin::Configuration);
    assert_eq!(found.rule.wording(), "Blocked (TeamID, Silent)");
}

/// PRE-4: what each type of sync deletes, before the empty download it brings.
#[test]
fn pre_4_each_sync_type_deletes_its_own() {
    for (sync_type, kept, others_kept) in [
        (SyncType::Normal, 8, 3),
        (SyncType::Clean, 1, 0),
        (SyncType::CleanAll, 0, 0),
        (SyncType::CleanStandalone, 6, 3),
        (SyncType::CleanRules, 1, 3),
        (SyncType::CleanFileAccessRules, 8, 2),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        store.commit_rules(&set(of_every_type()), (SyncType::Normal, NOW)).expect("committed");
        insert_local(dir.path(), TRANSITIVE, RuleState::AllowTransitive);
        insert_local(dir.path(), "local1", RuleState::AllowLocalBinary);
        insert_local(dir.path(), "local2", RuleState::AllowLocalSigningId);
        let conn = rusqlite::Connection::open(dir.path().join("rules.db")).expect("open");
        conn.execute_batch(
            "INSERT INTO file_access_rules VALUES ('f', x'00');
             INSERT INTO network_flow_rules VALUES ('n', 1, x'00');
             INSERT INTO signal_rules VALUES ('s', x'00');",
        )
        .expect("inserted");
        store.commit_rules(&RuleSet::default(), (sync_type, NOW)).expect("committed");
        let count = |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table}");
            conn.query_row(&sql, [], |row| row.get(0)).expect("counted")
        };
        let others = ["file_access_rules", "network_flow_rules", "signal_rules"].map(count);
        assert_eq!(count("execution_rules"), kept, "{sync_type:?}");
        assert_eq!(others.iter().sum::<i64>(), others_kept, "{sync_type:?}");
    }
}

/// A reader sees the rules before or after a commit, and never waits for it.
#[test]
fn state_2_readers_see_before_or_after() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    let before = reader.rules_hash().expect("a hash");
    let writer = rusqlite::Connection::open(dir.path().join("rules.db")).expect("open");
    writer.execute_batch("BEGIN IMMEDIATE; DELETE FROM execution_rules").expect("in the middle");
    assert_eq!(reader.rules_hash().expect("a hash"), before);
    assert!(reader.find_rule(&executable(&sample())).expect("looked up").is_some());
    Store::open_read_only(dir.path()).expect("another reader, meanwhile");
    writer.execute_batch("ROLLBACK").expect("undone");
    let after = store.commit_rules(&RuleSet::default(), (SyncType::Clean, NOW)).expect("committed");
    assert_eq!(reader.rules_hash().expect("a hash"), after.hash);
}

/// RULE-9, STATE-2: all lookups of a snapshot see the rules of its first one,
/// and the commit in between is neither seen nor held up.
#[test]
fn rule_9_a_snapshot_sees_one_moment() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(sample()), (SyncType::Normal, NOW)).expect("committed");
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    let known = executable(&sample());
    let alone = reader.find_rule(&known).expect("looked up");
    let mut lookups = reader.lookups().expect("prepared");
    assert_eq!(lookups.find_rule(&known).expect("looked up"), alone);
    let mut snapshot = reader.snapshot().expect("begun");
    assert_eq!(snapshot.find_rule(&known).expect("looked up"), alone);
    store.commit_rules(&RuleSet::default(), (SyncType::Clean, NOW)).expect("committed");
    assert_eq!(snapshot.find_rule(&known).expect("looked up"), alone);
    let decided = snapshot.lookup(&known, &StaticRules::default(), true).expect("looked up");
    assert_eq!(decided.map(|found| found.rule), alone);
    assert_eq!(lookups.find_rule(&known).expect("looked up"), alone, "the same moment");
    reader.snapshot().expect_err("one at a time");
    assert_eq!(snapshot.find_rule(&known).expect("looked up"), alone);
    drop(snapshot);
    assert_eq!(lookups.find_rule(&known).expect("looked up"), None);
    assert_eq!(reader.find_rule(&known).expect("looked up"), None);
    let mut snapshot = reader.snapshot().expect("begun again");
    assert_eq!(snapshot.find_rule(&known).expect("looked up"), None);
}

/// Reading creates nothing: neither a store nor a file beside one.
#[test]
fn a_reader_creates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = Store::open_read_only(dir.path()).expect_err("no store");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    drop(open(dir.path()));
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    drop(Store::open_read_only(dir.path()).expect("a reader"));
    assert_eq!(names(), before);
}

/// RULE-10: what a NORMAL sync announces, and that no other does.
#[test]
fn rule_10_arrived_rules_with_an_application_name_are_announced() {
    let named = |policy| {
        let mut rule = rule(RuleType::TeamId, "ABCDEFGHIJ", policy);
        let name = "Example App".to_owned();
        rule.details =
            Some(Box::new(RuleDetails { notification_app_name: name, ..RuleDetails::default() }));
        rule
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let mut announced = |policy, sync_type| {
        let rules = set(vec![named(policy), rule(RuleType::Binary, SHA, Policy::Allowlist)]);
        store.commit_rules(&rules, (sync_type, NOW)).expect("committed").announce
    };
    let expected = ("Example App".to_owned(), "ABCDEFGHIJ".to_owned());
    assert_eq!(announced(Policy::Allowlist, SyncType::Normal), [expected]);
    assert_eq!(announced(Policy::Remove, SyncType::Normal), []);
    assert_eq!(announced(Policy::Allowlist, SyncType::Clean), []);
}

/// SYNC-6: a commit ends when it is told to, and has changed nothing.
#[test]
fn sync_6_a_commit_that_is_told_to_end_is_rolled_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let rules = |count: u32| {
        let mut set = RuleSet::default();
        let rule = |n: u32| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&n.to_le_bytes());
            Rule { identifier: Identifier::Binary(hash), policy: Policy::Allowlist, details: None }
        };
        set.push_page((0..count).map(rule).collect::<Vec<_>>(), Vec::new());
        set
    };
    let now = Timestamp::from_secs(1);
    store.commit_rules(&rules(5), (SyncType::CleanAll, now)).expect("committed");
    let before = store.rules_hash().expect("read");
    for sync_type in [SyncType::CleanAll, SyncType::Normal] {
        let mut asked = 0;
        store.give_up_when(move || {
            asked += 1;
            asked > 2
        });
        assert!(store.commit_rules(&rules(20_000), (sync_type, now)).is_err(), "{sync_type:?}");
        store.never_give_up();
        assert_eq!(store.rules_hash().expect("read"), before);
        assert_eq!(store.rule_counts().expect("read").binary, 5);
    }
    store.commit_rules(&rules(20_000), (SyncType::CleanAll, now)).expect("committed");
    assert_eq!(store.rule_counts().expect("read").binary, 20_000);
}
