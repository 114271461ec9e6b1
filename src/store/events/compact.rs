//! Giving room back to the disk.
//!
//! The pages of events that left are used again by those that come, so the file
//! is as large as the queue has been at most. It is made small again only
//! where that is quick: the database is locked meanwhile, and producers wait.

use super::{EventStore, state};
use crate::files;
use crate::store::space::{self, Compacted, Pages};

/// With more in use than this, in bytes, the file is left as it is: rewriting so
/// much takes well under a second.
const MAX_USED: u64 = 64 << 20;

/// While more events wait, the file is made small only where nearly all of it is
/// free: a long queue that is being sent would be rewritten at each half of its
/// length.
const FEW_PENDING: u64 = 1_000;

/// Whether the file may be rewritten while so many events wait.
const fn is_quick(pages: Pages, pending: u64) -> bool {
    pages.used() <= MAX_USED && (pending <= FEW_PENDING || pages.free() / 8 > pages.used())
}

impl EventStore {
    /// Makes the file small if most of it is free. Whoever writes at the moment
    /// is a reason not to, for this time.
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
