//! The loop: one event at a time, each handled without waiting for anything that
//! may not come.

mod prompt_upload;
mod publish;
mod relay;
mod reload;
mod requests;
mod state_dir;

use self::reload::Vanished;
use std::borrow::Cow;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::control::server::{self, DaemonEvent, LoopRequest, Socket};
use super::instance_lock::InstanceLock;
use super::network::Network;
use super::own_program::OwnProgram;
use super::signals::Caught;
use super::source_watch::{self, SourceWatch};
use super::sync_process::order::{self, ChildMessage, Order, SyncOrder};
use super::sync_process::parent::{self, ProcessEnd, ProcessFailure, Supervision, SyncPhase};
use super::sync_process::summary::StoreSummary;
use super::systemd::Watchdog;
use super::{DaemonError, Options, metrics, systemd};
use crate::clock::{Alarm, Clock as _};
use crate::config::Loaded;
use crate::control::configuration::ConfigurationReport;
use crate::control::moment::Stamp;
use crate::control::status::{Activity, Incident, LastSync, PromptUpload};
use crate::failure::{Failure, FailureKind, Remedy};
use crate::host::{self, RememberingHost, SystemHost};
use crate::model::{
    DEFAULT_SYNC_INTERVAL_SECS, LogLevel, Now, SyncReason, SyncRecord, SyncResult, SyncType,
    Trigger,
};
use crate::relay::worker::RelayCommand;
use crate::sync::progress::SyncStep;
use crate::sync::run::SyncError;
use crate::sync::schedule::{PromptSchedule, Requester, Schedule, SyncEnd, splay_number};

/// From the deadline of a sync to the end of its process: the sync sees to its
/// deadline itself, and this is for one that does not.
const DEADLINE_GRACE: Duration = Duration::from_secs(30);
/// How long the process of a sync may take to end with the daemon.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);
/// From the end of a sync to that of a daemon that restarts after it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Lines a slow client may lag behind.
const EVENT_BACKLOG: usize = 256;

/// A sync that has been requested and has not begun.
#[derive(Default)]
struct PendingSync {
    clean: Option<SyncType>,
    manual: bool,
    /// Whether the owner requested it, or only the group.
    owner: bool,
    /// Who waits for its end. Empty if only a signal requested it.
    waiters: Vec<oneshot::Sender<Arc<SyncRecord>>>,
}

/// The sync that runs.
struct RunningSync {
    task: JoinHandle<ProcessEnd>,
    phases: watch::Receiver<SyncPhase>,
    phase: SyncPhase,
    errand: SyncOrder,
    /// When it entered its phase.
    began: Now,
    stamp: Stamp,
    /// How long it may take from its begin.
    limit: Duration,
    waiters: Vec<oneshot::Sender<Arc<SyncRecord>>>,
}

pub(super) struct EventLoop {
    options: Options,
    state_dir: PathBuf,
    instance_lock: InstanceLock,
    /// The state directory does not exist, which has been logged.
    lost: bool,
    socket: Option<Socket>,
    commands: mpsc::Sender<LoopRequest>,
    alarm: Alarm,
    loaded: Arc<Loaded>,
    refused: Option<String>,
    /// What the service manager was last told that the daemon does.
    notified: &'static str,
    sources: SourceWatch,
    /// What a sync needs besides the values of the configuration.
    access: reload::Access,
    /// The file of this program, if the daemon is to end once it is another one.
    own_program: Option<OwnProgram>,
    /// When to look at it again.
    look_again_at: Option<Duration>,
    /// When to read the configuration because a source has changed.
    reload_at: Option<Duration>,
    /// Since when a source of the configuration in effect is missing.
    source_missing_since: Option<Duration>,
    configuration: ConfigurationReport,
    level: LogLevel,
    /// The level that a client set, which holds until the daemon ends.
    asked_level: Option<LogLevel>,
    schedule: Schedule,
    prompt: PromptSchedule,
    uploading: Option<JoinHandle<ProcessEnd>>,
    prompt_upload: Option<PromptUpload>,
    network: Network,
    /// The name of this boot, if it has one.
    boot_id: Option<String>,
    started: Now,
    started_stamp: Stamp,
    syncs: u64,
    waiting: PendingSync,
    running: Option<RunningSync>,
    last_sync: Option<LastSync>,
    last_panic: Option<Incident>,
    last_hang: Option<Incident>,
    summary: Option<Box<StoreSummary>>,
    relay: Option<relay::Relay>,
    relay_sockets: relay::RelaySockets,
    counters: metrics::Counters,
    events: broadcast::Sender<DaemonEvent>,
    stop: watch::Sender<bool>,
    configured: watch::Sender<Arc<Loaded>>,
    /// Files that could not be written, each logged once until it can be again.
    unwritable: Vec<PathBuf>,
}

impl EventLoop {
    pub(super) fn new(
        mut options: Options,
        state_dir: PathBuf,
        instance_lock: InstanceLock,
    ) -> Result<(Self, mpsc::Receiver<LoopRequest>), DaemonError> {
        let (commands, requests) = mpsc::channel(server::MAX_CLIENTS);
        let alarm = Alarm::new(options.clock)?;
        let now = alarm.now();
        let loaded = Arc::new(options.loaded.clone());
        let machine_id =
            host::machine_id(&loaded.config, &RememberingHost::new(SystemHost, &state_dir));
        let host = machine_id.map_or(0, |(id, _)| splay_number(&id));
        let level = options.level.unwrap_or(loaded.config.log_level);
        (options.set_level)(level);
        let configuration = reload::examine(&loaded, &state_dir);
        let own_program = options.own_program.take().and_then(OwnProgram::new);
        let watched = reload::watched_files(&options, &loaded, own_program.as_ref());
        let network = std::mem::replace(&mut options.network, Box::new(super::network::source));
        let event_loop = Self {
            state_dir,
            instance_lock,
            lost: false,
            socket: None,
            commands,
            alarm,
            refused: None,
            notified: "waiting for the first sync",
            access: reload::access(&configuration),
            sources: source_watch::arm(watched).connect(),
            own_program,
            look_again_at: None,
            reload_at: None,
            source_missing_since: None,
            configuration,
            level,
            asked_level: None,
            schedule: Schedule::new(now, host),
            prompt: PromptSchedule::default(),
            uploading: None,
            prompt_upload: None,
            network: Network::new(network),
            boot_id: host::boot_id(&SystemHost),
            started: now,
            started_stamp: Stamp::now(options.clock.now()),
            syncs: 0,
            waiting: PendingSync::default(),
            running: None,
            last_sync: None,
            last_panic: None,
            last_hang: None,
            summary: None,
            relay: None,
            relay_sockets: relay::RelaySockets::take(),
            counters: metrics::Counters::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            stop: watch::channel(false).0,
            configured: watch::channel(Arc::clone(&loaded)).0,
            loaded,
            options,
            unwritable: Vec::new(),
        };
        Ok((event_loop, requests))
    }

    pub(super) async fn serve(
        mut self,
        mut requests: mpsc::Receiver<LoopRequest>,
    ) -> Result<(), DaemonError> {
        // Catching a signal would undo that it is ignored, and whoever started
        // this process meant that: nohup, or the shell of a background job.
        let ignored = host::ignored_signals(&SystemHost);
        let mut interrupt = Caught::unless(ignored.interrupt, SignalKind::interrupt())?;
        let mut terminate = Caught::unless(ignored.terminate, SignalKind::terminate())?;
        let mut hang_up = Caught::unless(ignored.hang_up, SignalKind::hangup())?;
        let mut user = signal(SignalKind::user_defined1())?;
        let mut watchdog = Watchdog::new();
        self.socket = self.listen();
        self.update_relay().await;
        self.publish();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            state_dir = %self.state_dir.display(),
            server = self.loaded.config.sync_base_url.as_ref().map(ToString::to_string),
            first_sync_s = self.schedule.left(self.alarm.now()).map(|left| left.as_secs()),
            "daemon started"
        );
        systemd::ready(self.notified);

        let reason = loop {
            if self.is_to_restart() {
                break "the program was replaced; the service manager starts the new one";
            }
            let due = self.due();
            tokio::select! {
                biased;
                () = interrupt.came() => break "SIGINT",
                () = terminate.came() => break "SIGTERM",
                () = hang_up.came() => self.reload_on_signal().await,
                Some(()) = user.recv() => {
                    info!("sync requested by SIGUSR1");
                    self.schedule.ask(Requester::Owner, self.alarm.now());
                    self.publish();
                }
                happened = happened(&mut self.running) => match happened {
                    Happened::Phase(phase) => self.entered(phase),
                    Happened::Ended(ended) => self.ended(*ended),
                },
                ended = upload_ended(&mut self.uploading) => self.upload_ended(ended),
                // Before the clients: no flood of requests keeps a sync away.
                () = ring(&self.alarm, due) => self.begin().await,
                Some(request) = requests.recv() => self.handle(request),
                () = self.sources.changed() => self.source_changed().await,
                () = self.network.changed() => {
                    debug!("the network has changed");
                    self.schedule.network_changed(self.alarm.now(), random());
                    self.publish();
                }
                news = relay::news(&mut self.relay) => self.relay_news(news),
                () = watchdog.tick() => {}
            }
        };
        self.end(reason).await;
        Ok(())
    }

    /// Starts a sync, if one is due.
    async fn begin_sync(&mut self) {
        self.reload(Vanished::MayReturn).await;
        let now = self.alarm.now();
        let Some(why) = self.schedule.begin(now) else { return };
        let PendingSync { clean, manual, waiters, owner: _ } = std::mem::take(&mut self.waiting);
        let is_manual = why == SyncReason::Asked && manual;
        let trigger = if is_manual { Trigger::Manual } else { why.trigger() };
        let errand = SyncOrder { trigger, clean };
        if self.loaded.config.sync_base_url.is_none() {
            info!("no SyncBaseURL is configured; nothing to sync with");
            let error = SyncError::MissingSyncBaseUrl;
            let record = not_begun(error.result(), &error, errand, now);
            self.schedule.end(now, SyncEnd::Nothing, None, random());
            self.report_end(record, waiters);
            self.publish();
            return;
        }
        if why == SyncReason::Network {
            info!("the network has changed since the last sync failed; trying again");
        }
        if let Err(error) = self.keep_place() {
            warn!(%error, fix = error.fix().as_deref(), "no sync: the state directory cannot be used");
            let record = not_begun(SyncResult::StateUnusable, &error, errand, now);
            self.schedule.end(now, SyncEnd::Failure, None, random());
            self.report_end(record, waiters);
            self.publish();
            return;
        }
        // What changes while a sync runs counts, should it fail.
        self.network.listen(true);
        self.syncs += 1;
        let program = (self.options.program)(self.syncs, self.level.name());
        let order = order::encode(Order::Sync(errand), &self.loaded.effective);
        let limit = self.loaded.config.sync_deadline + DEADLINE_GRACE;
        let phase = watch::channel(SyncPhase::Starting).0;
        let phases = phase.subscribe();
        let clock = Arc::new(self.options.clock);
        let watch = Supervision { clock, limit, stop: self.stop.subscribe(), phase };
        let (number, events) = (self.syncs, self.events.clone());
        let committed = self.relay_teller();
        // Nobody may listen.
        let forward = move |line| {
            let _ = match line {
                ChildMessage::Step(step) => {
                    if matches!(step, SyncStep::Committed { .. }) {
                        committed();
                    }
                    events.send(DaemonEvent::Step(number, step))
                }
                ChildMessage::Notification { application, identifier } => {
                    events.send(DaemonEvent::Notification { application, identifier })
                }
                ChildMessage::Panicked { .. }
                | ChildMessage::Uploaded { .. }
                | ChildMessage::Ended { .. }
                | ChildMessage::InLine { .. }
                | ChildMessage::Begun => return,
            };
        };
        debug!(number, ?trigger, program = %program.path.display(), "a sync's process starts");
        let task = tokio::spawn(parent::run(program, order, watch, forward));
        let (phase, stamp) = (SyncPhase::Starting, self.stamp());
        self.running =
            Some(RunningSync { task, phases, phase, errand, began: now, stamp, limit, waiters });
        self.publish();
        self.notify("a sync runs");
    }

    /// The process of the sync has entered another phase.
    fn entered(&mut self, phase: SyncPhase) {
        let (now, stamp) = (self.alarm.now(), self.stamp());
        if let Some(running) = &mut self.running {
            (running.phase, running.began, running.stamp) = (phase, now, stamp);
        }
        self.publish();
        self.notify(match phase {
            SyncPhase::InLine => "a sync waits for one of another process to end",
            SyncPhase::Starting | SyncPhase::Begun => "a sync runs",
        });
    }

    fn ended(&mut self, (running, ended): (RunningSync, ProcessEnd)) {
        let now = self.alarm.now();
        let ProcessEnd { record, summary, trouble, uploaded: _ } = ended;
        if let Some(trouble) = &trouble {
            let incident = Incident { at: now.wall, message: trouble.message().to_owned() };
            error!(error = incident.message, "a sync died or did not end");
            match trouble {
                ProcessFailure::Died(_) => self.last_panic = Some(incident),
                ProcessFailure::Hung(_) => self.last_hang = Some(incident),
            }
        }
        let record = record.map_or_else(
            || {
                let message = trouble.map_or_else(String::new, |t| t.message().to_owned());
                let failure = Failure::new(FailureKind::Cancelled, message)
                    .fixed_by("see the log of the daemon");
                not_begun(SyncResult::InternalError, &failure, running.errand, running.began)
            },
            |record| *record,
        );
        let events_left = summary.as_ref().map(|summary| summary.events_pending);
        if summary.is_some() {
            self.summary = summary;
        }
        // An authorizer that is silent does not come back for more syncs.
        let events_only = record.result == SyncResult::AuthorizerStale;
        let done = events_only || record.result == SyncResult::Success;
        let end = if done { SyncEnd::Success } else { SyncEnd::Failure };
        let interval = self
            .summary
            .as_ref()
            .map(|summary| summary.full_sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL_SECS));
        self.schedule.end(now, end, interval, random());
        self.prompt.sync_ended(running.began.elapsed, events_left);
        self.network.listen(self.schedule.heeds_network());
        debug!(
            next_sync_s = self.schedule.left(now).map(|left| left.as_secs()),
            failures = self.schedule.failures(),
            "the next sync"
        );
        self.tell_relay(RelayCommand::SyncEnded);
        self.counters.count(&record);
        self.report_end(record, running.waiters);
        if self.own_program.as_ref().is_some_and(OwnProgram::is_replaced) {
            // Whoever waits for the sync gets its record first.
            self.look_again_at = Some(now.elapsed + LAST_WORDS);
        }
        self.publish();
        self.write_metrics();
        self.notify(match end {
            _ if events_only => "the authorizer is silent: the last sync only uploaded events",
            SyncEnd::Success => "the last sync succeeded",
            SyncEnd::Failure | SyncEnd::Nothing => "the last sync failed",
        });
    }

    fn report_end(&mut self, record: SyncRecord, waiters: Vec<oneshot::Sender<Arc<SyncRecord>>>) {
        self.last_sync = Some(LastSync::of(&record));
        let record = Arc::new(record);
        for asker in waiters {
            // It may have gone away.
            let _ = asker.send(Arc::clone(&record));
        }
        let _ = self.events.send(DaemonEvent::Synced(record));
    }

    async fn end(mut self, reason: &'static str) {
        info!(reason, "daemon stops");
        systemd::stopping();
        self.stop.send_replace(true);
        self.stop_relay().await;
        if let Some(running) = self.running.take()
            && timeout(STOP_TIMEOUT, running.task).await.is_err()
        {
            warn!("the sync's process does not end; leaving it");
        }
        if let Some(uploading) = self.uploading.take() {
            // It was told to stop at the same time.
            let _ = timeout(Duration::from_millis(200), uploading).await;
        }
        if !self.instance_lock.holds(&self.state_dir) {
            info!("daemon stopped; the state directory does not exist");
            return;
        }
        if let Err(error) = self.status(Activity::Stopped).write(&self.state_dir) {
            warn!(%error, "daemon.json cannot be written");
        }
        info!("daemon stopped");
    }
}

/// Waits for the end of the running upload; never completes without one.
async fn upload_ended(uploading: &mut Option<JoinHandle<ProcessEnd>>) -> ProcessEnd {
    let Some(task) = uploading else { return std::future::pending().await };
    let ended = task.await.unwrap_or_else(|error| ProcessEnd {
        trouble: Some(ProcessFailure::Died(format!("watching its process failed: {error}"))),
        ..ProcessEnd::default()
    });
    *uploading = None;
    ended
}

/// News of the running sync.
enum Happened {
    Phase(SyncPhase),
    Ended(Box<(RunningSync, ProcessEnd)>),
}

/// Waits for news of the running sync; never completes without one.
async fn happened(running: &mut Option<RunningSync>) -> Happened {
    let Some(of) = running else { return std::future::pending().await };
    let ended = tokio::select! {
        biased;
        Ok(()) = of.phases.changed() => {
            return Happened::Phase(*of.phases.borrow_and_update());
        }
        ended = &mut of.task => ended,
    };
    let ended = ended.unwrap_or_else(|error| ProcessEnd {
        trouble: Some(ProcessFailure::Died(format!(
            "watching the process of the sync failed: {error}"
        ))),
        ..ProcessEnd::default()
    });
    match running.take() {
        Some(of) => Happened::Ended(Box::new((of, ended))),
        // It was there a moment ago.
        None => std::future::pending().await,
    }
}

async fn ring(alarm: &Alarm, due: Option<Duration>) {
    match due {
        Some(due) => alarm.ring(due).await,
        None => std::future::pending().await,
    }
}

/// The record of a sync whose process left none.
fn not_begun(result: SyncResult, error: &impl Remedy, errand: SyncOrder, began: Now) -> SyncRecord {
    let (message, fix) = (error.to_string(), error.fix().map(Cow::into_owned));
    let requested = errand.clean.unwrap_or(SyncType::Normal);
    SyncRecord::not_begun(result, message, fix, errand.trigger, began.wall, requested)
}

/// A number in 0..1 that other hosts do not draw at the same time.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
