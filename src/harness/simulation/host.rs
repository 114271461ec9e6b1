//! One simulated host: in memory what a real one keeps on disk, and the driver of the
//! agent's own state machine on it.
//!
//! Promise: for the same history, its requests are those of the real agent, byte for
//! byte. What decides them (machine, messages, encodings, transport) is the agent's
//! code; only the stores are replaced.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(super) use self::in_progress::SyncInProgress;
use super::events::{EventQueue, EventTraits};
use super::measure::{Measurements, SimulatedEnd};
use super::network::{HostClock, SimulatedNetwork};
use super::profile::HostProfile;
use super::rules::{RuleBook, SimulatedRules};
use crate::clock::Clock as _;
use crate::failure::Failure;
use crate::model::{
    BaseUrl, CleanSyncReason, CleanSyncRequest, ClientMode, Settings, SettledEvents, Stage,
    SyncResult, SyncType, Timestamp, Trigger, UploadMemory,
};
use crate::protocol::events::EventBatch;
use crate::protocol::preflight::PreflightFacts;
use crate::protocol::stored::QueuedEvent;
use crate::sync::WAIT_JITTER;
use crate::sync::machine::{
    self, AttemptResult, Committed, Effect, Inputs, Machine, StoreEffect, SyncEvent, SyncOutcome,
};
use crate::transport::{ResponseBudget, Transport};

mod in_progress;

/// How long a sync may take: the agent's default.
const DEADLINE: Duration = Duration::from_hours(1);

/// A simulated host between two syncs.
#[derive(Debug)]
pub struct SimulatedHost {
    pub(super) profile: HostProfile,
    rules: Rc<SimulatedRules>,
    /// A rule download has been completed.
    rules_complete: bool,
    applied: AppliedSettings,
    clean_requests: Vec<CleanSyncRequest>,
    pub(super) events: EventQueue,
    pub(super) upload_memory: UploadMemory,
    /// The batch size of the last preflight; 0 if the server gave none.
    pub(super) batch_size: u32,
    /// A sync has succeeded.
    pub(super) has_synced: bool,
}

/// Of the settings that the server gave, those that decide what the host does.
#[derive(Clone, Copy, Debug, Default)]
struct AppliedSettings {
    client_mode: Option<ClientMode>,
    full_sync_interval: Option<u32>,
}

impl AppliedSettings {
    const fn of(settings: &Settings) -> Self {
        Self { client_mode: settings.client_mode, full_sync_interval: settings.full_sync_interval }
    }
}

/// What all hosts share.
#[derive(Debug)]
pub struct SharedWorld {
    /// The server.
    pub base_url: BaseUrl,
    /// What each host's transport is made like.
    pub transport: Transport,
    /// The hosts' clock.
    pub clock: HostClock,
    /// The way to the server.
    pub network: SimulatedNetwork,
    /// What responses and the rules of downloads under way may take together.
    pub budget: ResponseBudget,
    /// The rule sets.
    pub rules: RuleBook,
    /// What the events of hosts without groups, or of each group, are like.
    pub events: Vec<EventTraits>,
    /// What is measured.
    pub measured: RefCell<Measurements>,
}

impl SimulatedHost {
    /// A host that has never synced. `seed` decides its events.
    #[must_use]
    pub fn new(profile: HostProfile, seed: u64, now: Timestamp) -> Self {
        let new_state = CleanSyncRequest {
            sync_type: SyncType::CleanAll,
            reason: CleanSyncReason::NewState,
            since: now,
            last_answer: None,
        };
        Self {
            profile,
            rules: Rc::default(),
            rules_complete: false,
            applied: AppliedSettings::default(),
            clean_requests: vec![new_state],
            events: EventQueue::new(seed),
            upload_memory: UploadMemory::default(),
            batch_size: 0,
            has_synced: false,
        }
    }

    /// Who it is.
    #[must_use]
    pub const fn profile(&self) -> &HostProfile {
        &self.profile
    }

    /// Its rules.
    #[must_use]
    pub fn rules(&self) -> &SimulatedRules {
        &self.rules
    }

    /// The interval in effect in seconds; `None` if the server gave none.
    #[must_use]
    pub const fn interval_secs(&self) -> Option<u32> {
        self.applied.full_sync_interval
    }

    /// Queues this event.
    pub fn queue(&mut self, event: &QueuedEvent) {
        self.events.push(event);
    }

    /// How many events wait.
    #[must_use]
    pub fn events_pending(&self) -> u64 {
        self.events.len() as u64
    }

    /// Queues what has happened until now. Returns when the first and the last thing was
    /// denied of which the server should hear soon, if anything was.
    pub fn events_happen(&mut self, world: &SharedWorld) -> Option<(Duration, Duration)> {
        let traits = world.events.get(self.profile.group.unwrap_or(0))?;
        let now = world.clock.now();
        let denied = self.events.happen(now, self.profile.events_per_hour, traits);
        denied.filter(|_| self.profile.uploads_promptly)
    }

    /// When something will be denied next of which the server should hear soon, on the
    /// host's clock, if that is known.
    #[must_use]
    pub fn next_denial(&self) -> Option<Duration> {
        self.events.next_denial().filter(|_| self.profile.uploads_promptly)
    }

    /// The operator requests a clean sync.
    pub fn request_clean_sync(&mut self, now: Timestamp) {
        let known = CleanSyncReason::Operator;
        if self.clean_requests.iter().any(|request| request.reason == known) {
            return;
        }
        self.clean_requests.push(CleanSyncRequest {
            sync_type: SyncType::Clean,
            reason: known,
            since: now,
            last_answer: None,
        });
    }

    /// Makes one sync.
    pub async fn sync(&mut self, world: &SharedWorld, trigger: Trigger) -> SimulatedEnd {
        let mut sync = SyncInProgress::new(&self.profile, world, self.events.last());
        let mut machine = Machine::new(self.inputs(&world.base_url, trigger));
        let mut event = SyncEvent::Started;
        let outcome = loop {
            let effect = machine.handle(event, world.clock.now());
            let left = machine.time_left(world.clock.now());
            event = match effect {
                Effect::Send { request, .. } => SyncEvent::Attempt(
                    within(world.clock, left, sync.send(request, &self.profile, left))
                        .await
                        .unwrap_or_else(out_of_time),
                ),
                Effect::FetchToken { .. } => SyncEvent::Attempt(
                    within(world.clock, left, sync.fetch_token())
                        .await
                        .map_or_else(out_of_time, AttemptResult::TokenFetched),
                ),
                Effect::Wait { duration, .. } => SyncEvent::Attempt(
                    within(world.clock, left, world.clock.sleep(duration))
                        .await
                        .map_or_else(out_of_time, |()| AttemptResult::Waited),
                ),
                Effect::Store(effect) => self.act(effect, &mut sync),
                Effect::Finish(outcome) => break *outcome,
            };
        };
        let SyncOutcome { result, sync_type, tally, .. } = outcome;
        world.measured.borrow_mut().rules_received(self.profile.group, tally.rules_received);
        match result {
            SyncResult::Success => SimulatedEnd::Succeeded {
                clean: sync_type.is_some_and(SyncType::deletes_execution_rules),
            },
            SyncResult::PreflightFailed
            | SyncResult::EventUploadFailed
            | SyncResult::RuleDownloadFailed
            | SyncResult::PostflightFailed
            | SyncResult::AuthorizerStale
            | SyncResult::TooManySyncs
            | SyncResult::MissingSyncBaseUrl
            | SyncResult::MissingMachineId
            | SyncResult::DaemonNotReachable
            | SyncResult::StateUnusable
            | SyncResult::BadConfiguration
            | SyncResult::InternalError => SimulatedEnd::Failed,
        }
    }

    fn inputs(&self, base_url: &BaseUrl, trigger: Trigger) -> Inputs {
        let HostProfile { machine_id, facts, .. } = &self.profile;
        let all = self.clean_requests.iter().any(|request| request.sync_type == SyncType::CleanAll);
        let requested = match (self.clean_requests.is_empty(), all) {
            (true, _) => SyncType::Normal,
            (false, true) => SyncType::CleanAll,
            (false, false) => SyncType::Clean,
        };
        Inputs {
            machine_id: machine_id.clone(),
            rules_url: base_url.shown_join(Stage::RuleDownload.segment(), machine_id),
            facts: PreflightFacts {
                host: facts.clone(),
                client_mode: self.client_mode(),
                rule_counts: self.rules.counts(),
                rules_hash: self.rules.hash(),
            },
            requested,
            clean_request: None,
            hold_back_events_in_clean: false,
            events_pending: self.events.len() as u64,
            upload_memory: self.upload_memory,
            rules_complete: self.rules_complete,
            former_settings: false,
            events_only: None,
            dry_run: false,
            trigger,
            jitter: WAIT_JITTER,
            deadline: DEADLINE,
            warnings: Vec::new(),
        }
    }

    /// The mode in effect: LOCKDOWN waits for the first rules (STATE-5).
    fn client_mode(&self) -> ClientMode {
        match self.applied.client_mode {
            Some(ClientMode::Lockdown) if !self.rules_complete => ClientMode::Monitor,
            Some(mode) => mode,
            None => ClientMode::Monitor,
        }
    }

    /// Does what a real host's stores do.
    fn act(&mut self, effect: StoreEffect, sync: &mut SyncInProgress<'_>) -> SyncEvent {
        match effect {
            StoreEffect::StageSettings { settings, answered: _ } => {
                sync.staged = Some(AppliedSettings::of(&settings));
                self.batch_size = sync.batch_size;
                SyncEvent::SettingsStaged
            }
            StoreEffect::ReadEvents { limit } => {
                SyncEvent::EventsRead(Box::new(self.read(limit, sync)))
            }
            StoreEffect::SettleEvents(settled) => {
                self.settle(&settled, sync.world);
                SyncEvent::EventsSettled
            }
            StoreEffect::NoteRefusal { ids, words: _, at_once, memory } => {
                self.upload_memory = memory;
                SyncEvent::RefusalNoted { set_aside: self.events.refuse(&ids, at_once) }
            }
            StoreEffect::NoteUploads(memory) => {
                self.upload_memory = memory;
                SyncEvent::UploadsNoted
            }
            StoreEffect::CommitRules { rules, sync_type } => {
                let before = std::mem::take(&mut self.rules);
                self.rules = sync.world.rules.commit(&before, &rules, sync_type);
                self.rules_complete = true;
                SyncEvent::RulesCommitted(Committed {
                    processed: rules.len() as u64,
                    removed: 0,
                    kept_transitive: 0,
                    rules_hash: self.rules.hash(),
                })
            }
            StoreEffect::ApplySettings { clear, succeeded } => {
                if let Some(staged) = sync.staged.take() {
                    let base = if clear { AppliedSettings::default() } else { self.applied };
                    self.applied = AppliedSettings {
                        client_mode: staged.client_mode.or(base.client_mode),
                        full_sync_interval: staged.full_sync_interval.or(base.full_sync_interval),
                    };
                }
                if let Some(done) = succeeded {
                    self.clean_requests.retain(|request| !request.is_ended_by(done));
                    self.has_synced = true;
                }
                SyncEvent::SettingsApplied(Vec::new())
            }
            StoreEffect::DropStaged => {
                sync.staged = None;
                SyncEvent::StagedDropped(Vec::new())
            }
        }
    }

    /// Has the events of a batch leave the queue, and counts them.
    pub(super) fn settle(&mut self, settled: &SettledEvents, world: &SharedWorld) {
        let (at, delivered) = (world.clock.real_elapsed(), settled.delivered.len() as u64);
        let mut measured = world.measured.borrow_mut();
        measured.events_accepted(self.profile.group, at, delivered);
        measured.bundles_requested += settled.bundle_requests.len() as u64;
        measured.bundle_binaries += settled.bundles_delivered.len() as u64;
        self.events.settle(settled, world.clock.now().wall);
    }

    fn read(&self, limit: usize, sync: &SyncInProgress<'_>) -> EventBatch {
        sync.batch_of(self.events.batch(limit, sync.horizon), &self.profile)
    }
}

/// Waits for `work`, but not past the sync's deadline.
async fn within<T>(
    clock: HostClock,
    left: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = clock.sleep(left) => Err(machine::deadline_failure(DEADLINE)),
    }
}

const fn out_of_time(failure: Failure) -> AttemptResult {
    AttemptResult::Stopped { failure, begun: true }
}
