//! Uploads of a simulated host soon after something was denied (EV-10): the agent's own
//! upload, on a queue in memory.

use std::sync::Arc;
use std::time::Duration;

use super::host::{SharedWorld, SimulatedHost, SyncInProgress};
use crate::clock::{Clock as _, Sleep};
use crate::failure::{Failure, FailureKind};
use crate::model::{Now, SettledEvents};
use crate::protocol::body::EncodedBody;
use crate::protocol::events::EventBatch;
use crate::protocol::preflight::DEFAULT_BATCH_SIZE;
use crate::protocol::wire;
use crate::sync::machine::{AttemptResult, StageRequest, StageResponse};
use crate::sync::stop_channel;
use crate::sync::upload::{self, UPLOAD_LIMIT, UploadHost, UploadReport};

impl SimulatedHost {
    /// Whether it uploads between syncs at all: not before a sync has succeeded.
    #[must_use]
    pub const fn may_upload(&self) -> bool {
        self.has_synced
    }

    /// Uploads the queued events, without a sync.
    pub async fn upload(&mut self, world: &SharedWorld) -> UploadReport {
        let given = if self.batch_size == 0 { DEFAULT_BATCH_SIZE } else { self.batch_size };
        let ceiling = self.upload_memory.ceiling.unwrap_or(usize::MAX);
        let batch_size = usize::try_from(given).unwrap_or(usize::MAX).min(ceiling).max(1);
        let exchange = SyncInProgress::new(&self.profile, world, i64::MAX);
        let mut uploading = UploadingHost { host: self, world, exchange, batch_size };
        let (_sender, never) = stop_channel();
        upload::upload(&mut uploading, &world.clock, never).await
    }
}

struct UploadingHost<'a> {
    host: &'a mut SimulatedHost,
    world: &'a SharedWorld,
    exchange: SyncInProgress<'a>,
    batch_size: usize,
}

impl UploadHost for UploadingHost<'_> {
    fn read_batch(&mut self, _: Now) -> Result<EventBatch, String> {
        let rows = self.host.events.batch(self.batch_size, i64::MAX);
        Ok(self.exchange.batch_of(rows, &self.host.profile))
    }

    async fn attempt(&mut self, body: &EncodedBody) -> Result<wire::EventUploadResponse, Failure> {
        let request = Arc::new(StageRequest::EventUpload(body.clone()));
        match self.exchange.send(request, &self.host.profile, UPLOAD_LIMIT).await {
            AttemptResult::Answered(StageResponse::EventUpload(response), _) => Ok(response),
            AttemptResult::Failed(failure, _) | AttemptResult::Stopped { failure, .. } => {
                Err(failure)
            }
            AttemptResult::Answered(..)
            | AttemptResult::Waited
            | AttemptResult::TokenFetched(_) => {
                let what = "the response is not one to an event upload".to_owned();
                Err(Failure::new(FailureKind::WrongShape, what))
            }
        }
    }

    async fn fetch_token(&mut self) -> bool {
        self.exchange.fetch_token().await
    }

    fn settle(&mut self, settled: SettledEvents, _: Now) -> Result<(), String> {
        self.host.settle(&settled, self.world);
        Ok(())
    }

    fn timer(&self, left: Duration) -> Sleep {
        self.world.clock.sleep(left)
    }
}
