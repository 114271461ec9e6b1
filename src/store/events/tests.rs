mod hostile;
mod model;
mod others;
mod relayed;
mod relayed_model;
mod room;

pub(super) use others::elsewhere;

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::model::SettledEvents;
use crate::model::{EventSummary, Now, UploadMemory};

/// The time `secs` after some start.
pub(super) fn at(secs: u64) -> Now {
    Now {
        wall: Timestamp::from_secs(1_750_000_000).after(Duration::from_secs(secs)),
        elapsed: Duration::from_secs(1000 + secs),
    }
}

pub(super) const UNBOUNDED: Limits = Limits { events: u64::MAX, bytes: u64::MAX };

pub(super) fn open(dir: &Path) -> EventStore {
    EventStore::open(dir, at(0).wall).expect("the queue opens").0
}

pub(super) fn blocked(name: &str) -> NewEvent {
    let summary = EventSummary { unique_id: name.to_owned(), actionable: true };
    NewEvent { summary, data: format!("data of {name}").into_bytes() }
}

pub(super) fn allowed(name: &str) -> NewEvent {
    let mut event = blocked(name);
    event.summary.actionable = false;
    event
}

pub(super) fn queue(store: &mut EventStore, names: impl IntoIterator<Item = String>) {
    let events: Vec<_> = names.into_iter().map(|name| blocked(&name)).collect();
    let answers = store.queue_events(&events, at(0), UNBOUNDED).expect("queued");
    assert!(answers.iter().all(|answer| *answer == Queued::Added), "{answers:?}");
}

pub(super) fn names(rows: &[crate::model::EventRow]) -> Vec<&str> {
    rows.iter().map(|row| row.unique_id.as_str()).collect()
}

pub(super) fn read(store: &mut EventStore, limit: usize) -> Vec<crate::model::EventRow> {
    store.read_batch(limit, None, at(0).wall).expect("a batch")
}

pub(super) fn delivered(rows: &[crate::model::EventRow]) -> SettledEvents {
    SettledEvents { delivered: rows.iter().map(|row| row.id).collect(), ..SettledEvents::default() }
}

pub(super) fn settle(store: &mut EventStore, rows: &[crate::model::EventRow]) {
    store.settle(&delivered(rows), at(0).wall).expect("settled");
}

pub(super) fn number(store: &EventStore, sql: &str) -> u64 {
    store.conn.query_row(sql, [], |row| row.get(0)).expect("a number")
}

pub(super) fn numbered(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| format!("event {n:06}"))
}

/// EV-1: oldest first, whatever their keys; EV-2: only settling takes them out.
#[test]
fn ev_1_events_come_oldest_first_and_stay_until_they_are_settled() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, ["c", "a", "b"].map(str::to_owned));
    let batch = read(&mut store, 2);
    assert_eq!(names(&batch), ["c", "a"]);
    assert_eq!(read(&mut store, 2), batch);
    assert_eq!(store.read_batch(2, Some(batch[1].id), at(0).wall).expect("rest")[0].unique_id, "b");
    settle(&mut store, &batch);
    assert_eq!(names(&read(&mut store, 9)), ["b"]);
    assert_eq!(store.pending().expect("a count"), 1);
}

/// EV-2: what was not settled before the process died is there again.
#[test]
fn ev_2_a_batch_that_was_not_settled_survives_the_process() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..30));
    let first = read(&mut store, 10);
    settle(&mut store, &first);
    let second = read(&mut store, 10);
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(read(&mut store, 10), second);
    assert_eq!(store.pending().expect("a count"), 20);
}

/// EV-4 and EV-5: unsendable ones are counted, unreadable ones set aside.
#[test]
fn ev_4_and_ev_5_unsendable_events_are_counted_and_unreadable_ones_kept() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, ["a", "b", "c", "d"].map(str::to_owned));
    let rows = read(&mut store, 10);
    let settled = SettledEvents {
        delivered: vec![rows[0].id],
        dropped: vec![(rows[1].id, "AllowTransitive".to_owned())],
        rejected: vec![(rows[2].id, "no payload".to_owned())],
        ..SettledEvents::default()
    };
    store.settle(&settled, at(7).wall).expect("settled");
    assert_eq!(names(&read(&mut store, 10)), ["d"]);
    let drops = store.drops().expect("counts");
    assert_eq!(drops.unsendable.get("AllowTransitive"), Some(&1));
    let rejected = store.rejected(10).expect("a list");
    assert_eq!(rejected.len(), 1);
    assert_eq!((rejected[0].unique_id.as_str(), rejected[0].reason.as_str()), ("c", "no payload"));
    assert_eq!((rejected[0].cause.as_str(), rejected[0].since), ("undecodable", at(7).wall));

    let ids = [rejected[0].id, 99];
    let answers = store.requeue(&ids, at(8).wall).expect("requeued");
    assert_eq!(answers, [Requeued::Added, Requeued::Unknown]);
    let rows = read(&mut store, 10);
    assert_eq!(names(&rows), ["d", "c"]);
    assert_eq!(rows[1].data, b"data of c");
    assert_eq!(store.rejected_count().expect("a count"), 0);
}

/// EV-6: one event of 500 that the server refuses holds the others up for a
/// few syncs, then it is set aside with the server's words.
#[test]
fn ev_6_one_refused_event_of_500_is_found_and_the_others_are_delivered() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..500));
    let mut taken = Vec::new();
    let mut syncs = 0;
    while store.pending().expect("a count") > 0 {
        syncs += 1;
        assert!(syncs < 20, "the refused event is not found");
        loop {
            let batch = read(&mut store, 500);
            if batch.is_empty() {
                break;
            }
            if batch.iter().any(|row| row.unique_id == "event 000137") {
                let ids: Vec<_> = batch.iter().map(|row| row.id).collect();
                store
                    .note_refused(
                        &ids,
                        "422: bad event",
                        false,
                        UploadMemory::default(),
                        at(0).wall,
                    )
                    .expect("noted");
                break;
            }
            taken.extend(batch.iter().map(|row| row.unique_id.clone()));
            settle(&mut store, &batch);
        }
        // A new process each time: what was learned is on disk.
        drop(store);
        store = open(dir.path());
    }
    // Sizes 500, 25, 12, 6, 3 and thrice 1, then the rest.
    assert_eq!(syncs, 9);
    assert_eq!(taken, numbered(0..500).filter(|n| n != "event 000137").collect::<Vec<_>>());
    let rejected = store.rejected(10).expect("a list");
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].unique_id, "event 000137");
    assert_eq!(
        (rejected[0].cause.as_str(), rejected[0].reason.as_str()),
        ("refused", "422: bad event")
    );
    assert_eq!(number(&store, "SELECT count(*) FROM agent_refusals"), 0);
}

/// EV-6: only the refused batch is made smaller.
#[test]
fn ev_6_events_that_were_not_refused_keep_the_full_batch_size() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..20));
    let ids: Vec<_> = read(&mut store, 4).iter().map(|row| row.id).collect();
    let refused =
        store.note_refused(&ids, "no", false, UploadMemory::default(), at(0).wall).expect("noted");
    assert_eq!(refused, Refused::Smaller { batch_limit: 2 });
    assert_eq!(number(&store, "SELECT max(batch_limit) FROM agent_refusals"), 2);
    for expected in [2, 2, 10, 6] {
        let batch = read(&mut store, 10);
        assert_eq!(batch.len(), expected);
        settle(&mut store, &batch);
    }
}

/// EV-7: the first event of a unique id stays until it has been delivered.
#[test]
fn ev_7_an_equal_event_is_taken_in_again_only_after_the_first_was_delivered() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let one = |store: &mut EventStore, data: &[u8]| {
        store.queue_event(&blocked("a").summary, data, at(0), UNBOUNDED).expect("an answer")
    };
    assert_eq!(one(&mut store, b"first"), Queued::Added);
    assert_eq!(one(&mut store, b"second"), Queued::Duplicate);
    let batch = read(&mut store, 10);
    assert_eq!(batch[0].data, b"first");
    settle(&mut store, &batch);
    assert_eq!(one(&mut store, b"third"), Queued::Added);
}

/// EV-7: records of allowed things are passed over for 4 h, blocks never.
#[test]
fn ev_7_a_repeated_record_of_something_allowed_is_backed_off() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let mut one = |event: NewEvent, secs| {
        let answer = store.queue_events(&[event], at(secs), UNBOUNDED).expect("an answer")[0];
        let batch = read(&mut store, 10);
        settle(&mut store, &batch);
        answer
    };
    assert_eq!(one(allowed("a"), 0), Queued::Added);
    assert_eq!(one(allowed("a"), 60), Queued::BackedOff);
    assert_eq!(one(allowed("a"), 4 * 3600), Queued::Added);
    assert_eq!(one(blocked("b"), 0), Queued::Added);
    assert_eq!(one(blocked("b"), 1), Queued::Added);
}

/// EV-8: the oldest records of allowed things go first, then the oldest.
#[test]
fn ev_8_a_full_queue_drops_and_counts_the_oldest_allowed_things_first() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let limits = Limits { events: 3, ..UNBOUNDED };
    let events = [blocked("b1"), allowed("a1"), blocked("b2"), allowed("a2"), blocked("b3")];
    store.queue_events(&events, at(0), limits).expect("queued");
    assert_eq!(names(&read(&mut store, 10)), ["b1", "b2", "b3"]);
    store.queue_events(&[blocked("b4")], at(0), limits).expect("queued");
    assert_eq!(names(&read(&mut store, 10)), ["b2", "b3", "b4"]);
    assert_eq!(store.drops().expect("counts").queue_full, 3);
    assert_eq!(store.pending().expect("a count"), 3);
}

/// EV-9: a request stays open until every executable was delivered.
#[test]
fn ev_9_a_bundle_request_is_open_until_its_executables_are_delivered() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let hashes = |hashes: &[&str]| hashes.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>();
    let asked = SettledEvents {
        bundle_requests: hashes(&["h1", "h2", "h1", ""]),
        ..SettledEvents::default()
    };
    store.settle(&asked, at(0).wall).expect("settled");
    store.note_bundle_requests(&hashes(&["h2", "h3"]), at(5).wall).expect("noted");
    let open_ones = |store: &EventStore| {
        let open = store.open_bundle_requests().expect("requests");
        open.into_iter().map(|r| (r.hash, r.delivered, r.executables)).collect::<Vec<_>>()
    };
    let request = |hash: &str, delivered, executables| (hash.to_owned(), delivered, executables);
    assert_eq!(open_ones(&store), [request("h1", 0, 0), request("h2", 0, 0), request("h3", 0, 0)]);
    let sent = |bundles: &[(&str, u32)]| SettledEvents {
        bundles_delivered: bundles.iter().map(|(h, n)| ((*h).to_owned(), *n)).collect(),
        ..SettledEvents::default()
    };
    store.settle(&sent(&[("h1", 2), ("h3", 0)]), at(6).wall).expect("settled");
    assert_eq!(open_ones(&store), [request("h1", 1, 2), request("h2", 0, 0)]);
    store.settle(&sent(&[("h1", 2), ("never asked", 1)]), at(7).wall).expect("settled");
    assert_eq!(open_ones(&store), [request("h2", 0, 0)]);
}

/// Rows in between that were not settled stay.
#[test]
fn a_batch_with_gaps_is_taken_out_exactly() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..100));
    let batch = read(&mut store, 10);
    let some: Vec<_> = batch.iter().step_by(2).cloned().collect();
    settle(&mut store, &some);
    let left = read(&mut store, 5);
    assert_eq!(left, batch.iter().skip(1).step_by(2).cloned().collect::<Vec<_>>());
    settle(&mut store, &some);
    assert_eq!(store.pending().expect("a count"), 95, "settling twice takes out once");
}

#[test]
fn a_batch_ends_before_its_payloads_take_too_much_memory() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let mut big = numbered(0..4).map(|name| blocked(&name)).collect::<Vec<_>>();
    for event in &mut big {
        event.data = vec![7; 3 << 20];
    }
    store.queue_events(&big, at(0), UNBOUNDED).expect("queued");
    assert_eq!(read(&mut store, 100).len(), 2);
}

/// EV-2 with a full disk: nothing is lost and nothing half done.
#[test]
fn a_full_disk_leaves_the_queue_as_it_was() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    queue(&mut store, numbered(0..50));
    let pages: u32 =
        store.conn.pragma_query_value(None, "page_count", |r| r.get(0)).expect("pages");
    store.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a limit");
    let mut big = blocked("one too many");
    big.data = vec![1; 100_000];
    let events = [allowed("small"), big];
    // Tried again, it fails again: the record of the small one is not backed off.
    for _ in 0..2 {
        let error = store.queue_events(&events, at(0), UNBOUNDED).expect_err("full");
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(store.recent.admits("small", at(0).elapsed));
        store.recent.forget("small");
    }
    assert_eq!(store.pending().expect("a count"), 50);
    assert_eq!(names(&read(&mut store, 100)).len(), 50);

    // Setting a large event aside needs room as well.
    let rejected: Vec<_> =
        read(&mut store, 50).iter().map(|row| (row.id, "x".repeat(4000))).collect();
    let settled = SettledEvents { rejected, ..SettledEvents::default() };
    let error = store.settle(&settled, at(0).wall).expect_err("full");
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(names(&read(&mut store, 100)).len(), 50);
    let batch = read(&mut store, 100);
    settle(&mut store, &batch);
    assert_eq!(store.pending().expect("a count"), 0);
}

/// Producers and a sync use the queue at the same time.
#[test]
fn two_openings_of_one_queue_see_each_others_commits() {
    let dir = TempDir::new().expect("a directory");
    let mut sync = open(dir.path());
    let mut producer = open(dir.path());
    queue(&mut producer, ["a".to_owned()]);
    let batch = read(&mut sync, 10);
    queue(&mut producer, ["b".to_owned()]);
    settle(&mut sync, &batch);
    assert_eq!(names(&read(&mut producer, 10)), ["b"]);
    let reader = EventStore::open_read_only(dir.path()).expect("a reader");
    assert_eq!(reader.pending().expect("a count"), 1);
}

#[test]
fn a_queue_that_was_never_used_is_missing_not_made() {
    let dir = TempDir::new().expect("a directory");
    let error = EventStore::open_read_only(dir.path()).map(|_| ()).expect_err("missing");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

/// STATE-3: whoever has the queue open while another process sets it aside
/// queues into the new one, and what was answered as queued is there.
#[test]
fn state_3_a_queue_set_aside_under_its_writer_is_opened_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = open(dir.path());
    queue(&mut writer, ["first".to_owned()]);
    let moved = |part: &str| {
        let from = dir.path().join(format!("events.db{part}"));
        std::fs::rename(from, dir.path().join(format!("events.db.corrupt-x{part}")))
    };
    moved("").expect("moved");
    moved("-wal").expect("moved");
    moved("-shm").expect("moved");
    writer.reader().expect_err("no file there");
    drop(open(dir.path()));
    assert!(writer.reader().expect("a file").is_none(), "another file is another queue");
    for part in ["", "-wal", "-shm"] {
        std::fs::remove_file(dir.path().join(format!("events.db{part}"))).expect("removed");
    }
    // The other process goes on, or has not yet made the new one.
    for name in ["second", "third"] {
        let there = dir.path().join("events.db").exists();
        queue(&mut writer, [name.to_owned()]);
        assert_eq!(there, name == "third");
    }
    let mut other = open(dir.path());
    assert_eq!(names(&read(&mut other, 10)), ["second", "third"]);
}
