//! How the load comes back after an outage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Outage, SimulationPlan};
use super::series::{Series, as_float};
use crate::sync::schedule::{FIRST_SYNC_DELAY, MAX_SPLAY};

/// How much of the time before an outage counts as steady, at most.
const STEADY: Duration = Duration::from_mins(5);
/// How long after the return is looked at.
const RETURN: Duration = Duration::from_mins(1);
/// Over how long the peak is averaged: a single second is mostly chance.
const PEAK: Duration = Duration::from_secs(10);

/// The load before and after a simulated outage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The outage.
    pub outage: Outage,
    /// Requests a second before it, on average.
    pub steady_requests: f64,
    /// The most requests a second in the first minute after it, over 10 s.
    pub peak_requests: f64,
    /// Syncs that succeeded a second before it, on average.
    pub steady_syncs: f64,
    /// The most of them a second in the first minute after it, over 10 s.
    pub peak_syncs: f64,
}

impl Recovery {
    /// The recoveries that a simulation saw from their beginning to the end of their
    /// first minute.
    pub(super) fn all(plan: &SimulationPlan, series: &Series, lasted: Duration) -> Vec<Self> {
        let outages = plan.outages.iter().copied();
        outages.filter_map(|outage| Self::of(plan, series, lasted, outage)).collect()
    }

    fn of(
        plan: &SimulationPlan,
        series: &Series,
        lasted: Duration,
        outage: Outage,
    ) -> Option<Self> {
        let back = outage.at + outage.lasting;
        if back + RETURN > lasted {
            return None;
        }
        // The first syncs of a ramp are no steady state.
        let first = (FIRST_SYNC_DELAY + MAX_SPLAY) / plan.speed.max(1);
        let steady_from = outage.at.saturating_sub(STEADY).max(plan.ramp + first);
        let steady = |column: &[u64]| rate(column, series.bin_ms, steady_from, outage.at);
        let peak = |column: &[u64]| peak(column, series.bin_ms, back, back + RETURN);
        Some(Self {
            outage,
            steady_requests: steady(&series.requests)?,
            peak_requests: peak(&series.requests),
            steady_syncs: steady(&series.succeeded)?,
            peak_syncs: peak(&series.succeeded),
        })
    }

    /// How many times the steady load the peak is; requests and syncs, whichever is
    /// more. `None` if there was no load before.
    #[must_use]
    pub fn factor(&self) -> Option<f64> {
        let ratio = |peak: f64, steady: f64| (steady > 0.0).then_some(peak / steady);
        let requests = ratio(self.peak_requests, self.steady_requests)?;
        Some(ratio(self.peak_syncs, self.steady_syncs).map_or(requests, |s| s.max(requests)))
    }
}

/// The count a second between two times; `None` if no bin lies between them.
fn rate(column: &[u64], bin_ms: u64, from: Duration, to: Duration) -> Option<f64> {
    let bins = whole_bins(bin_ms, from, to);
    let count = bins.len();
    let sum: u64 = bins.map(|bin| column.get(bin).copied().unwrap_or(0)).sum();
    (count > 0).then(|| per_second(sum, bin_ms, count))
}

/// The highest count a second over [`PEAK`], or over a bin if that is longer.
fn peak(column: &[u64], bin_ms: u64, from: Duration, to: Duration) -> f64 {
    let bins = whole_bins(bin_ms, from, to);
    let width = (PEAK.as_millis() / u128::from(bin_ms.max(1))).max(1);
    let width = usize::try_from(width).unwrap_or(1).min(bins.len().max(1));
    let starts = bins.start..(bins.end + 1).saturating_sub(width).max(bins.start);
    starts
        .map(|start| {
            let window = start..start + width;
            per_second(window.map(|bin| column.get(bin).copied().unwrap_or(0)).sum(), bin_ms, width)
        })
        .fold(0.0, f64::max)
}

fn whole_bins(bin_ms: u64, from: Duration, to: Duration) -> std::ops::Range<usize> {
    let bin_ms = u128::from(bin_ms.max(1));
    let index = |bin: u128| usize::try_from(bin).unwrap_or(usize::MAX);
    index(from.as_millis().div_ceil(bin_ms))..index(to.as_millis() / bin_ms)
}

fn per_second(sum: u64, bin_ms: u64, bins: usize) -> f64 {
    as_float(sum) * 1000.0 / (as_float(bin_ms.max(1)) * as_float(bins as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> SimulationPlan {
        let mut plan = SimulationPlan::new(String::new());
        plan.lasting = Duration::from_secs(400);
        plan.outages = vec!["120s:100s".parse().expect("an outage")];
        plan
    }

    fn series(after: impl Fn(usize) -> u64) -> Series {
        let rate = |second: usize| match second {
            0..60 => 999,
            60..120 => 10,
            120..220 => 0,
            _ => after(second - 220),
        };
        let requests: Vec<u64> = (0..400).map(rate).collect();
        Series { bin_ms: 1000, succeeded: requests.clone(), requests, ..Series::default() }
    }

    #[test]
    fn the_peak_is_that_of_ten_seconds_in_the_first_minute() {
        let spike = |second| match second {
            5..15 => 25,
            30 => 100,
            70.. => 500,
            _ => 10,
        };
        let found = Recovery::all(&plan(), &series(spike), Duration::from_secs(400));
        let [recovery] = found.as_slice() else { panic!("{found:?}") };
        assert!((recovery.steady_requests - 10.0).abs() < 1e-9, "the ramp does not count");
        assert!((recovery.peak_requests - 25.0).abs() < 1e-9, "{recovery:?}");
        assert!((recovery.factor().expect("load") - 2.5).abs() < 1e-9);
    }

    #[test]
    fn an_outage_whose_return_was_not_seen_has_no_figures() {
        assert!(Recovery::all(&plan(), &series(|_| 10), Duration::from_secs(279)).is_empty());
        assert_eq!(Recovery::all(&plan(), &series(|_| 10), Duration::from_secs(280)).len(), 1);
    }
}
