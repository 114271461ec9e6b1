//! An alarm that counts the time a machine sleeps, for a process that would
//! otherwise do nothing.

use std::io;
use std::time::Duration;

use super::{Clock as _, SystemClock};
use crate::model::Now;

/// How often the alarm checks the clock on macOS, whose timers stand still
/// while the machine sleeps.
#[cfg(not(target_os = "linux"))]
const CLOCK_RECHECK: Duration = Duration::from_mins(1);

/// Rings at a given [`Now::elapsed`]. On Linux each ring costs one wake-up,
/// however far away it is; elsewhere one a minute.
#[derive(Debug)]
pub struct Alarm {
    rate: u32,
    origin: Duration,
    #[cfg(target_os = "linux")]
    timer: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

impl Alarm {
    /// Returns an alarm by the machine's clock. With a rate, its time passes
    /// that many times as fast from now on.
    ///
    /// # Errors
    /// If the system provides no timer. Must be called within a runtime.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(clippy::unnecessary_wraps, reason = "a timer of the system exists on Linux alone")
    )]
    pub fn new(clock: SystemClock) -> io::Result<Self> {
        Ok(Self {
            rate: clock.rate,
            origin: clock.now().elapsed,
            #[cfg(target_os = "linux")]
            timer: timer()?,
        })
    }

    /// Returns the time, with `elapsed` at the alarm's rate.
    #[must_use]
    pub fn now(&self) -> Now {
        let real = SystemClock::new().now();
        let passed = real.elapsed.saturating_sub(self.origin);
        Now { wall: real.wall, elapsed: self.origin + passed.saturating_mul(self.rate) }
    }

    /// Completes once [`Self::now`] has reached `at`. Only the last call
    /// counts.
    pub async fn ring(&self, at: Duration) {
        loop {
            let left = at.saturating_sub(self.now().elapsed);
            if left.is_zero() {
                return;
            }
            // A wait rounded down would end too early and repeat.
            self.wait(left / self.rate + Duration::from_micros(1)).await;
        }
    }

    #[cfg(target_os = "linux")]
    async fn wait(&self, duration: Duration) {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let timer = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: duration.subsec_nanos().into(),
            },
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer) {
            tracing::debug!(%error, "the alarm's timer cannot be set");
            return tokio::time::sleep(duration).await;
        }
        let mut expirations = [0; 8];
        loop {
            let Ok(mut ready) = self.timer.readable().await else {
                return tokio::time::sleep(duration).await;
            };
            let read = ready.try_io(|timer| {
                rustix::io::read(timer.get_ref(), &mut expirations).map_err(io::Error::from)
            });
            // Readiness of an earlier setting reads as "would block".
            if read.is_ok() {
                return;
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration.min(CLOCK_RECHECK)).await;
    }
}

#[cfg(target_os = "linux")]
fn timer() -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    #[expect(deprecated, reason = "an owned descriptor keeps what its successor, unsafe, asks for")]
    tokio::io::unix::AsyncFd::new(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_when_its_time_has_come_and_not_before() {
        let alarm = Alarm::new(SystemClock::with_rate(1000)).expect("an alarm");
        let at = alarm.now().elapsed + Duration::from_secs(20);
        alarm.ring(at).await;
        let now = alarm.now().elapsed;
        assert!(now >= at, "{now:?} is before {at:?}");
        // The past rings at once, and an alarm can be set again.
        alarm.ring(at).await;
        alarm.ring(now + Duration::from_secs(5)).await;
        assert!(alarm.now().elapsed >= now + Duration::from_secs(5));
    }

    /// DAEMON-3: a trigger sets the alarm again and replaces the earlier setting.
    #[tokio::test]
    async fn daemon_3_the_last_setting_counts() {
        let alarm = Alarm::new(SystemClock::with_rate(1000)).expect("an alarm");
        let start = alarm.now().elapsed;
        let far = start + Duration::from_secs(1_000_000);
        tokio::select! {
            biased;
            () = alarm.ring(far) => panic!("the far alarm rang"),
            () = std::future::ready(()) => {}
        }
        alarm.ring(start + Duration::from_secs(5)).await;
        assert!(alarm.now().elapsed < far);
    }
}
