//! The signals that end a sync in good order.

use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::signal::unix::SignalKind;
use tokio::sync::{oneshot, watch};

#[cfg(feature = "harness")]
use crate::cli::error::{EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED};
use crate::daemon::signals::Caught;
use crate::host::Ignored;
use crate::sync::Stop;

const INTERRUPTED: &str = "interrupted (SIGINT)";
const TERMINATED: &str = "told to terminate (SIGTERM)";
const HUNG_UP: &str = "its terminal went away (SIGHUP)";

/// The exit code of a command that a signal ended before its work was done, as shells have it:
/// 128 and the signal's number. `None` if no signal came.
#[cfg(feature = "harness")]
pub(in crate::cli) fn exit_code(stop: &Stop) -> Option<u8> {
    (*stop.borrow()).map(|reason| match reason {
        HUNG_UP => EXIT_HUNG_UP,
        TERMINATED => EXIT_TERMINATED,
        _ => EXIT_INTERRUPTED,
    })
}

/// Catches signals on a thread of its own: reading a large answer or committing
/// many rules keeps the sync's thread busy, and a signal must not wait for that.
#[derive(Debug)]
pub(in crate::cli) struct Signals {
    stop: Stop,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the channel open if there is no thread.
    _sender: watch::Sender<Option<&'static str>>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP, except those that are ignored, until
    /// this is dropped.
    pub(in crate::cli) fn catch(ignored: Ignored) -> Self {
        let (sender, stop) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        let (ready, caught) = mpsc::channel();
        let of_thread = sender.clone();
        let started = Builder::new()
            .name("signals".to_owned())
            .spawn(move || wait_for_signals(ignored, &of_thread, &ready, ended));
        match started {
            Ok(thread) => {
                // An error says that the thread has ended, and why is logged.
                let _ = caught.recv();
                Self { stop, end: Some(end), thread: Some(thread), _sender: sender }
            }
            Err(error) => {
                tracing::warn!(%error, "signals cannot be caught; they end the process at once");
                Self { stop, end: None, thread: None, _sender: sender }
            }
        }
    }

    /// What tells the sync to stop.
    pub(in crate::cli) fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

fn wait_for_signals(
    ignored: Ignored,
    sender: &watch::Sender<Option<&'static str>>,
    ready: &mpsc::Sender<()>,
    ended: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "signals cannot be caught; they end the process at once");
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            reason = signal(ignored, ready) => {
                // Nobody listens once the sync is over.
                let _ = sender.send(reason);
            }
            _ = ended => {}
        }
    });
}

/// Waits for a signal and returns what it says; `None` if none can be caught.
async fn signal(ignored: Ignored, ready: &mpsc::Sender<()>) -> Option<&'static str> {
    let Ignored { hang_up, interrupt, terminate } = ignored;
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) = (
        Caught::unless(interrupt, SignalKind::interrupt()),
        Caught::unless(terminate, SignalKind::terminate()),
        Caught::unless(hang_up, SignalKind::hangup()),
    ) else {
        tracing::warn!("signals cannot be caught; the sync ends only by itself");
        return None;
    };
    let _ = ready.send(());
    Some(tokio::select! {
        () = interrupt.came() => INTERRUPTED,
        () = terminate.came() => TERMINATED,
        () = hang_up.came() => HUNG_UP,
    })
}
