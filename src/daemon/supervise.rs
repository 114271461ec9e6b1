//! A sync in a process of its own: started, listened to, and ended if it does
//! not end by itself.
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

use plist::{Dictionary, Value};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::message::{Errand, Facts, Line, Order};
use crate::clock::Clock;
use crate::config::Effective;
use crate::model::{SyncRecord, SyncType, Trigger};
use crate::sync::upload::Report;

/// How long a process that was told to stop may take: DAEMON-3 leaves 5 s for
/// everything.
const STOPPING: Duration = Duration::from_secs(3);
/// How long a sync may wait for one of another process, which may have a day.
pub(super) const IN_LINE: Duration = Duration::from_hours(25);
/// How long the kernel may take to end a killed process.
const KILLING: Duration = Duration::from_secs(1);
/// The longest line read: a record with 100 rejected rules and every setting
/// has less than 1 MiB.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// How to start a process that makes a sync.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not said anything.
    Starting,
    /// It waits for a sync of another process to end.
    InLine,
    /// It holds the state directory.
    Begun,
}

/// What a process is held to.
pub(super) struct Watch {
    /// Tells the time. Its waits stand still while the machine sleeps, so that
    /// a process has its time awake.
    pub(super) clock: Arc<dyn Clock>,
    /// How long it may take from its begin, and how long until then.
    pub(super) limit: Duration,
    /// Tells it to stop.
    pub(super) stop: watch::Receiver<bool>,
    /// Where it is.
    pub(super) phase: watch::Sender<Phase>,
}

impl Watch {
    const fn limit(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Starting | Phase::Begun => self.limit,
            Phase::InLine => IN_LINE,
        }
    }
}

/// How the process ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// What it told of its sync.
    pub(super) record: Option<Box<SyncRecord>>,
    /// What it told of its upload.
    pub(super) uploaded: Option<Report>,
    /// What it told of the stores.
    pub(super) facts: Option<Box<Facts>>,
    /// What went wrong with the process itself.
    pub(super) trouble: Option<Trouble>,
}

/// What can go wrong with a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It panicked, was killed or ended without a word.
    Died(String),
    /// It did not end in its time.
    Hung(String),
}

impl Ended {
    fn in_trouble(trouble: Trouble) -> Self {
        Self { trouble: Some(trouble), ..Self::default() }
    }
}

impl Trouble {
    fn died(what: &str) -> Self {
        Self::Died(format!("the process of the sync {what}"))
    }

    pub(super) fn message(&self) -> &str {
        match self {
            Self::Died(message) | Self::Hung(message) => message,
        }
    }
}

/// What a process is told: its order and the configuration in force, in this
/// order of bytes: a length of four bytes, and a property list of that length.
#[must_use]
pub(super) fn order(order: Order, config: &Effective) -> Vec<u8> {
    let mut values = Dictionary::new();
    for (key, chosen) in config.iter() {
        values.insert(key.name.to_owned(), chosen.value.clone());
    }
    let mut list = Dictionary::new();
    match order {
        Order::Sync(errand) => {
            let trigger = match errand.trigger {
                Trigger::Timer => "timer",
                Trigger::Manual => "manual",
                Trigger::Trigger => "trigger",
            };
            list.insert("trigger".to_owned(), Value::from(trigger));
            if let Some(clean) = errand.clean {
                list.insert("clean".to_owned(), Value::from(clean.name()));
            }
        }
        Order::Upload => {
            list.insert("upload".to_owned(), Value::from(true));
        }
    }
    list.insert("config".to_owned(), Value::Dictionary(values));
    let mut bytes = vec![0; 4];
    // Writing values to memory cannot fail; a short order is refused.
    let _ = Value::Dictionary(list).to_writer_binary(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0).to_be_bytes();
    bytes.splice(..4, length);
    bytes
}

/// What `order` says, without the length; `None` if the bytes are not an order.
#[must_use]
pub fn read_order(bytes: &[u8]) -> Option<(Order, Dictionary)> {
    let Value::Dictionary(mut list) = crate::plist_bounded::read_plist(bytes).ok()? else {
        return None;
    };
    let Value::Dictionary(config) = list.remove("config")? else { return None };
    if list.get("upload").and_then(Value::as_boolean) == Some(true) {
        return Some((Order::Upload, config));
    }
    let trigger = match list.get("trigger")?.as_string()? {
        "timer" => Trigger::Timer,
        "manual" => Trigger::Manual,
        "trigger" => Trigger::Trigger,
        _ => return None,
    };
    let clean = match list.get("clean").map(|clean| clean.as_string()) {
        None => None,
        Some(Some("CLEAN")) => Some(SyncType::Clean),
        Some(Some("CLEAN_ALL")) => Some(SyncType::CleanAll),
        Some(_) => return None,
    };
    Some((Order::Sync(Errand { trigger, clean }), config))
}

/// Runs a process to its end, however that comes about, and hands on what it
/// tells. It is told to stop when its time is up, and when `stop` becomes true;
/// if that is of no use, it is killed with all it started. Its time begins anew
/// when it says that it waits in line, and when it begins.
pub(super) async fn run(
    program: Program,
    order: Vec<u8>,
    mut watch: Watch,
    tell: impl Fn(Line) + Send,
) -> Ended {
    let mut child = match start(&program) {
        Ok(child) => child,
        Err(error) => {
            return Ended::in_trouble(Trouble::died(&format!("cannot be started: {error}")));
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut phase = watch.phase.subscribe();
    let listening = listen(&mut child, order, |line| match line {
        Line::InLine { .. } => {
            watch.phase.send_replace(Phase::InLine);
        }
        Line::Begun => {
            watch.phase.send_replace(Phase::Begun);
        }
        line @ (Line::Step(_)
        | Line::Notification { .. }
        | Line::Panicked { .. }
        | Line::Uploaded { .. }
        | Line::Ended { .. }) => tell(line),
    });
    tokio::pin!(listening);
    let overrun = loop {
        let now = *phase.borrow_and_update();
        let limit = watch.limit(now);
        tokio::select! {
            told = &mut listening => return told.conclude(),
            () = watch.clock.sleep(limit) => break Some((now, limit)),
            _ = watch.stop.wait_for(|stop| *stop) => break None,
            Ok(()) = phase.changed() => {}
        }
    };
    // It may end by itself at any time; then there is nobody to signal.
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    let (told, how) = if let Ok(told) = timeout(STOPPING, &mut listening).await {
        (Some(told), "was told to stop")
    } else {
        let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
        let told = timeout(KILLING, &mut listening).await.ok();
        let how = if told.is_some() { "was killed" } else { "cannot even be killed" };
        (told, how)
    };
    let mut ended = told.map(Told::conclude).unwrap_or_default();
    // What has waited in line for too long says so itself.
    if let Some((phase, limit)) = overrun
        && (phase != Phase::InLine || ended.record.is_none())
    {
        let limit = limit.as_secs();
        ended.trouble = Some(Trouble::Hung(format!(
            "the process of the sync had not ended after {limit} s and {how}"
        )));
    }
    ended
}

/// What a process that has ended had told.
struct Told {
    record: Option<Box<SyncRecord>>,
    uploaded: Option<Report>,
    facts: Option<Box<Facts>>,
    panicked: Option<String>,
    status: io::Result<ExitStatus>,
}

impl Told {
    fn conclude(self) -> Ended {
        let trouble = match (self.panicked, self.status) {
            (Some(message), _) => Some(format!("panicked: {message}")),
            (None, Ok(_)) if self.record.is_some() || self.uploaded.is_some() => None,
            (None, Ok(status)) => Some(format!("ended without a record ({status})")),
            (None, Err(error)) => Some(format!("cannot be waited for: {error}")),
        };
        let trouble = trouble.map(|what| Trouble::died(&what));
        let Self { record, uploaded, facts, .. } = self;
        Ended { record, uploaded, facts, trouble }
    }
}

fn start(program: &Program) -> io::Result<Child> {
    Command::new(&program.path)
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
async fn listen(child: &mut Child, order: Vec<u8>, tell: impl Fn(Line)) -> Told {
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin {
        // A process that does not read has ended, or the deadline ends it.
        let _ = stdin.write_all(&order).await;
    }
    let (mut record, mut uploaded, mut facts, mut panicked) = (None, None, None, None);
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut stdout).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Ended { record: of, facts: seen }) => (record, facts) = (Some(of), seen),
                Ok(Line::Uploaded { report, facts: seen }) => {
                    (uploaded, facts) = (Some(report), seen);
                }
                Ok(Line::Panicked { message }) => panicked = Some(message),
                Ok(
                    line @ (Line::Step(_)
                    | Line::Notification { .. }
                    | Line::InLine { .. }
                    | Line::Begun),
                ) => tell(line),
                Err(error) => tracing::debug!(%error, "not a line of a sync's process"),
            }
        }
    }
    let status = child.wait().await;
    drop(stdin);
    Told { record, uploaded, facts, panicked, status }
}

#[cfg(test)]
mod tests;
