//! The hooks themselves.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::daemon::network;
use crate::relay::core::Checkpoint;
use crate::sync::progress::{Observer, SyncProgress, When};

/// Hooks of `sync`.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SyncHooks {
    /// Kills this process before or after an effect
    #[arg(long, value_name = "[HOW:]WHEN:EFFECT", hide = true)]
    kill_at: Option<Misbehaviour>,
}

impl SyncHooks {
    pub(in crate::cli) const fn is_set(&self) -> bool {
        self.kill_at.is_some()
    }

    /// Runs a sync that misbehaves as asked.
    pub(in crate::cli) fn observe<T>(
        &self,
        observer: &mut dyn Observer,
        sync: impl FnOnce(&mut dyn Observer) -> T,
    ) -> T {
        sync(&mut Misbehaving { inner: observer, at: self.kill_at.clone() })
    }
}

/// Hooks of `sync-process`.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SyncProcessHooks {
    /// Kills this process, makes it panic or hang before or after an effect
    #[arg(long, value_name = "[HOW:]WHEN:EFFECT", hide = true)]
    misbehave: Option<Misbehaviour>,
}

impl SyncProcessHooks {
    /// Runs a sync that misbehaves as asked.
    pub(in crate::cli) fn observe<T>(
        &self,
        observer: &mut dyn Observer,
        sync: impl FnOnce(&mut dyn Observer) -> T,
    ) -> T {
        sync(&mut Misbehaving { inner: observer, at: self.misbehave.clone() })
    }
}

/// Hooks of `daemon`.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct DaemonHooks {
    /// Makes sync number N (from 1) misbehave
    #[arg(long, value_name = "N:[HOW:]WHEN:EFFECT", hide = true)]
    misbehave: Vec<String>,
    /// Kills this process before or after the Nth time of an effect of the relay
    #[arg(long, value_name = "N:WHEN:EFFECT", hide = true)]
    relay_kill_at: Option<String>,
    /// Takes datagrams on this socket for changes of the network
    #[arg(long, value_name = "SOCKET", hide = true)]
    network: Option<PathBuf>,
}

impl DaemonHooks {
    /// The option that makes the process of sync number `sync` misbehave.
    pub(in crate::cli) fn sync_process_arg(&self, sync: u64) -> Option<OsString> {
        let of = |text: &String| {
            let (number, how) = text.split_once(':')?;
            (number == sync.to_string()).then(|| format!("--misbehave={how}").into())
        };
        self.misbehave.iter().find_map(of)
    }

    /// Kills this process at an effect of the relay, if asked to.
    pub(in crate::cli) fn relay_checkpoint(&self) -> Checkpoint {
        let at = self.relay_kill_at.as_ref().and_then(|text| {
            let (number, at) = text.split_once(':')?;
            Some((number.parse::<u64>().ok()?, at.parse::<Misbehaviour>().ok()?))
        });
        let reached = AtomicU64::new(0);
        Arc::new(move |when, effect| {
            let Some((number, at)) = &at else { return };
            if at.when == when
                && (at.effect == effect || at.effect == "any")
                && reached.fetch_add(1, Ordering::Relaxed) + 1 == *number
            {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
        })
    }

    /// Where changes of the network are reported.
    pub(in crate::cli) fn network(&self) -> network::Source {
        let Some(path) = self.network.clone() else { return Box::new(network::source) };
        Box::new(move || {
            // A socket left by an earlier run.
            let _ = std::fs::remove_file(&path);
            let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })
    }
}

/// What to do before or after which effect: `after:commit_rules` kills the
/// process there; `panic:` or `hang:` in front does that instead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Misbehaviour {
    how: How,
    when: When,
    effect: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// SIGKILL: nothing is flushed, closed or dropped.
    Kill,
    Panic,
    /// The thread stops; only SIGKILL ends it.
    Hang,
}

impl FromStr for Misbehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (how, text) = match text.split_once(':') {
            Some(("kill", rest)) => (How::Kill, rest),
            Some(("panic", rest)) => (How::Panic, rest),
            Some(("hang", rest)) => (How::Hang, rest),
            Some(_) | None => (How::Kill, text),
        };
        let (when, effect) = text.split_once(':').ok_or("write before:EFFECT or after:EFFECT")?;
        let when = match when {
            "before" => When::Before,
            "after" => When::After,
            other => return Err(format!("{other:?} is neither `before` nor `after`")),
        };
        Ok(Self { how, when, effect: effect.to_owned() })
    }
}

/// Passes everything on until the place is reached.
struct Misbehaving<'a> {
    inner: &'a mut dyn Observer,
    at: Option<Misbehaviour>,
}

impl Observer for Misbehaving<'_> {
    fn progress(&mut self, progress: &SyncProgress<'_>) {
        self.inner.progress(progress);
    }

    fn checkpoint(&mut self, when: When, effect: &'static str) {
        let here = |at: &&Misbehaviour| at.when == when && at.effect == effect;
        match self.at.as_ref().filter(here).map(|at| at.how) {
            None => {}
            Some(How::Kill) => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
            Some(How::Panic) => panic_here(effect),
            Some(How::Hang) => {
                tracing::error!(effect, "hangs, as a test asked");
                loop {
                    std::thread::park();
                }
            }
        }
        self.inner.checkpoint(when, effect);
    }
}

#[expect(clippy::panic, reason = "the test asks for it")]
fn panic_here(effect: &str) {
    panic!("asked to panic at {effect}");
}
