//! `sync`: one sync, at once.

use std::borrow::Cow;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::hooks::SyncHooks;
use super::{Error, Global, error, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::failure::{Failure, FailureKind, Remedy};
use crate::host::{self, Ignored, SystemHost};
use crate::model::{LogLevel, SyncRecord, SyncResult, SyncType, Trigger};
use crate::store::{self, RulesPreview, StateLock, Store};
use crate::sync::Stop;
use crate::sync::progress::Observer;
use crate::sync::run::{self, SyncError, SyncHost, SyncOptions};
use crate::sync::upload::{self, UploadReport};

mod by_daemon;
mod report;
mod signals;

#[cfg(feature = "harness")]
pub(super) use report::stages;
pub(super) use report::{Reporter, in_line};
use signals::Signals;

#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one a flag of the command line")]
pub(super) struct Args {
    /// Request a clean sync: replace all rules except transitive ones
    #[arg(long)]
    clean: bool,
    /// Request a clean sync of all rules; overrides --clean
    #[arg(long)]
    clean_all: bool,
    /// Withdraw the request of an earlier --clean or --clean-all before syncing
    #[arg(long, conflicts_with_all = ["clean", "clean_all", "dry_run"])]
    forget_clean: bool,
    /// Ignore GuardRemovedPercent for this sync
    #[arg(long)]
    past_guard: bool,
    /// Show what would change without changing it; the server sees a preflight and a rule download
    #[arg(long)]
    dry_run: bool,
    /// Log each request
    #[arg(long)]
    debug: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail instead of waiting if another sync is running
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    hooks: SyncHooks,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    record: &'a SyncRecord,
    /// Of a dry run: what would become of the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules_preview: Option<RulesPreview>,
}

impl Args {
    /// The level of log lines: `--debug` shows at least each request.
    pub(super) fn log_level(&self, level: LogLevel) -> LogLevel {
        if self.debug && level != LogLevel::Trace { LogLevel::Debug } else { level }
    }

    fn wanted(&self) -> SyncOptions {
        let clean = match (self.clean_all, self.clean) {
            (true, _) => Some(SyncType::CleanAll),
            (false, true) => Some(SyncType::Clean),
            (false, false) => None,
        };
        SyncOptions {
            clean,
            dry_run: self.dry_run,
            wait: !self.no_wait,
            past_guard: self.past_guard,
            ..SyncOptions::of(Trigger::Manual)
        }
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let setup = setup::load(global).inspect_err(|refused| {
        if args.json {
            let parts = (refused.to_string(), refused.fix().map(Cow::into_owned));
            let record = not_begun(SyncResult::BadConfiguration, parts, args.wanted());
            let exit_code = error::exit_of(refused.findings());
            output::json(&SyncRecord { exit_code, ..record });
        }
    })?;
    if args.forget_clean {
        forget_clean(&setup.state_dir).inspect_err(|error| {
            if args.json {
                output::json(&not_begun(SyncResult::StateUnusable, error.parts(), args.wanted()));
            }
        })?;
    }
    let wanted = args.wanted();
    let mut reporter = Reporter::new(!args.json);
    if let Some(client) = by_daemon::find(global, args, &setup.state_dir) {
        let record = by_daemon::sync(client, wanted, &reporter);
        return Ok(finish(args, reporter, &record));
    }
    let clock = SystemClock::with_rate(global.clock_rate);
    let record = args.hooks.observe(&mut reporter, |observer| {
        sync_once(
            &setup.config,
            &setup.state_dir,
            wanted,
            clock,
            host::ignored_signals(&SystemHost),
            observer,
        )
    });
    Ok(finish(args, reporter, &record))
}

/// Withdraws the operator's request for a clean sync. Requests that the store
/// made for itself stay: it cannot do without what they ask for.
fn forget_clean(state_dir: &Path) -> Result<(), Error> {
    let _lock = StateLock::acquire_existing(state_dir)?;
    let (mut store, _) = Store::open(state_dir, SystemClock::new().now().wall)?;
    if !store.forget_clean_sync()? {
        output::note("no clean sync was asked for");
    }
    for request in store.clean_sync_requests()? {
        output::note(format_args!(
            "a {} sync is still requested: {}",
            request.sync_type.name(),
            request.reason.words()
        ));
    }
    Ok(())
}

/// The record of a sync that did not get as far as the state directory, which
/// nobody keeps.
fn not_begun(
    result: SyncResult,
    (message, fix): (String, Option<String>),
    wanted: SyncOptions,
) -> SyncRecord {
    let now = SystemClock::new().now().wall;
    let clean = wanted.clean.unwrap_or(SyncType::Normal);
    let record = SyncRecord::not_begun(result, message, fix, wanted.trigger, now, clean);
    SyncRecord { dry_run: wanted.dry_run, ..record }
}

fn finish(args: &Args, reporter: Reporter, record: &SyncRecord) -> ExitCode {
    let preview = reporter.finish();
    if args.json {
        output::json(&Printed { record, rules_preview: preview });
    } else {
        report::summary(record, preview.as_ref());
    }
    ExitCode::from(record.exit_code)
}

/// Runs one sync on this thread and returns its record, even if it could not
/// begin. SIGINT and SIGTERM end it cleanly.
pub(super) fn sync_once(
    config: &Config,
    state_dir: &Path,
    wanted: SyncOptions,
    clock: SystemClock,
    ignored: Ignored,
    observer: &mut dyn Observer,
) -> SyncRecord {
    let began = clock.now().wall;
    let requested = wanted.clean.unwrap_or(SyncType::Normal);
    let not_begun = |result: SyncResult, error: &dyn Remedy| {
        let (message, fix) = (error.to_string(), error.fix().map(Cow::into_owned));
        let record = SyncRecord::not_begun(result, message, fix, wanted.trigger, began, requested);
        if !wanted.dry_run && result != SyncResult::TooManySyncs {
            leave(state_dir, &record);
        }
        record
    };
    if config.sync_base_url.is_none() {
        let error = SyncError::MissingSyncBaseUrl;
        return not_begun(error.result(), &error);
    }
    let report = host::facts(config, &SystemHost);
    let machine_id = match report.machine_id {
        Ok((machine_id, _)) => machine_id,
        Err(problem) => return not_begun(SyncResult::MissingMachineId, &problem),
    };
    let host = SyncHost { config, state_dir, machine_id, facts: report.facts };
    let record = until_signalled(ignored, async |stop| {
        run::run_sync(&host, wanted, &clock, observer, stop).await
    });
    match record {
        Ok(Ok(record)) => record,
        Ok(Err(error)) => not_begun(error.result(), &error),
        Err(message) => {
            let failure = Failure::new(FailureKind::Cancelled, message);
            not_begun(SyncResult::InternalError, &failure)
        }
    }
}

/// Uploads the queued events on this thread (EV-10).
pub(super) fn upload_once(
    config: &Config,
    state_dir: &Path,
    clock: SystemClock,
    ignored: Ignored,
) -> UploadReport {
    let report = host::facts(config, &SystemHost);
    let machine_id = match report.machine_id {
        Ok((machine_id, _)) => machine_id,
        Err(problem) => return UploadReport::failed(problem.to_string()),
    };
    let host = SyncHost { config, state_dir, machine_id, facts: report.facts };
    until_signalled(ignored, async |stop| upload::run(&host, &clock, stop).await)
        .unwrap_or_else(UploadReport::failed)
}

/// Runs `work` on this thread; a signal tells it to stop. The error says why it
/// could not begin.
fn until_signalled<T>(ignored: Ignored, work: impl AsyncFnOnce(Stop) -> T) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let signals = Signals::catch(ignored);
    let done = runtime.block_on(work(signals.stop()));
    // A thread that waits for a lock or for a name server must not delay the exit.
    runtime.shutdown_background();
    Ok(done)
}

/// Keeps the record of a sync that could not begin, where one can be written.
fn leave(state_dir: &Path, record: &SyncRecord) {
    let left =
        Store::prepare_dir(state_dir).and_then(|()| store::leave_record(state_dir, None, record));
    if let Err(error) = left {
        tracing::debug!(%error, "the sync leaves no record");
    }
}
