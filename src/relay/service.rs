//! The relay's HTTP: which requests are answered, and how (RELAY-2, RELAY-12).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{self, HeaderValue};
use percent_encoding::percent_decode_str;
use rustix::process::geteuid;
use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;

use super::bounds::{Bounds, Granted};
use super::core::{Checkpoint, Core, CoreError, RelayOptions};
use super::page_prefetch::PagePrefetch;
use super::refusals::{self, RefusedUsers};
use super::v2;
use crate::clock::{Clock as _, SystemClock};
use crate::config::RelayConfig;
use crate::control::relay::RelayStatus;
use crate::failure::Remedy as _;
use crate::host::{self, SystemHost};
use crate::ingest::{self, IngestedUpload, UploadError};
use crate::mapped_buffer::MappedBuffer;
use crate::model::{MachineId, Now, RelayManner, Secret, Stage, Transfer, text};
use crate::protocol::requests::{self, RequestError};
use crate::protocol::rules::PageWriter;
use crate::protocol::{body, preflight, wire};
use crate::serve::{BodyLimits, Connection, Head, Peer, Request, Response, Service};
use crate::store::{EventStore, Limits, Notice, TakeError};
use crate::sync::progress::When;

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

/// Who may change anything (RELAY-12).
#[derive(Clone, Debug)]
pub struct Access {
    secret: Option<Secret>,
    /// Users whose connections count as the authorizer's; `None` where the
    /// system does not tell.
    users: Option<Vec<u32>>,
    certificate: bool,
}

impl Access {
    /// What the configuration demands. Users that do not exist are left out.
    #[must_use]
    pub fn new(config: &RelayConfig) -> Self {
        let users = cfg!(target_os = "linux").then(|| {
            if config.peer_users.is_empty() {
                return vec![0, geteuid().as_raw()];
            }
            let of = |name: &String| {
                let user = host::user_id(name, &SystemHost);
                if user.is_none() {
                    tracing::warn!(name, "RelayPeerUsers names a user that does not exist");
                }
                user
            };
            config.peer_users.iter().filter_map(of).collect()
        });
        let (secret, certificate) = (config.secret.clone(), config.client_certificate);
        Self { secret, users, certificate }
    }

    /// Whether clients are told apart at all.
    #[must_use]
    pub const fn checks_peers(&self) -> bool {
        self.certificate || self.users.is_some()
    }

    /// Whether a connection is the authorizer's.
    fn is_authorizer(&self, peer: &Peer) -> bool {
        let is_user = || {
            let users = self.users.as_deref().unwrap_or_default();
            peer.user.is_some_and(|user| users.contains(&user))
        };
        peer.certificate || is_user()
    }

    /// What a refused client of a user is told.
    fn demand(&self, user: Option<u32>) -> String {
        match (self.certificate, user) {
            (true, _) => "only holders of the relay's client certificate are served".to_owned(),
            (false, Some(user)) => format!(
                "only the authorizer of this host is served, and RelayPeerUsers does not name user \
                 {user}, whose connection this is"
            ),
            (false, None) => {
                "only the authorizer of this host is served, and whose connection this \
                              is cannot be found out"
                    .to_owned()
            }
        }
    }

    /// What to do about a client that was refused.
    const fn remedy(&self) -> &'static str {
        if self.certificate { refusals::CERTIFICATE_FIX } else { refusals::USER_FIX }
    }

    /// Whether a request carries the secret. Takes the same time whatever it
    /// carries.
    fn has_secret(&self, head: &Head) -> bool {
        let Some(secret) = &self.secret else { return true };
        let given = head.headers.get(RelayConfig::SECRET_HEADER);
        let given = given.map_or(&[][..], HeaderValue::as_bytes);
        given.ct_eq(secret.expose().as_bytes()).into()
    }
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

    /// Answers a request in a thread that may block.
    fn answer(
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
        let next = page.next.map(|next| located.at(next));
        let goes_on = next.is_some();
        if let Some(next) = next {
            prefetch.begin(next, transfer);
        }
        let prefetch = goes_on.then(|| Arc::clone(prefetch));
        Ok(HeldPage { body: page.body, _permit: permit, prefetch })
    }

    /// Takes events: they are on disk before the answer (RELAY-8).
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
            Refusal::Core(error @ CoreError::State(_)) => {
                tracing::warn!(%error, "the relay cannot go on");
                self.refuse(503, "state", "the state of the relay cannot be written")
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
        self.0.access.users.is_some()
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
