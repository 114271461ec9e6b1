//! Opening a database of ours so that it can be relied on: right file modes,
//! durable commits, the newest schema, and a corrupt file set aside.
//!
//! What costs time that grows with the store happens only after a sign of
//! trouble: a check of the whole file runs when the last writer did not close the
//! database (its write-ahead log holds pages) or when a statement reported
//! corruption (a mark beside the file). A clean opening reads the header and
//! the schema.
//!
//! The write-ahead log and its index stay on disk when a connection closes,
//! empty: so a reader without the right to create files can always open, and
//! readers and the writer never wait for each other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use super::{FileCheck, Notice, StoreError, file};
use crate::model::Timestamp;

/// How long a statement waits for another program's lock. Ours hold theirs for
/// the time of one commit.
const BUSY: Duration = Duration::from_secs(5);
/// How long opening waits. A program that holds the file for itself holds it
/// for as long as it runs.
const BUSY_OPENING: Duration = Duration::from_secs(1);
/// The write-ahead log is cut back to this many bytes once it has been merged.
const LOG_KEPT: u32 = 4 << 20;

/// How much of a database a reader maps instead of copying page by page, in
/// bytes: more than a store of five million rules has. A page read by a lookup
/// then costs no call into the system.
const MAPPED: i64 = 2 << 30;

/// A step of a schema: the version it leads to, and its SQL.
pub(super) type Migration = (i32, &'static str);

/// A database file of ours and the steps of its schemas, oldest first.
#[derive(Debug)]
pub(super) struct Database {
    /// Its name in the state directory.
    pub(super) file: &'static str,
    /// The reference's tables, numbered by `PRAGMA user_version`.
    pub(super) tables: &'static [Migration],
    /// Our `agent_*` tables, numbered by `schema_version` in `agent_meta`, so
    /// that other programs find the version they know.
    pub(super) agent: &'static [Migration],
    /// Whether several processes use it at once. Then a write-ahead log that
    /// holds pages is no sign of a crash, and two may create it together.
    pub(super) shared: bool,
}

/// Makes the state directory, or checks the one that is there.
pub(super) fn prepare_dir(dir: &Path) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Directory { path: dir.to_owned(), source };
    if dir.to_str().is_none() {
        // SQLite is told of the directory as text.
        let reason = "the name of a state directory must be UTF-8";
        return Err(unusable(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let mode = fs::metadata(dir).map_err(unusable)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(StoreError::DirectoryWritable { path: dir.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// Opens a database for reading and writing, at the newest schema. A missing
/// one is created; a corrupt one is set aside, told of in `notices`, and
/// created afresh.
pub(super) fn open(
    dir: &Path,
    database: &Database,
    now: Timestamp,
    notices: &mut Vec<Notice>,
) -> Result<Connection, StoreError> {
    let path = dir.join(database.file);
    match open_existing(dir, &path, database) {
        Err(StoreError::Corrupt { .. }) => replace(dir, &path, database, now, notices),
        Ok((conn, created)) => {
            if created {
                notices.push(Notice::Created { path });
            }
            Ok(conn)
        }
        Err(error) => Err(error),
    }
}

/// Sets a corrupt database aside and creates it afresh, unless another process
/// has done so since it was found corrupt. One process at a time.
fn replace(
    dir: &Path,
    path: &Path,
    database: &Database,
    now: Timestamp,
    notices: &mut Vec<Notice>,
) -> Result<Connection, StoreError> {
    let cannot = |source| StoreError::SetAside { path: path.to_owned(), source };
    mark_suspect(path);
    let mark = File::open(beside(path, MARK)).map_err(cannot)?;
    flock(&mark, FlockOperation::LockExclusive).map_err(|error| cannot(error.into()))?;
    let reason = match open_existing(dir, path, database) {
        Err(StoreError::Corrupt { source, .. }) => source.to_string(),
        Ok((conn, _)) => return Ok(conn),
        Err(error) => return Err(error),
    };
    let aside = set_aside(path, now).map_err(cannot)?;
    notices.push(Notice::SetAside { path: aside, reason });
    let (conn, _) = open_existing(dir, path, database)?;
    Ok(conn)
}

fn open_existing(
    dir: &Path,
    path: &Path,
    database: &Database,
) -> Result<(Connection, bool), StoreError> {
    let cannot_open = |source| StoreError::File { path: path.to_owned(), source };
    let obstacle = |found| StoreError::from_obstacle(path, found);
    let created = file::regular(path).map_err(obstacle)?.is_none();
    if created {
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match new {
            Err(error) if database.shared && error.kind() == io::ErrorKind::AlreadyExists => {}
            new => drop(new.map_err(cannot_open)?),
        }
        // The name must be on disk before anything in the file counts.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot_open)?;
    } else {
        file::keep_private(path).map_err(obstacle)?;
    }
    for part in ["-wal", "-shm"] {
        let part = beside(path, part);
        file::keep_private(&part).map_err(|found| StoreError::from_obstacle(&part, found))?;
    }
    let marked = beside(path, MARK).exists();
    let log_kept = || fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0);
    let suspect = marked || (!database.shared && log_kept());

    let failed = |source| StoreError::from_open(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    configure(&conn, dir).map_err(failed)?;
    if suspect {
        // Only the whole check compares indexes with their tables, which is
        // what a statement that reported corruption may have met.
        check(&conn, if marked { "integrity_check" } else { "quick_check" }).map_err(failed)?;
        match fs::remove_file(beside(path, MARK)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot_open(error));
            }
            _ => {}
        }
    }
    migrate_all(&mut conn, path, database)?;
    conn.busy_timeout(BUSY).map_err(failed)?;
    Ok((conn, created))
}

/// An empty database of our schema that lies in no file.
pub(super) fn in_memory(database: &Database) -> Result<Connection, StoreError> {
    let path = Path::new(database.file);
    let failed = |source| StoreError::from_open(path, source);
    let mut conn = Connection::open_in_memory().map_err(failed)?;
    harden(&conn).map_err(failed)?;
    migrate_all(&mut conn, path, database)?;
    Ok(conn)
}

fn migrate_all(conn: &mut Connection, path: &Path, database: &Database) -> Result<(), StoreError> {
    let newest = |steps: &[Migration]| steps.last().map_or(0, |(version, _)| *version);
    migrate(conn, path, Numbering::UserVersion, database.tables, newest(database.tables))?;
    migrate(conn, path, Numbering::Agent, database.agent, newest(database.agent))
}

/// Settings of a connection that writes.
fn configure(conn: &Connection, dir: &Path) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_OPENING)?;
    harden(conn)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Building an index of a million rules spills to a file. SQLite would put
    // it into /var/tmp, and its one other way to be told needs unsafe code.
    conn.pragma_update(None, "temp_store_directory", dir.to_string_lossy())?;
    let _: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    // A commit is on disk when it returns. On macOS that takes F_FULLFSYNC.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true)?;
    let _: i64 =
        conn.pragma_update_and_check(None, "journal_size_limit", LOG_KEPT, |row| row.get(0))?;
    Ok(())
}

/// What keeps a database file that somebody prepared from doing more than hold
/// data, and a statement's plan what it was: without the last setting SQLite
/// compiles a statement again whenever a limit or a bound of a range is bound.
pub(super) fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Opens a database for reading only. Nothing is created, changed or waited
/// for, and the writer does not notice.
pub(super) fn open_read_only(dir: &Path, database: &Database) -> Result<Connection, StoreError> {
    open_read_only_within(dir, database, BUSY_OPENING)
}

/// [`open_read_only`] that waits at most `wait` for another program's lock, at
/// the opening and at each read.
pub(super) fn open_read_only_within(
    dir: &Path,
    database: &Database,
    wait: Duration,
) -> Result<Connection, StoreError> {
    let path = dir.join(database.file);
    match file::regular(&path) {
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
        conn.pragma_update_and_check(None, "mmap_size", MAPPED, |row| row.get(0));
    mapped.map_err(failed)?;
    for (numbering, steps) in
        [(Numbering::UserVersion, database.tables), (Numbering::Agent, database.agent)]
    {
        let found = numbering.read(&conn).map_err(failed)?;
        let supported = steps.last().map_or(0, |(version, _)| *version);
        if found > supported {
            return Err(StoreError::TooNew { path, found, supported });
        }
        if found == 0 {
            return Err(StoreError::NeverFilled { path });
        }
        if found < supported {
            return Err(StoreError::TooOld { path, found, supported });
        }
    }
    Ok(conn)
}

/// Merges the write-ahead log into the file and empties it, unless a reader is
/// in the way; then the next closing does it.
pub(super) fn checkpoint(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Which version a list of migrations counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numbering {
    /// `PRAGMA user_version`.
    UserVersion,
    /// The key `schema_version` of `agent_meta`.
    Agent,
}

impl Numbering {
    fn read(self, conn: &Connection) -> rusqlite::Result<i32> {
        match self {
            Self::UserVersion => conn.pragma_query_value(None, "user_version", |row| row.get(0)),
            Self::Agent if !conn.table_exists(None, "agent_meta")? => Ok(0),
            Self::Agent => conn.query_row(
                "SELECT max(coalesce((SELECT value FROM agent_meta WHERE key = 'schema_version'), 0), 0)",
                [],
                |row| row.get(0),
            ),
        }
    }

    fn write(self, tx: &Transaction<'_>, version: i32) -> rusqlite::Result<()> {
        match self {
            Self::UserVersion => tx.pragma_update(None, "user_version", version),
            Self::Agent => tx
                .execute(
                    "INSERT OR REPLACE INTO agent_meta (key, value) VALUES ('schema_version', ?1)",
                    [version],
                )
                .map(|_| ()),
        }
    }
}

/// Brings a schema up to version `to`, one transaction a step. A newer schema
/// is refused and left alone.
pub(super) fn migrate(
    conn: &mut Connection,
    path: &Path,
    numbering: Numbering,
    steps: &[Migration],
    to: i32,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_open(path, source);
    let found = numbering.read(conn).map_err(failed)?;
    let supported = steps.last().map_or(0, |(version, _)| *version);
    if found > supported {
        return Err(StoreError::TooNew { path: path.to_owned(), found, supported });
    }
    for (version, sql) in steps.iter().filter(|(version, _)| (found + 1..=to).contains(version)) {
        let step = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if numbering.read(&tx)? >= *version {
                // Another process was faster.
                return Ok(());
            }
            tx.execute_batch(sql)?;
            numbering.write(&tx, *version)?;
            tx.commit()
        };
        step(conn).map_err(|source| StoreError::from_migration(path, *version, source))?;
    }
    Ok(())
}

fn check(conn: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let found: String = conn.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(corruption(&found)) }
}

/// How many things wrong a check of the file tells.
const TOLD: usize = 3;
/// So many steps of SQLite's machine lie between two questions whether to give
/// up: well under a millisecond.
const STEPS: i32 = 10_000;

/// Checks all pages and rows of a database, but for whether indexes fit their
/// tables, until `give_up` answers true. Leaves no mark.
pub(super) fn check_file(
    conn: &mut Connection,
    give_up: impl FnMut() -> bool + Send + 'static,
) -> rusqlite::Result<FileCheck> {
    let read = |conn: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut statement = conn.prepare(&format!("PRAGMA quick_check({TOLD})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    conn.progress_handler(STEPS, Some(give_up))?;
    let found = read(conn);
    conn.progress_handler(STEPS, None::<fn() -> bool>)?;
    match found {
        Ok(found) if found == ["ok"] => Ok(FileCheck::Sound),
        // A message begins with the name of the database in a line of its own.
        Ok(found) => Ok(FileCheck::Damaged(
            found
                .iter()
                .flat_map(|text| text.lines())
                .filter(|line| !line.starts_with("***"))
                .take(TOLD)
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

/// The error SQLite would give had it met what a check found.
fn corruption(found: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(found.to_owned()))
}

/// Whether the error says that the file's content is broken.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Beside a database that reported corruption, so that the next opening checks
/// all of it.
const MARK: &str = "-suspect";

/// Notes that a statement met corruption. The next opening for writing checks
/// the file and sets it aside if it is broken.
pub(super) fn mark_suspect(path: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    if let Err(error) = options.open(beside(path, MARK)) {
        tracing::warn!(path = %path.display(), %error, "cannot mark the database as suspect");
    }
}

/// Moves a corrupt database and its log to `<name>.corrupt-<time>`, and answers
/// where the database is then.
fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let time: String = Timestamp::from_secs(now.as_secs())
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let mut aside = beside(path, &format!(".corrupt-{time}"));
    let mut further = 1;
    while aside.try_exists()? {
        further += 1;
        aside = beside(path, &format!(".corrupt-{time}-{further}"));
    }
    for part in ["-wal", "-shm"] {
        match fs::rename(beside(path, part), beside(&aside, part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, &aside)?;
    // Last, so that a crash in between leaves a file that is checked again.
    match fs::remove_file(beside(path, MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
