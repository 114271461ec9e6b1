//! What systemd is told. Everywhere else, and without `NOTIFY_SOCKET`, nothing.

use std::time::Duration;

/// The daemon is ready, and what it does.
pub(super) fn ready(status: &str) {
    #[cfg(target_os = "linux")]
    tell(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&crate::model::text::escaped(status)),
    ]);
    let _ = status;
}

/// What the daemon does.
pub(super) fn status(status: &str) {
    #[cfg(target_os = "linux")]
    // A line feed would begin another variable of the message.
    tell(&[sd_notify::NotifyState::Status(&crate::model::text::escaped(status))]);
    let _ = status;
}

/// The daemon ends.
pub(super) fn stopping() {
    #[cfg(target_os = "linux")]
    tell(&[sd_notify::NotifyState::Stopping]);
}

/// The loop still goes round.
pub(super) fn alive() {
    #[cfg(target_os = "linux")]
    tell(&[sd_notify::NotifyState::Watchdog]);
}

/// How often to say so: twice in the time that `WatchdogSec` gives, if it is
/// set.
pub(super) fn watchdog() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    let limit = sd_notify::watchdog_enabled();
    #[cfg(not(target_os = "linux"))]
    let limit: Option<Duration> = None;
    limit.filter(|limit| !limit.is_zero()).map(|limit| limit / 2)
}

#[cfg(target_os = "linux")]
fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
