//! What other programs leave in `rules.db`: rows that are no rules, and rows
//! with other numbers.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::Connection;

use crate::model::{
    Executable, Identifier, Policy, Rule, RuleSet, RuleType, StaticRules, SyncType, Timestamp,
};
use crate::store::{CommitError, RuleCommit, RuleFilter, RuleGuard, Store};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn rule(n: u16, policy: Policy) -> Rule {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Rule { identifier: Identifier::Binary(bytes), policy, details: None }
}

fn set(numbers: std::ops::Range<u16>, policy: Policy) -> RuleSet {
    let mut set = RuleSet::default();
    set.push_page(numbers.map(|n| rule(n, policy)).collect::<Vec<_>>(), Vec::new());
    set
}

fn open(dir: &Path) -> Store {
    Store::open(dir, NOW).expect("a store").0
}

fn other_program(dir: &Path) -> Connection {
    Connection::open(dir.join("rules.db")).expect("open")
}

/// How many rows there are, whatever they hold.
fn rows(dir: &Path) -> u64 {
    let count = "SELECT count(*) FROM execution_rules";
    other_program(dir).query_row(count, [], |row| row.get(0)).expect("counted")
}

/// Rows that another program may write: the three columns as SQL, and how
/// `rules verify` names what is wrong. The text identifier of the last three is
/// the one of rule 0.
const FOREIGN: [(&str, &str); 11] = [
    ("'x', 'blocked', 1000", "\"x\" (row 0): its state is the text \"blocked\";"),
    ("'x', 1 << 40, 1000", "\"x\" (row 0): its state is the number 1099511627776;"),
    ("'x', 6.5, 1000", "\"x\" (row 0): its state is the number 6.5;"),
    ("'x', x'02', 1000", "\"x\" (row 0): its state is a BLOB of 1 bytes;"),
    ("x'0102', 2, 1000", "a BLOB of 2 bytes (row 0): its identifier is not text;"),
    ("CAST(x'ff' AS TEXT), 2, 1000", "that is not UTF-8 (row 0): its identifier is not text;"),
    ("x'00', 6, 1000", "a BLOB of 1 bytes (row 0): its identifier is not text;"),
    ("'x', 2, 'binary'", "\"x\" (row 0): its type is the text \"binary\";"),
    ("$0, 2, 1 << 40", "(row 0): its type is the number 1099511627776;"),
    ("$0, NULL, 1001", "(row 0): its state is NULL;"),
    ("$0, 'x', 4000", "(row 0): its state is the text \"x\";"),
];

/// Lets columns be NULL, which the schema does not.
fn lift_constraints(dir: &Path) {
    other_program(dir)
        .execute_batch(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema \
             SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'execution_rules'; \
             PRAGMA writable_schema = RESET;",
        )
        .expect("lifted");
}

fn write_foreign(dir: &Path, values: &str) {
    let identifier = format!("'{}'", rule(0, Policy::Allowlist).identifier);
    let values = values.replace("$0", &identifier);
    let columns = "rowid, identifier, state, type, custommsg, timestamp";
    other_program(dir)
        .execute(
            &format!(
                "INSERT INTO execution_rules ({columns}) VALUES (0, {values}, x'ff', 'yesterday')"
            ),
            [],
        )
        .expect("written");
}

#[test]
fn rule_7_rows_of_another_program_neither_stop_a_sync_nor_outlive_a_clean_one() {
    // 1,200 changes are committed in bulk, 20 one by one.
    for changes in [20, 1_200] {
        for (values, named) in FOREIGN {
            let dir = tempfile::tempdir().expect("a directory");
            let sound = tempfile::tempdir().expect("another directory");
            drop(open(dir.path()));
            lift_constraints(dir.path());
            let mut stores = [open(dir.path()), open(sound.path())];
            for store in &mut stores {
                store
                    .commit_rules(&set(0..200, Policy::Blocklist), (SyncType::Clean, NOW))
                    .expect("ok");
            }
            let [store, expected] = &mut stores;
            write_foreign(dir.path(), values);

            for opened in [false, true] {
                if opened {
                    *store = open(dir.path());
                }
                assert_eq!(store.rules_hash().expect("ok"), expected.rules_hash().expect("ok"));
                assert_eq!(store.rule_counts().expect("ok"), expected.rule_counts().expect("ok"));
                let mut listed = 0;
                let mut count = |_| {
                    listed += 1;
                    ControlFlow::Continue(())
                };
                store.visit_rules(&RuleFilter::default(), &mut count).expect("listed");
                assert_eq!(listed, 200, "{values}");
                let known = rule(0, Policy::Allowlist).identifier;
                let found = store.find_rule(&Executable::default().with(known)).expect("looked up");
                assert_eq!(found.map(|rule| rule.rule_type), Some(RuleType::Binary));
                let problems = store.verify_rules().expect("verified").problems;
                assert!(
                    problems.len() == 1 && problems[0].contains(named),
                    "{named}: {problems:?}"
                );
            }

            let download = set(100..100 + changes, Policy::Allowlist);
            let preview = store.preview_rules(&download, SyncType::Normal, 5).expect("compared");
            assert_eq!(preview.replaced, u64::from(changes.min(100)));
            let done = store.commit_rules(&download, (SyncType::Normal, NOW)).expect(values);
            let same = expected.commit_rules(&download, (SyncType::Normal, NOW)).expect("ok");
            assert_eq!(done, same, "{values}");
            assert_eq!(store.verify_rules().expect("verified").problems.len(), 1, "{values}");

            let all = rows(sound.path());
            assert_eq!(rows(dir.path()), all + 1);
            let guard = Some(RuleGuard::new(50));
            let commit = RuleCommit { guard, ..(SyncType::Clean, NOW).into() };
            let guarded = store.commit_rules(&set(0..1, Policy::Cel), commit);
            let Err(CommitError::Guarded(found)) = guarded else { panic!("most would go") };
            assert_eq!((found.stored, found.removed), (all, all - 1));
            let clean = set(0..changes, Policy::Blocklist);
            store.preview_rules(&clean, SyncType::Clean, 5).expect("compared");
            let done = store.commit_rules(&clean, (SyncType::Clean, NOW)).expect(values);
            let same = expected.commit_rules(&clean, (SyncType::Clean, NOW)).expect("ok");
            assert_eq!((done.hash, done.counts), (same.hash, same.counts), "{values}");
            assert_eq!(rows(dir.path()), u64::from(changes), "{values}");
            assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
        }
    }
}

/// A row that calls itself transitive to stay, and is about a whole team.
#[test]
fn rule_7_only_a_transitive_rule_of_a_file_outlives_a_clean_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(0..10, Policy::Blocklist), (SyncType::Clean, NOW)).expect("committed");
    let write = |identifier: &str, rule_type: u16| {
        other_program(dir.path())
            .execute(
                "INSERT INTO execution_rules (identifier, state, type) VALUES (?1, 6, ?2)",
                (identifier, rule_type),
            )
            .expect("written");
    };
    write("ABCDEFGHIJ", 4000);
    write(&"f".repeat(63), 1000);
    write(&format!("{}\0", "f".repeat(63)), 1000);
    write(&format!("{}\0x", "f".repeat(64)), 1000);
    write(&"F".repeat(64), 1000);
    write(&"f".repeat(64), 1000);
    for sync_type in [SyncType::CleanRules, SyncType::Clean] {
        let done = store
            .commit_rules(&set(0..10, Policy::Blocklist), (sync_type, NOW))
            .expect("committed");
        assert_eq!(done.kept_transitive, 1);
        assert_eq!(rows(dir.path()), 11);
    }
}

/// A transitive rule of a type that comes before others does not hide them.
#[test]
fn rule_9_a_transitive_rule_that_does_not_decide_hides_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let mut rules = RuleSet::default();
    let team = Identifier::parse(RuleType::TeamId, "ABCDEFGHIJ").expect("a team");
    let blocked = Rule { identifier: team.clone(), policy: Policy::Blocklist, details: None };
    rules.push_page(vec![blocked], Vec::new());
    store.commit_rules(&rules, (SyncType::Normal, NOW)).expect("committed");
    let cdhash = Identifier::parse(RuleType::Cdhash, &"a".repeat(40)).expect("a hash");
    for (state, rule_type) in [("6", 500), ("99", 500), ("'x'", 500)] {
        other_program(dir.path())
            .execute_batch(&format!(
                "DELETE FROM execution_rules WHERE type = 500; \
                 INSERT INTO execution_rules (identifier, state, type) \
                 VALUES ('{cdhash}', {state}, {rule_type})"
            ))
            .expect("written");
        let executable = Executable::default().with(cdhash.clone()).with(team.clone());
        for transitive_enabled in [false, true] {
            let found = store.lookup(&executable, &StaticRules::default(), transitive_enabled);
            let found = found.expect("looked up").expect("a rule");
            assert_eq!(found.rule.rule_type, RuleType::TeamId, "{state}");
        }
    }
}

/// Writes the database again as `.dump` and a shell that reads it do: the rows of
/// each table in their order, numbered from 1, then indexes and triggers.
fn dump_and_restore(dir: &Path) {
    let (old, new) = (dir.join("rules.db"), dir.join("restored.db"));
    {
        let conn = Connection::open(&new).expect("a new file");
        conn.execute("ATTACH ?1 AS old", [old.to_str().expect("UTF-8")]).expect("attached");
        let schema: Vec<(String, String, String)> = conn
            .prepare(
                "SELECT type, name, sql FROM old.sqlite_schema WHERE sql IS NOT NULL \
                 ORDER BY type != 'table', rowid",
            )
            .expect("prepared")
            .query_map([], |row| row.try_into())
            .expect("read")
            .collect::<Result<_, _>>()
            .expect("read");
        for (kind, name, sql) in schema {
            conn.execute_batch(&sql).expect("made");
            if kind == "table" {
                conn.execute_batch(&format!("INSERT INTO {name} SELECT * FROM old.{name}"))
                    .expect("filled");
            }
        }
        conn.execute_batch("PRAGMA user_version = 16").expect("numbered");
    }
    for part in ["rules.db-wal", "rules.db-shm"] {
        drop(std::fs::remove_file(dir.join(part)));
    }
    std::fs::rename(new, old).expect("moved");
}

#[test]
fn rule_8_the_hash_is_right_after_dump_and_restore() {
    for added in [1, 2_000] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        store.commit_rules(&set(0..20_000, Policy::Allowlist), (SyncType::Clean, NOW)).expect("ok");
        // Gaps in the row numbers, and the newest rows at the end.
        store.commit_rules(&set(100..3_000, Policy::Remove), (SyncType::Normal, NOW)).expect("ok");
        store.commit_rules(&set(0..50, Policy::Blocklist), (SyncType::Normal, NOW)).expect("ok");
        let before = store.rules_hash().expect("a hash");
        drop(store);
        dump_and_restore(dir.path());
        let last: u64 = other_program(dir.path())
            .query_row("SELECT max(rowid) FROM execution_rules", [], |row| row.get(0))
            .expect("numbered");
        assert_eq!(last, 17_100, "the rows have other numbers");

        let mut store = open(dir.path());
        assert_eq!(store.rules_hash().expect("a hash"), before);
        let download = set(30_000..30_000 + added, Policy::Allowlist);
        store.commit_rules(&download, (SyncType::Normal, NOW)).expect("committed");
        assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
        store.commit_rules(&set(10..11, Policy::Remove), (SyncType::Normal, NOW)).expect("ok");
        assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
    }
}

/// Rows taken out of a copy without a trigger noticing, in front of a state
/// whose row keeps its number.
#[test]
fn rule_8_a_kept_state_counts_only_with_as_many_rows_before_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(0..10_000, Policy::Allowlist), (SyncType::Clean, NOW)).expect("ok");
    drop(store);
    other_program(dir.path())
        .execute_batch(
            "DROP TRIGGER agent_rules_deleted; \
             DELETE FROM execution_rules WHERE rowid IN (5, 6)",
        )
        .expect("deleted");
    let mut store = open(dir.path());
    let done = store.commit_rules(&set(20_000..20_001, Policy::Allowlist), (SyncType::Normal, NOW));
    let found = store.verify_rules().expect("verified");
    assert_eq!(done.expect("committed").hash, found.rules_hash);
}

/// After a VACUUM the states count on: the rows keep their numbers.
#[test]
fn rule_8_the_hash_is_right_after_a_vacuum_into_another_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&set(0..10_000, Policy::Allowlist), (SyncType::Clean, NOW)).expect("ok");
    store.commit_rules(&set(100..3_000, Policy::Remove), (SyncType::Normal, NOW)).expect("ok");
    drop(store);
    let other = tempfile::tempdir().expect("another directory");
    let copy = other.path().join("rules.db");
    let copy_to = copy.to_str().expect("UTF-8");
    other_program(dir.path()).execute("VACUUM INTO ?1", [copy_to]).expect("copied");
    let mut store = open(other.path());
    store
        .commit_rules(&set(30_000..30_001, Policy::Allowlist), (SyncType::Normal, NOW))
        .expect("ok");
    assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
}
