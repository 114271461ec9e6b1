//! `harness`: for people who write sync servers and agents.

mod serve;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a fake sync server on loopback, as well-behaved or as broken as you like
    #[command(after_long_help = serve::EXAMPLES)]
    Serve(Box<serve::Args>),
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    match &args.command {
        Command::Serve(args) => serve::run(args),
    }
}
