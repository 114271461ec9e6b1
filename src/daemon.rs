//! The daemon: syncs on a schedule and on request, for as long as it runs.
//!
//! One loop on one thread, `event_loop`, decides what happens next, and [`crate::sync::schedule`] when.
//! Each sync is a process of its own, so that nothing a sync does can stop the
//! loop or grow it. Promise: while the daemon lives there is a next sync or one
//! that runs and has a deadline, and `daemon.json` says which. It writes no
//! store; events handed in over the socket go through [`crate::store`].

mod control;
mod event_loop;
mod instance_lock;
mod metrics;
pub mod network;
mod own_program;
pub mod signals;
mod source_watch;
pub mod sync_process;
mod systemd;

use crate::model::LogLevel;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::SignalKind;

use self::signals::Caught;
use crate::clock::SystemClock;
use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::failure::Remedy;
use crate::host::{self, SystemHost};
use crate::relay::core::Checkpoint;
use crate::store::{Store, StoreError};

pub use sync_process::parent::Program;

/// From a change of a source to its reading: whoever writes it may write several
/// files.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Sets the level of log lines.
pub type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Opens the log's file again if it was moved away.
pub type ReopenLog = Box<dyn Fn() + Send + Sync>;

/// What a daemon runs on.
pub struct Options {
    /// Returns the sources of the configuration; called before each reading.
    pub sources: Arc<dyn Fn() -> Sources + Send + Sync>,
    /// The configuration to begin with.
    pub loaded: Loaded,
    /// The state directory of the command line or environment.
    pub state_dir: Option<PathBuf>,
    /// The clock, and how fast it runs.
    pub clock: SystemClock,
    /// The program that makes sync number N (from 1) at a level of log lines.
    pub program: Box<dyn Fn(u64, &'static str) -> Program + Send>,
    /// Where network changes are reported; opened while syncs fail.
    pub network: network::Source,
    /// Sets the level of log lines.
    pub set_level: SetLevel,
    /// The level of the command line, which wins over the configuration's.
    pub level: Option<LogLevel>,
    /// The file of this program, if a service manager starts the daemon again: it ends
    /// between two syncs once the file was replaced.
    pub own_program: Option<PathBuf>,
    /// Opens the log again if its file was moved away; called on SIGHUP.
    pub reopen_log: ReopenLog,
    /// Called before and after each effect of the relay; for tests.
    pub relay_checkpoint: Checkpoint,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

/// Why a daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place cannot be taken.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The state directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is one already.
    #[error(
        "a daemon{} already runs on {path}",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The state directory.
        path: PathBuf,
        /// Its process, if it is known.
        pid: Option<u32>,
    },
    /// The system lacks something.
    #[error("cannot start the daemon: {0}")]
    System(#[from] io::Error),
}

impl Remedy for DaemonError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Store(error) => error.fix(),
            Self::Lock { .. } => Some("check the owner and mode of the state directory".into()),
            Self::Taken { .. } => {
                Some("stop it first, or name another directory with --state-dir".into())
            }
            Self::System(_) => None,
        }
    }
}

/// Runs the daemon until a signal stops it.
///
/// # Errors
/// If it cannot begin. Once it has begun, nothing but a signal ends it.
pub fn run(options: Options) -> Result<(), DaemonError> {
    let state_dir = config::state_dir(options.state_dir.as_deref(), &options.loaded.config);
    Store::prepare_dir(&state_dir)?;
    let instance_lock = instance_lock::InstanceLock::acquire(&state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let (event_loop, requests) = event_loop::EventLoop::new(options, state_dir, instance_lock)?;
        event_loop.serve(requests).await
    });
    // A thread that a file system holds must not hold the process.
    runtime.shutdown_background();
    done
}

/// The label of the launchd job.
pub const LAUNCHD_LABEL: &str = "com.santa-sync.daemon";

/// Whether a service manager runs this process, and would start it again if it
/// failed.
#[must_use]
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
        || std::env::var_os("XPC_SERVICE_NAME").is_some_and(|name| name == LAUNCHD_LABEL)
}

/// Waits until the configuration can be used, reading it whenever one of its files
/// changes and on SIGHUP, which opens the log again as well; `None` if a signal ends
/// the wait. `report` gets the reason for each refusal.
///
/// # Errors
/// If the system lacks something.
pub fn wait_for_configuration(
    sources: &dyn Fn() -> Sources,
    report: impl Fn(&ConfigError),
    reopen_log: &dyn Fn(),
) -> io::Result<Option<Loaded>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ignored = host::ignored_signals(&SystemHost);
        let mut interrupt = Caught::unless(ignored.interrupt, SignalKind::interrupt())?;
        let mut terminate = Caught::unless(ignored.terminate, SignalKind::terminate())?;
        let mut hang_up = Caught::unless(ignored.hang_up, SignalKind::hangup())?;
        let mut watchdog = systemd::Watchdog::new();
        let mut reported = String::new();
        loop {
            // Watched before it is read, so that no change is missed.
            let mut watch = source_watch::arm((sources)().files()).connect();
            match Config::load(&(sources)()) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) => {
                    let message = error.to_string();
                    if message != reported {
                        report(&error);
                        systemd::ready(&message);
                        reported = message;
                    }
                }
            }
            loop {
                tokio::select! {
                    () = interrupt.came() => return Ok(None),
                    () = terminate.came() => return Ok(None),
                    () = hang_up.came() => break reopen_log(),
                    () = watch.changed() => break tokio::time::sleep(SETTLE_TIME).await,
                    () = watchdog.tick() => {}
                }
            }
        }
    })
}
