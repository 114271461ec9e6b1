//! Another program's `events.db`, which is uploaded as well. We write nothing
//! to it, and hold no lock longer than one statement: rows are read with one,
//! and deleted with another after the server has accepted them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{DATABASE, EventStore, row};
use crate::files::{self, Obstacle};
use crate::model::EventRow;
use crate::store::{StoreError, db};

/// The ids of another program's rows are this plus the row's key. Our own ids
/// would get here after a century with an event per nanosecond.
pub(super) const FIRST_ID: i64 = 1 << 62;

/// How long a statement waits for the other program's locks.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement waits once one has timed out.
const BUSY_LOCKED: Duration = Duration::from_millis(50);

/// An open database of another program.
#[derive(Debug)]
pub(super) struct Foreign {
    path: PathBuf,
    conn: Connection,
    /// The rows of the last batch, by id.
    lent: BTreeMap<i64, EventRow>,
    /// Rows up to this key have been sent, but could not be deleted. They are
    /// skipped until the end of the table has been reached.
    stuck: i64,
    /// How many rows were settled since opening, including those that could not
    /// be deleted.
    settled: u64,
    /// Whether rows could not be deleted since opening.
    is_locked: bool,
}

impl EventStore {
    /// Uploads from another program's `events.db` as well; a sync reads its
    /// rows after our own.
    ///
    /// # Errors
    /// If the file does not exist, is not an event database of a known version,
    /// or cannot be written.
    pub fn drain_also(&mut self, path: &Path) -> Result<(), StoreError> {
        let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
        if same(path, &self.path) == Some(true) {
            tracing::warn!(path = %path.display(), "EventsDatabase is this agent's own queue; it is read anyway");
            return Ok(());
        }
        self.foreign = Some(Foreign::open(path)?);
        Ok(())
    }

    /// Returns how many rows are queued in another program's database.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pending_elsewhere(&self) -> Result<u64, StoreError> {
        let Some(foreign) = &self.foreign else { return Ok(0) };
        foreign
            .conn
            .query_row(
                "SELECT count(*) FROM main.events WHERE idx >= 0 AND idx < ?1",
                [FIRST_ID],
                |row| row.get(0),
            )
            .map_err(|source| StoreError::from_open(&foreign.path, source))
    }
}

impl Foreign {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let what = match files::own(path) {
            Ok(Some(_)) => db::SQLITE_SUFFIXES.into_iter().find_map(|part| {
                files::own(&files::beside(path, part))
                    .err()
                    .map(|found| format!("has a {part} file that cannot be used: {found}"))
            }),
            Ok(None) => Some("does not exist".to_owned()),
            Err(Obstacle::NotAFile(what)) => Some(format!("is {what}")),
            Err(error @ (Obstacle::Io(_) | Obstacle::TooLarge(_))) => {
                return Err(StoreError::from_obstacle(path, error));
            }
        };
        // This program writes to the file and those beside it.
        let exposed = || files::check_guarded(&files::directory_of(path)).err();
        let what = what.or_else(|| exposed().map(|exposed| format!("is not safe: {exposed}")));
        if let Some(what) = what {
            return Err(StoreError::NotElsewhere { path: path.to_owned(), what });
        }
        let failed = |source| StoreError::from_open(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
        conn.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        db::harden(&conn).map_err(failed)?;
        conn.pragma_update(None, "temp_store", "MEMORY").map_err(failed)?;
        let found: i64 =
            conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        let supported = db::newest(DATABASE.tables);
        if found > i64::from(supported) {
            return Err(StoreError::TooNew { path: path.to_owned(), found, supported });
        }
        // Before version 5 the column of the unique id had another name.
        if found < 5 {
            return Err(StoreError::TooOld { path: path.to_owned(), found, supported });
        }
        conn.execute_batch(
            "CREATE TEMP TABLE sent (idx INTEGER PRIMARY KEY, data BLOB, size INTEGER)",
        )
        .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            conn,
            lent: BTreeMap::new(),
            stuck: -1,
            settled: 0,
            is_locked: false,
        })
    }

    /// Returns the next rows, up to about `bytes` bytes; none if they cannot be
    /// read.
    pub(super) fn read(&mut self, limit: usize, after: Option<i64>, bytes: usize) -> Vec<EventRow> {
        let after = after.map_or(self.stuck, |after| self.stuck.max(after - FIRST_ID));
        let read = || -> rusqlite::Result<Vec<EventRow>> {
            let sql = format!(
                "SELECT e.idx, {} FROM main.events AS e \
                 WHERE e.idx > ?1 AND e.idx < ?2 ORDER BY e.idx LIMIT ?3",
                row::columns()
            );
            let mut statement = self.conn.prepare_cached(&sql)?;
            let mut rows = statement.query((after, FIRST_ID, limit as u64))?;
            let mut found = Vec::new();
            let mut held = 0;
            while let Some(row) = rows.next()?
                && held < bytes
            {
                let event = row::read(row, 1, FIRST_ID + row.get::<_, i64>(0)?)?;
                held += event.data.len();
                found.push(event);
            }
            for event in &mut found {
                row::load_head(&self.conn, event.id - FIRST_ID, event)?;
            }
            Ok(found)
        };
        let rows = read().unwrap_or_else(|error| {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot read the events of EventsDatabase; the next sync tries again");
            Vec::new()
        });
        if rows.is_empty() {
            self.stuck = -1;
        }
        rows
    }

    /// Returns whether a row of this id exists; `None` if that cannot be read.
    pub(super) fn holds(&self, id: i64) -> Option<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM main.events WHERE idx = ?1)";
        self.conn.query_row(sql, [id - FIRST_ID], |row| row.get(0)).ok()
    }

    /// How long a statement waits for the other program's locks.
    #[cfg(test)]
    pub(super) fn patience(&self, patience: Duration) {
        self.conn.busy_timeout(patience).expect("a setting");
    }

    /// Returns how many rows were settled since opening.
    pub(super) const fn settled(&self) -> u64 {
        self.settled
    }

    #[cfg(test)]
    pub(super) const fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Remembers the rows of the current batch.
    pub(super) fn lend(&mut self, rows: &[EventRow]) {
        self.lent = rows.iter().map(|row| (row.id, row.clone())).collect();
    }

    /// Returns a row of the current batch.
    pub(super) fn lent_row(&self, id: i64) -> Option<&EventRow> {
        self.lent.get(&id)
    }

    /// Deletes rows of the current batch, unless their producer has replaced
    /// them.
    pub(super) fn delete(&mut self, ids: impl Iterator<Item = i64>) {
        let rows: Vec<EventRow> = ids.filter_map(|id| self.lent.remove(&id)).collect();
        let Some(last) = rows.iter().map(|row| row.id).max() else { return };
        self.settled += rows.len() as u64;
        if let Err(error) = self.try_to_delete(&rows) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot delete delivered events of EventsDatabase; they are sent again");
            self.pass_over(last);
        }
    }

    /// Deletes rows that need not be sent, unless the database is known to be
    /// locked.
    pub(super) fn discard(&mut self, rows: &[EventRow]) {
        if rows.is_empty() || self.is_locked {
            return;
        }
        self.settled += rows.len() as u64;
        if let Err(error) = self.try_to_delete(rows) {
            let path = self.path.display();
            tracing::debug!(%path, %error, "cannot delete events of EventsDatabase that were set aside");
        }
    }

    /// Makes reading skip the rows up to an id, until the end of the table has
    /// been reached.
    pub(super) fn pass_over(&mut self, id: i64) {
        self.stuck = self.stuck.max(id - FIRST_ID);
    }

    fn try_to_delete(&mut self, rows: &[EventRow]) -> rusqlite::Result<()> {
        let delete = || -> rusqlite::Result<usize> {
            self.conn.execute_batch("DELETE FROM temp.sent")?;
            let mut note = self.conn.prepare_cached("INSERT INTO temp.sent VALUES (?1, ?2, ?3)")?;
            for row in rows {
                note.execute((row.id - FIRST_ID, &row.data, row.oversize))?;
            }
            // A payload that is not a blob was read as an empty one, and one
            // that is too large is identified by its size.
            self.conn.execute(
                "DELETE FROM main.events WHERE idx IN (SELECT idx FROM temp.sent) \
                 AND EXISTS (SELECT 1 FROM temp.sent AS s WHERE s.idx = events.idx AND CASE \
                 WHEN typeof(events.eventdata) <> 'blob' THEN s.size IS NULL AND s.data = x'' \
                 WHEN s.size IS NOT NULL OR octet_length(events.eventdata) > ?1 \
                 THEN octet_length(events.eventdata) IS s.size \
                 ELSE events.eventdata = s.data END)",
                [row::MAX_PAYLOAD_BYTES],
            )
        };
        let deleted = delete();
        if deleted.is_err() && !self.is_locked {
            // The next batch must not wait as long again.
            self.is_locked = true;
            self.conn.busy_timeout(BUSY_LOCKED)?;
        }
        deleted.map(|_| ())
    }
}
