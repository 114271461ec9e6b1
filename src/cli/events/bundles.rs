//! `events bundles`.

use serde::Serialize;

use super::SCHEMA_VERSION;
use crate::cli::setup::Setup;
use crate::cli::{Error, Global, connect, output};
use crate::control::message::RequestedBundle;
use crate::model::Timestamp;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct BundleReport {
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
pub(super) fn run(global: &Global, setup: &Setup, args: &Args) -> Result<(), Error> {
    let bundles = connect::agent(global, setup).bundle_requests()?;
    let bundles = bundles.into_iter().map(|bundle: RequestedBundle| BundleForm {
        hash: bundle.hash,
        requested_at: bundle.since,
        executables: bundle.executables,
        delivered: bundle.delivered,
    });
    let report = BundleReport { schema_version: SCHEMA_VERSION, bundles: bundles.collect() };
    if args.json {
        setup.print_json(&report);
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
