//! What an agent does itself, on the files of its state directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::control::message::{Decision, RequestedBundle};
use crate::failure::{ErrorText, Failure, FailureKind, Remedy};
use crate::host::{self, AuthorizerReport, MachineIdProblem, RememberingHost, SystemHost};
use crate::ingest::{IngestedEvent, ingest_lines};
use crate::model::{
    CleanSyncRequest, Executable, Settings, StaticRules, SyncRecord, SyncResult, SyncType,
};
use crate::protocol::events::IngestPolicy;
use crate::store::{self, EventStore, Notice, ReadEvents, ReadStore, StateLock, Store, StoreError};
use crate::sync::Stop;
use crate::sync::progress::Observer;
use crate::sync::run::{self, SyncError, SyncHost, SyncOptions};
use crate::sync::upload::{self, UploadReport};

use super::{AgentError, AgentStatus};

/// An agent of this process. A clone shares the opened event queue.
#[derive(Clone, Debug)]
pub struct LocalAgent {
    state_dir: PathBuf,
    config: Arc<Config>,
    clock: SystemClock,
    lock_wait: Option<Duration>,
    /// Stays open: it remembers which events it took in lately.
    queue: Arc<Mutex<Option<EventStore>>>,
}

impl LocalAgent {
    /// An agent on a state directory, with this configuration. Neither touches
    /// the directory nor checks the configuration.
    pub fn new(state_dir: impl Into<PathBuf>, config: impl Into<Arc<Config>>) -> Self {
        Self {
            state_dir: state_dir.into(),
            config: config.into(),
            clock: SystemClock::new(),
            lock_wait: None,
            queue: Arc::default(),
        }
    }

    /// Reads the time from another clock.
    #[must_use]
    pub fn with_clock(self, clock: SystemClock) -> Self {
        Self { clock, ..self }
    }

    /// Waits no longer than this for a program that holds `rules.db` for itself.
    #[must_use]
    pub fn with_lock_wait(self, wait: Duration) -> Self {
        Self { lock_wait: Some(wait), ..self }
    }

    /// The same agent after a change of the configuration.
    #[must_use]
    pub fn with_config(&self, config: Arc<Config>) -> Self {
        Self { config, ..self.clone() }
    }

    /// The directory with rules, events and settings.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Opens the rules for reading.
    ///
    /// # Errors
    /// If they cannot be read, or no sync has been made yet.
    pub fn rules(&self) -> Result<ReadStore, StoreError> {
        match self.lock_wait {
            Some(wait) => Store::open_read_only_within(&self.state_dir, wait),
            None => Store::open_read_only(&self.state_dir),
        }
    }

    /// Opens the event queue for reading; `None` if no event was ever queued.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn events(&self) -> Result<Option<ReadEvents>, StoreError> {
        match EventStore::open_read_only(&self.state_dir) {
            Ok(queue) => Ok(Some(queue)),
            Err(StoreError::Missing { .. }) if self.state_dir.is_dir() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks up which rule decides about an executable: those of the
    /// configuration first, then those of the store. `with_since` also finds out
    /// since when it does, which takes longer.
    ///
    /// # Errors
    /// If the rules cannot be read.
    pub fn decide(
        &self,
        executable: &Executable,
        with_since: bool,
    ) -> Result<Decision, StoreError> {
        let store = self.rules()?;
        let settings = self.config.as_settings().overlaid(&store.applied_settings()?);
        let transitive = settings.enable_transitive_rules.unwrap_or(false);
        let static_rules = StaticRules::new(self.config.static_rules.iter().cloned());
        let found = store.lookup(executable, &static_rules, transitive)?;
        Decision::new(&store, found, with_since)
    }

    /// Queues events, one JSON object a line; as `events add` reads them.
    ///
    /// # Errors
    /// If they cannot be written; then none of them is queued.
    pub fn add_events(&self, lines: &[impl AsRef<[u8]>]) -> Result<Vec<IngestedEvent>, StoreError> {
        let now = self.clock.now();
        let policy = self.ingest_policy()?;
        let limits = run::queue_limits(&self.config);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let store = if let Some(store) = &mut *queue {
            store
        } else {
            let (store, notices) = EventStore::open(&self.state_dir, now.wall)?;
            for notice in notices {
                if let Notice::SetAside { path, reason } = notice {
                    let path = path.display();
                    tracing::warn!(reason, "the event queue was corrupt; it is now {path}");
                }
            }
            queue.insert(store)
        };
        let added = ingest_lines(store, policy, limits, lines, now);
        if added.is_err() {
            // The file may have been moved away.
            *queue = None;
        }
        added
    }

    /// Which events are queued: what the server's settings say, and where they
    /// say nothing the configuration.
    fn ingest_policy(&self) -> Result<IngestPolicy, StoreError> {
        let applied = match Store::open_read_only(&self.state_dir) {
            Ok(store) => store.applied_settings()?,
            Err(error) if error.is_unused() => Settings::default(),
            Err(error) => return Err(error),
        };
        Ok(IngestPolicy::new(
            &applied,
            self.config.enable_all_event_upload,
            self.config.disable_unknown_event_upload,
        ))
    }

    /// Returns how many events have been dropped because the queue was full.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn events_dropped(&self) -> Result<u64, StoreError> {
        match EventStore::open_read_only(&self.state_dir) {
            Ok(queue) => Ok(queue.drops()?.queue_full),
            Err(error) if error.is_unused() => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Returns the bundles whose executables the server waits for, oldest first.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn bundle_requests(&self) -> Result<Vec<RequestedBundle>, StoreError> {
        let Some(queue) = self.events()? else { return Ok(Vec::new()) };
        Ok(queue.open_bundle_requests()?.into_iter().map(Into::into).collect())
    }

    /// Returns the records of the last syncs, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn history(&self, limit: u32) -> Result<Vec<SyncRecord>, StoreError> {
        match self.rules() {
            Ok(store) => store.history(limit),
            Err(StoreError::Missing { .. }) => Ok(store::left_records(&self.state_dir)),
            Err(error) => Err(error),
        }
    }

    /// Reads how syncing stands. A state directory that does not exist yet is that
    /// of a host that has never synced.
    ///
    /// # Errors
    /// If a database cannot be read.
    pub fn status(&self) -> Result<AgentStatus, StoreError> {
        let source = RememberingHost::new(SystemHost, &self.state_dir);
        let machine_id = host::machine_id(&self.config, &source);
        AgentStatus::read(&self.config, &self.state_dir, machine_id, self.clock.now().wall)
    }

    /// Withdraws the operator's request for a clean sync. Returns whether there
    /// was one, and the requests that stay because the store needs what they ask
    /// for.
    ///
    /// # Errors
    /// If a sync runs, or the store cannot be written.
    pub fn forget_clean_sync(&self) -> Result<(bool, Vec<CleanSyncRequest>), AgentError> {
        let _lock = StateLock::acquire_existing(&self.state_dir)?;
        let (mut store, _) = Store::open(&self.state_dir, self.clock.now().wall)?;
        Ok((store.forget_clean_sync()?, store.clean_sync_requests()?))
    }

    /// Makes one sync on this thread and returns its record, also if it could not
    /// begin. Blocks; sending a reason to `stop` ends it in good order.
    pub fn sync(
        &self,
        options: SyncOptions,
        observer: &mut dyn Observer,
        stop: Stop,
    ) -> SyncRecord {
        let began = self.clock.now().wall;
        let requested = options.clean.unwrap_or(SyncType::Normal);
        let not_begun = |result: SyncResult, error: &dyn Remedy| {
            let ErrorText { message, fix } = ErrorText::of(error);
            let record =
                SyncRecord::not_begun(result, message, fix, options.trigger, began, requested);
            if !options.dry_run && result != SyncResult::TooManySyncs {
                self.leave(&record);
            }
            record
        };
        if self.config.sync_base_url.is_none() {
            let error = SyncError::MissingSyncBaseUrl;
            return not_begun(error.result(), &error);
        }
        let done = self.on_runtime(async |host| {
            run::run_sync(host, options, &self.clock, observer, stop).await
        });
        match done {
            Ok(Ok(record)) => record,
            Ok(Err(error)) => not_begun(error.result(), &error),
            Err(NotReady::MachineId(problem)) => not_begun(SyncResult::MissingMachineId, &problem),
            Err(NotReady::Runtime(error)) => {
                let what = format!("cannot start the asynchronous runtime: {error}");
                not_begun(SyncResult::InternalError, &Failure::new(FailureKind::Cancelled, what))
            }
        }
    }

    /// Uploads the queued events on this thread (EV-10). Blocks.
    pub fn upload_events(&self, stop: Stop) -> UploadReport {
        match self.on_runtime(async |host| upload::run(host, &self.clock, stop).await) {
            Ok(report) => report,
            Err(NotReady::MachineId(problem)) => UploadReport::failed(problem.with_fix()),
            Err(NotReady::Runtime(error)) => {
                UploadReport::failed(format!("cannot start the asynchronous runtime: {error}"))
            }
        }
    }

    /// Runs `work` for this host on an asynchronous runtime of its own.
    fn on_runtime<T>(&self, work: impl AsyncFnOnce(&SyncHost<'_>) -> T) -> Result<T, NotReady> {
        let source = RememberingHost::new(SystemHost, &self.state_dir);
        let heard = AuthorizerReport::read(&self.state_dir);
        let relay = self.config.relay.as_ref();
        let authorizer = AuthorizerReport::state(heard.as_ref(), relay, self.clock.now().wall);
        let report = host::facts(&self.config, &source).with_authorizer(heard.as_ref(), authorizer);
        let (machine_id, _) = report.machine_id.map_err(NotReady::MachineId)?;
        let proxy = host::with_system_proxies(&self.config.proxy, &source);
        let config = Config { proxy, ..Config::clone(&self.config) };
        let host = SyncHost {
            config: &config,
            state_dir: &self.state_dir,
            machine_id,
            facts: report.facts,
            authorizer,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(NotReady::Runtime)?;
        let done = runtime.block_on(work(&host));
        if let Some(known) = report.known {
            known.keep(&self.state_dir);
        }
        // A thread that still waits for a lock or for DNS must not delay the exit.
        runtime.shutdown_background();
        Ok(done)
    }

    /// Keeps the record of a sync that could not begin, where one can be written.
    fn leave(&self, record: &SyncRecord) {
        let left = Store::prepare_dir(&self.state_dir)
            .and_then(|()| store::leave_record(&self.state_dir, None, record));
        if let Err(error) = left {
            tracing::debug!(%error, "the sync leaves no record");
        }
    }
}

/// Why this host cannot do anything with a server.
enum NotReady {
    MachineId(MachineIdProblem),
    Runtime(io::Error),
}
