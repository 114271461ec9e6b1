//! Opening our databases: private files, durable commits, the newest schema,
//! and a corrupt file set aside.
//!
//! A database that is ready for use is opened at once, by any number of
//! processes. Whatever has to be done first (creating, migrating, checking,
//! setting aside) is done by one process at a time, in its [`turn`].
//!
//! The whole file is checked only after a sign of trouble: the last writer did
//! not close the database (its write-ahead log holds pages), or a statement
//! reported corruption (a mark beside the file). Otherwise opening reads the
//! header and the schema, however large the store is.
//!
//! The empty write-ahead log and its index stay on disk when a connection
//! closes, so that a reader without permission to create files can always open
//! the database, and readers and the writer never wait for each other.

mod aside;
mod directory;
mod exclusive;
mod migrate;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::exclusive::Turn;
use self::migrate::{Version, absurd, migrate_all, numberings, too_new};
use super::{FileCheck, Notice, StoreError};
use crate::files::{self, FileIdentity, beside};
use crate::model::Timestamp;

pub(in crate::store) use aside::mark_suspect;
pub(super) use directory::prepare_dir;
pub(super) use migrate::{Migration, newest};
#[cfg(test)]
pub(super) use migrate::{Numbering, migrate};

/// How long a statement waits for another program's lock. Ours hold theirs for
/// the time of one commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening waits. A program with an exclusive lock keeps it for as
/// long as it runs.
const BUSY_OPENING: Duration = Duration::from_secs(1);
/// How often switching to a write-ahead log is tried, with pauses of 5 ms:
/// SQLite's busy timeout does not cover all of it.
const LOG_TRIES: u32 = 200;
/// The write-ahead log is truncated to this many bytes once it has been merged.
const LOG_KEPT: u32 = 4 << 20;

/// How much of a database a reader maps instead of copying page by page, in
/// bytes: more than a store of five million rules has. A lookup then reads
/// pages without system calls.
const MAPPED_BYTES: i64 = 2 << 30;

/// The suffixes of the files that SQLite creates beside a database.
pub(super) const SQLITE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// One of our database files and the migrations of its schemas, oldest first.
#[derive(Debug)]
pub(super) struct Database {
    /// The file's name in the state directory.
    pub(super) file: &'static str,
    /// The reference's tables, numbered by `PRAGMA user_version`.
    pub(super) tables: &'static [Migration],
    /// Our `agent_*` tables, numbered by `schema_version` in `agent_meta`, so
    /// that other programs find the version they know.
    pub(super) agent: &'static [Migration],
    /// Whether several processes use it at once. If so, a write-ahead log that
    /// holds pages is no sign of a crash.
    pub(super) shared: bool,
}

/// Opens a database for reading and writing, at the newest schema. A missing
/// one is created; a corrupt one is set aside, reported in `notices`, and
/// created afresh.
pub(super) fn open(
    dir: &Path,
    database: &Database,
    now: Timestamp,
    notices: &mut Vec<Notice>,
) -> Result<Connection, StoreError> {
    let path = dir.join(database.file);
    // Whatever prevents this shows again in the turn.
    let conn = match open_ready(dir, &path, database) {
        Ok(Some(conn)) => conn,
        Ok(None) | Err(_) => open_in_turn(dir, &path, database, now, notices)?,
    };
    conn.busy_timeout(BUSY_TIMEOUT).map_err(|source| StoreError::from_open(&path, source))?;
    Ok(conn)
}

/// Opens a database that is ready for use; `None` if it is not.
fn open_ready(
    dir: &Path,
    path: &Path,
    database: &Database,
) -> Result<Option<Connection>, StoreError> {
    let identity = || FileIdentity::at(path);
    let before = identity();
    if before.is_none() || must_be_checked(path, database) {
        return Ok(None);
    }
    keep_private(path)?;
    let failed = |source| StoreError::from_open(path, source);
    let conn = connect(path).map_err(failed)?;
    for (numbering, steps) in numberings(database) {
        if numbering.read(&conn).map_err(failed)? != i64::from(newest(steps)) {
            return Ok(None);
        }
    }
    if !has_log(&conn).map_err(failed)? {
        return Ok(None);
    }
    configure(&conn, dir).map_err(failed)?;
    // Another process may have set the file aside meanwhile.
    Ok((!aside::is_suspect(path) && identity() == before).then_some(conn))
}

fn must_be_checked(path: &Path, database: &Database) -> bool {
    let log_kept = || fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0);
    aside::is_suspect(path) || (!database.shared && log_kept())
}

/// Makes a database ready for use and opens it.
fn open_in_turn(
    dir: &Path,
    path: &Path,
    database: &Database,
    now: Timestamp,
    notices: &mut Vec<Notice>,
) -> Result<Connection, StoreError> {
    let cannot = |source| StoreError::SetAside { path: path.to_owned(), source };
    let _turn = Turn::take(path)?;
    keep_private(path)?;
    notices.extend(aside::resume(path).map_err(cannot)?);
    let (conn, created) = match prepare(dir, path, database) {
        Err(StoreError::Corrupt { source, .. }) => {
            let notice = aside::set_aside(path, now, &source.to_string()).map_err(cannot)?;
            notices.push(notice);
            let (conn, _) = prepare(dir, path, database)?;
            return Ok(conn);
        }
        prepared => prepared?,
    };
    if created && notices.is_empty() {
        notices.push(Notice::Created { path: path.to_owned() });
    }
    Ok(conn)
}

/// Creates, checks and migrates a database.
fn prepare(dir: &Path, path: &Path, database: &Database) -> Result<(Connection, bool), StoreError> {
    let cannot_open = |source| StoreError::File { path: path.to_owned(), source };
    let created = !keep_private(path)?;
    if created {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(cannot_open)?;
        // The directory entry must be on disk before the content matters.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot_open)?;
    }
    let suspect = must_be_checked(path, database);
    let marked = aside::is_suspect(path);
    let failed = |source| StoreError::from_open(path, source);
    let mut conn = connect(path).map_err(failed)?;
    if suspect {
        // Only the full check compares indexes with their tables, and a
        // statement may have reported corruption there.
        check(&conn, if marked { "integrity_check" } else { "quick_check" }).map_err(failed)?;
        aside::clear_mark(path).map_err(cannot_open)?;
    }
    switch_to_log(&conn).map_err(failed)?;
    configure(&conn, dir).map_err(failed)?;
    migrate_all(&mut conn, path, database)?;
    Ok((conn, created))
}

/// Removes all permissions of others from a database and the files beside it.
/// Returns whether the database exists.
fn keep_private(path: &Path) -> Result<bool, StoreError> {
    for part in
        SQLITE_SUFFIXES.iter().chain([&super::SUSPECT_SUFFIX]).map(|part| beside(path, part))
    {
        files::keep_private(&part).map_err(|found| StoreError::from_obstacle(&part, found))?;
    }
    let found = files::keep_private(path);
    Ok(found.map_err(|found| StoreError::from_obstacle(path, found))?.is_some())
}

/// Opens an existing file for reading and writing, without reading it.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_OPENING)?;
    harden(&conn)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(conn)
}

/// Returns whether the database uses a write-ahead log. Reads its header.
fn has_log(conn: &Connection) -> rusqlite::Result<bool> {
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    Ok(mode.eq_ignore_ascii_case("wal"))
}

/// Switches the database to a write-ahead log, waiting for current readers.
fn switch_to_log(conn: &Connection) -> rusqlite::Result<()> {
    // SQLite's busy timeout covers only some of the locks taken here.
    conn.busy_timeout(Duration::ZERO)?;
    let mut tries = 0;
    loop {
        let switched: rusqlite::Result<String> =
            conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match switched {
            Ok(_) => return conn.busy_timeout(BUSY_OPENING),
            Err(error) if is_busy(&error) && tries < LOG_TRIES => exclusive::pause(),
            Err(error) => return Err(error),
        }
        tries += 1;
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// Returns an empty in-memory database of our schema.
pub(super) fn in_memory(database: &Database) -> Result<Connection, StoreError> {
    let path = Path::new(database.file);
    let failed = |source| StoreError::from_open(path, source);
    let mut conn = Connection::open_in_memory().map_err(failed)?;
    harden(&conn).map_err(failed)?;
    migrate_all(&mut conn, path, database)?;
    Ok(conn)
}

/// Configures a connection that writes.
fn configure(conn: &Connection, dir: &Path) -> rusqlite::Result<()> {
    // Building an index of a million rules spills to a file. SQLite would put
    // it in /var/tmp; the only other way to change that requires unsafe code.
    conn.pragma_update(None, "temp_store_directory", dir.to_string_lossy())?;
    // A commit is on disk when it returns. On macOS that requires F_FULLFSYNC.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true)?;
    let _: i64 =
        conn.pragma_update_and_check(None, "journal_size_limit", LOG_KEPT, |row| row.get(0))?;
    Ok(())
}

/// Keeps a manipulated database file from doing more than hold data, and query
/// plans stable: without the last setting SQLite recompiles a statement
/// whenever a limit or the bound of a range is bound.
pub(super) fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Opens a database for reading only. Creates and changes nothing, and does not
/// affect the writer.
pub(super) fn open_read_only(dir: &Path, database: &Database) -> Result<Connection, StoreError> {
    open_read_only_within(dir, database, BUSY_OPENING)
}

/// Like [`open_read_only`], but opening and each read wait at most `wait` for
/// another program's lock.
pub(super) fn open_read_only_within(
    dir: &Path,
    database: &Database,
    wait: Duration,
) -> Result<Connection, StoreError> {
    let path = dir.join(database.file);
    for part in SQLITE_SUFFIXES.map(|part| beside(&path, part)) {
        files::own(&part).map_err(|found| StoreError::from_obstacle(&part, found))?;
    }
    match files::own(&path) {
        Ok(Some(_)) => {}
        Ok(None) => return Err(StoreError::Missing { path }),
        Err(found) => return Err(StoreError::from_obstacle(&path, found)),
    }
    let failed = |source| StoreError::from_open(&path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&path, flags).map_err(failed)?;
    conn.busy_timeout(wait).map_err(failed)?;
    harden(&conn).map_err(failed)?;
    let mapped: rusqlite::Result<i64> =
        conn.pragma_update_and_check(None, "mmap_size", MAPPED_BYTES, |row| row.get(0));
    mapped.map_err(failed)?;
    for (numbering, steps) in numberings(database) {
        let found = numbering.read(&conn).map_err(failed)?;
        let supported = newest(steps);
        match Version::of(found, i64::from(supported)) {
            Version::Current => {}
            Version::Newer => return Err(too_new(&path, found, supported)),
            Version::Absurd => return Err(failed(corruption(&absurd(found)))),
            Version::Older if found == 0 => return Err(StoreError::NeverFilled { path }),
            Version::Older => return Err(StoreError::TooOld { path, found, supported }),
        }
    }
    Ok(conn)
}

fn check(conn: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let found: String = conn.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(corruption(&found)) }
}

/// SQLite asks whether to give up every this many steps of its virtual machine,
/// which take well under a millisecond.
pub(super) const GIVE_UP_STEPS: i32 = 10_000;

/// Runs statements that end early, with an error, once `give_up` returns true.
pub(super) fn with_give_up<T>(
    conn: &mut Connection,
    give_up: impl FnMut() -> bool + Send + 'static,
    run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    conn.progress_handler(GIVE_UP_STEPS, Some(give_up))?;
    let done = run(conn);
    conn.progress_handler(0, None::<fn() -> bool>)?;
    done
}

/// How many problems a check of the file reports.
const MAX_PROBLEMS: usize = 3;

/// Checks all pages and rows of a database, but not whether indexes fit their
/// tables, until `give_up` returns true. Leaves no mark.
pub(super) fn check_file(
    conn: &mut Connection,
    give_up: impl FnMut() -> bool + Send + 'static,
) -> rusqlite::Result<FileCheck> {
    let found = with_give_up(conn, give_up, |conn| -> rusqlite::Result<Vec<String>> {
        let mut statement = conn.prepare(&format!("PRAGMA quick_check({MAX_PROBLEMS})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    });
    match found {
        Ok(found) if found == ["ok"] => Ok(FileCheck::Sound),
        // A message begins with a line that names the database.
        Ok(found) => Ok(FileCheck::Damaged(
            found
                .iter()
                .flat_map(|text| text.lines())
                .filter(|line| !line.starts_with("***"))
                .take(MAX_PROBLEMS)
                .map(str::to_owned)
                .collect(),
        )),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok(FileCheck::GivenUp)
        }
        Err(error) if is_corruption(&error) => Ok(FileCheck::Damaged(vec![error.to_string()])),
        Err(error) => Err(error),
    }
}

/// Returns the error that SQLite returns for corruption.
fn corruption(found: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(found.to_owned()))
}

/// Returns whether an error reports corruption of the file.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
