//! The files that the daemon writes for others: its status and its metrics.

use std::io;
use std::path::Path;

use tracing::warn;

use super::EventLoop;
use crate::clock::Clock as _;
use crate::control::moment::{Boot, Stamp};
use crate::control::status::{self, Activity, DaemonStatus};
use crate::daemon::sync_process::parent::{MAX_QUEUE_WAIT, SyncPhase};
use crate::daemon::{metrics, systemd};

impl EventLoop {
    pub(super) fn status(&self, otherwise: Activity) -> DaemonStatus {
        let now = self.alarm.now();
        let left = self.schedule.left(now).filter(|_| otherwise != Activity::Stopped);
        let running = self.running.as_ref();
        let doing = match running.map(|running| running.phase) {
            None => otherwise,
            Some(SyncPhase::InLine) => Activity::Waiting,
            Some(SyncPhase::Starting | SyncPhase::Begun) => Activity::Syncing,
        };
        let limit = running.map(|running| match running.phase {
            SyncPhase::InLine => MAX_QUEUE_WAIT,
            SyncPhase::Starting | SyncPhase::Begun => running.limit,
        });
        let written = self.stamp();
        let boot = self.boot_id.clone().map(|id| Boot {
            id,
            started: self.started_stamp,
            written,
            sync_began: running.map(|running| running.stamp),
            next_sync: left.map(|left| written.after(left)),
        });
        DaemonStatus {
            schema_version: status::SCHEMA_VERSION,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started.wall,
            beat_at: now.wall,
            doing,
            sync_began_at: running.map(|running| running.began.wall),
            sync_waiting: self.schedule.is_asked(),
            next_sync_at: left.map(|left| now.wall.after(left)),
            next_sync_why: left.and(self.schedule.why()),
            full_sync_interval: self.schedule.interval().as_secs(),
            failures_in_a_row: self.schedule.failures(),
            back_off: self.schedule.back_off().map(|wait| wait.as_secs()),
            syncs: self.syncs,
            last_sync: self.last_sync.clone(),
            last_success: self.summary.as_ref().and_then(|summary| summary.last_success),
            last_panic: self.last_panic.clone(),
            last_hang: self.last_hang.clone(),
            prompt_upload: self.prompt_upload.clone(),
            relay: self.relay_status(),
            configuration_refused: self.refused.clone(),
            configuration: self.configuration.clone(),
            log_level: self.level.name().to_owned(),
            sync_limit: limit.map(|limit| limit.as_secs()),
            boot,
        }
    }

    /// The stamp of now. The machine's own time, whatever the daemon's rate.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp::now(self.options.clock.now())
    }

    /// Tells the service manager what the daemon does.
    pub(super) fn notify(&mut self, doing: &'static str) {
        self.notified = doing;
        let refused = match self.refused {
            Some(_) => "; a new configuration is refused, the previous one stays in effect",
            None => "",
        };
        systemd::status(&format!("{doing}{refused}"));
    }

    /// Writes the status file.
    pub(super) fn publish(&mut self) {
        if !self.instance_lock.holds(&self.state_dir) {
            // The file there may be another daemon's.
            return;
        }
        let status = self.status(Activity::Idle);
        self.written(&self.state_dir.join(status::STATUS_FILE), status.write(&self.state_dir));
    }

    pub(super) fn write_metrics(&mut self) {
        if let Some(path) = self.loaded.config.metrics_file.clone() {
            let text = self.counters.render(&self.status(Activity::Idle), self.summary.as_deref());
            self.written(&path, metrics::write(&path, &text));
        }
    }

    /// Logs that a file cannot be written, once until it can be written again.
    fn written(&mut self, path: &Path, result: io::Result<()>) {
        let known = self.unwritable.iter().position(|p| p == path);
        match (result, known) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some(at)) => {
                self.unwritable.swap_remove(at);
            }
            (Err(error), None) => {
                warn!(path = %path.display(), %error, "cannot write a file; syncs continue");
                self.unwritable.push(path.to_owned());
            }
        }
    }
}
