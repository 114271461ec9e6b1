use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::{Compacted, Pages, compact};
use crate::model::{Identifier, Policy, Rule, RuleDetails, RuleSet, RuleType, SyncType, Timestamp};
use crate::store::{EventStore, Store};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

/// That many rules with a text of 4 KiB each.
fn large(rules: usize) -> RuleSet {
    with_texts(rules, 4_096)
}

fn with_texts(rules: usize, bytes: usize) -> RuleSet {
    let rule = |n: usize| {
        let identifier = format!("platform:{n}");
        Rule {
            identifier: Identifier::parse(RuleType::SigningId, &identifier).expect("a rule"),
            policy: Policy::Blocklist,
            details: Some(Box::new(RuleDetails {
                comment: format!("{n:0bytes$}"),
                ..RuleDetails::default()
            })),
        }
    };
    let mut set = RuleSet::default();
    set.push_page((0..rules).map(rule).collect::<Vec<_>>(), Vec::new());
    set
}

fn open(dir: &Path) -> Store {
    Store::open(dir, NOW).expect("a store").0
}

fn size(dir: &Path, name: &str) -> u64 {
    fs::metadata(dir.join(name)).expect("a file").len()
}

/// A connection of another program that reads what is there now, and goes on
/// reading it.
fn reader(dir: &Path, name: &str) -> Connection {
    let conn = Connection::open(dir.join(name)).expect("open");
    conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").expect("a snapshot");
    conn
}

/// What is logged at WARN while `run` runs.
fn warnings(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = written.0.lock().expect("unpoisoned").clone();
    String::from_utf8(bytes).expect("text")
}

/// STATE-2: one warning when such a reader has let the log grow past 64 MB.
#[test]
fn state_2_a_log_that_a_reader_keeps_large_is_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let reader = reader(dir.path(), "rules.db");
    store.commit_rules(&large(1_000), (SyncType::Clean, NOW)).expect("committed");
    assert_eq!(warnings(|| drop(store)), "", "8 MB are no reason");
    let mut store = open(dir.path());
    store.commit_rules(&with_texts(1_200, 60_000), (SyncType::Clean, NOW)).expect("committed");
    let warned = warnings(|| drop(store));
    assert_eq!(warned.matches("WARN").count(), 1, "{warned}");
    assert!(warned.contains("file=\"rules.db\"") && warned.contains("write-ahead log grows"));
    drop(reader);
    assert_eq!(warnings(|| drop(open(dir.path()))), "");
    assert_eq!(size(dir.path(), "rules.db-wal"), 0);
}

#[test]
fn rule_7_a_file_that_is_mostly_free_is_made_small() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&large(5_000), (SyncType::Clean, NOW)).expect("committed");
    store.compact_rules(|| false);
    let full = Pages::of(&store.rules).expect("counted").all();
    assert!(full > 20 << 20, "nothing is free yet");
    // Less than half of it goes, then most of it.
    store.commit_rules(&large(3_000), (SyncType::Clean, NOW)).expect("committed");
    store.compact_rules(|| false);
    assert!(Pages::of(&store.rules).expect("counted").all() >= full);
    let before = store.commit_rules(&large(1_500), (SyncType::Clean, NOW)).expect("committed");
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    store.compact_rules(|| false);
    let after = Pages::of(&store.rules).expect("counted");
    assert!(after.all() < full / 2 && after.free == 0, "{after:?}");
    assert_eq!(size(dir.path(), "rules.db"), after.all(), "the file, too");

    assert_eq!(reader.rules_hash().expect("a hash"), before.hash);
    store.commit_rules(&large(1_600), (SyncType::Normal, NOW)).expect("committed");
    assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
    drop(store);
    assert_eq!(open(dir.path()).rule_counts().expect("counts").signingid, 1_600);
}

/// A reader's old snapshot stays whole; the file gets small when it ends.
#[test]
fn rule_7_a_file_is_made_small_beside_a_reader() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&large(3_000), (SyncType::Clean, NOW)).expect("committed");
    let count = "SELECT count(*) FROM execution_rules";
    let reader = reader(dir.path(), "rules.db");
    let seen: u32 = reader.query_row(count, [], |row| row.get(0)).expect("read");
    store.commit_rules(&large(10), (SyncType::Clean, NOW)).expect("committed");
    store.compact_rules(|| false);
    let still: u32 = reader.query_row(count, [], |row| row.get(0)).expect("read");
    assert_eq!((seen, still), (3_000, 3_000));
    drop(reader);
    drop(store);
    assert!(size(dir.path(), "rules.db") < 1 << 20);
}

#[test]
fn rule_7_making_a_file_small_gives_up_for_a_stop_and_for_another_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&large(4_000), (SyncType::Clean, NOW)).expect("committed");
    let hash = store.commit_rules(&large(1_500), (SyncType::Clean, NOW)).expect("committed").hash;
    let full = Pages::of(&store.rules).expect("counted").all();

    // SQLite asks for the first time while it copies the rules.
    let error = compact(&mut store.rules, dir.path(), || true).expect_err("given up");
    assert!(super::is_passing(&error), "{error}");
    let mut other = Connection::open(dir.path().join("rules.db")).expect("open");
    let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun");
    let error = compact(&mut store.rules, dir.path(), || false).expect_err("locked");
    assert!(super::is_passing(&error), "{error}");
    drop(writing);
    assert_eq!(Pages::of(&store.rules).expect("counted").all(), full);
    assert_eq!(store.rules_hash().expect("a hash"), hash);
    assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);

    let done = compact(&mut store.rules, dir.path(), || false).expect("made small");
    assert!(matches!(done, Compacted::From(before, after) if before == full && after < full / 2));
    let again = compact(&mut store.rules, dir.path(), || false).expect("nothing to do");
    assert_eq!(again, Compacted::NotWorthIt);
}

/// STATE-2: a reader that keeps a snapshot holds up no closing.
#[test]
fn state_2_a_reader_that_keeps_a_snapshot_does_not_hold_up_a_closing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let (events, _) = EventStore::open(dir.path(), NOW).expect("a queue");
    let readers = ["rules.db", "events.db"].map(|name| reader(dir.path(), name));
    store.commit_rules(&large(1), (SyncType::Normal, NOW)).expect("committed");
    let other = Connection::open(dir.path().join("events.db")).expect("open");
    other.execute("INSERT INTO signal_reports VALUES (1, x'00')", []).expect("written");
    drop(other);
    // Were one of the closings to wait for its reader, it would for an hour.
    for conn in [&store.rules, events.connection()] {
        conn.busy_timeout(Duration::from_hours(1)).expect("a setting");
    }
    drop((store, events));
    assert!(size(dir.path(), "rules.db-wal") > 0, "what is being read stays");

    drop(readers);
    drop(open(dir.path()));
    assert_eq!(size(dir.path(), "rules.db-wal"), 0);
}

/// Names the directory for [`killed_while_a_file_is_made_small`].
const KILLED_DIR: &str = "SANTA_SYNC_TEST_COMPACTED_DIR";
/// Says at which question whether to give up the process is killed.
const KILLED_AT: &str = "SANTA_SYNC_TEST_COMPACTED_AT";

/// Not a test by itself: what the next test runs in a process of its own.
#[test]
fn killed_while_a_file_is_made_small() {
    let Some(dir) = std::env::var_os(KILLED_DIR) else { return };
    let at: u32 = std::env::var(KILLED_AT).expect("a number").parse().expect("a number");
    let mut store = open(Path::new(&dir));
    let mut asked = 0;
    store.compact_rules(move || {
        asked += 1;
        if asked == at {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).expect("killed");
        }
        false
    });
}

/// RULE-7, STATE-2: SIGKILL in the middle leaves the rules as they were, and
/// the next attempt makes the file small.
#[test]
fn rule_7_a_process_killed_while_it_makes_a_file_small_costs_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.commit_rules(&with_texts(20_000, 700), (SyncType::Clean, NOW)).expect("committed");
    let few = with_texts(6_000, 700);
    let hash = store.commit_rules(&few, (SyncType::Clean, NOW)).expect("committed").hash;
    let full = Pages::of(&store.rules).expect("counted").all();
    drop(store);
    for at in [1, 2, 3] {
        let killed = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "store::space::tests::killed_while_a_file_is_made_small"])
            .env(KILLED_DIR, dir.path())
            .env(KILLED_AT, at.to_string())
            .output()
            .expect("it ran");
        assert_eq!(killed.status.signal(), Some(9), "{at}: {killed:?}");
        let store = open(dir.path());
        assert_eq!(store.rules_hash().expect("a hash"), hash, "{at}");
        assert_eq!(store.verify_rules().expect("verified").problems, [""; 0], "{at}");
        assert_eq!(Pages::of(&store.rules).expect("counted").all(), full, "{at}");
    }
    open(dir.path()).compact_rules(|| false);
    assert!(size(dir.path(), "rules.db") < full / 2);
}
