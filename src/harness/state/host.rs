//! What the server knows about a host.

use std::collections::HashMap;
use std::sync::Arc;

use crate::harness::exchange::Route;
use crate::harness::rules::RuleList;
use crate::protocol::wire;

/// What the server knows about a host.
#[derive(Clone, Debug, Default)]
pub struct HostState {
    /// The sync type its last preflight led to.
    pub sync_type: wire::SyncType,
    /// Preflights served.
    pub preflights: u64,
    /// Event uploads served.
    pub event_uploads: u64,
    /// Events in them.
    pub events: u64,
    /// Rule pages sent.
    pub pages: u64,
    /// Postflights served.
    pub postflights: u64,
    /// The cursors acknowledged in the last sync, in order of arrival.
    pub acknowledged: Vec<String>,
    /// The last preflight, as the server read it.
    pub last_preflight: Option<wire::PreflightRequest>,
    /// The last postflight, as the server read it.
    pub last_postflight: Option<wire::PostflightRequest>,
    /// Whether the host has had all rules, so that NORMAL syncs send it changes
    /// only.
    pub synced: bool,
}

/// A host, with the server's own notes about it.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) shown: HostState,
    /// How much of the change log it has received; `None` if it never had all
    /// rules.
    pub(super) seen: Option<usize>,
    pub(super) requests: [u64; Route::ALL.len()],
    pub(super) download: Option<HostDownload>,
}

/// The rules that a sync sends, fixed at its preflight.
#[derive(Debug)]
pub(super) struct HostDownload {
    pub(super) rules: Arc<RuleList>,
    /// How much of the change log the host will have received.
    pub(super) seen: usize,
    /// The cursors sent, and the index of the rule each leads to.
    pub(super) cursors: HashMap<String, usize>,
}
