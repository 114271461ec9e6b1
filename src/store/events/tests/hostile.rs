//! Rows that another program wrote: of any size, any number, met again and
//! again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::limits::Limit;

use super::*;
use crate::model::SettledEvents;

fn rejected(rows: &[crate::model::EventRow]) -> SettledEvents {
    let rejected = rows.iter().map(|row| (row.id, "not an event".to_owned())).collect();
    SettledEvents { rejected, ..SettledEvents::default() }
}

/// EV-8: their database can be read but not written for many syncs.
#[test]
fn ev_8_a_row_set_aside_is_there_once_however_often_it_is_met() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let other = Connection::open(&path).expect("their connection");
    other
        .execute_batch("INSERT INTO events VALUES (1, 'bad', x'01'), (2, 'good', x'02')")
        .expect("rows");
    // A reader of theirs, in whose way a deletion is.
    other.execute_batch("BEGIN").expect("begun");
    let _: u64 = other.query_row("SELECT count(*) FROM events", [], |r| r.get(0)).expect("read");
    let state = dir.path().join("state");
    for sync in 0..5 {
        let mut store = open(&state);
        store.drain_also(&path).expect("opens");
        store.foreign.as_ref().expect("it is open").patience(Duration::ZERO);
        let batch = read(&mut store, 9);
        let expected: &[&str] = if sync == 0 { &["bad", "good"] } else { &["good"] };
        assert_eq!(names(&batch), expected, "sync {sync}");
        let bad: Vec<_> = batch.iter().filter(|row| row.unique_id == "bad").cloned().collect();
        store.settle(&rejected(&bad), at(0).wall).expect("settled");
        assert_eq!(store.rejected_count().expect("a count"), 1, "sync {sync}");
    }
    other.execute_batch("COMMIT").expect("done");
    let mut store = open(&state);
    store.drain_also(&path).expect("opens");
    assert_eq!(names(&read(&mut store, 9)), ["good"]);
    assert_eq!(store.pending_elsewhere().expect("a count"), 1, "the bad one has been deleted");
}

/// EV-8: a program that writes the same unreadable row each time.
#[test]
fn ev_8_an_equal_row_that_comes_again_is_set_aside_once() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    for (sync, data) in ["x'01'", "x'01'", "x'02'"].into_iter().enumerate() {
        let sql = format!("INSERT INTO events VALUES ({sync}, 'bad', {data})");
        store.conn.execute(&sql, []).expect("a row");
        let batch = read(&mut store, 9);
        store.settle(&rejected(&batch), at(0).wall).expect("settled");
        assert_eq!((batch.len(), store.pending().expect("a count")), (1, 0));
    }
    assert_eq!(store.rejected_count().expect("a count"), 2, "another payload is another row");
    // Once the operator has sent it back, it may be set aside again.
    store.requeue(&[1], at(0).wall).expect("requeued");
    let batch = read(&mut store, 9);
    store.settle(&rejected(&batch), at(0).wall).expect("settled");
    assert_eq!(store.rejected_count().expect("a count"), 2);
}

/// EV-5: reading loads neither of them, or SQLite would refuse to. Deleting has
/// to look a unique id up in its index.
#[test]
fn ev_5_a_row_larger_than_any_event_is_set_aside_without_being_loaded() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let other = Connection::open(&path).expect("their connection");
    let mut store = open(&dir.path().join("state"));
    for (conn, more) in [(&store.conn, 0), (&other, 1)] {
        conn.execute(
            "INSERT INTO events VALUES (1, 'huge', zeroblob(17000000 + ?1)), \
             (2, CAST(zeroblob(70000 + ?1) AS TEXT), x'01'), (3, 'small', x'02')",
            [more],
        )
        .expect("rows");
    }
    store.drain_also(&path).expect("opens");
    let limit = |store: &EventStore, bytes| {
        let foreign = store.foreign.as_ref().expect("it is open");
        for conn in [&store.conn, foreign.connection()] {
            conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).expect("a limit");
        }
    };
    for more in [0, 1] {
        limit(&store, 69_999);
        let batch = read(&mut store, 9);
        limit(&store, 80_000);
        let name = format!("(a unique id of {} bytes)", 70_000 + more);
        assert_eq!(names(&batch), ["huge", &name, "small"]);
        assert_eq!((batch[0].oversize, batch[0].data.len()), (Some(17_000_000 + more), 64 << 10));
        store.settle(&rejected(&batch[..2]), at(0).wall).expect("settled");
        settle(&mut store, &batch[2..]);
    }
    assert_eq!(store.pending().expect("a count"), 0);
    assert_eq!(store.rejected(9).expect("a list")[0].bytes, 64 << 10);
    assert_eq!(store.rejected_count().expect("a count"), 4, "two of one name and beginning");
    assert_eq!(read(&mut store, 9), []);
    assert_eq!(store.pending_elsewhere().expect("a count"), 0);
}

/// More rows of another producer than are entered in one commit.
#[test]
fn ev_1_any_number_of_rows_of_another_producer_is_entered_in_their_order() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    store
        .conn
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)
             INSERT INTO events SELECT i * 7, 'row ' || i, x'00' FROM n;",
        )
        .expect("rows");
    let horizon = store.horizon(at(0).wall).expect("a horizon");
    assert_eq!((horizon.through(), store.pending().expect("a count")), (10_001, 10_001));
    let last = store.read_batch(9, Some(10_000), at(0).wall).expect("a batch");
    assert_eq!(names(&last), ["row 10001"]);
}

const LINEAR: &str = include_str!("../../schema/events/004_unique.sql");
/// The same step as it was first released.
const QUADRATIC: &str = "
    UPDATE events SET filesha256 = filesha256 || '#' || idx
    WHERE EXISTS (
        SELECT 1 FROM events AS earlier
        WHERE earlier.filesha256 = events.filesha256 AND earlier.idx < events.idx
    );
    CREATE UNIQUE INDEX filesha256 ON events (filesha256);";

fn version_3(rows: impl Iterator<Item = (i64, rusqlite::types::Value)>) -> Connection {
    let mut conn = Connection::open_in_memory().expect("a database");
    conn.execute_batch(include_str!("../../schema/events/001_events.sql")).expect("version 1");
    conn.execute_batch(include_str!("../../schema/events/003_no_autoincrement.sql")).expect("3");
    let tx = conn.transaction().expect("begun");
    for (idx, hash) in rows {
        tx.execute("INSERT INTO events VALUES (?1, ?2, x'00')", (idx, hash)).expect("a row");
    }
    tx.commit().expect("committed");
    conn
}

/// How many thousand steps of SQLite's machine some SQL takes.
fn steps(mut conn: Connection, sql: &str) -> u64 {
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let count = move || counted.fetch_add(1, Ordering::Relaxed) == u64::MAX;
    conn.progress_handler(1000, Some(count)).expect("a handler");
    conn.execute_batch(sql).expect("it runs");
    steps.load(Ordering::Relaxed)
}

#[test]
fn the_step_that_makes_hashes_unique_takes_time_by_the_row() {
    let hashes = |rows: i64| (0..rows).map(|n| (n, format!("hash {}", n % 700).into()));
    let few = steps(version_3(hashes(2_000)), LINEAR);
    let many = steps(version_3(hashes(20_000)), LINEAR);
    assert!(many < 12 * few, "{few} and {many} thousand steps");
    let before = steps(version_3(hashes(2_000)), QUADRATIC);
    assert!(before > 10 * few, "{before} thousand steps");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    #[test]
    fn the_step_that_makes_hashes_unique_has_the_result_it_was_released_with(
        rows in proptest::collection::btree_map(-50_i64..50, (0..6_u8, 0..4_u8), 0..30)
    ) {
        let rows = || rows.iter().map(|(idx, (hash, kind))| {
            let text = format!("{hash}");
            let value: rusqlite::types::Value = match kind {
                0 => i64::from(*hash).into(),
                1 => text.into_bytes().into(),
                _ => text.into(),
            };
            (*idx, value)
        });
        let result = |sql| {
            let conn = version_3(rows());
            let done = conn.execute_batch(sql).is_ok();
            let mut all = conn.prepare("SELECT idx, typeof(filesha256), filesha256 FROM events").expect("sql");
            let all = all.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, rusqlite::types::Value>(2)?))
            });
            (done, all.expect("rows").collect::<Result<Vec<_>, _>>().expect("rows"))
        };
        proptest::prop_assert_eq!(result(LINEAR), result(QUADRATIC));
    }
}
