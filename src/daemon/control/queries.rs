//! Requests that look into the stores. They run in threads of their own, and
//! each kind has places of its own: whatever waits for a writer or a slow disk,
//! lookups go on (DAEMON-4). Every wait has a bound and ends in `busy`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::agent::LocalAgent;
use crate::config::Loaded;
use crate::control::message::{ControlErrorKind, ControlResponse, RuleLookup};
use crate::failure::Remedy;
use crate::ingest::IngestedEvent;
use crate::store::StoreError;

/// Lookups that run at once. One takes about a millisecond.
const MAX_LOOKUPS: usize = 4;
/// How long a lookup waits for its place.
const LOOKUP_SLOT_WAIT: Duration = Duration::from_millis(50);
/// How long a lookup waits for a program that holds `rules.db` for itself. The
/// sync's own commits are not waited for.
const LOOKUP_LOCK_WAIT: Duration = Duration::from_millis(25);
/// Other reads that run at once.
const MAX_READS: usize = 2;
/// How long they, and the events of a client, wait for their place. The writer
/// before them waits up to 5 s for a lock of `events.db`.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// The stores, for questions.
pub(super) struct Queries {
    agent: LocalAgent,
    lookups: Places,
    reads: Places,
    /// The one place for writing events.
    writer: Places,
}

/// Threads that one kind of request may use, and how long it waits for one.
struct Places {
    free: Arc<Semaphore>,
    wait: Duration,
    /// What to say when none has become free.
    busy: &'static str,
}

impl Places {
    fn new(count: usize, wait: Duration, busy: &'static str) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), wait, busy }
    }

    /// Runs `work` in a thread, once there is a place for it. The place is
    /// taken for as long as the thread runs, whoever still waits for it.
    async fn run<T: From<ControlResponse> + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        let refused = |kind, message: &str| T::from(ControlResponse::error(kind, message));
        let failed = |kind, error: &dyn Remedy| T::from(ControlResponse::of_error(kind, error));
        let place = match timeout(self.wait, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => {
                return refused(ControlErrorKind::Stopping, "the daemon is stopping");
            }
            Err(_) => return refused(ControlErrorKind::Busy, self.busy),
        };
        let running = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        match running.await {
            Ok(Ok(done)) => done,
            Ok(Err(error @ StoreError::Locked { .. })) => failed(ControlErrorKind::Busy, &error),
            Ok(Err(error)) => failed(ControlErrorKind::Store, &error),
            Err(error) => {
                refused(ControlErrorKind::Internal, &format!("the request failed: {error}"))
            }
        }
    }
}

/// The response to a client that adds events.
pub(super) struct Added {
    pub(super) answer: ControlResponse,
    /// Whether something that was denied has been queued (EV-10).
    pub(super) urgent: bool,
}

impl From<ControlResponse> for Added {
    fn from(answer: ControlResponse) -> Self {
        Self { answer, urgent: false }
    }
}

impl Queries {
    pub(super) fn new(agent: LocalAgent) -> Self {
        Self {
            agent,
            lookups: Places::new(
                MAX_LOOKUPS,
                LOOKUP_SLOT_WAIT,
                "too many lookups at once; ask again, or read the rules with `rules check`",
            ),
            reads: Places::new(MAX_READS, SLOT_WAIT, "the stores are busy; ask again later"),
            writer: Places::new(
                1,
                SLOT_WAIT,
                "the event queue is busy with earlier events; none of these is queued, send them \
                 again",
            ),
        }
    }

    /// Queues events. Those reported as added are on disk; after an error none of
    /// them is.
    pub(super) async fn events_add(&self, loaded: &Loaded, events: Vec<Box<RawValue>>) -> Added {
        let agent = self.agent.with_config(Arc::clone(&loaded.config));
        self.writer
            .run(move || {
                let lines: Vec<_> = events.iter().map(|event| event.get()).collect();
                let results = agent.add_events(&lines)?;
                let urgent = results.iter().any(IngestedEvent::is_urgent);
                Ok(Added { answer: ControlResponse::EventsAdded { results }, urgent })
            })
            .await
    }

    /// Looks a rule up.
    pub(super) async fn lookup(&self, loaded: &Loaded, lookup: RuleLookup) -> ControlResponse {
        let bad = |message| ControlResponse::error(ControlErrorKind::BadRequest, message);
        let executable = match lookup.executable() {
            Ok(executable) if executable.is_empty() => {
                return bad("give sha256, cdhash, signing_id, cert_sha256 or team_id".to_owned());
            }
            Ok(executable) => executable,
            Err(error) => return bad(error.to_string()),
        };
        let agent = self.agent.with_config(Arc::clone(&loaded.config));
        let agent = agent.with_lock_wait(LOOKUP_LOCK_WAIT);
        self.lookups
            .run(move || {
                let decision = agent.decide(&executable, lookup.since)?;
                Ok(ControlResponse::Rule(Box::new(decision)))
            })
            .await
    }

    /// The bundles that the server requested.
    pub(super) async fn bundle_requests(&self) -> ControlResponse {
        let agent = self.agent.clone();
        self.reads
            .run(move || Ok(ControlResponse::BundleRequests { bundles: agent.bundle_requests()? }))
            .await
    }
}
