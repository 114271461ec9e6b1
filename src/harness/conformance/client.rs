//! The HTTP client of the probe: one request at a time on a connection that it controls, a
//! record of every byte, and none of the conveniences of other clients: no redirects, no
//! retries, no pool.

mod request;
mod silence;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName,
    HeaderValue, USER_AGENT,
};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

pub(super) use request::{Credentials, ProbeRequest, stage_path};
pub(super) use silence::Silence;

use super::connection::{Sender, Way, broken};
use super::exchange::{Answer, Break, BreakKind, ProbeExchange};
use super::options::Options;
use super::{ConformanceError, stranger};
use crate::clock::{Clock as _, SystemClock};
use crate::harness::Encoding;
use crate::model::{BaseUrl, HeaderProblem, Secret};
use crate::transport::{
    CertificateFacts, ClientCertificate, DirectAccess, ProxyRoute, TransportOptions,
    inspect_client_certificate,
};

/// The user agent of Santa's own client.
const CLIENT_NAME: &str = "santactl-sync/2026.4";
/// How many requests are in flight at a time, at most.
const MAX_CONCURRENT: usize = 4;
/// The largest response that is kept, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// How often a request waits because the server limits the rate.
const MAX_WAITS_FOR_RATE: usize = 3;
/// The longest such wait.
const MAX_WAIT_FOR_RATE: Duration = Duration::from_secs(30);

/// A connection that is kept between requests.
#[derive(Default)]
pub(super) struct KeptConnection {
    sender: Option<Sender>,
    /// A request that meets the end of the connection is lost, instead of being sent again
    /// on a new one.
    strict: bool,
}

impl KeptConnection {
    /// A connection whose end is seen.
    pub(super) const fn strict() -> Self {
        Self { sender: None, strict: true }
    }

    /// Whether the server has closed it, as far as can be seen without a request.
    pub(super) async fn is_closed(&mut self) -> bool {
        match &mut self.sender {
            Some(sender) => sender.ready().await.is_err(),
            None => true,
        }
    }
}

/// The client, with the record of all exchanges.
pub(super) struct ProbeClient {
    base_url: BaseUrl,
    /// Texts that are secrets, as the run is told.
    secrets: Vec<Secret>,
    access: Mutex<DirectAccess>,
    /// The same without the client certificate.
    without_certificate: Option<DirectAccess>,
    /// The same with a client certificate that nobody issued.
    with_a_strangers: Option<DirectAccess>,
    way: Way,
    extra_headers: Vec<(String, Secret)>,
    request_timeout: Duration,
    permits: Semaphore,
    exchanges: Mutex<Vec<Arc<ProbeExchange>>>,
    /// The last requests, as far as they got no response.
    silent: Mutex<Vec<Arc<ProbeExchange>>>,
    /// The request since which the server accepts no connection, or responds to none.
    gone: Mutex<Option<Arc<ProbeExchange>>>,
    /// Told of each of them.
    silence: Notify,
    /// How long a server that accepts no connection is given to come back.
    return_time: Duration,
    /// How long a server that let a request time out is given to respond to another.
    hung_time: Duration,
    /// The first preflight that was answered with 200, and how long that took.
    answered_preflight: OnceLock<(ProbeRequest, Duration)>,
    /// Held by the request that finds out whether the server hangs.
    hang_check: AsyncMutex<()>,
    /// Exchanges from this number on say nothing of the server.
    disregarded_from: AtomicU64,
    clock: SystemClock,
}

impl ProbeClient {
    /// Reads trust roots and client certificate, and chooses the way; connects to nothing.
    ///
    /// # Errors
    /// If these cannot be used.
    pub(super) fn new(
        options: &TransportOptions,
        told: &Options,
    ) -> Result<Self, ConformanceError> {
        let server = options.base_url.as_url();
        let proxy = ProxyRoute::choose(&options.proxy, server, |name| std::env::var(name).ok())?;
        let way = Way::new(&options.base_url, proxy.clone()).map_err(ConformanceError::Proxy)?;
        let with_a_strangers = match &options.client_certificate {
            None => None,
            Some(certificate) => {
                let facts = inspect_client_certificate(certificate)?;
                let file = stranger::write(&facts).map_err(ConformanceError::System)?;
                let file = ClientCertificate { file: file.path().to_owned(), password: None };
                Some(DirectAccess::new(&TransportOptions {
                    client_certificate: Some(file),
                    ..options.clone()
                })?)
            }
        };
        let without_certificate = match options.client_certificate {
            None => None,
            Some(_) => Some(DirectAccess::new(&TransportOptions {
                client_certificate: None,
                ..options.clone()
            })?),
        };
        let is_sent =
            |(name, value): &&(String, Secret)| HeaderProblem::of(name, value.expose()).is_none();
        let mut access = DirectAccess::new(options)?;
        if let Some(password) = proxy.as_ref().and_then(|proxy| proxy.password.as_ref()) {
            access.add_secret(password.expose());
        }
        told.secrets.iter().for_each(|secret| access.add_secret(secret.expose()));
        Ok(Self {
            secrets: told.secrets.clone(),
            base_url: options.base_url.clone(),
            access: Mutex::new(access),
            without_certificate,
            with_a_strangers,
            way,
            extra_headers: options.extra_headers.iter().filter(is_sent).cloned().collect(),
            request_timeout: told.request_timeout,
            permits: Semaphore::new(MAX_CONCURRENT),
            exchanges: Mutex::default(),
            silent: Mutex::default(),
            gone: Mutex::default(),
            silence: Notify::new(),
            return_time: told.waits.return_of_server,
            hung_time: told.waits.hung_server,
            answered_preflight: OnceLock::new(),
            hang_check: AsyncMutex::default(),
            disregarded_from: AtomicU64::new(u64::MAX),
            clock: SystemClock::new(),
        })
    }

    pub(super) const fn base_url(&self) -> &BaseUrl {
        &self.base_url
    }

    pub(super) fn is_https(&self) -> bool {
        self.base_url.as_url().scheme() == "https"
    }

    /// The credentials that the configuration gives, in words; empty if none.
    pub(super) fn credentials(&self) -> Vec<String> {
        let url = self.base_url.as_url();
        let mut given: Vec<_> =
            self.extra_headers.iter().map(|(name, _)| format!("header {name}")).collect();
        if self.without_certificate.is_some() {
            given.push("client certificate".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            given.push("user and password".to_owned());
        }
        if self.secret_segment().is_some() {
            given.push("secret in the path".to_owned());
        }
        given
    }

    /// A segment of the base path that looks like a token, or is said to be one.
    fn secret_segment(&self) -> Option<String> {
        let mut secrets = self.base_url.secrets();
        secrets.extend(self.secrets.iter().map(|secret| secret.expose().to_owned()));
        let path = self.base_url.as_url().path();
        path.split('/')
            .find(|segment| secrets.iter().any(|secret| secret == segment))
            .map(str::to_owned)
    }

    /// The certificates that the server showed, its own first.
    pub(super) fn server_chain(&self) -> Vec<CertificateFacts> {
        self.access().server_chain()
    }

    /// The time since some moment, for durations.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.now().elapsed
    }

    /// The time of day.
    pub(super) fn now(&self) -> crate::model::Timestamp {
        self.clock.now().wall
    }

    /// Waits.
    pub(super) async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// Every exchange so far.
    pub(super) fn every_exchange(&self) -> Vec<Arc<ProbeExchange>> {
        lock(&self.exchanges).clone()
    }

    /// Every exchange so far that says something of the server.
    pub(super) fn exchanges(&self) -> Vec<Arc<ProbeExchange>> {
        let end = self.disregarded_from.load(Ordering::Relaxed);
        let mut exchanges = self.every_exchange();
        exchanges.retain(|exchange| exchange.number < end);
        exchanges
    }

    /// Redacts a token of the server in everything recorded from here on.
    pub(super) fn add_secret(&self, secret: &str) {
        self.access().add_secret(secret);
    }

    /// The text without any known secret.
    pub(super) fn redact(&self, text: &str) -> String {
        self.access().redact(text)
    }

    /// The bytes without any known secret.
    pub(super) fn redact_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        self.access().redact_bytes(bytes)
    }

    /// The body of a response without any known secret: decoded if it could be, otherwise as it
    /// came, unless it hides a secret by being compressed.
    pub(super) fn redact_body<'b>(&self, answer: &'b Answer) -> Cow<'b, [u8]> {
        let bytes = answer.body.as_ref().unwrap_or(&answer.wire);
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            if let Ok(inflated) = encoding.decode(bytes)
                && let Cow::Owned(masked) = self.redact_bytes(&inflated)
            {
                return Cow::Owned(masked);
            }
        }
        self.redact_bytes(bytes)
    }

    fn access(&self) -> MutexGuard<'_, DirectAccess> {
        lock(&self.access)
    }

    /// The path of a request as it goes out.
    pub(super) fn full_path(&self, request: &ProbeRequest) -> String {
        let url = self.base_url.as_url();
        let mut base = url.path().trim_end_matches('/').to_owned();
        if request.credentials != Credentials::Given
            && let Some(secret) = self.secret_segment()
        {
            let altered = altered(&secret);
            self.add_secret(&altered);
            base = base.replace(&secret, &altered);
        }
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{base}/{}{query}", request.path)
    }

    /// Sends a request on a connection of its own.
    pub(super) async fn send(&self, request: ProbeRequest) -> Arc<ProbeExchange> {
        self.send_on(&mut KeptConnection::default(), request).await
    }

    /// Sends a request on this connection, which is made first if there is none, and kept. A
    /// server that limits the rate (429) is given the time it asks for, a few times.
    pub(super) async fn send_on(
        &self,
        connection: &mut KeptConnection,
        request: ProbeRequest,
    ) -> Arc<ProbeExchange> {
        for _ in 0..MAX_WAITS_FOR_RATE {
            let exchange = self.send_once(connection, request.clone(), self.request_timeout).await;
            if self.comes_back(&exchange).await {
                continue;
            }
            self.note_answered_preflight(&request, &exchange);
            self.look_whether_it_hangs(&exchange).await;
            let Some(wait) = asked_to_wait(&exchange) else { return exchange };
            self.sleep(wait).await;
        }
        let exchange = self.send_once(connection, request, self.request_timeout).await;
        self.look_whether_it_hangs(&exchange).await;
        exchange
    }

    async fn send_once(
        &self,
        connection: &mut KeptConnection,
        request: ProbeRequest,
        limit: Duration,
    ) -> Arc<ProbeExchange> {
        // Never closed.
        let _permit = self.permits.acquire().await;
        let path = self.full_path(&request);
        let headers = self.headers(&request);
        let started = self.elapsed();
        let response_status = AtomicU16::new(0);
        let attempt = async {
            let was_kept = connection.sender.is_some();
            let status = &response_status;
            let outcome = self.exchange(connection, &request, &path, &headers, status).await;
            let is_stale = matches!(&outcome, Err(broken) if broken.kind == BreakKind::Closed);
            if was_kept && is_stale && !connection.strict {
                return self.exchange(connection, &request, &path, &headers, status).await;
            }
            outcome
        };
        let timed = tokio::time::timeout(limit, attempt).await;
        let outcome = timed.unwrap_or_else(|_| {
            let status = Some(response_status.load(Ordering::Relaxed)).filter(|status| *status > 0);
            let what = match status {
                None => format!("no response within {limit:?}"),
                Some(_) => format!("the response had begun but was not complete within {limit:?}"),
            };
            Err(Break { kind: BreakKind::Timeout, what, status })
        });
        let elapsed = self.elapsed().saturating_sub(started);
        let access = self.access();
        let shown_headers = headers
            .iter()
            .map(|(name, value)| {
                let value = if value.is_sensitive() || self.is_extra(name) {
                    Secret::MASK.to_owned()
                } else {
                    access.redact(&String::from_utf8_lossy(value.as_bytes()))
                };
                (name.as_str().to_owned(), value)
            })
            .collect();
        let path = access.redact(&path);
        drop(access);
        let mut exchanges = lock(&self.exchanges);
        let exchange = Arc::new(ProbeExchange {
            number: exchanges.len() as u64 + 1,
            requirement: request.requirement,
            stage: request.stage,
            intent: request.intent,
            form: request.form,
            machine_id: request.machine_id,
            method: request.method.to_owned(),
            path,
            request_headers: shown_headers,
            request_plain: request.plain,
            request_wire: request.wire.into(),
            outcome,
            elapsed,
            began: started,
        });
        exchanges.push(Arc::clone(&exchange));
        drop(exchanges);
        self.note_silence(&exchange);
        exchange
    }

    fn is_extra(&self, name: &HeaderName) -> bool {
        self.extra_headers.iter().any(|(known, _)| known.trim().eq_ignore_ascii_case(name.as_str()))
    }

    fn headers(&self, request: &ProbeRequest) -> Vec<(HeaderName, HeaderValue)> {
        let url = self.base_url.as_url();
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let mut headers = self.access().headers.clone();
        let mut set = |name: HeaderName, value: Option<&str>| match value
            .and_then(|value| HeaderValue::from_str(value).ok())
        {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        };
        set(HOST, Some(&host));
        set(USER_AGENT, Some(CLIENT_NAME));
        set(ACCEPT_ENCODING, Some("gzip, deflate"));
        set(CONTENT_TYPE, request.content_type.as_deref());
        set(CONTENT_ENCODING, request.content_encoding.as_deref());
        set(
            CONTENT_LENGTH,
            (request.method == "POST").then(|| request.wire.len().to_string()).as_deref(),
        );
        if let Some(cookies) = &request.cookies {
            set(COOKIE, Some(cookies));
        }
        for (name, value) in &request.headers {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                set(name, Some(value));
            }
        }
        let secret_names: Vec<HeaderName> = headers
            .iter()
            .filter(|(name, value)| value.is_sensitive() || self.is_extra(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in secret_names {
            match request.credentials {
                Credentials::Given => {}
                Credentials::Left => drop(headers.remove(name)),
                Credentials::Altered => {
                    let value = headers.get(&name).and_then(|value| value.to_str().ok());
                    let value = value.map(altered);
                    // All but one character of the true one.
                    for part in value.iter().flat_map(|value| value.split(' ')) {
                        self.add_secret(part);
                    }
                    let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
                    if let Some(mut value) = value {
                        value.set_sensitive(true);
                        headers.insert(name, value);
                    }
                }
            }
        }
        headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    async fn exchange(
        &self,
        connection: &mut KeptConnection,
        request: &ProbeRequest,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        began: &AtomicU16,
    ) -> Result<Answer, Break> {
        let mut kept = connection.sender.take();
        if let Some(sender) = &mut kept
            && !connection.strict
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect(request.credentials).await?,
        };
        let malformed = |error: String| Break {
            kind: BreakKind::NotHttp,
            what: format!("the request cannot be written: {error}"),
            status: None,
        };
        let mut built = hyper::Request::builder().method(request.method).uri(path);
        for (name, value) in headers {
            built = built.header(name, value);
        }
        let body = Full::new(Bytes::from(request.wire.clone()));
        let built = built.body(body).map_err(|error| malformed(error.to_string()))?;
        let response = sender.send_request(built).await.map_err(|error| broken(&error, None))?;
        let status = response.status().as_u16();
        began.store(status, Ordering::Relaxed);
        let headers: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let body = http_body_util::Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        let wire =
            body.collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => Break { kind: BreakKind::Cut, ..broken(&error, Some(status)) },
                Err(_) => Break {
                    kind: BreakKind::TooLarge,
                    what: format!("the response is larger than {MAX_RESPONSE_BYTES} bytes"),
                    status: Some(status),
                },
            })?;
        let wire = wire.to_bytes();
        connection.sender = Some(sender);
        let named = headers.iter().filter(|(name, _)| name == CONTENT_ENCODING.as_str());
        let named: Vec<_> = named.map(|(_, value)| value.as_str()).collect();
        let body = Answer::decoded(&named.join(", "), &wire);
        Ok(Answer { status, headers, wire, body })
    }

    async fn connect(&self, credentials: Credentials) -> Result<Sender, Break> {
        let tls = match (credentials, &self.without_certificate, &self.with_a_strangers) {
            (Credentials::Left, Some(access), _) | (Credentials::Altered, _, Some(access)) => {
                access.tls.clone()
            }
            _ => self.access().tls.clone(),
        };
        let failure = |error: &rustls::Error| self.access().tls_failure(error, self.now());
        self.way.connect(tls, failure).await
    }

    /// Why no request can reach the server, if the URL's scheme is the reason.
    pub(super) async fn wrong_scheme(&self) -> Option<&'static str> {
        if self.is_https() {
            // A server of TLS may answer plain HTTP as well, to say that it wants TLS.
            let is_plain = !self.way.speaks_tls().await && self.way.speaks_plain_http().await;
            return is_plain.then_some(
                "the server speaks plain HTTP on this port, and the URL begins with https://; \
                 begin it with http://, or turn TLS on",
            );
        }
        self.way.speaks_tls().await.then_some(
            "the server speaks TLS on this port, and the URL begins with http://; begin it with \
             https://",
        )
    }
}

/// The wait that a server asks for when it limits the request rate; `None` if it does not.
fn asked_to_wait(exchange: &ProbeExchange) -> Option<Duration> {
    let answer = exchange.answer().filter(|answer| answer.status == 429)?;
    let seconds = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
    Some(Duration::from_secs(seconds.unwrap_or(1)).min(MAX_WAIT_FOR_RATE))
}

/// The text with its last letter or digit replaced by another.
fn altered(text: &str) -> String {
    let Some((at, last)) = text.char_indices().rev().find(|(_, c)| c.is_ascii_alphanumeric())
    else {
        return format!("{text}x");
    };
    let other = if last == 'x' { 'y' } else { 'x' };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

/// What a panic left behind is as good as before: each change is one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_altered_in_one_character() {
        assert_eq!(altered("Bearer abc"), "Bearer abx");
        assert_eq!(altered("abx=="), "aby==");
        assert_eq!(altered(""), "x");
    }
}
