//! The record a sync leaves behind: what `status`, `history` and `sync --json`
//! show.

mod bounds;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use bounds::{MAX_RECORD_BYTES, MAX_RECORD_TEXT_BYTES};

use super::text::joined;

use super::{SettingChange, Stage, SyncType, Timestamp, text};

/// The version of every `--json` form in this module.
pub const SCHEMA_VERSION: u32 = 1;

/// How a sync ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SyncResult {
    /// All four stages went through.
    Success,
    /// The preflight request failed permanently.
    PreflightFailed,
    /// An event upload request failed permanently.
    EventUploadFailed,
    /// A rule download request failed permanently, or the rules could not be
    /// committed.
    RuleDownloadFailed,
    /// The postflight request failed permanently; the settings were applied.
    PostflightFailed,
    /// Events were uploaded and nothing else was done: the authorizer that the relay
    /// serves has not asked for its settings for longer than `RelayStale` (RELAY-10).
    AuthorizerStale,
    /// One sync runs and another waits already.
    TooManySyncs,
    /// There is no base URL, or none that may be used.
    MissingSyncBaseUrl,
    /// There is no machine id.
    MissingMachineId,
    /// The daemon did not answer.
    DaemonNotReachable,
    /// The state directory or a database cannot be used.
    StateUnusable,
    /// The configuration cannot be used.
    BadConfiguration,
    /// A fault of this program.
    InternalError,
}

impl SyncResult {
    /// The process exit code, as the existing client's users know it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Success => 0,
            // No preflight was made, and the rules may be old.
            Self::PreflightFailed | Self::AuthorizerStale => 1,
            Self::EventUploadFailed => 2,
            Self::RuleDownloadFailed => 3,
            Self::PostflightFailed => 4,
            Self::TooManySyncs => 5,
            Self::MissingSyncBaseUrl => 6,
            Self::MissingMachineId => 7,
            Self::DaemonNotReachable => 69,
            Self::InternalError => 70,
            Self::StateUnusable => 73,
            Self::BadConfiguration => 78,
        }
    }

    /// The name in `--json` and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The result of a sync in which a stage failed.
    #[must_use]
    pub const fn of_failed(stage: Stage) -> Self {
        match stage {
            Stage::Preflight => Self::PreflightFailed,
            Stage::EventUpload => Self::EventUploadFailed,
            Stage::RuleDownload => Self::RuleDownloadFailed,
            Stage::Postflight => Self::PostflightFailed,
        }
    }
}

/// What a sync was started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The schedule.
    Timer,
    /// The `sync` command.
    Manual,
    /// A signal or a request to the daemon.
    Trigger,
}

/// Why a sync begins when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncReason {
    /// It is the first one.
    Start,
    /// The interval has passed.
    Interval,
    /// The wait after a failure has passed.
    BackOff,
    /// The network has changed since the last sync failed.
    Network,
    /// It was requested.
    Asked,
}

impl SyncReason {
    /// What the record of a sync that begins for this reason says; of one that was
    /// requested, unless the `sync` command requested it.
    #[must_use]
    pub const fn trigger(self) -> Trigger {
        match self {
            Self::Start | Self::Interval | Self::BackOff => Trigger::Timer,
            Self::Network | Self::Asked => Trigger::Trigger,
        }
    }
}

/// What one stage cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Which stage.
    pub stage: Stage,
    /// Logical exchanges.
    pub requests: u32,
    /// HTTP tries of them.
    pub attempts: u32,
    /// Time spent, waits included.
    pub duration_ms: u64,
    /// The last status seen; `None` if no response came.
    pub http_status: Option<u16>,
    /// Body bytes sent, as they went over the wire.
    pub bytes_sent: u64,
    /// Body bytes received, as they came over the wire.
    pub bytes_received: u64,
}

/// A downloaded rule that the store did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRule {
    /// The page it came on, from 1.
    pub page: u32,
    /// Its place on the page, from 0.
    pub index: u32,
    /// Its identifier as it came, cut to 128 characters.
    pub identifier: String,
    /// Why it was rejected.
    pub reason: String,
}

/// The error that ended a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// The stage it happened in; empty if it was before the first.
    pub stage: String,
    /// One word for the cause.
    pub kind: String,
    /// What happened and where.
    pub message: String,
    /// What an operator can do; `None` if nothing is known.
    #[serde(default)]
    pub fix: Option<String>,
    /// The status of the response, if there was one.
    pub http_status: Option<u16>,
    /// What the sync was waiting to repeat when it was stopped or ran out of
    /// time: the last attempt's error. `None` for every other error.
    #[serde(default)]
    pub cause: Option<Box<ErrorRecord>>,
}

/// The message, what to do, and in brackets the cause of a stop.
impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.message, self.fix.as_deref()))?;
        f.write_str(&self.cause_in_brackets())
    }
}

impl ErrorRecord {
    /// An error outside any stage.
    #[must_use]
    pub fn outside_stages(kind: &str, message: String, fix: Option<String>) -> Self {
        let (stage, kind) = (String::new(), kind.to_owned());
        Self { stage, kind, message, fix, http_status: None, cause: None }
    }

    /// The error on one line: `stage: message [kind]`.
    #[must_use]
    pub fn line(&self) -> String {
        let place = if self.stage.is_empty() { "" } else { ": " };
        format!("{}{place}{self} [{}]", self.stage, self.kind)
    }

    /// The cause as text that follows the message; empty without one.
    #[must_use]
    pub fn cause_in_brackets(&self) -> String {
        self.cause.as_ref().map_or_else(String::new, |cause| {
            format!(" (the attempt before that failed: {} [{}])", cause.message, cause.kind)
        })
    }
}

/// Something that did not stop a sync and that an operator should know: part of
/// a response that was read as absent or zero because it could not be read or
/// was unknown, or a file of this host that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncWarning {
    /// The stage it belongs to.
    pub stage: Stage,
    /// The field of the response, as a path
    /// (`removable_media_policy.remount.flags`), or the file.
    pub field: String,
    /// The value as sent, or the error; cut to 64 characters.
    pub value: String,
    /// What was done, for people: `unknown value; treated as absent`.
    pub action: String,
}

/// `stage: field = value: action`, without what is empty.
impl fmt::Display for SyncWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, field, value, action } = self;
        write!(f, "{stage}: ")?;
        match (field.is_empty(), value.is_empty()) {
            (true, _) => f.write_str(action),
            (false, true) => write!(f, "{field}: {action}"),
            (false, false) => write!(f, "{field} = {value}: {action}"),
        }
    }
}

impl SyncWarning {
    /// How many characters of the value are kept.
    pub const MAX_VALUE_CHARS: usize = 64;

    /// A warning; the value is cut and made safe to show.
    #[must_use]
    pub fn new(stage: Stage, field: &str, value: &str, action: impl Into<String>) -> Self {
        Self {
            stage,
            field: field.to_owned(),
            value: text::escaped_start(value, Self::MAX_VALUE_CHARS),
            action: action.into(),
        }
    }
}

/// What became of one sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Names the sync in logs: hex digits, unlike any other sync's of this host.
    pub id: String,
    /// How it ended.
    pub result: SyncResult,
    /// The exit code of that result.
    pub exit_code: u8,
    /// What it was started by.
    pub trigger: Trigger,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// The type done; `None` if preflight did not get that far.
    pub sync_type: Option<SyncType>,
    /// The type requested.
    pub requested_sync_type: SyncType,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// The stages that made a request, in order.
    pub stages: Vec<StageRecord>,
    /// Events the server took.
    pub events_uploaded: u64,
    /// Events still queued at the end.
    pub events_pending: u64,
    /// Events dropped from the queue because no wire form exists, by kind.
    pub events_dropped: BTreeMap<String, u64>,
    /// Events set aside during this sync.
    pub events_rejected: u64,
    /// Rules the server sent.
    pub rules_received: u64,
    /// Rules the store accepted.
    pub rules_processed: u64,
    /// Rules deleted by a clean sync before the new ones were applied.
    pub rules_removed: u64,
    /// Transitive rules a clean sync kept.
    pub rules_kept_transitive: u64,
    /// How many rules were rejected.
    pub rules_rejected_total: u64,
    /// The first 100 of them.
    pub rules_rejected: Vec<RejectedRule>,
    /// The store's hash at the end; empty if it was not read.
    pub rules_hash: String,
    /// Settings that took effect.
    pub settings_applied: Vec<SettingChange>,
    /// Settings that were received, but dropped because the sync failed.
    pub settings_reverted: Vec<SettingChange>,
    /// What was odd in the server's responses and how it was read.
    #[serde(default)]
    pub warnings: Vec<SyncWarning>,
    /// What ended the sync early, if anything did.
    pub error: Option<ErrorRecord>,
    /// How many entries of which list are missing, because the record would
    /// have been too large with them; see [`Self::bounded`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
}

impl SyncRecord {
    /// The record of a sync that has only begun: its result reads as an
    /// internal error until it has ended.
    #[must_use]
    pub fn begun(id: String, trigger: Trigger, started_at: Timestamp, requested: SyncType) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            result: SyncResult::InternalError,
            exit_code: SyncResult::InternalError.exit_code(),
            trigger,
            started_at,
            duration_ms: 0,
            sync_type: None,
            requested_sync_type: requested,
            dry_run: false,
            stages: Vec::new(),
            events_uploaded: 0,
            events_pending: 0,
            events_dropped: BTreeMap::new(),
            events_rejected: 0,
            rules_received: 0,
            rules_processed: 0,
            rules_removed: 0,
            rules_kept_transitive: 0,
            rules_rejected_total: 0,
            rules_rejected: Vec::new(),
            rules_hash: String::new(),
            settings_applied: Vec::new(),
            settings_reverted: Vec::new(),
            warnings: Vec::new(),
            error: None,
            left_out: BTreeMap::new(),
        }
    }

    /// The record of a sync that could not begin.
    #[must_use]
    pub fn not_begun(
        result: SyncResult,
        message: String,
        fix: Option<String>,
        trigger: Trigger,
        at: Timestamp,
        requested: SyncType,
    ) -> Self {
        let error = ErrorRecord::outside_stages(result.name(), message, fix);
        Self {
            result,
            exit_code: result.exit_code(),
            error: Some(error),
            ..Self::begun(String::new(), trigger, at, requested)
        }
        .bounded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-7: an error before the first stage, and warnings without a field or a
    /// value, make whole lines.
    #[test]
    fn sync_7_errors_and_warnings_are_lines_without_gaps() {
        let error = |stage: &str| ErrorRecord {
            stage: stage.to_owned(),
            kind: "store".to_owned(),
            message: "disk full".to_owned(),
            fix: None,
            http_status: None,
            cause: None,
        };
        assert_eq!(error("preflight").line(), "preflight: disk full [store]");
        assert_eq!(error("").line(), "disk full [store]");
        let warning = |field, value| SyncWarning::new(Stage::Preflight, field, value, "ignored");
        assert_eq!(warning("a.b", "7").to_string(), "preflight: a.b = 7: ignored");
        assert_eq!(warning("a.b", "").to_string(), "preflight: a.b: ignored");
        assert_eq!(warning("", "").to_string(), "preflight: ignored");
    }
}
