//! The notification hook: runs a program for each rule that users wait for.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid,
};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Stop, stopped};
use crate::files;
use crate::model::text::fit_for_argument;

/// How long one call of the hook may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many rules of one sync are announced: a person reads each of them.
const MAX_ANNOUNCED: usize = 100;
/// Characters of an application's name that are passed on.
const MAX_NAME: usize = 200;
/// Characters of an identifier that are passed on; valid ones are shorter.
const MAX_IDENTIFIER: usize = 1024;
/// Where the hook finds programs, regardless of our own environment.
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Runs `<hook> <application name> <identifier>` for each announcement, one
/// after the other, until asked to stop. A hook that fails or hangs is reported
/// and costs the sync nothing else.
///
/// The hook gets no input, no environment but `PATH`, and `/` as its directory.
/// What it has started ends with its call.
pub(super) async fn run_hook(hook: &Path, announcements: &[(String, String)], stop: Stop) {
    run_within(HOOK_TIMEOUT, hook, announcements, stop).await;
}

async fn run_within(
    limit: Duration,
    hook: &Path,
    announcements: &[(String, String)],
    mut stop: Stop,
) {
    if announcements.is_empty() {
        return;
    }
    let hook = match files::check_program(hook) {
        Ok(hook) => hook,
        Err(error) => {
            warn!(%error, fix = error.fix(), "NotificationHook is refused; users are not notified");
            return;
        }
    };
    for (application, identifier) in announcements.iter().take(MAX_ANNOUNCED) {
        let application = fit_for_argument(application, MAX_NAME);
        let identifier = fit_for_argument(identifier, MAX_IDENTIFIER);
        let called = tokio::select! {
            biased;
            reason = stopped(&mut stop) => {
                warn!(reason, "the remaining notifications are left out");
                return;
            }
            called = timeout(limit, call(&hook, [&application, &identifier])) => called,
        };
        match called {
            Ok(Ok(status)) if status.success() => {
                info!(application, identifier, "announced");
            }
            Ok(Ok(status)) => {
                warn!(hook = %hook.display(), %status, "the notification hook failed");
            }
            Ok(Err(error)) => {
                let hook = hook.display();
                warn!(%hook, %error, "the notification hook cannot be run; check NotificationHook");
                return;
            }
            Err(_) => {
                let (hook, limit_s) = (hook.display(), limit.as_secs());
                warn!(%hook, limit_s, "the notification hook did not end in its time and was killed");
                return;
            }
        }
    }
    if announcements.len() > MAX_ANNOUNCED {
        let rules = announcements.len() - MAX_ANNOUNCED;
        warn!(rules, "these notifications are left out; a sync makes at most {MAX_ANNOUNCED}");
    }
}

/// Runs a program once, without input, output or environment but `PATH`, in `/`.
/// Dropping the future kills it and what it has started.
///
/// # Errors
/// If it cannot be started.
pub async fn call(
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> io::Result<ExitStatus> {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).current_dir("/");
    let (group, ended) = Group::start(command)?;
    let status = ended.await;
    drop(group);
    status.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

/// A process and all it starts; killed when dropped.
struct Group {
    leader: Pid,
    /// Dropped once the group has been killed: until then the leader is not
    /// reaped, and its id cannot become another group's.
    _reap: mpsc::Sender<()>,
}

impl Group {
    /// Starts a command without input and output. Its status comes as soon as
    /// it ends, whatever still runs in its group.
    fn start(
        mut command: Command,
    ) -> io::Result<(Self, oneshot::Receiver<io::Result<ExitStatus>>)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        let (ended, end) = oneshot::channel();
        let (reap, reaped) = mpsc::channel();
        let group = Self { leader, _reap: reap };
        thread::Builder::new().name("hook".to_owned()).stack_size(64 * 1024).spawn(move || {
            let status = waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let status = match status {
                Ok(Some(status)) => Ok(as_exit_status(&status)),
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(error) => Err(error.into()),
            };
            // Nobody waits for it after a timeout.
            let _ = ended.send(status);
            let _ = reaped.recv();
            let _ = child.wait();
        })?;
        Ok((group, end))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader's process is there until it is reaped, so this fails only
        // where nothing of the group is left to kill.
        let _ = kill_process_group(self.leader, Signal::KILL);
    }
}

fn as_exit_status(status: &WaitIdStatus) -> ExitStatus {
    let code = status.exit_status().map(|code| code << 8);
    ExitStatus::from_raw(code.or(status.terminating_signal()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
