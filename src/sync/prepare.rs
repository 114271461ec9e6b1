//! What must be true of the stores before a sync begins.

use std::time::Duration;

use tracing::{info, warn};

use super::machine::{EventsOnly, Inputs};
use super::store_effects::pending_events;
use crate::failure::Remedy as _;
use crate::model::{
    AuthorizerState, BaseUrl, CleanSyncReason, CleanSyncRequest, ClientMode, HostFacts, MachineId,
    RuleCounts, Stage, SyncType, SyncWarning, Timestamp, Trigger, UploadMemory,
};
use crate::protocol::preflight::{DEFAULT_BATCH_SIZE, PreflightFacts};
use crate::store::{EventStore, ReadStore, SYNC_STATE_FILE, Store, StoreError};

/// How much the waits between attempts vary: a quarter (HTTP-3).
pub const WAIT_JITTER: f64 = 0.25;

/// A sync to make, as configuration and operator want it.
#[derive(Clone, Debug)]
pub struct SyncSpec {
    /// The server.
    pub base_url: BaseUrl,
    /// The id it knows this host by.
    pub machine_id: MachineId,
    /// The host.
    pub host: HostFacts,
    /// The mode of the configuration, for where the server set none.
    pub configured_mode: Option<ClientMode>,
    /// Counts of the configuration's own rules, which preflight adds to the
    /// store's.
    pub static_rules: RuleCounts,
    /// An explicit `SyncEnableCleanSyncEventUpload = false`.
    pub hold_back_events_in_clean: bool,
    /// What is known of the authorizer that the relay serves.
    pub authorizer: AuthorizerState,
    /// The clean sync that the operator requests.
    pub operator_clean: Option<SyncType>,
    /// Why it is made.
    pub trigger: Trigger,
    /// How long the sync may take.
    pub deadline: Duration,
}

/// Makes the stores ready: drops what an interrupted sync left staged, notes
/// the server, the machine id and the operator's request, and reads what preflight
/// reports. The caller holds the lock of the state directory.
///
/// # Errors
/// If a store cannot be read or written.
pub fn prepare(
    store: &mut Store,
    events: &EventStore,
    request: &SyncSpec,
    now: Timestamp,
) -> Result<Inputs, StoreError> {
    let reverted = unless_full(store.drop_staged())?.flatten().unwrap_or_default();
    unless_full(store.enter_left_records())?;
    let interrupted = unless_full(store.close_interrupted_syncs(&reverted))?.unwrap_or_default();
    if interrupted > 0 || !reverted.is_empty() {
        let settings: Vec<_> = reverted.iter().map(|c| c.setting.as_str()).collect();
        warn!(
            syncs = interrupted,
            reverted = settings.join(","),
            "an earlier sync was interrupted"
        );
    }
    if let Some(reason) = store.identify(&request.base_url, &request.machine_id, now)? {
        info!(?reason, "a clean sync is requested");
    }
    if let Some(sync_type) = request.operator_clean {
        store.request_clean_sync(sync_type, CleanSyncReason::Operator, now)?;
    }
    let unwritten = store.write_sync_state().err().map(|error| {
        warn!(%error, "other programs do not see the settings in effect");
        let action = "not written; other programs do not see the settings in effect";
        SyncWarning::new(Stage::Preflight, SYNC_STATE_FILE, &error.to_string(), action)
    });
    let requested =
        store.clean_sync_requests()?.first().map_or(SyncType::Normal, |request| request.sync_type);
    let mut inputs = inputs(store, request, requested)?;
    inputs.events_pending = pending_events(events);
    inputs.upload_memory = events.upload_memory().unwrap_or_else(|error| {
        warn!(%error, fix = error.fix().as_deref(), "what earlier syncs have learned about batches cannot be read");
        UploadMemory::default()
    });
    inputs.warnings.extend(unwritten);
    Ok(inputs)
}

/// What was done, or `None` where the disk has no room for it: then the sync
/// goes on, for the events that it uploads may be what fills the disk.
fn unless_full<T>(done: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error @ StoreError::Full { .. }) => {
            warn!(%error, fix = error.fix().as_deref(), "the sync goes on as far as that needs no room");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns what [`prepare`] would return, for a dry run: changes nothing.
///
/// # Errors
/// If the store cannot be read.
pub fn prepare_dry(store: &ReadStore, request: &SyncSpec) -> Result<Inputs, StoreError> {
    let known = store.identity()?;
    let same = known.is_some_and(|(server, machine)| {
        request.base_url.is_named_by(&server) && machine == request.machine_id.as_str()
    });
    let held = store.clean_sync_requests()?.first().map(|request| request.sync_type);
    let requested = if same {
        match (held, request.operator_clean) {
            (Some(SyncType::CleanAll), _) | (_, Some(SyncType::CleanAll)) => SyncType::CleanAll,
            (held, asked) => held.or(asked).unwrap_or(SyncType::Normal),
        }
    } else {
        SyncType::CleanAll
    };
    let inputs = inputs(store, request, requested)?;
    let former_settings = inputs.former_settings || !same;
    Ok(Inputs { dry_run: true, former_settings, ..inputs })
}

fn inputs(store: &Store, request: &SyncSpec, requested: SyncType) -> Result<Inputs, StoreError> {
    let facts = PreflightFacts {
        host: request.host.clone(),
        client_mode: request.authorizer.client_mode(store.client_mode(request.configured_mode)?),
        rule_counts: request.authorizer.rule_counts(store.rule_counts()? + request.static_rules),
        rules_hash: store.rules_hash()?,
    };
    let stays = |request: &CleanSyncRequest| !request.is_ended_by(SyncType::Normal);
    let clean_request = store.clean_sync_requests()?.into_iter().find(stays);
    Ok(Inputs {
        clean_request: clean_request.map(|request| request.reason),
        rules_url: request.base_url.shown_join(Stage::RuleDownload.segment(), &request.machine_id),
        machine_id: request.machine_id.clone(),
        facts,
        requested,
        hold_back_events_in_clean: request.hold_back_events_in_clean,
        events_pending: 0,
        upload_memory: UploadMemory::default(),
        rules_complete: store.rules_complete()?,
        former_settings: store.has_former_settings()?,
        events_only: events_only(store, request.authorizer)?,
        dry_run: false,
        trigger: request.trigger,
        jitter: WAIT_JITTER,
        deadline: request.deadline,
        warnings: Vec::new(),
    })
}

/// RELAY-10: a host whose authorizer is silent for too long only uploads events.
fn events_only(
    store: &Store,
    authorizer: AuthorizerState,
) -> Result<Option<EventsOnly>, StoreError> {
    let AuthorizerState::Stale { since } = authorizer else { return Ok(None) };
    let batch_size = store.batch_size()?.unwrap_or(DEFAULT_BATCH_SIZE as usize);
    Ok(Some(EventsOnly { authorizer_since: since, batch_size }))
}
