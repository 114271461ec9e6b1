//! When the authorizer is told to sync (RELAY-9). Pure: time is an argument.

use std::time::Duration;

/// From the commit of a sync that still runs to the nudge.
pub const AFTER_COMMIT: Duration = Duration::from_secs(10);
/// How long the command may run.
pub const LIMIT: Duration = Duration::from_mins(3);
/// The first wait after a failure; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// What came of a nudge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NudgeEnd {
    /// The authorizer has synced, or others sync already.
    Done,
    /// It may have: the command was killed.
    Unknown,
    /// It has not.
    Failed,
}

/// The exit code by which `santactl sync` says that others sync already.
const TOO_MANY_SYNCS: i32 = 5;

impl NudgeEnd {
    /// What an exit code says; `None` if a signal ended the command.
    #[must_use]
    pub const fn of_exit(code: Option<i32>) -> Self {
        match code {
            Some(0 | TOO_MANY_SYNCS) => Self::Done,
            Some(_) | None => Self::Failed,
        }
    }
}

/// Nudges: one at a time, further apart while they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Nudges {
    /// When to look whether the authorizer lacks what a running sync committed.
    look_at: Option<Duration>,
    wanted: bool,
    running: bool,
    failures: u32,
    not_before: Duration,
}

impl Nudges {
    /// A sync that still runs has committed rules.
    pub fn committed(&mut self, now: Duration) {
        self.look_at = self.look_at.or(Some(now + AFTER_COMMIT));
    }

    /// A sync has ended, which says whether the authorizer lacks anything.
    pub const fn sync_ended(&mut self) {
        self.look_at = None;
    }

    /// When to look whether it lacks anything.
    #[must_use]
    pub const fn look_at(&self) -> Option<Duration> {
        self.look_at
    }

    /// It lacks something.
    pub const fn want(&mut self) {
        self.look_at = None;
        self.wanted = true;
    }

    /// When the next nudge is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        (self.wanted && !self.running).then_some(self.not_before)
    }

    /// A nudge begins.
    pub const fn begin(&mut self) {
        (self.wanted, self.running) = (false, true);
    }

    /// It has ended. Returns the failures in a row.
    pub fn ended(&mut self, end: NudgeEnd, now: Duration) -> u32 {
        self.running = false;
        match end {
            NudgeEnd::Done => {
                self.failures = 0;
                self.not_before = now;
            }
            NudgeEnd::Unknown => self.not_before = now,
            NudgeEnd::Failed => {
                let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16));
                self.not_before = now + wait.min(LONGEST_WAIT);
                self.failures = self.failures.saturating_add(1);
                self.wanted = true;
            }
        }
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// RELAY-9: one at a time; what comes while one runs follows it.
    #[test]
    fn relay_9_nudges_follow_each_other() {
        let mut nudges = Nudges::default();
        assert_eq!(nudges.due(), None);
        nudges.want();
        assert_eq!(nudges.due(), Some(at(0)));
        nudges.begin();
        assert_eq!(nudges.due(), None);
        nudges.want();
        nudges.want();
        assert_eq!(nudges.due(), None, "one runs");
        nudges.ended(NudgeEnd::Done, at(5));
        assert_eq!(nudges.due(), Some(at(5)));
        nudges.begin();
        nudges.ended(NudgeEnd::Done, at(6));
        assert_eq!(nudges.due(), None);
    }

    /// RELAY-9: failures back off to an hour; a kill does not count as one.
    #[test]
    fn relay_9_failed_nudges_back_off() {
        let mut nudges = Nudges::default();
        nudges.want();
        for (failures, wait) in
            [(1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 960), (7, 1920), (8, 3600)]
        {
            nudges.begin();
            assert_eq!(nudges.ended(NudgeEnd::Failed, at(1000)), failures);
            assert_eq!(nudges.due(), Some(at(1000 + wait)));
        }
        nudges.begin();
        assert_eq!(nudges.ended(NudgeEnd::Unknown, at(9000)), 8);
        assert_eq!(nudges.due(), None);
        nudges.want();
        nudges.begin();
        assert_eq!(nudges.ended(NudgeEnd::Done, at(9001)), 0);
        assert_eq!(NudgeEnd::of_exit(Some(5)), NudgeEnd::Done);
        assert_eq!(NudgeEnd::of_exit(Some(1)), NudgeEnd::Failed);
        assert_eq!(NudgeEnd::of_exit(None), NudgeEnd::Failed);
    }

    /// RELAY-9: 10 s after a commit whose sync still runs.
    #[test]
    fn relay_9_a_commit_is_looked_at_after_ten_seconds() {
        let mut nudges = Nudges::default();
        nudges.committed(at(1));
        nudges.committed(at(8));
        assert_eq!(nudges.look_at(), Some(at(11)), "from the first");
        nudges.sync_ended();
        assert_eq!(nudges.look_at(), None);
    }
}
