//! The only reader of time. Code that needs the time is given a [`Now`], or a
//! [`Clock`] to wait on.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{Now, Timestamp};

mod alarm;

pub use alarm::Alarm;

/// A wait that a clock returns.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time and waits.
pub trait Clock: Send + Sync {
    /// Returns the time.
    fn now(&self) -> Now;

    /// Completes once `duration` has passed.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's clock. Its waits can be shortened for tests and simulations
/// that go through a retry schedule.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    rate: u32,
}

impl SystemClock {
    /// Returns a clock whose waits last as long as requested.
    #[must_use]
    pub const fn new() -> Self {
        Self { rate: 1 }
    }

    /// Returns a clock whose waits pass `rate` times as fast; a rate of 0
    /// counts as 1.
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

/// Returns a function that returns whether `left` has passed since now, by the
/// machine's clock. For work that no `await` interrupts.
pub fn timer(left: Duration) -> impl Fn() -> bool + Clone + Send + Sync + 'static {
    let end = elapsed().saturating_add(left);
    move || elapsed() >= end
}

/// Returns the CPU time of this thread.
#[must_use]
pub fn thread_time() -> Duration {
    read(rustix::time::ClockId::ThreadCPUTime)
}

/// Returns the CPU time of this process.
#[cfg(feature = "harness")]
#[must_use]
pub fn process_time() -> Duration {
    read(rustix::time::ClockId::ProcessCPUTime)
}

/// Returns the time since boot without sleep; `None` where no such clock can be
/// read. macOS has one (`CLOCK_UPTIME_RAW`), but reading it requires unsafe
/// code.
#[must_use]
#[allow(clippy::unnecessary_wraps, reason = "not every system can tell")]
pub fn awake() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    return Some(read(rustix::time::ClockId::Monotonic));
    #[cfg(not(target_os = "linux"))]
    None
}

/// Returns the time since boot, including sleep. On Linux that is
/// `CLOCK_BOOTTIME`; on macOS `CLOCK_MONOTONIC` keeps running while the machine
/// sleeps.
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
