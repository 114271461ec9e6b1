//! `harness`: for people who write sync servers and agents.

mod conformance;
mod serve;

use std::process::ExitCode;

use clap::Subcommand;

use super::{Error, Global};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a sync server against the protocol, requirement by requirement
    #[command(after_long_help = conformance::EXAMPLES)]
    Conformance(Box<conformance::Args>),
    /// Run a fake sync server on loopback, as well-behaved or as broken as you like
    #[command(after_long_help = serve::EXAMPLES)]
    Serve(Box<serve::Args>),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    match &args.command {
        Command::Conformance(args) => conformance::run(global, args),
        Command::Serve(args) => serve::run(args).map(|()| ExitCode::SUCCESS),
    }
}
