//! The relay's own thread: its server, its nudges, and what the daemon and it
//! tell each other. Nothing here blocks; what does runs in further threads.

mod validity;

use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle as Task, spawn_blocking};
use tokio::time::{sleep, timeout};

use self::validity::Validity;
use super::bounds::{BLOCKING_NAME, BLOCKING_THREADS};
use super::core::{Core, CoreError, RelayOptions};
use super::nudge::{LIMIT, NudgeEnd, Nudges};
use super::service::{News, RelayService};
use crate::clock::{Clock as _, SystemClock};
use crate::control::relay::{NudgeStatus, RelayStatus};
use crate::failure::ErrorText;
use crate::files;
use crate::model::Timestamp;
use crate::serve::{self, BindError, Limits, Listener};
use crate::sync::notify;
use crate::sync::progress::When;

/// The time between attempts to listen (RELAY-1).
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The time between attempts to renew the certificates. At the first attempt, those in use have
/// half of their life left, so there is no hurry.
const RENEW_AGAIN: Duration = Duration::from_mins(10);

/// The minimum time between two renewals: each ends all connections.
const RENEW_SPACING: Duration = Duration::from_secs(1);

/// How long answers that have begun may take once the relay is to end: the daemon
/// ends within 5 s (DAEMON-3).
const STOP_TIME: Duration = Duration::from_secs(4);

/// Certificates to serve with, and when to renew them.
#[derive(Clone, Debug)]
pub struct TlsSide {
    /// The server's side.
    pub config: Arc<ServerConfig>,
    /// The time from which all of them are valid. It is in the future if the clock was ahead when
    /// they were made and has been corrected.
    pub valid_from: Timestamp,
    /// When to renew them.
    pub renew_at: Timestamp,
}

/// Makes or reads the certificates that are valid at a time; the error is text for the
/// operator.
pub type TlsSource = Arc<dyn Fn(Timestamp) -> Result<TlsSide, ErrorText> + Send + Sync>;

/// What a relay's thread runs on.
pub struct WorkerOptions {
    /// What the relay does.
    pub relay: RelayOptions,
    /// The clock.
    pub clock: SystemClock,
    /// The source of the certificates; `None` without TLS.
    pub tls: Option<TlsSource>,
    /// A socket that the service manager handed over.
    pub socket: Option<TcpListener>,
}

impl std::fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerOptions").field("relay", &self.relay).finish_non_exhaustive()
    }
}

/// What the daemon tells the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayCommand {
    /// A sync that still runs has committed rules.
    Committed,
    /// A sync with the server has ended.
    SyncEnded,
    /// End, once answers that have begun are finished.
    Stop,
}

/// What the relay tells the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayNews {
    /// Its status has changed.
    Status,
    /// A denial was queued (EV-10).
    Denial,
    /// There is nothing to hand out: a sync with the server should begin.
    WantsSync,
    /// The authorizer has come back after a long time (RELAY-10).
    Returned,
}

/// A relay that runs.
#[derive(Debug)]
pub struct RelayHandle {
    commands: mpsc::UnboundedSender<RelayCommand>,
    news: mpsc::UnboundedReceiver<RelayNews>,
    status: watch::Receiver<RelayStatus>,
    thread: Option<JoinHandle<()>>,
    ended: watch::Receiver<bool>,
}

impl RelayHandle {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        self.status.borrow().clone()
    }

    /// Where others tell it something.
    #[must_use]
    pub fn commands(&self) -> mpsc::UnboundedSender<RelayCommand> {
        self.commands.clone()
    }

    /// Tells it something.
    pub fn tell(&self, command: RelayCommand) {
        // It has ended if nobody listens.
        let _ = self.commands.send(command);
    }

    /// Waits for the next news; for ever once it has ended.
    pub async fn news(&mut self) -> RelayNews {
        match self.news.recv().await {
            Some(news) => news,
            None => pending().await,
        }
    }

    /// Ends it, and waits for answers that have begun.
    pub async fn stop(mut self) {
        self.tell(RelayCommand::Stop);
        // Its thread has ended if the sender is gone.
        let _ = self.ended.wait_for(|ended| *ended).await;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a relay in a thread of its own.
///
/// # Errors
/// If the thread cannot be made.
pub fn start(options: WorkerOptions) -> io::Result<RelayHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(BLOCKING_NAME)
        .max_blocking_threads(BLOCKING_THREADS)
        // They end after a while without work.
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    let (commands, receiver) = mpsc::unbounded_channel();
    let (sender, news) = mpsc::unbounded_channel();
    let (publish, status) = watch::channel(RelayStatus::default());
    let (end, ended) = watch::channel(false);
    let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let worker = Worker::new(options, sender, publish);
        runtime.block_on(worker.run(receiver));
        runtime.shutdown_background();
        end.send_replace(true);
    })?;
    Ok(RelayHandle { commands, news, status, thread: Some(thread), ended })
}

struct Worker {
    service: RelayService,
    from_service: mpsc::UnboundedReceiver<News>,
    options: WorkerOptions,
    nudges: Nudges,
    nudging: Option<Task<(NudgeEnd, String)>>,
    comparing: Option<Task<Result<bool, CoreError>>>,
    /// Whether to compare once more when the comparison that runs has ended.
    compare_again: bool,
    listening: Listening,
    last_nudge: Option<NudgeStatus>,
    news: mpsc::UnboundedSender<RelayNews>,
    publish: watch::Sender<RelayStatus>,
}

/// The server, or when to try again.
enum Listening {
    No { again_at: Duration, error: ErrorText },
    Yes { server: Task<()>, stop: watch::Sender<bool>, validity: Option<Validity> },
}

/// What happens next.
enum Event {
    Command(RelayCommand),
    Service(News),
    NudgeEnded(NudgeEnd, String),
    Compared(Result<bool, CoreError>),
    ServerEnded,
    Due,
}

impl Worker {
    fn new(
        options: WorkerOptions,
        news: mpsc::UnboundedSender<RelayNews>,
        publish: watch::Sender<RelayStatus>,
    ) -> Self {
        let (sender, from_service) = mpsc::unbounded_channel();
        let address = options.relay.config.listen;
        let service = RelayService::new(options.relay.clone(), address, options.clock, sender);
        Self {
            service,
            from_service,
            nudges: Nudges::default(),
            nudging: None,
            comparing: None,
            compare_again: false,
            listening: Listening::No { again_at: Duration::ZERO, error: ErrorText::default() },
            last_nudge: None,
            options,
            news,
            publish,
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<RelayCommand>) {
        self.listen().await;
        self.compare();
        loop {
            let due = self.due();
            let event = tokio::select! {
                biased;
                command = commands.recv() => {
                    Event::Command(command.unwrap_or(RelayCommand::Stop))
                }
                Some(news) = self.from_service.recv() => Event::Service(news),
                (end, result) = ended(&mut self.nudging) => Event::NudgeEnded(end, result),
                compared = compared(&mut self.comparing) => Event::Compared(compared),
                () = server_ended(&mut self.listening) => Event::ServerEnded,
                () = wait(&self.options.clock, due) => Event::Due,
            };
            match event {
                Event::Command(RelayCommand::Stop) => break,
                Event::Command(RelayCommand::Committed) => {
                    self.nudges.committed(self.now());
                }
                Event::Command(RelayCommand::SyncEnded) => {
                    self.nudges.sync_ended();
                    self.compare();
                }
                Event::Service(News::Status) => self.publish(),
                Event::Service(News::Denial) => self.tell(RelayNews::Denial),
                Event::Service(News::WantsUpstream) => self.tell(RelayNews::WantsSync),
                Event::Service(News::Returned) => self.tell(RelayNews::Returned),
                Event::Service(News::WantsNudge) => self.nudges.want(),
                Event::NudgeEnded(end, result) => self.nudge_ended(end, result),
                Event::Compared(compared) => self.compared(compared),
                Event::ServerEnded => {
                    tracing::error!("the relay's server has ended; starting it again");
                    self.listening = Listening::No {
                        again_at: self.now() + LISTEN_AGAIN,
                        error: said(&"the server ended"),
                    };
                    self.publish();
                }
                Event::Due => self.act().await,
            }
        }
        if let Listening::Yes { server, stop, .. } = self.listening {
            stop.send_replace(true);
            let _ = server.await;
        }
        let service = self.service.clone();
        let kept = spawn_blocking(move || service.with_core(Core::keep_last_report)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "cannot keep when the authorizer last came");
        }
    }

    fn now(&self) -> Duration {
        self.options.clock.now().elapsed
    }

    fn tell(&self, news: RelayNews) {
        // The daemon may be about to end.
        let _ = self.news.send(news);
    }

    /// When something is to be done without being asked.
    fn due(&self) -> Option<Duration> {
        let (listen, renew) = match &self.listening {
            Listening::No { again_at, .. } => (Some(*again_at), None),
            Listening::Yes { validity, .. } => {
                let now = self.options.clock.now();
                (None, validity.map(|validity| validity.due(now)))
            }
        };
        let nudge = self.nudges.due().filter(|_| !self.options.relay.nudge.is_empty());
        let expiry = self.service.with_core(|core| core.expires());
        let look = self.nudges.look_at();
        [listen, renew, nudge, expiry, look].into_iter().flatten().min()
    }

    /// Does what is due.
    async fn act(&mut self) {
        let now = self.options.clock.now();
        match &self.listening {
            Listening::No { again_at, .. } if *again_at <= now.elapsed => self.listen().await,
            Listening::Yes { validity: Some(validity), .. } if validity.due(now) <= now.elapsed => {
                self.renew(now.elapsed).await;
            }
            Listening::No { .. } | Listening::Yes { .. } => {}
        }
        if self.nudges.look_at().is_some_and(|at| at <= now.elapsed) {
            self.nudges.sync_ended();
            self.compare();
        }
        if self.nudges.due().is_some_and(|at| at <= now.elapsed) {
            self.nudge(now.wall);
        }
        let service = self.service.clone();
        // Closing a snapshot may take a moment.
        let _ = spawn_blocking(move || service.with_core(|core| core.expire(now.elapsed))).await;
    }

    /// Renews the certificates and listens with the new ones. If the renewal fails, such as on a
    /// full disk, the current certificates stay in use.
    async fn renew(&mut self, now: Duration) {
        match self.tls_side().await {
            Ok(side) => {
                tracing::info!("the relay's certificates were renewed");
                self.listen_with(Ok(side)).await;
            }
            Err(ErrorText { message: error, fix }) => {
                tracing::warn!(
                    error,
                    fix,
                    "the relay's certificates cannot be renewed; trying again in 10 min"
                );
                if let Listening::Yes { validity: Some(validity), .. } = &mut self.listening {
                    validity.not_before = now + RENEW_AGAIN;
                }
            }
        }
    }

    /// Starts listening.
    async fn listen(&mut self) {
        let side = self.tls_side().await;
        self.listen_with(side).await;
    }

    /// Stops the running server, if any, and starts listening with these certificates.
    async fn listen_with(&mut self, side: Result<Option<TlsSide>, ErrorText>) {
        let again_at = self.now() + LISTEN_AGAIN;
        let former = std::mem::replace(
            &mut self.listening,
            Listening::No { again_at, error: ErrorText::default() },
        );
        let had_failed = match former {
            Listening::Yes { server, stop, .. } => {
                stop.send_replace(true);
                let _ = server.await;
                ErrorText::default()
            }
            Listening::No { error, .. } => error,
        };
        let service = self.service.clone();
        // This may have to wait for a request in progress.
        let _ = spawn_blocking(move || service.with_core(Core::connections_ended)).await;
        match side.and_then(|side| self.server(side)) {
            Ok(listening) => {
                let url = self.url();
                tracing::info!(url, "the relay listens");
                self.listening = listening;
            }
            Err(error) => {
                if error != had_failed {
                    let ErrorText { message: error, fix } = &error;
                    tracing::warn!(error, fix, "the relay cannot listen; trying again every 5 s");
                }
                self.listening = Listening::No { again_at, error };
            }
        }
        self.publish();
    }

    fn url(&self) -> String {
        let config = &self.options.relay.config;
        format!("{}://{}/", if config.tls { "https" } else { "http" }, config.listen)
    }

    /// The certificates to serve with; `None` without TLS.
    async fn tls_side(&self) -> Result<Option<TlsSide>, ErrorText> {
        let Some(source) = self.options.tls.clone() else { return Ok(None) };
        let now = self.options.clock.now().wall;
        let side = spawn_blocking(move || source(now)).await;
        side.map_err(|error| said(&error))?.map(Some)
    }

    fn server(&self, tls: Option<TlsSide>) -> Result<Listening, ErrorText> {
        let listener = match &self.options.socket {
            Some(socket) => Listener::inherited(socket.try_clone().map_err(|error| said(&error))?),
            None => Listener::bind(self.options.relay.config.listen),
        };
        let listener = listener.map_err(|error: BindError| ErrorText::of(&error))?;
        let expected = self.options.relay.config.listen;
        if listener.address() != expected {
            let given = listener.address();
            return Err(ErrorText {
                message: format!(
                    "the service manager listens on {given}, but RelayListen is {expected}"
                ),
                fix: Some(
                    "`santa-sync service install --relay` has it listen on RelayListen".to_owned(),
                ),
            });
        }
        let (stop, stopped) = watch::channel(false);
        let not_before = self.now() + RENEW_SPACING;
        let validity = tls.as_ref().map(|TlsSide { valid_from, renew_at, .. }| Validity {
            from: *valid_from,
            renew_at: *renew_at,
            not_before,
        });
        let service = Arc::new(self.service.clone());
        let server = serve::run(
            listener,
            tls.map(|side| side.config),
            Limits { stop: STOP_TIME, ..Limits::default() },
            service,
            stopped,
        );
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the relay's server failed");
            }
        });
        Ok(Listening::Yes { server, stop, validity })
    }

    /// Finds out in a thread whether the authorizer lacks anything.
    fn compare(&mut self) {
        if self.comparing.is_some() {
            self.compare_again = true;
            return;
        }
        self.compare_again = false;
        let (service, now) = (self.service.clone(), self.options.clock.now());
        self.comparing = Some(spawn_blocking(move || service.with_core(|core| core.compare(now))));
    }

    fn compared(&mut self, compared: Result<bool, CoreError>) {
        match compared {
            Ok(true) => self.nudges.want(),
            Ok(false) => {
                if self.service.with_core(|core| core.status().not_ready.is_some()) {
                    self.tell(RelayNews::WantsSync);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot find out whether the authorizer is in step");
            }
        }
        if self.compare_again {
            self.compare();
        }
        self.publish();
    }

    fn nudge(&mut self, at: Timestamp) {
        let command = &self.options.relay.nudge;
        let Some((program, args)) = command.split_first() else { return };
        self.nudges.begin();
        let failures = self.last_nudge.as_ref().map_or(0, |last| last.failures);
        self.last_nudge = Some(NudgeStatus { at, result: None, failures });
        let (program, args) = (PathBuf::from(program), args.to_vec());
        let checkpoint = Arc::clone(&self.options.relay.checkpoint);
        tracing::debug!(program = %program.display(), "the authorizer is told to sync");
        self.nudging = Some(tokio::spawn(async move {
            checkpoint(When::Before, "nudge");
            let ended = run(program, args).await;
            checkpoint(When::After, "nudge");
            ended
        }));
        self.publish();
    }

    fn nudge_ended(&mut self, end: NudgeEnd, result: String) {
        let failures = self.nudges.ended(end, self.now());
        if end == NudgeEnd::Failed {
            tracing::warn!(result, failures, "the command of RelayNudge failed");
        }
        if let Some(last) = &mut self.last_nudge {
            (last.result, last.failures) = (Some(result), failures);
        }
        self.publish();
    }

    /// Lets the daemon see how the relay stands.
    fn publish(&self) {
        let mut status = self.service.status();
        status.url = self.url();
        status.nudge.clone_from(&self.last_nudge);
        (status.error, status.error_fix) = match &self.listening {
            Listening::No { error, .. } => (Some(error.message.clone()), error.fix.clone()),
            Listening::Yes { .. } => (None, None),
        };
        let changed = self.publish.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
        if changed {
            self.tell(RelayNews::Status);
        }
    }
}

/// An error that knows no remedy.
fn said(error: &impl ToString) -> ErrorText {
    ErrorText { message: error.to_string(), fix: None }
}

/// Runs the nudge command, and says what came of it.
async fn run(program: PathBuf, args: Vec<String>) -> (NudgeEnd, String) {
    let checked = spawn_blocking(move || files::check_program(&program)).await;
    let program = match checked {
        Ok(Ok(program)) => program,
        Ok(Err(error)) => return (NudgeEnd::Failed, error.to_string()),
        Err(error) => return (NudgeEnd::Failed, error.to_string()),
    };
    match timeout(LIMIT, notify::call(&program, &args)).await {
        Ok(Ok(status)) => (NudgeEnd::of_exit(status.code()), status.to_string()),
        Ok(Err(error)) => (NudgeEnd::Failed, error.to_string()),
        Err(_) => {
            let limit = LIMIT.as_secs();
            (NudgeEnd::Unknown, format!("did not end within {limit} s and was killed"))
        }
    }
}

async fn wait(clock: &SystemClock, due: Option<Duration>) {
    match due {
        Some(due) => sleep(due.saturating_sub(clock.now().elapsed)).await,
        None => pending().await,
    }
}

async fn ended(nudging: &mut Option<Task<(NudgeEnd, String)>>) -> (NudgeEnd, String) {
    let Some(task) = nudging else { return pending().await };
    let ended = task.await.unwrap_or_else(|error| (NudgeEnd::Failed, error.to_string()));
    *nudging = None;
    ended
}

async fn compared(
    comparing: &mut Option<Task<Result<bool, CoreError>>>,
) -> Result<bool, CoreError> {
    let Some(task) = comparing else { return pending().await };
    let compared = task.await.unwrap_or_else(|error| Err(io::Error::other(error).into()));
    *comparing = None;
    compared
}

async fn server_ended(listening: &mut Listening) {
    match listening {
        Listening::No { .. } => pending().await,
        // How it ended has been logged.
        Listening::Yes { server, .. } => {
            let _ = server.await;
        }
    }
}
