//! The side of the process that the daemon starts: it reads its order on standard
//! input, reports what happens, and ends when the daemon does.

use std::io::{self, Read as _};
use std::time::Duration;

use plist::Dictionary;
use rustix::process::{Signal, getpid, kill_process, kill_process_group};

use super::order::{self, ChildMessage, Order};
use crate::clock;
use crate::sync::progress::SyncStep;
use crate::sync::progress::{Observer, SyncProgress};

/// The longest order read: a configuration file may have 8 MiB.
const MAX_ORDER_BYTES: u32 = 32 * 1024 * 1024;

/// Reads the order and the configuration values from standard input.
///
/// # Errors
/// If there is no complete order.
pub fn read_order() -> io::Result<(Order, Dictionary)> {
    let mut stdin = io::stdin().lock();
    let mut length = [0; 4];
    stdin.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    let mut bytes = Vec::new();
    let read = stdin.by_ref().take(length.min(MAX_ORDER_BYTES).into()).read_to_end(&mut bytes)?;
    if u32::try_from(read) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    order::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How long a sync whose daemon is gone may take to stop. The daemon would have
/// killed it after 3 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a thread that stops this process when the daemon is gone: the daemon
/// holds the other end of standard input for as long as it lives. A process that does
/// not stop is killed, with what it started: nobody else would, and it holds the lock
/// of the state directory.
pub fn stop_with_the_daemon() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = kill_process(getpid(), Signal::TERM);
        let stops = clock::timer(STOP_TIMEOUT);
        while !stops() {
            std::thread::park_timeout(STOP_TIMEOUT);
        }
        let _ = kill_process_group(getpid(), Signal::KILL);
        // It leads no group if it was not started by the daemon.
        let _ = kill_process(getpid(), Signal::KILL);
    });
}

/// Reports the progress of a sync to the daemon.
#[derive(Debug)]
pub struct ProgressReporter<F>(pub F);

impl<F: FnMut(&ChildMessage)> Observer for ProgressReporter<F> {
    fn progress(&mut self, progress: &SyncProgress<'_>) {
        if let Some(step) = SyncStep::of(progress) {
            (self.0)(&ChildMessage::Step(step));
        }
        if let SyncProgress::InLine { behind } = progress {
            (self.0)(&ChildMessage::InLine { behind: *behind });
        }
        if let SyncProgress::Begun = progress {
            (self.0)(&ChildMessage::Begun);
        }
        if let SyncProgress::Committed(committed) = progress {
            for (application, identifier) in &committed.announce {
                let (application, identifier) = (application.clone(), identifier.clone());
                (self.0)(&ChildMessage::Notification { application, identifier });
            }
        }
    }
}
