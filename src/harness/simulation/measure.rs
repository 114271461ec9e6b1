//! What a simulation measures, as its report holds it. The figures of shards are added up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use self::figures::Figures;
pub use self::groups::GroupMeasurements;
use super::groups::HostGroup;
use super::latency::LatencyHistogram;
use super::series::{Series, slot};
use crate::failure::FailureKind;
use crate::model::Stage;
use crate::sync::machine::Traffic;
use crate::sync::upload::{UploadReport, UploadResult};

mod figures;
mod groups;

/// Significant digits of the latencies of all hosts together.
pub const WHOLE_DIGITS: u8 = 3;
/// Significant digits of the latencies of a group; fewer, because there may be many groups.
pub const GROUP_DIGITS: u8 = 2;

/// All counts and latencies of a simulation.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurements {
    /// What became of syncs.
    pub syncs: SyncCounts,
    /// From the beginning to the end of each sync that succeeded, waits included, on
    /// the hosts' clock.
    pub sync_durations: LatencyHistogram<WHOLE_DIGITS>,
    /// How much later than it should a sync began, in real time. If this is large,
    /// the simulator was short of CPU, and other latencies are partly its own.
    pub lateness: LatencyHistogram<WHOLE_DIGITS>,
    /// Uploads between syncs, because something was denied.
    pub prompt_uploads: PromptUploads<WHOLE_DIGITS>,
    /// By stage; the attempts of uploads between syncs are among those of event uploads.
    pub stages: BTreeMap<Stage, StageMeasurements<WHOLE_DIGITS>>,
    /// Requests for an XSRF token.
    pub token_requests: u64,
    /// Events that the server accepted.
    pub events_uploaded: u64,
    /// How often the server requested a bundle in a response.
    pub bundles_requested: u64,
    /// Accepted events for executables of requested bundles.
    pub bundle_binaries: u64,
    /// Rules that the server sent.
    pub rules_received: u64,
    /// By group, in the order of the plan; empty if there are no groups, or if one of the merged
    /// reports has no figures by group.
    #[serde(default)]
    pub groups: Vec<GroupMeasurements>,
    /// The same over time.
    pub series: Series,
}

/// What became of syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncCounts {
    /// They began.
    pub begun: u64,
    /// All four stages went through.
    pub succeeded: u64,
    /// Of these, clean syncs.
    pub clean: u64,
    /// A request failed permanently.
    pub failed: u64,
    /// A reboot broke them off.
    pub broken_off: u64,
    /// They were still running when the simulation ended.
    pub unfinished: u64,
}

impl SyncCounts {
    fn ends(&mut self, end: SimulatedEnd) {
        match end {
            SimulatedEnd::Succeeded { clean } => {
                self.succeeded += 1;
                self.clean += u64::from(clean);
            }
            SimulatedEnd::Failed => self.failed += 1,
            SimulatedEnd::BrokenOff => self.broken_off += 1,
        }
    }

    const fn add(&mut self, other: Self) {
        let Self { begun, succeeded, clean, failed, broken_off, unfinished } = other;
        self.begun += begun;
        self.succeeded += succeeded;
        self.clean += clean;
        self.failed += failed;
        self.broken_off += broken_off;
        self.unfinished += unfinished;
    }
}

/// Uploads between syncs; latencies have `DIGITS` significant digits.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PromptUploads<const DIGITS: u8> {
    /// They began.
    pub begun: u64,
    /// Everything that was queued was accepted.
    pub succeeded: u64,
    /// A request failed; the next sync uploads the events.
    pub failed: u64,
    /// A reboot broke them off.
    pub broken_off: u64,
    /// Events that the server accepted in them.
    pub events: u64,
    /// From the first denial that an upload was for until the server had accepted
    /// everything, on the hosts' clock.
    pub delays: LatencyHistogram<DIGITS>,
}

impl<const DIGITS: u8> PromptUploads<DIGITS> {
    /// An upload has ended; `report` is `None` if it was broken off. `delay` is the time since
    /// its oldest denial.
    fn ends(&mut self, report: Option<&UploadReport>, delay: Duration) {
        match report {
            None => self.broken_off += 1,
            Some(report) => {
                self.events += report.events;
                if report.result == UploadResult::Uploaded {
                    self.succeeded += 1;
                    self.delays.record(delay);
                } else {
                    self.failed += 1;
                }
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.broken_off += other.broken_off;
        self.events += other.events;
        self.delays.add(&other.delays);
    }
}

/// The attempts of a stage; latencies have `DIGITS` significant digits.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct StageMeasurements<const DIGITS: u8> {
    /// Attempts that the server answered as the protocol says.
    pub answered: u64,
    /// Other attempts, by kind of failure.
    pub failures: BTreeMap<String, u64>,
    /// Attempts that a simulated outage refused or broke off.
    pub cut_by_outage: u64,
    /// Bytes of the bodies of requests, as they went over the wire.
    pub bytes_sent: u64,
    /// Bytes of the bodies of responses, as they came over the wire.
    pub bytes_received: u64,
    /// From the beginning of an attempt that was answered, its connection included,
    /// to the decoded response.
    pub latency: LatencyHistogram<DIGITS>,
}

impl<const DIGITS: u8> StageMeasurements<DIGITS> {
    fn attempt_ends(&mut self, latency: Duration, end: AttemptEnd, traffic: Traffic) {
        self.bytes_sent += traffic.bytes_sent;
        self.bytes_received += traffic.bytes_received;
        match end {
            AttemptEnd::Answered => {
                self.answered += 1;
                self.latency.record(latency);
            }
            AttemptEnd::Failed(kind) => {
                *self.failures.entry(kind.name().to_owned()).or_default() += 1;
            }
            AttemptEnd::CutByOutage => self.cut_by_outage += 1,
        }
    }

    /// Attempts that failed, those of simulated outages aside.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        self.cut_by_outage += other.cut_by_outage;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.latency.add(&other.latency);
    }
}

fn add_stages<const DIGITS: u8>(
    sum: &mut BTreeMap<Stage, StageMeasurements<DIGITS>>,
    other: &BTreeMap<Stage, StageMeasurements<DIGITS>>,
) {
    for (stage, theirs) in other {
        sum.entry(*stage).or_default().add(theirs);
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The response was understood.
    Answered,
    /// It failed.
    Failed(FailureKind),
    /// A simulated outage refused it or broke it off.
    CutByOutage,
}

/// How a sync ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatedEnd {
    /// It succeeded; whether it was clean.
    Succeeded {
        /// Whether it was clean.
        clean: bool,
    },
    /// It failed.
    Failed,
    /// A reboot broke it off.
    BrokenOff,
}

impl Measurements {
    /// Nothing measured yet.
    pub(super) fn new(lasting: Duration, groups: &[HostGroup]) -> Self {
        let groups = groups.iter().map(|group| GroupMeasurements::new(group.name.clone()));
        Self { groups: groups.collect(), series: Series::new(lasting), ..Self::default() }
    }

    /// The figures of a host's group; `None` if the host belongs to no group.
    fn group(&mut self, group: Option<usize>) -> Option<&mut GroupMeasurements> {
        group.and_then(|group| self.groups.get_mut(group))
    }

    /// Counts a host of that group that this process simulates.
    pub(super) fn host_takes_part(&mut self, group: Option<usize>) {
        if let Some(of_group) = self.group(group) {
            of_group.hosts += 1;
        }
    }

    /// A sync begins; `lateness` is how much later than planned.
    pub(super) fn sync_begins(&mut self, group: Option<usize>, at: Duration, lateness: Duration) {
        self.syncs.begun += 1;
        self.lateness.record(lateness);
        let bin = self.series.bin(at);
        *slot(&mut self.series.begun, bin) += 1;
        if let Some(of_group) = self.group(group) {
            of_group.syncs.begun += 1;
        }
    }

    /// A sync has ended; `took` is its duration on the host's clock.
    pub(super) fn sync_ends(
        &mut self,
        group: Option<usize>,
        at: Duration,
        took: Duration,
        end: SimulatedEnd,
    ) {
        let bin = self.series.bin(at);
        match end {
            SimulatedEnd::Succeeded { .. } => {
                self.sync_durations.record(took);
                *slot(&mut self.series.succeeded, bin) += 1;
            }
            SimulatedEnd::Failed => *slot(&mut self.series.failed, bin) += 1,
            SimulatedEnd::BrokenOff => {}
        }
        self.syncs.ends(end);
        if let Some(of_group) = self.group(group) {
            of_group.syncs.ends(end);
            if matches!(end, SimulatedEnd::Succeeded { .. }) {
                of_group.sync_durations.record(took);
            }
        }
    }

    /// The simulation is over; `unfinished` is the number of syncs that are still running.
    pub(super) fn syncs_left(&mut self, unfinished: u64) {
        self.syncs.unfinished += unfinished;
        for of_group in &mut self.groups {
            let SyncCounts { begun, succeeded, failed, broken_off, .. } = of_group.syncs;
            of_group.syncs.unfinished = begun.saturating_sub(succeeded + failed + broken_off);
        }
    }

    /// An attempt has ended.
    pub(super) fn attempt_ends(
        &mut self,
        (group, stage): (Option<usize>, Stage),
        (began, ended): (Duration, Duration),
        end: AttemptEnd,
        traffic: Traffic,
    ) {
        let latency = ended.saturating_sub(began);
        let (at_start, at_end) = (self.series.bin(began), self.series.bin(ended));
        *slot(&mut self.series.bytes_sent, at_end) += traffic.bytes_sent;
        *slot(&mut self.series.bytes_received, at_end) += traffic.bytes_received;
        match end {
            AttemptEnd::Answered => {
                slot(&mut self.series.latency, at_end).record(latency);
                *slot(&mut self.series.requests, at_start) += 1;
            }
            AttemptEnd::Failed(_) => {
                *slot(&mut self.series.requests, at_start) += 1;
                *slot(&mut self.series.failed_requests, at_end) += 1;
            }
            AttemptEnd::CutByOutage => *slot(&mut self.series.cut_by_outage, at_end) += 1,
        }
        self.stages.entry(stage).or_default().attempt_ends(latency, end, traffic);
        if let Some(of_group) = self.group(group) {
            of_group.stages.entry(stage).or_default().attempt_ends(latency, end, traffic);
        }
    }

    /// An upload between syncs begins.
    pub(super) fn upload_begins(&mut self, group: Option<usize>) {
        self.prompt_uploads.begun += 1;
        if let Some(of_group) = self.group(group) {
            of_group.prompt_uploads.begun += 1;
        }
    }

    /// An upload between syncs has ended; `report` is `None` if it was broken off. `delay` is the
    /// time since its oldest denial.
    pub(super) fn upload_ends(
        &mut self,
        group: Option<usize>,
        report: Option<&UploadReport>,
        delay: Duration,
    ) {
        self.prompt_uploads.ends(report, delay);
        if let Some(of_group) = self.group(group) {
            of_group.prompt_uploads.ends(report, delay);
        }
    }

    /// The server has accepted events.
    pub(super) fn events_accepted(&mut self, group: Option<usize>, at: Duration, events: u64) {
        self.events_uploaded += events;
        let bin = self.series.bin(at);
        *slot(&mut self.series.events, bin) += events;
        if let Some(of_group) = self.group(group) {
            of_group.events_uploaded += events;
        }
    }

    /// The server has sent rules.
    pub(super) fn rules_received(&mut self, group: Option<usize>, rules: u64) {
        self.rules_received += rules;
        if let Some(of_group) = self.group(group) {
            of_group.rules_received += rules;
        }
    }

    /// The number of syncs that run has changed to `running`.
    pub(super) fn note_running(&mut self, at: Duration, running: u64) {
        let bin = self.series.bin(at);
        let Series { running: column, running_now, .. } = &mut self.series;
        if column.len() <= bin {
            // As many as at the last change.
            column.resize(bin + 1, *running_now);
        }
        if let Some(most) = column.last_mut() {
            *most = running.max(*most);
        }
        *running_now = running;
    }

    /// Adds what another shard measured. If either has no figures by group, the sum has none.
    pub(super) fn add(&mut self, other: &Self) {
        self.syncs.add(other.syncs);
        self.sync_durations.add(&other.sync_durations);
        self.lateness.add(&other.lateness);
        add_stages(&mut self.stages, &other.stages);
        self.prompt_uploads.add(&other.prompt_uploads);
        self.token_requests += other.token_requests;
        self.bundles_requested += other.bundles_requested;
        self.bundle_binaries += other.bundle_binaries;
        self.events_uploaded += other.events_uploaded;
        self.rules_received += other.rules_received;
        self.series.add(&other.series);
        if self.groups.len() == other.groups.len() {
            for (mine, theirs) in self.groups.iter_mut().zip(&other.groups) {
                mine.add(theirs);
            }
        } else {
            self.groups = Vec::new();
        }
    }

    /// Attempts of all stages that reached the server, or should have.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.figures().requests
    }
}

#[cfg(test)]
mod tests;
