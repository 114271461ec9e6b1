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
use std::time::Duration;

use plist::{Dictionary, Value};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::message::{Errand, Facts, Line};
use crate::clock::{Alarm, SystemClock};
use crate::config::Effective;
use crate::model::{SyncRecord, SyncType, Trigger};

/// How long a process that was told to stop may take: DAEMON-3 leaves 5 s for
/// everything.
const STOPPING: Duration = Duration::from_secs(3);
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

/// How the process ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// What it told of its sync.
    pub(super) record: Option<Box<SyncRecord>>,
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

/// What a process is told: the errand and the configuration in force, in this
/// order of bytes: a length of four bytes, and a property list of that length.
#[must_use]
pub(super) fn order(errand: Errand, config: &Effective) -> Vec<u8> {
    let mut values = Dictionary::new();
    for (key, chosen) in config.iter() {
        values.insert(key.name.to_owned(), chosen.value.clone());
    }
    let mut order = Dictionary::new();
    let trigger = match errand.trigger {
        Trigger::Timer => "timer",
        Trigger::Manual => "manual",
        Trigger::Trigger => "trigger",
    };
    order.insert("trigger".to_owned(), Value::from(trigger));
    if let Some(clean) = errand.clean {
        order.insert("clean".to_owned(), Value::from(clean.name()));
    }
    order.insert("config".to_owned(), Value::Dictionary(values));
    let mut bytes = vec![0; 4];
    // Writing values to memory cannot fail; a short order is refused.
    let _ = Value::Dictionary(order).to_writer_binary(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0).to_be_bytes();
    bytes.splice(..4, length);
    bytes
}

/// What `order` says, without the length; `None` if it is none.
#[must_use]
pub fn read_order(bytes: &[u8]) -> Option<(Errand, Dictionary)> {
    let Value::Dictionary(mut order) = crate::model::read_plist(bytes).ok()? else { return None };
    let trigger = match order.get("trigger")?.as_string()? {
        "timer" => Trigger::Timer,
        "manual" => Trigger::Manual,
        "trigger" => Trigger::Trigger,
        _ => return None,
    };
    let clean = match order.get("clean").map(|clean| clean.as_string()) {
        None => None,
        Some(Some("CLEAN")) => Some(SyncType::Clean),
        Some(Some("CLEAN_ALL")) => Some(SyncType::CleanAll),
        Some(_) => return None,
    };
    let Value::Dictionary(config) = order.remove("config")? else { return None };
    Some((Errand { trigger, clean }, config))
}

/// Runs a process to its end, however that comes about, and hands on what it
/// tells. It is told to stop after `limit` by the clock, and when `stop`
/// becomes true; if that is of no use, it is killed with all it started.
pub(super) async fn run(
    program: Program,
    order: Vec<u8>,
    (clock, limit): (SystemClock, Duration),
    mut stop: watch::Receiver<bool>,
    tell: impl Fn(Line) + Send,
) -> Ended {
    let (alarm, mut child) = match (Alarm::new(clock), start(&program)) {
        (Ok(alarm), Ok(child)) => (alarm, child),
        (Err(error), _) | (_, Err(error)) => {
            return Ended::in_trouble(Trouble::died(&format!("cannot be started: {error}")));
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let deadline = alarm.now().elapsed + limit;
    let listening = listen(&mut child, order, tell);
    tokio::pin!(listening);
    let hung = tokio::select! {
        told = &mut listening => return told.conclude(),
        () = alarm.ring(deadline) => true,
        _ = stop.wait_for(|stop| *stop) => false,
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
    if hung {
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
    facts: Option<Box<Facts>>,
    panicked: Option<String>,
    status: io::Result<ExitStatus>,
}

impl Told {
    fn conclude(self) -> Ended {
        let trouble = match (self.panicked, self.status) {
            (Some(message), _) => Some(format!("panicked: {message}")),
            (None, Ok(_)) if self.record.is_some() => None,
            (None, Ok(status)) => Some(format!("ended without a record ({status})")),
            (None, Err(error)) => Some(format!("cannot be waited for: {error}")),
        };
        let trouble = trouble.map(|what| Trouble::died(&what));
        Ended { record: self.record, facts: self.facts, trouble }
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
    let (mut record, mut facts, mut panicked) = (None, None, None);
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
                Ok(Line::Panicked { message }) => panicked = Some(message),
                Ok(line @ (Line::Step(_) | Line::Notification { .. })) => tell(line),
                Err(error) => tracing::debug!(%error, "not a line of a sync's process"),
            }
        }
    }
    let status = child.wait().await;
    drop(stdin);
    Told { record, facts, panicked, status }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::{Config, Layer, Source};

    fn shell(script: &str) -> Program {
        Program { path: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }
    }

    async fn ended(script: &str, limit: u64) -> Ended {
        let (_stop, stopped) = watch::channel(false);
        let limit = (SystemClock::with_rate(1000), Duration::from_secs(limit));
        run(shell(script), Vec::new(), limit, stopped, |_| {}).await
    }

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let mut values = Dictionary::new();
        values.insert("SyncBaseURL".to_owned(), Value::from("https://host/"));
        values.insert("ServerAuthRootsData".to_owned(), Value::Data(vec![1, 2, 3]));
        values.insert("SyncDeadline".to_owned(), Value::from(90));
        let layer = Layer { source: Source::CommandLine, values: values.clone(), exposed: false };
        let effective = Config::resolve(&[layer]).effective;
        let errand = Errand { trigger: Trigger::Trigger, clean: Some(SyncType::CleanAll) };
        let order = order(errand, &effective);
        let (length, order) = order.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().expect("4")) as usize, order.len());
        assert_eq!(read_order(order), Some((errand, values)));
        assert_eq!(read_order(b"<plist/>"), None);
    }

    /// DAEMON-6: what does not end is killed with all it started.
    #[tokio::test]
    async fn daemon_6_a_process_that_hangs_is_killed() {
        let said = r#"{"line":"notification","application":"","identifier":""}"#;
        let script = format!("trap '' TERM; echo '{said}'; sleep 600 & sleep 600; sleep 600");
        // A busy machine may end the shell's time before it has set its trap.
        for seconds in [1, 1000, 10_000, 60_000] {
            let (_stop, stopped) = watch::channel(false);
            let limit = (SystemClock::with_rate(1000), Duration::from_secs(seconds));
            let deaf = AtomicBool::new(false);
            let tell = |_| deaf.store(true, Ordering::Relaxed);
            let ended = run(shell(&script), Vec::new(), limit, stopped, tell).await;
            let trouble = ended.trouble.expect("trouble");
            assert!(matches!(&trouble, Trouble::Hung(_)), "{trouble:?}");
            if deaf.load(Ordering::Relaxed) {
                assert!(trouble.message().contains("was killed"), "{trouble:?}");
                return;
            }
        }
        panic!("the shell never set its trap");
    }

    /// DAEMON-6: a process may end in any way.
    #[tokio::test]
    async fn daemon_6_a_process_that_dies_is_told_of() {
        for (script, words) in [
            ("exit 70", "ended without a record (exit status: 70)"),
            ("kill -KILL $$", "ended without a record (signal: 9"),
            (r#"echo '{"line":"panicked","message":"at x.rs"}'; exit 70"#, "panicked: at x.rs"),
            ("head -c 5000000 /dev/zero; echo; exit 3", "(exit status: 3)"),
        ] {
            let trouble = ended(script, 60_000).await.trouble.expect("trouble");
            assert!(trouble.message().contains(words), "{trouble:?}");
        }
        let program = Program { path: "/no/such/program".into(), args: Vec::new() };
        let (_stop, stopped) = watch::channel(false);
        let limit = (SystemClock::new(), Duration::from_mins(1));
        let ended = run(program, Vec::new(), limit, stopped, |_| {}).await;
        let trouble = ended.trouble.expect("trouble");
        assert!(trouble.message().contains("cannot be started"), "{trouble:?}");
    }
}
