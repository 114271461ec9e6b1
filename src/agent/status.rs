//! How syncing stands on a host, as data: `status` prints it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::control;
use crate::control::moment::Moment;
use crate::control::status::{DaemonStatus, Liveness};
use crate::failure::ErrorText;
use crate::host::{AuthorizerReport, MachineIdProblem, SystemHost};
use crate::model::{
    AuthorizerState, CleanSyncRequest, ClientMode, DEFAULT_SYNC_INTERVAL_SECS, ErrorRecord,
    MachineId, RuleCounts, SCHEMA_VERSION, SyncRecord, SyncResult, SyncType, SyncWarning,
    Timestamp, Trigger,
};
use crate::store::{EventStore, ReadStore, Standing, Store, StoreError, left_records};
use crate::sync::run;
use crate::transport::{ClientCertificate, inspect_client_certificate};

/// How syncing stands on a host, read from the files of its state directory.
#[derive(Debug, Serialize)]
pub struct AgentStatus {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The state directory.
    pub state_dir: String,
    /// The base URL, without secrets; `None` if none is configured.
    pub server: Option<String>,
    /// The id the server knows this host by.
    pub machine_id: Option<String>,
    /// Why there is no machine id.
    pub machine_id_error: Option<ErrorText>,
    /// The mode in effect, by its protocol name.
    pub client_mode: &'static str,
    /// Why the mode is not the one that was set.
    pub client_mode_held: Option<String>,
    /// The last sync.
    pub last_attempt: Option<LastAttempt>,
    /// The last sync that succeeded.
    pub last_success: Option<LastSuccess>,
    /// When a rule download last succeeded.
    pub last_rule_sync: Option<Timestamp>,
    /// Syncs that failed since the last success.
    pub failures_in_a_row: usize,
    /// Conditions of the store that an operator should know.
    pub warnings: Vec<ConditionReport>,
    /// The time between syncs.
    pub full_sync_interval: SyncInterval,
    /// The clean syncs that the host requests.
    pub clean_sync_requests: Vec<CleanSyncRequest>,
    /// The stored rules.
    pub rules: RulesStatus,
    /// The event queue.
    pub events: QueueStatus,
    /// The configured client certificate.
    pub client_certificate: Option<CertificateStatus>,
    /// The daemon of this state directory; `None` if none has run on it.
    pub daemon: Option<DaemonView>,
    /// The authorizer that the relay serves; `None` without a relay.
    pub authorizer: Option<AuthorizerStatus>,
    /// The settings in effect, by their protocol names.
    pub settings: std::collections::BTreeMap<&'static str, String>,
}

/// The last sync, in short.
#[derive(Debug, Serialize)]
pub struct LastAttempt {
    /// When.
    pub at: Timestamp,
    /// Names the sync in logs.
    pub id: String,
    /// What it was started by.
    pub trigger: Trigger,
    /// How it ended.
    pub result: SyncResult,
    /// The type that was done.
    pub sync_type: Option<SyncType>,
    /// How long it took, in ms.
    pub duration_ms: u64,
    /// What its responses held that was not read as sent.
    pub warnings: Vec<SyncWarning>,
    /// Why, if it failed or cannot be used.
    pub error: Option<ErrorRecord>,
}

/// A condition of the store that an operator should know.
#[derive(Debug, Serialize)]
pub struct ConditionReport {
    /// The condition.
    #[serde(flatten)]
    pub standing: Standing,
    /// It in words.
    pub message: String,
    /// What to do about it.
    pub fix: &'static str,
}

impl ConditionReport {
    fn of(standing: &Standing) -> Self {
        Self { standing: standing.clone(), message: standing.to_string(), fix: standing.fix() }
    }
}

/// When a sync last succeeded.
#[derive(Debug, Serialize)]
pub struct LastSuccess {
    /// When.
    pub at: Timestamp,
    /// How long ago, in seconds.
    pub age_seconds: u64,
}

/// The time between syncs.
#[derive(Debug, Serialize)]
pub struct SyncInterval {
    /// In seconds.
    pub seconds: u32,
    /// `server` or `default`.
    pub origin: &'static str,
}

/// The stored rules.
#[derive(Debug, Serialize, Default)]
pub struct RulesStatus {
    /// A rule download has been completed.
    pub complete: bool,
    /// The hash of all stored rules.
    pub hash: String,
    /// How many rules of each type.
    pub counts: RuleCounts,
}

/// The event queue.
#[derive(Debug, Serialize, Default)]
pub struct QueueStatus {
    /// Events that wait.
    pub pending: u64,
    /// When the oldest of them was queued.
    pub oldest: Option<Timestamp>,
    /// Events that left because the queue was full.
    pub dropped_queue_full: u64,
    /// Events that left because the protocol cannot carry them, by kind.
    pub dropped_unsendable: std::collections::BTreeMap<String, u64>,
    /// Events set aside, which `events requeue` brings back.
    pub rejected: u64,
}

/// The authorizer that the relay serves.
#[derive(Debug, Serialize)]
pub struct AuthorizerStatus {
    /// `heard`, `never_seen`, `silent` for 24 h, or `stale` (RELAY-10).
    pub state: &'static str,
    /// When it last asked for its settings.
    pub last_report: Option<Timestamp>,
    /// What follows from its silence; `None` if it is heard.
    pub message: Option<&'static str>,
    /// What to do about it.
    pub fix: Option<&'static str>,
}

impl AuthorizerStatus {
    fn of(state: AuthorizerState, last_report: Option<Timestamp>) -> Option<Self> {
        let message = match state {
            AuthorizerState::NotServed => return None,
            AuthorizerState::Heard { .. } => None,
            AuthorizerState::NeverSeen => {
                Some("it has never asked for its settings; the server is told MONITOR")
            }
            AuthorizerState::Silent { .. } => {
                Some("it has been silent for 24 h; the server is told MONITOR")
            }
            AuthorizerState::Stale { .. } => Some(
                "it has been silent for longer than RelayStale allows; syncs only upload events, \
                 so that the server sees that this host is out of date",
            ),
        };
        let fix = "check that the authorizer runs and that its sync client leads to the relay: \
                   `santa-sync doctor`";
        Some(Self { state: state.name(), last_report, message, fix: message.map(|_| fix) })
    }

    /// By the relay of the configuration, or else the one of the daemon, whose
    /// configuration may come from its own command line.
    fn read(
        config: &Config,
        daemon: Option<&DaemonView>,
        state_dir: &Path,
        now: Timestamp,
    ) -> Option<Self> {
        let live = daemon.and_then(|daemon| daemon.status.relay.as_ref());
        let stays_away_for = match (&config.relay, live) {
            (Some(relay), _) => relay.stale,
            (None, Some(live)) => live.stale_after.map(Duration::from_secs),
            (None, None) => return None,
        };
        let report = AuthorizerReport::read(state_dir);
        let state = AuthorizerReport::state_when_served(report.as_ref(), stays_away_for, now);
        // The file is written again only every few minutes.
        let seen = live.and_then(|live| live.authorizer.as_ref()).map(|last| last.at);
        let last = report.map(|report| report.at).max(seen);
        Self::of(state, last)
    }
}

/// The client certificate.
#[derive(Debug, Serialize)]
pub struct CertificateStatus {
    /// The file.
    pub file: String,
    /// Whom it names.
    pub subject: Option<String>,
    /// Until when it is valid.
    pub not_after: Option<Timestamp>,
    /// Whole days until then; negative if it has expired.
    pub days_left: Option<i64>,
    /// Why, if it failed or cannot be used.
    pub error: Option<String>,
}

/// The daemon, judged by its status.
#[derive(Debug, Serialize)]
pub struct DaemonView {
    /// Whether it lives.
    pub liveness: Liveness,
    /// Since its start, if it lives.
    pub uptime_seconds: Option<u64>,
    /// Since its status was written.
    pub heartbeat_age_seconds: u64,
    /// What it published last.
    #[serde(flatten)]
    pub status: DaemonStatus,
}

impl DaemonView {
    fn read(config: &Config, state_dir: &Path) -> Option<Self> {
        let status = DaemonStatus::read(state_dir)?;
        Some(Self::of(status, control::is_daemon_running(state_dir), config))
    }

    fn of(mut status: DaemonStatus, runs: bool, config: &Config) -> Self {
        let seen = Moment::read(&SystemHost);
        let liveness = status.liveness(runs, &seen, config.sync_deadline);
        if !runs {
            // What a daemon that is gone announced does not happen.
            (status.next_sync_at, status.next_sync_why) = (None, None);
        }
        Self {
            liveness,
            uptime_seconds: runs.then(|| status.uptime(&seen).as_secs()),
            heartbeat_age_seconds: status.age(&seen).as_secs(),
            status,
        }
    }
}

/// The report for a user who may not read the state directory.
#[derive(Debug, Serialize)]
pub struct DaemonReport {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The state directory.
    pub state_dir: String,
    /// The base URL, without secrets; `None` if none is configured.
    pub server: Option<String>,
    /// The last sync that succeeded.
    pub last_success: Option<LastSuccess>,
    /// The daemon.
    pub daemon: DaemonView,
}

impl DaemonReport {
    /// The report of a daemon that runs on the state directory.
    #[must_use]
    pub fn new(config: &Config, state_dir: &Path, status: DaemonStatus, now: Timestamp) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            state_dir: state_dir.display().to_string(),
            server: status.configuration.server.clone(),
            last_success: status.last_success.map(|at| LastSuccess::new(at, now)),
            daemon: DaemonView::of(status, true, config),
        }
    }
}

impl LastSuccess {
    fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { at, age_seconds: now.since(at).as_secs() }
    }
}

impl AgentStatus {
    /// Reads the state directory. One that does not exist yet is that of a host that
    /// has never synced.
    ///
    /// # Errors
    /// If a database cannot be read.
    pub fn read(
        config: &Config,
        state_dir: &Path,
        machine_id: Result<(MachineId, String), MachineIdProblem>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let store = present(Store::open_read_only(state_dir))?;
        let events = present(EventStore::open_read_only(state_dir))?;
        let events = events
            .as_ref()
            .map_or_else(|| Ok(QueueStatus::default()), |events| QueueStatus::read(events))?;
        let store = store.as_ref();
        let read = match store {
            Some(store) => StoreReading::of(store, config)?,
            None => StoreReading { history: left_records(state_dir), ..StoreReading::default() },
        };
        let (machine_id, machine_id_error) = match machine_id {
            Ok((id, _)) => (Some(id.as_str().to_owned()), None),
            Err(problem) => (None, Some(ErrorText::of(&problem))),
        };
        let daemon = DaemonView::read(config, state_dir);
        let failures = read.history.iter().take_while(|r| r.result != SyncResult::Success);
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            state_dir: state_dir.display().to_string(),
            server: config.sync_base_url.as_ref().map(ToString::to_string),
            machine_id,
            machine_id_error,
            client_mode: read.mode.name(),
            client_mode_held: read.mode_held,
            failures_in_a_row: failures.count(),
            warnings: read.standing.iter().map(ConditionReport::of).collect(),
            last_attempt: read.history.first().map(LastAttempt::of),
            last_success: read.last_success.map(|at| LastSuccess::new(at, now)),
            last_rule_sync: read.last_rule_sync,
            full_sync_interval: read.interval,
            clean_sync_requests: read.requests,
            rules: read.rules,
            events,
            client_certificate: certificate(config, now),
            authorizer: AuthorizerStatus::read(config, daemon.as_ref(), state_dir, now),
            daemon,
            settings: read.settings,
        })
    }

    /// Shows the server and the machine id of the daemon that runs, whose
    /// configuration may come from its own command line.
    pub fn use_daemons_configuration(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let configuration = &daemon.status.configuration;
        // A daemon of an older version does not report its configuration.
        if matches!(daemon.liveness, Liveness::Alive | Liveness::Stuck)
            && !configuration.digest.is_empty()
        {
            self.server.clone_from(&configuration.server);
            self.machine_id.clone_from(&configuration.machine_id);
            self.machine_id_error.clone_from(&configuration.machine_id_error);
        }
    }

    /// When a sync last succeeded.
    #[must_use]
    pub fn last_success_at(&self) -> Option<Timestamp> {
        self.last_success.as_ref().map(|success| success.at)
    }
}

/// What the store says.
#[derive(Default)]
struct StoreReading {
    mode: EffectiveMode,
    mode_held: Option<String>,
    standing: Vec<Standing>,
    history: Vec<SyncRecord>,
    last_success: Option<Timestamp>,
    last_rule_sync: Option<Timestamp>,
    interval: SyncInterval,
    requests: Vec<CleanSyncRequest>,
    rules: RulesStatus,
    settings: std::collections::BTreeMap<&'static str, String>,
}

/// MONITOR unless something else is in effect.
struct EffectiveMode(ClientMode);

impl Default for EffectiveMode {
    fn default() -> Self {
        Self(ClientMode::Monitor)
    }
}

impl EffectiveMode {
    fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl Default for SyncInterval {
    fn default() -> Self {
        Self { seconds: DEFAULT_SYNC_INTERVAL_SECS, origin: "default" }
    }
}

impl StoreReading {
    fn of(store: &ReadStore, config: &Config) -> Result<Self, StoreError> {
        let applied = store.applied_settings()?;
        let set = applied.client_mode.or(config.client_mode);
        let mode = store.client_mode(config.client_mode)?;
        let held =
            if set.is_some_and(|set| set != mode) { store.lockdown_held_back()? } else { None };
        let held = held.map(|held| held.words().to_owned());
        let interval = applied.full_sync_interval.map_or_else(SyncInterval::default, |seconds| {
            SyncInterval { seconds, origin: "server" }
        });
        let settings =
            applied.shown().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Ok(Self {
            mode: EffectiveMode(mode),
            mode_held: held,
            standing: run::standing(store, config)?,
            history: store.history(crate::store::RECORDS_KEPT)?,
            last_success: store.full_sync_last_success()?,
            last_rule_sync: store.rule_sync_last_success()?,
            interval,
            requests: store.clean_sync_requests()?,
            rules: RulesStatus {
                complete: store.rules_complete()?,
                hash: store.rules_hash()?,
                counts: store.rule_counts()?,
            },
            settings,
        })
    }
}

impl QueueStatus {
    fn read(store: &EventStore) -> Result<Self, StoreError> {
        let drops = store.drops()?;
        Ok(Self {
            pending: store.pending()?,
            oldest: store.oldest()?,
            dropped_queue_full: drops.queue_full,
            dropped_unsendable: drops.unsendable,
            rejected: store.rejected_count()?,
        })
    }
}

impl LastAttempt {
    fn of(record: &SyncRecord) -> Self {
        Self {
            at: record.started_at,
            id: record.id.clone(),
            trigger: record.trigger,
            result: record.result,
            sync_type: record.sync_type,
            duration_ms: record.duration_ms,
            warnings: record.warnings.clone(),
            error: record.error.clone(),
        }
    }
}

/// A store that does not exist yet is not an error.
fn present<T>(opened: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match opened {
        Ok(store) => Ok(Some(store)),
        Err(error) if error.is_unused() => Ok(None),
        Err(error) => Err(error),
    }
}

fn certificate(config: &Config, now: Timestamp) -> Option<CertificateStatus> {
    let file = config.client_auth_certificate_file.clone()?;
    let shown = file.display().to_string();
    let password = config.client_auth_certificate_password.clone();
    Some(match inspect_client_certificate(&ClientCertificate { file, password }) {
        Ok(facts) => CertificateStatus {
            file: shown,
            days_left: Some((facts.not_after.as_secs() - now.as_secs()).div_euclid(24 * 60 * 60)),
            subject: Some(facts.subject),
            not_after: Some(facts.not_after),
            error: None,
        },
        Err(failure) => CertificateStatus {
            file: shown,
            subject: None,
            not_after: None,
            days_left: None,
            error: Some(failure.to_string()),
        },
    })
}
