//! What a simulation measures, as its report holds it. The figures of shards are added up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::LatencyHistogram;
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

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) const fn as_float(count: u64) -> f64 {
    count as f64
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

/// Counts over time, in bins of equal length.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// The length of a bin in milliseconds.
    pub bin_ms: u64,
    /// Syncs begun.
    pub begun: Vec<u64>,
    /// Syncs that succeeded.
    pub succeeded: Vec<u64>,
    /// Syncs that failed.
    pub failed: Vec<u64>,
    /// Attempts that began and were not refused by a simulated outage.
    pub requests: Vec<u64>,
    /// Attempts that failed otherwise.
    pub failed_requests: Vec<u64>,
    /// Attempts that a simulated outage refused or broke off.
    pub cut_by_outage: Vec<u64>,
    /// Bytes of the bodies of requests.
    pub bytes_sent: Vec<u64>,
    /// Bytes of the bodies of responses.
    pub bytes_received: Vec<u64>,
    /// Events that the server accepted.
    pub events: Vec<u64>,
    /// The most syncs that ran at once.
    pub running: Vec<u64>,
    /// How many ran at the last change.
    #[serde(skip)]
    pub(super) running_now: u64,
    /// The latency of the attempts that were answered in each bin.
    pub latency: Vec<LatencyHistogram<1>>,
}

impl Series {
    /// The most bins: as many as a plot can show.
    const MAX_BINS: u128 = 1000;

    /// Series for a simulation of that length.
    pub(super) fn new(lasting: Duration) -> Self {
        let widths = [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000, 600_000];
        let fits = |width: &u64| lasting.as_millis() <= u128::from(*width) * Self::MAX_BINS;
        Self { bin_ms: widths.into_iter().find(fits).unwrap_or(3_600_000), ..Self::default() }
    }

    /// Each column with its name.
    pub(super) fn columns(&self) -> [(&'static str, &Vec<u64>); 10] {
        [
            ("syncs begun", &self.begun),
            ("syncs succeeded", &self.succeeded),
            ("syncs failed", &self.failed),
            ("requests", &self.requests),
            ("failed requests", &self.failed_requests),
            ("cut by outage", &self.cut_by_outage),
            ("bytes sent", &self.bytes_sent),
            ("bytes received", &self.bytes_received),
            ("events", &self.events),
            ("running", &self.running),
        ]
    }

    fn columns_mut(&mut self) -> [&mut Vec<u64>; 10] {
        [
            &mut self.begun,
            &mut self.succeeded,
            &mut self.failed,
            &mut self.requests,
            &mut self.failed_requests,
            &mut self.cut_by_outage,
            &mut self.bytes_sent,
            &mut self.bytes_received,
            &mut self.events,
            &mut self.running,
        ]
    }

    /// How many times there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns().into_iter().map(|(_, column)| column.len()).max().unwrap_or(0)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bin(&self, at: Duration) -> usize {
        let bin = at.as_millis() / u128::from(self.bin_ms.max(1));
        usize::try_from(bin).unwrap_or(usize::MAX).min(2 * Self::MAX_BINS as usize)
    }

    fn add(&mut self, other: &Self) {
        for (mine, (_, others)) in self.columns_mut().into_iter().zip(other.columns()) {
            for (bin, count) in others.iter().enumerate() {
                *slot(mine, bin) += count;
            }
        }
        for (bin, others) in other.latency.iter().enumerate() {
            slot(&mut self.latency, bin).add(others);
        }
    }
}

/// The value of a bin, which is made if it is not there.
fn slot<T: Clone + Default>(column: &mut Vec<T>, bin: usize) -> &mut T {
    if column.len() <= bin {
        column.resize(bin + 1, T::default());
    }
    &mut column[bin]
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
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A run of which every second host was in another process.
    fn measured(hosts: impl Iterator<Item = u64>) -> Measurements {
        let mut all = Measurements::new(secs(100));
        for host in hosts {
            let began = secs(host);
            all.sync_begins(began, Duration::from_millis(host));
            let traffic = Traffic { bytes_sent: 10, bytes_received: host, ..Traffic::default() };
            let end = match host % 3 {
                0 => AttemptEnd::Answered,
                1 => AttemptEnd::Failed(FailureKind::ServerError),
                _ => AttemptEnd::CutByOutage,
            };
            all.attempt_ends(Stage::Preflight, (began, began + secs(2)), end, traffic);
            all.events_accepted(began, 3);
            let end = if host % 3 == 0 {
                SimulatedEnd::Succeeded { clean: host % 2 == 0 }
            } else {
                SimulatedEnd::Failed
            };
            all.sync_ends(began + secs(2), secs(2), end);
        }
        all
    }

    #[test]
    fn shards_add_up_to_the_whole() {
        let whole = measured(0..60);
        let mut sum = measured((0..60).step_by(2));
        let other = measured((1..60).step_by(2));
        let text = serde_json::to_string(&other).expect("JSON");
        sum.add(&serde_json::from_str(&text).expect("the same"));
        assert_eq!(sum.syncs, whole.syncs);
        assert_eq!(sum.requests(), whole.requests());
        assert_eq!(sum.series.requests, whole.series.requests);
        assert_eq!(
            serde_json::to_value(&sum).expect("JSON"),
            serde_json::to_value(&whole).expect("JSON")
        );
    }

    #[test]
    fn an_attempt_is_counted_where_it_began_and_its_latency_where_it_ended() {
        let all = measured(std::iter::once(30));
        let bin = |second: usize| second * 1000 / 100;
        assert_eq!(all.series.bin_ms, 100);
        assert_eq!(all.series.requests[bin(30)], 1);
        assert_eq!(all.series.latency[bin(32)].count(), 1);
        assert_eq!(all.series.latency[bin(32)].quantile(0.5).map(|l| l.as_secs()), Some(2));
    }

    #[test]
    fn what_runs_is_the_most_of_each_time_and_carried_on_where_nothing_changes() {
        let mut all = Measurements::new(secs(100));
        let at = |tenth: u64| Duration::from_millis(100 * tenth);
        for (tenth, running) in [(0, 1), (0, 3), (0, 2), (3, 5), (3, 1), (5, 0), (7, 0)] {
            all.note_running(at(tenth), running);
        }
        assert_eq!(all.series.running, [3, 2, 2, 5, 1, 1, 0, 0]);
    }

    #[test]
    fn long_simulations_have_longer_bins() {
        let width = |lasting| Series::new(lasting).bin_ms;
        assert_eq!(width(secs(720)), 1000);
        assert_eq!(width(Duration::from_hours(1)), 5000);
        assert_eq!(width(Duration::from_hours(7 * 24)), 3_600_000);
    }
}
