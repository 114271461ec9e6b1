//! The relay, as the loop sees it: started, told of syncs, and stopped.

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::EventLoop;
use crate::config::{Loaded, RELAY_SOCKET, RelayConfig};
use crate::control::relay::RelayStatus;
use crate::daemon::control::server::DaemonEvent;
use crate::failure::ErrorText;
use crate::host::{self, RememberingHost, SystemHost};
use crate::model::{MachineId, Secret};
use crate::relay::certificates::{self, CertificateError, ClientReader, Places};
use crate::relay::core::RelayOptions;
use crate::relay::worker::{
    self, RelayCommand, RelayHandle, RelayNews, TlsSide, TlsSource, WorkerOptions,
};
use crate::sync::schedule::Requester;

/// How long a relay may take to finish answers when the daemon ends or the
/// configuration changes.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);

/// What has Santa's own sync service sync, on macOS.
const SANTACTL: [&str; 2] = ["/usr/local/bin/santactl", "sync"];

/// A relay that runs, and what it was started with.
pub(super) struct Relay {
    handle: RelayHandle,
    setup: Setup,
    /// It has been logged that there is no server to sync with.
    lacks_server: bool,
}

/// What a relay depends on. Another one is another relay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setup {
    config: RelayConfig,
    machine_id: MachineId,
    guard: Option<u8>,
    event_limit: u64,
    keeps_events: bool,
    /// The password in Santa's profile, for the client certificate.
    client_password: Option<Secret>,
}

impl Setup {
    /// What a configuration asks for; `None` if it asks for no relay, or if there
    /// is no machine id.
    fn of(loaded: &Loaded, machine_id: Option<&str>) -> Option<Self> {
        let config = loaded.config.relay.clone()?;
        let own = || machine_id.and_then(|id| MachineId::new(id).ok());
        let machine_id = config.machine_id.clone().or_else(own)?;
        Some(Self {
            config,
            machine_id,
            guard: loaded.config.guard_removed_percent,
            event_limit: loaded.config.event_queue_limit,
            keeps_events: loaded.authorizer_keeps_events(),
            client_password: loaded
                .config
                .santa_profile
                .as_ref()
                .and_then(|profile| profile.client_password.clone()),
        })
    }

    /// The command that has the authorizer sync.
    fn nudge(&self) -> Vec<String> {
        match &self.config.nudge {
            Some(command) => command.clone(),
            None if cfg!(target_os = "macos") => SANTACTL.map(str::to_owned).to_vec(),
            None => Vec::new(),
        }
    }
}

/// Sockets that the service manager opened for the relay (RELAY-1). They stay open
/// while no relay runs, so that no other program can take their port.
#[derive(Debug, Default)]
pub(super) struct RelaySockets(Vec<TcpListener>);

impl RelaySockets {
    /// Takes them from the service manager.
    pub(super) fn take() -> Self {
        let taken = service_sockets::take(RELAY_SOCKET);
        Self(taken.unwrap_or_else(|error| {
            warn!(%error, "the sockets of the service manager cannot be used");
            Vec::new()
        }))
    }

    /// The one that listens on an address; else the first, of which the relay says
    /// that it is another.
    fn for_address(&self, address: SocketAddr) -> Option<TcpListener> {
        let fits = |socket: &&TcpListener| socket.local_addr().is_ok_and(|own| own == address);
        let socket = self.0.iter().find(fits).or_else(|| self.0.first())?;
        let cloned = socket.try_clone();
        cloned.inspect_err(|error| warn!(%error, "the service manager's socket is not used")).ok()
    }
}

impl EventLoop {
    /// Starts, restarts or ends the relay as the configuration says.
    pub(super) async fn update_relay(&mut self) {
        let setup = Setup::of(&self.loaded, self.configuration.machine_id.as_deref());
        if setup.is_none() && self.loaded.config.relay.is_some() {
            warn!("the relay needs a machine id: set RelayMachineID, or MachineID");
        }
        if self.relay.as_ref().map(|relay| &relay.setup) == setup.as_ref() {
            return;
        }
        let url = self.relay_status().map(|status| status.url);
        let had_one = self.relay.is_some();
        self.stop_relay().await;
        let Some(setup) = setup else {
            if had_one {
                info!(url, "the relay has stopped: the configuration no longer has one");
            }
            return;
        };
        let options = WorkerOptions {
            relay: RelayOptions {
                state_dir: self.state_dir.clone(),
                machine_id: setup.machine_id.clone(),
                nudge: setup.nudge(),
                guard: setup.guard,
                event_limit: setup.event_limit,
                keeps_events: setup.keeps_events,
                config: setup.config.clone(),
                checkpoint: self.options.relay_checkpoint.clone(),
            },
            clock: self.options.clock,
            tls: setup.config.tls.then(|| tls(&setup, &self.state_dir)),
            socket: self.relay_sockets.for_address(setup.config.listen),
        };
        match worker::start(options) {
            Ok(handle) => self.relay = Some(Relay { handle, setup, lacks_server: false }),
            Err(error) => error!(%error, "the relay cannot be started"),
        }
    }

    pub(super) async fn stop_relay(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        if timeout(STOP_TIMEOUT, relay.handle.stop()).await.is_err() {
            warn!("the relay does not end in time; leaving it");
        }
    }

    pub(super) fn relay_status(&self) -> Option<RelayStatus> {
        self.relay.as_ref().map(|relay| relay.handle.status())
    }

    pub(super) fn tell_relay(&self, command: RelayCommand) {
        if let Some(relay) = &self.relay {
            relay.handle.tell(command);
        }
    }

    /// A function that tells the relay of a commit, for the task of a sync.
    pub(super) fn relay_teller(&self) -> impl Fn() + Send + use<> {
        let commands = self.relay.as_ref().map(|relay| relay.handle.commands());
        move || {
            if let Some(commands) = &commands {
                // The relay may have ended.
                let _ = commands.send(RelayCommand::Committed);
            }
        }
    }

    pub(super) fn relay_news(&mut self, news: RelayNews) {
        match news {
            RelayNews::Status => {
                if let Some(status) = self.relay_status() {
                    // Nobody may listen.
                    let _ = self.events.send(DaemonEvent::Relay(Arc::new(status)));
                }
                self.publish();
            }
            RelayNews::Denial => self.denial_queued(),
            RelayNews::Returned => {
                info!("the authorizer is back; a sync with the server follows");
                self.schedule.ask(Requester::Owner, self.alarm.now());
                self.publish();
            }
            // A sync that fails is repeated by the schedule.
            RelayNews::WantsSync if self.loaded.config.sync_base_url.is_none() => {
                if let Some(relay) = &mut self.relay
                    && !std::mem::replace(&mut relay.lacks_server, true)
                {
                    warn!(
                        fix = "set SyncBaseURL, the real server's URL",
                        "the relay has nothing to hand out: there is no server to sync with"
                    );
                }
            }
            RelayNews::WantsSync => {
                if self.syncs == 0 && self.running.is_none() {
                    info!("the authorizer waits for the first sync, which begins now");
                    self.schedule.ask(Requester::Owner, self.alarm.now());
                    self.publish();
                }
            }
        }
    }
}

/// Where the relay's certificates come from.
fn tls(setup: &Setup, state_dir: &Path) -> TlsSource {
    let (config, state_dir) = (setup.config.clone(), state_dir.to_owned());
    let password = setup.client_password.clone();
    Arc::new(move |now| {
        let source = RememberingHost::new(SystemHost, &state_dir);
        let hardware = host::hardware_uuid(&source);
        let reader = ClientReader { user: host::nobody_id(&source), password: password.as_ref() };
        let places = Places {
            state_dir: &state_dir,
            directory: &config.directory,
            client: config.client_certificate.then_some(reader),
        };
        let made = || {
            let certificates = certificates::ensure(&places, hardware.as_deref(), now)?;
            let config = certificates.server_config(config.client_certificate)?;
            let (valid_from, renew_at) = (certificates.valid_from(), certificates.renew_at());
            Ok(TlsSide { config, valid_from, renew_at })
        };
        made().map_err(|error: CertificateError| ErrorText::of(&error))
    })
}

/// Waits for news of the relay; never completes without one.
pub(super) async fn news(relay: &mut Option<Relay>) -> RelayNews {
    match relay {
        Some(relay) => relay.handle.news().await,
        None => pending().await,
    }
}
