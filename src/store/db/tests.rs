//! Openings side by side, and what else may lie in the place of our files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::sync::Barrier;

use rusqlite::Connection;

use crate::model::Timestamp;
use crate::store::{EventStore, Notice, Store, StoreError};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

/// Opens both stores of a directory in many threads at once.
fn open_at_once(dir: &std::path::Path) -> Vec<Notice> {
    const THREADS: usize = 12;
    let start = Barrier::new(THREADS);
    let mut notices = Vec::new();
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let (store, mut notices) = Store::open(dir, NOW).expect("rules open");
                    store.rule_counts().expect("counted");
                    let (events, more) = EventStore::open(dir, NOW).expect("events open");
                    events.pending().expect("counted");
                    notices.extend(more);
                    notices
                })
            })
            .collect();
        for thread in opened {
            notices.extend(thread.join().expect("no panic"));
        }
    });
    notices
}

/// STATE-2: creating is safe however many do it at once, and one of them says
/// that it did.
#[test]
fn state_2_any_number_of_openings_at_once_create_both_stores_once() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().expect("a directory");
        let mut created: Vec<_> = open_at_once(dir.path())
            .into_iter()
            .map(|notice| match notice {
                Notice::Created { path } => path,
                Notice::SetAside { .. } | Notice::SettingsUnreadable { .. } => panic!("{notice:?}"),
            })
            .collect();
        created.sort();
        assert_eq!(created, [dir.path().join("events.db"), dir.path().join("rules.db")]);
    }
}

/// STATE-2: so is migrating, from any released version.
#[test]
fn state_2_any_number_of_openings_at_once_migrate_both_stores_once() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/db");
    for (rules, events) in [("001", "v1"), ("005", "v2"), ("009", "v3"), ("012", "v5")] {
        let dir = tempfile::tempdir().expect("a directory");
        for (file, fixture) in
            [("rules.db", format!("{rules}.sql")), ("events.db", format!("events/{events}.sql"))]
        {
            let sql = fs::read_to_string(fixtures.join(fixture)).expect("a fixture");
            let conn = Connection::open(dir.path().join(file)).expect("a database");
            conn.execute_batch(&sql).expect("filled");
        }
        assert_eq!(open_at_once(dir.path()), [], "{rules} {events}");
        let (store, _) = Store::open(dir.path(), NOW).expect("opens");
        assert_eq!(store.rule_counts().expect("counted").teamid, 1, "{rules}");
    }
}

/// STATE-3: of many that find a database corrupt, one sets it aside.
#[test]
fn state_3_a_corrupt_database_is_set_aside_once_by_any_number_of_openings() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["rules.db", "events.db"] {
        fs::write(dir.path().join(file), "no database at all").expect("written");
    }
    let mut aside: Vec<_> = open_at_once(dir.path())
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::SetAside { path, .. } => Some(path),
            Notice::Created { .. } | Notice::SettingsUnreadable { .. } => None,
        })
        .collect();
    aside.sort();
    let copy = |file: &str| dir.path().join(format!("{file}.corrupt-20250812T120000Z"));
    assert_eq!(aside, [copy("events.db"), copy("rules.db")]);
}

/// STATE-1: neither store opens through or changes what lies in the place of
/// one of its files, and the error names it.
#[test]
fn state_1_nothing_in_the_place_of_a_database_file_is_followed_or_changed() {
    for database in ["rules.db", "events.db"] {
        for part in ["", "-wal", "-shm", "-journal", "-suspect", "-lock"] {
            for kind in ["link", "dangling", "hard", "fifo", "directory"] {
                let outer = tempfile::tempdir().expect("a directory");
                let dir = outer.path().join("state");
                drop(Store::open(&dir, NOW).expect("a store"));
                drop(EventStore::open(&dir, NOW).expect("a queue"));
                let victim = outer.path().join("victim");
                fs::write(&victim, "untouched").expect("written");
                fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).expect("set");
                let name = format!("{database}{part}");
                let path = dir.join(&name);
                let _ = fs::remove_file(&path);
                if part == "-lock" {
                    // Whoever need not take the turn does not meet it.
                    fs::write(dir.join(format!("{database}-suspect")), "").expect("written");
                }
                match kind {
                    "link" => symlink(&victim, &path).expect("made"),
                    "dangling" => symlink(outer.path().join("new"), &path).expect("made"),
                    "hard" => fs::hard_link(&victim, &path).expect("made"),
                    "directory" => fs::create_dir(&path).expect("made"),
                    _ => {
                        let made = Command::new("mkfifo").arg(&path).status();
                        assert!(made.expect("it ran").success());
                    }
                }
                let error = if database == "rules.db" {
                    Store::open(&dir, NOW).map(drop).expect_err("refused")
                } else {
                    EventStore::open(&dir, NOW).map(drop).expect_err("refused")
                };
                let said = error.to_string();
                assert!(said.contains(&name), "{kind} {name}: {said}");
                assert_eq!(fs::read_to_string(&victim).expect("there"), "untouched");
                let mode = fs::metadata(&victim).expect("there").permissions().mode();
                assert_eq!(mode & 0o777, 0o644, "{kind} {name}");
                assert!(!outer.path().join("new").exists(), "{kind} {name}");
            }
        }
    }
}

/// STATE-1: an existing directory is brought to 0700 and its files to 0600; one
/// that is not a state directory is left alone.
#[test]
fn state_1_an_existing_directory_is_made_private() {
    let outer = tempfile::tempdir().expect("a directory");
    let dir = outer.path().join("state");
    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    let set = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    };
    fs::create_dir(&dir).expect("made");
    set(&dir, 0o755);
    drop(Store::open(&dir, NOW).expect("an empty directory"));
    assert_eq!(mode(&dir), 0o700);
    set(&dir, 0o755);
    set(&dir.join("rules.db"), 0o644);
    drop(Store::open(&dir, NOW).expect("a state directory"));
    assert_eq!((mode(&dir), mode(&dir.join("rules.db"))), (0o700, 0o600));
    // The daemon has let a group pass through to its socket.
    set(&dir, 0o710);
    drop(Store::open(&dir, NOW).expect("a state directory"));
    assert_eq!(mode(&dir), 0o710);

    let other = outer.path().join("etc");
    fs::create_dir(&other).expect("made");
    fs::create_dir(other.join("ssl")).expect("made");
    set(&other, 0o755);
    let error = Store::open(&other, NOW).expect_err("not ours");
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
    assert_eq!(mode(&other), 0o755);
    assert_eq!(fs::read_dir(&other).expect("listed").count(), 1);
}

/// STATE-1: nobody else may write to the directory or one above it.
#[test]
fn state_1_a_directory_below_one_that_others_may_write_to_is_refused() {
    let outer = tempfile::tempdir().expect("a directory");
    let loose = outer.path().join("loose");
    fs::create_dir(&loose).expect("made");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o777)).expect("set");
    let error = Store::open(&loose.join("state"), NOW).expect_err("exposed");
    assert!(matches!(error, StoreError::DirectoryExposed { .. }), "{error}");
    assert!(error.to_string().contains("others may write to"), "{error}");
    assert!(!loose.join("state").exists());
}
