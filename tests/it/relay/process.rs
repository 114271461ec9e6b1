//! The relay in the daemon's own process: what it does by itself, and what is left
//! when it is killed.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::control::message::{ControlRequest, ControlResponse};
use santa_sync::control::relay::RelayStatus;
use santa_sync::harness::FakeServer;
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::model::{ClientMode, Stage, SyncResult};
use santa_sync::protocol::wire;

use super::santa::{Age, Santa, Status};
use super::stored;
use crate::agent::{Agent, free_address};
use crate::daemon::{Daemon, PATIENCE, ask, client, sync};

/// A host whose agent relays to its Santa.
pub(super) struct Host {
    server: FakeServer,
    pub(super) agent: Agent,
    pub(super) santa: Santa,
    pub(super) listen: String,
}

impl Host {
    pub(super) fn new(age: Age) -> Self {
        let rules: Vec<_> = fixtures::rules(60, 3).collect();
        let server = FakeServer::builder()
            .rules(rules)
            .client_mode(wire::ClientMode::Lockdown)
            .start()
            .expect("a server");
        let agent = Agent::of(&server);
        let listen = free_address().to_string();
        let santa = Santa::new(age, &format!("http://{listen}/"));
        Self { server, agent, santa, listen }
    }

    /// Starts the daemon, and waits until its relay listens.
    pub(super) fn start(&self, more: &[&str]) -> Daemon {
        let set = format!("RelayListen={}", self.listen);
        let daemon = Daemon::start(&self.agent, 1, &[&["--set", set.as_str()], more].concat());
        self.until(|relay| relay.error.is_none() && !relay.url.is_empty());
        daemon
    }

    /// How the relay stands; `None` if the daemon is gone.
    fn relay(&self) -> Option<RelayStatus> {
        let ControlResponse::Status(status) = ask(&self.agent, &ControlRequest::Status) else {
            return None;
        };
        status.relay.clone()
    }

    /// Waits until the relay is so; returns how long that took.
    pub(super) fn until(&self, is_so: impl Fn(&RelayStatus) -> bool) -> Duration {
        let clock = SystemClock::new();
        let began = clock.now().elapsed;
        loop {
            let relay = self.relay().expect("it runs");
            let took = clock.now().elapsed.saturating_sub(began);
            if is_so(&relay) {
                return took;
            }
            assert!(took < PATIENCE, "{relay:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Waits until the relay is so; returns how it stands then.
    pub(super) fn until_status(&self, is_so: impl Fn(&RelayStatus) -> bool) -> RelayStatus {
        self.until(is_so);
        self.relay().expect("it runs")
    }

    fn is_in_step(&self) -> bool {
        self.santa.rows() == stored::rows(&self.agent.state_dir)
            && self.santa.client_mode() == ClientMode::Lockdown
    }
}

fn blocked(number: u64) -> AnyEvent {
    let event = fixtures::events(50, number).find_map(|event| match event {
        AnyEvent::Execution(event) => Some(event),
        AnyEvent::FileAccess(_) => None,
    });
    let mut event = event.expect("one");
    event.set_decision(wire::Decision::BlockUnknown);
    AnyEvent::Execution(event)
}

/// RELAY-3: with nothing to hand out, the first sync with the server begins at once,
/// not after 15 s; the daemon ends in time.
#[test]
fn relay_3_the_first_sync_with_the_server_begins_at_once() {
    let host = Host::new(Age::Y2026M7);
    let daemon = host.start(&[]);
    assert!(host.server.wait_for(Stage::Postflight, 1, PATIENCE));
    let took = host.until(|relay| relay.newest_generation.is_some());
    assert!(took < Duration::from_secs(10), "{took:?}");
    host.santa.sync();
    assert_eq!(host.santa.sync().status, Status::Success);
    assert!(host.is_in_step());
    let (code, took) = daemon.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// EV-10, RELAY-8: an execution that Santa blocks is at the server two seconds after
/// it was uploaded to the relay, without a sync.
#[test]
fn relay_8_a_blocked_execution_is_at_the_server_in_two_seconds() {
    let host = Host::new(Age::Y2026M7);
    let _daemon = host.start(&[]);
    assert!(host.server.wait_for(Stage::Postflight, 1, PATIENCE));
    host.until(|relay| relay.newest_generation.is_some());
    host.santa.sync();
    host.santa.sync();
    let clock = SystemClock::new();
    assert!(host.santa.observe(&blocked(1)));
    let began = clock.now().elapsed;
    assert!(host.server.wait_for(Stage::EventUpload, 1, PATIENCE));
    let took = clock.now().elapsed.saturating_sub(began);
    // On a machine that does nothing else it takes 0.2 s.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(host.server.events_received(), 1);
    assert_eq!(host.server.count(Stage::Preflight), 1, "no sync");
    assert!(host.santa.pending().is_empty());
}

/// RELAY-9: when a sync has ended with something that Santa lacks, the command of
/// `RelayNudge` runs; one that fails is shown.
#[test]
fn relay_9_santa_is_nudged_when_it_lacks_something() {
    let host = Host::new(Age::Y2026M7);
    let dir = tempfile::tempdir().expect("a directory");
    let nudges = dir.path().join("nudges");
    let script = dir.path().join("nudge");
    let text = format!("#!/bin/sh\necho \"$1\" >> {}\nexit \"$2\"\n", nudges.display());
    std::fs::write(&script, text).expect("written");
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&script, mode).expect("permitted");
    let nudge = |code: u8| format!("RelayNudge={} sync {code}", script.display());
    let count = || std::fs::read_to_string(&nudges).map_or(0, |text| text.lines().count());

    let daemon = host.start(&["--set", &nudge(5)]);
    host.until(|relay| relay.nudge.as_ref().is_some_and(|nudge| nudge.result.is_some()));
    assert_eq!(count(), 1, "after the first sync");
    let relay = host.relay().expect("it runs");
    assert_eq!(relay.interval, 600, "it need not ask often");
    assert_eq!(relay.nudge.expect("one").failures, 0, "5 means that others sync");
    // It comes: first to upload its events, and then again at once.
    let mut client = client(&host.agent);
    client.ask(&ControlRequest::Subscribe).expect("asked");
    assert_eq!(client.answer().expect("an answer"), ControlResponse::Subscribed);
    host.santa.sync();
    let ControlResponse::Relay { relay } = client.answer().expect("an answer") else {
        panic!("RELAY-11: subscribers hear of it")
    };
    assert!(relay.authorizer.is_some());
    host.until(|_| count() == 2);
    host.santa.sync();
    host.until(|relay| relay.in_step);
    assert!(host.is_in_step());
    assert_eq!(sync(&host.agent).result, SyncResult::Success);
    host.server.queue_changes(fixtures::changes(&host.server.rules(), (1, 1, 1), 5));
    assert_eq!(count(), 2, "nothing was lacking");
    assert_eq!(sync(&host.agent).result, SyncResult::Success);
    let took = host.until(|_| count() == 3);
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(daemon);

    let _daemon = host.start(&["--set", &nudge(3)]);
    assert_eq!(sync(&host.agent).result, SyncResult::Success);
    host.until(|relay| relay.nudge.as_ref().is_some_and(|nudge| nudge.failures == 1));
    let relay = host.relay().expect("it runs");
    assert!(!relay.in_step && relay.behind_since.is_some(), "{relay:?}");
}

/// RELAY-1: a taken port does not end the daemon, and is shown; once it is free the
/// relay listens.
#[test]
fn relay_1_a_taken_port_is_waited_for() {
    let host = Host::new(Age::Y2026M7);
    let taken = TcpListener::bind(&host.listen).expect("free");
    let set = format!("RelayListen={}", host.listen);
    let _daemon = Daemon::start(&host.agent, 1, &["--set", &set]);
    host.until(|relay| relay.error.as_ref().is_some_and(|error| error.contains("taken")));
    let shown = host.agent.run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("Does Not Listen"), "{shown}");
    drop(taken);
    host.until(|relay| relay.error.is_none());
}

/// What a killed daemon leaves behind, at every place where it may be killed.
#[cfg(any(debug_assertions, feature = "test-hooks"))]
mod killed {
    use super::*;
    use crate::relay::santa::unique_id;

    /// What the relay does, by the names of its checkpoints.
    const EFFECTS: [&str; 7] = [
        "keep_report",
        "keep_settings",
        "begin_delivery",
        "keep_sent",
        "take_events",
        "keep_acknowledgement",
        "keep_surplus",
    ];

    /// Random kills without the variable; `SANTA_SYNC_RELAY_KILLS=200 cargo test
    /// --test it relay::process::killed` makes that many.
    const DEFAULT: u64 = 6;

    /// Santa syncs and blocks things while the daemon is killed at `at`; afterwards
    /// it comes into step, and no event is lost. Returns whether it was killed.
    fn survives(age: Age, at: &str) -> bool {
        let host = Host::new(age);
        let daemon = host.start(&["--relay-kill-at", at]);
        assert!(host.server.wait_for(Stage::Postflight, 1, PATIENCE));
        let mut blocked_events = Vec::new();
        for n in 0..4 {
            let event = blocked(n);
            host.santa.observe(&event);
            blocked_events.push(unique_id(&event));
            host.santa.sync();
        }
        let killed = !std::path::Path::new(&format!("/proc/{}/fd/0", daemon.pid())).exists();
        drop(daemon);
        host.server.queue_changes(fixtures::changes(&host.server.rules(), (3, 3, 3), 9));
        let daemon = host.start(&[]);
        assert_eq!(sync(&host.agent).result, SyncResult::Success);
        for _ in 0..3 {
            assert_eq!(host.santa.sync().status, Status::Success, "{at}");
        }
        let rows: Vec<_> = stored::rows(&host.agent.state_dir)
            .into_iter()
            .filter(|row| row.state != 9 || age.knows(wire::Policy::Cel))
            .map(|row| match row.state {
                12 | 13 if !age.knows(wire::Policy::SilentGuiBlocklist) => {
                    super::super::santa::Row { state: 3, ..row }
                }
                _ => row,
            })
            .collect();
        assert_eq!(host.santa.rows(), rows, "{age:?} {at}");
        assert_eq!(sync(&host.agent).result, SyncResult::Success);
        drop(daemon);
        let received: Vec<_> = host.server.events().iter().map(unique_id).collect();
        for event in &blocked_events {
            assert!(received.contains(event), "{at}: an event is lost");
        }
        killed
    }

    /// RELAY-7, RELAY-8: killed before or after any effect, it delivers again what was
    /// not acknowledged, and no event is lost.
    #[test]
    fn relay_7_a_daemon_killed_at_any_effect_delivers_again() {
        for effect in EFFECTS {
            for when in ["before", "after"] {
                // Only releases without a hash have a surplus to be learnt.
                let age = if effect == "keep_surplus" { Age::Y2024M12 } else { Age::Y2026M7 };
                assert!(survives(age, &format!("1:{when}:{effect}")), "{when} {effect}");
            }
        }
    }

    /// The same at any number of any effect.
    #[test]
    fn relay_7_a_daemon_killed_anywhere_delivers_again() {
        let times = std::env::var("SANTA_SYNC_RELAY_KILLS");
        let times = times.ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT);
        let mut killed = 0;
        for n in 0..times {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let age = Age::ALL[usize::try_from(mixed % 4).expect("small")];
            let when = if mixed / 4 % 2 == 0 { "before" } else { "after" };
            let at = format!("{}:{when}:any", 1 + mixed / 8 % 16);
            killed += u64::from(survives(age, &at));
        }
        println!("{killed} of {times} daemons were killed");
    }
}

/// RELAY-10: while it was away, the server heard events of this host only; when it is
/// back, a sync follows at once.
#[test]
fn relay_10_an_authorizer_that_is_back_is_reported_at_once() {
    let host = Host::new(Age::Y2026M7);
    let daemon = host.start(&[]);
    assert!(host.server.wait_for(Stage::Postflight, 1, PATIENCE));
    host.until(|relay| relay.newest_generation.is_some());
    host.santa.sync();
    drop(daemon);
    let file = host.agent.state_dir.join("authorizer.json");
    let text = std::fs::read_to_string(&file).expect("kept");
    let mut report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    report["at"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&file, report.to_string()).expect("written");
    let _daemon = host.start(&[]);
    let preflights = host.server.count(Stage::Preflight);
    assert_eq!(sync(&host.agent).result, SyncResult::AuthorizerStale);
    assert_eq!(host.server.count(Stage::Preflight), preflights, "events only");
    host.santa.sync();
    assert!(host.server.wait_for(Stage::Preflight, preflights + 1, PATIENCE));
}

/// RELAY-14: the keys of a relay that runs are not removed by a command that does not
/// know of it.
#[test]
fn relay_14_the_keys_of_a_relay_that_runs_stay() {
    let host = Host::new(Age::Y2026M7);
    let _daemon = host.start(&[]);
    let output = host.agent.run(&["relay", "remove"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains(&host.listen), "{errors}");
}

/// RELAY-12, RELAY-11: a client of a user that is not served is named: by user, process
/// and program, in the log, in `status` and by `doctor`.
#[cfg(target_os = "linux")]
#[test]
fn relay_12_who_is_refused_is_named() {
    let host = Host::new(Age::Y2026M7);
    let mut daemon = host.start(&["--set", "RelayPeerUsers=4711"]);
    assert_eq!(host.santa.sync().http_status, Some(401));
    let line = daemon.says("the relay refused a request: it is not the authorizer's");
    let user = rustix::process::geteuid().as_raw();
    assert!(line.contains(&format!("user_id={user}")), "{line}");
    assert!(line.contains(&format!("process={}", std::process::id())), "{line}");
    let relay = host.until_status(|relay| !relay.refused_peers.is_empty());
    let peer = &relay.refused_peers[0];
    assert_eq!((peer.user_id, peer.process), (Some(user), Some(std::process::id())));
    assert!(peer.program.is_some() && peer.times >= 1, "{peer:?}");
    let listen = format!("RelayListen={}", host.listen);
    for args in [&["status"][..], &["doctor", "--no-probe", "--set", &listen]] {
        let output = host.agent.run(args);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(&format!("process {}", std::process::id())), "{args:?}: {told}");
    }
}

/// RELAY-14, RELAY-11: what a daemon has by its own command line is shown to commands
/// that do not know of it.
#[test]
fn relay_14_show_and_status_ask_the_daemon_first() {
    let host = Host::new(Age::Y2026M7);
    let directory = "RelayDirectory=/srv/relay";
    let _daemon = host.start(&["--set", "RelaySecret=5ecretm4rk", "--set", directory]);
    let said = |args: &[&str]| {
        let output = host.agent.run(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = said(&["relay", "show"]);
    assert!(shown.contains(&format!("Relay              http://{}/", host.listen)), "{shown}");
    assert!(shown.contains("no relay, other than the daemon's"), "{shown}");
    assert!(shown.contains("RelaySecret        set") && !shown.contains("5ecret"), "{shown}");
    if cfg!(target_os = "linux") {
        assert!(!shown.contains("santactl") && !shown.contains("profile"), "{shown}");
    }
    let status = said(&["status"]);
    assert!(status.contains("Authorizer Last Seen"), "{status}");
    let json: serde_json::Value =
        serde_json::from_str(&said(&["relay", "show", "--json"])).expect("JSON");
    assert_eq!(json["configured_url"], serde_json::Value::Null);
    assert_eq!((&json["secret"], &json["directory"]), (&true.into(), &"/srv/relay".into()));
}

/// RELAY-3: a relay without a server to sync with says so, and what to do.
#[test]
fn relay_3_a_relay_without_a_server_warns() {
    let host = Host::new(Age::Y2026M7);
    let set = format!("RelayListen={}", host.listen);
    let mut daemon = Daemon::bare(&host.agent, 1, &["--set", &set]);
    let line = daemon.says("there is no server to sync with");
    assert!(line.contains("WARN") && line.contains("set SyncBaseURL"), "{line}");
}

/// RELAY-1: that a reload has ended the relay is logged.
#[test]
fn relay_1_a_relay_that_a_reload_ends_is_logged() {
    let host = Host::new(Age::Y2026M7);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.plist");
    let write = |keys: &str| {
        std::fs::write(&file, format!("<plist><dict>{keys}</dict></plist>")).expect("written");
    };
    write(&format!("<key>RelayListen</key><string>{}</string>", host.listen));
    let path = file.to_str().expect("UTF-8");
    let mut daemon = Daemon::start(&host.agent, 1, &["--config", path]);
    host.until(|relay| relay.error.is_none() && !relay.url.is_empty());
    write("");
    daemon.signal(Signal::HUP);
    let line = daemon.says("the relay has stopped");
    assert!(line.contains(&host.listen), "{line}");
}
