//! `sync-process`: the process of one sync or upload, started by the daemon. It
//! reads an order and the configuration in effect from standard input, and writes
//! a line of JSON to standard output for each thing that happens.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::hooks::SyncProcessHooks;
use super::sync::Signals;
use super::{Error, Global, output};
use crate::agent::LocalAgent;
use crate::clock::SystemClock;
use crate::config::{self, Config, Layer, Source};
use crate::daemon::sync_process::child::{self, ProgressReporter};
use crate::daemon::sync_process::order::{ChildMessage, Order};
use crate::daemon::sync_process::summary::StoreSummary;
use crate::host::{self, Ignored, SystemHost};
use crate::sync::run::SyncOptions;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    hooks: SyncProcessHooks,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let (order, values) = child::read_order().map_err(|_| {
        Error::usage("there is no order on standard input; only the daemon starts this command")
    })?;
    let ordinary = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        send(&ChildMessage::Panicked { message: panic.to_string() });
        ordinary(panic);
    }));
    child::stop_with_the_daemon();

    // The daemon has reported what is wrong with it, and chosen among sources.
    let layer = Layer { source: Source::CommandLine, domain: None, values, exposed: false };
    let config = Config::resolve(&[layer]).config;
    let state_dir = config::state_dir(global.state_dir.as_deref(), &config);
    let agent = LocalAgent::new(state_dir.clone(), Arc::clone(&config))
        .with_clock(SystemClock::with_rate(global.clock_rate));
    // The daemon stops its sync by SIGTERM, whatever it inherited.
    let ignored = Ignored { terminate: false, ..host::ignored_signals(&SystemHost) };
    let signals = Signals::catch(ignored);
    let errand = match order {
        Order::Sync(errand) => errand,
        Order::Upload => {
            let report = agent.upload_events(signals.stop());
            send(&ChildMessage::Uploaded { report, summary: summary(&config, &state_dir) });
            return Ok(ExitCode::SUCCESS);
        }
    };
    let wanted = SyncOptions { clean: errand.clean, ..SyncOptions::of(errand.trigger) };
    let record = args.hooks.observe(&mut ProgressReporter(send), |observer| {
        agent.sync(wanted, observer, signals.stop())
    });
    let exit_code = record.exit_code;
    send(&ChildMessage::Ended { record: Box::new(record), summary: summary(&config, &state_dir) });
    Ok(ExitCode::from(exit_code))
}

fn summary(config: &Config, state_dir: &Path) -> Option<Box<StoreSummary>> {
    StoreSummary::read(config, state_dir)
        .inspect_err(|error| tracing::debug!(%error, "the stores cannot be read"))
        .ok()
        .map(Box::new)
}

fn send(line: &ChildMessage) {
    output::json_line(line);
}
