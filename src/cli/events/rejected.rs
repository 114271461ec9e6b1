//! `events requeue` and `events drop`.

use serde::Serialize;

use super::{SCHEMA_VERSION, open};
use crate::cli::setup::Setup;
use crate::cli::{Error, output};
use crate::clock::{Clock as _, SystemClock};
use crate::store::{EventStore, Requeued};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ids of rejected events, as shown by `events list --rejected`
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<i64>,
    /// Select all rejected events
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct RejectedOutput {
    schema_version: u32,
    events: Vec<RejectedResult>,
}

#[derive(Debug, Serialize)]
struct RejectedResult {
    id: i64,
    /// `added`, `dropped`, `duplicate` or `unknown`.
    result: &'static str,
}

/// Puts rejected events back into the queue.
pub(super) fn requeue(setup: &Setup, args: &Args) -> Result<(), Error> {
    let mut store = open(setup)?;
    let ids = ids(&store, args)?;
    let outcomes = store.requeue(&ids, SystemClock::new().now().wall)?;
    let results = outcomes.into_iter().map(|outcome| match outcome {
        Requeued::Added => "added",
        Requeued::Duplicate => "duplicate",
        Requeued::Unknown => "unknown",
    });
    report(&ids, results, args.json)
}

/// Deletes rejected events.
pub(super) fn drop(setup: &Setup, args: &Args) -> Result<(), Error> {
    let mut store = open(setup)?;
    let ids = ids(&store, args)?;
    let dropped = store.drop_rejected(&ids)?;
    let results = dropped.into_iter().map(|gone| if gone { "dropped" } else { "unknown" });
    report(&ids, results, args.json)
}

fn ids(store: &EventStore, args: &Args) -> Result<Vec<i64>, Error> {
    if !args.all {
        return Ok(args.ids.clone());
    }
    Ok(store.rejected(usize::MAX)?.into_iter().map(|event| event.id).collect())
}

fn report(
    ids: &[i64],
    results: impl Iterator<Item = &'static str>,
    json: bool,
) -> Result<(), Error> {
    let events = ids.iter().zip(results).map(|(id, result)| RejectedResult { id: *id, result });
    let report = RejectedOutput { schema_version: SCHEMA_VERSION, events: events.collect() };
    if json {
        output::json(&report);
    } else {
        let mut lines = output::Lines::new();
        for RejectedResult { id, result } in &report.events {
            lines.line(format_args!("{id:>8}  {result}"));
        }
    }
    let unknown = report.events.iter().filter(|event| event.result == "unknown").count();
    if unknown == 0 {
        return Ok(());
    }
    Err(Error::usage(format!("{unknown} of these ids are not of rejected events"))
        .with_fix("`santa-sync events list --rejected` shows their ids"))
}
