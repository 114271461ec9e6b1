//! Compacting `rules.db` after a download that left most of it free.

use crate::store::{Store, space};

impl Store {
    /// Rewrites `rules.db` if more of its pages are free than in use and there
    /// are enough of them. Time and space grow with the rules, so this is done
    /// after a sync. Readers are not affected. Gives up when `give_up` returns
    /// true or another program is writing.
    ///
    /// A failure is only logged; the next call tries again.
    pub fn compact_rules(&mut self, give_up: impl FnMut() -> bool + Send + 'static) {
        use space::Compacted::{From, NoRoom, NotWorthIt};
        let dir = self.dir.clone();
        match space::compact(&mut self.rules, &dir, give_up) {
            Ok(NotWorthIt) => {}
            Ok(NoRoom) => {
                tracing::info!(
                    "rules.db keeps its free pages: its volume has no room to rewrite it"
                );
            }
            Ok(From(before, after)) => tracing::info!(before, after, "rules.db made small"),
            Err(error) if space::is_passing(&error) => {
                tracing::info!(%error, "rules.db keeps its free pages until after the next sync");
            }
            Err(error) => {
                let error = self.failed("make the file small")(error);
                tracing::warn!(%error, "rules.db keeps its free pages");
            }
        }
    }
}
