//! `events`: lists, adds, requeues and drops events.

mod add;
mod bundles;
mod list;
mod rejected;

use clap::Subcommand;

use super::setup::{self, Setup};
use super::{Error, Global, output};
use crate::agent::LocalAgent;
use crate::clock::{Clock as _, SystemClock};
use crate::store::{EventStore, Notice, ReadEvents};

/// The version of every `--json` form here.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List queued events, oldest first, or rejected ones
    List(list::Args),
    /// Queue events from standard input, one JSON object per line
    Add(add::Args),
    /// Put rejected events back into the queue
    Requeue(rejected::Args),
    /// Delete rejected events
    Drop(rejected::Args),
    /// List bundles whose executables the server has requested
    Bundles(bundles::Args),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let setup = match &args.command {
        Command::List(_) | Command::Bundles(_) => setup::load_to_read(global)?,
        Command::Add(_) | Command::Requeue(_) | Command::Drop(_) => setup::load(global)?,
    };
    match &args.command {
        Command::List(args) => list::run(&setup, args),
        Command::Add(args) => add::run(global, &setup, args),
        Command::Requeue(args) => rejected::requeue(&setup, args),
        Command::Drop(args) => rejected::drop(&setup, args),
        Command::Bundles(args) => bundles::run(global, &setup, args),
    }
}

/// Opens the queue for reading. Returns `None` if nothing was ever queued.
fn look(setup: &Setup) -> Result<Option<ReadEvents>, Error> {
    Ok(LocalAgent::new(setup.state_dir.clone(), setup.config.clone()).events()?)
}

/// Opens the queue for changes.
fn open(setup: &Setup) -> Result<EventStore, Error> {
    let (store, notices) = EventStore::open(&setup.state_dir, SystemClock::new().now().wall)?;
    for notice in notices {
        match notice {
            Notice::Created { path } => tracing::info!(path = %path.display(), "queue created"),
            Notice::SetAside { path, reason } => output::note(format_args!(
                "the event queue was corrupt ({reason}); it was moved to {} and a new one created",
                path.display()
            )),
            // The queue holds no settings.
            Notice::SettingsUnreadable { .. } => {}
        }
    }
    Ok(store)
}
