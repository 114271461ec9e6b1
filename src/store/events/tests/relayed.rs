//! Uploads of the authorizer: nothing lost, nothing twice, nothing dropped.

use bytes::Bytes;

use super::*;
use crate::model::{EventBundle, EventDigest, RelayedEvent, RelayedKind};

/// An event that is told from others by `name`, which is its payload, too.
pub(super) fn event(name: &str, kind: RelayedKind) -> RelayedEvent {
    let mut digest = [0; 16];
    digest[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_le_bytes());
    RelayedEvent {
        digest: EventDigest::from_bytes(digest),
        data: Bytes::copy_from_slice(name.as_bytes()),
        actionable: true,
        denial: true,
        kind,
    }
}

pub(super) fn plain(name: &str) -> RelayedEvent {
    event(name, RelayedKind::Plain)
}

pub(super) fn bundle(hash: &str, executables: u32) -> EventBundle {
    EventBundle::new(hash, executables).expect("a hash")
}

fn of_bundle(name: &str, hash: &str, executables: u32) -> RelayedEvent {
    event(name, RelayedKind::OfBundle(bundle(hash, executables)))
}

pub(super) fn member(name: &str, hash: &str, executables: u32) -> RelayedEvent {
    let member = event(name, RelayedKind::Member(bundle(hash, executables)));
    RelayedEvent { denial: false, ..member }
}

fn take(store: &mut EventStore, events: &[RelayedEvent], secs: u64) -> Relayed {
    store.take_relayed(events, at(secs), UNBOUNDED).expect("taken")
}

fn counts(taken: &Relayed) -> (u64, u64, u64, u64) {
    (taken.queued, taken.duplicates, taken.set_aside, taken.held)
}

pub(super) fn payloads(store: &mut EventStore) -> Vec<String> {
    read(store, 1000).into_iter().map(|row| String::from_utf8(row.data).expect("a name")).collect()
}

fn request(store: &mut EventStore, hash: &str, secs: u64) {
    let settled =
        SettledEvents { bundle_requests: vec![hash.to_owned()], ..SettledEvents::default() };
    store.settle(&settled, at(secs).wall).expect("settled");
}

/// Delivers everything that is queued; what begins with an "m" is a member of that
/// bundle.
fn deliver(store: &mut EventStore, bundle: Option<(&str, u32)>, secs: u64) {
    let rows = read(store, 1000);
    let members = rows.iter().filter(|row| row.data.starts_with(b"m")).count();
    let bundles_delivered =
        bundle.map_or_else(Vec::new, |(hash, n)| vec![(hash.to_owned(), n); members]);
    let settled = SettledEvents { bundles_delivered, ..delivered(&rows) };
    store.settle(&settled, at(secs).wall).expect("settled");
}

/// RELAY-8: neither EV-7's filter nor its back-off holds for them, and equal
/// executions at different times are different events.
#[test]
fn relay_8_uploaded_events_are_queued_as_they_are() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let allowed = RelayedEvent { actionable: false, denial: false, ..plain("allowed 1") };
    let taken = take(&mut store, std::slice::from_ref(&allowed), 0);
    assert_eq!((counts(&taken), taken.urgent), ((1, 0, 0, 0), false));
    deliver(&mut store, None, 1);
    let again = RelayedEvent { actionable: false, denial: false, ..plain("allowed 2") };
    let taken = take(&mut store, &[again, plain("blocked")], 2);
    assert_eq!((counts(&taken), taken.urgent), ((2, 0, 0, 0), true));
    assert_eq!(payloads(&mut store), ["allowed 2", "blocked"]);
    let rows = read(&mut store, 9);
    assert!(rows.iter().all(|row| row.unique_id.starts_with("relay:")), "{rows:?}");
    assert_eq!(number(&store, "SELECT count(*) FROM agent_queue WHERE allowed = 1"), 1);
}

/// RELAY-8: the response was lost, and the events have left the queue meanwhile,
/// or the process has ended.
#[test]
fn relay_8_an_upload_that_is_sent_again_within_an_hour_adds_nothing() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let upload = [plain("a"), of_bundle("b", "h", 1), plain("a")];
    assert_eq!(counts(&take(&mut store, &upload, 0)), (2, 1, 0, 0));
    assert_eq!(take(&mut store, &upload, 1).wanted, ["h"], "the same response again");
    deliver(&mut store, None, 2);
    drop(store);
    let mut store = open(dir.path());
    let taken = take(&mut store, &upload, 3599);
    assert_eq!((counts(&taken), taken.urgent), ((0, 3, 0, 0), false));
    // The clock was set back: what was taken "later" is known.
    assert_eq!(counts(&take(&mut store, &upload[..1], 0)), (0, 1, 0, 0));
    assert_eq!(counts(&take(&mut store, &upload[..1], 3601)), (1, 0, 0, 0));
    assert_eq!(
        counts(&take(&mut store, &upload[..1], 3 * 3600)),
        (0, 1, 0, 0),
        "it is still queued"
    );
}

/// RELAY-8: what is remembered is bounded by number and time.
#[test]
fn relay_8_the_last_ten_thousand_events_are_remembered_for_an_hour() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let remembered = |store: &EventStore| number(store, "SELECT count(*) FROM agent_relayed");
    let events: Vec<_> = numbered(0..11_000).map(|name| plain(&name)).collect();
    for upload in events.chunks(500) {
        assert_eq!(counts(&take(&mut store, upload, 0)), (500, 0, 0, 0));
        let rows = read(&mut store, 500);
        settle(&mut store, &rows);
    }
    assert_eq!(remembered(&store), 10_000);
    assert_eq!(counts(&take(&mut store, &events[1001..1002], 1)), (0, 1, 0, 0));
    assert_eq!(counts(&take(&mut store, &events[..1], 1)), (1, 0, 0, 0));
    for n in 0..100 {
        take(&mut store, &[plain(&format!("later {n}"))], 3600);
    }
    assert_eq!(remembered(&store), 100 + 1, "one of them was taken a second later");
}

/// RELAY-8, EV-5: what is too large or no event is kept, once.
#[test]
fn relay_8_ev_5_what_cannot_be_queued_is_set_aside_with_its_reason() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let large = event("large", RelayedKind::TooLarge { reason: "2 MiB".to_owned() });
    let odd = event("odd", RelayedKind::Unreadable { reason: "a number".to_owned() });
    let upload = [large, plain("a"), odd];
    let taken = take(&mut store, &upload, 0);
    assert_eq!(counts(&taken), (1, 0, 2, 0));
    assert_eq!(counts(&take(&mut store, &upload, 1)), (0, 3, 0, 0));
    let rejected = store.rejected(9).expect("a list");
    let told: Vec<_> = rejected.iter().map(|r| (r.cause.as_str(), r.reason.as_str())).collect();
    assert_eq!(told, [("too_large", "2 MiB"), ("undecodable", "a number")]);
    // The operator may have the server decide.
    store.requeue(&[rejected[0].id], at(2).wall).expect("requeued");
    assert_eq!(payloads(&mut store), ["a", "large"]);
}

/// RELAY-8, EV-8: at the bound nothing is taken and nothing dropped, but what was
/// taken before is acknowledged.
#[test]
fn relay_8_a_full_queue_takes_nothing_and_drops_nothing() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let by_rows = Limits { events: 3, ..UNBOUNDED };
    let by_bytes = Limits { bytes: 6, ..UNBOUNDED };
    let allowed = RelayedEvent { actionable: false, ..plain("allowed") };
    store.take_relayed(&[allowed, plain("b")], at(0), by_rows).expect("taken");
    store.note_bundle_requests(&["h".to_owned()], at(0).wall).expect("noted");
    for limits in [by_rows, by_bytes] {
        for upload in [
            vec![plain("c"), member("m", "h", 2), plain("d")],
            vec![plain("e"), plain("f"), plain("g"), plain("h")],
        ] {
            let refused = store.take_relayed(&upload, at(1), limits);
            assert!(matches!(refused, Err(TakeError::Full)), "{refused:?}");
            assert_eq!(payloads(&mut store), ["allowed", "b"]);
            assert_eq!(number(&store, "SELECT count(*) FROM agent_relayed"), 2);
            assert_eq!(number(&store, "SELECT count(*) FROM agent_bundles"), 0);
        }
    }
    let known = store.take_relayed(&[plain("b")], at(1), by_bytes).expect("acknowledged");
    assert_eq!(counts(&known), (0, 1, 0, 0));
    assert_eq!(store.drops().expect("counts"), Drops::default());
    let members = [member("m", "h", 2), member("n", "h", 2)];
    let held = store.take_relayed(&members, at(1), by_rows).expect("held");
    assert_eq!(counts(&held), (0, 0, 0, 2), "though upstream waits for them");
    store.take_relayed(&[plain("c")], at(1), by_rows).expect("it fits");
    // Events of other producers drop what they always do.
    store.queue_events(&[blocked("theirs")], at(2), by_rows).expect("queued");
    assert_eq!(payloads(&mut store), ["b", "c", "data of theirs"]);
}

/// RELAY-8: one that can never fit must not come again forever.
#[test]
fn relay_8_an_upload_larger_than_the_queue_is_taken_by_an_empty_one() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let limits = Limits { events: 2, ..UNBOUNDED };
    let upload = ["a", "b", "c"].map(plain);
    assert_eq!(store.take_relayed(&upload, at(0), limits).expect("taken").queued, 3);
}

/// RELAY-8, EV-9: members wait apart until the server requests the bundle.
#[test]
fn relay_8_executables_of_a_bundle_are_held_until_upstream_requests_it() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let named = |n: u32| of_bundle(&format!("start {n}"), "h", 3);
    let taken = take(&mut store, &[named(1), named(2)], 0);
    assert_eq!(taken.wanted, ["h"], "once");
    let taken = take(&mut store, &[member("m1", "h", 3), member("m2", "h", 3)], 1);
    assert_eq!((counts(&taken), taken.wanted.len()), ((0, 0, 0, 2), 0));
    assert_eq!(counts(&take(&mut store, &[member("m2", "h", 3)], 2)), (0, 1, 0, 0));
    assert_eq!(take(&mut store, &[named(3)], 3).wanted, ["h"], "one is lacking");
    take(&mut store, &[member("m3", "h", 3)], 4);
    assert!(take(&mut store, &[named(4)], 5).wanted.is_empty(), "all are held");
    assert_eq!(payloads(&mut store).len(), 4);
    deliver(&mut store, None, 6);

    request(&mut store, "h", 7);
    assert_eq!(payloads(&mut store), ["m1", "m2", "m3"]);
    assert!(take(&mut store, &[named(5)], 8).wanted.is_empty(), "all are queued");
    deliver(&mut store, None, 9);
    assert!(store.open_bundle_requests().expect("requests").len() == 1, "not said to be delivered");
    assert_eq!(take(&mut store, &[named(6)], 10).wanted, ["h"], "the request is still open");
}

/// RELAY-8: members that come after the request go into the queue at once, and once.
#[test]
fn relay_8_members_of_a_requested_bundle_are_queued_when_they_come() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    request(&mut store, "h", 0);
    let members = [member("m1", "h", 2), member("m2", "h", 2)];
    let taken = take(&mut store, &members[..1], 1);
    assert_eq!((counts(&taken), taken.urgent), ((1, 0, 0, 0), false));
    assert_eq!(take(&mut store, &[of_bundle("s", "h", 2)], 1).wanted, ["h"]);
    deliver(&mut store, Some(("h", 2)), 2);
    // Its response was lost; the request is still open for the other one.
    let taken = take(&mut store, &members, 3);
    assert_eq!(counts(&taken), (1, 1, 0, 0));
    assert_eq!(payloads(&mut store), ["m2"]);
    deliver(&mut store, Some(("h", 2)), 4);
    assert!(store.open_bundle_requests().expect("requests").is_empty());
    assert!(take(&mut store, &[of_bundle("t", "h", 2)], 5).wanted.is_empty(), "all were sent");

    // The server forgot them.
    deliver(&mut store, None, 6);
    request(&mut store, "h", 7);
    assert_eq!(take(&mut store, &[of_bundle("u", "h", 2)], 8).wanted, ["h"]);
    assert_eq!(counts(&take(&mut store, &members, 9)), (2, 0, 0, 0));
    assert_eq!(payloads(&mut store), ["u", "m1", "m2"]);
}

/// RELAY-8, EV-8: a bundle that does not fit when it is requested is queued by the
/// next sync for which there is room.
#[test]
fn relay_8_a_requested_bundle_waits_for_room_in_the_queue() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    store.set_limits(Limits { events: 3, ..UNBOUNDED });
    take(&mut store, &[member("m1", "h", 2), member("m2", "h", 2)], 0);
    take(&mut store, &["a", "b"].map(plain), 0);
    request(&mut store, "h", 1);
    assert_eq!(payloads(&mut store), ["a", "b"]);
    store.horizon(at(2).wall).expect("a sync");
    assert_eq!(payloads(&mut store), ["a", "b"]);
    let first = read(&mut store, 1);
    settle(&mut store, &first);
    store.horizon(at(3).wall).expect("a sync");
    assert_eq!(payloads(&mut store), ["b", "m1", "m2"]);
}

/// RELAY-8: what is held is bounded; the oldest bundle goes first.
#[test]
fn relay_8_held_bundles_are_bounded_by_time_and_number() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    let hashes = |store: &EventStore| -> String {
        let mut sql =
            store.conn.prepare("SELECT hash FROM agent_bundles ORDER BY id").expect("sql");
        let rows = sql.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        rows.collect::<Result<Vec<_>, _>>().expect("hashes").join(" ")
    };
    let day = 86_400;
    take(&mut store, &[member("old", "h1", 1)], 0);
    take(&mut store, &[member("new", "h2", 1)], 20 * day);
    store.horizon(at(29 * day).wall).expect("a sync");
    assert_eq!(hashes(&store), "h1 h2");
    store.horizon(at(30 * day).wall).expect("a sync");
    assert_eq!(hashes(&store), "h2");
    // As if nearly as many were held as may be.
    store
        .commit("fill", |tx| tx.execute_batch("UPDATE agent_bundles SET members = 49_999"))
        .expect("filled");
    take(&mut store, &[member("one", "h3", 1)], 30 * day);
    assert_eq!(hashes(&store), "h2 h3");
    take(&mut store, &[member("two", "h3", 2)], 30 * day);
    assert_eq!(hashes(&store), "h3");
    let large = RelayedEvent { data: vec![0; 1 << 20].into(), ..member("large", "h4", 1) };
    take(&mut store, &[large], 30 * day);
    store
        .commit("fill", |tx| {
            tx.execute_batch("UPDATE agent_bundles SET bytes = 256 << 20 WHERE hash = 'h4'")
        })
        .expect("filled");
    take(&mut store, &[member("three", "h5", 1)], 30 * day);
    assert_eq!(hashes(&store), "h5", "the older ones first");
    assert_eq!(number(&store, "SELECT count(*) FROM agent_bundle_members"), 1);
}

/// STATE-2, RELAY-8: on a full disk the authorizer keeps its events.
#[test]
fn relay_8_a_full_disk_takes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    take(&mut store, &[plain("a")], 0);
    let pages: u32 =
        store.conn.pragma_query_value(None, "page_count", |r| r.get(0)).expect("pages");
    store.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a limit");
    let large = RelayedEvent { data: vec![1; 100_000].into(), ..plain("large") };
    let refused = store.take_relayed(&[plain("b"), large], at(1), UNBOUNDED);
    assert!(matches!(refused, Err(TakeError::Store(StoreError::Full { .. }))), "{refused:?}");
    assert_eq!(payloads(&mut store), ["a"]);
    assert_eq!(number(&store, "SELECT count(*) FROM agent_relayed"), 1);
}

/// STATE-3, RELAY-8: what was acknowledged is in the file that is read.
#[test]
fn relay_8_a_queue_set_aside_under_the_relay_is_opened_anew() {
    let dir = TempDir::new().expect("a directory");
    let mut store = open(dir.path());
    take(&mut store, &[plain("a")], 0);
    for part in ["", "-wal", "-shm"] {
        let from = dir.path().join(format!("events.db{part}"));
        std::fs::rename(from, dir.path().join(format!("events.db.corrupt-x{part}")))
            .expect("moved");
    }
    assert_eq!(counts(&take(&mut store, &[plain("b")], 1)), (1, 0, 0, 0));
    drop(store);
    assert_eq!(payloads(&mut open(dir.path())), ["b"]);
}

/// Released stores: the version before events came from an authorizer.
#[test]
fn relay_8_a_queue_of_the_version_before_is_migrated() {
    let dump =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/db/events/v6-agent3.sql"));
    let dir = TempDir::new().expect("a directory");
    let conn = Connection::open(dir.path().join("events.db")).expect("a database");
    conn.execute_batch(dump).expect("the dump loads");
    drop(conn);
    let (mut store, notices) = EventStore::open(dir.path(), at(0).wall).expect("migrated");
    assert_eq!(notices, []);
    assert_eq!(payloads(&mut store), ["b", "cc", "d"]);
    assert_eq!(store.rejected_count().expect("a count"), 1);
    assert_eq!(store.drops().expect("counts").queue_full, 7);
    let again = store.queue_events(&[blocked("waits 2")], at(0), UNBOUNDED).expect("an answer");
    assert_eq!(again, [Queued::Duplicate]);
    assert_eq!(store.open_bundle_requests().expect("requests").len(), 1);
    let taken = take(&mut store, &[member("m", "bundle", 2), plain("a")], 1);
    assert_eq!(counts(&taken), (2, 0, 0, 0));
    assert_eq!(payloads(&mut store), ["b", "cc", "d", "a", "m"]);
}
