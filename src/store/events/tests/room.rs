//! What the queue takes of the disk: rows, bytes, the file (EV-8).

use super::*;
use crate::model::SettledEvents;
use crate::model::UploadMemory;
use crate::store::space;

/// Rows of events that lie in the file, queued or not.
fn rows(store: &EventStore) -> u64 {
    number(store, "SELECT (SELECT count(*) FROM agent_events) + (SELECT count(*) FROM events)")
}

fn file_size(store: &EventStore) -> u64 {
    space::checkpoint(&store.conn).expect("a checkpoint");
    std::fs::metadata(store.path()).expect("the file").len()
}

fn large(name: &str, bytes: usize) -> NewEvent {
    NewEvent { data: vec![b'x'; bytes], ..blocked(name) }
}

/// EV-8: a queue that is never empty, through many syncs.
#[test]
fn ev_8_delivered_rows_leave_the_file_while_others_wait() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let add = |store: &mut EventStore, from: u32, count: u32| {
        let events: Vec<_> = (from..from + count).map(|n| large(&n.to_string(), 4000)).collect();
        store.queue_events(&events, at(0), UNBOUNDED).expect("queued");
    };
    add(&mut store, 0, 10);
    for sync in 0..1000 {
        add(&mut store, 10 + sync * 3, 3);
        let batch = read(&mut store, 3);
        assert_eq!(batch[0].unique_id, (sync * 3).to_string());
        settle(&mut store, &batch);
        assert_eq!(store.pending().expect("a count"), 10);
        assert!(rows(&store) <= 20, "sync {sync}: {} rows", rows(&store));
    }
    let size = file_size(&store);
    assert!(size < 400_000, "10 events of 4 KB lie in {size} bytes");
    assert!(number(&store, "SELECT count(*) FROM agent_unique") < 150);
}

/// EV-8: in a long queue, some stay for a while; nobody may notice.
#[test]
fn ev_8_a_long_queue_behaves_like_a_short_one() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..5_500));
    let batch = read(&mut store, 300);
    settle(&mut store, &batch);
    assert_eq!((store.pending().expect("a count"), rows(&store)), (5_200, 5_500));
    assert_eq!(names(&read(&mut store, 1)), ["event 000300"]);
    let rejected = SettledEvents {
        rejected: vec![(batch[0].id, "no".to_owned())],
        ..SettledEvents::default()
    };
    store.settle(&rejected, at(0).wall).expect("settled");
    assert_eq!(store.rejected_count().expect("a count"), 0, "it was delivered");

    // A delivered event may come again; one that waits may not.
    let again = [blocked("event 000000"), blocked("event 000300")];
    let answers = store.queue_events(&again, at(1), UNBOUNDED).expect("queued");
    assert_eq!(answers, [Queued::Added, Queued::Duplicate]);

    let (mut seen, mut last) = (0, String::new());
    loop {
        let batch = read(&mut store, 100);
        let Some(newest) = batch.last() else { break };
        last.clone_from(&newest.unique_id);
        seen += batch.len() as u64;
        settle(&mut store, &batch);
        let pending = store.pending().expect("a count");
        assert!(rows(&store) - pending <= pending.min(2_000), "{} {pending}", rows(&store));
    }
    assert_eq!((seen, last.as_str()), (5_201, "event 000000"));
    assert_eq!((rows(&store), store.pending().expect("a count")), (0, 0));
    assert_eq!(number(&store, "SELECT bytes FROM agent_queue_state"), 0);
}

/// A program of the version before that has the queue open fails instead of
/// taking events for ones that their producer took back.
#[test]
fn ev_2_a_running_program_of_an_earlier_version_cannot_lose_events() {
    let dump =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/db/events/v6-agent2.sql"));
    let dir = TempDir::new().expect("a directory");
    let earlier = Connection::open(dir.path().join("events.db")).expect("a database");
    earlier.execute_batch(dump).expect("the dump loads");
    let save = "UPDATE agent_queue_state SET last_id = 5, settled_through = 2, pending = 3";
    earlier.execute(save, []).expect("its own version");
    drop(open(dir.path()));
    earlier.execute(save, []).expect_err("another version");
}

/// EV-8: a backlog goes, and its room with it, though the queue is never empty.
#[test]
fn ev_8_a_file_that_is_mostly_free_is_made_small_while_others_wait() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let events: Vec<_> = (0..200).map(|n| large(&n.to_string(), 100_000)).collect();
    store.queue_events(&events, at(0), UNBOUNDED).expect("queued");
    assert!(file_size(&store) > 20_000_000);
    loop {
        let batch = read(&mut store, 30);
        settle(&mut store, &batch[..batch.len() - 1]);
        if batch.len() == 1 {
            break;
        }
    }
    assert_eq!(store.pending().expect("a count"), 1);
    let size = file_size(&store);
    assert!(size < 9_000_000, "one event of 100 KB lies in {size} bytes");
    assert_eq!(names(&read(&mut store, 9)), ["199"]);
}

/// EV-8: producers go first.
#[test]
fn ev_8_a_file_in_use_is_not_made_small() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let events: Vec<_> = (0..100).map(|n| large(&n.to_string(), 100_000)).collect();
    store.queue_events(&events, at(0), UNBOUNDED).expect("queued");
    store.commit("empty", |tx| tx.execute_batch("DELETE FROM agent_events")).expect("emptied");
    let size = file_size(&store);
    let producer = Connection::open(dir.path().join("events.db")).expect("a producer");
    producer.execute_batch("BEGIN IMMEDIATE").expect("begun");
    // Were it to wait for the producer, it would for an hour.
    store.conn.busy_timeout(Duration::from_hours(1)).expect("a setting");
    store.compact();
    assert_eq!(number(&store, "SELECT page_count FROM pragma_page_count") * 4096, size);
    producer.execute_batch("COMMIT").expect("done");
    store.compact();
    assert!(file_size(&store) < 200_000);
    let patience = number(&store, "SELECT timeout FROM pragma_busy_timeout");
    assert_eq!(patience, 3_600_000, "later statements wait as before");
}

/// EV-8: a reader that keeps what it sees delays neither the next batch nor the
/// closing, and producers neither.
#[test]
fn ev_8_a_slow_reader_holds_nobody_up() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..100));
    let reader = EventStore::open_read_only(dir.path()).expect("a reader");
    reader.conn.execute_batch("BEGIN").expect("begun");
    assert_eq!(reader.pending().expect("a count"), 100);
    // Were any of these to wait for it, they would for an hour.
    store.conn.busy_timeout(Duration::from_hours(1)).expect("a setting");
    let batch = read(&mut store, 50);
    settle(&mut store, &batch);
    drop(store);
    assert_eq!(reader.pending().expect("a count"), 100);
    drop(reader);
    assert_eq!(open(dir.path()).pending().expect("a count"), 50);
}

/// EV-8: the bound by bytes; the oldest records of allowed things go first.
#[test]
fn ev_8_a_queue_of_too_many_bytes_drops_and_counts_the_oldest_allowed_things_first() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let limits = Limits { bytes: 1000, ..UNBOUNDED };
    let sized = |mut event: NewEvent, bytes| {
        event.data = vec![0; bytes];
        event
    };
    let events = [
        sized(blocked("b1"), 300),
        sized(allowed("a1"), 100),
        sized(blocked("b2"), 300),
        sized(allowed("a2"), 300),
    ];
    store.queue_events(&events, at(0), limits).expect("queued");
    assert_eq!(names(&read(&mut store, 9)), ["b1", "a1", "b2", "a2"], "1000 bytes are within");
    store.queue_events(&[sized(blocked("b3"), 150)], at(0), limits).expect("queued");
    assert_eq!(names(&read(&mut store, 9)), ["b1", "b2", "b3"]);
    store.queue_events(&[sized(blocked("b4"), 600)], at(0), limits).expect("queued");
    assert_eq!(names(&read(&mut store, 9)), ["b3", "b4"]);
    assert_eq!(store.drops().expect("counts").queue_full, 4);
    let batch = read(&mut store, 9);
    settle(&mut store, &batch);
    assert_eq!(number(&store, "SELECT bytes FROM agent_queue_state"), 0);
}

/// EV-8: a commit stays short when a bound is lowered.
#[test]
fn ev_8_a_lowered_bound_takes_effect_some_events_at_a_time() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..10_100));
    let limits = Limits { events: 10, ..UNBOUNDED };
    let mut pending = |name| {
        store.queue_events(&[blocked(name)], at(0), limits).expect("queued");
        (store.pending().expect("a count"), store.drops().expect("counts").queue_full)
    };
    assert_eq!(pending("one"), (100, 10_001));
    assert_eq!(pending("two"), (10, 10_092));
}

/// EV-6, EV-8: what a refused event had left behind goes with it.
#[test]
fn ev_8_refusals_of_events_that_left_otherwise_are_forgotten() {
    let dir = TempDir::new().expect("a directory");
    let path = elsewhere(dir.path());
    let theirs = Connection::open(&path).expect("their connection");
    theirs
        .execute_batch("INSERT INTO events VALUES (5, 'e', x'01'), (6, 'f', x'01')")
        .expect("rows");
    let mut store = open(&dir.path().join("state"));
    queue(&mut store, ["dropped", "stays", "taken back"].map(str::to_owned));
    store.drain_also(&path).expect("opens");
    let ids: Vec<_> = read(&mut store, 9).iter().map(|row| row.id).collect();
    let elsewhere: Vec<_> = read(&mut store, 9).iter().map(|row| row.id).collect();
    let after = store.read_batch(9, ids.last().copied(), at(0).wall).expect("rows");
    let foreign: Vec<_> = after.iter().map(|row| row.id).collect();
    assert_eq!((elsewhere, foreign.len()), (ids.clone(), 2));
    for ids in [&ids, &foreign] {
        store.note_refused(ids, "no", false, UploadMemory::default(), at(0).wall).expect("noted");
    }
    let refusals = |store: &EventStore| -> Vec<i64> {
        let mut rows =
            store.conn.prepare("SELECT id FROM agent_refusals ORDER BY id").expect("sql");
        rows.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("ids")
    };
    assert_eq!(refusals(&store).len(), 5);
    store
        .commit("lose", |tx| remove(tx, ids[0]).and_then(|_| remove(tx, ids[2])))
        .expect("they leave");
    theirs.execute_batch("DELETE FROM events WHERE idx = 6").expect("deleted");
    store.horizon(at(0).wall).expect("a horizon");
    assert_eq!(refusals(&store), [ids[1], foreign[0]]);
}

/// Released stores: our own events lay in table events.
#[test]
fn ev_8_a_queue_of_an_earlier_version_is_sent_and_its_delivered_rows_leave() {
    let dump =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/db/events/v6-agent2.sql"));
    let dir = TempDir::new().expect("a directory");
    let conn = Connection::open(dir.path().join("events.db")).expect("a database");
    conn.execute_batch(dump).expect("the dump loads");
    drop(conn);
    let mut store = open(dir.path());
    assert_eq!(store.pending().expect("a count"), 3);
    assert_eq!(store.rejected_count().expect("a count"), 1);
    let again = ["sent 1", "waits 3", "theirs"].map(blocked);
    let answers = store.queue_events(&again, at(0), UNBOUNDED).expect("answers");
    assert_eq!(answers, [Queued::Added, Queued::Duplicate, Queued::Duplicate]);
    let batch = read(&mut store, 9);
    assert_eq!(names(&batch), ["waits 3", "waits 4", "theirs", "sent 1"]);
    assert_eq!((batch[0].data.as_slice(), rows(&store)), (&b"d"[..], 6));
    settle(&mut store, &batch[..1]);
    assert_eq!(rows(&store), 3, "the delivered rows have left, those of before as well");
    settle(&mut store, &batch[1..]);
    assert_eq!((rows(&store), store.pending().expect("a count")), (0, 0));
    assert_eq!(number(&store, "SELECT bytes FROM agent_queue_state"), 0);
    store.requeue(&[1], at(0).wall).expect("requeued");
    assert_eq!(names(&read(&mut store, 9)), ["poison"]);
}

#[test]
fn ev_8_many_rows_that_an_earlier_version_left_leave_some_with_each_batch() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..4));
    store
        .commit("fill", |tx| {
            tx.execute_batch(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 INSERT INTO events SELECT 4294967296 + i, 'left ' || i, x'00' FROM n;
                 UPDATE agent_queue_state SET settled_through = 5000, last_id = last_id + 5000;
                 UPDATE agent_queue SET id = id + 5000, idx = idx + 5000;
                 UPDATE agent_events SET id = id + 5000;",
            )
        })
        .expect("filled");
    let mut left = Vec::new();
    for _ in 0..4 {
        let batch = read(&mut store, 1);
        settle(&mut store, &batch);
        left.push(number(&store, "SELECT count(*) FROM events"));
    }
    assert_eq!(left, [3000, 1000, 0, 0]);
    assert_eq!(store.pending().expect("a count"), 0);
}
