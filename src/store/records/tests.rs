use rusqlite::Connection;

use super::RECORDS_KEPT;
use crate::model::{MAX_RECORD_BYTES, SettingChange, SyncRecord, SyncType, Timestamp, Trigger};
use crate::store::Store;

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), NOW).expect("a store");
    (dir, store)
}

fn begun(trigger: Trigger) -> SyncRecord {
    SyncRecord::begun("1".to_owned(), trigger, NOW, SyncType::Normal)
}

fn syncs(store: &mut Store, trigger: Trigger, count: u32) {
    for _ in 0..count {
        let number = store.begin_sync(&begun(trigger)).expect("begun");
        store.end_sync(number, &begun(trigger)).expect("ended");
    }
}

/// How many of the kept ones the schedule began, and how many not.
fn kept(store: &Store) -> (usize, usize) {
    let history = store.history(u32::MAX).expect("read");
    let timer = history.iter().filter(|record| record.trigger == Trigger::Timer).count();
    (timer, history.len() - timer)
}

fn rows(dir: &tempfile::TempDir) -> u32 {
    Connection::open(dir.path().join("rules.db"))
        .and_then(|conn| conn.query_row("SELECT count(*) FROM agent_syncs", [], |row| row.get(0)))
        .expect("counted")
}

#[test]
fn sync_7_syncs_that_never_end_are_forgotten_as_well() {
    let (dir, mut store) = store();
    for _ in 0..3 * RECORDS_KEPT {
        store.begin_sync(&begun(Trigger::Timer)).expect("begun");
    }
    assert_eq!(rows(&dir), RECORDS_KEPT);
    let closed = store.close_interrupted_syncs(&[]).expect("closed");
    assert_eq!(closed, RECORDS_KEPT as usize);
    syncs(&mut store, Trigger::Timer, 1);
    assert_eq!(rows(&dir), RECORDS_KEPT);
}

#[test]
fn sync_7_asked_syncs_do_not_push_out_those_of_the_schedule() {
    for asked in [Trigger::Trigger, Trigger::Manual] {
        let (_dir, mut store) = store();
        syncs(&mut store, Trigger::Timer, 40);
        syncs(&mut store, asked, 10);
        assert_eq!(kept(&store), (40, 10));
        syncs(&mut store, asked, 32);
        assert_eq!(kept(&store), (25, 25));
        syncs(&mut store, Trigger::Timer, 60);
        assert_eq!(kept(&store), (25, 25), "nor the other way round");
        let newest = store.history(1).expect("read");
        assert_eq!(newest[0].trigger, Trigger::Timer);
    }
    // Where there is no other kind, all places are for the one.
    let (_dir, mut store) = store();
    syncs(&mut store, Trigger::Manual, 70);
    assert_eq!(kept(&store), (0, RECORDS_KEPT as usize));
}

/// Rows that another program or another release wrote.
#[test]
fn sync_7_a_record_that_cannot_be_read_stops_nothing() {
    let (dir, mut store) = store();
    syncs(&mut store, Trigger::Timer, 3);
    Connection::open(dir.path().join("rules.db"))
        .and_then(|conn| {
            conn.execute_batch(
                "INSERT INTO agent_syncs (begun, record) VALUES ('{', NULL), (x'ff', NULL), \
                 ('{}', x'00ff'), (7, '[]'), ('', 7)",
            )
        })
        .expect("written");
    assert_eq!(kept(&store), (3, 0));
    store.close_interrupted_syncs(&[]).expect("closed");
    syncs(&mut store, Trigger::Timer, 1);
    assert_eq!(kept(&store), (4, 0));
    syncs(&mut store, Trigger::Timer, 60);
    assert!(rows(&dir) <= RECORDS_KEPT);
}

#[test]
fn http_8_what_is_written_of_a_sync_is_small() {
    let (dir, mut store) = store();
    let change = SettingChange {
        setting: "allowed_path_regex".to_owned(),
        before: Some("\u{1}".repeat(1 << 20)),
        after: None,
    };
    let large = SyncRecord { settings_applied: vec![change.clone(); 500], ..begun(Trigger::Timer) };
    let number = store.begin_sync(&large).expect("begun");
    store.end_sync(number, &large).expect("ended");
    store.begin_sync(&large).expect("begun");
    store.close_interrupted_syncs(&vec![change; 500]).expect("closed");
    let longest: usize = Connection::open(dir.path().join("rules.db"))
        .and_then(|conn| {
            let sql = "SELECT max(max(length(begun), length(record))) FROM agent_syncs";
            conn.query_row(sql, [], |row| row.get(0))
        })
        .expect("measured");
    assert!(longest > MAX_RECORD_BYTES / 10 && longest <= MAX_RECORD_BYTES, "{longest}");
    let read = store.history(2).expect("read");
    assert!(read[0].left_out["settings_reverted"] > 0 && read[1].left_out["settings_applied"] > 0);
}
