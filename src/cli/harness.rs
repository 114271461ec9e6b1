//! `harness`: for people who write sync servers and agents.

mod conformance;
mod report;
mod serve;
mod simulate;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;

use super::{Error, Global, setup};
use crate::config::{Config, Finding, FindingKind, Severity, Source, Sources};
use crate::harness::simulation::plan::parse_duration;

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
    /// Show the report of a simulation, or merge those of its shards
    Report(report::Args),
}

/// Parses a duration given on the command line.
fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "write a number and ms, s, m, h or d, for example 10m".to_owned())
}

/// The configuration of `--set` and `--config` alone. This host's own configuration is for its own
/// server, and its secrets must not go to another one.
///
/// # Errors
/// If an agent would ignore a `--set`: the run would not check what was meant.
fn configuration(global: &Global) -> Result<Arc<Config>, Error> {
    let sources =
        Sources { sets: global.set.clone(), file: global.config.clone(), system: Vec::new() };
    let loaded = Config::load(&sources)?;
    let is_ignored = |finding: &&Finding| {
        let is_about_the_value = match finding.kind {
            FindingKind::Malformed
            | FindingKind::BadSet
            | FindingKind::UnknownKey
            | FindingKind::UnsupportedKey
            | FindingKind::WrongType
            | FindingKind::BadValue
            | FindingKind::OutOfRange
            | FindingKind::RestrictedHeader
            | FindingKind::RejectedUrl
            | FindingKind::BadRule
            | FindingKind::Placeholder => true,
            FindingKind::Unreadable
            | FindingKind::DeprecatedKey
            | FindingKind::MissingUrl
            | FindingKind::NotEvaluated
            | FindingKind::NoEffect
            | FindingKind::Expiry
            | FindingKind::Exposed
            | FindingKind::Conflict
            | FindingKind::Misplaced => false,
        };
        let is_wrong = finding.severity >= Severity::Warning;
        finding.source == Source::CommandLine && is_wrong && is_about_the_value
    };
    if let Some(finding) = loaded.findings.iter().find(is_ignored) {
        return Err(Error::usage(finding.what()).with_fix(finding.fix.clone()));
    }
    setup::warn_of(&loaded.findings);
    Ok(loaded.config)
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
