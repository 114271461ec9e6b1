//! Records of allowed executions that were queued recently. They are frequent
//! and identical; a server learns nothing from repetitions.

use std::collections::HashMap;
use std::time::Duration;

/// How long an equal event is skipped.
const BACK_OFF_WINDOW: Duration = Duration::from_hours(4);

/// The most unique ids remembered; beyond, all are forgotten. Lost with the
/// process: this thins out a flood, it does not deduplicate.
const MAX_REMEMBERED: usize = 2048;

/// When each event was queued last, by elapsed time.
#[derive(Debug, Default)]
pub(super) struct RecentlySeen(HashMap<String, Duration>);

impl RecentlySeen {
    /// Returns whether an event may be queued, and if so, remembers the time.
    pub(super) fn admits(&mut self, unique_id: &str, elapsed: Duration) -> bool {
        if let Some(last) = self.0.get(unique_id)
            && elapsed.saturating_sub(*last) < BACK_OFF_WINDOW
        {
            return false;
        }
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(unique_id) {
            self.0.clear();
        }
        self.0.insert(unique_id.to_owned(), elapsed);
        true
    }

    /// Forgets an event that could not be written, so that it can be queued
    /// again.
    pub(super) fn forget(&mut self, unique_id: &str) {
        self.0.remove(unique_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// EV-7: a repetition within 4 h of the last one taken in is passed over.
    #[test]
    fn ev_7_an_allowed_thing_is_taken_in_again_after_four_hours() {
        let mut recent = RecentlySeen::default();
        assert!(recent.admits("a", HOUR));
        assert!(!recent.admits("a", 2 * HOUR));
        assert!(!recent.admits("a", 5 * HOUR.saturating_sub(Duration::from_nanos(1))));
        assert!(recent.admits("b", 2 * HOUR));
        assert!(recent.admits("a", 5 * HOUR));
        assert!(!recent.admits("a", 8 * HOUR));
    }

    #[test]
    fn ev_7_a_full_memory_is_emptied_as_a_whole() {
        let mut recent = RecentlySeen::default();
        for n in 0..MAX_REMEMBERED {
            assert!(recent.admits(&n.to_string(), HOUR));
        }
        assert!(!recent.admits("0", HOUR));
        assert!(recent.admits("one more", HOUR));
        assert!(recent.admits("0", HOUR));
        assert_eq!(recent.0.len(), 2);
    }
}
