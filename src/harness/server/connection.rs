//! Accepting connections and writing what [`State`] decides.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};

use crate::harness::coding::REQUEST_MAX;
use crate::harness::exchange::Exchange;
use crate::harness::reply::{ReceivedRequest, Refusal, Reply};
use crate::harness::script::{ConnectionStep, Script, Wait};
use crate::harness::state::State;
use crate::harness::style::Style;

/// Called with each exchange once its response is decided.
pub(super) type OnExchange = Box<dyn Fn(&Exchange) + Send + Sync>;

/// What the server's thread and its handles share.
pub(super) struct ServerShared {
    pub(super) state: Mutex<State>,
    pub(super) arrived: Condvar,
    pub(super) notify: Notify,
    pub(super) released: watch::Sender<u64>,
    pub(super) on_exchange: Option<OnExchange>,
}

impl ServerShared {
    /// A panic while the lock was held leaves a usable state for the test.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves connections for as long as it is polled.
pub(super) async fn accept(listener: TcpListener, shared: Arc<ServerShared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the fake server cannot listen");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                // Out of file descriptors, most likely: others will close some.
                tracing::warn!(%error, "the fake server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection. Complete responses go through hyper; for steps on the
/// bare connection, hyper gives it up.
async fn connection(stream: TcpStream, shared: Arc<ServerShared>) {
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let (bare, mut steps) = mpsc::unbounded_channel();
    let service = service_fn(move |request| exchange(request, Arc::clone(&shared), bare.clone()));
    let mut served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let steps = tokio::select! {
        // How a connection ends is the client's affair.
        _ = &mut served => return,
        Some(steps) = steps.recv() => steps,
    };
    let stream = served.into_parts().io.into_inner();
    if let Err(error) = take(stream, steps).await {
        tracing::debug!(%error, "the client went away during a scripted response");
    }
}

async fn take(mut stream: TcpStream, steps: Vec<ConnectionStep>) -> io::Result<()> {
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

async fn exchange(
    request: Request<Body>,
    shared: Arc<ServerShared>,
    bare: mpsc::UnboundedSender<Vec<ConnectionStep>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, REQUEST_MAX).collect().await else {
        let refusal = Refusal::new(413, "the body broke off or has more than 64 MiB");
        return Ok(response(Reply::refusal(&Style::default(), &refusal)));
    };
    let incoming = ReceivedRequest {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.to_bytes(),
    };
    let mut released = shared.released.subscribe();
    let handled = shared.state().handle(&incoming);
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
        Script::Whole(reply) => Ok(response(reply)),
        Script::Bare(steps) => {
            // The connection takes over and drops this service.
            let _ = bare.send(steps);
            std::future::pending().await
        }
    }
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(reply.body)).unwrap_or_else(|error| {
        // A header from the command line may hold what HTTP forbids.
        let mut failed = Response::new(Full::new(Bytes::from(error.to_string())));
        *failed.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}
