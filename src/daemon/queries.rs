//! Requests that look into the stores. They run in threads of their own, a few
//! at a time: a slow disk makes clients wait, not the daemon.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::message::{Answer, Bundle, ErrorKind, EventResult, Lookup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Loaded};
use crate::model::{Executable, Identifier, Now, RuleType, StaticRules};
use crate::protocol::events::{IngestPolicy, read_line};
use crate::protocol::stored;
use crate::store::{EventStore, Limits, NewEvent, Queued, Store, StoreError};

/// How many threads may look into the stores at once.
const AT_ONCE: usize = 4;

/// The stores, for questions.
pub(super) struct Queries {
    state_dir: PathBuf,
    clock: SystemClock,
    places: Semaphore,
    /// Kept open between requests: it remembers what it took in lately.
    events: Arc<Mutex<Option<Opened>>>,
}

/// The event queue, and which file it is.
struct Opened {
    store: EventStore,
    inode: u64,
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
            Ok(Answer::Rule {
                matched: found.is_some(),
                decision: found.as_ref().map(|found| found.rule.wording()),
                why: found.as_ref().map(ToString::to_string),
            })
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
            let bundles = bundles.into_iter().map(|bundle| Bundle {
                hash: bundle.hash,
                since: bundle.since,
                executables: bundle.executables,
                delivered: bundle.delivered,
            });
            Ok(Answer::BundleRequests { bundles: bundles.collect() })
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
    opened: &mut Option<Opened>,
    config: &Config,
    events: &[serde_json::Value],
    now: Now,
) -> Result<Vec<EventResult>, StoreError> {
    let applied = match Store::open_read_only(dir) {
        Ok(store) => store.applied_settings()?,
        Err(StoreError::Missing { .. }) => crate::model::Settings::default(),
        Err(error) => return Err(error),
    };
    let policy = IngestPolicy::new(
        &applied,
        config.enable_all_event_upload,
        config.disable_unknown_event_upload,
    );
    let mut results = Vec::with_capacity(events.len());
    let mut admitted = Vec::new();
    let mut places = Vec::new();
    for event in events {
        results.push(match read_line(event.to_string().as_bytes()) {
            Err(error) => EventResult::Rejected { reason: error.to_string() },
            Ok(incoming) if !policy.admits(&incoming.event, incoming.audited) => {
                EventResult::Filtered
            }
            Ok(incoming) => {
                let data = stored::encode(&incoming.event);
                admitted.push(NewEvent { summary: incoming.summary, data });
                places.push(results.len());
                EventResult::Added
            }
        });
    }
    let store = queue(dir, opened, now)?;
    let queued = store.queue_events(&admitted, now, Limits { events: config.event_queue_limit })?;
    for (place, queued) in places.into_iter().zip(queued) {
        if let Some(result) = results.get_mut(place) {
            *result = match queued {
                Queued::Added => EventResult::Added,
                Queued::Duplicate => EventResult::Duplicate,
                Queued::BackedOff => EventResult::BackedOff,
            };
        }
    }
    Ok(results)
}

/// The queue, opened anew if its file is another one: a sync may have set a
/// corrupt one aside.
fn queue<'a>(
    dir: &Path,
    opened: &'a mut Option<Opened>,
    now: Now,
) -> Result<&'a mut EventStore, StoreError> {
    let inode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.ino());
    let same = opened.take().filter(|opened| opened.inode == inode(opened.store.path()));
    let current = if let Some(opened) = same {
        opened
    } else {
        let (store, _) = EventStore::open(dir, now.wall)?;
        Opened { inode: inode(store.path()), store }
    };
    Ok(&mut opened.insert(current).store)
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
