//! What a sync has cost and moved so far: the numbers of its record.

use std::time::Duration;

use super::{SyncTally, Traffic};
use crate::model::{RuleSet, Stage, StageRecord};
use crate::protocol::events::EventBatch;

/// The running account of one sync.
#[derive(Debug, Default)]
pub(super) struct RunningTally {
    pub(super) stages: Vec<StageRecord>,
    pub(super) tally: SyncTally,
    stage_began: Duration,
}

impl RunningTally {
    pub(super) fn begin(&mut self, now: Duration) {
        self.stage_began = now;
    }

    pub(super) fn request(&mut self, stage: Stage) {
        self.record(stage).requests += 1;
    }

    pub(super) fn attempt(&mut self, stage: Stage) {
        self.record(stage).attempts += 1;
    }

    pub(super) fn traffic(&mut self, stage: Stage, traffic: Traffic) {
        let record = self.record(stage);
        record.http_status = traffic.http_status.or(record.http_status);
        record.bytes_sent += traffic.bytes_sent;
        record.bytes_received += traffic.bytes_received;
    }

    /// A stage is over; the next one begins. A stage without a request leaves
    /// no record.
    pub(super) fn end(&mut self, stage: Stage, now: Duration) {
        let took = now.saturating_sub(self.stage_began);
        self.stage_began = now;
        if let Some(record) = self.stages.iter_mut().find(|record| record.stage == stage) {
            record.duration_ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        }
    }

    pub(super) fn batch(&mut self, batch: &EventBatch) {
        self.tally.events_uploaded += batch.ids.len() as u64;
        self.tally.events_rejected += batch.rejected.len() as u64;
        for (_, kind) in &batch.dropped {
            *self.tally.events_dropped.entry(kind.clone()).or_default() += 1;
        }
    }

    pub(super) fn rules(&mut self, rules: &RuleSet) {
        self.tally.rules_received = rules.received();
        self.tally.rules_rejected_total = rules.rejected_total();
        self.tally.rules_rejected = rules.rejected().to_vec();
    }

    fn record(&mut self, stage: Stage) -> &mut StageRecord {
        let at = self.stages.iter().position(|record| record.stage == stage).unwrap_or_else(|| {
            self.stages.push(StageRecord {
                stage,
                requests: 0,
                attempts: 0,
                duration_ms: 0,
                http_status: None,
                bytes_sent: 0,
                bytes_received: 0,
            });
            self.stages.len() - 1
        });
        &mut self.stages[at]
    }
}
