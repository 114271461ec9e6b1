//! What went wrong with an attempt, what to do about it, and how long to wait.

use std::fmt;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use thiserror::Error;

/// How often a request is repeated after its first attempt.
pub const RETRIES: u32 = 5;
/// The longest wait a server's `Retry-After` can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// The shortest wait a server's `Retry-After` can ask for.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Repeat the request after a wait, if it has repeats left.
    Retry,
    /// Fetch a fresh XSRF token and repeat the request at once, once a sync.
    RefreshToken,
    /// The request has failed for good: repeating it cannot help.
    Final,
}

/// The cause of a failed attempt, one kind a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The host name has no address.
    NameNotResolved,
    /// Nothing listens there.
    Refused,
    /// The network or host cannot be reached.
    Unreachable,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No byte within the idle timeout.
    IdleTimeout,
    /// No complete answer within the total timeout.
    TotalTimeout,
    /// The connection broke before the answer began.
    ConnectionLost,
    /// The answer broke off in its middle.
    Truncated,
    /// The server takes this request by HTTP/1.1 only.
    Http11Required,
    /// Bytes came that are not an HTTP answer.
    NotHttp,
    /// The header of the answer is longer than we read.
    HeaderTooLarge,
    /// The proxy does not answer, or will not pass us on.
    ProxyRefused,
    /// The proxy wants a user and password, or others than it got.
    ProxyCredentials,
    /// The server's certificate comes from nobody we trust.
    CertificateUntrusted,
    /// The server's certificate has expired or is not valid yet.
    CertificateExpired,
    /// The server's certificate is for another host name.
    CertificateWrongName,
    /// The TLS handshake failed in another way.
    TlsHandshake,
    /// The server asked for a client certificate and none is configured.
    ClientCertificateRequired,
    /// The server refused the client certificate.
    ClientCertificateRejected,
    /// The client certificate has expired or is not valid yet.
    ClientCertificateExpired,
    /// The client certificate's file cannot be read or used.
    ClientCertificateUnreadable,
    /// The client certificate's password is wrong.
    ClientCertificatePassword,
    /// The configured trust roots cannot be read or hold no certificate.
    RootsUnreadable,
    /// The server answered with a redirect, which is never followed.
    Redirected,
    /// Status 401.
    Unauthorized,
    /// Status 403.
    Forbidden,
    /// Status 404.
    NotFound,
    /// Status 405.
    MethodNotAllowed,
    /// Status 408.
    RequestTimeout,
    /// Status 413.
    PayloadTooLarge,
    /// Status 415.
    UnsupportedMediaType,
    /// Status 429.
    TooManyRequests,
    /// Another status from 400 to 499.
    ClientError,
    /// Status 501.
    NotImplemented,
    /// Another status from 500 to 599.
    ServerError,
    /// Any other status but 200.
    UnexpectedStatus,
    /// The answer is HTML.
    Html,
    /// The answer is not JSON.
    NotJson,
    /// The answer is JSON of another shape than the stage's.
    WrongShape,
    /// The answer is not the stage's protobuf message.
    NotProtobuf,
    /// The answer's content encoding is unknown or its data corrupt.
    BadEncoding,
    /// The answer is larger than we take.
    TooLarge,
    /// Status 200 whose body reports an error instead of answering.
    ErrorInAnswer,
    /// An empty answer to a clean sync's rule download.
    EmptyBody,
    /// A rule page came with the very cursor it was asked with.
    CursorNotAdvancing,
    /// More rule pages than we take.
    TooManyPages,
    /// More rules than we take.
    TooManyRules,
    /// A clean sync in which every rule the server sent was rejected.
    NoUsableRules,
    /// The rule download would remove or reverse more rules than
    /// `GuardRemovedPercent` allows.
    Guarded,
    /// The stage's URL cannot be made.
    MalformedUrl,
    /// The sync's overall deadline has passed.
    Deadline,
    /// The sync was told to stop.
    Cancelled,
    /// There is no room left to write a store of this host.
    DiskFull,
    /// A store of this host failed.
    Store,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 54] = [
        Self::NameNotResolved,
        Self::Refused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::IdleTimeout,
        Self::TotalTimeout,
        Self::ConnectionLost,
        Self::Truncated,
        Self::Http11Required,
        Self::NotHttp,
        Self::HeaderTooLarge,
        Self::ProxyRefused,
        Self::ProxyCredentials,
        Self::CertificateUntrusted,
        Self::CertificateExpired,
        Self::CertificateWrongName,
        Self::TlsHandshake,
        Self::ClientCertificateRequired,
        Self::ClientCertificateRejected,
        Self::ClientCertificateExpired,
        Self::ClientCertificateUnreadable,
        Self::ClientCertificatePassword,
        Self::RootsUnreadable,
        Self::Redirected,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::TooManyRequests,
        Self::ClientError,
        Self::NotImplemented,
        Self::ServerError,
        Self::UnexpectedStatus,
        Self::Html,
        Self::NotJson,
        Self::WrongShape,
        Self::NotProtobuf,
        Self::BadEncoding,
        Self::TooLarge,
        Self::ErrorInAnswer,
        Self::EmptyBody,
        Self::CursorNotAdvancing,
        Self::TooManyPages,
        Self::TooManyRules,
        Self::NoUsableRules,
        Self::Guarded,
        Self::MalformedUrl,
        Self::Deadline,
        Self::Cancelled,
        Self::DiskFull,
        Self::Store,
    ];

    /// The word for it in `--json`, records and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NameNotResolved => "name_not_resolved",
            Self::Refused => "connection_refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::ConnectionLost => "connection_lost",
            Self::Truncated => "truncated",
            Self::Http11Required => "http_1_1_required",
            Self::NotHttp => "not_http",
            Self::HeaderTooLarge => "header_too_large",
            Self::ProxyRefused => "proxy_refused",
            Self::ProxyCredentials => "proxy_credentials",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateWrongName => "certificate_wrong_name",
            Self::TlsHandshake => "tls_handshake",
            Self::ClientCertificateRequired => "client_certificate_required",
            Self::ClientCertificateRejected => "client_certificate_rejected",
            Self::ClientCertificateExpired => "client_certificate_expired",
            Self::ClientCertificateUnreadable => "client_certificate_unreadable",
            Self::ClientCertificatePassword => "client_certificate_password",
            Self::RootsUnreadable => "roots_unreadable",
            Self::Redirected => "redirected",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooManyRequests => "too_many_requests",
            Self::ClientError => "client_error",
            Self::NotImplemented => "not_implemented",
            Self::ServerError => "server_error",
            Self::UnexpectedStatus => "unexpected_status",
            Self::Html => "html",
            Self::NotJson => "not_json",
            Self::WrongShape => "wrong_shape",
            Self::NotProtobuf => "not_protobuf",
            Self::BadEncoding => "bad_encoding",
            Self::TooLarge => "too_large",
            Self::ErrorInAnswer => "error_in_answer",
            Self::EmptyBody => "empty_body",
            Self::CursorNotAdvancing => "cursor_not_advancing",
            Self::TooManyPages => "too_many_pages",
            Self::TooManyRules => "too_many_rules",
            Self::NoUsableRules => "no_usable_rules",
            Self::Guarded => "guarded",
            Self::MalformedUrl => "malformed_url",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::DiskFull => "disk_full",
            Self::Store => "store",
        }
    }

    /// What to do after an attempt failed this way.
    #[must_use]
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::NameNotResolved
            | Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::ConnectionLost
            | Self::Truncated
            | Self::Http11Required
            | Self::NotHttp
            | Self::ProxyRefused
            | Self::RequestTimeout
            | Self::TooManyRequests
            | Self::ServerError
            | Self::ErrorInAnswer
            | Self::UnexpectedStatus => Disposition::Retry,
            Self::Forbidden => Disposition::RefreshToken,
            Self::HeaderTooLarge
            | Self::ProxyCredentials
            | Self::CertificateUntrusted
            | Self::CertificateExpired
            | Self::CertificateWrongName
            | Self::TlsHandshake
            | Self::ClientCertificateRequired
            | Self::ClientCertificateRejected
            | Self::ClientCertificateExpired
            | Self::ClientCertificateUnreadable
            | Self::ClientCertificatePassword
            | Self::RootsUnreadable
            | Self::Redirected
            | Self::Unauthorized
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::ClientError
            | Self::NotImplemented
            | Self::Html
            | Self::NotJson
            | Self::WrongShape
            | Self::NotProtobuf
            | Self::BadEncoding
            | Self::TooLarge
            | Self::EmptyBody
            | Self::CursorNotAdvancing
            | Self::TooManyPages
            | Self::TooManyRules
            | Self::NoUsableRules
            | Self::Guarded
            | Self::MalformedUrl
            | Self::Deadline
            | Self::Cancelled
            | Self::DiskFull
            | Self::Store => Disposition::Final,
        }
    }

    /// The kind a status other than 200 stands for.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::Redirected,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            407 => Self::ProxyCredentials,
            408 => Self::RequestTimeout,
            413 => Self::PayloadTooLarge,
            415 => Self::UnsupportedMediaType,
            // 425 asks for a repeat as 429 does.
            425 | 429 => Self::TooManyRequests,
            400..=499 => Self::ClientError,
            501 => Self::NotImplemented,
            500..=599 => Self::ServerError,
            _ => Self::UnexpectedStatus,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A failed attempt. The message says what happened, where, and the next thing
/// to try; it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Failure {
    /// The cause.
    pub kind: FailureKind,
    /// For the operator: a lower-case fragment, with the URL or file.
    pub message: String,
    /// The status of the answer, if there was one.
    pub http_status: Option<u16>,
    /// The wait before the next attempt if it is not the usual one: what the
    /// server asked for on 429 or 503, within its bounds, or none at all.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without an answer of the server.
    #[must_use]
    pub const fn new(kind: FailureKind, message: String) -> Self {
        Self { kind, message, http_status: None, retry_after: None }
    }
}

/// The waits between the attempts of one request: 4, 8, 16, 32, 32 s, each
/// varied by up to a quarter. The only user of the `backoff` crate.
#[derive(Debug)]
pub struct WaitSchedule {
    waits: ExponentialBackoff,
    left: u32,
}

impl WaitSchedule {
    /// A fresh schedule whose waits vary by up to `jitter` of their length.
    /// The contract's value is 0.25; tests that compare waits take 0.
    #[must_use]
    pub fn new(jitter: f64) -> Self {
        let first = Duration::from_secs(4);
        let waits = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: jitter,
            multiplier: 2.0,
            max_interval: Duration::from_secs(32),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { waits, left: RETRIES }
    }

    /// The wait before the next attempt; `None` if no repeat is left.
    pub fn next_wait(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.waits.next_backoff()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_3_waits_are_4_8_16_32_32_seconds_and_then_none() {
        let mut schedule = WaitSchedule::new(0.0);
        let waits: Vec<_> =
            std::iter::from_fn(|| schedule.next_wait()).map(|w| w.as_secs()).collect();
        assert_eq!(waits, [4, 8, 16, 32, 32]);
    }

    #[test]
    fn http_3_waits_vary_by_at_most_a_quarter() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut schedule = WaitSchedule::new(0.25);
            for base in [4.0, 8.0, 16.0, 32.0, 32.0] {
                let wait = schedule.next_wait().expect("five repeats").as_secs_f64();
                assert!((base * 0.75..=base * 1.25).contains(&wait), "{wait} for {base}");
                seen.insert((wait * 1e6).round().to_string());
            }
        }
        assert!(seen.len() > 500, "waits hardly vary: {}", seen.len());
    }

    #[test]
    fn every_kind_is_listed_once_under_its_own_name() {
        let names: std::collections::BTreeSet<_> =
            FailureKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), FailureKind::ALL.len());
        // The last variant's place tells how many there are.
        assert_eq!(FailureKind::Store as usize + 1, FailureKind::ALL.len());
    }

    /// HTTP-3: every status there is, in one table.
    #[test]
    fn http_3_statuses_are_retried_or_final_as_the_contract_says() {
        for status in 100..=599_u16 {
            let expected = match status {
                200 => continue,
                403 => Disposition::RefreshToken,
                408 | 425 | 429 => Disposition::Retry,
                501 | 300..=499 => Disposition::Final,
                _ => Disposition::Retry,
            };
            assert_eq!(FailureKind::of_status(status).disposition(), expected, "{status}");
        }
    }
}
