//! What went wrong: the cause, what happened and where, and what to do about it.
//!
//! What happened and the remedy are separate fields from the place that knows
//! both to the place that shows them. A text is never searched for its remedy:
//! part of it may come from a server.

mod disposition;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

pub use disposition::Disposition;

use crate::model::text::joined;

/// An error whose `Display` says what happened and where, and that knows what
/// to do about it.
pub trait Remedy: fmt::Display {
    /// Returns what an operator can do, as a lower-case fragment without a full
    /// stop; `None` if nothing is known.
    fn fix(&self) -> Option<Cow<'static, str>>;

    /// Returns what happened and what to do in one text, for people.
    fn with_fix(&self) -> String {
        joined(self, self.fix().as_deref())
    }
}

/// An error as `--json` shows it: what happened and what to do are separate.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorText {
    /// What happened and where.
    pub message: String,
    /// What an operator can do; `None` if nothing is known.
    pub fix: Option<String>,
}

impl ErrorText {
    /// Takes both texts of an error.
    #[must_use]
    pub fn of(error: &dyn Remedy) -> Self {
        Self { message: error.to_string(), fix: error.fix().map(Cow::into_owned) }
    }
}

/// What happened and what to do in one text, for people.
impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.message, self.fix.as_deref()))
    }
}

/// The cause of a failed attempt. The name of a kind in `--json`, records and
/// logs is its variant's in snake case, unless another one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum FailureKind {
    /// The host name has no address.
    NameNotResolved,
    /// Nothing listens there.
    #[strum(serialize = "connection_refused")]
    Refused,
    /// The network or host cannot be reached.
    Unreachable,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No byte within the idle timeout.
    IdleTimeout,
    /// The response was not complete within the total timeout.
    TotalTimeout,
    /// The connection broke before the response began.
    ConnectionLost,
    /// The response broke off before its end.
    Truncated,
    /// The server takes this request by HTTP/1.1 only.
    #[strum(serialize = "http_1_1_required")]
    Http11Required,
    /// The server sent something other than HTTP.
    NotHttp,
    /// The response header is larger than the limit.
    HeaderTooLarge,
    /// The proxy does not respond, or refused to connect to the server.
    ProxyRefused,
    /// The proxy requires a user and password, or rejected the ones it got.
    ProxyCredentials,
    /// The server's certificate is not signed by a trusted CA.
    CertificateUntrusted,
    /// The server's certificate has expired or is not valid yet.
    CertificateExpired,
    /// The server's certificate is for a different host name.
    CertificateWrongName,
    /// The TLS handshake failed for another reason.
    TlsHandshake,
    /// The server requires a client certificate and none is configured.
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
    /// The server returned a redirect, which is never followed.
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
    /// The response is HTML.
    Html,
    /// The response is not JSON.
    NotJson,
    /// The response is JSON, but not of the stage's shape.
    WrongShape,
    /// The response is not the stage's protobuf message.
    NotProtobuf,
    /// The response's content encoding is unknown or its data is corrupt.
    BadEncoding,
    /// The response is larger than the limit.
    TooLarge,
    /// Of a simulated host only: the responses to all of them take more memory
    /// than the simulator grants.
    SimulatorMemory,
    /// Status 200 with a body that reports an error instead of a result.
    ErrorInResponse,
    /// An empty response to a clean sync's rule download.
    EmptyBody,
    /// A rule page has the same cursor as its request.
    CursorNotAdvancing,
    /// There are more rule pages than the limit.
    TooManyPages,
    /// There are more rules than the limit.
    TooManyRules,
    /// A clean sync in which every rule the server sent was rejected.
    NoUsableRules,
    /// The rule download would remove or reverse more rules than
    /// `GuardRemovedPercent` allows.
    Guarded,
    /// The stage's URL cannot be built.
    MalformedUrl,
    /// The sync's overall deadline has passed.
    Deadline,
    /// The sync was asked to stop.
    Cancelled,
    /// There is no room left to write a store of this host.
    DiskFull,
    /// A store of this host failed.
    Store,
}

impl FailureKind {
    /// Returns the name of the kind in `--json`, records and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A failed attempt. Neither of its texts holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub kind: FailureKind,
    /// What happened: a lower-case fragment, with the URL or file.
    pub message: String,
    /// What an operator can do; `None` if nothing is known.
    pub fix: Option<Cow<'static, str>>,
    /// The status of the response, if there was one.
    pub http_status: Option<u16>,
    /// The wait before the next attempt if it is not the usual one: what the
    /// server asked for on 429 or 503, within its bounds, or none at all.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Creates a failure without a response and without a remedy.
    #[must_use]
    pub const fn new(kind: FailureKind, message: String) -> Self {
        Self { kind, message, fix: None, http_status: None, retry_after: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn fixed_by(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Replaces secrets in both texts.
    #[must_use]
    pub fn redacted(self, redact: impl Fn(&str) -> String) -> Self {
        let message = redact(&self.message);
        let fix = self.fix.map(|fix| Cow::Owned(redact(&fix)));
        Self { message, fix, ..self }
    }
}

/// What happened, without the remedy.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Remedy for Failure {
    fn fix(&self) -> Option<Cow<'static, str>> {
        self.fix.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            FailureKind::VARIANTS.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), FailureKind::VARIANTS.len());
    }

    #[test]
    fn message_and_fix_are_joined_only_to_be_shown() {
        let failure = Failure::new(FailureKind::Refused, "no; never".to_owned());
        assert_eq!((failure.with_fix().as_str(), failure.fix()), ("no; never", None));
        let failure = failure.fixed_by("start it");
        assert_eq!(failure.to_string(), "no; never");
        assert_eq!(failure.with_fix(), "no; never; start it");
    }
}
