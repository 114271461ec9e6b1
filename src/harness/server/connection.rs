//! Accepting connections and writing what [`State`] decides.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};

use crate::clock::{Clock as _, SystemClock};
use crate::harness::admin::AdminService;
use crate::harness::coding::REQUEST_MAX;
use crate::harness::exchange::Exchange;
use crate::harness::record::Recorder;
use crate::harness::reply::{ReceivedRequest, Reply};
use crate::harness::script::{ConnectionStep, Script, Wait};
use crate::harness::state::State;
use crate::serve::{
    self, BareStream, BodyLimits, Connection, Head, Limits, Listener, Request, Response, Service,
};

/// Called with each exchange once its response is decided.
pub(super) type OnExchange = Box<dyn Fn(&Exchange) + Send + Sync>;

/// What the server's thread and its handles share.
pub(in crate::harness) struct ServerShared {
    pub(super) state: Mutex<State>,
    pub(super) arrived: Condvar,
    pub(super) notify: Notify,
    pub(super) released: watch::Sender<u64>,
    pub(super) on_exchange: Option<OnExchange>,
    pub(super) recorder: Option<Mutex<Recorder>>,
    /// Whether the administrator has ended the run.
    pub(in crate::harness) finished: watch::Sender<bool>,
}

impl ServerShared {
    /// A panic while the lock was held leaves a usable state for the test.
    pub(in crate::harness) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases every response that is held now.
    pub(in crate::harness) fn release(&self) {
        self.released.send_modify(|times| *times += 1);
    }
}

/// The fake server has no patience of its own: a test says what takes too long.
const LIMITS: Limits = Limits {
    connections: 10_000,
    handshake: PATIENCE,
    head: PATIENCE,
    body: PATIENCE,
    idle: PATIENCE,
    respond: PATIENCE,
    stop: Duration::ZERO,
    small_body: REQUEST_MAX,
    large_bodies: 1,
};
const PATIENCE: Duration = Duration::from_hours(24);

/// Serves connections for as long as it is polled.
pub(super) async fn accept(
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<ServerShared>,
) {
    let (_stop, stopped) = watch::channel(false);
    let idle = {
        let state = shared.state();
        state.style.idle_time.or(state.misbehaviours.idle_limit())
    };
    let limits = Limits { idle: idle.unwrap_or(PATIENCE), ..LIMITS };
    if let Err(error) = serve::run(listener, tls, limits, Arc::new(Scripts(shared)), stopped).await
    {
        tracing::error!(%error, "the fake server cannot listen");
    }
}

/// Serves the administrator for as long as it is polled.
pub(super) async fn administer(listener: Listener, admin: AdminService) {
    let (_stop, stopped) = watch::channel(false);
    let served = serve::run(listener, None, Limits::default(), Arc::new(admin), stopped);
    if let Err(error) = served.await {
        tracing::error!(%error, "the fake server cannot listen for its administrator");
    }
}

/// Answers as the state decides. Complete responses are the server's affair; for steps
/// on the bare connection, that gives it up.
struct Scripts(Arc<ServerShared>);

impl Service for Scripts {
    fn admit(&self, _: &Head, _: &Connection) -> Result<BodyLimits, Response> {
        Ok(BodyLimits::as_sent(REQUEST_MAX as u64))
    }

    async fn respond(&self, request: Request, connection: Arc<Connection>) -> Response {
        let Self(shared) = self;
        let mut path = request.head.path;
        if let Some(query) = request.head.query {
            path = path + "?" + &query;
        }
        let incoming = ReceivedRequest {
            method: request.head.method.to_string(),
            path,
            headers: request.head.headers,
            body: request.body,
            connection: connection.id,
            at: SystemClock::new().now(),
        };
        let mut released = shared.released.subscribe();
        let handled = shared.state().handle(&incoming);
        if let Some(recorder) = &shared.recorder {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.record(&incoming, &handled.exchange, &handled.response);
        }
        if let Some(call) = &shared.on_exchange {
            call(&handled.exchange);
        }
        shared.arrived.notify_all();
        shared.notify.notify_waiters();
        match handled.wait {
            Wait::Nothing => {}
            Wait::For(duration) => tokio::time::sleep(duration).await,
            Wait::Release => {
                // The sender lives as long as this task's share of the server.
                let _ = released.changed().await;
            }
        }
        match handled.response {
            Script::Whole(reply) => response(reply),
            Script::Bare(steps) => {
                connection.take_over(|stream| async {
                    if let Err(error) = take(stream, steps).await {
                        tracing::debug!(%error, "the client went away during a scripted response");
                    }
                });
                std::future::pending().await
            }
        }
    }

    fn needs_user(&self) -> bool {
        false
    }
}

async fn take(mut stream: Box<dyn BareStream>, steps: Vec<ConnectionStep>) -> io::Result<()> {
    for step in steps {
        match step {
            ConnectionStep::Send(bytes) => stream.write_all(&bytes).await?,
            ConnectionStep::Drip(bytes, apart) => {
                for byte in bytes {
                    stream.write_u8(byte).await?;
                    tokio::time::sleep(apart).await;
                }
            }
            ConnectionStep::Repeat(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            ConnectionStep::Silence => while stream.read(&mut [0; 1024]).await? > 0 {},
        }
    }
    stream.shutdown().await
}

fn response(reply: Reply) -> Response {
    let mut response = Response::new(reply.status, reply.body);
    for (name, value) in &reply.headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => response = response.with(name, value),
            // A header from the command line may hold what HTTP forbids.
            _ => return Response::text(500, "the fake server was given a header HTTP forbids"),
        }
    }
    response
}
