//! Databases of every released schema, of newer ones, and of broken ones.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::model::{Executable, Identifier, RuleCounts, RuleState, RuleType, Timestamp};
use crate::store::db::{Numbering, migrate};
use crate::store::rules::DATABASE;
use crate::store::{FileCheck, Notice, Store, StoreError};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

/// Makes `rules.db` out of the fixture of a schema version.
fn install(dir: &Path, version: i32) -> Connection {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/db/{version:03}.sql"));
    let sql = fs::read_to_string(fixture).expect("a fixture");
    let conn = Connection::open(dir.join("rules.db")).expect("a database");
    conn.execute_batch(&sql).expect("the fixture's schema");
    conn
}

/// Tables, columns and indexes, without how they were written.
fn schema(conn: &Connection) -> Vec<String> {
    let mut lines: Vec<String> = conn
        .prepare(
            "SELECT format('%s.%s %s %d %s %d', m.name, c.name, c.type, c.\"notnull\", \
             coalesce(c.dflt_value, ''), c.pk) FROM sqlite_master m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' ORDER BY m.name, c.cid",
        )
        .expect("prepared")
        .query_map([], |row| row.get(0))
        .expect("asked")
        .collect::<Result<_, _>>()
        .expect("read");
    let indexes: Vec<String> = conn
        .prepare(
            "SELECT format('%s %s %d', m.name, (SELECT group_concat(name) FROM \
             pragma_index_info(i.name)), i.\"unique\") FROM sqlite_master m, \
             pragma_index_list(m.tbl_name) i WHERE m.type = 'index' AND m.name = i.name ORDER BY 1",
        )
        .expect("prepared")
        .query_map([], |row| row.get(0))
        .expect("asked")
        .collect::<Result<_, _>>()
        .expect("read");
    lines.extend(indexes);
    lines
}

/// RULE-7: the reference's schema of version 16, columns in its order.
#[test]
fn rule_7_the_schema_is_the_references() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Store::open(dir.path(), NOW).expect("a store"));
    let ours = Connection::open(dir.path().join("rules.db")).expect("open");
    let version: i32 =
        ours.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    assert_eq!(version, 16);
    let reference = tempfile::tempdir().expect("a directory");
    let reference = schema(&install(reference.path(), 16));
    let ours: Vec<String> =
        schema(&ours).into_iter().filter(|line| !line.contains("agent_")).collect();
    assert_eq!(ours, reference);
}

/// RULE-7: each earlier version comes to 16, with its rules.
#[test]
fn rule_7_every_earlier_version_is_migrated_with_its_rules() {
    for version in 1..=16 {
        let dir = tempfile::tempdir().expect("a directory");
        drop(install(dir.path(), version));
        let (store, notices) = Store::open(dir.path(), NOW).expect("migrated");
        assert_eq!(notices, [], "version {version}");
        assert_eq!(
            store.rules_hash().expect("a hash"),
            "a6cb5171bbb8895820d61e395592b293",
            "version {version}"
        );
        let binary = "b7c1e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b670";
        let binary = Identifier::parse(RuleType::Binary, binary).expect("an identifier");
        let found = store.find_rule(&Executable::default().with(binary)).expect("looked up");
        let found = found.expect("the rule");
        assert_eq!(
            (found.state, found.details.custom_msg.as_str()),
            (RuleState::Block, "Not here")
        );
        let counts = store.rule_counts().expect("counts");
        assert_eq!((counts.teamid, counts.signingid, counts.certificate), (1, 1, 1));
        assert_eq!(counts.transitive, u32::from(version >= 3), "version {version}");
        assert!(!store.rules_complete().expect("known"), "STATE-5: no download of ours yet");
    }
}

/// RULE-7: the version 0 is an empty file; and a migration can stop anywhere
/// and go on later.
#[test]
fn rule_7_a_migration_can_stop_at_any_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    let mut conn = install(dir.path(), 0);
    for version in 1..=16 {
        migrate(&mut conn, &path, Numbering::UserVersion, DATABASE.tables, version)
            .expect("one step");
        let found: i32 =
            conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
        assert_eq!(found, version);
    }
    drop(conn);
    Store::open(dir.path(), NOW).expect("as good as one made at once");
}

/// A step that fails leaves the version before it, and its data.
#[test]
fn a_failing_migration_rolls_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    let mut conn = install(dir.path(), 8);
    let steps = &[
        (9, "ALTER TABLE rules ADD COLUMN cel_expr TEXT"),
        (10, "DELETE FROM rules; ALTER TABLE no_such_table RENAME TO x"),
    ];
    let error = migrate(&mut conn, &path, Numbering::UserVersion, steps, 10).expect_err("fails");
    assert!(matches!(error, StoreError::Migration { version: 10, .. }), "{error}");
    let rules: i64 =
        conn.query_row("SELECT count(*) FROM rules", [], |row| row.get(0)).expect("counted");
    let version: i32 =
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    assert_eq!((rules, version), (5, 9));
}

/// RULE-7: also our own tables of a newer program are left alone.
#[test]
fn rule_7_newer_tables_of_ours_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), NOW).expect("a store");
    store
        .rules
        .execute("UPDATE agent_meta SET value = 99 WHERE key = 'schema_version'", [])
        .expect("set");
    drop(store);
    let error = Store::open(dir.path(), NOW).expect_err("too new");
    assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");
    let error = Store::open_read_only(dir.path()).expect_err("too new");
    assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");
}

/// A store that no sync of this program has opened can be distinguished from a broken
/// one.
#[test]
fn a_reader_of_an_older_schema_is_told_to_sync_first() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(install(dir.path(), 12));
    let error = Store::open_read_only(dir.path()).expect_err("too old");
    assert!(matches!(error, StoreError::TooOld { found: 12, supported: 16, .. }), "{error}");
}

/// STATE-3: corruption inside the file is met by a statement, which marks it;
/// the next opening looks at all of it and sets it aside.
#[test]
fn state_3_corruption_met_later_is_set_aside_at_the_next_opening() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    let conn = install(dir.path(), 16);
    conn.execute_batch(
        "INSERT INTO execution_rules (identifier, state, type) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         SELECT format('platform:%d', i), 1, 2000 FROM n",
    )
    .expect("filled");
    let root: u32 = conn
        .query_row("SELECT rootpage FROM sqlite_master WHERE name = 'execution_rules'", [], |row| {
            row.get(0)
        })
        .expect("a page");
    drop(conn);
    drop(Store::open(dir.path(), NOW).expect("whole so far"));
    let mut bytes = fs::read(&path).expect("read");
    let page = usize::try_from(root - 1).expect("small") * 4096;
    bytes[page..page + 4096].fill(0x5a);
    fs::write(&path, bytes).expect("broken");

    let (store, notices) = Store::open(dir.path(), NOW).expect("nothing has looked at it yet");
    assert_eq!(notices, []);
    let error = store.verify_rules().expect_err("corrupt");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    drop(store);
    let (store, notices) = Store::open(dir.path(), NOW).expect("a fresh store");
    assert!(matches!(notices.as_slice(), [Notice::SetAside { .. }]), "{notices:?}");
    assert_eq!(store.rule_counts().expect("counts"), RuleCounts::default());
    assert!(!store.rules_complete().expect("known"));
    assert!(dir.path().join("rules.db.corrupt-20250812T120000Z").exists());
}

/// STATE-3: two in one second do not meet.
#[test]
fn state_3_nothing_set_aside_is_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    for broken in ["first file", "second file"] {
        let _ = fs::remove_file(dir.path().join("rules.db-wal"));
        fs::write(dir.path().join("rules.db"), broken).expect("written");
        drop(Store::open(dir.path(), NOW).expect("a fresh store"));
    }
    let read = |name| fs::read_to_string(dir.path().join(name)).expect("kept");
    assert_eq!(read("rules.db.corrupt-20250812T120000Z"), "first file");
    assert_eq!(read("rules.db.corrupt-20250812T120000Z-2"), "second file");
}

/// STATE-1, NEVER: private files, and temporary ones nowhere else.
#[test]
fn state_1_everything_is_private_and_in_the_state_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let outer = tempfile::tempdir().expect("a directory");
    let dir = outer.path().join("a").join("state");
    let (store, notices) = Store::open(&dir, NOW).expect("a store");
    assert_eq!(notices, [Notice::Created { path: dir.join("rules.db") }]);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in fs::read_dir(&dir).expect("a listing") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(store);
    // SQLite has one such directory for the process, and other tests of this
    // process open stores of their own: in between, somebody else's is told.
    let mut told = (0..1_000).map(|_| {
        let (store, _) = Store::open(&dir, NOW).expect("a store");
        let directory = store.rules.pragma_query_value(None, "temp_store_directory", |r| r.get(0));
        directory.expect("told")
    });
    assert!(told.any(|directory: String| Path::new(&directory) == dir));
}

/// EXIT 73: a directory that cannot be made or that others may write to.
#[test]
fn a_directory_that_cannot_be_used_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let outer = tempfile::tempdir().expect("a directory");
    let file = outer.path().join("file");
    fs::write(&file, "").expect("written");
    let error = Store::open(&file.join("state"), NOW).expect_err("no directory");
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
    let open = outer.path().join("open");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    let error = Store::open(&open, NOW).expect_err("writable by others");
    assert!(
        error.to_string().contains("others may write to")
            && error.to_string().contains("(mode 0777)"),
        "{error}"
    );
}

/// Another program's rules are counted in, whenever it wrote them.
#[test]
fn rule_8_rules_of_another_program_are_taken_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), NOW).expect("a store");
    let other = Connection::open(dir.path().join("rules.db")).expect("open");
    other
        .execute_batch(
            "INSERT INTO execution_rules (identifier, state, type) VALUES ('ABCDEFGHIJ', 2, 4000)",
        )
        .expect("inserted");
    assert_eq!(store.rule_counts().expect("counts").teamid, 1);
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    assert_eq!(reader.rules_hash().expect("a hash"), store.rules_hash().expect("a hash"));
    assert!(reader.verify_rules().expect("verified").changed_by_others);
    drop(store);
    let (store, _) = Store::open(dir.path(), NOW).expect("a store");
    let verified = store.verify_rules().expect("verified");
    assert_eq!((verified.changed_by_others, verified.problems), (false, vec![]));
}

#[test]
fn a_store_in_memory_is_an_empty_one() {
    let store = Store::in_memory().expect("a store");
    assert_eq!(store.rules_hash().expect("a hash"), "99aa06d3014798d86001c324468d497f");
}

/// A damaged page is found without a statement meeting it, and nothing is left
/// beside the file; a check that takes too long is given up.
#[test]
fn a_file_is_checked_without_a_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), NOW).expect("a store");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
                INSERT INTO execution_rules (identifier, state, type) \
                SELECT printf('%064x', i), 1, 1 FROM n";
    store.rules.execute_batch(fill).expect("filled");
    drop(store);
    let open = || Store::open_read_only(dir.path()).expect("opened");
    assert_eq!(open().check_file(|| false).expect("checked"), FileCheck::Sound);
    assert_eq!(open().check_file(|| true).expect("checked"), FileCheck::GivenUp);
    let path = dir.path().join("rules.db");
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, bytes).expect("written");
    let found = open().check_file(|| false).expect("checked");
    let FileCheck::Damaged(said) = found else { panic!("{found:?}") };
    assert!(!said.is_empty() && said.iter().all(|text| !text.contains('\n')), "{said:?}");
    assert!(!dir.path().join("rules.db-suspect").exists());
}
