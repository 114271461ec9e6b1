//! The only reader of time. Whoever needs the time is handed a [`Now`], or a
//! [`Clock`] to wait on.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{Now, Timestamp};

mod alarm;

pub use alarm::Alarm;

/// A wait that a clock hands out.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the time and waits.
pub trait Clock: Send + Sync {
    /// The time.
    fn now(&self) -> Now;

    /// Completes once `duration` has passed.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's clock. Its waits may be made to pass faster than they read,
/// for tests and drills that have to sit through a retry schedule.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    rate: u32,
}

impl SystemClock {
    /// A clock whose waits take as long as they say.
    #[must_use]
    pub const fn new() -> Self {
        Self { rate: 1 }
    }

    /// A clock whose waits pass `rate` times as fast; a rate of 0 counts as 1.
    #[must_use]
    pub const fn with_rate(rate: u32) -> Self {
        Self { rate: if rate == 0 { 1 } else { rate } }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        #[expect(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
        let wall = SystemTime::now();
        let millis = match wall.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        Now { wall: Timestamp::from_millis(millis), elapsed: elapsed() }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration / self.rate))
    }
}

/// Returns what tells whether `left` has passed since now, by the machine's own
/// clock: for work that no await interrupts.
pub fn timer(left: Duration) -> impl Fn() -> bool + Clone + Send + Sync + 'static {
    let end = elapsed().saturating_add(left);
    move || elapsed() >= end
}

/// The time for which this thread has computed: it stands still while the
/// machine sleeps or does something else.
#[must_use]
pub fn thread_time() -> Duration {
    read(rustix::time::ClockId::ThreadCPUTime)
}

/// Time since boot that the machine was awake; `None` where no clock of this
/// kind can be read. Macs have one (`CLOCK_UPTIME_RAW`), but reading it takes
/// unsafe code.
#[must_use]
pub fn awake() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    return Some(read(rustix::time::ClockId::Monotonic));
    #[cfg(not(target_os = "linux"))]
    None
}

/// Time since boot, sleep included. On Linux that is `CLOCK_BOOTTIME`; on macOS
/// `CLOCK_MONOTONIC` keeps running while the machine sleeps.
fn elapsed() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    read(id)
}

fn read(id: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
