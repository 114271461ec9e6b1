//! The whole chain in this process: a server, an agent, its relay, and what syncs
//! with that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::free_address;
use santa_sync::agent::LocalAgent;
use santa_sync::clock::SystemClock;
use santa_sync::config::{Config, Layer, RelayConfig, Source};
use santa_sync::control::relay::RelayStatus;
use santa_sync::harness::FakeServer;
use santa_sync::model::{MachineId, RelayManner, SyncRecord, SyncResult, SyncType, Trigger};
use santa_sync::relay::core::RelayOptions;
use santa_sync::relay::worker::{self, RelayCommand, RelayHandle, TlsSource, WorkerOptions};
use santa_sync::sync::progress::Unobserved;
use santa_sync::sync::run::SyncOptions;
use santa_sync::sync::stop_channel;
use tempfile::TempDir;

/// The machine id on both sides.
pub(crate) const MACHINE_ID: &str = "test-host";

/// An agent with a relay, in front of a server.
pub(crate) struct Chain {
    pub(crate) upstream: FakeServer,
    dir: TempDir,
    agent: LocalAgent,
    relay: Option<RelayHandle>,
    pub(crate) options: RelayOptions,
    /// The source of the relay's certificates; `None` without TLS.
    pub(crate) tls: Option<TlsSource>,
}

impl Chain {
    /// A new agent of this server, whose relay listens.
    pub(crate) fn new(upstream: FakeServer) -> Self {
        Self::with(upstream, |_| {})
    }

    /// The same with other options.
    pub(crate) fn with(upstream: FakeServer, change: impl FnOnce(&mut RelayOptions)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut values = plist::Dictionary::new();
        values.insert("SyncBaseURL".to_owned(), upstream.url().into());
        values.insert("MachineID".to_owned(), MACHINE_ID.into());
        let layer = Layer { source: Source::CommandLine, domain: None, values, exposed: false };
        let config = Config::resolve(&[layer]).config;
        let state_dir = dir.path().join("state");
        let agent = LocalAgent::new(state_dir.clone(), config);
        let mut options = RelayOptions {
            state_dir,
            config: relay_config(),
            machine_id: MachineId::new(MACHINE_ID).expect("an id"),
            nudge: Vec::new(),
            guard: None,
            event_limit: 1_000_000,
            keeps_events: false,
            checkpoint: Arc::new(|_, _| {}),
        };
        change(&mut options);
        let mut chain = Self { upstream, dir, agent, relay: None, options, tls: None };
        chain.start();
        chain
    }

    /// Where the authorizer syncs.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.options.config.listen)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the relay, at another port if its own has been taken meanwhile.
    pub(crate) fn start(&mut self) {
        let relay = worker::start(WorkerOptions {
            relay: self.options.clone(),
            clock: SystemClock::new(),
            tls: self.tls.clone(),
            socket: None,
        });
        let relay = relay.expect("a thread");
        let listens = wait(|| {
            let status = relay.status();
            status.error.is_none() && !status.url.is_empty()
        });
        assert!(listens, "{:?}", relay.status());
        self.relay = Some(relay);
    }

    /// Ends the relay in good order.
    pub(crate) fn stop(&mut self) {
        if let Some(relay) = self.relay.take() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(relay.stop());
        }
    }

    /// Ends the relay and starts another one.
    #[cfg(target_os = "linux")]
    pub(crate) fn restart(&mut self, checkpoint: santa_sync::relay::core::Checkpoint) {
        self.stop();
        self.options.checkpoint = checkpoint;
        self.start();
    }

    pub(crate) fn status(&self) -> RelayStatus {
        self.relay.as_ref().expect("it runs").status()
    }

    /// Syncs with the server.
    pub(crate) fn sync(&self) -> SyncRecord {
        self.sync_as(None)
    }

    /// Syncs with the server, requesting a clean sync.
    pub(crate) fn sync_as(&self, clean: Option<SyncType>) -> SyncRecord {
        let options = SyncOptions { clean, ..SyncOptions::of(Trigger::Manual) };
        let (_stopper, stop) = stop_channel();
        let record = self.agent.sync(options, &mut Unobserved, stop);
        assert_eq!(record.result, SyncResult::Success, "{record:?}");
        if let Some(relay) = &self.relay {
            relay.tell(RelayCommand::SyncEnded);
        }
        record
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.stop();
    }
}

fn relay_config() -> RelayConfig {
    RelayConfig {
        listen: free_address(),
        tls: false,
        client_certificate: false,
        directory: Path::new("/nonexistent").to_owned(),
        machine_id: None,
        interval: None,
        nudge: None,
        stale: None,
        peer_users: Vec::new(),
        secret: None,
        manner: RelayManner::Santa,
    }
}

/// Waits until something is so, for at most 10 s. Returns whether it is.
pub(crate) fn wait(mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if is_so() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    false
}
