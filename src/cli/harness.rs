//! `harness`: for people who write sync servers and agents.

mod conformance;
mod report;
mod serve;
mod simulate;

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
    /// Simulate a fleet of hosts that sync with a server, and measure both
    #[command(after_long_help = simulate::EXAMPLES)]
    Simulate(Box<simulate::Args>),
    /// Show the report of a simulation, or add up those of its shards
    Report(report::Args),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    match &args.command {
        Command::Conformance(args) => conformance::run(global, args),
        Command::Serve(args) => serve::run(args).map(|()| ExitCode::SUCCESS),
        Command::Simulate(args) => simulate::run(global, args).map(|()| ExitCode::SUCCESS),
        Command::Report(args) => report::run(args).map(|()| ExitCode::SUCCESS),
    }
}
