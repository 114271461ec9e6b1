//! Requests that look into the stores. They run in threads of their own, and
//! each kind has places of its own: whatever waits for a writer or a slow disk,
//! lookups go on (DAEMON-4). Every wait has a bound and ends in `busy`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Loaded};
use crate::control::message::{
    ControlErrorKind, ControlResponse, Decision, EventResult, RuleLookup,
};
use crate::ingest::{IngestOutcome, IngestedEvent, ingest_lines};
use crate::model::{Executable, Identifier, Now, RuleType, StaticRules};
use crate::protocol::events::IngestPolicy;
use crate::store::{EventStore, Limits, Store, StoreError};

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
    state_dir: PathBuf,
    clock: SystemClock,
    lookups: Places,
    reads: Places,
    /// The one place for writing events.
    writer: Places,
    /// Kept open between requests: it remembers what it took in lately.
    events: Arc<Mutex<Option<EventStore>>>,
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
        let refused = |kind, message: String| T::from(ControlResponse::error(kind, message));
        let place = match timeout(self.wait, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => {
                return refused(ControlErrorKind::Stopping, "the daemon is stopping".to_owned());
            }
            Err(_) => return refused(ControlErrorKind::Busy, self.busy.to_owned()),
        };
        let running = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        match running.await {
            Ok(Ok(done)) => done,
            Ok(Err(error @ StoreError::Locked { .. })) => {
                refused(ControlErrorKind::Busy, error.to_string())
            }
            Ok(Err(error)) => refused(ControlErrorKind::Store, error.to_string()),
            Err(error) => {
                refused(ControlErrorKind::Internal, format!("the request failed: {error}"))
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
    pub(super) fn new(state_dir: PathBuf, clock: SystemClock) -> Self {
        Self {
            state_dir,
            clock,
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
            events: Arc::default(),
        }
    }

    /// Queues events. Events reported as added are on disk; after an error none
    /// of them is.
    pub(super) async fn events_add(
        &self,
        loaded: &Arc<Loaded>,
        events: Vec<serde_json::Value>,
    ) -> Added {
        let (dir, now) = (self.state_dir.clone(), self.clock.now());
        let (loaded, opened) = (Arc::clone(loaded), Arc::clone(&self.events));
        self.writer
            .run(move || {
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                let answers = add(&dir, &mut opened, &loaded.config, &events, now);
                if answers.is_err() {
                    *opened = None;
                }
                let answers = answers?;
                let urgent = answers.iter().any(IngestedEvent::is_urgent);
                let results = answers.into_iter().map(result).collect();
                Ok(Added { answer: ControlResponse::EventsAdded { results }, urgent })
            })
            .await
    }

    /// Looks a rule up.
    pub(super) async fn lookup(&self, loaded: &Arc<Loaded>, lookup: RuleLookup) -> ControlResponse {
        let executable = match executable(&lookup) {
            Ok(executable) => executable,
            Err(message) => return ControlResponse::error(ControlErrorKind::BadRequest, message),
        };
        let (dir, loaded) = (self.state_dir.clone(), Arc::clone(loaded));
        self.lookups
            .run(move || {
                let config = &loaded.config;
                let static_rules = StaticRules::new(config.static_rules.iter().cloned());
                let store = Store::open_read_only_within(&dir, LOOKUP_LOCK_WAIT)?;
                let transitive = store.applied_settings()?.enable_transitive_rules;
                let transitive = transitive.or(config.enable_transitive_rules).unwrap_or(false);
                let found = store.lookup(&executable, &static_rules, transitive)?;
                Ok(ControlResponse::Rule(Box::new(Decision::new(&store, found, lookup.since)?)))
            })
            .await
    }

    /// The bundles the server waits for.
    pub(super) async fn bundle_requests(&self) -> ControlResponse {
        let dir = self.state_dir.clone();
        self.reads
            .run(move || {
                let bundles = match EventStore::open_read_only(&dir) {
                    Err(StoreError::Missing { .. }) => Vec::new(),
                    opened => opened?.open_bundle_requests()?,
                };
                Ok(ControlResponse::BundleRequests {
                    bundles: bundles.into_iter().map(Into::into).collect(),
                })
            })
            .await
    }
}

fn add(
    dir: &Path,
    opened: &mut Option<EventStore>,
    config: &Config,
    events: &[serde_json::Value],
    now: Now,
) -> Result<Vec<IngestedEvent>, StoreError> {
    let applied = match Store::open_read_only(dir) {
        Ok(store) => store.applied_settings()?,
        Err(error) if error.is_unused() => crate::model::Settings::default(),
        Err(error) => return Err(error),
    };
    let policy = IngestPolicy::new(
        &applied,
        config.enable_all_event_upload,
        config.disable_unknown_event_upload,
    );
    let store = match opened {
        Some(store) => store,
        None => opened.insert(EventStore::open(dir, now.wall)?.0),
    };
    let lines: Vec<_> = events.iter().map(|event| event.to_string().into_bytes()).collect();
    let limits = Limits { events: config.event_queue_limit, ..Limits::default() };
    ingest_lines(store, policy, limits, &lines, now)
}

fn result(answered: IngestedEvent) -> EventResult {
    match answered.answer {
        IngestOutcome::Added => EventResult::Added,
        IngestOutcome::Duplicate => EventResult::Duplicate,
        IngestOutcome::BackedOff => EventResult::BackedOff,
        IngestOutcome::Filtered => EventResult::Filtered,
        IngestOutcome::Invalid(error) => EventResult::Rejected { reason: error.to_string() },
    }
}

fn executable(lookup: &RuleLookup) -> Result<Executable, String> {
    let mut executable = Executable::default();
    for (rule_type, name, text) in [
        (RuleType::Binary, "sha256", &lookup.sha256),
        (RuleType::Cdhash, "cdhash", &lookup.cdhash),
        (RuleType::SigningId, "signing_id", &lookup.signing_id),
        (RuleType::Certificate, "cert_sha256", &lookup.cert_sha256),
        (RuleType::TeamId, "team_id", &lookup.team_id),
    ] {
        if let Some(text) = text {
            let identifier = Identifier::parse(rule_type, text)
                .map_err(|error| format!("{name} {text:?}: {error}"))?;
            executable = executable.with(identifier);
        }
    }
    if executable.is_empty() {
        return Err("give sha256, cdhash, signing_id, cert_sha256 or team_id".to_owned());
    }
    Ok(executable)
}
