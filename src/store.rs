//! The stores: rules in `rules.db`, settings and records beside them, and the
//! lock of the state directory. The only user of `rusqlite`.
//!
//! When a method that writes returns, its change is on disk; when it fails,
//! nothing has changed. Readers see the state before or after a commit, never
//! in between, and never wait. The store decides nothing about a sync and reads
//! no clock.

mod agent_meta;
mod conditions;
mod db;
mod events;
mod left_records;
mod records;
mod reserved_space;
mod rules;
mod settings;
mod space;
mod sync_lock;

use std::borrow::Cow;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use rustix::io::Errno;
use thiserror::Error;

use crate::failure::Remedy;
use crate::files::{self, Exposed, Obstacle};
use crate::model::Timestamp;

pub use conditions::{Former, Standing};
pub use events::{
    BundleRequest, Drops, EventStore, Horizon, Limits, NewEvent, Queued, ReadEvents, Refused,
    Rejected, Relayed, Requeued, TakeError, judge_refusal,
};
pub use left_records::{LEFT_RECORDS_FILE, leave_record, left_records};
pub use records::RECORDS_KEPT;
#[cfg(feature = "harness")]
pub use rules::hash_and_counts;
pub use rules::{
    ChangesSince, CommitError, Generation, GenerationSource, LoggedChange, LoggedRule, Lookups,
    RuleChange, RuleChangeKind, RuleCommit, RuleFilter, RuleGuard, RuleRow, RuleSince,
    RulesCommitted, RulesGuarded, RulesPreview, RulesSince, RulesSnapshot, RulesStanding,
    RulesVerified, SentForm,
};
pub use settings::{ModeHeldBack, SYNC_STATE_FILE};
pub use sync_lock::{LOCK_FILE, LockError, StateLock};

/// The database of rules and settings.
pub const RULES_FILE: &str = "rules.db";
/// The database of events.
pub const EVENTS_FILE: &str = "events.db";
/// The mark beside a database that a reader found corrupt: its name with this
/// suffix.
pub(crate) const SUSPECT_SUFFIX: &str = "-suspect";

/// The rules and settings of a state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    rules: Connection,
}

/// A [`Store`] opened for reading: everything that takes `&self`. It never
/// creates, modifies or blocks anything; a read that finds corruption only
/// leaves a mark for the next writable open to check.
#[derive(Debug)]
pub struct ReadStore(Store);

impl Deref for ReadStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

impl ReadStore {
    /// Checks the pages and rows of `rules.db` until `give_up` returns true. It
    /// checks less than [`Store::verify_rules`] and leaves no mark.
    ///
    /// # Errors
    /// If the database cannot be read at all.
    pub fn check_file(
        &mut self,
        give_up: impl FnMut() -> bool + Send + 'static,
    ) -> Result<FileCheck, StoreError> {
        let path = self.dir.join(rules::DATABASE.file);
        db::check_file(&mut self.0.rules, give_up)
            .map_err(|source| StoreError::from_open(&path, source))
    }
}

/// What opening a store did besides opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The database did not exist.
    Created {
        /// The new file.
        path: PathBuf,
    },
    /// The database was corrupt. It was moved aside and an empty one created.
    SetAside {
        /// The path of the corrupt file.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// The settings in effect cannot be read. None apply, and a clean sync is
    /// requested.
    SettingsUnreadable {
        /// The database.
        path: PathBuf,
    },
}

/// What a check of a database file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileCheck {
    /// No problem found.
    Sound,
    /// The first problems found, as SQLite reports them.
    Damaged(Vec<String>),
    /// The check took too long.
    GivenUp,
}

/// Why a store cannot be opened or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state directory cannot be created or inspected.
    #[error("cannot use the state directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Other users could replace files of the state directory.
    #[error("the state directory {path} is not safe: {exposed}")]
    DirectoryExposed {
        /// The directory.
        path: PathBuf,
        /// Who could, and where.
        exposed: Exposed,
    },
    /// A file of the store cannot be created, inspected or made private.
    #[error("cannot open {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path exists but is not a regular file of ours.
    #[error("cannot use {path}: it is {what}")]
    NotAFile {
        /// The place.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// `EventsDatabase` does not name another program's database.
    #[error("{path} {what}")]
    NotElsewhere {
        /// The place.
        path: PathBuf,
        /// What there is instead.
        what: String,
    },
    /// The store does not exist.
    #[error("{path} does not exist")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// The database cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The system denies every user the database, root too.
    #[error("{path} is protected: the system denies it to this program, whoever runs it")]
    Protected {
        /// The database.
        path: PathBuf,
    },
    /// Another program holds an exclusive lock on the database.
    #[error("{path} is locked by another program")]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// Another process is creating, checking or migrating the database.
    #[error("{path} has been prepared by another process of santa-sync for {seconds} s")]
    BeingPrepared {
        /// The database.
        path: PathBuf,
        /// How long this process has waited.
        seconds: u64,
    },
    /// A newer program wrote the database.
    #[error(
        "{path} has schema version {found}, but this program supports versions up to {supported}"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Our newest version.
        supported: i32,
    },
    /// An older program wrote the database, and it was opened for reading only.
    #[error("{path} has schema version {found}, which is older than version {supported}")]
    TooOld {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Our newest version.
        supported: i32,
    },
    /// The database exists and was opened for reading only, but no sync of this
    /// program has filled it: the first one was interrupted, or another program
    /// created the file.
    #[error("{path} exists, but no sync has written to it")]
    NeverFilled {
        /// The database.
        path: PathBuf,
    },
    /// A migration step failed; the database is as it was before the step.
    #[error("cannot migrate {path} to schema version {version}, and nothing was changed: {source}")]
    Migration {
        /// The database.
        path: PathBuf,
        /// The version the step leads to.
        version: i32,
        /// Why.
        source: rusqlite::Error,
    },
    /// The database is corrupt.
    #[error("{path} is corrupt: {source}")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A corrupt database could not be moved aside.
    #[error("{path} is corrupt and cannot be moved aside: {source}")]
    SetAside {
        /// The database.
        path: PathBuf,
        /// Why it cannot be moved.
        source: io::Error,
    },
    /// The disk is full. Nothing has changed.
    #[error("no space left to write {path}")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The opened database cannot be used. Nothing has changed.
    #[error("cannot {doing} in {path}: {source}")]
    Use {
        /// The database.
        path: PathBuf,
        /// What failed, as a verb phrase: `commit rules`.
        doing: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
}

/// What to do about a database that the system protects.
pub const PROTECTED_FIX: &str = "Santa's daemon denies other programs its own databases while it \
     runs: remove EventsDatabase, or have it name a copy; the relay receives Santa's \
     events (docs/relay.md)";

/// Whether the system denies something to root, too: EPERM, which no owner or mode
/// brings about (that is EACCES). On macOS it is the word of a security extension
/// such as Santa's.
#[must_use]
pub fn is_protected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PERM.raw_os_error())
}

impl Remedy for StoreError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        let fix = match self {
            Self::Directory { .. } => {
                "fix its owner and mode, or name another directory with --state-dir"
            }
            Self::DirectoryExposed { exposed, .. } => {
                return Some(format!("{}, or name another with --state-dir", exposed.fix()).into());
            }
            Self::File { .. } | Self::Open { .. } => {
                "check the owner and mode of the file and its directory"
            }
            Self::NotAFile { .. } => "move it away, or name another directory with --state-dir",
            Self::NotElsewhere { .. } => {
                "have EventsDatabase name that program's events.db, or unset it"
            }
            Self::Missing { .. } | Self::NeverFilled { .. } => "run `santa-sync sync` once",
            Self::Protected { .. } => PROTECTED_FIX,
            Self::Locked { .. } => {
                "stop that program (a running santad holds its own rules.db), or name another \
                 directory with --state-dir"
            }
            Self::BeingPrepared { .. } => "try again later",
            Self::TooNew { .. } => {
                "install the newer program again, or name another directory with --state-dir"
            }
            Self::TooOld { .. } => "run `santa-sync sync` once, which migrates it",
            Self::Migration { .. } => {
                "install the program that wrote it last, or run `santa-sync doctor`"
            }
            Self::Corrupt { .. } => "the next sync moves it aside and creates a new one",
            Self::SetAside { .. } => "move it away yourself",
            Self::Full { .. } => "free space on its volume",
            Self::Use { .. } => "run `santa-sync doctor`",
        };
        Some(fix.into())
    }
}

impl StoreError {
    /// Returns whether no sync of this version has used the database yet.
    #[must_use]
    pub const fn is_unused(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NeverFilled { .. } | Self::TooOld { .. })
    }

    /// Returns the error for an obstacle at `path`.
    fn from_obstacle(path: &Path, obstacle: Obstacle) -> Self {
        let path = path.to_owned();
        match obstacle {
            Obstacle::Io(source) => Self::File { path, source },
            Obstacle::NotAFile(what) => Self::NotAFile { path, what },
            Obstacle::TooLarge(_) => Self::File { path, source: obstacle.into() },
        }
    }

    /// Returns the error for a failure to open `path`.
    fn from_open(path: &Path, source: rusqlite::Error) -> Self {
        Self::from_failed_open(path, source, |path| Ok(files::check_readable(path)?))
    }

    /// The same, with how to try a plain opening: SQLite does not pass on why it
    /// cannot open a file.
    fn from_failed_open(
        path: &Path,
        source: rusqlite::Error,
        open: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Self {
        match Self::common(path, source) {
            Ok(error) => error,
            Err(source)
                if source.sqlite_error_code() == Some(ErrorCode::CannotOpen)
                    && open(path).is_err_and(|error| is_protected(&error)) =>
            {
                Self::Protected { path: path.to_owned() }
            }
            Err(source) => Self::Open { path: path.to_owned(), source },
        }
    }

    /// Returns the error for a failed migration of `path` to `version`.
    fn from_migration(path: &Path, version: i32, source: rusqlite::Error) -> Self {
        Self::common(path, source).unwrap_or_else(|source| Self::Migration {
            path: path.to_owned(),
            version,
            source,
        })
    }

    /// Returns the error for a failure to use the open database `path`. Marks a
    /// corrupt database, so that the next open checks all of it.
    pub(in crate::store) fn from_use(
        path: &Path,
        doing: &'static str,
        source: rusqlite::Error,
    ) -> Self {
        if db::is_corruption(&source) {
            db::mark_suspect(path);
        }
        Self::common(path, source).unwrap_or_else(|source| Self::Use {
            path: path.to_owned(),
            doing,
            source,
        })
    }

    fn common(path: &Path, source: rusqlite::Error) -> Result<Self, rusqlite::Error> {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Ok(Self::Locked { path }),
            Some(ErrorCode::DiskFull) => Ok(Self::Full { path }),
            _ if db::is_corruption(&source) => Ok(Self::Corrupt { path, source }),
            _ => Err(source),
        }
    }
}

impl Store {
    /// Opens the store of a state directory for reading and writing, and
    /// creates or migrates it if necessary. `now` becomes part of the name of a
    /// corrupt database that is set aside.
    ///
    /// # Errors
    /// If the directory or the database cannot be used; nothing is deleted.
    pub fn open(dir: &Path, now: Timestamp) -> Result<(Self, Vec<Notice>), StoreError> {
        let mut notices = Vec::new();
        db::prepare_dir(dir)?;
        reserved_space::keep(dir);
        let rules = db::open(dir, &rules::DATABASE, now, &mut notices)?;
        let mut store = Self { dir: dir.to_owned(), rules };
        let recreated = notices.iter().any(|notice| matches!(notice, Notice::SetAside { .. }));
        store.adopt_rules(now)?;
        notices.extend(store.check_settings(recreated, now)?);
        Ok((store, notices))
    }

    /// Opens the store of a state directory for reading, at any time, even
    /// while a sync commits. Creates and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no store, [`StoreError::NeverFilled`]
    /// or [`StoreError::TooOld`] if no sync of this program has brought it up to
    /// date yet, else as [`Self::open`].
    pub fn open_read_only(dir: &Path) -> Result<ReadStore, StoreError> {
        let rules = db::open_read_only(dir, &rules::DATABASE)?;
        Ok(ReadStore(Self { dir: dir.to_owned(), rules }))
    }

    /// Like [`Self::open_read_only`], but each read waits at most `wait` for a
    /// program that holds the database exclusively.
    ///
    /// # Errors
    /// As [`Self::open_read_only`]; [`StoreError::Locked`] after the wait.
    pub fn open_read_only_within(dir: &Path, wait: Duration) -> Result<ReadStore, StoreError> {
        let rules = db::open_read_only_within(dir, &rules::DATABASE, wait)?;
        Ok(ReadStore(Self { dir: dir.to_owned(), rules }))
    }

    /// Creates the state directory, or checks the existing one.
    ///
    /// # Errors
    /// If it cannot be created or inspected, or others may write to it.
    pub fn prepare_dir(dir: &Path) -> Result<(), StoreError> {
        db::prepare_dir(dir)
    }

    /// Reserves space for a full disk again, if this sync released it and there is
    /// enough (see the module `reserved_space`).
    pub fn restore_reserved_space(&self) {
        reserved_space::restore(&self.dir);
    }

    /// Returns an empty store in memory: what a state directory holds before
    /// its first sync.
    ///
    /// # Errors
    /// If SQLite cannot create one.
    pub fn in_memory() -> Result<Self, StoreError> {
        let mut store = Self { dir: PathBuf::new(), rules: db::in_memory(&rules::DATABASE)? };
        store.adopt_rules(Timestamp::from_secs(0))?;
        Ok(store)
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Flags `rules.db` for a full check at the next writable open.
    fn mark_rules_suspect(&self) {
        db::mark_suspect(&self.dir.join(rules::DATABASE.file));
    }

    /// Returns the error for a failure to use `rules.db`.
    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError + use<> {
        let path = self.dir.join(rules::DATABASE.file);
        move |source| StoreError::from_use(&path, doing, source)
    }
}

/// Merges the write-ahead log, so that the whole store is in one file that can
/// be copied.
impl Drop for Store {
    fn drop(&mut self) {
        if self.rules.is_readonly("main").unwrap_or(true) {
            return;
        }
        space::close(&self.rules, rules::DATABASE.file);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    /// STATE-1: why a database cannot be opened: its mode, or Santa's daemon, which no
    /// mode opens.
    #[test]
    fn state_1_a_database_that_santa_protects_is_told_from_one_with_a_wrong_mode() {
        let path = Path::new("/var/db/santa/events.db");
        let refused = |code| move |_: &Path| Err(io::Error::from_raw_os_error(code));
        let cannot_open =
            || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), None);
        let error = StoreError::from_failed_open(path, cannot_open(), refused(1));
        assert!(matches!(error, StoreError::Protected { .. }), "{error}");
        assert!(error.with_fix().contains("Santa's daemon denies"), "{}", error.with_fix());
        let error = StoreError::from_failed_open(path, cannot_open(), refused(13));
        assert!(matches!(error, StoreError::Open { .. }), "{error}");
        let error = StoreError::from_failed_open(path, cannot_open(), |_| Ok(()));
        assert!(matches!(error, StoreError::Open { .. }), "{error}");
        let other = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), None);
        let error = StoreError::from_failed_open(path, other, refused(1));
        assert!(matches!(error, StoreError::Open { .. }), "{error}");
    }
}
