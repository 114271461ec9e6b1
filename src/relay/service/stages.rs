//! The responses to the requests of the four stages.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;

use super::{Admitted, News, RelayService, lock};
use crate::clock::Clock as _;
use crate::failure::Remedy as _;
use crate::ingest::{self, IngestedUpload, UploadError};
use crate::mapped_buffer::MappedBuffer;
use crate::model::{Now, RelayManner, Stage, Transfer};
use crate::protocol::requests::{self, RequestError};
use crate::protocol::rules::PageWriter;
use crate::protocol::{body, preflight, wire};
use crate::relay::core::CoreError;
use crate::relay::page_prefetch::PagePrefetch;
use crate::relay::v2;
use crate::serve::{Request, Response};
use crate::store::{EventStore, Notice, TakeError};
use crate::sync::progress::When;

impl RelayService {
    /// Handles a request on a thread that may block.
    pub(super) fn answer(
        &self,
        admitted: Admitted,
        request: Request,
        connection: u64,
        page: Option<OwnedSemaphorePermit>,
    ) -> Response {
        let Admitted { stage, transfer, authenticated } = admitted;
        let Request { body, .. } = request;
        let answered = match stage {
            Stage::Preflight => self.preflight(transfer, authenticated, &body, connection),
            Stage::EventUpload => return self.event_upload(transfer, &body),
            Stage::RuleDownload => self
                .rule_download(admitted, &body, connection, page)
                .map(|page| typed(transfer, Bytes::from_owner(page))),
            Stage::Postflight => self.postflight(transfer, &body, connection),
        };
        if matches!(stage, Stage::Preflight | Stage::Postflight) {
            self.tell(News::Status);
        }
        answered.unwrap_or_else(|refusal| self.refused(refusal))
    }

    fn preflight(
        &self,
        transfer: Transfer,
        authenticated: bool,
        body: &[u8],
        connection: u64,
    ) -> Result<Response, Refusal> {
        let request = requests::read::<wire::PreflightRequest>(transfer, body)?.message;
        let has_v2_state = v2::has_left_state(transfer, body);
        let now = self.0.clock.now();
        let answered =
            lock(&self.0.core).preflight(connection, authenticated, &request, has_v2_state, now);
        if matches!(answered, Err(CoreError::NotReady(_))) {
            self.tell(News::WantsUpstream);
        }
        if lock(&self.0.core).take_return() {
            self.tell(News::Returned);
        }
        let response = answered?;
        if self.0.manner == RelayManner::Pedro && transfer == Transfer::Json {
            return Ok(typed(transfer, preflight::plain_json(&response)));
        }
        Ok(encoded(transfer, &response))
    }

    fn postflight(
        &self,
        transfer: Transfer,
        body: &[u8],
        connection: u64,
    ) -> Result<Response, Refusal> {
        let request = requests::read::<wire::PostflightRequest>(transfer, body)?.message;
        let wants_nudge =
            lock(&self.0.core).postflight(connection, &request, self.0.clock.now())?;
        if wants_nudge {
            self.tell(News::WantsNudge);
        }
        Ok(encoded(transfer, &wire::PostflightResponse::default()))
    }

    fn rule_download(
        &self,
        Admitted { transfer, authenticated, .. }: Admitted,
        body: &[u8],
        connection: u64,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<HeldPage, Refusal> {
        let request = requests::read::<wire::RuleDownloadRequest>(transfer, body)?.message;
        let now = self.0.clock.now();
        let located = lock(&self.0.core).locate(connection, &request.cursor, now)?;
        let Some(located) = located else {
            let body = PageWriter::new(transfer, MappedBuffer::new(0)).finish(None);
            return Ok(HeldPage { body, _permit: permit, prefetch: None });
        };
        let prefetch = &self.0.prefetch[usize::from(!authenticated)];
        let page = match prefetch.take(&located, transfer) {
            Some(page) => page,
            None => located.read(transfer).map_err(CoreError::Store)?,
        };
        lock(&self.0.core).served(&located, &page);
        let prefetch = page.next.map(|next| {
            prefetch.begin(located.at(next), transfer);
            Arc::clone(prefetch)
        });
        Ok(HeldPage { body: page.body, _permit: permit, prefetch })
    }

    /// Accepts events: they are on disk before the response is sent (RELAY-8).
    fn event_upload(&self, transfer: Transfer, body: &[u8]) -> Response {
        let now = self.0.clock.now();
        let is_limited = !self.0.access.checks_peers();
        if is_limited && lock(&self.0.rate).is_over(now.elapsed) {
            lock(&self.0.core).upload_refused();
            let message = "too many events in a minute; keep them and try again";
            return self.refuse(429, "events_per_minute", message);
        }
        (self.0.checkpoint)(When::Before, "take_events");
        let taken = self.take(transfer, body, now);
        (self.0.checkpoint)(When::After, "take_events");
        match taken {
            Ok(taken) => {
                for warning in &taken.warnings {
                    tracing::debug!(
                        ?warning,
                        "an event of the authorizer has a value that was not read"
                    );
                }
                let taken = taken.relayed;
                let events = taken.queued + taken.held + taken.set_aside;
                lock(&self.0.rate).events += events + taken.duplicates;
                lock(&self.0.core).status_mut().events += events;
                if taken.urgent {
                    self.tell(News::Denial);
                }
                let response =
                    wire::EventUploadResponse { event_upload_bundle_binaries: taken.wanted };
                encoded(transfer, &response)
            }
            Err(error) => {
                lock(&self.0.core).upload_refused();
                match error {
                    UploadError::Request(error) => {
                        self.refuse(error.http_status(), "body", &error.to_string())
                    }
                    UploadError::Take(TakeError::Full) => {
                        let message = "the event queue is full; keep the events";
                        self.refuse(503, "queue_full", message)
                    }
                    UploadError::Take(TakeError::Store(error)) => {
                        let fix = error.fix();
                        tracing::warn!(%error, fix = fix.as_deref(), "events of the authorizer cannot be queued");
                        self.refuse(503, "store", "the event queue cannot be used; keep the events")
                    }
                }
            }
        }
    }

    fn take(
        &self,
        transfer: Transfer,
        body: &[u8],
        now: Now,
    ) -> Result<IngestedUpload, UploadError> {
        let mut queue = lock(&self.0.queue);
        let store = if let Some(store) = &mut *queue {
            store
        } else {
            let opened = EventStore::open(&self.0.state_dir, now.wall);
            let (store, notices) = opened.map_err(TakeError::Store)?;
            for notice in notices {
                if let Notice::SetAside { path, reason } = notice {
                    let path = path.display();
                    tracing::warn!(reason, "the event queue was corrupt; it is now {path}");
                }
            }
            queue.insert(store)
        };
        let taken = ingest::ingest_upload(store, transfer, body, now, self.0.limits);
        if matches!(taken, Err(UploadError::Take(TakeError::Store(_)))) {
            // The file may have been moved away.
            *queue = None;
        }
        taken
    }

    fn refused(&self, refusal: Refusal) -> Response {
        match refusal {
            Refusal::Request(error) => self.refuse(error.http_status(), "body", &error.to_string()),
            Refusal::Core(CoreError::NotReady(why)) => self.refuse(503, "not_ready", why),
            Refusal::Core(error @ CoreError::Gone) => {
                self.refuse(409, "cursor", &error.to_string())
            }
            Refusal::Core(CoreError::Store(error)) => {
                let fix = error.fix();
                tracing::warn!(%error, fix = fix.as_deref(), "the relay cannot read the rules");
                self.refuse(503, "store", "the rules cannot be read")
            }
            Refusal::Core(error @ CoreError::Token(_)) => {
                tracing::warn!(%error, "the relay cannot go on");
                self.refuse(503, "token", "the system has no random numbers")
            }
        }
    }
}

/// Why a request that was admitted is refused.
enum Refusal {
    Request(RequestError),
    Core(CoreError),
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<CoreError> for Refusal {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}

/// A page that counts as being in memory until it is sent.
struct HeldPage {
    body: MappedBuffer,
    _permit: Option<OwnedSemaphorePermit>,
    /// Takes the buffer for a page that follows.
    prefetch: Option<Arc<PagePrefetch>>,
}

impl Drop for HeldPage {
    fn drop(&mut self) {
        if let Some(prefetch) = &self.prefetch {
            prefetch.give_back(std::mem::take(&mut self.body));
        }
    }
}

impl AsRef<[u8]> for HeldPage {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn typed(transfer: Transfer, body: impl Into<Bytes>) -> Response {
    let content_type = HeaderValue::from_static(transfer.content_type());
    Response::new(200, body).with(header::CONTENT_TYPE, content_type)
}

fn encoded<M>(transfer: Transfer, message: &M) -> Response
where
    M: prost::Message + serde::Serialize,
{
    match body::encode(transfer, message) {
        Ok(body) => typed(transfer, body),
        Err(error) => {
            tracing::error!(%error, "a response of the relay cannot be encoded");
            Response::text(500, "internal error")
        }
    }
}
