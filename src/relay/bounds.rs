//! How much of the relay's memory and threads clients may take (RELAY-12).
//!
//! What a request takes it holds until its work is done, also if its client has gone:
//! a blocking thread cannot be stopped. A flood of connections that are made and
//! dropped therefore waits like any other.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Stage;

/// Pages in memory at once, each up to 16 MiB, of the authorizer.
const PAGES_OF_AUTHORIZER: usize = 1;
/// The same of clients of whom nothing is checked: a slow one does not hold up
/// the next.
const PAGES_OF_OTHERS: usize = 4;
/// Uploads worked on at once for either kind of client. They take turns at the queue.
const UPLOADS: usize = 1;
/// Other requests worked on at once for either kind of client.
const REQUESTS: usize = 2;
/// Threads that block, at most: those of requests, one that reads a page ahead for
/// either kind of client, two that look peers up, and what the relay does by itself.
pub const BLOCKING_THREADS: usize = 2 * (UPLOADS + REQUESTS + 1) + 2 + 6;

/// Their name, as the system shows it.
pub const BLOCKING_NAME: &str = "relay-blocking";

/// What the requests of one kind of client may take.
#[derive(Debug)]
struct Share {
    pages: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Share {
    fn new(pages: usize) -> Self {
        let [pages, uploads, requests] =
            [pages, UPLOADS, REQUESTS].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { pages, uploads, requests }
    }
}

/// What all requests may take.
#[derive(Debug)]
pub(super) struct Bounds {
    authorizer: Share,
    others: Share,
}

/// What a request has been granted.
#[derive(Debug)]
pub(super) struct Granted {
    /// Held until the page is sent, for a request for one.
    pub(super) page: Option<OwnedSemaphorePermit>,
    /// Held until the work is done.
    pub(super) work: Option<OwnedSemaphorePermit>,
}

impl Bounds {
    pub(super) fn new() -> Self {
        Self { authorizer: Share::new(PAGES_OF_AUTHORIZER), others: Share::new(PAGES_OF_OTHERS) }
    }

    /// Waits until a request of this stage may begin.
    pub(super) async fn grant(&self, stage: Stage, is_authorizer: bool) -> Granted {
        let share = if is_authorizer { &self.authorizer } else { &self.others };
        let work = match stage {
            Stage::EventUpload => &share.uploads,
            Stage::Preflight | Stage::RuleDownload | Stage::Postflight => &share.requests,
        };
        // A client that is slow to take its page must not keep a thread waiting.
        let page = match stage {
            Stage::RuleDownload => permit(&share.pages).await,
            Stage::Preflight | Stage::EventUpload | Stage::Postflight => None,
        };
        Granted { page, work: permit(work).await }
    }
}

async fn permit(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // They are never closed.
    Arc::clone(of).acquire_owned().await.ok()
}
