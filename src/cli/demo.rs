//! `demo`: three syncs against a built-in server on loopback, as a host would see
//! them.

mod relay;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::output::{self, line, printable};
use super::sync::{Reporter, Signals, stages};
use super::{Error, Global};
use crate::agent::LocalAgent;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Sources};
use crate::harness::{FakeServer, Fault, every, fixtures};
use crate::host::{self, SystemHost};
use crate::model::text::counted;
use crate::model::{RuleCounts, SettingChange, Stage, SyncRecord, SyncResult, SyncType, Trigger};
use crate::protocol::stored::{self, QueuedEvent};
use crate::protocol::wire;
use crate::store::{EventStore, Limits, NewEvent, Store};
use crate::sync::run::SyncOptions;

/// How much faster the clock runs while the broken sync waits.
const CLOCK_RATE: u32 = 1000;
/// Events queued per transaction.
const EVENTS_PER_TRANSACTION: usize = 10_000;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Number of rules the server holds
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = at_most_5_million)]
    rules: usize,
    /// Number of events the host has queued
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = at_most_5_million)]
    events: usize,
    /// Show the relay instead: a server, an agent, and a host that syncs with the agent
    #[arg(long)]
    relay: bool,
    /// Keep the state in this directory, which must be new or empty
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Args {
    /// The directory to keep.
    pub(super) fn keep(&self) -> Option<&Path> {
        self.keep.as_deref()
    }
}

/// Parses a number of rules or events up to the limit of one sync (HTTP-8).
pub(super) fn at_most_5_million(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number <= 5_000_000 => Ok(number),
        Ok(_) | Err(_) => Err("write a number up to 5000000, the limit of one sync".to_owned()),
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    if args.relay {
        return relay::run(args);
    }
    let (state_dir, scratch) = state_directory(args)?;
    let page_size = (args.rules / 6).clamp(1, 10_000);
    let batch_size = u32::try_from(args.events / 3).unwrap_or(u32::MAX).clamp(1, 1000);
    let server = FakeServer::builder()
        .rules(fixtures::rules(args.rules, 1))
        .page_size(page_size)
        .batch_size(batch_size)
        .settings(settings(wire::ClientMode::Lockdown, 900))
        .start()?;
    let rules = counted(args.rules as u64, "rule");
    line(format!("A server with {rules} listens on {}", server.url()));
    queue_events(&state_dir, args.events)?;
    let events = counted(args.events as u64, "event");
    line(format!("{events} in the queue of {}", state_dir.display()));

    let sources = Sources {
        sets: vec![format!("SyncBaseURL={}", server.url()), "MachineID=demo-host".to_owned()],
        file: None,
        system: Vec::new(),
    };
    let config = Config::examine(&sources).config;
    let signals = Signals::catch(host::ignored_signals(&SystemHost));
    let sync = |rate: u32| {
        let wanted = SyncOptions { wait: false, ..SyncOptions::of(Trigger::Manual) };
        let mut reporter = Reporter::new(true);
        let clock = SystemClock::with_rate(rate.max(global.clock_rate));
        let agent = LocalAgent::new(&*state_dir, Arc::clone(&config)).with_clock(clock);
        let record = agent.sync(wanted, &mut reporter, signals.stop());
        reporter.finish();
        record
    };

    heading("1. A new host: everything from scratch");
    let record = sync(1);
    show(&record);
    expect(&record, SyncResult::Success)?;

    heading("2. Rules are changed, removed and added; LOCKDOWN becomes MONITOR");
    let few = (args.rules / 20).max(1);
    server.queue_changes(fixtures::changes(&server.rules(), (few, few, few), 7));
    server.change_settings(|s| *s = settings(wire::ClientMode::Monitor, 900));
    let record = sync(1);
    show(&record);
    expect(&record, SyncResult::Success)?;

    heading("3. The server truncates every rule page; its new settings are not applied");
    line(format!("   (the clock runs {CLOCK_RATE} times as fast while it waits)"));
    server.change_settings(|s| *s = settings(wire::ClientMode::Lockdown, 3600));
    server.fault(Stage::RuleDownload, every(), Fault::Truncate);
    let record = sync(CLOCK_RATE);
    show(&record);
    expect(&record, SyncResult::RuleDownloadFailed)?;

    heading("What the host has now");
    state_of(&state_dir)?;
    line(format!("   the server received {}", counted(server.events_received(), "event")));
    match scratch {
        None => line(format!("   the state is in {}", state_dir.display())),
        Some(scratch) => {
            let shown = scratch.path().display().to_string();
            drop(scratch);
            line(format!("   the state was in {shown}; --keep DIR keeps it"));
        }
    }
    Ok(())
}

/// Returns the directory to keep, or a temporary one with its guard.
fn state_directory(args: &Args) -> Result<(PathBuf, Option<tempfile::TempDir>), Error> {
    let unusable =
        |dir: &Path, error| Error::unusable(format!("cannot use {}: {error}", dir.display()));
    if let Some(dir) = &args.keep {
        let mut entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((dir.clone(), None));
            }
            Err(error) => return Err(unusable(dir, error)),
        };
        return match entries.next() {
            Some(_) => Err(Error::usage(format!("{} is not empty", dir.display()))
                .with_fix("name a new directory with --keep")),
            None => Ok((dir.clone(), None)),
        };
    }
    let scratch = tempfile::tempdir().map_err(|error| unusable(&std::env::temp_dir(), error))?;
    Ok((scratch.path().join("state"), Some(scratch)))
}

fn settings(mode: wire::ClientMode, full_sync_interval: u32) -> wire::PreflightResponse {
    wire::PreflightResponse {
        client_mode: mode.into(),
        full_sync_interval_seconds: full_sync_interval,
        enable_bundles: Some(true),
        blocked_path_regex: Some("^/private/tmp/".to_owned()),
        ..wire::PreflightResponse::default()
    }
}

fn queue_events(state_dir: &Path, count: usize) -> Result<(), Error> {
    let now = SystemClock::new().now();
    let (mut events, _) = EventStore::open(state_dir, now.wall)?;
    let mut batch = Vec::new();
    for event in fixtures::events(count, 1) {
        let event = QueuedEvent::from(event);
        let summary = stored::summarize(&event, false).map_err(|error| {
            Error::internal(format!("a sample event has no unique id: {error}"))
        })?;
        batch.push(NewEvent { summary, data: stored::encode(&event) });
        if batch.len() == EVENTS_PER_TRANSACTION {
            events.queue_events(&batch, now, Limits::default())?;
            batch.clear();
        }
    }
    events.queue_events(&batch, now, Limits::default())?;
    Ok(())
}

fn expect(record: &SyncRecord, result: SyncResult) -> Result<(), Error> {
    if record.result == result {
        return Ok(());
    }
    let (is, expected) = (record.result.name(), result.name());
    Err(Error::internal(format!("this sync should have ended as {expected}, not {is}"))
        .with_fix("please report this"))
}

fn heading(text: &str) {
    output::lines(format!("\n{text}"));
}

fn show(record: &SyncRecord) {
    stages("   ", record);
    let sync_type = record.sync_type.map_or("no", SyncType::name);
    line(format!("   {}: a {sync_type} sync in {} ms", record.result.name(), record.duration_ms));
    if let Some(error) = &record.error {
        line(format!("   {}", printable(&error.line())));
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    for SettingChange { setting, before, after } in &record.settings_applied {
        line(format!("   applied {setting}: {} -> {}", text(before), text(after)));
    }
    for SettingChange { setting, before, after } in &record.settings_reverted {
        line(format!("   reverted {setting}: stays {}, not {}", text(before), text(after)));
    }
}

fn state_of(state_dir: &Path) -> Result<(), Error> {
    let store = Store::open_read_only(state_dir)?;
    let RuleCounts { binary, certificate, compiler, transitive, teamid, signingid, cdhash } =
        store.rule_counts()?;
    line(format!(
        "   rules: {binary} binary, {certificate} certificate, {teamid} team id, \
         {signingid} signing id, {cdhash} cdhash (of these {compiler} compiler, \
         {transitive} transitive)"
    ));
    line(format!("   rules hash: {}", store.rules_hash()?));
    for (name, value) in store.applied_settings()?.shown() {
        if let Some(value) = value {
            line(format!("   setting {name}: {value}"));
        }
    }
    let pending = EventStore::open_read_only(state_dir)?.pending()?;
    line(format!("   events still queued: {pending}"));
    Ok(())
}
