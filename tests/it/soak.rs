//! Many syncs in a row by one daemon, against a server at which things go
//! wrong. `SANTA_SYNC_SOAK=10000 cargo test --test it soak -- --nocapture` makes
//! that many, and prints what it measured.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use std::{fs, thread};

use rusqlite::Connection;
use rustix::process::Signal;
use santa_sync::control::message::{ControlRequest, ControlResponse};
use santa_sync::harness::{FakeServer, Fault, every, fixtures};
use santa_sync::model::{Stage, SyncResult};
use santa_sync::protocol::stored::{QueuedEvent, encode};
use santa_sync::store::EventStore;

use crate::agent::Agent;
use crate::daemon::{Daemon, ask, sync};

/// How many syncs without the variable; a few seconds' worth.
const DEFAULT: u64 = 30;

/// What must not grow.
#[derive(Debug)]
struct Measured {
    resident_kib: u64,
    descriptors: usize,
    state_bytes: u64,
    state_files: usize,
}

/// Measures while no reader keeps the logs of the databases.
fn measure(daemon: &Daemon, agent: &Agent) -> Measured {
    // The first may write its logs back only after it has reported its result.
    sync(agent);
    sync(agent);
    let proc = format!("/proc/{}", daemon.pid());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
    let files: Vec<_> = fs::read_dir(&agent.state_dir).expect("a directory").flatten().collect();
    Measured {
        resident_kib: resident.unwrap_or(0),
        descriptors: fs::read_dir(format!("{proc}/fd")).map_or(0, Iterator::count),
        state_bytes: files.iter().filter_map(|f| Some(f.metadata().ok()?.len())).sum(),
        state_files: files.len(),
    }
}

/// The n-th fault of an endless series, the same in each run.
fn fault(n: u64) -> Option<(Stage, Fault)> {
    let stages = [Stage::Preflight, Stage::EventUpload, Stage::RuleDownload, Stage::Postflight];
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let stage = stages[usize::try_from(mixed % 4).expect("small")];
    let fault = match mixed / 4 % 16 {
        0 => Fault::status(503),
        1 => Fault::status(404),
        2 => Fault::Truncate,
        3 => Fault::CloseBeforeResponse,
        4 => Fault::Html,
        5 => Fault::NotJson,
        6 => Fault::CorruptGzip,
        7 => Fault::retry_after(429, "1"),
        _ => return None,
    };
    Some((stage, fault))
}

/// The bytes of a database and of its log, and those in use.
fn sizes(agent: &Agent, name: &str) -> (u64, u64) {
    let path = agent.state_dir.join(name);
    let conn = Connection::open(&path).expect("a database");
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let pragma = |name| pragma(name).expect("a number");
    let live = (pragma("page_count") - pragma("freelist_count")) * pragma("page_size");
    let log = fs::metadata(agent.state_dir.join(format!("{name}-wal"))).map_or(0, |log| log.len());
    (fs::metadata(path).expect("a file").len() + log, live)
}

/// The databases that are to be within twice their live content at the end,
/// and of which a reader keeps a snapshot for many syncs.
const BOUNDED: [&str; 2] = ["events.db", "rules.db"];

/// Readers that keep a snapshot of each database until they are dropped.
fn slow_readers(agent: &Agent) -> Vec<Connection> {
    let reader = |name: &&str| {
        let conn = Connection::open(agent.state_dir.join(name)).expect("a database");
        conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").expect("a snapshot");
        conn
    };
    BOUNDED.iter().map(reader).collect()
}

/// Another program that writes into a database of its own, which is uploaded
/// as well, and into our own: events, and what is none.
struct Writer {
    path: PathBuf,
    conn: Connection,
    events: u64,
    unreadable: u64,
}

impl Writer {
    fn new(dir: &Path) -> Self {
        let path = dir.join("other-events.db");
        let conn = Connection::open(&path).expect("a database");
        conn.execute_batch(
            "CREATE TABLE events (idx INTEGER PRIMARY KEY, uniqueid TEXT NOT NULL, eventdata BLOB);
             CREATE UNIQUE INDEX uniqueid ON events (uniqueid);
             PRAGMA user_version = 6;",
        )
        .expect("a schema");
        Self { path, conn, events: 0, unreadable: 0 }
    }

    /// Writes what the n-th sync finds.
    fn write(&mut self, n: u64, agent: &Agent) {
        let insert = "INSERT INTO events (uniqueid, eventdata) VALUES (?1, ?2)";
        let name = format!("other {n}");
        if n % 4 == 1 {
            let event = fixtures::events(1, n).next().expect("an event");
            let data = encode(&QueuedEvent::from(event));
            self.conn.execute(insert, (&name, data)).expect("written");
            self.events += 1;
        }
        if n % 10 == 2 {
            self.conn.execute(insert, (&name, name.as_bytes())).expect("written");
            self.unreadable += 1;
        }
        if n % 10 == 7 {
            let ours = Connection::open(agent.state_dir.join("events.db")).expect("a database");
            ours.busy_timeout(Duration::from_mins(1)).expect("a setting");
            ours.execute(insert, (&name, name.as_bytes())).expect("written");
            self.unreadable += 1;
        }
    }
}

/// DAEMON-6: nothing grows, nothing is lost, and no sync is the last one.
#[test]
fn daemon_6_many_syncs_with_faults_leave_nothing_behind() {
    let wanted: u64 =
        std::env::var("SANTA_SYNC_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT);
    let server = FakeServer::builder()
        .rules(fixtures::rules(200, 1))
        .page_size(50)
        .transcript_limit(10)
        .start()
        .unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = Writer::new(dir.path());
    let other = format!("EventsDatabase={}", writer.path.display());
    let daemon = Daemon::start(&agent, 2_000, &["--set", &other]);
    // Nobody reads its log from here on.
    let off = ControlRequest::LogLevel { level: "off".to_owned() };
    assert_eq!(ask(&agent, &off), ControlResponse::Done);
    sync(&agent);
    let (mut queued, mut succeeded) = (0_u64, 0_u64);
    let mut early = None;
    thread::scope(|scope| {
        // A trickle: an event comes in at some time of each sync.
        let (tick, ticks) = sync_channel::<()>(0);
        let agent = &agent;
        scope.spawn(move || {
            let mut events = fixtures::events(usize::MAX, 7);
            for () in ticks {
                agent.queue(events.by_ref().take(1).map(|event| event.to_json()));
            }
        });
        let mut readers = Vec::new();
        for n in 0..wanted {
            if n % 50 == 0 {
                readers = slow_readers(agent);
            }
            server.clear_faults();
            if let Some((stage, fault)) = fault(n) {
                server.fault(stage, every(), fault);
            }
            writer.write(n, agent);
            tick.send(()).expect("it listens");
            queued += 1;
            succeeded += u64::from(sync(agent).result == SyncResult::Success);
            if n == wanted / 10 {
                readers.clear();
                early = Some(measure(&daemon, agent));
            }
        }
    });
    let late = measure(&daemon, &agent);
    let early = early.expect("measured");

    server.clear_faults();
    assert!((0..20).any(|_| sync(&agent).result == SyncResult::Success), "no sync succeeds");
    assert!(succeeded > wanted / 3, "{succeeded} of {wanted}");
    assert_eq!(
        (agent.pending(), server.events_received() >= queued + writer.events),
        (0, true),
        "no event is lost"
    );
    let left = "SELECT count(*) FROM events";
    let left: u64 = writer.conn.query_row(left, [], |row| row.get(0)).expect("a count");
    assert_eq!(left, 0, "the other program's events have been sent, too");
    let set_aside = EventStore::open_read_only(&agent.state_dir).unwrap().rejected_count().unwrap();
    assert_eq!(set_aside, writer.unreadable, "each is there once");
    let verified = agent.run(&["rules", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(agent.rules(), 200);
    let remembered = agent.store().history(100).unwrap().len() as u64;
    assert!(remembered == 50 || remembered > wanted.min(49), "{remembered}");
    println!("{wanted} syncs, {succeeded} succeeded\nearly {early:?}\nlate  {late:?}");
    assert!(late.descriptors <= early.descriptors + 8, "{early:?} {late:?}");
    // After a few syncs the allocator has not come to rest, and without /proc
    // nothing was measured.
    let resident_kib = if wanted < 1_000 { 16 << 10 } else { 2 << 10 };
    assert!(late.resident_kib <= early.resident_kib + resident_kib, "{early:?} {late:?}");
    assert!(late.state_bytes <= early.state_bytes + 512 * 1024, "{early:?} {late:?}");
    assert!(late.state_files <= early.state_files + 2, "{early:?} {late:?}");
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
    for name in BOUNDED {
        let (size, live) = sizes(&agent, name);
        println!("{name}: {size} bytes, {live} of them live");
        assert!(size <= 2 * live, "{name} has {size} bytes for {live}");
    }
}
