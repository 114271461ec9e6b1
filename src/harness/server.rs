//! Starts the server; inspects and changes it while it runs.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};

pub(super) use self::connection::ServerShared;
use self::connection::{OnExchange, accept, administer};
use super::admin::AdminService;
use super::change::{Change, ChangeError};
use super::exchange::{Exchange, Route};
use super::expectation::Outcome;
use super::fault::{Fault, Occurrences, Scripted};
use super::fixtures::AnyEvent;
use super::misbehaviour::Misbehaviour;
use super::record::{Recorder, RecordingError, Replay};
use super::scenario::Scenario;
use super::state::{HostState, State, Uploads};
use super::style::{AcceptedForms, Preset, Style, SyncTypePolicy};
use super::tls;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Remedy;
use crate::protocol::wire;
use crate::serve::{BindError, Listener};

mod connection;

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start the server's thread: {0}")]
    Thread(#[source] io::Error),
    /// The administrator's address cannot be listened on.
    #[error("the administrator's port: {0}")]
    Admin(#[source] BindError),
    /// A recording cannot be written or used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// There is no certificate to use.
    #[error("cannot use https: {0}")]
    Tls(String),
}

impl Remedy for HarnessError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Listen { .. } => Some("give another address, or port 0 for a free one".into()),
            Self::Admin(error) => error.fix(),
            Self::Recording(error) => error.fix(),
            Self::Tls(_) => None,
            Self::Thread(_) => Some("free some memory or threads of this user".into()),
        }
    }
}

/// Configures a [`FakeServer`].
#[must_use]
pub struct Builder {
    state: State,
    batch_size: Option<u32>,
    client_mode: Option<wire::ClientMode>,
    listen: SocketAddr,
    tls: bool,
    admin: Option<(SocketAddr, Option<String>)>,
    recording: Option<(PathBuf, bool)>,
    replay: Option<PathBuf>,
    on_exchange: Option<OnExchange>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Builder {
    /// Sets the initial rules, in the order they are sent.
    pub fn rules(mut self, rules: impl IntoIterator<Item = wire::Rule>) -> Self {
        self.state.start_with(rules);
        self
    }

    /// Sets the rules per page; 0 puts all on one. 1000 by default.
    pub fn page_size(mut self, rules: usize) -> Self {
        self.state.page_size = rules;
        self
    }

    /// Sets the batch size, regardless of the settings. 50 by default.
    pub fn batch_size(mut self, events: u32) -> Self {
        self.batch_size = Some(events);
        self
    }

    /// Sets the client mode that preflight sends, regardless of the settings.
    pub const fn client_mode(mut self, mode: wire::ClientMode) -> Self {
        self.client_mode = Some(mode);
        self
    }

    /// Sets the settings that preflight sends. A `sync_type` or `clean_sync` in
    /// them overrides [`Style::sync_type`].
    pub fn settings(mut self, settings: wire::PreflightResponse) -> Self {
        self.state.settings = settings;
        self
    }

    /// Imitates that server.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.state.style = preset.style();
        self
    }

    /// Changes its style.
    pub fn style(mut self, change: impl FnOnce(&mut Style)) -> Self {
        change(&mut self.state.style);
        self
    }

    /// Sets the message formats it accepts.
    pub fn transfer(self, transfer: AcceptedForms) -> Self {
        self.style(|style| style.transfer = transfer)
    }

    /// Sets what preflight says about the type of sync.
    pub fn sync_type(self, policy: SyncTypePolicy) -> Self {
        self.style(|style| style.sync_type = policy)
    }

    /// Injects a fault. If several apply to one request, one that delays and one
    /// that does not both take effect; otherwise the first.
    pub fn fault(self, route: impl Into<Route>, when: Occurrences, fault: Fault) -> Self {
        self.scripted(Scripted { route: route.into(), when, fault })
    }

    /// Injects a fault.
    pub fn scripted(mut self, scripted: Scripted) -> Self {
        self.state.script.push(scripted);
        self
    }

    /// Sets up what a scenario says. Options set later override it.
    pub fn scenario(mut self, scenario: Scenario) -> Self {
        scenario.set_up(&mut self.state);
        self
    }

    /// Breaks a requirement; may be repeated.
    pub fn misbehave(mut self, misbehaviour: Misbehaviour) -> Self {
        self.state.misbehaviours.add(misbehaviour);
        self
    }

    /// Assumes that new hosts have all rules, so that a NORMAL sync sends them
    /// changes only.
    pub fn hosts_up_to_date(mut self) -> Self {
        self.state.hosts_up_to_date = true;
        self
    }

    /// Encodes every JSON page before the first request, so that measuring a
    /// client does not measure this server. Takes the memory of all pages.
    pub fn encode_ahead(mut self) -> Self {
        self.state.encode_ahead = true;
        self
    }

    /// Remembers at most this many exchanges; the oldest are dropped. 10,000 by
    /// default.
    pub fn transcript_limit(mut self, exchanges: usize) -> Self {
        self.state.transcript_limit = exchanges;
        self
    }

    /// Decodes events without keeping them.
    pub fn forget_events(mut self) -> Self {
        self.state.uploads = Uploads::Read;
        self
    }

    /// Counts events without keeping them or a transcript: memory stays small
    /// whatever is sent.
    pub fn count_only(mut self) -> Self {
        self.state.transcript_limit = 0;
        self.state.uploads = Uploads::Counted;
        self
    }

    /// Sets the path above the stages, empty by default.
    pub fn base_path(mut self, path: &str) -> Self {
        path.trim_matches('/').clone_into(&mut self.state.base_path);
        self
    }

    /// Sets the address to listen on: by default a free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Serves https, with a certificate for loopback that [`FakeServer::roots`]
    /// vouch for.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Listens for an administrator on this loopback address, who must show this
    /// token; without one, a random one ([`FakeServer::admin`]).
    pub fn admin(mut self, listen: SocketAddr, token: Option<String>) -> Self {
        self.admin = Some((listen, token));
        self
    }

    /// Writes every exchange to a file of its own in this directory, whole, with
    /// secrets as received unless they are to be masked; at most 10,000 exchanges and
    /// 1 GiB.
    pub fn record(mut self, directory: &Path, mask: bool) -> Self {
        self.recording = Some((directory.to_owned(), mask));
        self
    }

    /// Answers from the recording in this directory: the n-th request of a route,
    /// machine and cursor as the n-th one there. If the recording is of one machine,
    /// it stands for any.
    pub fn replay(mut self, directory: &Path) -> Self {
        self.replay = Some(directory.to_owned());
        self
    }

    /// Keeps at most this many events; later ones are counted.
    pub fn events_limit(mut self, events: usize) -> Self {
        self.state.events_limit = events;
        self
    }

    /// Calls this with each exchange once its response is decided, on the
    /// server's thread.
    pub fn on_exchange(mut self, call: impl Fn(&Exchange) + Send + Sync + 'static) -> Self {
        self.on_exchange = Some(Box::new(call));
        self
    }

    /// Starts the server. It accepts connections when this returns; dropping
    /// it stops it.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the thread or a certificate cannot
    /// be made.
    pub fn start(mut self) -> Result<FakeServer, HarnessError> {
        if let Some(batch_size) = self.batch_size {
            self.state.settings.batch_size = batch_size;
        }
        if let Some(client_mode) = self.client_mode {
            self.state.settings.set_client_mode(client_mode);
        }
        self.state.encode_pages();
        let listen = |source| HarnessError::Listen { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).and_then(Listener::public).map_err(listen)?;
        let address = listener.address();
        let flaw = self.state.misbehaviours.certificate_flaw();
        let identity = if self.tls || flaw.is_some() {
            let made = tls::identity(flaw, SystemClock::new().now().wall);
            Some(made.map_err(|error| HarnessError::Tls(error.to_string()))?)
        } else {
            None
        };
        let (config, roots) = identity.map(|made| (made.config, made.roots)).unzip();
        let recorder = match &self.recording {
            Some((directory, mask)) => Some(Mutex::new(Recorder::create(directory, *mask)?)),
            None => None,
        };
        if let Some(directory) = &self.replay {
            self.state.replay = Some(Replay::load(directory)?);
        }
        if recorder.is_some() || self.replay.is_some() {
            // Both look at messages, which are read for exchanges that are remembered.
            self.state.transcript_limit = self.state.transcript_limit.max(1);
        }
        let admin = match self.admin.take() {
            Some((address, token)) => {
                let listener = Listener::bind(address).map_err(HarnessError::Admin)?;
                Some((listener, token.map_or_else(random_token, Ok)?))
            }
            None => None,
        };
        // Last: dropping it in an error's way panics where the caller has one, too.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HarnessError::Thread)?;
        let base_path = self.state.base_path.clone();
        let shared = Arc::new(ServerShared {
            state: Mutex::new(self.state),
            arrived: Condvar::new(),
            notify: Notify::new(),
            released: watch::Sender::new(0),
            on_exchange: self.on_exchange,
            recorder,
            finished: watch::Sender::new(false),
        });
        let shown = admin.as_ref().map(|(listener, token)| (listener.address(), token.clone()));
        let administration = admin.map(|(listener, token)| {
            let (address, shared) = (listener.address(), Arc::clone(&shared));
            administer(listener, AdminService { shared, token, address })
        });
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fake-server".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, config, served) => {}
                        () = async {
                            match administration {
                                Some(administration) => administration.await,
                                None => std::future::pending().await,
                            }
                        } => {}
                        // The sender is dropped, never used.
                        _ = stopped => {}
                    }
                });
            })
            .map_err(HarnessError::Thread)?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(FakeServer { shared, address, base_path, roots, admin: shown, stop, thread })
    }
}

/// A token that nobody can guess: 16 random bytes in hex.
fn random_token() -> Result<String, HarnessError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| HarnessError::Thread(io::Error::other(error.to_string())))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// A running server, usable from any thread. Dropping it stops it.
pub struct FakeServer {
    shared: Arc<ServerShared>,
    address: SocketAddr,
    base_path: String,
    roots: Option<String>,
    admin: Option<(SocketAddr, String)>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Drop for FakeServer {
    /// Ends every connection and waits for the thread.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl FakeServer {
    /// Starts a server without rules that follows the protocol.
    pub fn builder() -> Builder {
        Builder {
            state: State::new(0x5eed),
            batch_size: None,
            client_mode: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: false,
            admin: None,
            recording: None,
            replay: None,
            on_exchange: None,
        }
    }

    /// The base URL to give the client, with a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.roots.is_some() { "https" } else { "http" };
        match self.base_path.as_str() {
            "" => format!("{scheme}://{}/", self.address),
            path => format!("{scheme}://{}/{path}/", self.address),
        }
    }

    /// The root certificate for the client to trust, as PEM; `None` without https.
    #[must_use]
    pub fn roots(&self) -> Option<&str> {
        self.roots.as_deref()
    }

    /// Where the administrator is listened for, and the token; `None` if nowhere.
    #[must_use]
    pub fn admin(&self) -> Option<(SocketAddr, &str)> {
        self.admin.as_ref().map(|(address, token)| (*address, token.as_str()))
    }

    /// Completes once the administrator has ended the run.
    pub async fn finished(&self) {
        let mut finished = self.shared.finished.subscribe();
        // The sender lives as long as the server.
        let _ = finished.wait_for(|is_finished| *is_finished).await;
    }

    /// The number of requests that a replayed recording had no response for.
    #[must_use]
    pub fn replay_misses(&self) -> u64 {
        self.shared.state().replay.as_ref().map_or(0, |replay| replay.misses)
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the rules. NORMAL syncs send hosts the difference.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = wire::Rule>) {
        self.shared.state().set_rules(rules);
    }

    /// Changes rules: REMOVE removes one, anything else adds or replaces one.
    /// NORMAL syncs send hosts these changes, clean ones the whole set.
    pub fn queue_changes(&self, changes: Vec<wire::Rule>) {
        self.shared.state().queue_changes(changes);
    }

    /// The rules a clean sync would send.
    #[must_use]
    pub fn rules(&self) -> Vec<wire::Rule> {
        self.shared.state().rules()
    }

    /// Changes the settings that preflight sends.
    pub fn change_settings(&self, change: impl FnOnce(&mut wire::PreflightResponse)) {
        change(&mut self.shared.state().settings);
    }

    /// Changes its style.
    pub fn change_style(&self, change: impl FnOnce(&mut Style)) {
        change(&mut self.shared.state().style);
    }

    /// Injects a fault from now on. Requests are counted from the start of the
    /// server.
    pub fn fault(&self, route: impl Into<Route>, when: Occurrences, fault: Fault) {
        let scripted = Scripted { route: route.into(), when, fault };
        self.shared.state().script.push(scripted);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.state().script.clear();
    }

    /// Takes over a scenario that was read again: rules that differ become changes,
    /// what expectations have counted stays, and changes whose point has passed do
    /// not happen again.
    pub fn read_again(&self, scenario: Scenario) {
        scenario.read_again(&mut self.shared.state());
    }

    /// Makes a change.
    ///
    /// # Errors
    /// If it names a group or a machine that does not exist; then nothing changes.
    pub fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.shared.state().change(change)
    }

    /// What has become of the scenario's expectations so far. A change that could
    /// not be made at its point counts as one that is not met.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.shared.state().outcomes()
    }

    /// Breaks one more requirement from now on.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        self.shared.state().misbehaviours.add(misbehaviour);
    }

    /// The misbehaviours in force.
    #[must_use]
    pub fn misbehaviours(&self) -> Vec<Misbehaviour> {
        self.shared.state().misbehaviours.iter().collect()
    }

    /// Ends all misbehaviours.
    pub fn behave(&self) {
        self.shared.state().misbehaviours.clear();
    }

    /// Makes a host's syncs clean until one is completed, as an administrator does.
    /// Returns false if the server has not seen the host.
    pub fn request_clean_sync(&self, machine_id: &str) -> bool {
        self.shared.state().request_clean_sync(machine_id)
    }

    /// Forgets what a server keeps in memory only, as a restart does: downloads in
    /// progress, and sessions ([`Style::lost_session_status`]).
    pub fn restart(&self) {
        self.shared.state().restart();
    }

    /// Makes every XSRF token issued so far stale.
    pub fn rotate_xsrf(&self) {
        self.shared.state().rotate_xsrf();
    }

    /// Requests these bundles in the next response to an event upload.
    pub fn request_bundles(&self, hashes: Vec<String>) {
        self.shared.state().bundles = hashes;
    }

    /// Responds with this status to any event upload that contains this text.
    pub fn refuse_event(&self, text: &str, status: u16) {
        self.shared.state().refused_events.push((text.to_owned(), status));
    }

    /// Accepts every event again.
    pub fn refuse_no_event(&self) {
        self.shared.state().refused_events.clear();
    }

    /// Releases every response that [`Fault::Hold`] holds now.
    pub fn release(&self) {
        self.shared.release();
    }

    /// The number of requests received on a route.
    #[must_use]
    pub fn count(&self, route: impl Into<Route>) -> u64 {
        self.shared.state().requests[route.into().place()]
    }

    /// Every exchange that is remembered, oldest first.
    #[must_use]
    pub fn transcript(&self) -> Vec<Exchange> {
        self.shared.state().transcript.iter().cloned().collect()
    }

    /// The exchanges of a route that are remembered, oldest first.
    #[must_use]
    pub fn requests(&self, route: impl Into<Route>) -> Vec<Exchange> {
        let route = Some(route.into());
        let state = self.shared.state();
        state.transcript.iter().filter(|exchange| exchange.route == route).cloned().collect()
    }

    /// Every event received and kept, in order of arrival; within one upload
    /// executions before file accesses.
    #[must_use]
    pub fn events(&self) -> Vec<AnyEvent> {
        self.shared.state().events.clone()
    }

    /// Every audit event received and kept.
    #[must_use]
    pub fn audit_events(&self) -> Vec<wire::AuditEvent> {
        self.shared.state().audit_events.clone()
    }

    /// The number of events received, of all kinds.
    #[must_use]
    pub fn events_received(&self) -> u64 {
        self.shared.state().events_received
    }

    /// The machine ids it has seen, sorted.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        self.shared.state().hosts()
    }

    /// What it knows about a host.
    #[must_use]
    pub fn host(&self, machine_id: &str) -> Option<HostState> {
        self.shared.state().host(machine_id)
    }

    /// Completes once the server has done its work for the n-th request of a
    /// route; the response may still be held.
    pub async fn reached(&self, route: impl Into<Route>, n: u64) {
        let route = route.into();
        loop {
            let news = self.shared.notify.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.count(route) >= n {
                return;
            }
            news.await;
        }
    }

    /// Waits as [`Self::reached`] does, for at most this long. Returns whether the
    /// request arrived.
    #[must_use]
    pub fn wait_for(&self, route: impl Into<Route>, n: u64, at_most: Duration) -> bool {
        let place = route.into().place();
        let (_state, outcome) = self
            .shared
            .arrived
            .wait_timeout_while(self.shared.state(), at_most, |state| state.requests[place] < n)
            .unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}
