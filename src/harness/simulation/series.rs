//! Counts of a simulation over time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::LatencyHistogram;

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) const fn as_float(count: u64) -> f64 {
    count as f64
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

    pub(super) fn bin(&self, at: Duration) -> usize {
        let bin = at.as_millis() / u128::from(self.bin_ms.max(1));
        usize::try_from(bin).unwrap_or(usize::MAX).min(2 * Self::MAX_BINS as usize)
    }

    pub(super) fn add(&mut self, other: &Self) {
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
pub(super) fn slot<T: Clone + Default>(column: &mut Vec<T>, bin: usize) -> &mut T {
    if column.len() <= bin {
        column.resize(bin + 1, T::default());
    }
    &mut column[bin]
}
