//! `sync-process`: the process of one sync, for the daemon. It reads its errand
//! and the configuration in force on standard input, and tells what happens on
//! standard output, a line of JSON for each thing.

use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};

use super::hooks::SyncProcessHooks;
use super::sync::{Heeded, sync_once, upload_once};
use super::{Error, Global, output};
use crate::clock::SystemClock;
use crate::config::{self, Config, Layer, Source};
use crate::daemon::message::{Facts, Line, Order, Step};
use crate::daemon::read_order;
use crate::sync::job::Wanted;
use crate::sync::progress::{Observer, Progress};

/// The longest order taken: a configuration file may have 8 MiB.
const MAX_ORDER: u32 = 32 * 1024 * 1024;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    hooks: SyncProcessHooks,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let order = read().ok().as_deref().and_then(read_order);
    let (order, values) = order.ok_or_else(|| {
        Error::usage("there is no order on standard input; only the daemon starts this command")
    })?;
    let ordinary = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(&Line::Panicked { message: panic.to_string() });
        ordinary(panic);
    }));
    std::thread::spawn(end_with_the_daemon);

    // The daemon has reported what is wrong with it, and chosen among sources.
    let layer = Layer { source: Source::CommandLine, values, exposed: false };
    let config = Config::resolve(&[layer]).config;
    let state_dir = config::state_dir(global.state_dir.as_deref(), &config);
    let clock = SystemClock::with_rate(global.clock_rate);
    let heeded = Heeded::inherited().with_terminate();
    let errand = match order {
        Order::Sync(errand) => errand,
        Order::Upload => {
            let report = upload_once(&config, &state_dir, clock, heeded);
            tell(&Line::Uploaded { report, facts: facts(&config, &state_dir) });
            return Ok(ExitCode::SUCCESS);
        }
    };
    let wanted = Wanted { clean: errand.clean, ..Wanted::of(errand.trigger) };
    let record = args.hooks.observe(&mut Teller, |observer| {
        sync_once(&config, &state_dir, wanted, clock, heeded, observer)
    });
    let exit_code = record.exit_code;
    tell(&Line::Ended { record: Box::new(record), facts: facts(&config, &state_dir) });
    Ok(ExitCode::from(exit_code))
}

fn facts(config: &Config, state_dir: &Path) -> Option<Box<Facts>> {
    let facts = Facts::read(config, state_dir)
        .map_err(|error| tracing::debug!(%error, "the stores cannot be read"));
    facts.ok().map(Box::new)
}

fn read() -> io::Result<Vec<u8>> {
    let mut stdin = io::stdin().lock();
    let mut length = [0; 4];
    stdin.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    let mut order = Vec::new();
    let read = stdin.by_ref().take(length.min(MAX_ORDER).into()).read_to_end(&mut order)?;
    if u32::try_from(read) == Ok(length) {
        Ok(order)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The daemon holds the other end of standard input for as long as it lives.
/// Once it is gone, this sync ends as if it had been told to.
fn end_with_the_daemon() {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    let _ = kill_process(getpid(), Signal::TERM);
}

fn tell(line: &Line) {
    output::json_line(line);
}

/// Tells the daemon what happens.
struct Teller;

impl Observer for Teller {
    fn progress(&mut self, progress: &Progress<'_>) {
        if let Some(step) = Step::of(progress) {
            tell(&Line::Step(step));
        }
        if let Progress::InLine { behind } = progress {
            tell(&Line::InLine { behind: *behind });
        }
        if let Progress::Begun = progress {
            tell(&Line::Begun);
        }
        if let Progress::Committed(committed) = progress {
            for (application, identifier) in &committed.announce {
                let (application, identifier) = (application.clone(), identifier.clone());
                tell(&Line::Notification { application, identifier });
            }
        }
    }
}
