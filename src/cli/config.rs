//! `config`: what is configured, where it comes from, and what is wrong with it.

mod check;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use super::Global;
use crate::config::{Loaded, shown};
pub(super) use check::in_use;

/// The version of every `--json` form here.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake in the configuration, with its fix
    Check(check::Args),
    /// Print the effective values
    Show(show::Args),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    match &args.command {
        Command::Check(args) => check::run(global, args),
        Command::Show(args) => show::run(global, args),
    }
}

/// Returns the effective values and where they come from, without secrets.
pub(super) fn shown_with_origins(loaded: &Loaded) -> String {
    show::ShowReport::new(&loaded.effective, false, shown).text(true)
}
