//! Requests that look into the stores. They run in threads of their own, a few
//! at a time: a slow disk makes clients wait, not the daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::message::{Answer, ErrorKind, EventResult, Lookup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Loaded};
use crate::model::{Executable, Identifier, Now, RuleType, StaticRules};
use crate::protocol::events::IngestPolicy;
use crate::store::{EventStore, Limits, Store, StoreError};
use crate::sync::ingest::{Answer as Taken, Answered, take_in};

/// How many threads may look into the stores at once.
const AT_ONCE: usize = 4;

/// The stores, for questions.
pub(super) struct Queries {
    state_dir: PathBuf,
    clock: SystemClock,
    places: Semaphore,
    /// Kept open between requests: it remembers what it took in lately.
    events: Arc<Mutex<Option<EventStore>>>,
}

impl Queries {
    pub(super) fn new(state_dir: PathBuf, clock: SystemClock) -> Self {
        let places = Semaphore::new(AT_ONCE);
        Self { state_dir, clock, places, events: Arc::default() }
    }

    /// Queues events. What is answered as added is on disk.
    pub(super) async fn events_add(
        &self,
        loaded: &Arc<Loaded>,
        events: Vec<serde_json::Value>,
    ) -> Answer {
        let (dir, now) = (self.state_dir.clone(), self.clock.now());
        let (loaded, opened) = (Arc::clone(loaded), Arc::clone(&self.events));
        self.run(move || {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            let results = add(&dir, &mut opened, &loaded.config, &events, now);
            if results.is_err() {
                *opened = None;
            }
            Ok(Answer::EventsAdded { results: results? })
        })
        .await
    }

    /// Looks a rule up.
    pub(super) async fn lookup(&self, loaded: &Arc<Loaded>, lookup: Lookup) -> Answer {
        let executable = match executable(&lookup) {
            Ok(executable) => executable,
            Err(message) => return Answer::error(ErrorKind::BadRequest, message),
        };
        let (dir, loaded) = (self.state_dir.clone(), Arc::clone(loaded));
        self.run(move || {
            let config = &loaded.config;
            let static_rules = StaticRules::new(config.static_rules.iter().cloned());
            let store = Store::open_read_only(&dir)?;
            let transitive = store.applied_settings()?.enable_transitive_rules;
            let transitive = transitive.or(config.enable_transitive_rules).unwrap_or(false);
            let found = store.lookup(&executable, &static_rules, transitive)?;
            Ok(Answer::Rule(Box::new(found.into())))
        })
        .await
    }

    /// The bundles the server waits for.
    pub(super) async fn bundle_requests(&self) -> Answer {
        let dir = self.state_dir.clone();
        self.run(move || {
            let bundles = match EventStore::open_read_only(&dir) {
                Err(StoreError::Missing { .. }) => Vec::new(),
                opened => opened?.open_bundle_requests()?,
            };
            Ok(Answer::BundleRequests { bundles: bundles.into_iter().map(Into::into).collect() })
        })
        .await
    }

    async fn run(
        &self,
        work: impl FnOnce() -> Result<Answer, StoreError> + Send + 'static,
    ) -> Answer {
        let Ok(_place) = self.places.acquire().await else {
            return Answer::error(ErrorKind::Internal, "the daemon ends");
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::error(ErrorKind::Store, error.to_string()),
            Err(error) => {
                Answer::error(ErrorKind::Internal, format!("the request failed: {error}"))
            }
        }
    }
}

fn add(
    dir: &Path,
    opened: &mut Option<EventStore>,
    config: &Config,
    events: &[serde_json::Value],
    now: Now,
) -> Result<Vec<EventResult>, StoreError> {
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
    let limits = Limits { events: config.event_queue_limit };
    let answers = take_in(store, policy, limits, &lines, now)?;
    let result = |answered: Answered| match answered.answer {
        Taken::Added => EventResult::Added,
        Taken::Duplicate => EventResult::Duplicate,
        Taken::BackedOff => EventResult::BackedOff,
        Taken::Filtered => EventResult::Filtered,
        Taken::Invalid(error) => EventResult::Rejected { reason: error.to_string() },
    };
    Ok(answers.into_iter().map(result).collect())
}

fn executable(lookup: &Lookup) -> Result<Executable, String> {
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
