//! The report of a simulation as a page.

use std::fmt::Write as _;
use std::time::Duration;

use super::measure::StageMeasurements;
use super::plan::Shown;
use super::plot::PLOT_STYLE;
use super::report::SimulationReport;
use super::report::text::{quantiles, shown_bytes};
use crate::harness::html::{Escaped, HtmlPage, HtmlTable};
use crate::model::text::counted;

mod groups;
mod plots;

/// The styles of this page: four figures in a row, or two on a phone, and tables whose first
/// column stays in place while the others scroll.
const PAGE_STYLE: &str = "
.cards{grid-template-columns:repeat(auto-fit,minmax(max(9rem,22%),1fr))}
table{border-collapse:separate;border-spacing:0}
thead th:first-child,tbody th{position:sticky;left:0;background:var(--ground)}
@media(max-width:36rem){tbody th{min-width:6.5rem}}
";

/// The page of a report.
pub(super) fn page(report: &SimulationReport) -> HtmlPage {
    let mut body = String::new();
    cautions(report, &mut body);
    cards(report, &mut body);
    body.push_str("<h2>Over time</h2>\n");
    for plot in plots::plots(report) {
        let _ = writeln!(body, "{plot}");
    }
    if !report.recoveries.is_empty() {
        let _ = writeln!(body, "<h2>After the outage</h2>\n{}", recoveries(report));
    }
    let _ = writeln!(body, "<h2>Latency and bytes by stage</h2>\n{}", stages(report));
    let _ = writeln!(
        body,
        "<p class=\"faint\">The latency of an attempt that was answered: from its beginning, the \
         connection included, to the decoded response. Bytes are those of bodies on the wire.</p>"
    );
    uploads_between_syncs(report, &mut body);
    failures(report, &mut body);
    groups::groups(report, &mut body);
    let _ = writeln!(body, "<h2>What was simulated</h2>\n{}", options(report));
    let _ = writeln!(body, "<h2>The simulating processes</h2>\n{}", processes(report));
    let lasted = Shown(Duration::from_secs(report.lasted().as_secs()));
    let started = report.shards.iter().map(|run| run.started_at).min().unwrap_or_default();
    HtmlPage {
        title: format!("Simulation of {}", counted(report.hosts(), "host")),
        lead: format!("{}, {lasted}, started {started}", report.plan.url),
        style: [PAGE_STYLE, PLOT_STYLE].concat(),
        body,
    }
}

fn cautions(report: &SimulationReport, body: &mut String) {
    for caution in report.cautions() {
        let _ = writeln!(body, "<p class=\"warn\"><strong>Note.</strong> {}</p>", Escaped(caution));
    }
}

fn cards(report: &SimulationReport, body: &mut String) {
    let measured = &report.measured;
    let syncs = measured.syncs;
    let [_, _, p99, _] = quantiles(&measured.sync_durations);
    let failed: u64 = measured.stages.values().map(StageMeasurements::failed).sum();
    let memory = report.memory_per_host();
    let cpu: f64 = report.shards.iter().map(|run| run.cpu.as_secs_f64()).sum();
    let cores = cpu / report.lasted().as_secs_f64().max(0.001);
    let cards = [
        (format!("{:.1}/s", report.per_second(syncs.succeeded)), "syncs that succeeded"),
        (syncs.failed.to_string(), "syncs that failed"),
        (format!("{:.1}/s", report.per_second(measured.requests())), "requests"),
        (failed.to_string(), "failed requests, without simulated outages"),
        (p99, "p99 sync duration"),
        (
            memory.map_or_else(|| "-".to_owned(), |bytes| shown_bytes(bytes).to_string()),
            "simulator memory per host",
        ),
        (format!("{:.0} %", 100.0 * cores), "of a core used by the simulator"),
        (
            measured.series.running.iter().max().copied().unwrap_or(0).to_string(),
            "most syncs at once",
        ),
    ];
    body.push_str("<ul class=\"cards\">");
    for (figure, of) in cards {
        let _ = write!(body, "<li><b>{}</b><span>{}</span></li>", Escaped(figure), Escaped(of));
    }
    body.push_str("</ul>\n");
}

fn recoveries(report: &SimulationReport) -> HtmlTable {
    let head =
        ["outage", "requests/s before", "peak after", "syncs/s before", "peak after", "factor"];
    HtmlTable {
        caption: "The first minute after each simulated outage, its peak over 10 s, against the \
                  average of up to five minutes before it"
            .to_owned(),
        columns: head.map(str::to_owned).to_vec(),
        numbers: (1..head.len()).collect(),
        rows: report
            .recoveries
            .iter()
            .map(|recovery| {
                let factor =
                    recovery.factor().map_or_else(|| "-".to_owned(), |n| format!("{n:.2}"));
                vec![
                    recovery.outage.to_string(),
                    format!("{:.1}", recovery.steady_requests),
                    format!("{:.1}", recovery.peak_requests),
                    format!("{:.1}", recovery.steady_syncs),
                    format!("{:.1}", recovery.peak_syncs),
                    factor,
                ]
            })
            .collect(),
    }
}

fn stages(report: &SimulationReport) -> HtmlTable {
    let has_outage = !report.plan.outages.is_empty();
    let rows = report.measured.stages.iter();
    let rows = rows.map(|(stage, of)| stage_row(stage.name(), of, has_outage));
    let [p50, p90, p99, longest] = quantiles(&report.measured.sync_durations);
    let syncs = report.measured.syncs;
    let mut whole = vec!["whole sync".to_owned()];
    whole.extend([syncs.succeeded, syncs.failed].map(|count| count.to_string()));
    whole.extend(has_outage.then(String::new));
    whole.extend([p50, p90, p99, longest, String::new(), String::new()]);
    stage_table(
        "stage",
        "Attempts by stage, and whole syncs with their waits".to_owned(),
        has_outage,
        rows.chain([whole]),
    )
}

/// A table of attempts; `first` is the header of its first column. If there was an outage, a column
/// has the attempts that it cut.
fn stage_table(
    first: &str,
    caption: String,
    has_outage: bool,
    rows: impl Iterator<Item = Vec<String>>,
) -> HtmlTable {
    let mut columns = vec![first, "answered", "failed"];
    columns.extend(has_outage.then_some("cut by outage"));
    columns.extend(["p50", "p90", "p99", "max", "sent", "received"]);
    HtmlTable {
        caption,
        numbers: (1..columns.len()).collect(),
        columns: columns.into_iter().map(str::to_owned).collect(),
        rows: rows.collect(),
    }
}

/// The attempts of a stage as a row of a [`stage_table`].
fn stage_row<const DIGITS: u8>(
    head: &str,
    of: &StageMeasurements<DIGITS>,
    has_outage: bool,
) -> Vec<String> {
    let mut row = vec![head.to_owned(), of.answered.to_string(), of.failed().to_string()];
    row.extend(has_outage.then(|| of.cut_by_outage.to_string()));
    row.extend(quantiles(&of.latency));
    row.extend([of.bytes_sent, of.bytes_received].map(|bytes| shown_bytes(bytes).to_string()));
    row
}

fn uploads_between_syncs(report: &SimulationReport, body: &mut String) {
    let measured = &report.measured;
    let prompt = &measured.prompt_uploads;
    if prompt.begun == 0 && measured.bundles_requested == 0 {
        return;
    }
    let [p50, p90, p99, longest] = quantiles(&prompt.delays);
    let head = ["begun", "succeeded", "failed", "broken off", "events", "p50", "p90", "p99"];
    let counts = [prompt.begun, prompt.succeeded, prompt.failed, prompt.broken_off, prompt.events];
    let counts = counts.map(|count| count.to_string());
    let head = [&head[..], &["max"]].concat();
    let table = HtmlTable {
        caption: "Uploads between syncs, because something was denied, and the time from the \
                  denial until the server had accepted all events"
            .to_owned(),
        columns: head.iter().map(|name| (*name).to_owned()).collect(),
        numbers: (0..head.len()).collect(),
        rows: vec![[&counts[..], &[p50, p90, p99, longest]].concat()],
    };
    let _ = writeln!(
        body,
        "<h2>Uploads after a denial</h2>\n{table}\n<p class=\"faint\">Their requests are among \
         those of event_upload above. Bundles were requested {}; the server accepted {} of their \
         executables.</p>",
        counted(measured.bundles_requested, "time"),
        counted(measured.bundle_binaries, "event")
    );
}

fn failures(report: &SimulationReport, body: &mut String) {
    let failures = report.failures();
    if failures.is_empty() {
        return;
    }
    let table = HtmlTable {
        caption: "Failed attempts by stage and kind; docs/errors.md explains the kinds".to_owned(),
        columns: ["stage", "kind", "attempts"].map(str::to_owned).to_vec(),
        numbers: vec![2],
        rows: failures
            .into_iter()
            .map(|(stage, kind, n)| vec![stage.name().to_owned(), kind.to_owned(), n.to_string()])
            .collect(),
    };
    let _ = writeln!(body, "<h2>Failures</h2>\n{table}");
}

fn options(report: &SimulationReport) -> HtmlTable {
    let plan = &report.plan;
    let list = |texts: Vec<String>| {
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let interval = plan.interval_secs.map_or("as the server says".to_owned(), |n| format!("{n} s"));
    let rows = [
        ("server", plan.url.clone()),
        ("hosts", plan.hosts.to_string()),
        ("seed", plan.seed.to_string()),
        ("ramp", Shown(plan.ramp).to_string()),
        ("length", Shown(plan.lasting).to_string()),
        ("interval of syncs", interval),
        ("speed of the hosts' clocks", plan.speed.to_string()),
        ("Santa versions", plan.versions.to_string()),
        ("encodings of requests", plan.encodings.to_string()),
        ("hosts that speak protobuf", format!("{} %", plan.protobuf_percent)),
        ("events per host and hour", plan.events_per_hour.to_string()),
        ("bytes of an event, at least", plan.event_bytes.to_string()),
        ("events that report a denial", format!("{} %", plan.denied_percent)),
        ("hosts that upload soon after a denial", format!("{} %", plan.prompt_percent)),
        ("executables of a bundle", plan.bundle_binaries.to_string()),
        ("memory for responses per process", shown_bytes(plan.response_memory).to_string()),
        ("storms", list(plan.storms.iter().map(ToString::to_string).collect())),
        ("simulated outages", list(plan.outages.iter().map(ToString::to_string).collect())),
    ];
    HtmlTable {
        caption: "Hosts run the agent's own protocol code and schedule; only their stores are in \
                  memory. In a simulated outage the simulator refuses its hosts' connections."
            .to_owned(),
        columns: vec!["option".to_owned(), "value".to_owned()],
        numbers: Vec::new(),
        rows: rows.map(|(name, value)| vec![name.to_owned(), value]).to_vec(),
    }
}

fn processes(report: &SimulationReport) -> HtmlTable {
    let head = ["shard", "hosts", "started", "CPU", "memory", "memory per host"];
    let bytes = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| shown_bytes(n).to_string());
    let [p50, _, p99, max] = quantiles(&report.measured.lateness);
    HtmlTable {
        caption: format!(
            "Syncs began late by {p50} (p50), {p99} (p99), {max} (max); large values mean that \
             the simulator was short of CPU"
        ),
        columns: head.map(str::to_owned).to_vec(),
        numbers: vec![1, 3, 4, 5],
        rows: report
            .shards
            .iter()
            .map(|run| {
                vec![
                    run.shard.to_string(),
                    run.hosts.to_string(),
                    run.started_at.to_string(),
                    format!("{:.1} s", run.cpu.as_secs_f64()),
                    bytes(run.memory_peak),
                    bytes(run.memory_per_host()),
                ]
            })
            .collect(),
    }
}
