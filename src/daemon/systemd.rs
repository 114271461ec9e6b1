//! Notifications for systemd. Does nothing elsewhere and without `NOTIFY_SOCKET`.

#[cfg(not(target_os = "linux"))]
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Reports that the daemon is ready, and what it does.
pub(super) fn ready(status: &str) {
    #[cfg(target_os = "linux")]
    notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&crate::model::text::escaped(status)),
    ]);
    let _ = status;
}

/// Reports what the daemon does.
pub(super) fn status(status: &str) {
    #[cfg(target_os = "linux")]
    // A line feed would begin another variable of the message.
    notify(&[sd_notify::NotifyState::Status(&crate::model::text::escaped(status))]);
    let _ = status;
}

/// Reports that the daemon is stopping.
pub(super) fn stopping() {
    #[cfg(target_os = "linux")]
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// The watchdog, which restarts a daemon that stops sending keep-alives.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// The watchdog of the unit: a keep-alive twice in the time of `WatchdogSec`,
    /// if that is set.
    pub(super) fn new() -> Self {
        #[cfg(target_os = "linux")]
        let limit = sd_notify::watchdog_enabled();
        #[cfg(not(target_os = "linux"))]
        let limit: Option<Duration> = None;
        Self(limit.filter(|limit| !limit.is_zero()).map(|limit| {
            let mut ticks = interval(limit / 2);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    /// Sends a keep-alive when it is due; never completes without a watchdog.
    pub(super) async fn tick(&mut self) {
        let Some(ticks) = &mut self.0 else { return std::future::pending().await };
        ticks.tick().await;
        #[cfg(target_os = "linux")]
        notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

#[cfg(target_os = "linux")]
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
