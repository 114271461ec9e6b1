//! The relay's HTTP: which requests are answered, and how (RELAY-2, RELAY-12).

mod access;
mod stages;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::header;
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::bounds::{Bounds, Granted};
use super::core::{Checkpoint, Core, RelayOptions};
use super::page_prefetch::PagePrefetch;
use super::refusals::{self, RefusedUsers};
use crate::clock::{Clock as _, SystemClock};
use crate::config::RelayConfig;
use crate::control::relay::RelayStatus;
use crate::host::{self, SystemHost};
use crate::model::{MachineId, RelayManner, Stage, Transfer, text};
use crate::serve::{BodyLimits, Connection, Head, Peer, Request, Response, Service};
use crate::store::{EventStore, Limits};

pub use access::Access;

/// The most bytes of an upload, as sent and decoded (RELAY-12).
const UPLOAD_BYTES: u64 = 64 << 20;
/// The most bytes of any other request (RELAY-12).
const REQUEST_BYTES: u64 = 1 << 20;
/// Events a minute from clients of whom nothing is checked (RELAY-12).
const EVENTS_PER_MINUTE: u64 = 6_000;
/// The machine id of `santactl doctor`'s test request.
const DOCTOR_ID: &str = "santactl-doctor-test";
/// How much of another machine id is shown, in characters.
const MAX_ID_CHARS: usize = 128;

/// What the relay tells the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its status has changed.
    Status,
    /// A denial was queued (EV-10).
    Denial,
    /// There is nothing to hand out: an upstream sync should begin.
    WantsUpstream,
    /// The authorizer has come back after a long time (RELAY-10).
    Returned,
    /// The authorizer should sync again at once.
    WantsNudge,
}

/// Events taken in the current minute.
#[derive(Clone, Copy, Debug, Default)]
struct EventRate {
    since: Duration,
    events: u64,
}

impl EventRate {
    fn is_over(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= Duration::from_mins(1) {
            *self = Self { since: now, events: 0 };
        }
        self.events >= EVENTS_PER_MINUTE
    }
}

/// The relay, as its server sees it.
#[derive(Clone)]
pub struct RelayService(Arc<Shared>);

struct Shared {
    core: Mutex<Core>,
    queue: Mutex<Option<EventStore>>,
    rate: Mutex<EventRate>,
    refused: Mutex<RefusedUsers>,
    bounds: Bounds,
    /// Pages read ahead: for the authorizer, and for anybody else.
    prefetch: [Arc<PagePrefetch>; 2],
    access: Access,
    manner: RelayManner,
    machine_id: MachineId,
    state_dir: PathBuf,
    /// The only `Host` that requests may name.
    address: String,
    limits: Limits,
    clock: SystemClock,
    checkpoint: Checkpoint,
    news: mpsc::UnboundedSender<News>,
}

impl std::fmt::Debug for RelayService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayService").field("address", &self.0.address).finish_non_exhaustive()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept is written whole, so a panic leaves nothing half done.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that passed the checks of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Admitted {
    stage: Stage,
    transfer: Transfer,
    authenticated: bool,
}

impl RelayService {
    /// A relay that listens on `address`.
    #[must_use]
    pub fn new(
        options: RelayOptions,
        address: SocketAddr,
        clock: SystemClock,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let access = Access::new(&options.config);
        let limits = Limits { events: options.event_limit, ..Limits::default() };
        let (machine_id, state_dir) = (options.machine_id.clone(), options.state_dir.clone());
        let checkpoint = Arc::clone(&options.checkpoint);
        let manner = options.config.manner;
        let mut core = Core::new(options);
        core.status_mut().checks_peers = access.checks_peers();
        Self(Arc::new(Shared {
            core: Mutex::new(core),
            queue: Mutex::new(None),
            rate: Mutex::default(),
            refused: Mutex::default(),
            bounds: Bounds::new(),
            prefetch: Default::default(),
            access,
            manner,
            machine_id,
            state_dir,
            address: address.to_string(),
            limits,
            clock,
            checkpoint,
            news,
        }))
    }

    /// How the relay stands.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        lock(&self.0.core).status().clone()
    }

    /// Does something with the relay's state. May block.
    pub fn with_core<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        act(&mut lock(&self.0.core))
    }

    fn tell(&self, news: News) {
        // The daemon may be about to end.
        let _ = self.0.news.send(news);
    }

    /// Counts a refusal and answers it. The first of each kind is news.
    fn refuse(&self, status: u16, kind: &'static str, message: &str) -> Response {
        let is_first = {
            let mut core = lock(&self.0.core);
            let count = core.status_mut().refused.entry(kind.to_owned()).or_default();
            *count += 1;
            *count == 1
        };
        if is_first {
            tracing::warn!(kind, message, "the relay refused a request");
            self.tell(News::Status);
        }
        Response::text(status, message)
    }

    /// Refuses a client that is not the authorizer, and notes whose it is. What takes a
    /// while to find out is found out at most once a minute for each user.
    fn refuse_peer(&self, peer: &Peer) -> Response {
        let Shared { access, clock, .. } = &*self.0;
        let now = clock.now();
        let is_due = lock(&self.0.refused).note(peer.user, now.elapsed);
        let process = is_due.then(|| peer.process()).flatten();
        {
            let mut core = lock(&self.0.core);
            let status = core.status_mut();
            *status.refused.entry("peer".to_owned()).or_default() += 1;
            refusals::add(&mut status.refused_peers, peer.user, process, now.wall);
        }
        if is_due {
            let (service, user) = (self.clone(), peer.user);
            // A directory service may take its time to name a user.
            spawn_blocking(move || service.name_refused(user));
        }
        Response::text(401, &access.demand(peer.user))
    }

    /// Completes what is known of a user that was refused, and logs it.
    fn name_refused(&self, user: Option<u32>) {
        let name = user.and_then(|user| host::user_name(user, &SystemHost));
        let refused = {
            let mut core = lock(&self.0.core);
            let peers = &mut core.status_mut().refused_peers;
            let Some(refused) = peers.iter_mut().find(|peer| peer.user_id == user) else { return };
            refused.user = name;
            refused.clone()
        };
        let fix = self.0.access.remedy();
        tracing::warn!(
            user_id = refused.user_id,
            user = refused.user,
            process = refused.process,
            program = refused.program,
            fix,
            "the relay refused a request: it is not the authorizer's"
        );
        self.tell(News::Status);
    }

    fn check(&self, head: &Head, peer: &Peer) -> Result<Admitted, Response> {
        let Shared { access, machine_id, address, .. } = &*self.0;
        if head.headers.contains_key(header::ORIGIN) {
            return Err(self.refuse(400, "origin", "web pages are not served"));
        }
        // A second host, or one in the target, might be the one that a program between
        // the client and here has looked at.
        if head.authority.is_some()
            || head.only_header(header::HOST.as_str()) != Some(address.as_str())
        {
            let message = format!(
                "this is the relay of santa-sync, which requests must call {address}, in their Host \
                 header too: write that address into the client's URL, no name such as localhost"
            );
            return Err(self.refuse(400, "host", &message));
        }
        let Some((stage, id)) = route(head) else {
            return Err(self.refuse(404, "path", "there is nothing here"));
        };
        if !access.has_secret(head) {
            let message = format!("the header {} is missing or wrong", RelayConfig::SECRET_HEADER);
            return Err(self.refuse(401, "secret", &message));
        }
        let is_authorizer = access.is_authorizer(peer);
        if access.checks_peers() && !is_authorizer {
            return Err(self.refuse_peer(peer));
        }
        if id == DOCTOR_ID.as_bytes() {
            return Err(self.refuse(400, "test", "this is a test request"));
        }
        if id != machine_id.as_str().as_bytes() {
            let other = text::escaped_start(&String::from_utf8_lossy(&id), MAX_ID_CHARS);
            let message =
                format!("this relay serves the machine id {}, not {other}", machine_id.as_str());
            {
                let mut core = lock(&self.0.core);
                let status = core.status_mut();
                status.other_machine_id = Some(other);
                status.other_machine_id_at = Some(self.0.clock.now().wall);
            }
            return Err(self.refuse(404, "machine_id", &message));
        }
        let Some(transfer) = transfer(head.header(header::CONTENT_TYPE.as_str())) else {
            let message = "the Content-Type must be application/json or application/x-protobuf";
            return Err(self.refuse(415, "content_type", message));
        };
        Ok(Admitted { stage, transfer, authenticated: is_authorizer })
    }
}

impl Service for RelayService {
    fn admit(&self, head: &Head, connection: &Connection) -> Result<BodyLimits, Response> {
        let admitted = self.check(head, &connection.peer)?;
        Ok(BodyLimits::both(match admitted.stage {
            Stage::EventUpload => UPLOAD_BYTES,
            Stage::Preflight | Stage::RuleDownload | Stage::Postflight => REQUEST_BYTES,
        }))
    }

    async fn respond(&self, request: Request, connection: Arc<Connection>) -> Response {
        let admitted = match self.check(&request.head, &connection.peer) {
            Ok(admitted) => admitted,
            Err(refusal) => return refusal,
        };
        let granted = self.0.bounds.grant(admitted.stage, admitted.authenticated).await;
        let (service, id) = (self.clone(), connection.id);
        let answered = spawn_blocking(move || {
            let Granted { page, work } = granted;
            let answer = service.answer(admitted, request, id, page);
            drop(work);
            answer
        })
        .await;
        if admitted.authenticated {
            connection.trust();
        }
        answered.unwrap_or_else(|error| {
            tracing::error!(%error, "a request to the relay failed");
            Response::text(500, "internal error")
        })
    }

    fn knows(&self, peer: &Peer) -> bool {
        self.0.access.is_authorizer(peer)
    }

    fn needs_user(&self) -> bool {
        self.0.access.knows_users()
    }
}

/// The stage and the machine id of a request.
fn route(head: &Head) -> Option<(Stage, Vec<u8>)> {
    let path = head.path.strip_prefix('/')?;
    let (stage, id) = path.split_once('/')?;
    let stage = Stage::ALL.iter().copied().find(|known| known.segment() == stage)?;
    let is_one = head.method == Method::POST && !id.is_empty() && !id.contains('/');
    (is_one && head.query.is_none()).then(|| (stage, percent_decode_str(id).collect()))
}

/// The form that a `Content-Type` names.
fn transfer(content_type: &str) -> Option<Transfer> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    [Transfer::Json, Transfer::Protobuf]
        .into_iter()
        .find(|transfer| transfer.content_type().eq_ignore_ascii_case(essence))
}
