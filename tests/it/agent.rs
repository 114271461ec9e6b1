//! The agent as a process, for tests: a state directory of its own and the
//! command line.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use santa_sync::harness::FakeServer;
use santa_sync::model::Timestamp;
use santa_sync::store::{EventStore, ReadStore, Store};
use serde_json::Value;

use crate::program::program;

/// A host with a state directory and a machine id.
pub(crate) struct Agent {
    _dir: tempfile::TempDir,
    pub(crate) state_dir: PathBuf,
    pub(crate) base_url: String,
    pub(crate) machine_id: String,
}

/// What a sync printed and how it ended.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Synced {
    /// The kind of the error, empty if there was none.
    pub(crate) fn kind(&self) -> &str {
        self.json["error"]["kind"].as_str().unwrap_or_default()
    }

    pub(crate) fn result(&self) -> &str {
        self.json["result"].as_str().unwrap_or_default()
    }
}

impl Agent {
    /// A new host that syncs with this server.
    pub(crate) fn of(server: &FakeServer) -> Self {
        Self::at(&server.url())
    }

    /// A new host that syncs with that URL.
    pub(crate) fn at(base_url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = dir.path().join("state");
        Self {
            _dir: dir,
            state_dir,
            base_url: base_url.to_owned(),
            machine_id: "test-host".to_owned(),
        }
    }

    /// `santa-sync` with the options that every command of this host takes.
    /// Nothing of the environment or the system's configuration counts.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_at_rate(10_000, args)
    }

    /// [`Self::command`] with waits that pass so many times as fast.
    pub(crate) fn command_at_rate(&self, rate: u32, args: &[&str]) -> Command {
        let mut command = program();
        command
            .args(["--clock-rate", &rate.to_string()])
            .args(args)
            .args(["--set", &format!("MachineID={}", self.machine_id)])
            .args(["--set", &format!("SyncBaseURL={}", self.base_url)])
            .arg("--state-dir")
            .arg(&self.state_dir)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program runs")
    }

    /// Starts a command.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs")
    }

    /// `sync --json` with more arguments.
    pub(crate) fn sync(&self, more: &[&str]) -> Synced {
        let args = [&["sync", "--json"], more].concat();
        synced(&self.run(&args))
    }

    /// The store, to look at.
    pub(crate) fn store(&self) -> ReadStore {
        Store::open_read_only(&self.state_dir).expect("a store")
    }

    /// How many rules the store holds.
    pub(crate) fn rules(&self) -> u32 {
        let counts = self.store().rule_counts().expect("read");
        counts.binary + counts.certificate + counts.teamid + counts.signingid + counts.cdhash
    }

    /// Queues these events.
    pub(crate) fn queue(&self, events: impl IntoIterator<Item = Value>) {
        use santa_sync::model::Now;
        use santa_sync::protocol::events::read_line;
        use santa_sync::protocol::stored::encode;
        use santa_sync::store::{Limits, NewEvent};
        let now =
            Now { wall: Timestamp::from_secs(1_700_000_000), elapsed: std::time::Duration::ZERO };
        let (mut queue, _) = EventStore::open(&self.state_dir, now.wall).expect("a queue");
        let batch: Vec<_> = events
            .into_iter()
            .map(|event| {
                let incoming = read_line(event.to_string().as_bytes()).expect("an event");
                NewEvent { data: encode(&incoming.event), summary: incoming.summary }
            })
            .collect();
        queue.queue_events(&batch, now, Limits::default()).expect("queued");
    }

    /// Starts `events add` without a configuration of its own, and returns its
    /// standard input, too.
    pub(crate) fn producer(&self, args: &[&str]) -> (Child, ChildStdin) {
        let mut command = program();
        command.args(["events", "add"]).args(args).arg("--state-dir").arg(&self.state_dir);
        piped(&mut command)
    }

    /// How many events wait.
    pub(crate) fn pending(&self) -> u64 {
        EventStore::open_read_only(&self.state_dir)
            .map_or(0, |queue| queue.pending().expect("read"))
    }
}

/// Starts a command, every stream of which is a pipe.
pub(crate) fn piped(command: &mut Command) -> (Child, ChildStdin) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let stdin = child.stdin.take().expect("piped");
    (child, stdin)
}

/// Reads what `sync --json` printed.
pub(crate) fn synced(output: &Output) -> Synced {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Synced { code: output.status.code(), json, stderr }
}

/// An address on loopback that is free. The kernel gives its port to nobody on its own: the ports
/// that it chooses begin at 32768 on Linux and at 49152 on macOS.
pub(crate) fn free_address() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        // Tests in other processes begin elsewhere.
        let place = std::process::id().wrapping_mul(61).wrapping_add(tried) % 12_000;
        let port = 20_000 + u16::try_from(place).expect("small");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
