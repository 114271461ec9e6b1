//! Giving room back to the disk.
//!
//! The pages of events that left are used again by those that come, so the file
//! is as large as the queue has been at most. It is made small again only
//! where that is quick: the database is locked meanwhile, and producers wait.

use std::time::Duration;

use rusqlite::Connection;

use super::EventStore;

/// With less free than this, in bytes, the file is left as it is.
const FREE: u64 = 8 << 20;

/// With more in use than this, in bytes, the file is left as it is: writing so
/// much anew takes well under a second.
const USED_MAX: u64 = 64 << 20;

/// Whether a file of so many bytes, so many of them in use, is worth writing
/// anew, and quickly.
const fn is_worthwhile(used: u64, free: u64) -> bool {
    free > used && free > FREE && used <= USED_MAX
}

impl EventStore {
    /// Makes the file small if most of it is free. Whoever uses the database at
    /// the moment is a reason not to, for this time.
    pub(super) fn compact(&self) {
        if let Err(error) = compact(&self.conn) {
            tracing::debug!(%error, "events.db keeps its size");
        }
    }
}

fn compact(conn: &Connection) -> rusqlite::Result<()> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let free = pragma("freelist_count")?;
    if free == 0 {
        return Ok(());
    }
    let (pages, size) = (pragma("page_count")?, pragma("page_size")?);
    if !is_worthwhile(pages.saturating_sub(free) * size, free * size) {
        return Ok(());
    }
    // Whoever waits for the lock already goes first, and this is for later.
    let patience: u64 = pragma("busy_timeout")?;
    conn.busy_timeout(Duration::ZERO)?;
    let made = conn.execute_batch("VACUUM");
    conn.busy_timeout(Duration::from_millis(patience))?;
    made?;
    // It waits for nobody; what a reader keeps from being written back now is
    // written back by a later one.
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
