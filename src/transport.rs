//! One HTTP exchange: URL, encodings, headers, cookies, TLS, proxy, limits and
//! timeouts, and one kind of failure for each way it can go wrong. The only user
//! of the HTTP client.
//!
//! A [`Transport`] lives as long as one sync. It makes one attempt a call: it
//! never repeats a request, never waits, never follows a redirect and talks to
//! no host but the server and the proxy. What an attempt's failure means for the
//! sync is decided elsewhere.

mod attempt;
mod certificate;
pub(crate) mod cookies;
#[cfg(feature = "harness")]
mod direct;
mod encoding;
mod failure;
mod headers;
#[cfg(test)]
mod hostile_tests;
mod idle;
mod options;
mod proxy;
mod proxy_or_server;
#[cfg(feature = "harness")]
mod reach;
mod redaction;
mod response_budget;
mod retry_after;
mod roots;
mod status;
mod text;
mod tls;
mod unsent;
mod upload;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, COOKIE, DATE, HeaderMap, SET_COOKIE};
use rustls::ClientConfig;
#[cfg(feature = "harness")]
use rustls::client::Resumption;
use url::Url;

pub use certificate::{CertificateFacts, inspect_client_certificate, inspect_roots};
#[cfg(feature = "harness")]
pub use direct::DirectAccess;
pub use encoding::Packer;
pub use headers::XsrfToken;
#[cfg(feature = "harness")]
pub use options::HostOptions;
pub use options::{ClientCertificate, Roots, Timeouts, TransportOptions};
pub use proxy::{ProxyRoute, SYSTEM_SETTINGS};
#[cfg(feature = "harness")]
pub use redaction::MIN_SECRET_BYTES;
#[cfg(feature = "harness")]
pub use response_budget::{BudgetExhausted, BudgetShare, ResponseBudget};

use crate::failure::{Failure, FailureKind};
use crate::model::text::on_one_line;
use crate::model::{Stage, Timestamp};
use crate::protocol::body::EncodedBody;
use attempt::{AttemptTally, RawResponse};
use cookies::Jar;
use proxy_or_server::{Legs, Tracking};
use redaction::Redaction;
use tls::RecordingResolver;

/// Idle connections are kept this long. Servers are known to drop them after 2
/// or 3 s, and a request that meets the drop is lost.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// A host of many talks to one server.
#[cfg(feature = "harness")]
const SESSIONS_PER_HOST: usize = 4;
/// The segment of the URL where XSRF tokens are fetched.
const XSRF_SEGMENT: &str = "xsrf";
/// The connection to one server, for one sync.
pub struct Transport {
    /// Replaced by one that speaks HTTP/1.1 only if the server wants that.
    client: Mutex<reqwest::Client>,
    tls: ClientConfig,
    options: TransportOptions,
    route: Option<ProxyRoute>,
    resolver: Arc<RecordingResolver>,
    /// Headers of every request.
    headers: HeaderMap,
    jar: Mutex<Jar>,
    redaction: Mutex<Redaction>,
}

/// The outcome of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// The response, or why there is none.
    pub outcome: Result<Response, Failure>,
    /// The status, if a response began.
    pub http_status: Option<u16>,
    /// Bytes of the request's body, as they go over the wire, that were handed
    /// to the connection.
    pub bytes_sent: u64,
    /// Bytes of the response's body as they came over the wire.
    pub bytes_received: u64,
    /// Whether the failure says that the body may be too large for the way to
    /// the server: the upload timed out, or the connection broke while more
    /// than 64 KiB were being written.
    pub upload_unfinished: bool,
}

/// A complete answer with status 200.
#[derive(Clone, Debug)]
pub struct Response {
    /// The decoded body.
    pub body: Vec<u8>,
    /// The server's clock, by its `Date` header.
    pub server_date: Option<Timestamp>,
    /// `Content-Type` as sent, on one line. It decides whether a body in binary
    /// protobuf is read at all, and whether an empty one is a message (JSON-3).
    pub content_type: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
}

impl Transport {
    /// Reads trust roots and client certificate and prepares everything; sends
    /// nothing yet.
    ///
    /// # Errors
    /// If roots, client certificate or proxy cannot be used.
    pub fn new(options: TransportOptions) -> Result<Self, Failure> {
        let server = options.base_url.as_url();
        let route = ProxyRoute::choose(&options.proxy, server, |name| std::env::var(name).ok())?;
        let (tls, resolver) = tls::configure(
            &options.roots,
            options.client_certificate.as_ref(),
            server.scheme() == "https",
            route.as_ref().is_some_and(|route| route.url.scheme() == "https"),
        )?;
        Self::assembled(options, route, tls, resolver)
    }

    /// Prepares a transport for another host that goes the same way to the same
    /// server. Trust roots, client certificate and route are not read again;
    /// connections, TLS sessions, cookies and tokens are not shared.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    #[cfg(feature = "harness")]
    pub fn for_host(&self, host: HostOptions) -> Result<Self, Failure> {
        let HostOptions { machine_id, transfer, content_encoding, user_agent } = host;
        let options = TransportOptions {
            machine_id,
            transfer,
            content_encoding,
            user_agent,
            ..self.options.clone()
        };
        let mut tls = self.tls.clone();
        if !self.resolver.legs.tls_proxy() {
            tls.resumption = Resumption::in_memory_sessions(SESSIONS_PER_HOST);
        }
        Self::assembled(options, self.route.clone(), tls, Arc::clone(&self.resolver))
    }

    fn assembled(
        options: TransportOptions,
        route: Option<ProxyRoute>,
        tls: ClientConfig,
        resolver: Arc<RecordingResolver>,
    ) -> Result<Self, Failure> {
        let client = client(&options, route.as_ref(), &tls, &resolver.legs, options.disable_http2)?;
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
            client: Mutex::new(client),
            tls,
            route,
            resolver,
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
    pub const fn route(&self) -> Option<&ProxyRoute> {
        self.route.as_ref()
    }

    /// The client certificate that is shown to a server that asks.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&CertificateFacts> {
        self.resolver.identity.as_ref().map(|identity| &identity.facts)
    }

    /// The certificates that the server showed in the last handshake, its own
    /// first, accepted or not; none before the first exchange and without TLS.
    #[must_use]
    pub fn server_chain(&self) -> Vec<CertificateFacts> {
        self.resolver.server_chain()
    }

    /// Whether the server has asked for a client certificate so far.
    #[must_use]
    pub fn client_certificate_asked(&self) -> bool {
        self.resolver.was_asked()
    }

    /// The text with every secret this transport knows redacted: for texts of
    /// the server, which may echo what it was sent.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        lock(&self.redaction).apply(text)
    }

    /// Compresses a body, as the options say.
    #[must_use]
    pub fn pack(&self, body: Vec<u8>) -> EncodedBody {
        self.packer().pack(body)
    }

    /// What compresses bodies as the options say, elsewhere than here.
    #[must_use]
    pub const fn packer(&self) -> Packer {
        Packer::new(self.options.content_encoding)
    }

    /// [`Self::post_packed`] of a body that is not compressed yet and may be
    /// empty.
    pub async fn post(
        &self,
        stage: Stage,
        body: &[u8],
        token: Option<&XsrfToken>,
        now: Timestamp,
    ) -> AttemptResult {
        self.post_packed(stage, &self.pack(body.to_owned()), token, now).await
    }

    /// Makes one attempt of a request of that stage; `now` dates cookies and
    /// `Retry-After`.
    pub async fn post_packed(
        &self,
        stage: Stage,
        body: &EncodedBody,
        token: Option<&XsrfToken>,
        now: Timestamp,
    ) -> AttemptResult {
        let mut tally = AttemptTally::default();
        let total = self.options.timeouts.total;
        let result = self.attempt(stage.segment(), body, token, now, total, &mut tally).await;
        self.report(stage.name(), &self.shown_target(stage.segment()), &tally, result.as_ref());
        AttemptResult {
            outcome: result.map(|received| Response {
                server_date: headers::date_of(&received.headers, DATE),
                content_type: received
                    .headers
                    .get(CONTENT_TYPE)
                    .map(|value| on_one_line(&String::from_utf8_lossy(value.as_bytes()), 100)),
                version: format!("{:?}", received.version),
                body: received.body,
            }),
            http_status: tally.status,
            bytes_sent: tally.sent,
            bytes_received: tally.received,
            upload_unfinished: tally.upload_unfinished,
        }
    }

    /// Asks for an XSRF token, once. `None` if the server answered 200 without one.
    ///
    /// # Errors
    /// If the server did not answer 200.
    pub async fn fetch_token(&self, now: Timestamp) -> Result<Option<XsrfToken>, Failure> {
        let mut tally = AttemptTally::default();
        let total = self.options.timeouts.xsrf;
        let body = EncodedBody::default();
        let mut result = self.attempt(XSRF_SEGMENT, &body, None, now, total, &mut tally).await;
        if result.as_ref().is_err_and(|failure| failure.kind == FailureKind::Http11Required) {
            result = self.attempt(XSRF_SEGMENT, &body, None, now, total, &mut tally).await;
        }
        let url = self.shown_target(XSRF_SEGMENT);
        self.report(XSRF_SEGMENT, &url, &tally, result.as_ref());
        result.map(|received| {
            let token = headers::token(&received.headers)?;
            lock(&self.redaction).add(token.value());
            Some(token)
        })
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

    /// Speaks HTTP/1.1 from here on.
    fn leave_http2(&self) {
        let legs = &self.resolver.legs;
        if let Ok(client) = client(&self.options, self.route.as_ref(), &self.tls, legs, true) {
            *lock(&self.client) = client;
        }
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
        jar.values().for_each(|value| redaction.add_rotating(value));
    }

    fn report(
        &self,
        stage: &str,
        url: &str,
        tally: &AttemptTally,
        result: Result<&RawResponse, &Failure>,
    ) {
        let (sent, received) = (tally.sent, tally.received);
        let proxy = self.route.as_ref().map(ProxyRoute::shown);
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

/// The HTTP client behind a transport.
fn client(
    options: &TransportOptions,
    route: Option<&ProxyRoute>,
    tls: &ClientConfig,
    legs: &Arc<Legs>,
    http1_only: bool,
) -> Result<reqwest::Client, Failure> {
    let unusable = |error: reqwest::Error| {
        let why = error.without_url();
        let what = format!("{}: no HTTP client can be made: {why}", options.base_url);
        Failure::new(FailureKind::MalformedUrl, what)
    };
    let mut tls = tls.clone();
    let mut builder = reqwest::Client::builder();
    if http1_only {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        builder = builder.http1_only();
    }
    if let Some(route) = route {
        builder = builder
            .proxy(route.to_reqwest().map_err(unusable)?)
            .connector_layer(Tracking(Arc::clone(legs)));
    } else {
        // Proxies of the environment are chosen here, not by the client.
        builder = builder.no_proxy();
    }
    builder
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // One attempt is one request: what is repeated is counted. The client
        // still connects again, at once, where a kept connection turns out to be
        // closed before a byte of the request was written to it.
        .retry(reqwest::retry::never())
        .connect_timeout(options.timeouts.connect)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build()
        .map_err(unusable)
}

/// What a panic left behind is as good as before: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
