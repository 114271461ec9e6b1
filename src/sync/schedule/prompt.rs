//! When events are uploaded between syncs, because something was denied
//! (EV-10). Pure: the time comes in.

use std::time::Duration;

use crate::model::Now;

/// From the first event that is urgent to the upload: what was denied once is
/// often tried again at once, and one request carries both. EV-10 allows 2 s.
const GATHER_TIME: Duration = Duration::from_millis(500);
/// From one upload to the next, at least (EV-10).
const MIN_UPLOAD_GAP: Duration = Duration::from_secs(10);

/// The schedule of uploads between syncs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PromptSchedule {
    /// Since when something urgent waits.
    since: Option<Duration>,
    /// When the last of it was queued.
    latest: Duration,
    /// When the last upload began.
    began: Option<Duration>,
}

impl PromptSchedule {
    /// Something urgent has been queued.
    pub fn queued(&mut self, now: Now) {
        self.since.get_or_insert(now.elapsed);
        self.latest = now.elapsed;
    }

    /// When to call [`Self::begin`], as [`Now::elapsed`], while neither a sync
    /// nor an upload runs; `None` if nothing urgent waits.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let gathered = self.since? + GATHER_TIME;
        Some(self.began.map_or(gathered, |began| gathered.max(began + MIN_UPLOAD_GAP)))
    }

    /// Returns whether an upload begins. It takes what waits.
    pub fn begin(&mut self, now: Now) -> bool {
        let begins = self.due().is_some_and(|due| due <= now.elapsed);
        if begins {
            self.since = None;
            self.began = Some(now.elapsed);
        }
        begins
    }

    /// A sync that began at `began` has ended and left `left` events in the queue;
    /// `None` if that is not known. Events queued before it began have been
    /// uploaded if it left none; it may have missed later ones.
    pub fn sync_ended(&mut self, began: Duration, left: Option<u64>) {
        if left == Some(0) && self.latest < began {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn at(ms: u64) -> Now {
        Now { wall: Timestamp::from_secs(0), elapsed: Duration::from_millis(ms) }
    }

    fn due(prompt: &PromptSchedule) -> Option<u128> {
        prompt.due().map(|due| due.as_millis())
    }

    /// EV-10: within 2 s, together with what comes meanwhile.
    #[test]
    fn ev_10_what_was_denied_is_due_within_two_seconds() {
        let mut prompt = PromptSchedule::default();
        assert_eq!((due(&prompt), prompt.begin(at(0))), (None, false));
        prompt.queued(at(1_000));
        prompt.queued(at(1_400));
        assert_eq!(due(&prompt), Some(1_500), "a stream of them does not put it off");
        assert!(!prompt.begin(at(1_499)));
        assert!(prompt.begin(at(1_500)));
        assert_eq!((due(&prompt), prompt.begin(at(2_000))), (None, false), "once");
    }

    /// EV-10: at most once in 10 s, whatever comes.
    #[test]
    fn ev_10_uploads_begin_ten_seconds_apart() {
        let mut prompt = PromptSchedule::default();
        let mut began = Vec::new();
        for ms in (0..60_000).step_by(100) {
            prompt.queued(at(ms));
            if prompt.begin(at(ms)) {
                began.push(ms);
            }
        }
        assert_eq!(began, [500, 10_500, 20_500, 30_500, 40_500, 50_500]);
    }

    /// EV-10: a sync takes what was queued before it; what came while it ran,
    /// and what it could not send, goes up right after it.
    #[test]
    fn ev_10_what_a_sync_did_not_take_goes_up_after_it() {
        let began = Duration::from_secs(2);
        let mut prompt = PromptSchedule::default();
        prompt.queued(at(1_000));
        prompt.sync_ended(began, Some(0));
        assert_eq!(due(&prompt), None, "it went up");
        prompt.queued(at(1_000));
        for left in [Some(7), None] {
            prompt.sync_ended(began, left);
            assert_eq!(due(&prompt), Some(1_500), "it is, or may be, left: {left:?}");
        }
        prompt.queued(at(2_500));
        prompt.sync_ended(began, Some(0));
        assert!(prompt.begin(at(60_000)), "it came during the sync, and is due at once");
    }
}
