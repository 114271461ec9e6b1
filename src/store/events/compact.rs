//! Giving disk space back.
//!
//! Pages of deleted events are reused, so the file stays as large as the
//! longest queue. It is compacted only where that is quick: the database is
//! locked meanwhile, and producers wait.

use super::{EventStore, state};
use crate::files;
use crate::store::space::{self, Compacted, Pages};

/// With more bytes in use than this the file is not compacted. Rewriting this
/// much takes well under a second.
const MAX_USED: u64 = 64 << 20;

/// While more events are queued, the file is compacted only if nearly all of it
/// is free: a long queue that is being sent would be rewritten each time it has
/// halved.
const FEW_PENDING: u64 = 1_000;

/// Returns whether the file may be rewritten while `pending` events are queued.
const fn is_quick(pages: Pages, pending: u64) -> bool {
    pages.used() <= MAX_USED && (pending <= FEW_PENDING || pages.free() / 8 > pages.used())
}

impl EventStore {
    /// Compacts the file if most of it is free. Does nothing while another
    /// process writes.
    pub(super) fn compact(&mut self) {
        let dir = files::directory_of(&self.path);
        let decided =
            state(&self.conn).and_then(|state| Ok(is_quick(Pages::of(&self.conn)?, state.pending)));
        let made = match decided {
            Ok(true) => space::compact(&mut self.conn, &dir, || false),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// EV-8: producers wait for well under a second, and a long queue is not
    /// rewritten again and again while it is sent.
    #[test]
    fn ev_8_a_file_is_made_small_only_where_that_is_quick_and_lasts() {
        const MB: u64 = 1 << 20;
        let allows = |used: u64, free: u64, pending| {
            is_quick(Pages { size: 1, count: used + free, free }, pending)
        };
        assert!(allows(64 * MB, 65 * MB, 1_000));
        assert!(!allows(64 * MB + 1, 2_000 * MB, 1_000));
        assert!(!allows(50 * MB, 300 * MB, 1_001));
        assert!(allows(10 * MB, 100 * MB, 50_000));
    }
}
