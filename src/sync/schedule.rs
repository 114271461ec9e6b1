//! When the next sync begins. Pure: the time and the random number come in.
//!
//! Only [`Now::elapsed`] counts, which runs on while the machine sleeps and
//! does not jump when somebody sets the clock. Promise: there is always a next
//! time unless a sync runs, and then the end of that sync gives one.

mod prompt;

use std::time::Duration;

use crate::model::{
    DEFAULT_SYNC_INTERVAL_SECS, MAX_SYNC_INTERVAL_SECS, MIN_SYNC_INTERVAL_SECS, MachineId, Now,
    SyncReason,
};

pub use prompt::PromptSchedule;

/// From the start of the daemon to its first sync, at least (DAEMON-1).
pub const FIRST_SYNC_DELAY: Duration = Duration::from_secs(15);
/// How much longer it may take, by host (DAEMON-1).
pub const MAX_SPLAY: Duration = Duration::from_secs(15);
/// The wait after the first failure in a row, if the interval is not shorter
/// (DAEMON-2). When a server comes back after an outage, its fleet must not return all at once,
/// so hosts that have failed wait at least the default interval.
pub const FIRST_BACK_OFF: Duration = Duration::from_mins(10);

/// How much an interval varies (DAEMON-1).
const JITTER: f64 = 0.05;
/// How much a back-off varies: when a server comes back, its fleet must not return all at once.
const BACK_OFF_JITTER: f64 = 0.25;
/// The pause after a sync that took longer than the interval, so that a slow
/// server is not asked without one.
const OVERRUN_PAUSE: Duration = Duration::from_secs(10);
/// From the last change of the network to the sync that tries it, at least: a
/// link that comes up brings an address, routes and name servers, one by one.
const NETWORK_SETTLE_TIME: Duration = Duration::from_secs(5);
/// How much longer it may take: a switch that comes back brings its whole
/// network back at once.
const NETWORK_SETTLE_SPREAD: Duration = Duration::from_secs(5);
/// From one sync begun because of the network to the next, at least: a link
/// that comes and goes must not undo the back-off.
const MIN_NETWORK_SYNC_GAP: Duration = Duration::from_mins(1);

/// Between two syncs requested by the group, at least (DAEMON-4).
const MIN_GROUP_SYNC_GAP: Duration = Duration::from_secs(10);
/// From a sync that failed to the next one requested by the group, at least
/// (DAEMON-4).
const MIN_GROUP_SYNC_GAP_FAILED: Duration = Duration::from_mins(1);

/// Who requests a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// The owner of the daemon or root, also by a signal.
    Owner,
    /// A member of the group that the control socket is open to.
    Group,
}

/// What becomes of a request for a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It begins at once.
    AtOnce,
    /// It begins after this time, because the group makes too many requests; or earlier,
    /// with one that begins for another reason.
    Later(Duration),
    /// It begins when the one that runs has ended.
    Next,
    /// A sync has been requested already; this request joins it.
    Already,
}

/// How a sync ended, as far as the schedule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncEnd {
    /// It succeeded.
    Success,
    /// It did not, for whatever reason.
    Failure,
    /// There was nothing to sync with.
    Nothing,
}

/// The number that a host's splay comes from: the same at each start of a host.
#[must_use]
pub fn splay_number(machine_id: &MachineId) -> u64 {
    xxhash_rust::xxh3::xxh3_64(machine_id.as_str().as_bytes())
}

/// The schedule of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: Duration,
    failures: u32,
    due: Duration,
    /// Why it is due then, nothing else coming first.
    why: SyncReason,
    /// When to try a network that has changed.
    nudge: Option<Duration>,
    /// When that was done last.
    nudged: Option<Duration>,
    began: Option<Duration>,
    /// The owner has requested a sync.
    asked: bool,
    /// The group has requested a sync.
    group_asked: bool,
    /// When the last sync requested by the group began.
    group_began: Option<Duration>,
    /// When the last sync failed; `None` if it succeeded.
    failed: Option<Duration>,
}

impl Schedule {
    /// The schedule of a daemon that starts now. `host` is the same number at
    /// each start of a host and differs between hosts.
    #[must_use]
    pub fn new(now: Now, host: u64) -> Self {
        let splay = host % (u64::try_from(MAX_SPLAY.as_millis()).unwrap_or(0) + 1);
        Self {
            interval: Duration::from_secs(DEFAULT_SYNC_INTERVAL_SECS.into()),
            failures: 0,
            due: now.elapsed + FIRST_SYNC_DELAY + Duration::from_millis(splay),
            why: SyncReason::Start,
            nudge: None,
            nudged: None,
            began: None,
            asked: false,
            group_asked: false,
            group_began: None,
            failed: None,
        }
    }

    /// When to call [`Self::begin`], as [`Now::elapsed`]; `None` while a sync
    /// runs.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.next().map(|(due, _)| due)
    }

    /// Why the next sync begins when it does; `None` while one runs.
    #[must_use]
    pub fn why(&self) -> Option<SyncReason> {
        self.next().map(|(_, why)| why)
    }

    /// When the next sync begins, and why.
    fn next(&self) -> Option<(Duration, SyncReason)> {
        if self.began.is_some() {
            return None;
        }
        if self.asked {
            return Some((Duration::ZERO, SyncReason::Asked));
        }
        let group = self.group_asked.then(|| (self.group_from(), SyncReason::Asked));
        let nudge = self.nudge.map(|nudge| (nudge, SyncReason::Network));
        // Of two reasons at the same time the first one counts.
        [group, Some((self.due, self.why)), nudge].into_iter().flatten().min_by_key(|next| next.0)
    }

    /// The earliest time for a sync requested by the group.
    fn group_from(&self) -> Duration {
        let spaced = self.group_began.map(|began| began + MIN_GROUP_SYNC_GAP);
        let failed = self.failed.map(|failed| failed + MIN_GROUP_SYNC_GAP_FAILED);
        spaced.max(failed).unwrap_or(Duration::ZERO)
    }

    /// Returns why a sync begins, if it does. From then on it runs, until
    /// [`Self::end`].
    pub fn begin(&mut self, now: Now) -> Option<SyncReason> {
        let (due, why) = self.next()?;
        if now.elapsed < due {
            return None;
        }
        if why == SyncReason::Network {
            self.nudged = Some(now.elapsed);
        }
        self.nudge = None;
        self.began = Some(now.elapsed);
        self.asked = false;
        // Whatever else it begins for, the group has its sync.
        if std::mem::take(&mut self.group_asked) {
            self.group_began = Some(now.elapsed);
        }
        Some(why)
    }

    /// Requests a sync. The owner and root are not limited.
    pub fn ask(&mut self, by: Requester, now: Now) -> RequestOutcome {
        let known = self.is_asked();
        let wait = self.group_wait(now);
        match by {
            Requester::Owner => self.asked = true,
            Requester::Group => self.group_asked = true,
        }
        match (known, by, self.began) {
            (_, Requester::Group, None) if !self.asked && !wait.is_zero() => {
                RequestOutcome::Later(wait)
            }
            (true, _, _) => RequestOutcome::Already,
            (false, _, Some(_)) => RequestOutcome::Next,
            (false, _, None) => RequestOutcome::AtOnce,
        }
    }

    /// How long a sync that the group requests now has to wait at least.
    #[must_use]
    pub fn group_wait(&self, now: Now) -> Duration {
        self.group_from().saturating_sub(now.elapsed)
    }

    /// The network has changed: a link, an address, a route. While syncs fail,
    /// the next one begins soon after the last change instead of waiting for
    /// the back-off. `random` is in 0..1.
    pub fn network_changed(&mut self, now: Now, random: f64) {
        if !self.heeds_network() {
            return;
        }
        let settled = now.elapsed
            + NETWORK_SETTLE_TIME
            + NETWORK_SETTLE_SPREAD.mul_f64(random.clamp(0.0, 1.0));
        let earliest = self.nudged.map_or(settled, |nudged| nudged + MIN_NETWORK_SYNC_GAP);
        self.nudge = Some(settled.max(earliest));
    }

    /// Whether a change of the network would make a difference.
    #[must_use]
    pub const fn heeds_network(&self) -> bool {
        self.failures > 0 || self.began.is_some()
    }

    /// Notes that the sync has ended. `interval_secs` is the interval in effect
    /// afterwards, if it is known; `random` is in 0..1.
    pub fn end(&mut self, now: Now, end: SyncEnd, interval_secs: Option<u32>, random: f64) {
        if let Some(secs) = interval_secs {
            let secs = secs.clamp(MIN_SYNC_INTERVAL_SECS, MAX_SYNC_INTERVAL_SECS);
            self.interval = Duration::from_secs(secs.into());
        }
        let began = self.began.take().unwrap_or(now.elapsed);
        match end {
            SyncEnd::Success => (self.failures, self.failed) = (0, None),
            SyncEnd::Failure => {
                self.failures = self.failures.saturating_add(1);
                self.failed = Some(now.elapsed);
            }
            SyncEnd::Nothing => {}
        }
        // A change that had settled before the end is one the sync has met.
        self.nudge = self.nudge.filter(|nudge| end == SyncEnd::Failure && *nudge > now.elapsed);
        (self.due, self.why) = match self.back_off() {
            Some(wait) if end == SyncEnd::Failure => {
                let share = if wait < self.interval { BACK_OFF_JITTER } else { JITTER };
                (now.elapsed + jittered(wait, share, random), SyncReason::BackOff)
            }
            // A time that has passed meanwhile is caught up once: the next one
            // is counted from that sync.
            Some(_) | None => {
                let due = began + jittered(self.interval, JITTER, random);
                (due.max(now.elapsed + OVERRUN_PAUSE), SyncReason::Interval)
            }
        };
    }

    /// Whether a sync runs.
    #[cfg(test)]
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.began.is_some()
    }

    /// Whether a requested sync has not begun.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.asked || self.group_asked
    }

    /// The interval in effect.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// How many syncs in a row failed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait that stands in for the interval after failures, before its
    /// jitter: 10 minutes, doubled with each failure in a row, up to the interval.
    #[must_use]
    pub fn back_off(&self) -> Option<Duration> {
        let doublings = self.failures.checked_sub(1)?;
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        Some(FIRST_BACK_OFF.saturating_mul(factor).min(self.interval))
    }

    /// How long until the next sync.
    #[must_use]
    pub fn left(&self, now: Now) -> Option<Duration> {
        self.due().map(|due| due.saturating_sub(now.elapsed))
    }
}

/// `duration`, up to that share of it shorter or longer.
fn jittered(duration: Duration, share: f64, random: f64) -> Duration {
    duration.mul_f64(1.0 + share * (2.0 * random.clamp(0.0, 1.0) - 1.0))
}

#[cfg(test)]
mod tests;
