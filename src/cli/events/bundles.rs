//! `events bundles`.

use serde::Serialize;

use super::{Failure, SCHEMA_VERSION, look};
use crate::cli::output;
use crate::cli::setup::Setup;
use crate::model::Timestamp;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    bundles: Vec<BundleForm>,
}

#[derive(Debug, Serialize)]
struct BundleForm {
    hash: String,
    requested_at: Timestamp,
    /// How many executables the bundle has; 0 while that is not known.
    executables: u32,
    delivered: u32,
}

/// Lists the open requests.
pub(super) fn run(setup: &Setup, args: &Args) -> Result<(), Failure> {
    let requests = match look(setup)? {
        Some(store) => store.open_bundle_requests()?,
        None => Vec::new(),
    };
    let bundles = requests.into_iter().map(|request| BundleForm {
        hash: request.hash,
        requested_at: request.since,
        executables: request.executables,
        delivered: request.delivered,
    });
    let report = Report { schema_version: SCHEMA_VERSION, bundles: bundles.collect() };
    if args.json {
        output::json(&report);
        return Ok(());
    }
    let mut lines = output::Lines::new();
    for BundleForm { hash, requested_at, executables, delivered } in &report.bundles {
        let hash = output::printable(hash);
        let of = if *executables == 0 { "?".to_owned() } else { executables.to_string() };
        lines.line(format_args!("{hash}  {requested_at}  {delivered} of {of} delivered"));
    }
    lines.line(format_args!("{} open", report.bundles.len()));
    Ok(())
}
