//! One whole sync of a host: the lock, the stores, the transport, the driver,
//! and at the end the notifications.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tracing::warn;

use super::progress::{Observer, SyncProgress, When};
use super::{Driver, Stop, Stores, SyncSpec, events_warning, notify, prepare, prepare_dry};
use crate::clock::Clock;
use crate::config::Config;
use crate::failure::{Failure, Remedy};
use crate::model::{
    AuthorizerState, BaseUrl, HostFacts, MachineId, Policy, Rule, RuleCounts, RuleType, Stage,
    SyncRecord, SyncResult, SyncType, SyncWarning, Trigger,
};
use crate::store::{
    EventStore, Limits, LockError, Notice, RuleGuard, Standing, StateLock, Store, StoreError,
};
use crate::transport::{self, Transport};

/// How long a sync waits for its place before it says so.
pub const QUIET_WAIT: Duration = Duration::from_secs(1);

/// The host and its configuration.
#[derive(Debug)]
pub struct SyncHost<'a> {
    /// The configuration in effect.
    pub config: &'a Config,
    /// Where the stores are.
    pub state_dir: &'a Path,
    /// The id the server knows this host by.
    pub machine_id: MachineId,
    /// The facts that preflight reports.
    pub facts: HostFacts,
    /// What is known of the authorizer that the relay serves.
    pub authorizer: AuthorizerState,
}

/// How one sync is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// What it was started by.
    pub trigger: Trigger,
    /// The clean sync that the operator requests.
    pub clean: Option<SyncType>,
    /// Change nothing.
    pub dry_run: bool,
    /// Wait for a running sync instead of ending with `too_many_syncs`.
    pub wait: bool,
    /// Commit the rules even if `GuardRemovedPercent` stops them (RULE-11).
    pub past_guard: bool,
}

impl SyncOptions {
    /// An ordinary sync, which waits for one that runs.
    #[must_use]
    pub const fn of(trigger: Trigger) -> Self {
        Self { trigger, clean: None, dry_run: false, wait: true, past_guard: false }
    }
}

/// Why a sync did not begin.
#[derive(Debug, Error)]
pub enum SyncError {
    /// No server is configured.
    #[error("no SyncBaseURL is configured")]
    MissingSyncBaseUrl,
    /// Others sync already, or the directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A place for a dry run without a store cannot be made.
    #[error("cannot make a temporary directory for the dry run: {0}")]
    Scratch(std::io::Error),
    /// The thread that waits for the lock died.
    #[error("waiting for the state directory failed: {0}")]
    Waiting(tokio::task::JoinError),
    /// The sync was asked to stop before it began.
    #[error("the sync was stopped while another one ran: {0}")]
    Stopped(&'static str),
}

impl Remedy for SyncError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::MissingSyncBaseUrl => {
                Some("set it in the profile, or try --set SyncBaseURL=https://host/path/".into())
            }
            Self::Lock(error) => error.fix(),
            Self::Store(error) => error.fix(),
            Self::Scratch(_) => Some("check the space and the mode of TMPDIR".into()),
            Self::Waiting(_) | Self::Stopped(_) => None,
        }
    }
}

impl SyncError {
    /// The result to report.
    #[must_use]
    pub const fn result(&self) -> SyncResult {
        match self {
            Self::MissingSyncBaseUrl => SyncResult::MissingSyncBaseUrl,
            Self::Lock(LockError::TooManySyncs(_)) | Self::Stopped(_) => SyncResult::TooManySyncs,
            Self::Lock(LockError::NotAFile { .. } | LockError::Unusable { .. })
            | Self::Store(_)
            | Self::Scratch(_) => SyncResult::StateUnusable,
            Self::Waiting(_) => SyncResult::InternalError,
        }
    }
}

/// Runs one sync and returns its record. A sync that failed has a record, too.
///
/// # Errors
/// If the sync could not begin.
pub async fn run_sync(
    host: &SyncHost<'_>,
    wanted: SyncOptions,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
    stop: Stop,
) -> Result<SyncRecord, SyncError> {
    let base_url = host.config.sync_base_url.clone().ok_or(SyncError::MissingSyncBaseUrl)?;
    let request = request(host, &base_url, wanted);
    let mut announced = Announced { inner: observer, announcements: Vec::new() };
    let record = if wanted.dry_run {
        dry_run(host, &base_url, &request, clock, &mut announced, stop.clone()).await?
    } else {
        let _lock = lock(host.state_dir, wanted.wait, stop.clone(), clock, &mut announced).await?;
        announced.progress(&SyncProgress::Begun);
        let now = clock.now().wall;
        let (mut store, mut notices) = Store::open(host.state_dir, now)?;
        let mut warnings = Vec::new();
        let mut events = match EventStore::open(host.state_dir, now) {
            Ok((mut events, more)) => {
                notices.extend(more);
                events.set_limits(queue_limits(host.config));
                drain_also(&mut events, host.config);
                events
            }
            Err(error) => {
                warn!(%error, fix = error.fix().as_deref(), "the sync runs without events");
                warnings.push(events_warning(&error));
                EventStore::unavailable(host.state_dir)?
            }
        };
        report(&notices);
        warnings.extend(notices.iter().filter_map(warning));
        let mut inputs = prepare(&mut store, &events, &request, now)?;
        inputs.warnings.extend(warnings);
        let transport = transport(host, base_url);
        let driver = Driver {
            stores: Stores::Live {
                store: &mut store,
                events: &mut events,
                guard: guard(host.config, wanted),
            },
            transport: transport.as_ref().map_err(Failure::clone),
            transfer: host.config.transfer,
            clock,
            observer: &mut announced,
            stop: stop.clone(),
        };
        let record = driver.run(inputs).await;
        warn_of_standing(&store, host.config);
        record
    };
    if let Some(hook) = &host.config.notification_hook {
        notify::run_hook(hook, &announced.announcements, stop).await;
    }
    Ok(record)
}

/// RULE-11: the guard of the configuration, unless this sync may pass it.
fn guard(config: &Config, wanted: SyncOptions) -> Option<RuleGuard> {
    config.guard_removed_percent.filter(|_| !wanted.past_guard).map(RuleGuard::new)
}

/// Logs the conditions of the store that deserve a warning, once a sync.
fn warn_of_standing(store: &Store, config: &Config) {
    match standing(store, config) {
        Ok(standing) => {
            for warning in standing {
                warn!(fix = warning.fix(), "{warning}");
            }
        }
        Err(error) => {
            warn!(%error, fix = error.fix().as_deref(), "cannot read whose settings and rules are in effect");
        }
    }
}

/// Returns the conditions of the store that deserve a warning under this
/// configuration.
///
/// # Errors
/// If the store cannot be read.
pub fn standing(store: &Store, config: &Config) -> Result<Vec<Standing>, StoreError> {
    let mode = store.client_mode(config.client_mode)?;
    store.standing(mode, config.static_rules.iter().any(Rule::may_allow))
}

async fn dry_run(
    host: &SyncHost<'_>,
    base_url: &BaseUrl,
    request: &SyncSpec,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
    stop: Stop,
) -> Result<SyncRecord, SyncError> {
    // A server that counts pages must not see two downloads of one host.
    let _lock = match StateLock::acquire_existing(host.state_dir) {
        Err(error @ LockError::TooManySyncs(_)) => return Err(error.into()),
        other => other.ok(),
    };
    let scratch;
    let store = match Store::open_read_only(host.state_dir) {
        Err(StoreError::Missing { .. }) => {
            scratch = tempfile::tempdir().map_err(SyncError::Scratch)?;
            drop(Store::open(scratch.path(), clock.now().wall)?);
            Store::open_read_only(scratch.path())?
        }
        other => other?,
    };
    let inputs = prepare_dry(&store, request)?;
    let transport = transport(host, base_url.clone());
    let driver = Driver {
        stores: Stores::Dry(&store),
        transport: transport.as_ref().map_err(Failure::clone),
        transfer: host.config.transfer,
        clock,
        observer,
        stop,
    };
    Ok(driver.run(inputs).await)
}

/// Takes the state directory, waiting in a thread of its own if need be. A wait
/// that is not over at once is reported.
async fn lock(
    state_dir: &Path,
    wait: bool,
    mut stop: Stop,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
) -> Result<StateLock, SyncError> {
    let dir = state_dir.to_owned();
    let mut waiting = tokio::task::spawn_blocking(move || {
        Store::prepare_dir(&dir)?;
        Ok::<_, SyncError>(StateLock::acquire(&dir, wait)?)
    });
    let mut reported = false;
    loop {
        tokio::select! {
            biased;
            locked = &mut waiting => return locked.map_err(SyncError::Waiting)?,
            reason = super::stopped(&mut stop) => return Err(SyncError::Stopped(reason)),
            () = clock.sleep(QUIET_WAIT), if !reported => {
                let behind = StateLock::holder(state_dir);
                tracing::info!(process = behind, "the sync waits for another one to end");
                observer.progress(&SyncProgress::InLine { behind });
                reported = true;
            }
        }
    }
}

/// The bounds of the event queue under this configuration.
#[must_use]
pub fn queue_limits(config: &Config) -> Limits {
    Limits { events: config.event_queue_limit, ..Limits::default() }
}

/// Opens another program's queue. If it cannot be opened, the sync goes on
/// without its events.
fn drain_also(events: &mut EventStore, config: &Config) {
    if let Some(path) = &config.events_database
        && let Err(error) = events.drain_also(path)
    {
        warn!(%error, fix = error.fix().as_deref(), "the events of EventsDatabase are not uploaded");
    }
}

fn report(notices: &[Notice]) {
    for notice in notices {
        match notice {
            Notice::Created { path } => {
                tracing::info!(path = %path.display(), "database created");
            }
            Notice::SetAside { path, reason } => {
                warn!(path = %path.display(), reason, "a corrupt database was set aside");
            }
            Notice::SettingsUnreadable { path } => {
                warn!(path = %path.display(), "the settings in effect cannot be read; none apply until the clean sync that is now requested");
            }
        }
    }
}

/// What the record of the sync says of it.
fn warning(notice: &Notice) -> Option<SyncWarning> {
    let (field, value, action) = match notice {
        Notice::Created { .. } => return None,
        Notice::SetAside { path, reason } => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let database = name.split(".corrupt-").next().unwrap_or_default().to_owned();
            (database, reason.as_str(), format!("damaged; set aside as {name} and created afresh"))
        }
        Notice::SettingsUnreadable { .. } => {
            let action = "none apply; a CLEAN_ALL sync is requested".to_owned();
            ("settings in effect".to_owned(), "cannot be read", action)
        }
    };
    Some(SyncWarning::new(Stage::Preflight, &field, value, action))
}

fn request(host: &SyncHost<'_>, base_url: &BaseUrl, wanted: SyncOptions) -> SyncSpec {
    let config = host.config;
    SyncSpec {
        base_url: base_url.clone(),
        machine_id: host.machine_id.clone(),
        host: host.facts.clone(),
        configured_mode: config.client_mode,
        static_rules: counts(&config.static_rules),
        hold_back_events_in_clean: config.enable_clean_sync_event_upload == Some(false),
        authorizer: host.authorizer,
        operator_clean: wanted.clean,
        trigger: wanted.trigger,
        deadline: config.sync_deadline,
    }
}

/// Static rules by type, as preflight counts them.
fn counts(rules: &[Rule]) -> RuleCounts {
    let of = |wanted: RuleType| {
        let n = rules.iter().filter(|rule| rule.identifier.rule_type() == wanted).count();
        u32::try_from(n).unwrap_or(u32::MAX)
    };
    let compiler = rules.iter().filter(|r| r.policy == Policy::AllowlistCompiler).count();
    RuleCounts {
        binary: of(RuleType::Binary),
        certificate: of(RuleType::Certificate),
        compiler: u32::try_from(compiler).unwrap_or(u32::MAX),
        transitive: 0,
        teamid: of(RuleType::TeamId),
        signingid: of(RuleType::SigningId),
        cdhash: of(RuleType::Cdhash),
    }
}

pub(super) fn transport(host: &SyncHost<'_>, base_url: BaseUrl) -> Result<Transport, Failure> {
    Transport::new(transport_options(
        host.config,
        base_url,
        host.machine_id.clone(),
        &host.facts.santa_version,
    ))
}

/// What the configuration says about the way to the server.
#[must_use]
pub fn transport_options(
    config: &Config,
    base_url: BaseUrl,
    machine_id: MachineId,
    santa_version: &str,
) -> transport::TransportOptions {
    let roots = match (&config.server_auth_roots_file, &config.server_auth_roots_data) {
        (Some(file), _) => transport::Roots::File(file.clone()),
        (None, Some(data)) => transport::Roots::Data(data.clone()),
        (None, None) => transport::Roots::Platform,
    };
    let client_certificate =
        config.client_auth_certificate_file.clone().map(|file| transport::ClientCertificate {
            file,
            password: config.client_auth_certificate_password.clone(),
        });
    transport::TransportOptions {
        transfer: config.transfer,
        content_encoding: config.content_encoding,
        extra_headers: config.extra_headers.clone(),
        user_agent: user_agent(santa_version),
        roots,
        client_certificate,
        proxy: config.proxy.clone(),
        disable_http2: config.disable_http2,
        ..transport::TransportOptions::new(base_url, machine_id)
    }
}

/// The value of `User-Agent` on a host with this Santa.
#[must_use]
pub fn user_agent(santa_version: &str) -> String {
    format!("santactl-sync/{santa_version} santa-sync/{}", env!("CARGO_PKG_VERSION"))
}

/// Forwards everything and collects the notifications for users.
struct Announced<'a> {
    inner: &'a mut dyn Observer,
    announcements: Vec<(String, String)>,
}

impl Observer for Announced<'_> {
    fn progress(&mut self, progress: &SyncProgress<'_>) {
        if let SyncProgress::Committed(committed) = progress {
            self.announcements.extend(committed.announce.iter().cloned());
        }
        self.inner.progress(progress);
    }

    fn checkpoint(&mut self, when: When, effect: &'static str) {
        self.inner.checkpoint(when, effect);
    }
}
