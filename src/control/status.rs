//! The status of the daemon, as the control socket reports it and as `daemon.json`
//! holds it, even after the daemon has ended.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::configuration::ConfigurationReport;
use super::moment::{Boot, Moment};
use super::relay::RelayStatus;
use crate::files::{self, Replacement};
use crate::model::{SyncReason, SyncRecord, SyncResult, Timestamp, Trigger};
use crate::sync::upload::UploadReport;

/// The file in the state directory.
pub const STATUS_FILE: &str = "daemon.json";

/// The longest status read, in bytes.
const MAX_STATUS_BYTES: u64 = 4 << 20;

/// The version of the form.
pub const SCHEMA_VERSION: u32 = 1;

/// How much later than it says a healthy daemon may begin a sync, in time that
/// the machine is awake.
const OVERDUE_GRACE: Duration = Duration::from_mins(2);

/// What the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It waits for the next sync.
    Idle,
    /// A sync runs.
    Syncing,
    /// A sync is to run, and waits for one of another process to end.
    Waiting,
    /// It has stopped cleanly.
    Stopped,
}

/// The status of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its process id.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When this was written. It is written whenever something changes.
    pub beat_at: Timestamp,
    /// What it does.
    pub doing: Activity,
    /// When the sync that runs began, or began to wait.
    pub sync_began_at: Option<Timestamp>,
    /// Whether another sync has been requested.
    pub sync_waiting: bool,
    /// When the next sync begins; `None` while one runs.
    pub next_sync_at: Option<Timestamp>,
    /// Why it begins then.
    #[serde(default)]
    pub next_sync_why: Option<SyncReason>,
    /// Seconds between syncs that succeed.
    pub full_sync_interval: u64,
    /// Syncs that failed in a row.
    pub failures_in_a_row: u32,
    /// The wait that stands in for the interval after failures, in seconds.
    pub back_off: Option<u64>,
    /// Syncs since the start.
    pub syncs: u64,
    /// The last sync that ended.
    pub last_sync: Option<LastSync>,
    /// When a sync last succeeded, as far as this daemon has heard.
    #[serde(default)]
    pub last_success: Option<Timestamp>,
    /// The last sync whose process panicked or died.
    pub last_panic: Option<Incident>,
    /// The last sync that did not end by itself.
    pub last_hang: Option<Incident>,
    /// The last upload between syncs.
    #[serde(default)]
    pub prompt_upload: Option<PromptUpload>,
    /// How the relay stands; `None` without one.
    #[serde(default)]
    pub relay: Option<RelayStatus>,
    /// Why the configuration on disk is not the one in effect.
    pub configuration_refused: Option<String>,
    /// The configuration in effect, as the daemon saw it when it last read it.
    #[serde(default)]
    pub configuration: ConfigurationReport,
    /// Least severe log lines.
    pub log_level: String,
    /// How long the sync that runs may take, or wait, in seconds.
    #[serde(default)]
    pub sync_limit: Option<u64>,
    /// The same times by clocks that cannot be set; `None` if the boot has no
    /// name.
    #[serde(default)]
    pub boot: Option<Boot>,
}

/// An upload between syncs (EV-10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptUpload {
    /// When it ended.
    pub at: Timestamp,
    /// What came of it.
    #[serde(flatten)]
    pub report: UploadReport,
}

/// A sync that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSync {
    /// Its id; empty if it could not begin.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// What it was started by.
    pub trigger: Trigger,
    /// How it ended.
    pub result: SyncResult,
    /// What ended it early.
    pub error: Option<String>,
}

impl LastSync {
    /// The summary of a record.
    #[must_use]
    pub fn of(record: &SyncRecord) -> Self {
        Self {
            id: record.id.clone(),
            at: record.started_at,
            trigger: record.trigger,
            result: record.result,
            error: record.error.as_ref().map(ToString::to_string),
        }
    }
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// When.
    pub at: Timestamp,
    /// What.
    pub message: String,
}

/// Whether the daemon is alive, judged by its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Its process is alive and its next sync is not overdue.
    Alive,
    /// Its process is alive, but what it announced is overdue.
    Stuck,
    /// It stopped cleanly.
    Stopped,
    /// Its process ended without saying so.
    Dead,
}

impl DaemonStatus {
    /// Judges at a moment; `process` is whether a daemon holds the state
    /// directory, and `sync_deadline` how long a sync may take if the status
    /// does not say. By the wall clock only if there is nothing better.
    #[must_use]
    pub fn liveness(&self, process: bool, seen: &Moment, sync_deadline: Duration) -> Liveness {
        if !process {
            return if self.doing == Activity::Stopped {
                Liveness::Stopped
            } else {
                Liveness::Dead
            };
        }
        let limit = self.sync_limit.map_or(sync_deadline, Duration::from_secs);
        let by_boot = self.boot.as_ref().and_then(|boot| Some((boot, boot.is_of(seen)?)));
        let overdue = match by_boot {
            Some((boot, true)) => boot.overdue(seen, limit),
            // The daemon that runs has not written a status yet.
            Some((_, false)) => Duration::ZERO,
            None => match (self.next_sync_at, self.sync_began_at) {
                (Some(next), _) => seen.now.wall.since(next),
                (None, Some(began)) => seen.now.wall.since(began).saturating_sub(limit),
                (None, None) => Duration::ZERO,
            },
        };
        if overdue > OVERDUE_GRACE { Liveness::Stuck } else { Liveness::Alive }
    }

    /// How long the daemon has been running.
    #[must_use]
    pub fn uptime(&self, seen: &Moment) -> Duration {
        let by_boot = self.this_boot(seen).map(|boot| boot.uptime(seen));
        by_boot.unwrap_or_else(|| seen.now.wall.since(self.started_at))
    }

    /// How long ago the status was written.
    #[must_use]
    pub fn age(&self, seen: &Moment) -> Duration {
        let by_boot = self.this_boot(seen).map(|boot| boot.age(seen));
        by_boot.unwrap_or_else(|| seen.now.wall.since(self.beat_at))
    }

    /// The stamps, if they are of the boot that `seen` is of.
    fn this_boot(&self, seen: &Moment) -> Option<&Boot> {
        self.boot.as_ref().filter(|boot| boot.is_of(seen) == Some(true))
    }

    /// Replaces the file atomically. It is not synced to disk: after a power cut there
    /// is no daemon to report.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let mut text = Vec::new();
        crate::model::text::write_json_pretty(&mut text, self)?;
        let how = Replacement { mode: 0o600, durable: false };
        Ok(files::replace(&state_dir.join(STATUS_FILE), &text, how)?)
    }

    /// The last status on a state directory, if there is one to be read.
    #[must_use]
    pub fn read(state_dir: &Path) -> Option<Self> {
        let text = files::read_own(&state_dir.join(STATUS_FILE), MAX_STATUS_BYTES).ok()??;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
pub(crate) fn example() -> DaemonStatus {
    let at = Timestamp::from_secs(1_800_000_000);
    DaemonStatus {
        schema_version: SCHEMA_VERSION,
        pid: 42,
        version: "0.1.0".to_owned(),
        started_at: at,
        beat_at: at,
        doing: Activity::Idle,
        sync_began_at: None,
        sync_waiting: false,
        next_sync_at: Some(at.after(Duration::from_mins(10))),
        next_sync_why: Some(SyncReason::Interval),
        full_sync_interval: 600,
        failures_in_a_row: 0,
        back_off: None,
        syncs: 0,
        last_sync: None,
        last_success: None,
        last_panic: None,
        last_hang: None,
        prompt_upload: None,
        relay: None,
        configuration_refused: None,
        configuration: ConfigurationReport::default(),
        log_level: "info".to_owned(),
        sync_limit: None,
        boot: None,
    }
}

#[cfg(test)]
mod tests;
