//! Prompt upload (EV-10): what waits in the event queue goes up by
//! `event_upload` requests alone, because something was denied and the server
//! should hear of it before the next sync.
//!
//! It makes one attempt of each request and leaves whatever fails to the next
//! sync, events that a server refuses included. It holds the lock of the state
//! directory, never waits for it, and leaves no record in the history. Promise:
//! an event leaves the queue after its 200 and not before (EV-2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::{self, SyncHost};
use super::{Stop, log_response_warning, redacted, stop_failure, stopped};
use super::{codec, machine};
use crate::clock::{Clock, Sleep};
use crate::failure::Failure;
use crate::model::{MachineId, Now, SettledEvents, Stage, Transfer};
use crate::protocol::body::EncodedBody;
use crate::protocol::events::{self, EventBatch};
use crate::protocol::preflight::DEFAULT_BATCH_SIZE;
use crate::protocol::wire;
use crate::store::{EventStore, LockError, StateLock, Store, StoreError};
use crate::transport::{Transport, XsrfToken};

/// How long an upload takes at most. A sync that is due waits for its end. No
/// batch is begun in the second half, so that none is cut off by the limit unless
/// the server is slow.
pub const UPLOAD_LIMIT: Duration = Duration::from_secs(30);

/// The outcome of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReport {
    /// How it ended.
    pub result: UploadResult,
    /// How many events the server took.
    pub events: u64,
    /// Why it ended early.
    pub error: Option<String>,
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadResult {
    /// What waited has gone up, or as much of it as fits into [`UPLOAD_LIMIT`].
    Uploaded,
    /// No sync with this server has succeeded yet, so that the next one has to
    /// come first.
    NotYet,
    /// A sync of another process runs. It may take the events.
    Busy,
    /// It is left to the next sync.
    Failed,
}

impl UploadReport {
    fn new(result: UploadResult) -> Self {
        Self { result, events: 0, error: None }
    }

    /// The report of an upload that could not even begin.
    #[must_use]
    pub fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::new(UploadResult::Failed) }
    }
}

impl From<StoreError> for UploadReport {
    fn from(error: StoreError) -> Self {
        Self::failed(error.to_string())
    }
}

/// What an upload works with: the queue of a host, and its way to the server.
pub trait UploadHost {
    /// The oldest events, as many as a request may carry.
    ///
    /// # Errors
    /// If the queue cannot be read.
    fn read_batch(&mut self, now: Now) -> Result<EventBatch, String>;

    /// Makes one attempt of a request with this body.
    ///
    /// # Errors
    /// If the server does not take the events.
    fn attempt(
        &mut self,
        body: &EncodedBody,
    ) -> impl Future<Output = Result<wire::EventUploadResponse, Failure>>;

    /// Fetches an XSRF token, for the next attempt. Returns whether the server
    /// answered 200.
    fn fetch_token(&mut self) -> impl Future<Output = bool>;

    /// Has the events of a batch leave the queue.
    ///
    /// # Errors
    /// If the queue cannot be written.
    fn settle(&mut self, settled: SettledEvents, now: Now) -> Result<(), String>;

    /// Ends once so much time has passed.
    fn timer(&self, left: Duration) -> Sleep;
}

/// Uploads what waits on this host.
pub async fn run(host: &SyncHost<'_>, clock: &dyn Clock, stop: Stop) -> UploadReport {
    match prepare(host, clock) {
        Ok(PreparedUpload { transport, events, batch_size, _lock }) => {
            let mut host = StoredHost {
                events,
                transport,
                transfer: host.config.transfer,
                machine_id: &host.machine_id,
                batch_size,
                clock,
                token: None,
            };
            upload(&mut host, clock, stop).await
        }
        Err(report) => report,
    }
}

/// Sends batch after batch, oldest first, until the queue is empty or the time is
/// up.
pub async fn upload(host: &mut impl UploadHost, clock: &dyn Clock, stop: Stop) -> UploadReport {
    let mut upload = PromptUploader { host, clock, stop, token_spent: false, uploaded: 0 };
    let done = upload.run().await;
    let events = upload.uploaded;
    match done {
        Ok(()) => UploadReport { events, ..UploadReport::new(UploadResult::Uploaded) },
        Err(error) => UploadReport { events, ..UploadReport::failed(error) },
    }
}

/// Everything an upload needs.
struct PreparedUpload {
    transport: Transport,
    events: EventStore,
    batch_size: usize,
    _lock: StateLock,
}

fn prepare(host: &SyncHost<'_>, clock: &dyn Clock) -> Result<PreparedUpload, UploadReport> {
    let base_url =
        host.config.sync_base_url.clone().ok_or_else(|| UploadReport::new(UploadResult::NotYet))?;
    let lock = StateLock::acquire(host.state_dir, false).map_err(|error| match error {
        LockError::TooManySyncs(_) => UploadReport::new(UploadResult::Busy),
        error @ (LockError::NotAFile { .. } | LockError::Unusable { .. }) => {
            UploadReport::failed(error.to_string())
        }
    })?;
    let store = match Store::open_read_only(host.state_dir) {
        Err(error) if error.is_unused() => return Err(UploadReport::new(UploadResult::NotYet)),
        opened => opened?,
    };
    let known = store.identity()?.is_some_and(|(server, machine)| {
        base_url.is_named_by(&server) && machine == host.machine_id.as_str()
    });
    if !known || store.full_sync_last_success()?.is_none() {
        return Err(UploadReport::new(UploadResult::NotYet));
    }
    let batch_size = store.batch_size()?.unwrap_or(DEFAULT_BATCH_SIZE as usize);
    let (mut events, _) = EventStore::open(host.state_dir, clock.now().wall)?;
    events.set_limits(run::queue_limits(host.config));
    // A size that the server has refused is not tried here (EV-6).
    let ceiling = events.upload_memory()?.ceiling;
    let batch_size = batch_size.min(ceiling.unwrap_or(usize::MAX)).max(1);
    let transport = run::transport(host, base_url)
        .map_err(|failure| UploadReport::failed(failure.to_string()))?;
    Ok(PreparedUpload { transport, events, batch_size, _lock: lock })
}

struct PromptUploader<'a, H> {
    host: &'a mut H,
    clock: &'a dyn Clock,
    stop: Stop,
    token_spent: bool,
    uploaded: u64,
}

impl<H: UploadHost> PromptUploader<'_, H> {
    /// The error says why it ended early.
    async fn run(&mut self) -> Result<(), String> {
        let began = self.clock.now().elapsed;
        loop {
            let now = self.clock.now();
            let left = UPLOAD_LIMIT.saturating_sub(now.elapsed.saturating_sub(began));
            let batch = self.host.read_batch(now)?;
            if batch.extent().0 == 0 || left <= UPLOAD_LIMIT / 2 {
                return Ok(());
            }
            let bundle_requests = if batch.ids.is_empty() {
                Vec::new()
            } else {
                self.send(&batch.body, left).await.map_err(|failure| failure.to_string())?
            };
            self.uploaded += batch.ids.len() as u64;
            self.host.settle(batch.settled(bundle_requests), now)?;
        }
    }

    /// Makes one attempt, and a second with a fresh token if the server demands
    /// one (HTTP-4). Returns the bundles that the server requests.
    async fn send(&mut self, body: &EncodedBody, left: Duration) -> Result<Vec<String>, Failure> {
        let time_up = self.host.timer(left);
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            reason = stopped(&mut stop) => Err(stop_failure(reason)),
            done = self.exchange(body) => done,
            () = time_up => Err(machine::deadline_failure(UPLOAD_LIMIT)),
        }
    }

    async fn exchange(&mut self, body: &EncodedBody) -> Result<Vec<String>, Failure> {
        let response = match self.host.attempt(body).await {
            Err(refused) if refused.http_status == Some(403) && !self.token_spent => {
                self.token_spent = true;
                if !self.host.fetch_token().await {
                    return Err(refused);
                }
                self.host.attempt(body).await
            }
            done => done,
        };
        response.map(events::bundle_requests)
    }
}

/// The stores and the transport of this host.
struct StoredHost<'a> {
    events: EventStore,
    transport: Transport,
    transfer: Transfer,
    machine_id: &'a MachineId,
    batch_size: usize,
    clock: &'a dyn Clock,
    token: Option<XsrfToken>,
}

impl UploadHost for StoredHost<'_> {
    fn read_batch(&mut self, now: Now) -> Result<EventBatch, String> {
        let rows = self.events.read_batch(self.batch_size, None, now.wall);
        let rows = rows.map_err(|error| error.to_string())?;
        let pack = |body| self.transport.pack(body);
        Ok(EventBatch::of_rows(rows, self.machine_id, self.transfer, pack))
    }

    async fn attempt(&mut self, body: &EncodedBody) -> Result<wire::EventUploadResponse, Failure> {
        let (stage, now) = (Stage::EventUpload, self.clock.now().wall);
        let url = self.transport.url(stage);
        let exchanged = self.transport.post_packed(stage, body, self.token.as_ref(), now).await;
        let decoded =
            exchanged.outcome.and_then(|answer| codec::decode_upload(self.transfer, answer, &url));
        let (response, warnings) = decoded.map_err(|failure| Failure {
            message: self.transport.redact(&failure.message),
            ..failure
        })?;
        for warning in warnings {
            log_response_warning(&redacted(warning, &self.transport));
        }
        Ok(response)
    }

    async fn fetch_token(&mut self) -> bool {
        match self.transport.fetch_token(self.clock.now().wall).await {
            Ok(token) => {
                self.token = token;
                true
            }
            Err(_) => false,
        }
    }

    fn settle(&mut self, settled: SettledEvents, now: Now) -> Result<(), String> {
        self.events.settle(&settled, now.wall).map_err(|error| error.to_string())
    }

    fn timer(&self, left: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(left))
    }
}
