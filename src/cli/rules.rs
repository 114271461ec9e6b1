//! `rules`: looks rules up, and manages the rules of a host without a server.

mod check;
mod export;
mod import;
mod list;
mod log;
mod verify;

use clap::{Subcommand, ValueEnum};

use super::setup::{self, Setup};
use super::{Error, Global};
use crate::model::{RuleState, RuleType};
use crate::store::{ReadStore, Store};

/// The version of every `--json` form here.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List rules in stored order
    List(list::Args),
    /// Show which rule applies to a file or an identifier
    Check(check::Args),
    /// Print rules in the format that `rules import` reads
    Export(export::Args),
    /// Import rules from a file, on a host without a server
    Import(import::Args),
    /// Check the whole store: integrity, hash, counts, every rule
    Verify(verify::Args),
    /// List what each sync or import did to the rules, newest first
    Log(log::Args),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::List(args) => list::run(global, args),
        Command::Check(args) => check::run(global, args),
        Command::Export(args) => export::run(global, args),
        Command::Import(args) => import::run(global, args),
        Command::Verify(args) => verify::run(global, args),
        Command::Log(args) => log::run(global, args),
    }
}

/// Reads the configuration and opens the store to read from.
fn open(global: &Global) -> Result<(Setup, ReadStore), Error> {
    let setup = setup::load_to_read(global)?;
    let store = Store::open_read_only(&setup.state_dir)?;
    Ok((setup, store))
}

/// A rule type on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TypeArg {
    Cdhash,
    Binary,
    #[value(name = "signingid")]
    SigningId,
    Certificate,
    #[value(name = "teamid")]
    TeamId,
}

impl From<TypeArg> for RuleType {
    fn from(arg: TypeArg) -> Self {
        match arg {
            TypeArg::Cdhash => Self::Cdhash,
            TypeArg::Binary => Self::Binary,
            TypeArg::SigningId => Self::SigningId,
            TypeArg::Certificate => Self::Certificate,
            TypeArg::TeamId => Self::TeamId,
        }
    }
}

/// Parses a policy name as lists and exports show it, in any case. A name may
/// cover several states.
fn parse_policy(text: &str) -> Result<String, String> {
    let mut known: Vec<_> = RuleState::ALL.iter().map(|state| state.policy_name()).collect();
    known.sort_unstable();
    known.dedup();
    match known.iter().find(|name| name.eq_ignore_ascii_case(text)) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("known ones are {}", known.join(", "))),
    }
}
