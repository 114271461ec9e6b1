//! The daemon's side of a sync's process: starts it, reads its messages, and ends it
//! if it does not end by itself.
//!
//! A process can panic, hang in a system call or leak, and nothing of it stays:
//! the stores are built to be left at any instant. The process holds the read
//! end of a pipe whose other end is ours; once we are gone it stops, too.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::order::ChildMessage;
use super::summary::StoreSummary;
use crate::clock::Clock;
use crate::model::SyncRecord;
use crate::sync::upload::UploadReport;

/// How long a process that was told to stop may take: DAEMON-3 leaves 5 s for
/// everything.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a sync may wait for one of another process, which may have a day.
pub(in crate::daemon) const MAX_QUEUE_WAIT: Duration = Duration::from_hours(25);
/// How long the kernel may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest line read: a record with 100 rejected rules and every setting
/// has less than 1 MiB.
const MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// How to start a process that makes a sync.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// The phase of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum SyncPhase {
    /// It has not said anything.
    Starting,
    /// It waits for a sync of another process to end.
    InLine,
    /// It holds the state directory.
    Begun,
}

/// What a process is held to.
pub(in crate::daemon) struct Supervision {
    /// Tells the time. Its waits stand still while the machine sleeps, so that
    /// a process has its time awake.
    pub(in crate::daemon) clock: Arc<dyn Clock>,
    /// How long it may take from its begin, and how long until then.
    pub(in crate::daemon) limit: Duration,
    /// Tells it to stop.
    pub(in crate::daemon) stop: watch::Receiver<bool>,
    /// Where it is.
    pub(in crate::daemon) phase: watch::Sender<SyncPhase>,
}

impl Supervision {
    const fn limit(&self, phase: SyncPhase) -> Duration {
        match phase {
            SyncPhase::Starting | SyncPhase::Begun => self.limit,
            SyncPhase::InLine => MAX_QUEUE_WAIT,
        }
    }
}

/// How the process ended.
#[derive(Debug, Default)]
pub(in crate::daemon) struct ProcessEnd {
    /// The record of its sync.
    pub(in crate::daemon) record: Option<Box<SyncRecord>>,
    /// The report of its upload.
    pub(in crate::daemon) uploaded: Option<UploadReport>,
    /// The state of the stores.
    pub(in crate::daemon) summary: Option<Box<StoreSummary>>,
    /// What went wrong with the process itself.
    pub(in crate::daemon) trouble: Option<ProcessFailure>,
}

/// What can go wrong with a process.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::daemon) enum ProcessFailure {
    /// It panicked, was killed or ended without a report.
    Died(String),
    /// It did not end in its time.
    Hung(String),
}

impl ProcessEnd {
    fn in_trouble(trouble: ProcessFailure) -> Self {
        Self { trouble: Some(trouble), ..Self::default() }
    }
}

impl ProcessFailure {
    fn died(what: &str) -> Self {
        Self::Died(format!("the process of the sync {what}"))
    }

    pub(in crate::daemon) fn message(&self) -> &str {
        match self {
            Self::Died(message) | Self::Hung(message) => message,
        }
    }
}

/// Runs a process until it has ended, and forwards its messages. It is told to stop
/// when its time is up and when `stop` becomes true; if it does not, it is killed
/// with its whole process group. Its time starts again when it reports that it waits
/// in line, and when it begins.
pub(in crate::daemon) async fn run(
    program: Program,
    order: Vec<u8>,
    mut watch: Supervision,
    forward: impl Fn(ChildMessage) + Send,
) -> ProcessEnd {
    let mut child = match start(&program) {
        Ok(child) => child,
        Err(error) => {
            return ProcessEnd::in_trouble(ProcessFailure::died(&format!(
                "cannot be started: {error}"
            )));
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut phase = watch.phase.subscribe();
    let listening = listen(&mut child, order, |line| match line {
        ChildMessage::InLine { .. } => {
            watch.phase.send_replace(SyncPhase::InLine);
        }
        ChildMessage::Begun => {
            watch.phase.send_replace(SyncPhase::Begun);
        }
        line @ (ChildMessage::Step(_)
        | ChildMessage::Notification { .. }
        | ChildMessage::Panicked { .. }
        | ChildMessage::Uploaded { .. }
        | ChildMessage::Ended { .. }) => forward(line),
    });
    tokio::pin!(listening);
    let overrun = loop {
        let now = *phase.borrow_and_update();
        let limit = watch.limit(now);
        tokio::select! {
            heard = &mut listening => return heard.conclude(),
            () = watch.clock.sleep(limit) => break Some((now, limit)),
            _ = watch.stop.wait_for(|stop| *stop) => break None,
            Ok(()) = phase.changed() => {}
        }
    };
    // It may end by itself at any time; then there is nobody to signal.
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    let (heard, how) = if let Ok(heard) = timeout(STOP_TIMEOUT, &mut listening).await {
        (Some(heard), "was told to stop")
    } else {
        let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
        let heard = timeout(KILL_TIMEOUT, &mut listening).await.ok();
        let how = if heard.is_some() { "was killed" } else { "cannot even be killed" };
        (heard, how)
    };
    let mut ended = heard.map(Heard::conclude).unwrap_or_default();
    // What has waited in line for too long says so itself.
    if let Some((phase, limit)) = overrun
        && (phase != SyncPhase::InLine || ended.record.is_none())
    {
        let limit = limit.as_secs();
        ended.trouble = Some(ProcessFailure::Hung(format!(
            "the process of the sync had not ended after {limit} s and {how}"
        )));
    }
    ended
}

/// Everything a process has reported by its end.
struct Heard {
    record: Option<Box<SyncRecord>>,
    uploaded: Option<UploadReport>,
    summary: Option<Box<StoreSummary>>,
    panicked: Option<String>,
    status: io::Result<ExitStatus>,
}

impl Heard {
    fn conclude(self) -> ProcessEnd {
        let trouble = match (self.panicked, self.status) {
            (Some(message), _) => Some(format!("panicked: {message}")),
            (None, Ok(_)) if self.record.is_some() || self.uploaded.is_some() => None,
            (None, Ok(status)) => Some(format!("ended without a record ({status})")),
            (None, Err(error)) => Some(format!("cannot be waited for: {error}")),
        };
        let trouble = trouble.map(|what| ProcessFailure::died(&what));
        let Self { record, uploaded, summary, .. } = self;
        ProcessEnd { record, uploaded, summary, trouble }
    }
}

fn start(program: &Program) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    for variable in service_sockets::VARIABLES {
        command.env_remove(variable);
    }
    command
        .args(&program.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A group of its own: killing it reaches what it started, and the
        // terminal's Ctrl-C reaches only us.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Hands the order over, then reads lines until the process has ended. Our end
/// of its standard input stays open meanwhile.
async fn listen(child: &mut Child, order: Vec<u8>, forward: impl Fn(ChildMessage)) -> Heard {
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        // A process that does not read has ended, or the deadline ends it.
        let _ = stdin.write_all(&order).await;
    }
    let (mut record, mut uploaded, mut summary, mut panicked) = (None, None, None, None);
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut stdout).take(MAX_MESSAGE_BYTES).read_until(b'\n', &mut line).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            match serde_json::from_slice(&line) {
                Ok(ChildMessage::Ended { record: of, summary: seen }) => {
                    (record, summary) = (Some(of), seen);
                }
                Ok(ChildMessage::Uploaded { report, summary: seen }) => {
                    (uploaded, summary) = (Some(report), seen);
                }
                Ok(ChildMessage::Panicked { message }) => panicked = Some(message),
                Ok(
                    line @ (ChildMessage::Step(_)
                    | ChildMessage::Notification { .. }
                    | ChildMessage::InLine { .. }
                    | ChildMessage::Begun),
                ) => forward(line),
                Err(error) => tracing::debug!(%error, "not a line of a sync's process"),
            }
        }
    }
    let status = child.wait().await;
    drop(stdin);
    Heard { record, uploaded, summary, panicked, status }
}

#[cfg(test)]
mod tests;
