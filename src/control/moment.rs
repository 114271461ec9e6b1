//! Time stamps of the status by clocks that cannot be set, and what they say about
//! a daemon that is late (DAEMON-6).
//!
//! The wall clock is for people: a step of it must neither make a healthy
//! daemon stuck nor hide a stuck one. Time since boot is the same for every
//! process of one boot, and only there; hence the boot's name beside it. A
//! machine that sleeps does nothing, so that grace is counted in time awake.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Clock as _, SystemClock};
use crate::host::{self, HostSource};
use crate::model::{Now, Timestamp};

/// A reading of every clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock, and time since boot with sleep.
    pub now: Now,
    /// Time since boot without sleep, where it can be read.
    pub awake: Option<Duration>,
    /// The name of the boot.
    pub boot_id: Option<String>,
    /// When the machine last woke, where that stands in for `awake`.
    pub woke_at: Option<Timestamp>,
}

impl Moment {
    /// Reads the clocks of this machine.
    #[must_use]
    pub fn read(host: &dyn HostSource) -> Self {
        Self {
            now: SystemClock::new().now(),
            awake: clock::awake(),
            boot_id: host::boot_id(host),
            woke_at: host::woke_at(host),
        }
    }
}

/// When something was or is to be, in milliseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// With sleep.
    pub elapsed_ms: u64,
    /// Without sleep; `None` where no clock measures it.
    pub awake_ms: Option<u64>,
}

impl Stamp {
    /// The stamp of now.
    #[must_use]
    pub fn now(now: Now) -> Self {
        Self { elapsed_ms: millis(now.elapsed), awake_ms: clock::awake().map(millis) }
    }

    /// The stamp `by` later, if the machine does not sleep until then.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let later = |ms: u64| ms.saturating_add(millis(by));
        Self { elapsed_ms: later(self.elapsed_ms), awake_ms: self.awake_ms.map(later) }
    }

    /// How long ago it was, with sleep; zero if it is in the future.
    fn since(self, seen: &Moment) -> Duration {
        Duration::from_millis(millis(seen.now.elapsed).saturating_sub(self.elapsed_ms))
    }

    /// For how long the machine has been awake since; at most, where that is
    /// not known.
    fn awake_since(self, seen: &Moment) -> Duration {
        let since = self.since(seen);
        match (self.awake_ms, seen.awake, seen.woke_at) {
            (Some(then), Some(awake), _) => {
                since.min(Duration::from_millis(millis(awake).saturating_sub(then)))
            }
            (_, _, Some(woke_at)) => since.min(seen.now.wall.since(woke_at)),
            (_, _, None) => since,
        }
    }
}

/// The stamps of a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The name of the boot that they count from.
    pub id: String,
    /// When the daemon started.
    pub started: Stamp,
    /// When the status was written.
    pub written: Stamp,
    /// When the sync that runs began, or began to wait.
    pub sync_began: Option<Stamp>,
    /// When the next sync begins.
    pub next_sync: Option<Stamp>,
}

impl Boot {
    /// Whether it is of the boot that the moment is of. `None` if the moment's
    /// is not known.
    #[must_use]
    pub fn is_of(&self, seen: &Moment) -> Option<bool> {
        seen.boot_id.as_ref().map(|id| *id == self.id)
    }

    /// How long the daemon has been running.
    #[must_use]
    pub fn uptime(&self, seen: &Moment) -> Duration {
        self.started.since(seen)
    }

    /// How long ago the status was written.
    #[must_use]
    pub fn age(&self, seen: &Moment) -> Duration {
        self.written.since(seen)
    }

    /// For how long, in time awake, something has been due that has not come to
    /// pass: the next sync, or the end of one that may run for `limit`.
    #[must_use]
    pub fn overdue(&self, seen: &Moment, limit: Duration) -> Duration {
        match (self.next_sync, self.sync_began) {
            (Some(next), _) => next.awake_since(seen),
            (None, Some(began)) => began.awake_since(seen).saturating_sub(limit),
            (None, None) => Duration::ZERO,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
