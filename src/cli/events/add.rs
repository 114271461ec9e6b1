//! `events add`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _};

use serde::Serialize;

use super::SCHEMA_VERSION;
use crate::cli::setup::Setup;
use crate::cli::{Error, Global, connect, output};
use crate::ingest::{IngestOutcome, IngestedEvent, MAX_LINE_BYTES};
use crate::model::text::BYTE_ORDER_MARK;

/// Lines committed in one transaction, at most.
const MAX_LINES_PER_COMMIT: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object for each line, once its event is on disk
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct LineForm<'a> {
    schema_version: u32,
    line: u64,
    result: &'static str,
    unique_id: &'a str,
    /// Why the line is not an event.
    reason: Option<&'a str>,
}

/// Queues events from standard input. Lines are committed as soon as no complete
/// line is buffered, so that a program that waits for each result before it writes
/// the next line gets one.
pub(super) fn run(global: &Global, setup: &Setup, args: &Args) -> Result<(), Error> {
    let mut agent = connect::agent(global, setup);
    let dropped_before = agent.events_dropped()?;
    let mut input = BufReader::with_capacity(1 << 18, std::io::stdin().lock());
    let mut tally = BTreeMap::new();
    let mut numbers = Vec::new();
    let mut lines = Vec::new();
    let mut number = 0;
    loop {
        let line = read_line(&mut input)
            .map_err(|error| Error::usage(format!("cannot read standard input: {error}")))?;
        let ended = line.is_none();
        number += 1;
        if let Some(line) = line.filter(|line| !is_blank(line)) {
            numbers.push(number);
            lines.push(line);
        }
        let more_at_hand = !ended && input.buffer().contains(&b'\n');
        if !lines.is_empty() && (!more_at_hand || lines.len() == MAX_LINES_PER_COMMIT) {
            let mut results = Vec::with_capacity(lines.len());
            let done = agent.add_events(&lines, &mut results);
            print_results(&numbers, &results, args.json);
            done.map_err(|error| {
                let first = numbers.get(results.len()).copied().unwrap_or(number);
                let error = Error::from(error);
                error.and(format_args!("line {first} and those after it are not queued"))
            })?;
            for result in &results {
                *tally.entry(result.outcome.name()).or_insert(0_u64) += 1;
            }
            numbers.clear();
            lines.clear();
        }
        if ended {
            break;
        }
    }
    let dropped = agent.events_dropped()?.saturating_sub(dropped_before);
    if dropped > 0 {
        output::note(format_args!("the queue is full: {dropped} older events were dropped"));
    }
    if !args.json {
        let counts: Vec<_> = tally.iter().map(|(name, count)| format!("{count} {name}")).collect();
        output::line(if counts.is_empty() { "no events".to_owned() } else { counts.join(", ") });
    }
    match tally.get("invalid") {
        None => Ok(()),
        Some(1) => Err(Error::usage("1 line is not an event; the others were handled")),
        Some(bad) => {
            Err(Error::usage(format!("{bad} lines are not events; the others were handled")))
        }
    }
}

/// Whether a line says nothing: an empty text of some programs is a byte order mark.
fn is_blank(line: &[u8]) -> bool {
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii().is_empty()
}

/// Reads the next line without its end; `None` at the end of the input. A line that
/// is too long is cut, so that it is not valid JSON.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = MAX_LINE_BYTES as u64 + 1;
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == most {
        // Skip the rest of the line.
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

fn print_results(numbers: &[u64], results: &[IngestedEvent], json: bool) {
    let mut lines = output::Lines::new();
    for (line, IngestedEvent { unique_id, outcome, .. }) in numbers.iter().copied().zip(results) {
        let reason = match outcome {
            IngestOutcome::Invalid { reason } => Some(reason),
            IngestOutcome::Added
            | IngestOutcome::Duplicate
            | IngestOutcome::BackedOff
            | IngestOutcome::Filtered => None,
        };
        if let Some(reason) = reason {
            output::note(format_args!("line {line}: {reason}"));
        }
        if json {
            let form = LineForm {
                schema_version: SCHEMA_VERSION,
                line,
                result: outcome.name(),
                unique_id,
                reason: reason.map(String::as_str),
            };
            lines.json(&form);
        }
    }
}
