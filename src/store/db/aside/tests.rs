use rusqlite::Connection;

use super::*;
use crate::store::{Store, StoreError};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_755_000_000 + seconds)
}

/// A database whose last commit is in its log alone, as a crash leaves it.
fn with_log(dir: &Path) {
    drop(Store::open(dir, at(0)).expect("a store"));
    let path = dir.join("rules.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; \
         INSERT INTO execution_rules (identifier, state, type) VALUES ('ABCDEFGHIJ', 2, 4000)",
    )
    .expect("written");
    let saved = FILE_SUFFIXES.map(|part| (part, fs::read(beside(&path, part)).unwrap_or_default()));
    drop(conn);
    for (part, bytes) in saved.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        fs::write(beside(&path, part), bytes).expect("written");
    }
    assert!(fs::metadata(beside(&path, "-wal")).expect("a log").len() > 0);
}

fn rules(path: &Path) -> i64 {
    let conn = Connection::open(path).expect("open");
    conn.query_row("SELECT count(*) FROM execution_rules", [], |row| row.get(0)).expect("counted")
}

/// STATE-6: however far the move had come when the process died, the next
/// opening ends it first: the copy has its log, and the new database has none
/// of the old one's.
#[test]
fn state_6_a_crash_while_a_database_is_set_aside_loses_nothing_of_it() {
    for moved in 0..=FILE_SUFFIXES.len() {
        let dir = tempfile::tempdir().expect("a directory");
        with_log(dir.path());
        let path = dir.path().join("rules.db");
        let copy = dir.path().join("rules.db.corrupt-20250812T120000Z");
        let mark = format!("{MOVING_TO}rules.db.corrupt-20250812T120000Z\na broken page\n");
        fs::write(beside(&path, SUSPECT_SUFFIX), mark).expect("written");
        for part in FILE_SUFFIXES.iter().take(moved) {
            let _ = fs::rename(beside(&path, part), beside(&copy, part));
        }
        let (store, notices) = Store::open(dir.path(), at(9)).expect("opens");
        let reason = "a broken page".to_owned();
        assert_eq!(notices, [Notice::SetAside { path: copy.clone(), reason }], "{moved}");
        assert_eq!(store.rule_counts().expect("counted").teamid, 0, "{moved}");
        drop(store);
        assert_eq!(rules(&copy), 1, "after {moved} moves");
        assert!(!is_suspect(&path));
        let (_, notices) = Store::open(dir.path(), at(10)).expect("opens");
        assert_eq!(notices, [], "{moved}");
    }
}

/// STATE-6: the mark moves nothing anywhere else.
#[test]
fn state_6_a_mark_that_names_another_place_moves_nothing() {
    for name in ["../x", "/tmp/x", "rules.db", "rules.db.corrupt-", "rules.db.corrupt-1/../../x"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rules.db");
        drop(Store::open(dir.path(), at(0)).expect("a store"));
        fs::write(beside(&path, SUSPECT_SUFFIX), format!("{MOVING_TO}{name}\n")).expect("written");
        let (_, notices) = Store::open(dir.path(), at(1)).expect("checked, and sound");
        assert_eq!(notices, [], "{name}");
        assert!(!is_suspect(&path));
    }
}

/// STATE-3: damage that repeats fills no disk; the first copy, which may show
/// the cause, and the last two stay.
#[test]
fn state_3_of_repeated_copies_the_first_and_the_last_two_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    // A name like a copy's that is not one, and one that a clock ahead made.
    fs::write(dir.path().join("rules.db.corrupt-notes.txt"), "").expect("written");
    for n in 0..8 {
        // Two in each second.
        let _ = fs::remove_file(beside(&path, "-wal"));
        fs::write(&path, format!("broken {n}")).expect("written");
        let (_, notices) = Store::open(dir.path(), at(n / 2)).expect("opens");
        assert_eq!(notices.len(), 1, "{n}");
    }
    let mut kept: Vec<_> = fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            Copy::parse(&dir.path().join("rules.db"), path.file_name().expect("one")).is_some()
        })
        .map(|path| fs::read_to_string(path).expect("read"))
        .collect();
    kept.sort();
    assert_eq!(kept, ["broken 0", "broken 6", "broken 7"]);
    assert!(dir.path().join("rules.db.corrupt-notes.txt").exists());
    // Also when the clock has gone back.
    let _ = fs::remove_file(beside(&path, "-wal"));
    fs::write(&path, "broken 8").expect("written");
    let (_, notices) = Store::open(dir.path(), at(-100)).expect("opens");
    let [Notice::SetAside { path: made, .. }] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!(fs::read_to_string(made).expect("kept"), "broken 8");
}

/// STATE-3: what cannot be moved is said, and stays.
#[test]
fn state_3_a_database_that_cannot_be_moved_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.db");
    fs::write(&path, "broken").expect("written");
    fs::create_dir(dir.path().join("rules.db-suspect.new")).expect("made");
    let error = Store::open(dir.path(), at(0)).expect_err("refused");
    assert!(matches!(error, StoreError::SetAside { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("there"), "broken");
}
