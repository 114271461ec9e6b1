//! The server's state, and its response to a request. No I/O, no clock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::change::Change;
use super::exchange::{Exchange, Route};
use super::expectation::{Expectations, Outcome};
use super::fault::Scripted;
use super::fixtures::{AnyEvent, Random};
use super::misbehaviour::Misbehaviours;
use super::record::Replay;
use super::script::{Script, Wait};
use super::style::{CursorStyle, Style};
use crate::protocol::wire;

mod groups;
mod handle;
mod host;
mod preflight;
mod rule_download;
mod stages;

pub(super) use groups::{Group, RuleSet};
use host::Host;
pub use host::HostState;
pub(super) use host::OpenSync;
use rule_download::cursor;

/// What happens to the events of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploads {
    /// Read and kept.
    Kept,
    /// Read and dropped.
    Read,
    /// Counted without being decoded.
    Counted,
}

/// A change that happens at a point.
#[derive(Debug)]
pub(super) struct PendingChange {
    /// After that many postflights.
    pub(super) after_syncs: u64,
    /// Counts those of these machines only.
    pub(super) machine: Option<String>,
    pub(super) change: Change,
}

/// The result of a request.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) response: Script,
    pub(super) wait: Wait,
    pub(super) exchange: Exchange,
}

/// The server's state. Fields that only a builder or a handle sets are open to
/// them.
#[derive(Debug)]
pub(super) struct State {
    pub(super) style: Style,
    pub(super) settings: wire::PreflightResponse,
    pub(super) page_size: usize,
    /// The path below which the stages lie, without slashes around it.
    pub(super) base_path: String,
    pub(super) script: Vec<Scripted>,
    /// How many exchanges are remembered; with 0, bodies are not decoded unless
    /// necessary.
    pub(super) transcript_limit: usize,
    pub(super) transcript: VecDeque<Exchange>,
    pub(super) uploads: Uploads,
    /// How many events are kept.
    pub(super) events_limit: usize,
    pub(super) events: Vec<AnyEvent>,
    pub(super) audit_events: Vec<wire::AuditEvent>,
    pub(super) events_received: u64,
    /// Bundle hashes to request in the next response to an event upload.
    pub(super) bundles: Vec<String>,
    /// Text that makes an upload fail with that status.
    pub(super) refused_events: Vec<(String, u16)>,
    /// Whether new hosts are assumed to have all rules.
    pub(super) hosts_up_to_date: bool,
    pub(super) encode_ahead: bool,
    pub(super) requests: [u64; Route::ALL.len()],
    pub(super) misbehaviours: Misbehaviours,
    /// The rules of all machines that are in no group with its own.
    main: RuleSet,
    /// The groups of machines; the first that fits counts.
    pub(super) groups: Vec<Group>,
    /// Changes that have not happened yet.
    pub(super) pending: Vec<PendingChange>,
    pub(super) expectations: Expectations,
    /// Answers in place of the server's work.
    pub(super) replay: Option<Replay>,
    /// Decides which faults strike at random.
    chances: Random,
    hosts: HashMap<String, Host>,
    random: Random,
    xsrf_token: String,
    cookie: String,
    number: u64,
    /// Why changes at points of a scenario could not be made.
    pub(super) change_errors: Vec<String>,
    /// The bundles whose binaries were requested.
    requested_bundles: HashSet<String>,
    /// What misbehaviours must remember: connections that have had a request,
    /// events, and the last preflight with its time since boot.
    connections: HashSet<u64>,
    former_events: HashSet<String>,
    busy_with: Option<(String, Duration)>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            style: Style::default(),
            settings: wire::PreflightResponse {
                client_mode: wire::ClientMode::Monitor.into(),
                batch_size: 50,
                full_sync_interval_seconds: 600,
                ..wire::PreflightResponse::default()
            },
            page_size: 1000,
            base_path: String::new(),
            script: Vec::new(),
            transcript_limit: 10_000,
            transcript: VecDeque::new(),
            uploads: Uploads::Kept,
            events_limit: usize::MAX,
            events: Vec::new(),
            audit_events: Vec::new(),
            events_received: 0,
            bundles: Vec::new(),
            refused_events: Vec::new(),
            hosts_up_to_date: false,
            encode_ahead: false,
            requests: [0; Route::ALL.len()],
            main: RuleSet::default(),
            groups: Vec::new(),
            pending: Vec::new(),
            expectations: Expectations::default(),
            replay: None,
            chances: Random::new(seed ^ 0x00fa_1175),
            hosts: HashMap::new(),
            xsrf_token: random.hex(16),
            cookie: random.hex(8),
            random,
            number: 0,
            change_errors: Vec::new(),
            misbehaviours: Misbehaviours::default(),
            requested_bundles: HashSet::new(),
            connections: HashSet::new(),
            former_events: HashSet::new(),
            busy_with: None,
        }
    }

    /// Sets the rules before any host has seen any.
    pub(super) fn start_with(&mut self, rules: impl IntoIterator<Item = wire::Rule>) {
        self.main = RuleSet::new(rules);
    }

    /// Begins the sequences of random numbers anew.
    pub(super) fn reseed(&mut self, seed: u64) {
        self.random = Random::new(seed);
        self.chances = Random::new(seed ^ 0x00fa_1175);
    }

    /// Encodes all pages if they are to be encoded ahead.
    pub(super) fn encode_pages(&mut self) {
        if self.encode_ahead
            && let Some(rules) = Arc::get_mut(&mut self.main.rules)
        {
            let is_one = self.style.one_page || self.page_size == 0;
            let size = if is_one { rules.len() } else { self.page_size };
            let style = self.style.cursor;
            let as_number = style == CursorStyle::Number;
            rules.encode_ahead(size, self.style.spelling, as_number, |to| {
                // Fresh cursors are not known in advance; pages that have them are copied.
                cursor(style, to, &mut Random::new(0))
            });
        }
    }

    /// Replaces the rules; NORMAL syncs send hosts the difference.
    pub(super) fn set_rules(&mut self, rules: impl IntoIterator<Item = wire::Rule>) {
        self.set_rules_of(None, rules);
    }

    /// Changes some rules; NORMAL syncs send hosts the changes.
    pub(super) fn queue_changes(&mut self, changes: Vec<wire::Rule>) {
        self.queue_changes_of(None, changes);
    }

    pub(super) fn rule_count(&self) -> usize {
        self.main.rules.len()
    }

    pub(super) fn rules(&self) -> Vec<wire::Rule> {
        self.main.rules.iter().collect()
    }

    /// Makes the changes whose point has come.
    fn make_due_changes(&mut self) {
        let due = self.take_due_changes();
        for pending in due {
            if let Err(error) = self.change(pending.change) {
                self.change_errors.push(error.to_string());
            }
        }
    }

    /// What has become of the expectations; a change that could not be made is one
    /// that is not met.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let failed = self.change_errors.iter().map(|reason| Outcome {
            name: "every change can be made".to_owned(),
            met: false,
            seen: 0,
            min: 1,
            max: None,
            reason: reason.clone(),
        });
        self.expectations.outcomes().into_iter().chain(failed).collect()
    }

    /// Forgets the changes whose point has passed.
    pub(super) fn forget_past_changes(&mut self) {
        drop(self.take_due_changes());
    }

    fn take_due_changes(&mut self) -> Vec<PendingChange> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let hosts = &self.hosts;
        let syncs = || hosts.iter().map(|(id, host)| (id.clone(), host.shown.postflights));
        let (due, later) =
            std::mem::take(&mut self.pending).into_iter().partition(|one| one.is_due(syncs()));
        self.pending = later;
        due
    }

    pub(in crate::harness) fn host(&self, machine_id: &str) -> Option<HostState> {
        self.hosts
            .get(machine_id)
            .map(|host| HostState { synced: host.seen.is_some(), ..host.shown.clone() })
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        let mut machine_ids: Vec<_> = self.hosts.keys().cloned().collect();
        machine_ids.sort();
        machine_ids
    }

    /// Makes the next syncs of a host clean, until one is completed. Returns false
    /// if the host is unknown.
    pub(super) fn request_clean_sync(&mut self, machine_id: &str) -> bool {
        let host = self.hosts.get_mut(machine_id);
        host.map(|host| host.shown.clean_requested = true).is_some()
    }

    /// Forgets what a server keeps in memory only: downloads in progress, and the
    /// sessions of all hosts.
    pub(super) fn restart(&mut self) {
        for host in self.hosts.values_mut() {
            host.download = None;
            host.open = None;
            host.is_session_lost = true;
        }
    }

    pub(super) fn rotate_xsrf(&mut self) {
        self.xsrf_token = self.random.hex(16);
    }
}
