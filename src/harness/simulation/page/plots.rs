//! The plots of an HTML report.

use std::time::Duration;

use crate::harness::simulation::plot::{Plot, PlotLine};
use crate::harness::simulation::report::SimulationReport;
use crate::harness::simulation::report::text::ShownLatency;
use crate::harness::simulation::series::{Series, as_float};

/// The plots that have data to show.
pub(super) fn plots(report: &SimulationReport) -> Vec<Plot> {
    let plan = &report.plan;
    let series = &report.measured.series;
    let whole = |shown: fn(f64) -> String, title, unit, lines| Plot {
        title,
        unit,
        span: Duration::from_millis(series.bin_ms * series.len() as u64),
        lines,
        bands: plan
            .outages
            .iter()
            .map(|outage| (outage.at, outage.at + outage.lasting, "simulated outage".to_owned()))
            .collect(),
        marks: plan.storms.iter().map(|storm| (storm.at, storm.to_string())).collect(),
        shown,
    };
    let rate = |name, column: &[u64]| line(name, series, column, 1000.0 / as_float(series.bin_ms));
    let level = |name, column: &[u64]| line(name, series, column, 1.0);
    let latency = |name, share: f64| PlotLine {
        name,
        values: (0..series.len())
            .map(|bin| series.latency.get(bin)?.quantile(share))
            .map(|at| at.map(|at| at.as_secs_f64()))
            .collect(),
    };
    let number = |value: f64| match value {
        0.0 => "0".to_owned(),
        value if value < 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    // An axis has round numbers in powers of ten.
    let bytes = |value: f64| match value {
        0.0 => "0".to_owned(),
        0.0..1e3 => format!("{value:.0} B"),
        1e3..1e6 => format!("{:.0} kB", value / 1e3),
        1e6..1e7 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.0} MB", value / 1e6),
    };
    let time = |value: f64| match value {
        0.0 => "0".to_owned(),
        value => ShownLatency(Duration::from_secs_f64(value)).to_string(),
    };
    let mut plots = vec![
        whole(
            number,
            "Load of the server",
            "per second",
            vec![
                rate("requests", &series.requests),
                rate("syncs that succeeded", &series.succeeded),
                rate("syncs that failed", &series.failed),
            ],
        ),
        whole(time, "Latency of requests", "", vec![latency("p99", 0.99), latency("p50", 0.5)]),
        whole(number, "Running syncs", "at once", vec![level("running", &series.running)]),
        whole(
            number,
            "Failed requests",
            "per second",
            vec![
                rate("failed", &series.failed_requests),
                rate("cut by the simulated outage", &series.cut_by_outage),
            ],
        ),
        whole(
            bytes,
            "Bodies on the wire",
            "per second",
            vec![rate("received", &series.bytes_received), rate("sent", &series.bytes_sent)],
        ),
        whole(number, "Events accepted", "per second", vec![rate("events", &series.events)]),
    ];
    for plot in &mut plots {
        plot.lines.retain(PlotLine::is_seen);
    }
    plots.retain(|plot| !plot.lines.is_empty());
    plots
}

fn line(name: &'static str, series: &Series, column: &[u64], factor: f64) -> PlotLine {
    let value = |bin: usize| as_float(column.get(bin).copied().unwrap_or(0)) * factor;
    PlotLine { name, values: (0..series.len()).map(|bin| Some(value(bin))).collect() }
}
