//! The one door to the agent of a host: everything that can be asked of it, done
//! by its daemon if one runs on the state directory, else in this process.
//!
//! [`LocalAgent`] does the work on the state directory's files. It holds every
//! policy: which events are queued, which settings decide about a lookup, what a
//! sync that cannot begin leaves behind. The daemon's control socket answers by
//! it, too. [`RemoteAgent`] asks the daemon. [`Agent`] picks one of both and
//! falls back from the second to the first.
//!
//! ```no_run
//! use santa_sync::agent::{Agent, LocalAgent};
//! use santa_sync::config::{Config, Sources};
//! use santa_sync::model::{Executable, Identifier, RuleType};
//!
//! let config = Config::load(&Sources::default())?.config;
//! let local = LocalAgent::new("/var/lib/santa-sync", config);
//! let mut agent = Agent::connect_or_local(local, |note| eprintln!("{note}"));
//! let file = Executable::default().with(Identifier::parse(RuleType::TeamId, "ABCDE12345")?);
//! if let Some(words) = agent.decide(&file)?.decision {
//!     println!("{words}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod local;
mod remote;
mod status;

use std::borrow::Cow;
use std::fmt;
use std::io;

use thiserror::Error;

pub use local::LocalAgent;
pub use remote::{RemoteAgent, RemoteError};
pub use status::{
    AgentStatus, AuthorizerStatus, CertificateStatus, ConditionReport, DaemonReport, DaemonView,
    LastAttempt, LastSuccess, QueueStatus, RulesStatus, SyncInterval,
};

use crate::control::message::{Decision, RequestedBundle};
use crate::failure::{ErrorText, Remedy};
use crate::ingest::IngestedEvent;
use crate::model::{Executable, SyncRecord};
use crate::store::{LockError, ReadStore, StoreError};
use crate::sync::Stop;
use crate::sync::progress::Observer;
use crate::sync::run::SyncOptions;

/// Why an agent did not do what was asked.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A database of the state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The daemon cannot use a database.
    #[error("{0}")]
    Daemon(ErrorText),
}

impl Remedy for AgentError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Store(error) => error.fix(),
            Self::Lock(error) => error.fix(),
            Self::Daemon(error) => error.fix.clone().map(Cow::Owned),
        }
    }
}

/// What a caller may want to know about who does the work.
#[derive(Debug)]
#[non_exhaustive]
pub enum AgentNote {
    /// This user has no access to the control socket of a daemon.
    NoAccess(io::Error),
    /// A daemon does the work.
    Daemon,
    /// The daemon that did the work so far has ended; this process goes on.
    DaemonGone,
    /// The daemon could not do it; this process does.
    Fallback(RemoteError),
}

impl fmt::Display for AgentNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccess(error) => write!(
                f,
                "this user has no access to the daemon of this state directory ({error}); using \
                 its files"
            ),
            Self::Daemon => f.write_str("using the daemon of this state directory"),
            Self::DaemonGone => f.write_str("the daemon has ended; continuing in this process"),
            Self::Fallback(why) => {
                write!(f, "the daemon could not do this ({why}); doing it in this process")
            }
        }
    }
}

/// The agent of a state directory: its daemon, or this process.
pub struct Agent {
    local: LocalAgent,
    remote: Option<RemoteAgent>,
    notes: Box<dyn FnMut(AgentNote)>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Uses the daemon of the state directory if one runs and this user may ask
    /// it; otherwise this process does the work. `notes` hears which.
    pub fn connect_or_local(local: LocalAgent, mut notes: impl FnMut(AgentNote) + 'static) -> Self {
        let remote = match RemoteAgent::connect(local.state_dir()) {
            Ok(remote) => remote,
            Err(error) => {
                notes(AgentNote::NoAccess(error));
                None
            }
        };
        if remote.is_some() {
            notes(AgentNote::Daemon);
        }
        Self { local, remote, notes: Box::new(notes) }
    }

    /// Does everything in this process, whether a daemon runs or not.
    pub fn local(local: LocalAgent) -> Self {
        Self { local, remote: None, notes: Box::new(|_| {}) }
    }

    /// Whether a daemon does the work.
    #[must_use]
    pub const fn has_daemon(&self) -> bool {
        self.remote.is_some()
    }

    /// Makes one sync and returns its record, whatever became of it. The daemon
    /// makes an ordinary sync; one that changes nothing or that passes the guard
    /// is made here.
    pub fn sync(
        &mut self,
        options: SyncOptions,
        observer: &mut dyn Observer,
        stop: Stop,
    ) -> SyncRecord {
        match &mut self.remote {
            Some(remote) if RemoteAgent::can_sync(options) => remote.sync(options, observer),
            Some(_) | None => self.local.sync(options, observer, stop),
        }
    }

    /// Looks up which rule decides about an executable.
    ///
    /// # Errors
    /// If the rules cannot be read.
    pub fn decide(&mut self, executable: &Executable) -> Result<Decision, AgentError> {
        match self.by_daemon(|remote| remote.decide(executable))? {
            Some(decision) => Ok(decision),
            None => Ok(self.local.decide(executable, true)?),
        }
    }

    /// Queues events, one JSON object a line as `events add` reads them, and
    /// appends what became of each to `results`. Those reported as added are on
    /// disk, also if an error ends the rest.
    ///
    /// # Errors
    /// If the queue cannot be written.
    pub fn add_events(
        &mut self,
        lines: &[Vec<u8>],
        results: &mut Vec<IngestedEvent>,
    ) -> Result<(), AgentError> {
        let done = results.len();
        if let Some(remote) = &mut self.remote {
            // The daemon ends a connection that has been silent for long.
            if remote.reconnect().is_ok() {
                self.by_daemon(|remote| remote.add_events(lines, results))?;
            } else {
                self.remote = None;
                (self.notes)(AgentNote::DaemonGone);
            }
        }
        let left = lines.get(results.len() - done..).unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        let added = self.local.add_events(left)?;
        if added.iter().any(IngestedEvent::is_urgent) {
            remote::announce_denial(self.local.state_dir());
        }
        results.extend(added);
        Ok(())
    }

    /// Returns how many events have been dropped because the queue was full.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn events_dropped(&self) -> Result<u64, AgentError> {
        Ok(self.local.events_dropped()?)
    }

    /// Returns the bundles whose executables the server waits for, oldest first.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn bundle_requests(&mut self) -> Result<Vec<RequestedBundle>, AgentError> {
        match self.by_daemon(RemoteAgent::bundle_requests)? {
            Some(bundles) => Ok(bundles),
            None => Ok(self.local.bundle_requests()?),
        }
    }

    /// Reads how syncing stands, from the files of the state directory.
    ///
    /// # Errors
    /// If a database cannot be read.
    pub fn status(&self) -> Result<AgentStatus, AgentError> {
        Ok(self.local.status()?)
    }

    /// Opens the rules for reading: to list them, or to look many up.
    ///
    /// # Errors
    /// If they cannot be read, or no sync has been made yet.
    pub fn rules(&self) -> Result<ReadStore, AgentError> {
        Ok(self.local.rules()?)
    }

    /// Returns the records of the last syncs, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn history(&self, limit: u32) -> Result<Vec<SyncRecord>, AgentError> {
        Ok(self.local.history(limit)?)
    }

    /// Has the daemon do something. `None`, after a note, if this process must.
    fn by_daemon<T>(
        &mut self,
        ask: impl FnOnce(&mut RemoteAgent) -> Result<T, RemoteError>,
    ) -> Result<Option<T>, AgentError> {
        let Some(remote) = &mut self.remote else { return Ok(None) };
        match ask(remote) {
            Ok(done) => Ok(Some(done)),
            Err(RemoteError::Store(error)) => Err(AgentError::Daemon(error)),
            Err(why) => {
                self.remote = None;
                (self.notes)(AgentNote::Fallback(why));
                Ok(None)
            }
        }
    }
}
