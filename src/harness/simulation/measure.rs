//! What a simulation measures, as its report holds it. The figures of shards are added up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::LatencyHistogram;
use super::series::{Series, slot};
use crate::failure::FailureKind;
use crate::model::Stage;
use crate::sync::machine::Traffic;
use crate::sync::upload::{UploadReport, UploadResult};

/// All counts and latencies of a simulation.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurements {
    /// What became of syncs.
    pub syncs: SyncCounts,
    /// From the beginning to the end of each sync that succeeded, waits included, on
    /// the hosts' clock.
    pub sync_durations: LatencyHistogram<3>,
    /// How much later than it should a sync began, in real time. If this is large,
    /// the simulator was short of CPU, and other latencies are partly its own.
    pub lateness: LatencyHistogram<3>,
    /// Uploads between syncs, because something was denied.
    pub prompt_uploads: PromptUploads,
    /// By stage; the attempts of uploads between syncs are among those of event uploads.
    pub stages: BTreeMap<Stage, StageMeasurements>,
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

/// Uploads between syncs.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PromptUploads {
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
    pub delays: LatencyHistogram<3>,
}

impl PromptUploads {
    /// An upload has ended; `None` if it was broken off. The oldest denial was so long
    /// ago.
    pub(super) fn ends(&mut self, report: Option<&UploadReport>, delay: Duration) {
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

/// The attempts of a stage.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct StageMeasurements {
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
    pub latency: LatencyHistogram<3>,
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
    pub(super) fn new(lasting: Duration) -> Self {
        Self { series: Series::new(lasting), ..Self::default() }
    }

    /// A sync begins, so much later than it should.
    pub(super) fn sync_begins(&mut self, at: Duration, lateness: Duration) {
        self.syncs.begun += 1;
        self.lateness.record(lateness);
        let bin = self.series.bin(at);
        *slot(&mut self.series.begun, bin) += 1;
    }

    /// A sync has ended after that time on the host's clock.
    pub(super) fn sync_ends(&mut self, at: Duration, took: Duration, end: SimulatedEnd) {
        let bin = self.series.bin(at);
        match end {
            SimulatedEnd::Succeeded { clean } => {
                self.syncs.succeeded += 1;
                self.syncs.clean += u64::from(clean);
                self.sync_durations.record(took);
                *slot(&mut self.series.succeeded, bin) += 1;
            }
            SimulatedEnd::Failed => {
                self.syncs.failed += 1;
                *slot(&mut self.series.failed, bin) += 1;
            }
            SimulatedEnd::BrokenOff => self.syncs.broken_off += 1,
        }
    }

    /// An attempt has ended that began at `began`.
    pub(super) fn attempt_ends(
        &mut self,
        stage: Stage,
        (began, ended): (Duration, Duration),
        end: AttemptEnd,
        traffic: Traffic,
    ) {
        let of_stage = self.stages.entry(stage).or_default();
        let (at_start, at_end) = (self.series.bin(began), self.series.bin(ended));
        of_stage.bytes_sent += traffic.bytes_sent;
        of_stage.bytes_received += traffic.bytes_received;
        *slot(&mut self.series.bytes_sent, at_end) += traffic.bytes_sent;
        *slot(&mut self.series.bytes_received, at_end) += traffic.bytes_received;
        match end {
            AttemptEnd::Answered => {
                let latency = ended.saturating_sub(began);
                of_stage.answered += 1;
                of_stage.latency.record(latency);
                slot(&mut self.series.latency, at_end).record(latency);
                *slot(&mut self.series.requests, at_start) += 1;
            }
            AttemptEnd::Failed(kind) => {
                *of_stage.failures.entry(kind.name().to_owned()).or_default() += 1;
                *slot(&mut self.series.requests, at_start) += 1;
                *slot(&mut self.series.failed_requests, at_end) += 1;
            }
            AttemptEnd::CutByOutage => {
                of_stage.cut_by_outage += 1;
                *slot(&mut self.series.cut_by_outage, at_end) += 1;
            }
        }
    }

    /// The server has accepted events.
    pub(super) fn events_accepted(&mut self, at: Duration, events: u64) {
        self.events_uploaded += events;
        let bin = self.series.bin(at);
        *slot(&mut self.series.events, bin) += events;
    }

    /// So many syncs run.
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

    /// Adds what another shard measured.
    pub(super) fn add(&mut self, other: &Self) {
        let SyncCounts { begun, succeeded, clean, failed, broken_off, unfinished } = other.syncs;
        self.syncs.begun += begun;
        self.syncs.succeeded += succeeded;
        self.syncs.clean += clean;
        self.syncs.failed += failed;
        self.syncs.broken_off += broken_off;
        self.syncs.unfinished += unfinished;
        self.sync_durations.add(&other.sync_durations);
        self.lateness.add(&other.lateness);
        for (stage, theirs) in &other.stages {
            self.stages.entry(*stage).or_default().add(theirs);
        }
        self.prompt_uploads.add(&other.prompt_uploads);
        self.token_requests += other.token_requests;
        self.bundles_requested += other.bundles_requested;
        self.bundle_binaries += other.bundle_binaries;
        self.events_uploaded += other.events_uploaded;
        self.rules_received += other.rules_received;
        self.series.add(&other.series);
    }

    /// Attempts of all stages that reached the server, or should have.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.stages.values().map(|stage| stage.answered + stage.failed()).sum()
    }
}

impl StageMeasurements {
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

#[cfg(test)]
mod tests;
