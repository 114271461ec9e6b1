//! One HTTP exchange: URL, encodings, headers, cookies, TLS, proxy, limits and
//! timeouts, and one kind of failure for each way it can go wrong. The only user
//! of the HTTP client.
//!
//! A [`Transport`] lives as long as one sync. It makes one attempt a call: it
//! never repeats a request, never waits, never follows a redirect and talks to
//! no host but the server and the proxy. What an attempt's failure means for the
//! sync is decided elsewhere.

mod certificate;
mod cookies;
mod encoding;
mod failure;
mod headers;
#[cfg(test)]
mod hostile;
mod options;
mod proxy;
mod redaction;
mod status;
mod tls;
mod watch;
mod words;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, HeaderMap, HeaderValue,
    SET_COOKIE,
};
use tokio::time::timeout;
use url::Url;

pub use certificate::{CertificateFacts, inspect_client_certificate, inspect_roots};
pub use encoding::{ContentEncoding, Packer, UnknownEncoding};
pub use headers::XsrfToken;
pub use options::{
    ClientCertificate, HeaderProblem, Options, Roots, Timeouts, Transfer, header_problem,
    is_restricted_header,
};
pub use proxy::{Proxy, ProxyServer, ProxySettings, Route};

use crate::model::{Packed, Stage, Timestamp};
use crate::sync::retry::{Failure, FailureKind};
use cookies::Jar;
use encoding::{DecodeError, Decoder};
use failure::{Phase, Scene};
use redaction::Redaction;
use tls::Witness;

/// Idle connections are kept this long. Servers are known to drop them after 2
/// or 3 s, and a request that meets the drop is lost.
const POOL_IDLE: Duration = Duration::from_secs(1);
/// So much of the body of an error is read.
const ERROR_BODY: usize = 16 << 10;
/// So much of it is decoded.
const ERROR_BODY_DECODED: usize = 1 << 20;
/// So long it is waited for.
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);
/// The segment of the URL where XSRF tokens are fetched.
const XSRF_SEGMENT: &str = "xsrf";
/// The connection to one server, for one sync.
pub struct Transport {
    client: reqwest::Client,
    options: Options,
    route: Option<Route>,
    witness: Arc<Witness>,
    /// Headers of every request.
    headers: HeaderMap,
    jar: Mutex<Jar>,
    redaction: Mutex<Redaction>,
}

/// What came of one attempt.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The answer, or why there is none.
    pub outcome: Result<Answer, Failure>,
    /// The status, if an answer began.
    pub http_status: Option<u16>,
    /// Bytes of the request's body as they go over the wire; 0 if there was no
    /// connection.
    pub bytes_sent: u64,
    /// Bytes of the answer's body as they came over the wire.
    pub bytes_received: u64,
}

/// A complete answer with status 200.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The decoded body.
    pub body: Vec<u8>,
    /// The server's clock, by its `Date` header.
    pub server_date: Option<Timestamp>,
    /// `Content-Type` as sent, for reports only: it is not to be trusted.
    pub content_type: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
}

/// What came of asking for an XSRF token.
#[derive(Clone, Debug)]
pub struct TokenExchange {
    /// The token; `None` if the server answered 200 without one.
    pub outcome: Result<Option<XsrfToken>, Failure>,
    /// The status, if an answer began.
    pub http_status: Option<u16>,
    /// Bytes of the answer's body as they came over the wire.
    pub bytes_received: u64,
}

/// What an attempt has seen so far, for when it is cut short.
#[derive(Default)]
struct Tally {
    status: Option<u16>,
    sent: u64,
    received: u64,
}

/// A complete answer with status 200, headers included.
struct Received {
    headers: HeaderMap,
    version: reqwest::Version,
    body: Vec<u8>,
}

impl Transport {
    /// Reads trust roots and client certificate and prepares everything; sends
    /// nothing yet.
    ///
    /// # Errors
    /// If roots, client certificate or proxy cannot be used.
    pub fn new(options: Options) -> Result<Self, Failure> {
        let server = options.base_url.as_url();
        let route = options.proxy.route(server, |name| std::env::var(name).ok())?;
        let tls_used = server.scheme() == "https"
            || route.as_ref().is_some_and(|route| route.url.scheme() == "https");
        let (tls, witness) =
            tls::configure(&options.roots, options.client_certificate.as_ref(), tls_used)?;
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(options.timeouts.connect)
            .pool_idle_timeout(POOL_IDLE)
            // Proxies of the environment are chosen here, not by the client.
            .no_proxy();
        let unusable = |error: reqwest::Error| {
            Failure::new(
                FailureKind::MalformedUrl,
                format!(
                    "{}: no HTTP client can be made: {}",
                    options.base_url,
                    error.without_url()
                ),
            )
        };
        let builder = match &route {
            Some(route) => builder.proxy(route.to_reqwest().map_err(unusable)?),
            None => builder,
        };
        let client = builder.build().map_err(unusable)?;
        let mut redaction = Redaction::default();
        for secret in options.base_url.secrets() {
            redaction.add(&secret);
        }
        let headers = headers::of_every_request(&options, &mut redaction);
        let passwords = [
            route.as_ref().and_then(|route| route.password.as_ref()),
            options.client_certificate.as_ref().and_then(|c| c.password.as_ref()),
        ];
        for password in passwords.into_iter().flatten() {
            redaction.add(password.expose());
        }
        Ok(Self {
            client,
            route,
            witness,
            headers,
            jar: Mutex::default(),
            redaction: Mutex::new(redaction),
            options,
        })
    }

    /// The URL of a stage as it may be shown: secrets cut (HTTP-14).
    #[must_use]
    pub fn url(&self, stage: Stage) -> String {
        self.shown_target(stage.segment())
    }

    /// The proxy on the way to the server, if there is one.
    #[must_use]
    pub const fn route(&self) -> Option<&Route> {
        self.route.as_ref()
    }

    /// The client certificate that is shown to a server that asks.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&CertificateFacts> {
        self.witness.identity.as_ref().map(|identity| &identity.facts)
    }

    /// The certificates that the server showed in the last handshake, its own
    /// first, accepted or not; none before the first exchange and without TLS.
    #[must_use]
    pub fn server_chain(&self) -> Vec<CertificateFacts> {
        self.witness.server_chain()
    }

    /// Whether the server has asked for a client certificate so far.
    #[must_use]
    pub fn client_certificate_asked(&self) -> bool {
        self.witness.was_asked()
    }

    /// The text with every secret this transport knows struck out: for texts of
    /// the server, which may echo what it was sent.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        lock(&self.redaction).apply(text)
    }

    /// Compresses a body, as the options say.
    #[must_use]
    pub fn pack(&self, body: Vec<u8>) -> Packed {
        self.packer().pack(body)
    }

    /// What compresses bodies as the options say, elsewhere than here.
    #[must_use]
    pub const fn packer(&self) -> Packer {
        self.options.content_encoding.packer()
    }

    /// [`Self::post_packed`] of a body that is not compressed yet and may be
    /// empty.
    pub async fn post(
        &self,
        stage: Stage,
        body: &[u8],
        token: Option<&XsrfToken>,
        now: Timestamp,
    ) -> Exchange {
        self.post_packed(stage, &self.pack(body.to_owned()), token, now).await
    }

    /// Makes one attempt of a request of that stage; `now` dates cookies and
    /// `Retry-After`.
    pub async fn post_packed(
        &self,
        stage: Stage,
        body: &Packed,
        token: Option<&XsrfToken>,
        now: Timestamp,
    ) -> Exchange {
        let mut tally = Tally::default();
        let total = self.options.timeouts.total;
        let result = self.attempt(stage.segment(), body, token, now, total, &mut tally).await;
        self.report(stage.name(), &self.shown_target(stage.segment()), &tally, result.as_ref());
        Exchange {
            outcome: result.map(|received| Answer {
                server_date: received
                    .headers
                    .get(DATE)
                    .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
                    .and_then(timestamp),
                content_type: received
                    .headers
                    .get(CONTENT_TYPE)
                    .map(|value| words::clean(&String::from_utf8_lossy(value.as_bytes()), 100)),
                version: format!("{:?}", received.version),
                body: received.body,
            }),
            http_status: tally.status,
            bytes_sent: tally.sent,
            bytes_received: tally.received,
        }
    }

    /// Asks for an XSRF token, once.
    pub async fn fetch_token(&self, now: Timestamp) -> TokenExchange {
        let mut tally = Tally::default();
        let total = self.options.timeouts.xsrf;
        let result =
            self.attempt(XSRF_SEGMENT, &Packed::default(), None, now, total, &mut tally).await;
        let url = self.shown_target(XSRF_SEGMENT);
        self.report(XSRF_SEGMENT, &url, &tally, result.as_ref());
        let outcome = result.map(|received| {
            let token = headers::token(&received.headers)?;
            lock(&self.redaction).add(token.value());
            Some(token)
        });
        TokenExchange { outcome, http_status: tally.status, bytes_received: tally.received }
    }

    /// The URL to ask, without user and password: those go in a header.
    fn target(&self, segment: &str) -> Url {
        let mut url = self.options.base_url.join(segment, &self.options.machine_id);
        // Both fail only for URLs without a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url
    }

    fn shown_target(&self, segment: &str) -> String {
        self.options.base_url.shown_join(segment, &self.options.machine_id)
    }

    async fn attempt(
        &self,
        segment: &str,
        body: &Packed,
        token: Option<&XsrfToken>,
        now: Timestamp,
        total: Duration,
        tally: &mut Tally,
    ) -> Result<Received, Failure> {
        let url = self.target(segment);
        let host = url.host_str().unwrap_or_default();
        let scene = Scene {
            server: format!("{host}:{}", url.port_or_known_default().unwrap_or_default()),
            url: self.shown_target(segment),
            target: &url,
            route: self.route.as_ref(),
            witness: &self.witness,
            certificate_file: self.options.client_certificate.as_ref().map(|c| c.file.as_path()),
            roots: &self.options.roots,
            timeouts: &self.options.timeouts,
            now,
        };
        let Packed { bytes, encoding } = body.clone();
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        if let Some(token) = token {
            token.add_to(&mut headers);
        }
        self.add_cookies(&mut headers, &url);
        tally.sent = bytes.len() as u64;
        let request = self.client.post(url.clone()).headers(headers).body(bytes);
        match timeout(total, self.receive(request, &url, &scene, tally)).await {
            Ok(result) => result,
            Err(_) => Err(scene.total_timeout(total)),
        }
    }

    async fn receive(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
        scene: &Scene<'_>,
        tally: &mut Tally,
    ) -> Result<Received, Failure> {
        let idle = self.options.timeouts.idle;
        let mut response = match timeout(idle, request.send()).await {
            Err(_) => return Err(scene.idle_timeout()),
            Ok(Err(error)) => {
                if error.is_connect() {
                    tally.sent = 0;
                }
                return Err(scene.failure(&error, Phase::Request));
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        tally.status = Some(status);
        self.take_cookies(response.headers(), url, scene.now);
        if status != 200 {
            let body = error_body(&mut response, tally).await;
            let redaction = lock(&self.redaction).clone();
            return Err(status::failure(scene, status, response.headers(), &body, &redaction));
        }
        let limit = self.options.max_body;
        let refuse = |error| undecodable(scene, &error, limit);
        let length = response.content_length();
        let mut decoder = decoder(&response, length, limit).map_err(refuse)?;
        loop {
            match timeout(idle, response.chunk()).await {
                Err(_) => return Err(scene.idle_timeout()),
                Ok(Err(error)) => return Err(scene.failure(&error, Phase::Body)),
                Ok(Ok(Some(wire))) => {
                    tally.received += wire.len() as u64;
                    decoder.push(&wire).map_err(refuse)?;
                }
                Ok(Ok(None)) => break,
            }
        }
        let version = response.version();
        let headers = std::mem::take(response.headers_mut());
        Ok(Received { headers, version, body: decoder.finish().map_err(refuse)? })
    }

    fn add_cookies(&self, headers: &mut HeaderMap, url: &Url) {
        let Some(ours) = lock(&self.jar).header(url) else { return };
        let all = match headers.get(COOKIE).and_then(|value| value.to_str().ok()) {
            Some(configured) => format!("{configured}; {ours}"),
            None => ours,
        };
        if let Ok(value) = headers::sensitive(&all) {
            headers.insert(COOKIE, value);
        }
    }

    fn take_cookies(&self, headers: &HeaderMap, url: &Url, now: Timestamp) {
        let mut jar = lock(&self.jar);
        for value in headers.get_all(SET_COOKIE) {
            if let Ok(text) = value.to_str() {
                jar.set(text, url, now);
            }
        }
        let mut redaction = lock(&self.redaction);
        jar.values().for_each(|value| redaction.add_passing(value));
    }

    fn report(&self, stage: &str, url: &str, tally: &Tally, result: Result<&Received, &Failure>) {
        let (sent, received) = (tally.sent, tally.received);
        let proxy = self.route.as_ref().map(Route::shown);
        match result {
            Ok(answer) => tracing::debug!(
                stage,
                url,
                proxy,
                status = tally.status,
                sent,
                received,
                decoded = answer.body.len(),
                "attempt succeeded"
            ),
            Err(failure) => tracing::debug!(
                stage,
                url,
                proxy,
                status = tally.status,
                sent,
                received,
                kind = failure.kind.name(),
                "attempt failed"
            ),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("options", &self.options)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

fn decoder(
    response: &reqwest::Response,
    length: Option<u64>,
    limit: usize,
) -> Result<Decoder, DecodeError> {
    let values: Vec<_> = response
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    Decoder::new(values.iter().map(AsRef::as_ref), length, limit)
}

/// The beginning of the body of an error, as far as it comes without trouble
/// and soon: the status is what matters.
async fn error_body(response: &mut reqwest::Response, tally: &mut Tally) -> Vec<u8> {
    let Ok(mut decoder) = decoder(response, None, ERROR_BODY_DECODED) else { return Vec::new() };
    let reading = async {
        while let Ok(Some(wire)) = response.chunk().await {
            tally.received += wire.len() as u64;
            let ended = decoder.push(&wire).is_err();
            if ended || tally.received >= ERROR_BODY as u64 {
                break;
            }
        }
    };
    // What came in time is shown.
    let _ = timeout(ERROR_BODY_TIME, reading).await;
    decoder.so_far().iter().take(ERROR_BODY).copied().collect()
}

fn undecodable(scene: &Scene<'_>, error: &DecodeError, limit: usize) -> Failure {
    let (kind, what) = match error {
        DecodeError::Truncated => return scene.truncated("the compressed data has no end"),
        DecodeError::TooLarge => (
            FailureKind::TooLarge,
            format!("the answer is larger than {limit} bytes; have the server send smaller pages"),
        ),
        DecodeError::Corrupt(_) | DecodeError::NotEncoded(_) | DecodeError::Unknown(_) => (
            FailureKind::BadEncoding,
            format!(
                "the answer cannot be decoded ({error}); check the server's compression and any \
                 proxy in between"
            ),
        ),
    };
    Failure { http_status: Some(200), ..scene.fail(kind, &what) }
}

/// The time of an HTTP date.
fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp::from_millis)
}

/// What a panic left behind is as good as before: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
