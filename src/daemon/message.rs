//! What is said on the control socket and between the daemon and the process
//! of a sync: one JSON object a line. The README documents the socket's part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::beat::Beat;
use super::decision::Decision;
use crate::model::{RuleCounts, Stage, SyncRecord, SyncType, Timestamp, Trigger};
use crate::store::BundleRequest;
use crate::sync::progress::Progress;
use crate::sync::upload::Report;

/// The longest line either side takes, in bytes. An event with its signing
/// chain has about 10 KiB.
pub const MAX_LINE: usize = 256 * 1024;

/// What a client asks. One request at a time on a connection; the answers to
/// one end with a line that is not [`Answer::Progress`], [`Answer::Waiting`]
/// or, of a subscription, at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How the daemon stands.
    Status,
    /// A sync, now.
    Sync(Sync),
    /// Events for the queue, each in the form that `events add` reads.
    EventsAdd {
        /// The events.
        events: Vec<serde_json::Value>,
    },
    /// Something that was denied has been queued by another process: the daemon
    /// uploads what waits soon (EV-10).
    UploadEvents,
    /// Which rule decides about an executable.
    RulesLookup(Lookup),
    /// The bundles whose executables the server waits for.
    BundleRequests,
    /// What happens from here on, until the client closes.
    Subscribe,
    /// The metrics, in the Prometheus text format.
    Metrics,
    /// Another level of the daemon's log lines, until it ends.
    LogLevel {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
    },
}

/// A sync that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// The clean sync to request: `CLEAN` or `CLEAN_ALL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<SyncType>,
    /// Whether a person asks, as the record tells it.
    pub manual: bool,
    /// Whether to wait for a sync that runs, instead of being one too many.
    pub wait: bool,
    /// Whether a sync that runs will do.
    pub attach: bool,
}

impl Default for Sync {
    fn default() -> Self {
        Self { clean: None, manual: false, wait: true, attach: false }
    }
}

/// What is known of an executable; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lookup {
    /// SHA-256 of the file.
    pub sha256: Option<String>,
    /// Code directory hash.
    pub cdhash: Option<String>,
    /// `TEAMID:name` or `platform:name`.
    pub signing_id: Option<String>,
    /// SHA-256 of the leaf certificate.
    pub cert_sha256: Option<String>,
    /// Developer team.
    pub team_id: Option<String>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// How the daemon stands.
    Status(Box<Beat>),
    /// A sync runs; the one asked for begins after it. Its progress follows.
    Waiting,
    /// Something happened in the sync.
    Progress(Step),
    /// The sync has ended; with a result that is not `success`, too.
    Synced {
        /// Its record.
        record: Box<SyncRecord>,
    },
    /// What became of each event, in their order. Those taken in are on disk.
    EventsAdded {
        /// One for each event.
        results: Vec<EventResult>,
    },
    /// Which rule decides.
    Rule(Box<Decision>),
    /// The open requests, oldest first.
    BundleRequests {
        /// The requests.
        bundles: Vec<Bundle>,
    },
    /// What happened will follow, a line for each.
    Subscribed,
    /// Users wait for this rule (RULE-10).
    Notification {
        /// The application's name.
        application: String,
        /// The identifier of the rule.
        identifier: String,
    },
    /// The client reads too slowly: that many lines were left out.
    Missed {
        /// How many.
        lines: u64,
    },
    /// The metrics.
    Metrics {
        /// In the Prometheus text format.
        text: String,
    },
    /// It is done.
    Done,
    /// It is not done.
    Error {
        /// One word for the cause.
        kind: ErrorKind,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Not a request.
    BadRequest,
    /// Not open to this user.
    Forbidden,
    /// Too many connections.
    Busy,
    /// A sync runs and another waits.
    TooManySyncs,
    /// The daemon ends.
    Stopping,
    /// A store cannot be used.
    Store,
    /// A fault of the daemon.
    Internal,
}

impl Answer {
    /// An error.
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Error { kind, message: message.into() }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum EventResult {
    /// It is queued.
    Added,
    /// An event of the same unique id waits already.
    Duplicate,
    /// An equal record of something allowed was taken in less than 4 h ago.
    BackedOff,
    /// The policy does not record it.
    Filtered,
    /// It is none.
    Rejected {
        /// Why.
        reason: String,
    },
}

/// A bundle the server asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Its hash.
    pub hash: String,
    /// When it was asked for first.
    pub since: Timestamp,
    /// How many executables it has; 0 while that is not known.
    pub executables: u32,
    /// How many of them the server took.
    pub delivered: u32,
}

impl From<BundleRequest> for Bundle {
    fn from(request: BundleRequest) -> Self {
        Self {
            hash: request.hash,
            since: request.since,
            executables: request.executables,
            delivered: request.delivered,
        }
    }
}

/// Something that happened in a sync, as it is told to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// An attempt is about to be made.
    Attempt {
        /// Its stage.
        stage: Stage,
        /// Which attempt of the request, from 1.
        attempt: u32,
    },
    /// The sync waits before it repeats a request.
    Retry {
        /// The stage.
        stage: Stage,
        /// How long.
        wait_ms: u64,
        /// The attempt that follows.
        next_attempt: u32,
        /// Why.
        message: String,
    },
    /// What kind of sync this is.
    Negotiated {
        /// The type.
        sync_type: SyncType,
    },
    /// Events went up.
    Uploaded {
        /// In this sync so far.
        total: u64,
        /// Queued when the sync began.
        of: u64,
    },
    /// A page of rules came.
    Page {
        /// Its number, from 1.
        page: u32,
        /// Rules received so far.
        rules: u64,
    },
    /// Rules are being committed.
    Committing {
        /// How many.
        rules: u64,
    },
    /// Rules were committed.
    Committed {
        /// Rules stored whose identifier and type had none.
        added: u64,
        /// Rules stored in the place of an older one.
        replaced: u64,
        /// Rules deleted.
        removed: u64,
        /// Transitive rules afterwards.
        kept_transitive: u64,
    },
}

impl Step {
    /// What to tell of progress, if anything.
    #[must_use]
    pub fn of(progress: &Progress<'_>) -> Option<Self> {
        Some(match progress {
            Progress::Attempt { stage, attempt } => {
                Self::Attempt { stage: *stage, attempt: *attempt }
            }
            Progress::Waiting { stage, duration, next_attempt, failure } => Self::Retry {
                stage: *stage,
                wait_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                next_attempt: *next_attempt,
                message: failure.to_string(),
            },
            Progress::Negotiated { sync_type } => Self::Negotiated { sync_type: *sync_type },
            Progress::Uploaded { total, of } => Self::Uploaded { total: *total, of: *of },
            Progress::Page { page, rules, .. } => Self::Page { page: *page, rules: *rules },
            Progress::Committing { rules } => Self::Committing { rules: *rules },
            Progress::Committed(committed) => Self::Committed {
                added: committed.added,
                replaced: committed.replaced,
                removed: committed.removed_by_rule + committed.removed_by_cleanup,
                kept_transitive: committed.kept_transitive,
            },
            Progress::InLine { .. }
            | Progress::Begun
            | Progress::Compared(_)
            | Progress::Applied(_)
            | Progress::Reverted(_)
            | Progress::Ended(_) => return None,
        })
    }
}

/// What the process of a sync tells the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// Something happened.
    Step(Step),
    /// Users wait for this rule.
    Notification {
        /// The application's name.
        application: String,
        /// The identifier of the rule.
        identifier: String,
    },
    /// It waits for a sync of another process to end.
    InLine {
        /// That process, if it is known.
        behind: Option<u32>,
    },
    /// It holds the state directory: the sync begins.
    Begun,
    /// The process panics.
    Panicked {
        /// The panic's words and place.
        message: String,
    },
    /// The upload has ended.
    Uploaded {
        /// What came of it.
        report: Report,
        /// How the stores stand, if they could be read.
        facts: Option<Box<Facts>>,
    },
    /// The sync has ended.
    Ended {
        /// Its record.
        record: Box<SyncRecord>,
        /// How the stores stand, if they could be read.
        facts: Option<Box<Facts>>,
    },
}

/// How the stores stand after a sync: what the daemon tells without opening
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The interval in force, in seconds; `None` if the server gave none.
    pub full_sync_interval: Option<u32>,
    /// When a sync last succeeded.
    pub last_success: Option<Timestamp>,
    /// The rules by type.
    pub rules: RuleCounts,
    /// Their hash.
    pub rules_hash: String,
    /// Events waiting to be sent.
    pub events_pending: u64,
    /// When the oldest of them came in.
    pub events_oldest: Option<Timestamp>,
    /// Events dropped because the queue was full.
    pub events_dropped: u64,
    /// Events dropped because the protocol cannot carry them, by kind.
    pub events_unsendable: BTreeMap<String, u64>,
    /// Events set aside.
    pub events_rejected: u64,
    /// When the client certificate expires.
    pub certificate_expires: Option<Timestamp>,
}

/// What a process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A sync.
    Sync(Errand),
    /// An upload of what waits in the event queue (EV-10).
    Upload,
}

/// The sync a process is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// What it was started by.
    pub trigger: Trigger,
    /// The clean sync to request.
    pub clean: Option<SyncType>,
}
