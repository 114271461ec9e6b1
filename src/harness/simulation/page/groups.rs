//! The groups of hosts in an HTML report: how they differ, and the figures of each.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{stage_row, stage_table};
use crate::harness::html::{Escaped, HtmlTable};
use crate::harness::simulation::groups::HostGroup;
use crate::harness::simulation::measure::GroupMeasurements;
use crate::harness::simulation::report::SimulationReport;
use crate::harness::simulation::report::text::quantiles;
use crate::model::Stage;

/// Writes the section about groups; nothing if there are none.
pub(super) fn groups(report: &SimulationReport, body: &mut String) {
    if report.plan.groups.is_empty() {
        return;
    }
    let _ = writeln!(body, "<h2>Groups of hosts</h2>\n{}", differences(report));
    let groups = &report.measured.groups;
    if groups.is_empty() {
        return;
    }
    let _ = writeln!(body, "<h3>Syncs</h3>\n{}", syncs(groups));
    let stages: BTreeSet<Stage> = groups.iter().flat_map(|of| of.stages.keys().copied()).collect();
    for stage in stages {
        let table = attempts(report, stage);
        let _ = writeln!(body, "<h3>{}</h3>\n{table}", Escaped(stage.name()));
    }
    if groups.iter().any(|group| group.prompt_uploads.begun > 0) {
        let _ = writeln!(body, "<h3>Uploads after a denial</h3>\n{}", uploads(groups));
    }
    let failures = failures(groups);
    if !failures.rows.is_empty() {
        let _ = writeln!(body, "<h3>Failures</h3>\n{failures}");
    }
    let _ = writeln!(
        body,
        "<p class=\"faint\">Latencies are accurate to 1% for a group, and to 0.1% for all hosts \
         together.</p>"
    );
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn differences(report: &SimulationReport) -> HtmlTable {
    let row =
        |group: &HostGroup| vec![group.name.clone(), group.hosts.to_string(), group.differences()];
    HtmlTable {
        caption: "How each group differs from the common options".to_owned(),
        columns: names(&["group", "hosts", "differences"]),
        numbers: vec![1],
        rows: report.plan.groups.iter().map(row).collect(),
    }
}

fn syncs(groups: &[GroupMeasurements]) -> HtmlTable {
    let columns = names(&[
        "group",
        "hosts",
        "succeeded",
        "clean",
        "failed",
        "p50",
        "p90",
        "p99",
        "max",
        "events",
        "rules",
    ]);
    let row = |group: &GroupMeasurements| {
        let counts = [group.hosts, group.syncs.succeeded, group.syncs.clean, group.syncs.failed];
        let mut row = vec![group.name.clone()];
        row.extend(counts.map(|count| count.to_string()));
        row.extend(quantiles(&group.sync_durations));
        row.extend([group.events_uploaded, group.rules_received].map(|count| count.to_string()));
        row
    };
    HtmlTable {
        caption: "Simulated hosts, their syncs, and the events and rules transferred".to_owned(),
        numbers: (1..columns.len()).collect(),
        columns,
        rows: groups.iter().map(row).collect(),
    }
}

fn attempts(report: &SimulationReport, stage: Stage) -> HtmlTable {
    let has_outage = !report.plan.outages.is_empty();
    let rows = report.measured.groups.iter().filter_map(|group| {
        let of = group.stages.get(&stage)?;
        Some(stage_row(&group.name, of, has_outage))
    });
    stage_table("group", "Attempts by group".to_owned(), has_outage, rows)
}

fn uploads(groups: &[GroupMeasurements]) -> HtmlTable {
    let columns =
        names(&["group", "begun", "succeeded", "failed", "events", "p50", "p90", "p99", "max"]);
    let row = |group: &GroupMeasurements| {
        let of = &group.prompt_uploads;
        let mut row = vec![group.name.clone()];
        row.extend([of.begun, of.succeeded, of.failed, of.events].map(|count| count.to_string()));
        row.extend(quantiles(&of.delays));
        row
    };
    HtmlTable {
        caption: "From the denial until the server had accepted all events".to_owned(),
        numbers: (1..columns.len()).collect(),
        columns,
        rows: groups.iter().filter(|group| group.prompt_uploads.begun > 0).map(row).collect(),
    }
}

fn failures(groups: &[GroupMeasurements]) -> HtmlTable {
    let rows = groups.iter().flat_map(|group| {
        group.figures().failures().into_iter().map(|(stage, kind, count)| {
            vec![group.name.clone(), stage.name().to_owned(), kind.to_owned(), count.to_string()]
        })
    });
    HtmlTable {
        caption: "Failed attempts by group, stage and kind".to_owned(),
        columns: names(&["group", "stage", "kind", "attempts"]),
        numbers: vec![3],
        rows: rows.collect(),
    }
}
