use super::*;
use crate::model::Timestamp;
use crate::store::{EventStore, Notice, Store};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn execute(dir: &Path, file: &str, sql: &str) {
    let conn = Connection::open(dir.join(file)).expect("open");
    conn.execute_batch(sql).expect("done");
}

const RULE: &str =
    "INSERT INTO execution_rules (identifier, state, type) VALUES ('ABCDEFGHIJ', 2, 4000)";
const EVENT: &str = "INSERT INTO events (uniqueid, eventdata) VALUES ('x', x'00')";

/// STATE-3: a number that no program has written costs nothing if the tables
/// are whole; a flipped bit of the header must not cost the queued events.
#[test]
fn state_3_a_damaged_version_number_is_put_right_and_nothing_is_lost() {
    for version in ["2000000000", "-5", "17000", "0", "3", "13", "15"] {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Store::open(dir.path(), NOW).expect("a store"));
        drop(EventStore::open(dir.path(), NOW).expect("a queue"));
        let damage = format!("PRAGMA user_version = {version}");
        let flow_rule = "INSERT INTO network_flow_rules VALUES ('a', 1, x'00')";
        execute(dir.path(), "rules.db", &format!("{RULE}; {flow_rule}; {damage}"));
        // 13 would be a newer program's queue.
        let damage = damage.replace("= 1", "= -1");
        execute(dir.path(), "events.db", &format!("{EVENT}; {damage}"));
        let (store, notices) = Store::open(dir.path(), NOW).expect("put right");
        assert_eq!(
            (notices, store.rule_counts().expect("counted").teamid),
            (vec![], 1),
            "{version}"
        );
        let count = |sql| store.rules.query_row(sql, [], |row| row.get::<_, u32>(0));
        let flow_rules = count("SELECT count(*) FROM network_flow_rules").expect("counted");
        assert_eq!(flow_rules, 1, "{version}");
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'rules'";
        assert_eq!(count(tables).expect("counted"), 0, "{version}: no step ran");
        let (events, notices) = EventStore::open(dir.path(), NOW).expect("put right");
        assert_eq!((notices, events.pending().expect("counted")), (vec![], 1), "{version}");
        Store::open_read_only(dir.path()).expect("current");
    }
}

/// STATE-3: so is the number of our own tables.
#[test]
fn state_3_a_damaged_number_of_our_tables_is_put_right() {
    for value in ["'abc'", "x'00ff'", "NULL", "-3", "9000000000000", "1.5"] {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Store::open(dir.path(), NOW).expect("a store"));
        let damage =
            format!("{RULE}; UPDATE agent_meta SET value = {value} WHERE key = 'schema_version'");
        execute(dir.path(), "rules.db", &damage);
        let (store, notices) = Store::open(dir.path(), NOW).expect("put right");
        assert_eq!((notices, store.rule_counts().expect("counted").teamid), (vec![], 1), "{value}");
    }
}

/// STATE-3: with tables that are not ours the file is damaged.
#[test]
fn state_3_an_absurd_version_without_our_tables_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    execute(dir.path(), "rules.db", "CREATE TABLE x (y); PRAGMA user_version = 2000000000");
    let error = Store::open_read_only(dir.path()).expect_err("damaged");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let (_, notices) = Store::open(dir.path(), NOW).expect("a new one");
    let [Notice::SetAside { reason, .. }] = notices.as_slice() else { panic!("{notices:?}") };
    assert!(reason.contains("2000000000"), "{reason}");
}

/// RULE-7: a newer program's database is refused and left alone; a damaged one
/// of the same number is damaged.
#[test]
fn rule_7_a_newer_database_is_refused_unless_it_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    drop(Store::open(dir.path(), NOW).expect("a store"));
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
                INSERT INTO execution_rules (identifier, state, type) \
                SELECT printf('%064x', i), 1, 1 FROM n";
    execute(
        dir.path(),
        "rules.db",
        &format!("{fill}; CREATE TABLE agent_later (x); PRAGMA user_version = 18"),
    );
    for _ in 0..2 {
        let error = Store::open(dir.path(), NOW).expect_err("too new");
        assert!(matches!(error, StoreError::TooNew { found: 18, supported: 16, .. }), "{error}");
        assert!(!error.to_string().contains("move"), "{error}");
    }
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, bytes).expect("written");
    let (_, notices) = Store::open(dir.path(), NOW).expect("a new one");
    assert!(matches!(notices.as_slice(), [Notice::SetAside { .. }]), "{notices:?}");
}

/// STATE-2: a migration that cannot be made changes nothing, and its message
/// does not advise to move a sound database away.
#[test]
fn state_2_no_message_advises_to_move_a_sound_database_away() {
    let dir = tempfile::tempdir().expect("a directory");
    execute(dir.path(), "rules.db", "CREATE TABLE x (y); PRAGMA user_version = 8");
    let error = Store::open(dir.path(), NOW).expect_err("no such table");
    assert!(matches!(error, StoreError::Migration { .. }), "{error}");
    assert!(!error.to_string().contains("move"), "{error}");
}

#[test]
fn a_version_is_judged_by_its_distance() {
    use Version::{Absurd, Current, Newer, Older};
    for (found, version) in [
        (-1, Absurd),
        (0, Older),
        (15, Older),
        (16, Current),
        (17, Newer),
        (1016, Newer),
        (1017, Absurd),
        (i64::MAX, Absurd),
    ] {
        assert_eq!(Version::of(found, 16), version, "{found}");
    }
}
