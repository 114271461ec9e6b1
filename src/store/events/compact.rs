//! Giving room back to the disk.
//!
//! The pages of events that left are used again by those that come, so the file
//! is as large as the queue has been at most. It is made small again only
//! where that is quick: the database is locked meanwhile, and producers wait.

use std::path::Path;

use rusqlite::Connection;

use super::{EventStore, state};
use crate::store::space::{self, Compacted};

/// With more in use than this, in bytes, the file is left as it is: writing so
/// much anew takes well under a second.
const USED_MAX: u64 = 64 << 20;

/// While more events wait, the file is made small only where nearly all of it is
/// free: a long queue that is being sent would be written anew at each half of
/// its length.
const FEW: u64 = 1_000;

/// What decides, in bytes.
#[derive(Clone, Copy, Debug)]
struct Use {
    used: u64,
    free: u64,
}

impl Use {
    /// Whether the file may be written anew while so many events wait.
    const fn allows(self, pending: u64) -> bool {
        self.used <= USED_MAX && (pending <= FEW || self.free / 8 > self.used)
    }
}

impl EventStore {
    /// Makes the file small if most of it is free. Whoever writes at the moment
    /// is a reason not to, for this time.
    pub(super) fn compact(&mut self) {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let decided = state(&self.conn).and_then(|state| {
            let found = in_use(&self.conn)?;
            Ok(found.free > 0 && found.allows(state.pending))
        });
        let made = match decided {
            Ok(true) => space::compact(&mut self.conn, dir, || false),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        match made {
            Ok(Compacted::NotWorthIt) => {}
            Ok(done) => tracing::debug!(?done, "events.db was mostly free"),
            Err(error) => tracing::debug!(%error, "events.db keeps its size"),
        }
    }
}

fn in_use(conn: &Connection) -> rusqlite::Result<Use> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (free, size) = (pragma("freelist_count")?, pragma("page_size")?);
    let used = pragma("page_count")?.saturating_sub(free);
    Ok(Use { used: used.saturating_mul(size), free: free.saturating_mul(size) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EV-8: producers wait for well under a second, and a long queue is not
    /// written anew again and again while it is sent.
    #[test]
    fn ev_8_a_file_is_made_small_only_where_that_is_quick_and_lasts() {
        const MB: u64 = 1 << 20;
        let allows = |used, free, pending| Use { used, free }.allows(pending);
        assert!(allows(64 * MB, 65 * MB, 1_000));
        assert!(!allows(64 * MB + 1, 2_000 * MB, 1_000));
        assert!(!allows(50 * MB, 300 * MB, 1_001));
        assert!(allows(10 * MB, 100 * MB, 50_000));
    }
}
