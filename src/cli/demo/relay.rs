//! `demo --relay`: a server, an agent whose daemon relays, and a downstream host
//! that syncs with the agent alone, through changes, a crash, drift and a clean sync.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::park_timeout;
use std::time::Duration;

use super::{Args, Error, expect, heading, queue_events, settings, show, state_directory};
use crate::agent::{LocalAgent, RemoteAgent};
use crate::cli::output::line;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Sources};
use crate::control::relay::RelayStatus;
use crate::harness::{FakeServer, fixtures};
use crate::model::text::counted;
use crate::model::{
    Policy, Rule, RuleSet, Settings, StoredRule, SyncRecord, SyncResult, SyncType, Trigger,
};
use crate::protocol::wire;
use crate::store::{EventStore, GenerationSource, RuleCommit, RuleFilter, Store};
use crate::sync::progress::Unobserved;
use crate::sync::run::SyncOptions;
use crate::sync::stop_channel;

/// The machine id on both sides.
const MACHINE_ID: &str = "demo-host";
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// The agent's daemon; killed when dropped.
struct Daemon {
    child: Child,
    state_dir: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The three parties.
struct Chain {
    server: FakeServer,
    agent_dir: PathBuf,
    downstream_dir: PathBuf,
    listen: SocketAddr,
    daemon: Option<Daemon>,
    downstream: LocalAgent,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let (dir, scratch) = state_directory(args)?;
    let server = FakeServer::builder()
        .rules(fixtures::rules(args.rules, 1))
        .settings(settings(wire::ClientMode::Lockdown, 900))
        .start()?;
    let listen = free_port().map_err(|error| unusable("a port", &error))?;
    let downstream_dir = dir.join("downstream");
    let relay_url = format!("http://{listen}/");
    let mut chain = Chain {
        downstream: agent(&downstream_dir, &relay_url),
        agent_dir: dir.join("agent"),
        server,
        downstream_dir,
        listen,
        daemon: None,
    };
    let rules = counted(args.rules as u64, "rule");
    line(format!("upstream:   a server with {rules} at {}", chain.server.url()));
    line(format!("agent:      a daemon, whose relay is at {relay_url}"));
    let events = counted(args.events as u64, "event");
    line(format!("downstream: a host with {events}, which knows the relay alone"));
    queue_events(&chain.downstream_dir, args.events)?;

    heading("1. A new host: everything from scratch");
    chain.start()?;
    chain.wait_for(|relay| relay.newest_generation.is_some() && relay.not_ready.is_none())?;
    line("   (before a clean sync comes one that lets the host upload its events)");
    chain.downstream_syncs(2)?;

    heading("2. Rules are changed, removed and added; LOCKDOWN becomes MONITOR");
    chain.change(args, 7);
    chain.server.change_settings(|s| *s = settings(wire::ClientMode::Monitor, 900));
    chain.agent_syncs(None)?;
    chain.downstream_syncs(1)?;

    heading("3. Rules change, and the agent's daemon is killed before anyone has them");
    chain.change(args, 8);
    chain.agent_syncs(None)?;
    chain.daemon = None;
    line("   killed; it starts again");
    chain.start()?;
    chain.downstream_syncs(1)?;

    heading("4. Somebody tampers with the downstream host's rules");
    let gone = chain.tamper()?;
    line(format!("   {gone} rules are gone there"));
    chain.downstream_syncs(2)?;

    heading("5. The operator requests a CLEAN_ALL sync of the agent");
    chain.agent_syncs(Some(SyncType::CleanAll))?;
    chain.downstream_syncs(2)?;

    heading("6. Nothing has changed");
    chain.agent_syncs(None)?;
    let record = chain.downstream_syncs(1)?;
    if record.rules_received > 0 {
        return Err(differs("rules were sent though none had changed"));
    }
    let upload = |chain: &Chain| EventStore::open_read_only(&chain.downstream_dir)?.pending();
    let left = upload(&chain)?;
    chain.agent_syncs(None)?;
    let received = chain.server.events_received();
    line(format!(
        "   {} events queued downstream, {received} at the server, {left} left",
        args.events
    ));
    if left > 0 || received < args.events as u64 {
        return Err(differs("an event was lost"));
    }
    drop(chain);
    if scratch.is_none() {
        line(format!("   the state is in {}", dir.display()));
    }
    Ok(())
}

impl Chain {
    /// Starts the daemon, and waits until its relay listens.
    fn start(&mut self) -> Result<(), Error> {
        let program = std::env::current_exe().map_err(|error| unusable("this program", &error))?;
        std::fs::create_dir_all(&self.agent_dir)
            .map_err(|error| unusable("the state directory", &error))?;
        let log = File::options().create(true).append(true).open(self.agent_dir.join("daemon.log"));
        let log = log.map_err(|error| unusable("a log file", &error))?;
        let mut command = Command::new(program);
        command.args(["daemon", "--state-dir"]).arg(&self.agent_dir);
        for (key, value) in [
            ("SyncBaseURL", self.server.url()),
            ("MachineID", MACHINE_ID.to_owned()),
            ("RelayListen", self.listen.to_string()),
        ] {
            command.arg(format!("--set={key}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| unusable("the daemon", &error))?;
        self.daemon = Some(Daemon { child, state_dir: self.agent_dir.clone() });
        self.wait_for(|relay| relay.error.is_none() && !relay.url.is_empty())
    }

    /// Waits until the relay is so.
    fn wait_for(&mut self, is_so: impl Fn(&RelayStatus) -> bool) -> Result<(), Error> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let began = SystemClock::new().now().elapsed;
        while SystemClock::new().now().elapsed.saturating_sub(began) < PATIENCE {
            if let Ok(Some(mut remote)) = RemoteAgent::connect(&daemon.state_dir)
                && let Ok(status) = remote.status()
                && status.relay.as_ref().is_some_and(&is_so)
            {
                return Ok(());
            }
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(Error::internal(format!("the daemon ended: {status}"))
                    .with_fix("see daemon.log in its state directory; --keep DIR keeps it"));
            }
            park_timeout(Duration::from_millis(50));
        }
        Err(Error::internal("the relay is not ready after a minute".to_owned()))
    }

    fn change(&self, args: &Args, seed: u64) {
        let few = (args.rules / 20).max(1);
        self.server.queue_changes(fixtures::changes(&self.server.rules(), (few, few, few), seed));
    }

    /// Has the daemon sync with the server.
    fn agent_syncs(&self, clean: Option<SyncType>) -> Result<(), Error> {
        let remote = RemoteAgent::connect(&self.agent_dir);
        let Ok(Some(mut remote)) = remote else {
            return Err(Error::internal("the daemon is not there".to_owned()));
        };
        let options = SyncOptions { clean, ..SyncOptions::of(Trigger::Manual) };
        let record = remote.sync(options, &mut Unobserved);
        expect(&record, SyncResult::Success)?;
        let sync_type = record.sync_type.map_or("no", SyncType::name);
        line(format!(
            "   agent: a {sync_type} sync, {} rules received, {} events passed on",
            record.rules_received, record.events_uploaded
        ));
        Ok(())
    }

    /// The downstream host syncs so often with the relay, and then holds what the
    /// agent holds.
    fn downstream_syncs(&self, times: usize) -> Result<SyncRecord, Error> {
        let mut last = None;
        for _ in 0..times {
            let (_stopper, stop) = stop_channel();
            let options = SyncOptions::of(Trigger::Manual);
            let record = self.downstream.sync(options, &mut Unobserved, stop);
            show(&record);
            expect(&record, SyncResult::Success)?;
            last = Some(record);
        }
        let ours = Held::of(&self.agent_dir)?;
        let theirs = Held::of(&self.downstream_dir)?;
        if ours != theirs {
            return Err(differs("the downstream host does not hold what the agent holds"));
        }
        line(format!(
            "   downstream holds the agent's {} rules in order, hash {}, and its {} settings",
            theirs.rules.len(),
            theirs.hash,
            theirs.settings.shown().iter().filter(|(_, value)| value.is_some()).count()
        ));
        last.ok_or_else(|| Error::internal("no sync was made".to_owned()))
    }

    /// Deletes a few of the downstream host's rules behind everybody's back.
    fn tamper(&self) -> Result<usize, Error> {
        let now = SystemClock::new().now().wall;
        let (mut store, _) = Store::open(&self.downstream_dir, now)?;
        let mut removals = Vec::new();
        store.visit_rules(&RuleFilter::default(), &mut |rule| {
            let identifier = crate::model::Identifier::parse(rule.rule_type, &rule.identifier);
            removals.extend(identifier.ok().map(|identifier| Rule {
                identifier,
                policy: Policy::Remove,
                details: None,
            }));
            if removals.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let gone = removals.len();
        let mut set = RuleSet::default();
        set.push_page(removals, Vec::new());
        let commit =
            RuleCommit { source: GenerationSource::Import, ..(SyncType::Normal, now).into() };
        store.commit_rules(&set, commit).map_err(|error| Error::internal(error.to_string()))?;
        Ok(gone)
    }
}

/// What a state directory holds.
#[derive(PartialEq)]
struct Held {
    rules: Vec<StoredRule>,
    hash: String,
    settings: Settings,
}

impl Held {
    fn of(state_dir: &Path) -> Result<Self, Error> {
        let store = Store::open_read_only(state_dir)?;
        let mut rules = Vec::new();
        store.visit_rules(&RuleFilter::default(), &mut |rule| {
            // When a rule was stored, and comments, which are for people, differ.
            let mut rule = StoredRule { timestamp: 0, ..rule };
            rule.details.comment.clear();
            rules.push(rule);
            ControlFlow::Continue(())
        })?;
        // The relay has an interval of its own.
        let settings = Settings { full_sync_interval: None, ..store.applied_settings()? };
        Ok(Self { rules, hash: store.rules_hash()?, settings })
    }
}

fn agent(state_dir: &Path, url: &str) -> LocalAgent {
    let sources = Sources {
        sets: vec![format!("SyncBaseURL={url}"), format!("MachineID={MACHINE_ID}")],
        file: None,
        system: Vec::new(),
    };
    LocalAgent::new(state_dir, Config::examine(&sources).config)
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()
}

fn unusable(what: &str, error: &std::io::Error) -> Error {
    Error::unusable(format!("cannot use {what}: {error}"))
}

fn differs(what: &str) -> Error {
    Error::internal(what.to_owned()).with_fix("please report this")
}
