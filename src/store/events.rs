//! `events.db`: the queue of events, oldest first.
//!
//! Table `events` is the reference's, for rows of other producers; our own
//! events have tables of their own. An event that [`EventStore::queue_events`]
//! accepted is on disk, and leaves the queue only by [`EventStore::settle`], by
//! a bound of the queue (counted), or by the operator. Several processes may
//! use the queue at once: no lock is held between two calls. The queue knows
//! nothing about the content of an event.
//!
//! Removing events is cheap at any queue length: a commit moves a mark past the
//! delivered events, which are deleted later in batches. They are adjacent,
//! because our events are stored in the order in which they are sent. Only
//! their unique ids are stored in another order, and are swept up later.

mod bundles;
mod compact;
mod foreign;
mod horizon;
mod members;
mod queue;
mod read;
mod recent;
mod refusal;
mod rejected;
mod relayed;
mod row;
mod settle;
#[cfg(test)]
mod tests;
mod unique;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::db::{self, Database};
use super::{FileCheck, Notice, StoreError, space};
use crate::files::{self, FileIdentity};
use crate::model::Timestamp;
use recent::RecentlySeen;

pub use bundles::BundleRequest;
pub use horizon::Horizon;
pub use queue::{Limits, NewEvent, Queued};
pub use refusal::{Refused, judge_refusal};
pub use rejected::{Rejected, Requeued};
pub use relayed::{Relayed, TakeError};

/// The file and its schema. Migrations are never edited once released.
pub(super) const DATABASE: Database = Database {
    file: super::EVENTS_FILE,
    tables: &[
        (1, include_str!("schema/events/001_events.sql")),
        (2, include_str!("schema/events/002_nothing.sql")),
        (3, include_str!("schema/events/003_no_autoincrement.sql")),
        (4, include_str!("schema/events/004_unique.sql")),
        (5, include_str!("schema/events/005_unique_id.sql")),
        (6, include_str!("schema/events/006_signal_reports.sql")),
    ],
    agent: &[
        (1, include_str!("schema/agent_rules/001_meta.sql")),
        (2, include_str!("schema/agent_events/002_queue.sql")),
        (3, include_str!("schema/agent_events/003_own_events.sql")),
        (4, include_str!("schema/agent_events/004_relayed.sql")),
    ],
    shared: true,
};

/// `agent_queue.idx` is larger than this for our own events. Other producers
/// use random 32-bit numbers.
const OTHERS_END: i64 = 1 << 32;

/// The condition on a row `e` of table `events` that another producer wrote and
/// that has no entry in the queue yet.
macro_rules! not_entered {
    () => {
        "e.idx < 4294967296 AND NOT EXISTS \
         (SELECT 1 FROM agent_queue AS q WHERE q.idx = e.idx AND q.idx < 4294967296)"
    };
}
use not_entered;

/// The event queue of a state directory.
#[derive(Debug)]
pub struct EventStore {
    path: PathBuf,
    conn: Connection,
    /// Identifies the open file, which may be replaced by another of the same
    /// name.
    file: Option<FileIdentity>,
    recent: RecentlySeen,
    foreign: Option<foreign::Foreign>,
    /// Fingerprints of other producers' rows in the last batch, by id: a row
    /// may be replaced before the server has accepted it.
    lent: BTreeMap<i64, u64>,
    /// The bounds for executables of bundles that are queued by [`Self::settle`].
    limits: Limits,
}

/// An [`EventStore`] opened for reading.
#[derive(Debug)]
pub struct ReadEvents(EventStore);

impl std::ops::Deref for ReadEvents {
    type Target = EventStore;

    fn deref(&self) -> &EventStore {
        &self.0
    }
}

impl ReadEvents {
    /// Checks the pages and rows of `events.db` until `give_up` returns true.
    /// Leaves no mark for the next open.
    ///
    /// # Errors
    /// If the database cannot be read at all.
    pub fn check_file(
        &mut self,
        give_up: impl FnMut() -> bool + Send + 'static,
    ) -> Result<FileCheck, StoreError> {
        db::check_file(&mut self.0.conn, give_up)
            .map_err(|source| StoreError::from_open(&self.0.path, source))
    }
}

/// How many events left the queue unsent since it was created.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Drops {
    /// Dropped as the oldest because the queue, or the set of rejected events,
    /// was full.
    pub queue_full: u64,
    /// Dropped because version 1 of the protocol cannot carry them; by kind.
    pub unsendable: BTreeMap<String, u64>,
}

/// The state of the queue.
#[derive(Clone, Copy, Debug)]
struct QueueState {
    last_id: i64,
    settled_through: i64,
    pending: u64,
}

impl EventStore {
    /// Opens the queue of a state directory, creates it if necessary, and
    /// enters rows that another producer wrote. `now` becomes part of the name
    /// of a corrupt database that is set aside.
    ///
    /// # Errors
    /// If the directory or the database cannot be used; nothing is deleted.
    pub fn open(dir: &Path, now: Timestamp) -> Result<(Self, Vec<Notice>), StoreError> {
        let mut notices = Vec::new();
        db::prepare_dir(dir)?;
        let conn = db::open(dir, &DATABASE, now, &mut notices)?;
        let mut store = Self::over(dir, conn);
        store.adopt(now)?;
        Ok((store, notices))
    }

    /// Returns an empty queue in memory, for a sync that cannot use the one of
    /// its state directory.
    ///
    /// # Errors
    /// If SQLite cannot create one.
    pub fn unavailable(dir: &Path) -> Result<Self, StoreError> {
        let conn = db::in_memory(&DATABASE)?;
        let mut queue = Self::over(dir, conn);
        queue.file = None;
        Ok(queue)
    }

    /// Opens the queue of a state directory for reading, at any time. Creates
    /// and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no queue, [`StoreError::NeverFilled`]
    /// or [`StoreError::TooOld`] if this program has not brought it up to date
    /// yet, else as [`Self::open`].
    pub fn open_read_only(dir: &Path) -> Result<ReadEvents, StoreError> {
        let conn = db::open_read_only(dir, &DATABASE)?;
        Ok(ReadEvents(Self::over(dir, conn)))
    }

    /// Opens the same queue for reading, with its own connection; `None` if the
    /// file has been replaced.
    ///
    /// # Errors
    /// As [`Self::open_read_only`].
    pub fn reader(&self) -> Result<Option<ReadEvents>, StoreError> {
        let reader = Self::open_read_only(&files::directory_of(&self.path))?;
        // SQLite remaps the file after every commit, which costs more than
        // copying the pages of a batch.
        reader
            .conn
            .pragma_update(None, "mmap_size", 0)
            .map_err(|source| StoreError::from_open(&self.path, source))?;
        Ok(Some(reader).filter(|reader| reader.file == self.file))
    }

    fn over(dir: &Path, conn: Connection) -> Self {
        conn.set_prepared_statement_cache_capacity(48);
        let path = dir.join(DATABASE.file);
        Self {
            file: FileIdentity::at(&path),
            path,
            conn,
            recent: RecentlySeen::default(),
            foreign: None,
            lent: BTreeMap::new(),
            limits: Limits::default(),
        }
    }

    /// Sets the bounds that hold when executables of a bundle are queued because
    /// the server requests it.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Returns how many events are queued, not counting another program's
    /// database.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn pending(&self) -> Result<u64, StoreError> {
        let count = || {
            let entered = state(&self.conn)?.pending;
            let others: u64 = self
                .conn
                .prepare_cached(concat!("SELECT count(*) FROM events AS e WHERE ", not_entered!()))?
                .query_row([], |row| row.get(0))?;
            Ok(entered + others)
        };
        count().map_err(self.failed("count the queued events"))
    }

    /// Returns when the oldest queued event arrived.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn oldest(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT arrived FROM agent_queue \
                   WHERE id > (SELECT settled_through FROM agent_queue_state) ORDER BY id LIMIT 1";
        self.conn
            .query_row(sql, [], |row| row.get(0))
            .optional()
            .map(|arrived| arrived.map(Timestamp::from_millis))
            .map_err(self.failed("read the oldest event"))
    }

    /// How many events left the queue unsent.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn drops(&self) -> Result<Drops, StoreError> {
        let read = || {
            let mut drops = Drops::default();
            let mut rows = self.conn.prepare("SELECT cause, kind, events FROM agent_drops")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let (cause, kind, events): (String, String, u64) = row.try_into()?;
                if cause == QUEUE_FULL {
                    drops.queue_full += events;
                } else {
                    drops.unsendable.insert(kind, events);
                }
            }
            Ok(drops)
        };
        read().map_err(self.failed("read the counts of dropped events"))
    }

    /// Returns the path of the queue.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file has been replaced: another process has set this
    /// one aside.
    fn is_another(&self) -> bool {
        FileIdentity::at(&self.path) != self.file
    }

    /// Opens the file that has replaced the open one.
    fn reopen(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let (mut fresh, notices) = Self::open(&files::directory_of(&self.path), now)?;
        tracing::warn!(path = %self.path.display(), ?notices, "the event queue is another file");
        // The old connection is dropped with `fresh`.
        std::mem::swap(&mut self.conn, &mut fresh.conn);
        self.file = fresh.file;
        self.lent.clear();
        Ok(())
    }

    /// Runs `work` in one transaction, which is on disk when this returns.
    fn commit<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        };
        run(&mut self.conn).map_err(|source| StoreError::from_use(&self.path, doing, source))
    }

    /// The connection, for tests that set it up.
    #[cfg(test)]
    pub(in crate::store) const fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Returns the error for a failure to use `events.db`.
    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |source| StoreError::from_use(&path, doing, source)
    }
}

const QUEUE_FULL: &str = "queue_full";
const UNSENDABLE: &str = "unsendable";

fn state(conn: &Connection) -> rusqlite::Result<QueueState> {
    conn.prepare_cached("SELECT last_id, settled_through, queued FROM agent_queue_state")?
        .query_row([], |row| {
            Ok(QueueState {
                last_id: row.get(0)?,
                settled_through: row.get(1)?,
                pending: row.get(2)?,
            })
        })
}

fn save_state(tx: &Transaction<'_>, state: QueueState) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE agent_queue_state SET last_id = ?1, settled_through = ?2, queued = ?3",
    )?
    .execute((state.last_id, state.settled_through, state.pending))
    .map(|_| ())
}

/// Counts events that left the queue unsent.
fn count_drops(
    tx: &Transaction<'_>,
    cause: &str,
    kind: &str,
    events: u64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO agent_drops (cause, kind, events, last) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT DO UPDATE SET events = events + excluded.events, last = excluded.last",
    )?
    .execute((cause, kind, events, now.as_millis()))
    .map(|_| ())
}

/// Deletes one event from all tables. Returns whether it existed; the caller
/// adjusts the count.
fn remove(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<bool> {
    let entry: Option<(i64, i64)> = tx
        .prepare_cached("DELETE FROM agent_queue WHERE id = ?1 RETURNING idx, bytes")?
        .query_row([id], |row| row.try_into())
        .optional()?;
    let Some((idx, bytes)) = entry else { return Ok(false) };
    add_bytes(tx, -bytes)?;
    let own: Option<String> = tx
        .prepare_cached("DELETE FROM agent_events WHERE id = ?1 RETURNING uniqueid")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    match own {
        Some(unique_id) => unique::forget(tx, &unique_id, id)?,
        None => {
            tx.prepare_cached("DELETE FROM events WHERE idx = ?1")?.execute([idx])?;
        }
    }
    Ok(true)
}

/// Adjusts the total payload size of the queue.
fn add_bytes(tx: &Transaction<'_>, bytes: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE agent_queue_state SET bytes = max(0, bytes + ?1)")?
        .execute([bytes])
        .map(|_| ())
}

/// Merges the write-ahead log, so that the whole queue is in one file that can
/// be copied.
impl Drop for EventStore {
    fn drop(&mut self) {
        if self.conn.is_readonly("main").unwrap_or(true) {
            return;
        }
        space::close(&self.conn, DATABASE.file);
    }
}
