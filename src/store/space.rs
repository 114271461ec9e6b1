//! Disk space of a database: merging and truncating its log, and giving back
//! free pages.
//!
//! Neither is worth waiting for: readers and other writers go first, and what
//! could not be done is done at the next close or after the next commit.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::db;

/// How long truncating the log waits for readers of its end. Ours read for
/// less.
const BUSY_TIMEOUT: Duration = Duration::from_millis(50);
/// An unmergeable log larger than this, in bytes, is worth a warning.
const LOG_LARGE: u64 = 64 << 20;
/// The size of a log frame without its page, in bytes.
const FRAME_HEADER: u64 = 24;
/// Fewer free bytes than this stay for the next rules or events.
const FREE_KEPT: u64 = 8 << 20;
/// What rewriting a database must leave free on its volume, in bytes.
const ROOM_LEFT: u64 = 64 << 20;

/// Merges the write-ahead log into the file and truncates it, as far as readers
/// allow. Returns the size of the log in bytes if another program's snapshot
/// keeps it from being merged.
pub(super) fn checkpoint(conn: &Connection) -> rusqlite::Result<u64> {
    // A passive checkpoint never waits, and merges what it can.
    let passive = Merged::by(conn, "PASSIVE")?;
    if passive.frames > passive.merged {
        let page_size: u64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
        return Ok(passive.frames.saturating_mul(page_size + FRAME_HEADER));
    }
    // Everything is in the file. Truncating the log waits for its readers; if
    // that takes too long, the log is reused from its beginning.
    within(conn, BUSY_TIMEOUT, |conn| Merged::by(conn, "TRUNCATE")).map(|_| 0)
}

/// Merges the log of a database that is about to be closed, so that its one
/// file can be copied. Logs what prevents that; `file` is its name.
pub(super) fn close(conn: &Connection, file: &str) {
    match checkpoint(conn) {
        Ok(bytes) if bytes > LOG_LARGE => tracing::warn!(
            file,
            bytes,
            "the write-ahead log grows because another program keeps an old state of the database \
             open; end that program's read transaction, or the log takes more of the disk with \
             every sync"
        ),
        Ok(0) => {}
        Ok(bytes) => tracing::debug!(file, bytes, "a reader keeps the log from being merged"),
        Err(error) => tracing::debug!(file, %error, "the log stays for the next opening to merge"),
    }
}

/// What a checkpoint reports about the log.
struct Merged {
    /// Pages in the log.
    frames: u64,
    /// Pages of the log that are also in the file.
    merged: u64,
}

impl Merged {
    /// Runs a checkpoint. One that readers interrupted shows in the numbers,
    /// one that could not truncate the log in `busy`; neither is an error.
    fn by(conn: &Connection, mode: &str) -> rusqlite::Result<Self> {
        conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
            // Without a log, as in memory, the numbers are -1.
            let number = |column| row.get(column).map(|n: i64| u64::try_from(n).unwrap_or(0));
            let (busy, frames, merged): (bool, _, _) = (row.get(0)?, number(1)?, number(2)?);
            tracing::trace!(mode, busy, frames, merged, "checkpoint");
            Ok(Self { frames, merged })
        })
    }
}

/// Runs statements that wait at most `busy` for other programs' locks.
fn within<T>(
    conn: &Connection,
    busy: Duration,
    run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let before: u64 = conn.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
    conn.busy_timeout(busy)?;
    let done = run(conn);
    conn.busy_timeout(Duration::from_millis(before))?;
    done
}

/// Returns the bytes free on the volume of a directory, if known.
pub(super) fn free_room(dir: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(dir).ok()?;
    Some(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// The outcome of an attempt to compact a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compacted {
    /// Most of it is in use, or little is free.
    NotWorthIt,
    /// Rewriting it would leave too little space on its volume.
    NoRoom,
    /// It was rewritten: its size before and after, in bytes.
    From(u64, u64),
}

/// Rewrites a database in `dir` whose pages are mostly free. One transaction,
/// so readers keep their snapshots and a crash changes nothing. Gives up when
/// `give_up` returns true or another program is writing.
///
/// # Errors
/// If it was given up or could not be written; the database is as it was.
pub(super) fn compact(
    conn: &mut Connection,
    dir: &Path,
    give_up: impl FnMut() -> bool + Send + 'static,
) -> rusqlite::Result<Compacted> {
    let pages = Pages::of(conn)?;
    if !pages.are_mostly_free() {
        return Ok(Compacted::NotWorthIt);
    }
    // The used pages go to a temporary file, then into the log.
    let needed = pages.used().saturating_mul(2).saturating_add(ROOM_LEFT);
    if free_room(dir).is_some_and(|room| room < needed) {
        return Ok(Compacted::NoRoom);
    }
    db::with_give_up(conn, give_up, |conn| {
        within(conn, BUSY_TIMEOUT, |conn| conn.execute_batch("VACUUM"))
    })?;
    // The file shrinks only when the log is merged.
    checkpoint(conn)?;
    Ok(Compacted::From(pages.all(), Pages::of(conn)?.all()))
}

/// Returns whether compacting failed for a temporary reason.
pub(super) fn is_passing(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::OperationInterrupted
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
        )
    )
}

/// The pages of a database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub(super) size: u64,
    pub(super) count: u64,
    pub(super) free: u64,
}

impl Pages {
    pub(super) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let number = |name| conn.pragma_query_value(None, name, |row| row.get(0));
        Ok(Self {
            size: number("page_size")?,
            count: number("page_count")?,
            free: number("freelist_count")?,
        })
    }

    const fn are_mostly_free(self) -> bool {
        self.free() > self.used() && self.free() > FREE_KEPT
    }

    /// Returns the bytes of the free pages.
    pub(super) const fn free(self) -> u64 {
        self.free.saturating_mul(self.size)
    }

    /// Returns the bytes of the pages in use.
    pub(super) const fn used(self) -> u64 {
        self.count.saturating_sub(self.free).saturating_mul(self.size)
    }

    const fn all(self) -> u64 {
        self.count.saturating_mul(self.size)
    }
}

#[cfg(test)]
mod tests;
