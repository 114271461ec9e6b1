//! The report as text: the result first, then what to look at.

use std::fmt;

use super::untested::{self, UntestedGroup};
use super::{Evidence, Report, RequirementResult};
use crate::harness::conformance::catalogue::Section;
use crate::harness::conformance::probe::OWN_IDS;
use crate::harness::conformance::probe_events::PROBE_PATH;
use crate::harness::conformance::verdict::Verdict;
use crate::model::text::{counted, escaped};

/// How many exchanges a complaint shows.
const MAX_SHOWN_EXCHANGES: usize = 3;
/// How many ids are listed beside the reason that they share.
const MAX_NAMED: usize = 12;

/// A [`Report`] as text.
#[derive(Debug)]
pub struct TextReport<'a> {
    report: &'a Report,
    verbose: bool,
}

impl<'a> TextReport<'a> {
    pub(super) const fn new(report: &'a Report, verbose: bool) -> Self {
        Self { report, verbose }
    }
}

impl fmt::Display for TextReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, verbose } = self;
        let counts: Vec<_> = Verdict::ALL
            .iter()
            .rev()
            .filter(|verdict| report.count(**verdict) > 0)
            .map(|verdict| format!("{} {}", report.count(*verdict), verdict.words()))
            .collect();
        let known = match report.known() {
            0 => String::new(),
            known => format!("; {known} of these are pinned"),
        };
        writeln!(f, "{}: {}{known}", report.url, counts.join(", "))?;
        if let Some(end) = &report.ended_early {
            let not_run = counted(end.not_run, "requirement");
            writeln!(f, "ended early: {}; {not_run} not run", escaped(&end.cause))?;
        }
        let form = report.form.map_or("no form was accepted", |form| form.name());
        writeln!(
            f,
            "{}, {} in {:.1} s, {form}, run {}",
            counted(report.results.len() as u64, "requirement"),
            counted(report.requests, "request"),
            seconds(report.duration_ms),
            report.run_id
        )?;
        if let Some(rules) = &report.rules {
            writeln!(
                f,
                "{} on {}, the largest {}",
                counted(rules.rules, "rule"),
                counted(rules.pages, "page"),
                counted(rules.largest_page_bytes, "byte")
            )?;
        }
        for note in &report.notes {
            writeln!(f, "note: {}", escaped(note))?;
        }
        let untested = untested::groups(report);
        let shared: Vec<_> = untested
            .iter()
            .filter(|group| group.is_shared())
            .flat_map(|group| &group.ids)
            .collect();
        for section in Section::ALL {
            let shown: Vec<_> = report
                .results
                .iter()
                .filter(|r| r.section == section && (*verbose || r.verdict.is_complaint()))
                .collect();
            if shown.is_empty() {
                continue;
            }
            writeln!(f, "\n{}", section.title())?;
            for result in shown {
                let is_shared = shared.contains(&&result.id);
                requirement(f, result, *verbose, is_shared)?;
            }
        }
        if !untested.is_empty() {
            writeln!(f, "\nNot tested")?;
        }
        for UntestedGroup { reason, ids } in &untested {
            let count = counted(ids.len() as u64, "requirement");
            writeln!(f, "  {count}: {}", escaped(reason))?;
            writeln!(f, "    {}", named(ids))?;
        }
        leftovers(f, report, *verbose)
    }
}

fn requirement(
    f: &mut fmt::Formatter<'_>,
    result: &RequirementResult,
    verbose: bool,
    is_shared: bool,
) -> fmt::Result {
    let verdict = result.verdict.words();
    let pinned = match result.pinned {
        None => String::new(),
        Some(pinned) if pinned == result.verdict => " (pinned)".to_owned(),
        Some(pinned) => format!(" (pinned as {})", pinned.words()),
    };
    writeln!(f, "  {verdict:<14} {}  {}{pinned}", result.id, result.title)?;
    if is_shared {
        // The reason is given below, once.
        return Ok(());
    }
    if !result.summary.is_empty() {
        writeln!(f, "    {}", escaped(&result.summary))?;
    }
    if let Some(by) = result.blocked_by {
        writeln!(f, "    blocked by {by}")?;
    }
    for (number, run) in (1..).zip(&result.runs) {
        writeln!(f, "    run {number}: {} {}", run.verdict.words(), escaped(&run.summary))?;
    }
    if result.verdict.is_complaint() {
        writeln!(f, "    matters because: {}", result.breaks)?;
    }
    if result.verdict.is_complaint() || (verbose && result.verdict != Verdict::Pass) {
        result.evidence.iter().take(MAX_SHOWN_EXCHANGES).try_for_each(|e| exchange(f, e))?;
    }
    Ok(())
}

fn exchange(f: &mut fmt::Formatter<'_>, evidence: &Evidence) -> fmt::Result {
    let Evidence { exchange, request, sent, status, received, elapsed_ms } = evidence;
    let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
    writeln!(f, "    exchange {exchange}: {} -> {status} in {elapsed_ms} ms", escaped(request))?;
    if !sent.is_empty() {
        writeln!(f, "      sent     {}", escaped(sent))?;
    }
    writeln!(f, "      received {}", escaped(received))
}

/// The first few ids, and how many there are besides.
fn named(ids: &[&str]) -> String {
    let shown = ids.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    match ids.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What the run left on the server: how to find it, and with `verbose` all of it.
fn leftovers(f: &mut fmt::Formatter<'_>, report: &Report, verbose: bool) -> fmt::Result {
    let (own, others): (Vec<_>, Vec<_>) =
        report.machine_ids.iter().partition(|id| id.starts_with(OWN_IDS));
    if report.machine_ids.is_empty() && report.events.is_empty() {
        return writeln!(f, "\nLeft on the server: nothing, since it took no request");
    }
    writeln!(f, "\nLeft on the server:")?;
    write!(f, "  {} {OWN_IDS}…", counted(own.len() as u64, "machine"))?;
    others.iter().try_for_each(|id| write!(f, ", {}", escaped(id)))?;
    writeln!(f)?;
    let events = counted(report.events.len() as u64, "event");
    writeln!(f, "  {events} named probe-{}-…, path {PROBE_PATH}", report.run_id)?;
    if !verbose {
        return writeln!(f, "  --verbose and --json list every id and hash");
    }
    own.iter().try_for_each(|id| writeln!(f, "  {}", escaped(id)))?;
    let mut events = report.events.iter();
    events.try_for_each(|event| writeln!(f, "  {} {}", event.file_name, event.file_sha256))
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
