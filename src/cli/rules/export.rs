//! `rules export`: the form that `rules import` and the reference read.

use serde::Serialize;

use super::list::RuleArray;
use super::open;
use crate::cli::{Error, Global, output};
use crate::model::RuleState;
use crate::store::RuleFilter;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Accepted for symmetry; the output is always JSON
    #[arg(long)]
    json: bool,
}

/// Prints the rules in stored order. Transitive rules are the host's own and
/// sandbox rules have no form that imports again: both stay out.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let Args { json: _ } = args;
    let (_, store) = open(global)?;
    let exported =
        |state: &RuleState| !matches!(state, RuleState::AllowTransitive | RuleState::Seatbelt);
    let filter = RuleFilter {
        states: RuleState::ALL.iter().copied().filter(exported).collect(),
        ..RuleFilter::default()
    };
    let rules = RuleArray { store: &store, filter: &filter, left: usize::MAX, failed: None.into() };
    output::json(&Export { rules: &rules });
    rules.failed.into_inner().map_or(Ok(()), |error| Err(error.into()))
}

#[derive(Serialize)]
struct Export<'a> {
    rules: &'a RuleArray<'a>,
}
