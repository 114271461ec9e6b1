//! What goes into the machine and what comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::model::SettledEvents;
use crate::model::{
    CleanSyncReason, ErrorRecord, MachineId, RejectedRule, RuleSet, SettingChange, Settings, Stage,
    StageRecord, SyncResult, SyncType, SyncWarning, Timestamp, Trigger, UploadMemory,
};
use crate::protocol::body::EncodedBody;
use crate::protocol::events::EventBatch;
use crate::protocol::preflight::PreflightFacts;
use crate::protocol::rules::Page;
use crate::protocol::wire;

/// What the machine must know before a sync begins.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own effect")]
pub struct Inputs {
    /// The id the server knows this host by.
    pub machine_id: MachineId,
    /// Where rules are downloaded from, as it may be shown.
    pub rules_url: String,
    /// The facts that preflight reports.
    pub facts: PreflightFacts,
    /// The type of clean sync requested; NORMAL if there is none.
    pub requested: SyncType,
    /// Why a clean sync is requested that a NORMAL one does not end; `None` if
    /// none is.
    pub clean_request: Option<CleanSyncReason>,
    /// An explicit `SyncEnableCleanSyncEventUpload = false`.
    pub hold_back_events_in_clean: bool,
    /// Events queued when the sync begins.
    pub events_pending: u64,
    /// What earlier syncs have learned about the size of batches.
    pub upload_memory: UploadMemory,
    /// The store has seen a complete rule download. Before that, its rules
    /// cannot justify a mode that blocks what no rule allows.
    pub rules_complete: bool,
    /// The settings in effect come from another server, or belong to another
    /// machine id, than this sync's.
    pub former_settings: bool,
    /// Upload events and do nothing else; `None` for a whole sync.
    pub events_only: Option<EventsOnly>,
    /// Change nothing, neither here nor there.
    pub dry_run: bool,
    /// Why the sync began.
    pub trigger: Trigger,
    /// How much waits vary, see [`crate::sync::retry::WaitSchedule::new`].
    pub jitter: f64,
    /// How long the whole sync may take.
    pub deadline: Duration,
    /// What was wrong with the stores when the sync began, for its record.
    pub warnings: Vec<SyncWarning>,
}

/// Why a sync only uploads events (RELAY-10), and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsOnly {
    /// When the authorizer asked for its settings last.
    pub authorizer_since: Timestamp,
    /// Events that a request may carry.
    pub batch_size: usize,
}

/// One logical exchange of a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum StageRequest {
    /// See [`Stage::Preflight`].
    Preflight(Box<wire::PreflightRequest>),
    /// See [`Stage::EventUpload`].
    EventUpload(EncodedBody),
    /// See [`Stage::RuleDownload`]; `page` counts from 1.
    RuleDownload {
        /// The message.
        message: wire::RuleDownloadRequest,
        /// Which page it requests.
        page: u32,
    },
    /// See [`Stage::Postflight`].
    Postflight(wire::PostflightRequest),
}

impl StageRequest {
    /// The stage it belongs to.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Preflight(_) => Stage::Preflight,
            Self::EventUpload(_) => Stage::EventUpload,
            Self::RuleDownload { .. } => Stage::RuleDownload,
            Self::Postflight(_) => Stage::Postflight,
        }
    }
}

/// The response to a request: status 200 and a complete body that was understood.
#[derive(Clone, Debug, PartialEq)]
pub enum StageResponse {
    /// To [`StageRequest::Preflight`].
    Preflight(Box<wire::PreflightResponse>),
    /// To [`StageRequest::EventUpload`].
    EventUpload(wire::EventUploadResponse),
    /// To [`StageRequest::RuleDownload`].
    RuleDownload(Page),
    /// To [`StageRequest::Postflight`].
    Postflight,
}

/// What an attempt moved over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// The status, if a response arrived.
    pub http_status: Option<u16>,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Body bytes received.
    pub bytes_received: u64,
    /// The body may be too large for the way to the server: its upload timed
    /// out, or the connection broke under it.
    pub upload_unfinished: bool,
}

/// What a commit of rules did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Committed {
    /// Rules the store accepted.
    pub processed: u64,
    /// Rules that the cleanup deleted.
    pub removed: u64,
    /// Transitive rules that the cleanup kept.
    pub kept_transitive: u64,
    /// The store's hash afterwards.
    pub rules_hash: String,
}

/// What came of an attempt, a wait or a token request.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptResult {
    /// The attempt succeeded.
    Answered(StageResponse, Traffic),
    /// The attempt failed.
    Failed(Failure, Traffic),
    /// The wait is over.
    Waited,
    /// The token request is over: whether its status was 200.
    TokenFetched(bool),
    /// The sync is to end: asked to stop, or past its deadline.
    Stopped {
        /// Why.
        failure: Failure,
        /// An attempt of the request has been made, if only in part.
        begun: bool,
    },
}

/// What happened. Times come beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncEvent {
    /// The sync begins.
    Started,
    /// Something came of a request under way.
    Attempt(AttemptResult),
    /// The settings are staged on disk.
    SettingsStaged,
    /// A batch was read; an empty one means that nothing is queued.
    EventsRead(Box<EventBatch>),
    /// The batch's rows have been seen to.
    EventsSettled,
    /// The refusal of a batch has been noted.
    RefusalNoted {
        /// The batch was one event, which has been set aside.
        set_aside: bool,
    },
    /// What was learned about the size of batches has been noted.
    UploadsNoted,
    /// The rules are committed, or in a dry run, compared.
    RulesCommitted(Committed),
    /// The settings are in effect: what they changed.
    SettingsApplied(Vec<SettingChange>),
    /// The staged settings are gone: what they would have changed.
    StagedDropped(Vec<SettingChange>),
    /// The last store effect failed.
    StoreFailed(Failure),
}

/// The one next thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make an attempt of a request.
    Send {
        /// The request; the same one for each of its attempts.
        request: Arc<StageRequest>,
        /// Which attempt this is, from 1.
        attempt: u32,
    },
    /// Drop any token held and fetch another.
    FetchToken {
        /// The stage that needs it.
        stage: Stage,
    },
    /// Wait before the next attempt.
    Wait {
        /// How long.
        duration: Duration,
        /// The stage that waits.
        stage: Stage,
        /// The attempt that follows.
        next_attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// Have a store do something, in one finished transaction.
    Store(StoreEffect),
    /// The sync is over.
    Finish(Box<SyncOutcome>),
}

/// What a store is to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreEffect {
    /// Put the settings on disk, not in effect.
    StageSettings {
        /// What the server set.
        settings: Box<Settings>,
        /// The type of sync in its response.
        answered: SyncType,
    },
    /// Read the oldest queued events.
    ReadEvents {
        /// At most this many.
        limit: usize,
    },
    /// See to the rows of the last batch.
    SettleEvents(SettledEvents),
    /// The server refused a batch permanently: remember it for the next sync,
    /// and set a single event aside that has been refused often enough.
    NoteRefusal {
        /// The rows of the batch.
        ids: Vec<i64>,
        /// The server's message.
        words: String,
        /// A single event is set aside at once, because it is too large.
        at_once: bool,
        /// What to remember besides.
        memory: UploadMemory,
    },
    /// Remember what was learned about the size of batches.
    NoteUploads(UploadMemory),
    /// Commit the rules in one transaction; in a dry run, compare them only.
    CommitRules {
        /// In the order received.
        rules: Box<RuleSet>,
        /// What to delete first.
        sync_type: SyncType,
    },
    /// Put the staged settings in effect.
    ApplySettings {
        /// Forget what the server gave before.
        clear: bool,
        /// The type of the sync, if it was a success: ends a clean-sync request.
        succeeded: Option<SyncType>,
    },
    /// Throw the staged settings away.
    DropStaged,
}

/// What became of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOutcome {
    /// How it ended.
    pub result: SyncResult,
    /// What ended it early.
    pub error: Option<ErrorRecord>,
    /// The type done, if preflight got that far.
    pub sync_type: Option<SyncType>,
    /// The stages that made a request.
    pub stages: Vec<StageRecord>,
    /// What the stages moved.
    pub tally: SyncTally,
    /// Settings that took effect; in a dry run, that would.
    pub settings_applied: Vec<SettingChange>,
    /// Settings that were received and dropped.
    pub settings_reverted: Vec<SettingChange>,
    /// What else an operator should know about the sync.
    pub warnings: Vec<SyncWarning>,
}

/// Counts of what a sync moved.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SyncTally {
    /// Events the server took.
    pub events_uploaded: u64,
    /// Events dropped for want of a wire form, by kind.
    pub events_dropped: BTreeMap<String, u64>,
    /// Events set aside.
    pub events_rejected: u64,
    /// Rules the server sent.
    pub rules_received: u64,
    /// How many of them were rejected.
    pub rules_rejected_total: u64,
    /// The first of those.
    pub rules_rejected: Vec<RejectedRule>,
    /// What the commit did.
    pub committed: Committed,
}
