//! `harness`: for people who write sync servers and agents.

mod serve;

use clap::Subcommand;

use super::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a fake sync server on loopback, as well-behaved or as broken as you like
    #[command(after_long_help = serve::EXAMPLES)]
    Serve(Box<serve::Args>),
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Serve(args) => serve::run(args),
    }
}
