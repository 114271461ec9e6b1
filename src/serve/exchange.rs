//! One connection: its exchanges in turn, each part within its time.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::TRANSFER_ENCODING;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tracing::{debug, error};

use super::body::{BodyError, BodyReader};
use super::budget::Budget;
use super::phase::{AnswerBody, Phase, Phases, Watched};
use super::{Coding, Connection, Head, Limits, Request, Response, Service};

/// The longest head, and what hyper holds of a request at a time.
const HEAD_BYTES: usize = 64 * 1024;
/// Headers of a request.
const HEAD_FIELDS: usize = 100;
/// How long a client that is still sending may take to notice an answer that came
/// before its end. Closing at once would reset the connection, and the client might
/// lose the answer.
const LINGER: Duration = Duration::from_secs(1);

/// What every connection of a server shares.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) service: Arc<S>,
    pub(super) limits: Limits,
    pub(super) budget: Budget,
}

/// How a connection ended.
enum End {
    /// By HTTP.
    Finished,
    /// A part took too long.
    TimedOut(Phase),
    /// The server stops, and no answer has been begun.
    Stopped,
    /// Something else takes the stream.
    #[cfg(feature = "harness")]
    TakenOver(super::connection::TakeOver),
}

/// Serves one connection until it ends.
pub(super) async fn serve<S, IO>(
    stream: IO,
    connection: Arc<Connection>,
    shared: Arc<Shared<S>>,
    stop: watch::Receiver<bool>,
) where
    S: Service,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let phases = Phases::new();
    let limits = shared.limits;
    let service = service_fn({
        let (phases, connection) = (Arc::clone(&phases), Arc::clone(&connection));
        move |request| {
            let exchange = exchange(
                request,
                Arc::clone(&shared),
                Arc::clone(&connection),
                Arc::clone(&phases),
            );
            // hyper wants to move it.
            Box::pin(exchange)
        }
    });
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&phases)));
    let mut http = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(HEAD_FIELDS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, service);

    let end = until_end(&mut http, &connection, &phases, &limits, stop).await;
    let mut stream = http.into_parts().io.into_inner().into_inner();
    match end {
        End::Finished => {
            let drained = async {
                let mut unread = [0; 4096];
                while matches!(stream.read(&mut unread).await, Ok(1..)) {}
            };
            let _ = timeout(LINGER, drained).await;
        }
        End::TimedOut(phase) => debug!(connection = connection.id, ?phase, "a client is too slow"),
        End::Stopped => {}
        #[cfg(feature = "harness")]
        End::TakenOver(act) => act(Box::new(stream)).await,
    }
}

/// Runs a connection until it ends. Everything happens while `http` is polled, so
/// its phase is looked at afterwards.
async fn until_end<C>(
    http: &mut C,
    connection: &Connection,
    phases: &Phases,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> End
where
    C: Http,
{
    // A server that is gone stops as well.
    let mut stopped = pin!(async move { stop.wait_for(|is_stopped| *is_stopped).await.is_ok() });
    let mut is_stopping = false;
    let mut last: Option<u64> = None;
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            if !phases.now().is_answer() {
                return Poll::Ready(End::Stopped);
            }
            http.finish();
        }
        if let Poll::Ready(result) = http.poll(cx) {
            if let Err(error) = result {
                debug!(connection = connection.id, %error, "a connection broke");
            }
            return Poll::Ready(End::Finished);
        }
        #[cfg(feature = "harness")]
        if let Some(act) = connection.taken_over() {
            return Poll::Ready(End::TakenOver(act));
        }
        let (number, limit) = phases.limit(limits);
        if last != Some(number) {
            last = Some(number);
            timer = limit.map(|limit| Box::pin(sleep(limit)));
        }
        match &mut timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| End::TimedOut(phases.now())),
            None => Poll::Pending,
        }
    })
    .await
}

/// A connection of hyper's, without its type parameters.
trait Http {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<hyper::Result<()>>;
    fn finish(&mut self);
}

impl<I, S> Http for http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = AnswerBody> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<hyper::Result<()>> {
        Future::poll(Pin::new(self), cx)
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

/// One exchange.
async fn exchange<S: Service>(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared<S>>,
    connection: Arc<Connection>,
    phases: Arc<Phases>,
) -> Result<hyper::Response<AnswerBody>, Infallible> {
    // A client may send the next request before it has taken the last answer.
    phases.until_written().await;
    phases.enter(Phase::Answering);
    let response = match caught(answer(request, &shared, &connection, &phases)).await {
        Some(response) => response,
        None => Response::text(500, "internal error").closing(),
    };
    phases.enter(Phase::Writing);
    let (parts, body) = response.into_parts();
    Ok(hyper::Response::from_parts(parts, AnswerBody::new(body, phases)))
}

async fn answer<S: Service>(
    request: hyper::Request<Incoming>,
    shared: &Shared<S>,
    connection: &Arc<Connection>,
    phases: &Phases,
) -> Response {
    let (parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Response::text(404, "this server is no proxy").closing();
    }
    if !is_plainly_framed(&parts.headers) {
        return Response::text(400, "Transfer-Encoding must be chunked").closing();
    }
    let head = Head {
        method: parts.method,
        authority: parts.uri.authority().map(ToString::to_string),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
    };
    let limits = match shared.service.admit(&head, connection) {
        Ok(limits) => limits,
        Err(response) => return response,
    };
    let reader = BodyReader {
        limits,
        coding: Coding::of(&head.headers),
        budget: &shared.budget,
        is_favoured: connection.is_favoured(),
        within: shared.limits.body,
    };
    phases.enter(Phase::Body);
    let read = reader.read(body).await;
    phases.enter(Phase::Answering);
    match read {
        Ok(body) => shared.service.respond(Request { head, body }, Arc::clone(connection)).await,
        Err(error) => {
            debug!(connection = connection.id, ?error, "a request has no body");
            BodyError::answer(error)
        }
    }
}

/// Whether a body is framed by its length, or by chunks alone. hyper refuses what is
/// ambiguous, and closes a connection on which a request had both.
fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| {
        coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none()
    })
}

/// What a future returns; `None` if it panicked. It is not used after a panic, and
/// what services share is behind locks that can be poisoned.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        let Ok(polled) = polled else {
            error!("a service panicked");
            return Poll::Ready(None);
        };
        polled.map(Some)
    })
    .await
}
