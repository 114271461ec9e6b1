//! `sync`: one sync, at once.

use std::borrow::Cow;
use std::process::ExitCode;

use serde::Serialize;

use super::hooks::SyncHooks;
use super::{Error, Global, connect, error, output, setup};
use crate::agent::{Agent, LocalAgent, RemoteAgent};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Remedy as _;
use crate::host::{self, SystemHost};
use crate::model::{LogLevel, SyncRecord, SyncResult, SyncType, Trigger};
use crate::store::RulesPreview;
use crate::sync::run::SyncOptions;

mod report;
mod signals;

#[cfg(feature = "harness")]
pub(super) use report::stages;
pub(super) use report::{Reporter, in_line};
pub(super) use signals::Signals;
#[cfg(feature = "harness")]
pub(super) use signals::exit_code;

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
    /// Ignore `GuardRemovedPercent` for this sync
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
struct PrintedRecord<'a> {
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
        forget_clean(&connect::local(global, &setup)).inspect_err(|error| {
            if args.json {
                output::json(&not_begun(SyncResult::StateUnusable, error.parts(), args.wanted()));
            }
        })?;
    }
    let wanted = args.wanted();
    let mut reporter = Reporter::new(!args.json);
    // What is looked at closely, or by another clock, happens in this process.
    let here = args.debug || args.hooks.is_set() || global.clock_rate != 1;
    let mut agent = if here || !RemoteAgent::can_sync(wanted) {
        Agent::local(connect::local(global, &setup))
    } else {
        connect::agent(global, &setup)
    };
    let signals = Signals::catch(host::ignored_signals(&SystemHost));
    let record =
        args.hooks.observe(&mut reporter, |observer| agent.sync(wanted, observer, signals.stop()));
    Ok(finish(args, reporter, &record))
}

/// Withdraws the operator's request for a clean sync.
fn forget_clean(agent: &LocalAgent) -> Result<(), Error> {
    let (forgotten, left) = agent.forget_clean_sync()?;
    if !forgotten {
        output::note("no clean sync was requested");
    }
    for request in left {
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
        output::json(&PrintedRecord { record, rules_preview: preview });
    } else {
        report::summary(record, preview.as_ref());
    }
    ExitCode::from(record.exit_code)
}
