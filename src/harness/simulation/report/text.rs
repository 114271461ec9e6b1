//! The text form of a report.

use std::fmt;
use std::time::Duration;

use super::SimulationReport;
use crate::harness::simulation::latency::LatencyHistogram;
use crate::harness::simulation::measure::Figures;
use crate::harness::simulation::plan::Shown;
use crate::harness::simulation::series::as_float;
use crate::model::text::counted;

/// The figures in a few lines.
impl fmt::Display for SimulationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasted = Shown(Duration::from_secs(self.lasted().as_secs()));
        writeln!(f, "{}, {lasted}, {}", counted(self.hosts(), "host"), self.plan.url)?;
        for caution in self.cautions() {
            writeln!(f, "! {caution}")?;
        }
        if !self.plan.groups.is_empty() {
            let groups = self.plan.groups.iter();
            let groups: Vec<_> =
                groups.map(|group| format!("{} {}", group.name, group.hosts)).collect();
            writeln!(f, "hosts of all shards by group: {}", groups.join(", "))?;
        }
        self.syncs(f, &self.measured.figures(), "")?;
        if self.measured.bundles_requested > 0 {
            writeln!(
                f,
                "bundles: requested {}, {} of their executables accepted",
                counted(self.measured.bundles_requested, "time"),
                counted(self.measured.bundle_binaries, "event")
            )?;
        }
        stages(f, &self.measured.figures(), "  ")?;
        for recovery in &self.recoveries {
            let factor = recovery.factor().map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"));
            writeln!(
                f,
                "after the outage {}: at most {:.1} requests/s and {:.1} syncs/s in the first \
                 minute, {factor} times the steady load ({:.1} and {:.1})",
                recovery.outage,
                recovery.peak_requests,
                recovery.peak_syncs,
                recovery.steady_requests,
                recovery.steady_syncs
            )?;
        }
        for group in &self.measured.groups {
            writeln!(f, "group {}, {}", group.name, counted(group.hosts, "host"))?;
            self.syncs(f, &group.figures(), "  ")?;
            stages(f, &group.figures(), "    ")?;
        }
        for run in &self.shards {
            let memory = run.memory_per_host().map_or_else(
                || "memory unknown".to_owned(),
                |bytes| format!("{} per host", shown_bytes(bytes)),
            );
            writeln!(
                f,
                "shard {}: {:.1} s of CPU ({:.0} % of a core), {memory}",
                run.shard,
                run.cpu.as_secs_f64(),
                100.0 * run.cpu.as_secs_f64() / run.lasted.as_secs_f64().max(0.001)
            )?;
        }
        Ok(())
    }
}

impl SimulationReport {
    /// Syncs, requests, and uploads between syncs.
    fn syncs<const DIGITS: u8>(
        &self,
        f: &mut fmt::Formatter<'_>,
        figures: &Figures<'_, DIGITS>,
        indent: &str,
    ) -> fmt::Result {
        let Figures { syncs, sync_durations, prompt_uploads: prompt, .. } = figures;
        writeln!(
            f,
            "{indent}syncs: {} succeeded ({:.1}/s, {} clean), {} failed, {} broken off, {} \
             unfinished",
            syncs.succeeded,
            self.per_second(syncs.succeeded),
            syncs.clean,
            syncs.failed,
            syncs.broken_off,
            syncs.unfinished
        )?;
        let [p50, p90, p99, max] = quantiles(sync_durations);
        writeln!(f, "{indent}a sync took: p50 {p50}, p90 {p90}, p99 {p99}, max {max}")?;
        writeln!(
            f,
            "{indent}requests: {} ({:.1}/s); events {}, rules {}",
            figures.requests,
            self.per_second(figures.requests),
            figures.events_uploaded,
            figures.rules_received
        )?;
        if prompt.begun > 0 {
            let [p50, _, p99, max] = quantiles(&prompt.delays);
            writeln!(
                f,
                "{indent}uploads after a denial: {} succeeded ({:.1}/s), {} failed, {} broken \
                 off; {}; from the denial until all was accepted: p50 {p50}, p99 {p99}, max {max}",
                prompt.succeeded,
                self.per_second(prompt.succeeded),
                prompt.failed,
                prompt.broken_off,
                counted(prompt.events, "event")
            )?;
        }
        Ok(())
    }
}

/// The attempts of each stage, and why some failed.
fn stages<const DIGITS: u8>(
    f: &mut fmt::Formatter<'_>,
    figures: &Figures<'_, DIGITS>,
    indent: &str,
) -> fmt::Result {
    for (stage, of) in figures.stages {
        let [p50, p90, p99, max] = quantiles(&of.latency);
        writeln!(
            f,
            "{indent}{:<14} answered {}, failed {}, cut by outage {}; p50 {p50}, p90 {p90}, \
             p99 {p99}, max {max}; sent {}, received {}",
            stage.name(),
            of.answered,
            of.failed(),
            of.cut_by_outage,
            shown_bytes(of.bytes_sent),
            shown_bytes(of.bytes_received),
        )?;
    }
    for (stage, kind, count) in figures.failures() {
        writeln!(f, "{indent}failed: {} {kind} {count}", stage.name())?;
    }
    Ok(())
}

pub(in crate::harness::simulation) const fn shown_bytes(bytes: u64) -> ShownBytes {
    ShownBytes(as_float(bytes))
}

/// A latency with three digits or so, in milliseconds or seconds.
#[derive(Clone, Copy, Debug)]
pub(in crate::harness::simulation) struct ShownLatency(pub(in crate::harness::simulation) Duration);

impl fmt::Display for ShownLatency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        match millis {
            0.0..10.0 => write!(f, "{millis:.2} ms"),
            10.0..100.0 => write!(f, "{millis:.1} ms"),
            100.0..1000.0 => write!(f, "{millis:.0} ms"),
            1000.0..10_000.0 => write!(f, "{:.2} s", millis / 1000.0),
            _ => write!(f, "{:.1} s", millis / 1000.0),
        }
    }
}

/// A number of bytes, in powers of 1024.
#[derive(Clone, Copy, Debug)]
pub(in crate::harness::simulation) struct ShownBytes(pub(in crate::harness::simulation) f64);

impl fmt::Display for ShownBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if left < 1000.0 {
                return match unit {
                    "B" => write!(f, "{left:.0} B"),
                    _ if left < 10.0 => write!(f, "{left:.1} {unit}"),
                    _ => write!(f, "{left:.0} {unit}"),
                };
            }
            left /= 1024.0;
        }
        write!(f, "{left:.1} TiB")
    }
}

/// Quantiles of latencies for people.
pub(in crate::harness::simulation) fn quantiles<const DIGITS: u8>(
    of: &LatencyHistogram<DIGITS>,
) -> [String; 4] {
    [0.5, 0.9, 0.99, 1.0].map(|share| {
        of.quantile(share).map_or_else(|| "-".to_owned(), |at| ShownLatency(at).to_string())
    })
}
