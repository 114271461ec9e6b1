//! Configures and starts the server.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::{fmt, io};

use tokio::sync::{Notify, oneshot, watch};

use super::connection::{OnExchange, accept, administer};
use super::{FakeServer, HarnessError, ServerShared};
use crate::clock::{Clock as _, SystemClock};
use crate::harness::admin::AdminService;
use crate::harness::exchange::{Exchange, Route};
use crate::harness::fault::{Fault, Occurrences, Scripted};
use crate::harness::misbehaviour::Misbehaviour;
use crate::harness::record::{Recorder, Replay};
use crate::harness::scenario::Scenario;
use crate::harness::state::{State, Uploads};
use crate::harness::style::{AcceptedForms, Preset, Style, SyncTypePolicy};
use crate::harness::tls;
use crate::protocol::wire;
use crate::serve::Listener;

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
    pub(super) fn new() -> Self {
        Self {
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

    /// Replays the recording in this directory: the n-th request of a route,
    /// machine and cursor gets the response that the n-th one there got. If the recording is of one machine,
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
