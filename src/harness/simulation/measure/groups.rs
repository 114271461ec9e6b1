//! What a simulation measures for a group of hosts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GROUP_DIGITS, PromptUploads, StageMeasurements, SyncCounts, add_stages};
use crate::harness::simulation::latency::LatencyHistogram;
use crate::model::Stage;

/// The counts and latencies of a group. They take at most 160 KiB: six histograms of at most
/// 26 KiB each.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct GroupMeasurements {
    /// The group's name in the plan.
    pub name: String,
    /// How many of its hosts were simulated.
    pub hosts: u64,
    /// What became of syncs.
    pub syncs: SyncCounts,
    /// See [`Measurements::sync_durations`](super::Measurements::sync_durations).
    pub sync_durations: LatencyHistogram<GROUP_DIGITS>,
    /// Uploads between syncs, because something was denied.
    pub prompt_uploads: PromptUploads<GROUP_DIGITS>,
    /// By stage.
    pub stages: BTreeMap<Stage, StageMeasurements<GROUP_DIGITS>>,
    /// Events that the server accepted.
    pub events_uploaded: u64,
    /// Rules that the server sent.
    pub rules_received: u64,
}

impl GroupMeasurements {
    /// Nothing measured yet.
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// Adds what another shard measured of the same group.
    pub(super) fn add(&mut self, other: &Self) {
        self.hosts += other.hosts;
        self.syncs.add(other.syncs);
        self.sync_durations.add(&other.sync_durations);
        self.prompt_uploads.add(&other.prompt_uploads);
        add_stages(&mut self.stages, &other.stages);
        self.events_uploaded += other.events_uploaded;
        self.rules_received += other.rules_received;
    }
}
