//! The daemon as a process: its clock, its signals and its socket.

mod busy;
mod files;
#[cfg(target_os = "linux")]
mod handed_over;
mod prompt;
mod signals;
mod socket;
#[cfg(any(debug_assertions, feature = "test-hooks"))]
mod trouble;

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::control::client::Client;
use santa_sync::control::message::{ControlRequest, ControlResponse, SyncRequest};
use santa_sync::harness::{FakeServer, Fault, fixtures, nth};
use santa_sync::model::{Stage, SyncRecord, SyncResult, Trigger};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::program::program;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A daemon, ended with its test.
pub(crate) struct Daemon {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has what the tests start not ignore what whoever started the tests ignores,
/// as the shell of a background job does: what is caught here is not inherited.
pub(crate) fn heed_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    static DONE: std::sync::Once = std::sync::Once::new();
    DONE.call_once(|| {
        let host = santa_sync::host::SystemHost;
        let ignored = santa_sync::host::ignored_signals(&host);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        for (ignored, kind) in [
            (ignored.hang_up, SignalKind::hangup()),
            (ignored.interrupt, SignalKind::interrupt()),
            (ignored.terminate, SignalKind::terminate()),
        ] {
            if ignored {
                drop(signal(kind).expect("it can be caught"));
            }
        }
    });
}

impl Daemon {
    /// Starts one for this host, whose clock runs `rate` times as fast.
    pub(crate) fn start(agent: &Agent, rate: u32, more: &[&str]) -> Self {
        let url = format!("SyncBaseURL={}", agent.base_url);
        let more = [&["--set", &url], more].concat();
        Self::bare(agent, rate, &more)
    }

    /// Starts one that knows no server yet.
    pub(crate) fn bare(agent: &Agent, rate: u32, more: &[&str]) -> Self {
        Self::with(agent, rate, more, &[])
    }

    /// The same in an environment.
    pub(crate) fn with(agent: &Agent, rate: u32, more: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Self::command(agent, rate, more);
        Self::of(command.envs(env.iter().copied()))
    }

    /// The command that starts one.
    pub(crate) fn command(agent: &Agent, rate: u32, more: &[&str]) -> Command {
        let mut command = program();
        command
            .arg("daemon")
            .args(["--clock-rate", &rate.to_string(), "--log-level", "info"])
            .args(["--set", &format!("MachineID={}", agent.machine_id)])
            // In the daemon's fast time, so that a busy machine is no deadline.
            .args(["--set", "SyncDeadline=86400", "--state-dir"])
            .arg(&agent.state_dir)
            .args(more);
        command
    }

    /// The one that this command starts.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::of_with_stdin(command.stdin(Stdio::null()))
    }

    /// The same, with the standard input that the command says.
    fn of_with_stdin(command: &mut Command) -> Self {
        heed_signals();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut daemon = Self { child, lines };
        daemon.says("daemon started");
        daemon
    }

    /// Reads the log up to a line with these words.
    pub(crate) fn says(&mut self, words: &str) -> String {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            if line.contains(words) {
                return line;
            }
            seen.push(line);
        }
        panic!("the daemon ended without {words:?}: {seen:#?}");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Tells it to stop and answers the exit code and how long that took.
    pub(crate) fn stop(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let clock = SystemClock::new();
        let began = clock.now().elapsed;
        self.signal(signal);
        let status = self.child.wait().expect("it ends");
        (status.code(), clock.now().elapsed.saturating_sub(began))
    }
}

/// A client of the host's daemon.
pub(crate) fn client(agent: &Agent) -> Client {
    let client = Client::connect(&agent.state_dir).expect("a daemon");
    client.wait_at_most(Some(PATIENCE)).expect("a timeout");
    client
}

/// Asks for something that is answered by one line.
pub(crate) fn ask(agent: &Agent, request: &ControlRequest) -> ControlResponse {
    let mut client = client(agent);
    client.ask(request).expect("asked");
    client.answer().expect("an answer")
}

/// Reads up to the end of a sync.
pub(crate) fn synced(client: &mut Client) -> SyncRecord {
    loop {
        let answer = client.answer().expect("an answer");
        if let ControlResponse::Synced { record } = answer {
            return *record;
        }
        assert!(
            matches!(
                answer,
                ControlResponse::Progress(_)
                    | ControlResponse::Waiting
                    | ControlResponse::Subscribed
            ),
            "{answer:?}"
        );
    }
}

/// Has the daemon make a sync.
pub(crate) fn sync(agent: &Agent) -> SyncRecord {
    let mut client = client(agent);
    client.ask(&ControlRequest::Sync(SyncRequest::default())).expect("asked");
    synced(&mut client)
}

fn status(agent: &Agent) -> Value {
    let output = agent.run(&["status", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// DAEMON-1: the clock alone makes one sync after the other.
#[test]
fn daemon_1_syncs_come_by_themselves() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let agent = Agent::of(&server);
    // 15 to 30 s are 30 to 60 ms, ten minutes 1.2 s.
    let daemon = Daemon::start(&agent, 500, &[]);
    let mut client = client(&agent);
    client.ask(&ControlRequest::Subscribe).unwrap();
    for _ in 0..2 {
        let record = synced(&mut client);
        assert_eq!((record.trigger, record.result), (Trigger::Timer, SyncResult::Success));
    }
    assert_eq!(agent.rules(), 5);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}

/// DAEMON-2: a server that fails is asked again after a back-off, and `status`
/// tells of it.
#[test]
fn daemon_2_a_failure_is_followed_by_a_back_off() {
    let server =
        FakeServer::builder().fault(Stage::Preflight, nth(1), Fault::status(404)).start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    assert_eq!(sync(&agent).result, SyncResult::PreflightFailed);
    let beat = status(&agent)["daemon"].clone();
    assert_eq!((&beat["back_off"], &beat["failures_in_a_row"]), (&600.into(), &1.into()), "{beat}");
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let beat = status(&agent)["daemon"].clone();
    assert_eq!((&beat["back_off"], &beat["liveness"]), (&Value::Null, &"alive".into()), "{beat}");
    assert_eq!(beat["last_sync"]["result"], "success");
    drop(daemon);
    // It was killed: its heartbeat says that it lives, and nobody does.
    assert_eq!(status(&agent)["daemon"]["liveness"], "dead");
}

/// DAEMON-3: a signal triggers a sync.
#[test]
fn daemon_3_sigusr1_makes_a_sync() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    let mut client = client(&agent);
    client.ask(&ControlRequest::Subscribe).unwrap();
    assert_eq!(client.answer().unwrap(), ControlResponse::Subscribed);
    daemon.signal(Signal::USR1);
    let record = synced(&mut client);
    assert_eq!((record.trigger, record.result), (Trigger::Trigger, SyncResult::Success));
}

/// DAEMON-3: told to stop, it ends in good order within 5 s, idle or in the
/// middle of a sync, whose settings are reverted.
#[test]
fn daemon_3_it_ends_within_five_seconds() {
    let server =
        FakeServer::builder().fault(Stage::RuleDownload, nth(1), Fault::Hold).start().unwrap();
    let agent = Agent::of(&server);
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start(&agent, 1, &[]);
        if signal == Signal::TERM {
            daemon.signal(Signal::USR1);
            assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
        }
        let (code, took) = daemon.stop(signal);
        assert_eq!(code, Some(0));
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(status(&agent)["daemon"]["liveness"], "stopped");
    }
    let history = agent.store().history(10).unwrap();
    assert_eq!(history[0].result, SyncResult::RuleDownloadFailed, "{history:?}");
    assert_eq!(history[0].error.as_ref().unwrap().kind, "cancelled");
}

/// DAEMON-3: one daemon a state directory.
#[test]
fn daemon_3_a_second_daemon_is_refused() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    let second = agent.run(&["daemon"]);
    assert_eq!(second.status.code(), Some(73));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&format!("(process {}) already runs on", daemon.pid())), "{said}");
}

/// DAEMON-5: systemd is told when it is ready, that it lives, what it does with which
/// configuration, and that it ends.
#[test]
#[cfg(target_os = "linux")]
fn daemon_5_systemd_hears_ready_watchdog_and_stopping() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let notify = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let config = dir.path().join("config.plist");
    std::fs::write(&config, "<plist><dict/></plist>").unwrap();
    let url = format!("SyncBaseURL={}", agent.base_url);
    let args = ["--set", &url, "--config", config.to_str().unwrap()];
    let daemon = Daemon::with(&agent, 1, &args, &env);
    let hear = |word: &str| {
        let mut message = [0; 512];
        while let Ok(length) = notify.recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]);
            if text.lines().any(|line| line == word) {
                return;
            }
        }
        panic!("systemd was not told {word}");
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    let refused = "a new configuration is refused, the previous one stays in effect";
    std::fs::write(&config, "<plist>").unwrap();
    daemon.signal(Signal::HUP);
    hear(&format!("STATUS=waiting for the first sync; {refused}"));
    assert_eq!(sync(&agent).result, SyncResult::Success);
    hear(&format!("STATUS=the last sync succeeded; {refused}"));
    std::fs::write(&config, "<plist><dict/></plist>").unwrap();
    daemon.signal(Signal::HUP);
    hear("STATUS=the last sync succeeded");
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
    hear("STOPPING=1");
}

/// The metrics file is there after a sync, and not without being asked for.
#[test]
fn metrics_are_written_where_the_configuration_says() {
    let server = FakeServer::builder().rules(fixtures::rules(3, 1)).start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("santa_sync.prom");
    let set = format!("MetricsFile={}", file.display());
    let daemon = Daemon::start(&agent, 1, &["--set", &set]);
    assert_eq!(sync(&agent).result, SyncResult::Success);
    // Written before the next request is answered.
    ask(&agent, &ControlRequest::Status);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("santa_sync_syncs_total{result=\"success\"} 1\n"), "{text}");
    assert!(text.contains("santa_sync_last_success_time_seconds "), "{text}");
    drop(daemon);
}

/// CONF-3: a new configuration is taken up on SIGHUP; a bad one is refused,
/// and the old one goes on serving.
#[test]
fn conf_3_a_bad_new_configuration_is_refused_and_the_old_one_kept() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.plist");
    let write = |url: &str| {
        let mut values = plist::Dictionary::new();
        values.insert("SyncBaseURL".to_owned(), url.into());
        plist::Value::Dictionary(values).to_file_xml(&file).unwrap();
    };
    write(&server.url());
    let mut daemon = Daemon::bare(&agent, 1, &["--config", file.to_str().unwrap()]);

    write("http://not-this-host.example/");
    daemon.signal(Signal::HUP);
    daemon.says("a new configuration is refused");
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let beat = status(&agent)["daemon"].clone();
    assert!(beat["configuration_refused"].as_str().unwrap().contains("SyncBaseURL"), "{beat}");

    // The other one is taken up, and used at once.
    let other = FakeServer::builder().start().unwrap();
    write(&other.url());
    daemon.signal(Signal::HUP);
    assert!(other.wait_for(Stage::Postflight, 1, PATIENCE));

    // A change without a signal counts for the next sync at the latest.
    let before = server.count(Stage::Preflight);
    write(&server.url());
    assert_eq!(sync(&agent).result, SyncResult::Success);
    assert!(server.count(Stage::Preflight) > before);
}

/// CONF-3: a changed file is noticed by itself, and so is one that comes into being,
/// with its directory; a sync follows. A file that vanishes for a moment changes
/// nothing.
#[test]
#[cfg(target_os = "linux")]
fn conf_3_a_changed_source_is_noticed_without_a_signal() {
    let [first, second] = [(); 2].map(|()| FakeServer::builder().start().unwrap());
    let agent = Agent::of(&first);
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etc/santa-sync/config.plist");
    let write = |url: &str| {
        let values = plist::Dictionary::from_iter([("SyncBaseURL", url)]);
        let new = root.path().join("new.plist");
        plist::Value::Dictionary(values).to_file_xml(&new).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    let machine_id = format!("MachineID={}", agent.machine_id);
    let mut command = crate::program::program_at(root.path());
    command.args(["daemon", "--log-level", "info", "--set", &machine_id, "--state-dir"]);
    let mut daemon = Daemon::of(command.arg(&agent.state_dir));
    let mut watcher = client(&agent);
    watcher.wait_at_most(Some(PATIENCE)).unwrap();
    watcher.ask(&ControlRequest::Subscribe).unwrap();
    assert_eq!(watcher.answer().unwrap(), ControlResponse::Subscribed);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    write(&first.url());
    daemon.says("the way to the server has changed");
    // A sync by the clock may come first on a busy machine; it found no server.
    while synced(&mut watcher).result != SyncResult::Success {}
    write(&second.url());
    assert_eq!(synced(&mut watcher).result, SyncResult::Success);
    assert_eq!(second.count(Stage::Postflight), 1);

    std::fs::remove_file(&file).unwrap();
    assert_eq!(sync(&agent).result, SyncResult::Success, "it may come back");
    assert_eq!(second.count(Stage::Postflight), 2);
}

/// DAEMON-4: `status` shows the server and the machine id of the daemon that runs,
/// wherever that has them from, and announces no sync of one that is gone.
#[test]
fn daemon_4_status_shows_the_configuration_of_the_daemon() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    let status = || {
        let mut command = program();
        let output = command.args(["status", "--json", "--state-dir"]).arg(&agent.state_dir);
        let output = output.output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let shown = status();
    assert_eq!(
        (&shown["server"], &shown["machine_id"]),
        (&json!(server.url()), &json!("test-host"))
    );
    assert!(
        shown["daemon"]["next_sync_at"].is_i64() || shown["daemon"]["next_sync_at"].is_string()
    );
    drop(daemon);
    let shown = status();
    assert_eq!((&shown["server"], &shown["daemon"]["next_sync_at"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["daemon"]["liveness"], "dead");
}

/// DAEMON-4: a user who may not look into the state directory learns how to, instead
/// of hearing that nothing has ever been synced; a member of `SocketGroup` hears what
/// the daemon knows.
#[test]
fn daemon_4_status_for_a_user_without_rights_says_how_to_get_them() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const GROUP: u32 = 54_322;
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let dir = &agent.state_dir;
    let outer = dir.parent().unwrap();
    set_permissions(outer, Permissions::from_mode(0o755)).unwrap();
    // Root becomes somebody else, who need not reach the build directory. Whoever is
    // not root is kept out of its own directory by its mode.
    let is_root = rustix::process::geteuid().is_root();
    let mut program = std::path::PathBuf::from(agent.command(&[]).get_program());
    if is_root {
        let copy = outer.join("santa-sync");
        std::fs::copy(&program, &copy).unwrap();
        program = copy;
    } else {
        set_permissions(dir, Permissions::from_mode(0o000)).unwrap();
    }
    let status = |group: u32| {
        let mut command = Command::new(&program);
        command.args(agent.command(&["status"]).get_args()).env_clear();
        if is_root {
            command.uid(54_321).gid(group);
        }
        command.output().unwrap()
    };
    let refused = |group: u32| {
        let output = status(group);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(73), 0), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(&format!("this user may not read {}", dir.display())), "{told}");
        assert!(told.contains("run `sudo santa-sync status`, or set SocketGroup"), "{told}");
    };
    refused(GROUP);
    set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
    // Only root can give the socket to a group that it is not in.
    if is_root {
        let group = format!("SocketGroup={GROUP}");
        let _daemon = Daemon::start(&agent, 1, &["--set", &group]);
        refused(GROUP + 1);
        let told = status(GROUP);
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success() && text.contains(&server.url()), "{told:?}");
    }
}

/// DAEMON-5: under a service manager a refused configuration is waited out, instead
/// of being refused again every few seconds; the daemon starts once it is in order.
#[test]
#[cfg(target_os = "linux")]
fn daemon_5_a_service_waits_for_a_configuration_that_can_be_used() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let notify = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let file = dir.path().join("config.plist");
    let write = |url: &str| {
        let values = plist::Dictionary::from_iter([("SyncBaseURL", url)]);
        plist::Value::Dictionary(values).to_file_xml(&file).unwrap();
    };
    write("http://not-this-host.example/");
    let mut command = Daemon::command(&agent, 1, &["--config", file.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).stderr(Stdio::piped());
    heed_signals();
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut daemon = Daemon { child, lines };
    daemon.says("the configuration is refused");
    write(&server.url());
    daemon.says("daemon started");
    assert_eq!(sync(&agent).result, SyncResult::Success);
    drop(notify);
}

/// DAEMON-5: log lines have their priority and no time stamp where systemd's journal
/// reads them, and only there.
#[test]
#[cfg(target_os = "linux")]
fn daemon_5_lines_for_the_journal_have_a_priority_and_no_time() {
    use std::os::unix::fs::MetadataExt as _;
    let agent = Agent::at("http://127.0.0.1:1/");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    for connected in [true, false] {
        let stderr = std::fs::File::create(&path).unwrap();
        let data = stderr.metadata().unwrap();
        let inode = if connected { data.ino() } else { data.ino() + 1 };
        let mut command = agent.command(&["sync", "--log-level", "info"]);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", data.dev())).stderr(stderr);
        command.stdout(Stdio::null()).status().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let begins = text.lines().find(|line| line.contains("sync begins")).expect("a line");
        assert_eq!(begins.starts_with("<6>"), connected, "{begins}");
        assert_eq!(begins.contains(':'), !connected, "no time of day: {begins}");
    }
}
