//! Rows of other producers: in our own table, in a database of theirs, and of
//! earlier schema versions.

use super::*;
use crate::failure::Remedy as _;
use crate::model::SettledEvents;

/// A row as another program writes it, knowing only the reference's schema.
fn archive(conn: &Connection, idx: i64, name: &str, data: &[u8]) {
    conn.execute(
        "INSERT INTO events (idx, uniqueid, eventdata) VALUES (?1, ?2, ?3)",
        (idx, name, data),
    )
    .expect("a row");
}

fn other_program(dir: &Path) -> Connection {
    Connection::open(dir.join("events.db")).expect("the database opens")
}

/// A database of the reference's own schema, version 6.
pub(in super::super) fn elsewhere(dir: &Path) -> PathBuf {
    let path = dir.join("santa-events.db");
    let conn = Connection::open(&path).expect("a database");
    conn.execute_batch(
        "CREATE TABLE events (idx INTEGER PRIMARY KEY, uniqueid TEXT NOT NULL, eventdata BLOB);
         CREATE UNIQUE INDEX uniqueid ON events (uniqueid);
         CREATE TABLE signal_reports (idx INTEGER PRIMARY KEY, report_data BLOB NOT NULL);
         PRAGMA user_version = 6;",
    )
    .expect("a schema");
    path
}

#[test]
fn rows_another_program_left_are_entered_behind_those_that_wait() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, ["ours".to_owned()]);
    let other = other_program(dir.path());
    archive(&other, 4_000_000_000, "theirs", b"x");
    archive(&other, 5, "theirs too", b"y");
    assert_eq!(store.pending().expect("a count"), 3);
    assert_eq!(EventStore::open_read_only(dir.path()).expect("a reader").pending().expect("3"), 3);
    let first = read(&mut store, 10);
    assert_eq!(names(&first), ["ours"]);
    settle(&mut store, &first);
    let second = read(&mut store, 10);
    assert_eq!(names(&second), ["theirs too", "theirs"]);
    settle(&mut store, &second);
    assert_eq!(store.pending().expect("a count"), 0);
    assert_eq!(read(&mut store, 10), []);
}

#[test]
fn a_row_its_producer_replaced_while_it_was_sent_is_sent_again() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let other = other_program(dir.path());
    archive(&other, 7, "bundle", b"without hash");
    archive(&other, 8, "plain", b"z");
    let batch = read(&mut store, 10);
    other.execute_batch("DELETE FROM events WHERE idx = 7").expect("deleted");
    archive(&other, 7, "bundle", b"with hash");
    settle(&mut store, &batch);
    let again = read(&mut store, 10);
    assert_eq!((names(&again), again[0].data.as_slice()), (vec!["bundle"], &b"with hash"[..]));
    assert_eq!(store.pending().expect("a count"), 1);
}

#[test]
fn a_row_its_producer_took_back_is_not_sent() {
    let dir = TempDir::new().expect("a directory");
    let other = {
        drop(open(dir.path()));
        other_program(dir.path())
    };
    archive(&other, 7, "gone", b"x");
    archive(&other, 8, "stays", b"x");
    let mut store = open(dir.path());
    other.execute_batch("DELETE FROM events WHERE idx = 7").expect("deleted");
    assert_eq!(names(&read(&mut store, 10)), ["stays"]);
    assert_eq!(store.pending().expect("a count"), 1);
}

#[test]
fn a_row_of_the_wrong_types_is_handed_out_as_it_can_be() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let other = other_program(dir.path());
    other
        .execute_batch("INSERT INTO events VALUES (1, x'ff61', 'text'), (2, 12, NULL), (3, 'n', 5)")
        .expect("rows");
    let batch = read(&mut store, 10);
    assert_eq!(names(&batch), ["\u{fffd}a", "12", "n"]);
    assert!(batch.iter().all(|row| row.data.is_empty()));
    let rejected = batch.iter().map(|row| (row.id, "none".to_owned())).collect();
    store
        .settle(&SettledEvents { rejected, ..SettledEvents::default() }, at(0).wall)
        .expect("settled");
    assert_eq!(store.rejected_count().expect("a count"), 3);
}

#[test]
fn another_programs_database_is_drained_after_our_own() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let other = Connection::open(&path).expect("their connection");
    for idx in [30, 10, 20] {
        archive(&other, idx, &format!("theirs {idx}"), b"x");
    }
    let mut store = open(&dir.path().join("state"));
    queue(&mut store, ["ours".to_owned()]);
    store.drain_also(&path).expect("opens");
    assert_eq!(store.pending_elsewhere().expect("a count"), 3);
    let first = read(&mut store, 2);
    assert_eq!(names(&first), ["ours"]);
    settle(&mut store, &first);
    let second = read(&mut store, 2);
    assert_eq!(names(&second), ["theirs 10", "theirs 20"]);
    assert_eq!(read(&mut store, 2), second, "nothing goes before it is settled");
    // The producer replaces one meanwhile, and can: no lock is held.
    other.execute_batch("DELETE FROM events WHERE idx = 20").expect("deleted");
    archive(&other, 20, "theirs 20", b"changed");
    settle(&mut store, &second);
    let third = read(&mut store, 2);
    assert_eq!(names(&third), ["theirs 20", "theirs 30"]);
    let settled = SettledEvents {
        rejected: vec![(third[0].id, "unreadable".to_owned())],
        dropped: vec![(third[1].id, "AllowTransitive".to_owned())],
        ..SettledEvents::default()
    };
    store.settle(&settled, at(0).wall).expect("settled");
    assert_eq!(read(&mut store, 2), []);
    assert_eq!(store.pending_elsewhere().expect("a count"), 0);
    assert_eq!(store.rejected(9).expect("a list")[0].unique_id, "theirs 20");
}

#[test]
fn an_event_refused_elsewhere_is_found_and_set_aside_here() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let other = Connection::open(&path).expect("their connection");
    archive(&other, 1, "bad", b"x");
    archive(&other, 2, "good", b"x");
    for expected in [2, 1, 1, 1] {
        let mut store = open(&dir.path().join("state"));
        store.drain_also(&path).expect("opens");
        let batch = read(&mut store, 10);
        assert_eq!(batch.len(), expected);
        let ids: Vec<_> = batch.iter().map(|row| row.id).collect();
        store.note_refused(&ids, "no", false, UploadMemory::default(), at(0).wall).expect("noted");
    }
    let mut store = open(&dir.path().join("state"));
    store.drain_also(&path).expect("opens");
    assert_eq!(names(&read(&mut store, 10)), ["good"]);
    assert_eq!(store.rejected(9).expect("a list")[0].unique_id, "bad");
}

#[test]
fn a_locked_database_elsewhere_does_not_stop_our_own_events() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let other = Connection::open(&path).expect("their connection");
    archive(&other, 1, "theirs", b"x");
    let mut store = open(&dir.path().join("state"));
    queue(&mut store, ["ours".to_owned()]);
    store.drain_also(&path).expect("opens");
    store.foreign.as_ref().expect("it is open").patience(Duration::ZERO);
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    let batch = read(&mut store, 5);
    assert_eq!(names(&batch), ["ours"]);
    settle(&mut store, &batch);
    assert_eq!(read(&mut store, 5), []);
    other.execute_batch("COMMIT").expect("unlocked");
    assert_eq!(names(&read(&mut store, 5)), ["theirs"]);
}

#[test]
fn a_database_elsewhere_must_exist_and_be_of_a_version_we_know() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(&dir.path().join("state"));
    let missing = store.drain_also(&dir.path().join("none.db")).expect_err("missing");
    assert!(missing.with_fix().contains("none.db does not exist; have EventsDatabase"));
    let directory = store.drain_also(dir.path()).expect_err("a directory");
    assert!(directory.to_string().contains("is a directory, not a file"), "{directory}");
    let path = elsewhere(dir.path());
    for (version, newer) in [(7, true), (4, false)] {
        let conn = Connection::open(&path).expect("a connection");
        conn.pragma_update(None, "user_version", version).expect("a version");
        let error = store.drain_also(&path).expect_err("another version");
        assert_eq!(matches!(error, StoreError::TooNew { .. }), newer, "{error}");
        assert_eq!(matches!(error, StoreError::TooOld { .. }), !newer, "{error}");
    }
}

#[test]
fn our_own_queue_is_not_drained_twice() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, ["a".to_owned()]);
    let own = store.path().to_owned();
    store.drain_also(&own).expect("nothing to do");
    assert_eq!(store.pending_elsewhere().expect("a count"), 0);
    let batch = read(&mut store, 9);
    settle(&mut store, &batch);
    assert_eq!(read(&mut store, 9), []);
}

/// STATE-1: neither through a link nor where others could exchange the file.
#[test]
fn state_1_another_programs_database_is_opened_with_care() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("made");
    let path = elsewhere(&other);
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let error = store.drain_also(&link).expect_err("a link").to_string();
    assert!(error.contains("is a link to"), "{error}");
    let log = other.join("santa-events.db-wal");
    std::os::unix::fs::symlink(dir.path().join("victim"), &log).expect("a link");
    let error = store.drain_also(&path).expect_err("a link").to_string();
    assert!(error.contains("-wal file that cannot be used"), "{error}");
    std::fs::remove_file(&log).expect("removed");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o777)).expect("set");
    let error = store.drain_also(&path).expect_err("exposed").to_string();
    assert!(error.contains("others may write to"), "{error}");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).expect("set");
    store.drain_also(&path).expect("opens");
}

/// Every earlier version, as text, comes to the newest with its events kept.
#[test]
fn a_database_of_every_earlier_version_keeps_its_events() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/db/events");
    for version in 1..=6 {
        let dir = TempDir::new().expect("a directory");
        let dump =
            std::fs::read_to_string(fixtures.join(format!("v{version}.sql"))).expect("a dump");
        let conn = Connection::open(dir.path().join("events.db")).expect("a database");
        conn.execute_batch(&dump).expect("the dump loads");
        drop(conn);
        let mut store = open(dir.path());
        let mut rows = read(&mut store, 100);
        rows.sort_by(|a, b| a.unique_id.cmp(&b.unique_id));
        let expected: &[&str] = if version < 4 { &["aa", "aa#30", "bb"] } else { &["aa", "bb"] };
        assert_eq!(names(&rows), expected, "version {version}");
        assert_eq!(rows[0].data, b"first", "version {version}");
        let found: i32 = store
            .conn
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .expect("a version");
        assert_eq!(found, 6);
    }
}

/// After any migration the reference's part of the schema is the reference's.
#[test]
fn the_tables_are_those_of_the_references_version_6() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let other = Connection::open(elsewhere(dir.path())).expect("theirs");
    let shape = |conn: &Connection| -> Vec<String> {
        let columns = "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || c.pk \
                       FROM sqlite_master AS m, pragma_table_info(m.name) AS c \
                       WHERE m.name IN ('events', 'signal_reports') ORDER BY m.name, c.cid";
        let indexes = "SELECT name || ' ' || \"unique\" FROM pragma_index_list('events')";
        [columns, indexes]
            .iter()
            .flat_map(|sql| {
                let mut statement = conn.prepare(sql).expect("a query");
                let rows = statement.query_map([], |row| row.get(0)).expect("rows");
                rows.collect::<Result<Vec<String>, _>>().expect("texts")
            })
            .collect()
    };
    assert_eq!(shape(&store.conn), shape(&other));
}

/// STATE-3: a corrupt queue is kept aside.
#[test]
fn state_3_a_corrupt_queue_is_set_aside_and_made_anew() {
    let dir = TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("events.db"), "not a database, but long enough".repeat(100))
        .expect("written");
    let (mut store, notices) = EventStore::open(dir.path(), at(0).wall).expect("opens");
    assert!(matches!(notices.as_slice(), [Notice::SetAside { .. }]), "{notices:?}");
    queue(&mut store, ["a".to_owned()]);
    assert_eq!(store.pending().expect("a count"), 1);
}

#[test]
fn a_newer_queue_is_refused_and_left_alone() {
    let dir = TempDir::new().expect("a directory");
    drop(open(dir.path()));
    other_program(dir.path()).pragma_update(None, "user_version", 7).expect("a version");
    let error = EventStore::open(dir.path(), at(0).wall).map(|_| ()).expect_err("newer");
    assert!(matches!(error, StoreError::TooNew { found: 7, supported: 6, .. }), "{error}");
}
