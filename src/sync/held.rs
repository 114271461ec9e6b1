//! What a sync holds in memory while it runs.

use std::sync::Arc;

use tracing::warn;

use super::machine::StageRequest;
use crate::clock;
use crate::failure::Remedy as _;
use crate::model::{SettingChange, Settings, Stage, SyncWarning};
use crate::protocol::body::EncodedBody;
use crate::protocol::cel::CelBudget;
use crate::store::{Horizon, StoreError};
use crate::transport::XsrfToken;

/// What the driver remembers between effects.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sync_id: String,
    pub(super) token: Option<XsrfToken>,
    /// The request under way and its body.
    pub(super) body: Option<(Arc<StageRequest>, EncodedBody)>,
    /// Settings a dry run has staged nowhere else.
    pub(super) staged: Settings,
    /// What the staged settings would change.
    pub(super) staged_changes: Vec<SettingChange>,
    /// Where the event queue ended when the sync began.
    pub(super) horizon: Horizon,
    pub(super) uploaded: u64,
    /// Events set aside because the server refused them.
    pub(super) rejected: u64,
    pub(super) rules: u64,
    /// What was odd in the responses so far, and what went wrong without
    /// stopping the sync.
    pub(super) warnings: Vec<SyncWarning>,
    /// The time that the expressions of CEL rules have taken.
    pub(super) expressions: CelBudget,
    /// The event queue cannot be used any more: the sync goes on without it.
    pub(super) events_unusable: bool,
    /// The batch size that the server gave; 0 if it gave none.
    pub(super) batch_size: u32,
}

impl Held {
    pub(super) fn new(sync_id: String, horizon: Horizon) -> Self {
        Self {
            token: None,
            body: None,
            sync_id,
            staged: Settings::default(),
            staged_changes: Vec::new(),
            horizon,
            uploaded: 0,
            rejected: 0,
            rules: 0,
            warnings: Vec::new(),
            expressions: CelBudget::new(clock::thread_time),
            events_unusable: false,
            batch_size: 0,
        }
    }

    /// Goes on without events: what cannot be used stops only what needs it.
    pub(super) fn give_events_up(&mut self, error: &StoreError) {
        warn!(%error, fix = error.fix().as_deref(), "the sync goes on without events");
        self.events_unusable = true;
        self.warnings.push(events_warning(error));
    }
}

/// What the record says of an event queue that cannot be used.
pub(super) fn events_warning(error: &StoreError) -> SyncWarning {
    let action = "the sync goes on without events; they stay queued";
    SyncWarning::new(Stage::EventUpload, "events.db", &error.to_string(), action)
}
