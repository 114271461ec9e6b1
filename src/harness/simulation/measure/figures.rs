//! The figures that reports show both for all hosts and for each group.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{
    GROUP_DIGITS, GroupMeasurements, Measurements, PromptUploads, StageMeasurements, SyncCounts,
    WHOLE_DIGITS,
};
use crate::harness::simulation::latency::LatencyHistogram;
use crate::model::Stage;

/// The figures of all hosts or of one group; latencies have `DIGITS` significant digits.
#[derive(Clone, Copy, Debug)]
pub(in crate::harness::simulation) struct Figures<'a, const DIGITS: u8> {
    pub(in crate::harness::simulation) syncs: SyncCounts,
    pub(in crate::harness::simulation) sync_durations: &'a LatencyHistogram<DIGITS>,
    pub(in crate::harness::simulation) prompt_uploads: &'a PromptUploads<DIGITS>,
    pub(in crate::harness::simulation) stages: &'a BTreeMap<Stage, StageMeasurements<DIGITS>>,
    /// Attempts of all stages, without those that a simulated outage cut.
    pub(in crate::harness::simulation) requests: u64,
    pub(in crate::harness::simulation) events_uploaded: u64,
    pub(in crate::harness::simulation) rules_received: u64,
}

impl<'a, const DIGITS: u8> Figures<'a, DIGITS> {
    /// The failed attempts by stage and kind, the most frequent first.
    pub(in crate::harness::simulation) fn failures(&self) -> Vec<(Stage, &'a str, u64)> {
        let mut all: Vec<_> = self
            .stages
            .iter()
            .flat_map(|(stage, of)| of.failures.iter().map(|(kind, n)| (*stage, kind.as_str(), *n)))
            .collect();
        all.sort_by_key(|(stage, _, count)| (Reverse(*count), *stage));
        all
    }
}

impl Measurements {
    /// The figures of all hosts.
    pub(in crate::harness::simulation) fn figures(&self) -> Figures<'_, WHOLE_DIGITS> {
        Figures {
            syncs: self.syncs,
            sync_durations: &self.sync_durations,
            prompt_uploads: &self.prompt_uploads,
            stages: &self.stages,
            requests: requests(&self.stages),
            events_uploaded: self.events_uploaded,
            rules_received: self.rules_received,
        }
    }
}

impl GroupMeasurements {
    /// The figures of this group.
    pub(in crate::harness::simulation) fn figures(&self) -> Figures<'_, GROUP_DIGITS> {
        Figures {
            syncs: self.syncs,
            sync_durations: &self.sync_durations,
            prompt_uploads: &self.prompt_uploads,
            stages: &self.stages,
            requests: requests(&self.stages),
            events_uploaded: self.events_uploaded,
            rules_received: self.rules_received,
        }
    }
}

fn requests<const DIGITS: u8>(stages: &BTreeMap<Stage, StageMeasurements<DIGITS>>) -> u64 {
    stages.values().map(|stage| stage.answered + stage.failed()).sum()
}
