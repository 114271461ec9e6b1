//! Giving room back to the disk.
//!
//! The pages of events that left are used again by those that come, so the file
//! is as large as the queue has been at most. It is made small again only
//! where that is quick: the database is locked meanwhile, and producers wait.

use std::path::Path;

use rusqlite::Connection;

use super::EventStore;
use crate::store::space::{self, Compacted};

/// With more in use than this, in bytes, the file is left as it is: writing so
/// much anew takes well under a second.
const USED_MAX: u64 = 64 << 20;

impl EventStore {
    /// Makes the file small if most of it is free. Whoever writes at the moment
    /// is a reason not to, for this time.
    pub(super) fn compact(&mut self) {
        self.compact_up_to(USED_MAX);
    }

    /// The same, if no more than so many bytes are in use.
    pub(super) fn compact_up_to(&mut self, used_max: u64) {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let made = bytes_used(&self.conn).and_then(|used| {
            if used > used_max {
                return Ok(Compacted::NotWorthIt);
            }
            space::compact(&mut self.conn, dir, || false)
        });
        match made {
            Ok(Compacted::NotWorthIt) => {}
            Ok(done) => tracing::debug!(?done, "events.db was mostly free"),
            Err(error) => tracing::debug!(%error, "events.db keeps its size"),
        }
    }
}

fn bytes_used(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(pages.saturating_mul(pragma("page_size")?))
}
