//! What the server knows about a host.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::exchange::Route;
use crate::harness::misbehaviour::HostFacts;
use crate::harness::rules::RuleList;
use crate::model::Timestamp;
use crate::protocol::wire::{self, SyncType};

/// What the server knows about a host.
#[derive(Clone, Debug, Default)]
pub struct HostState {
    /// The sync type its last preflight led to.
    pub sync_type: SyncType,
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
    /// Whether the host has all rules, so that NORMAL syncs send it changes only.
    /// A clean sync of the server's own puts that in question until its postflight.
    pub synced: bool,
    /// Whether the administrator requested a clean sync that has not been
    /// completed ([`crate::harness::FakeServer::request_clean_sync`]).
    pub clean_requested: bool,
    /// When its last successful sync ended.
    pub last_sync: Option<Timestamp>,
}

/// A host, with the server's own notes about it.
#[derive(Debug, Default)]
pub(in crate::harness) struct Host {
    pub(super) shown: HostState,
    /// How much of the change log it has received; `None` if it does not have all
    /// rules, or may have lost them in a clean sync of the server's that broke off.
    pub(super) seen: Option<usize>,
    /// How many rules it must have, once it has completed a clean sync.
    pub(super) holds: Option<usize>,
    /// Whether a clean sync was announced whose rules have not been delivered.
    pub(super) owes_clean: bool,
    pub(super) clean_syncs: u64,
    pub(super) requests: [u64; Route::ALL.len()],
    pub(super) open: Option<OpenSync>,
    pub(super) download: Option<HostDownload>,
    /// Whether the last page has been sent since the last preflight.
    pub(super) had_last_page: bool,
    /// Whether its session was lost in a restart of the server.
    pub(super) is_session_lost: bool,
}

impl Host {
    pub(super) fn facts(&self) -> HostFacts {
        HostFacts {
            preflights: self.shown.preflights,
            postflights: self.shown.postflights,
            clean_syncs: self.clean_syncs,
            is_synced: self.seen.is_some(),
            open: self.open,
        }
    }
}

/// A sync between its preflight and its postflight. Another preflight ends it.
#[derive(Clone, Copy, Debug)]
pub(in crate::harness) struct OpenSync {
    /// The type that was announced.
    pub(in crate::harness) announced: SyncType,
    /// Whether the client wished a clean sync.
    pub(in crate::harness) wished: bool,
    /// The connection of the preflight.
    pub(in crate::harness) connection: u64,
    /// When it began, since boot.
    pub(in crate::harness) began: Duration,
    /// Requests since the preflight.
    pub(in crate::harness) requests: u64,
    /// Rule pages among them.
    pub(in crate::harness) pages: u64,
}

/// The rules that a sync sends, fixed at its preflight.
#[derive(Debug)]
pub(super) struct HostDownload {
    pub(super) sync_type: SyncType,
    pub(super) rules: Arc<RuleList>,
    /// How much of the change log the host will have received.
    pub(super) seen: usize,
    /// How many rules the host will have.
    pub(super) total: usize,
    /// The cursors sent, and where each leads.
    pub(super) cursors: HashMap<String, CursorTarget>,
    /// The indices at which the pages sent begin.
    pub(super) sent: HashSet<usize>,
    pub(super) is_sent_whole: bool,
    /// Whether it ended early: what is left of it is empty.
    pub(super) is_void: bool,
}

/// Where a cursor leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct CursorTarget {
    /// The index of a rule.
    pub(super) start: usize,
    /// The connection it was sent on.
    pub(super) connection: u64,
    /// When it was sent, since boot.
    pub(super) at: Duration,
}
