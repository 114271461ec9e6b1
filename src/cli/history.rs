//! `history`: the results of the last syncs.

use serde::Serialize;

use super::{Error, Global, connect, output, setup};
use crate::model::{SCHEMA_VERSION, SyncRecord, SyncType, Trigger};
use crate::store::RECORDS_KEPT;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show at most N syncs, newest first
    #[arg(long, value_name = "N", default_value_t = RECORDS_KEPT, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct History {
    schema_version: u32,
    /// Newest first.
    syncs: Vec<SyncRecord>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let setup = setup::load_to_read(global)?;
    let syncs = connect::local(global, &setup).history(args.limit)?;
    if args.json {
        setup.print_json(&History { schema_version: SCHEMA_VERSION, syncs });
    } else {
        show(&syncs);
    }
    Ok(())
}

fn show(syncs: &[SyncRecord]) {
    if syncs.is_empty() {
        output::line("No sync has been made yet.");
    }
    let mut lines = output::Lines::new();
    for sync in syncs {
        if !lines.line(row(sync)) {
            return;
        }
        if let Some(error) = &sync.error {
            lines.line(format!("    {}", output::printable(&error.line())));
        }
        for change in &sync.settings_reverted {
            lines.line(format!("    reverted: {}", change.setting));
        }
    }
}

fn row(sync: &SyncRecord) -> String {
    let trigger = match sync.trigger {
        Trigger::Timer => "timer",
        Trigger::Manual => "manual",
        Trigger::Trigger => "trigger",
    };
    format!(
        "{}  {:<21} {:<7} {:<9} {:>7} ms  {} of {} rules, {} events",
        sync.started_at,
        sync.result.name(),
        trigger,
        sync.sync_type.map_or("-", SyncType::name),
        sync.duration_ms,
        sync.rules_processed,
        sync.rules_received,
        sync.events_uploaded,
    )
}
