//! The relay without its daemon and without a network: the same state on disk, the
//! same decisions, a clock that the test owns, and death at any of its effects.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use santa_sync::config::RelayConfig;
use santa_sync::ingest::ingest_upload;
use santa_sync::model::{MachineId, Now, RelayManner, Stage, Timestamp, Transfer};
use santa_sync::protocol::body::encode;
use santa_sync::protocol::{requests, wire};
use santa_sync::relay::core::{Core, CoreError, RelayOptions};
use santa_sync::relay::v2;
use santa_sync::store::{EventStore, Limits};
use santa_sync::sync::progress::When;

use super::link::{Direct, Post};

/// A relay over a state directory.
pub(crate) struct Relay {
    state_dir: PathBuf,
    machine_id: String,
    keeps_events: bool,
    guard: Option<u8>,
    alive: Mutex<Option<Alive>>,
    /// Effects until it dies; negative: it does not.
    fuse: Arc<AtomicI64>,
    /// Since the clock began.
    elapsed: Mutex<Duration>,
}

struct Alive {
    core: Core,
    queue: EventStore,
}

impl Relay {
    /// A relay that runs.
    pub(crate) fn start(
        state_dir: PathBuf,
        machine_id: &str,
        keeps_events: bool,
        guard: Option<u8>,
    ) -> Self {
        let relay = Self {
            state_dir,
            machine_id: machine_id.to_owned(),
            keeps_events,
            guard,
            alive: Mutex::new(None),
            fuse: Arc::new(AtomicI64::new(-1)),
            elapsed: Mutex::new(Duration::from_hours(1)),
        };
        relay.restart();
        relay
    }

    fn alive(&self) -> MutexGuard<'_, Option<Alive>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, if it runs, and starts it anew.
    pub(crate) fn restart(&self) {
        self.kill();
        self.fuse.store(-1, Ordering::Relaxed);
        let fuse = Arc::clone(&self.fuse);
        let checkpoint = move |_: When, _: &'static str| {
            if fuse.load(Ordering::Relaxed) >= 0 && fuse.fetch_sub(1, Ordering::Relaxed) == 0 {
                // Like a panic, without a message.
                resume_unwind(Box::new("killed"));
            }
        };
        let options = RelayOptions {
            state_dir: self.state_dir.clone(),
            config: RelayConfig {
                listen: ([127, 0, 0, 1], 1).into(),
                tls: false,
                client_certificate: false,
                directory: self.state_dir.clone(),
                machine_id: None,
                interval: None,
                nudge: None,
                stale: None,
                peer_users: Vec::new(),
                secret: None,
                manner: RelayManner::Santa,
            },
            machine_id: MachineId::new(&self.machine_id).expect("a machine id"),
            // With a nudge, so that flushed events count for no longer than a minute.
            nudge: vec!["/bin/true".to_owned()],
            guard: self.guard,
            event_limit: 100_000,
            keeps_events: self.keeps_events,
            checkpoint: Arc::new(checkpoint),
        };
        let (queue, _) = EventStore::open(&self.state_dir, self.now().wall).expect("a queue");
        *self.alive() = Some(Alive { core: Core::new(options), queue });
    }

    /// Ends it as SIGKILL does: what is on disk stays.
    pub(crate) fn kill(&self) {
        *self.alive() = None;
    }

    /// Has it die at the effect of that number from now on, from 0.
    pub(crate) fn die_at(&self, effect: u32) {
        self.fuse.store(effect.into(), Ordering::Relaxed);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive().is_some()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        *self.elapsed.lock().expect("unpoisoned") += time;
    }

    /// The time since the clock began.
    pub(crate) fn elapsed(&self) -> Duration {
        *self.elapsed.lock().expect("unpoisoned")
    }

    fn now(&self) -> Now {
        let elapsed = self.elapsed();
        let wall = Timestamp::from_secs(1_795_000_000 + elapsed.as_secs().cast_signed());
        Now { wall, elapsed }
    }

    /// Whether the authorizer lacks anything.
    pub(crate) fn lacks(&self) -> bool {
        let now = self.now();
        let mut alive = self.alive();
        alive.as_mut().expect("alive").core.compare(now).expect("compared")
    }

    /// Whether it calls the authorizer in step.
    pub(crate) fn is_in_step(&self) -> bool {
        self.alive().as_ref().expect("alive").core.status().in_step
    }

    /// Whether what the authorizer acknowledged is not the set as it was sent.
    pub(crate) fn sees_drift(&self) -> bool {
        let alive = self.alive();
        let acknowledged = alive.as_ref().expect("alive").core.status().acknowledged.as_ref();
        acknowledged.is_some_and(|acknowledged| acknowledged.drift)
    }

    /// Why the last delivery was what it was.
    pub(crate) fn why(&self) -> String {
        let alive = self.alive();
        let delivery = alive.as_ref().expect("alive").core.status().last_delivery.clone();
        delivery.map(|delivery| delivery.why).unwrap_or_default()
    }
}

impl Direct for Relay {
    fn answer(&self, connection: u64, post: &Post<'_>) -> Option<(u16, Vec<u8>)> {
        let now = self.now();
        let mut alive = self.alive();
        let running = alive.as_mut()?;
        let fuse = Arc::clone(&self.fuse);
        let answered =
            catch_unwind(AssertUnwindSafe(|| running.answer(connection, post, now, &fuse)));
        match answered {
            Ok(answer) => Some(answer),
            Err(cause) if cause.downcast_ref() == Some(&"killed") => {
                *alive = None;
                None
            }
            Err(cause) => {
                drop(alive);
                resume_unwind(cause)
            }
        }
    }
}

impl Alive {
    fn answer(
        &mut self,
        connection: u64,
        post: &Post<'_>,
        now: Now,
        fuse: &AtomicI64,
    ) -> (u16, Vec<u8>) {
        let forms = [Transfer::Json, Transfer::Protobuf];
        let form = forms.into_iter().find(|form| form.content_type() == post.content_type);
        let form = form.expect("a form");
        let stage = post.path.split('/').next().expect("a stage");
        let stage = Stage::ALL.iter().find(|known| known.segment() == stage);
        let Some(stage) = stage else { return (404, Vec::new()) };
        let done = match stage {
            Stage::Preflight => {
                let request = requests::read::<wire::PreflightRequest>(form, post.body);
                let request = request.expect("a preflight").message;
                let has_v2 = v2::has_left_state(form, post.body);
                let answer = self.core.preflight(connection, true, &request, has_v2, now);
                answer.map(|answer| encode(form, &answer).expect("encoded"))
            }
            Stage::EventUpload => {
                let die = || {
                    let left = fuse.load(Ordering::Relaxed);
                    if left >= 0 && fuse.fetch_sub(1, Ordering::Relaxed) == 0 {
                        resume_unwind(Box::new("killed"));
                    }
                };
                die();
                let taken = ingest_upload(&mut self.queue, form, post.body, now, Limits::default());
                die();
                let Ok(taken) = taken else {
                    self.core.upload_refused();
                    return (503, Vec::new());
                };
                let answer = wire::EventUploadResponse {
                    event_upload_bundle_binaries: taken.relayed.wanted,
                };
                Ok(encode(form, &answer).expect("encoded"))
            }
            Stage::RuleDownload => self.page(connection, form, post.body, now),
            Stage::Postflight => {
                let request = requests::read::<wire::PostflightRequest>(form, post.body);
                let request = request.expect("a postflight").message;
                let done = self.core.postflight(connection, &request, now);
                let answer = wire::PostflightResponse::default();
                done.map(|_| encode(form, &answer).expect("encoded"))
            }
        };
        match done {
            Ok(body) => (200, body),
            Err(CoreError::NotReady(_) | CoreError::Token(_)) => (503, Vec::new()),
            Err(CoreError::Gone) => (409, Vec::new()),
            Err(error @ CoreError::Store(_)) => panic!("the relay cannot answer: {error}"),
        }
    }

    fn page(
        &mut self,
        connection: u64,
        form: Transfer,
        body: &[u8],
        now: Now,
    ) -> Result<Vec<u8>, CoreError> {
        let request = requests::read::<wire::RuleDownloadRequest>(form, body);
        let request = request.expect("a request for rules").message;
        let Some(located) = self.core.locate(connection, &request.cursor, now)? else {
            let nothing = wire::RuleDownloadResponse::default();
            return Ok(encode(form, &nothing).expect("encoded"));
        };
        let page = located.read(form).expect("read");
        self.core.served(&located, &page);
        Ok(page.body.to_vec())
    }
}
