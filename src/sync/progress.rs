//! What a sync reports to its observer: a terminal, a log, a test.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{Effect, StoreEffect};
use crate::failure::{Failure, Remedy as _};
use crate::model::{RejectedRule, SettingChange, Stage, SyncRecord, SyncType};
use crate::store::{RulesCommitted, RulesPreview};

/// Something that happened in a sync.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncProgress<'a> {
    /// Another sync, or an import of rules, is in the way.
    InLine {
        /// Its process, if it is known.
        behind: Option<u32>,
    },
    /// The state directory is this sync's.
    Begun,
    /// An attempt is about to be made.
    Attempt {
        /// Its stage.
        stage: Stage,
        /// Which attempt of the request, from 1.
        attempt: u32,
    },
    /// The sync waits before it repeats a request.
    Waiting {
        /// The stage.
        stage: Stage,
        /// How long.
        duration: Duration,
        /// The attempt that follows.
        next_attempt: u32,
        /// Why.
        failure: &'a Failure,
    },
    /// Preflight is over: what kind of sync this is.
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
        /// Those of this page that were rejected.
        rejected: &'a [RejectedRule],
    },
    /// Rules are being committed.
    Committing {
        /// How many.
        rules: u64,
    },
    /// Rules were committed.
    Committed(&'a RulesCommitted),
    /// A dry run compared the rules.
    Compared(&'a RulesPreview),
    /// Settings took effect; in a dry run, would.
    Applied(&'a [SettingChange]),
    /// Settings were dropped.
    Reverted(&'a [SettingChange]),
    /// The sync is over.
    Ended(&'a SyncRecord),
    /// A step of a sync that the daemon makes.
    Relayed(&'a SyncStep),
}

/// A step of a sync, as it is reported to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum SyncStep {
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

impl SyncStep {
    /// The step that corresponds to a progress; `None` if clients do not get it.
    #[must_use]
    pub fn of(progress: &SyncProgress<'_>) -> Option<Self> {
        Some(match progress {
            SyncProgress::Attempt { stage, attempt } => {
                Self::Attempt { stage: *stage, attempt: *attempt }
            }
            SyncProgress::Waiting { stage, duration, next_attempt, failure } => Self::Retry {
                stage: *stage,
                wait_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                next_attempt: *next_attempt,
                message: failure.with_fix(),
            },
            SyncProgress::Negotiated { sync_type } => Self::Negotiated { sync_type: *sync_type },
            SyncProgress::Uploaded { total, of } => Self::Uploaded { total: *total, of: *of },
            SyncProgress::Page { page, rules, .. } => Self::Page { page: *page, rules: *rules },
            SyncProgress::Committing { rules } => Self::Committing { rules: *rules },
            SyncProgress::Committed(committed) => Self::Committed {
                added: committed.added,
                replaced: committed.replaced,
                removed: committed.removed_by_rule + committed.removed_by_cleanup,
                kept_transitive: committed.kept_transitive,
            },
            SyncProgress::Relayed(step) => (*step).clone(),
            SyncProgress::InLine { .. }
            | SyncProgress::Begun
            | SyncProgress::Compared(_)
            | SyncProgress::Applied(_)
            | SyncProgress::Reverted(_)
            | SyncProgress::Ended(_) => return None,
        })
    }
}

/// Whether an effect is about to be carried out or has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// About to be.
    Before,
    /// Has been, and is on disk if it changes a store.
    After,
}

/// Observes a sync. Every method may do nothing.
pub trait Observer {
    /// Something happened.
    fn progress(&mut self, progress: &SyncProgress<'_>);

    /// Called before and after each effect, with its name: the places
    /// where a crash must leave the old or the new state and never a mix.
    fn checkpoint(&mut self, when: When, effect: &'static str) {
        let _ = (when, effect);
    }
}

/// An observer that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: &SyncProgress<'_>) {}
}

/// The name of an effect at a checkpoint.
pub(super) const fn checkpoint_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Send { .. } => "send",
        Effect::FetchToken { .. } => "fetch_token",
        Effect::Wait { .. } => "wait",
        Effect::Store(StoreEffect::StageSettings { .. }) => "stage_settings",
        Effect::Store(StoreEffect::ReadEvents { .. }) => "read_events",
        Effect::Store(StoreEffect::SettleEvents(_)) => "settle_events",
        Effect::Store(StoreEffect::NoteRefusal { .. }) => "note_refusal",
        Effect::Store(StoreEffect::NoteUploads(_)) => "note_uploads",
        Effect::Store(StoreEffect::CommitRules { .. }) => "commit_rules",
        Effect::Store(StoreEffect::ApplySettings { .. }) => "apply_settings",
        Effect::Store(StoreEffect::DropStaged) => "drop_staged",
        Effect::Finish(_) => "finish",
    }
}
