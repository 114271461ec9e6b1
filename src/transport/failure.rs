//! From what went wrong on the wire to one kind a cause, with a message that
//! says where and what to try next.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the error enums of other crates grow; what is new in them has the kind of the rest"
)]

mod apple;
mod proxy;
mod tls;

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::InvalidDnsNameError;
use url::Url;

use super::proxy::ProxyRoute;
use super::tls::RecordingResolver;
use super::{Roots, Timeouts, text};
use crate::failure::{Failure, FailureKind};
use crate::model::Timestamp;
use crate::model::text::on_one_line;

/// Where an attempt happened: all that a message may name.
pub(super) struct FailureContext<'a> {
    /// The URL as it may be shown.
    pub(super) url: String,
    /// The URL itself, for resolving others against it; never shown.
    pub(super) target: &'a Url,
    /// Host and port.
    pub(super) server: String,
    pub(super) route: Option<&'a ProxyRoute>,
    pub(super) resolver: &'a RecordingResolver,
    pub(super) certificate_file: Option<&'a Path>,
    pub(super) roots: &'a Roots,
    pub(super) timeouts: &'a Timeouts,
    pub(super) now: Timestamp,
}

/// How far the attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptPhase {
    /// No header of a response yet.
    Request,
    /// In the response's body.
    Body,
}

impl FailureContext<'_> {
    /// The failure that an error of the HTTP client stands for.
    pub(super) fn failure(&self, error: &reqwest::Error, phase: AttemptPhase) -> Failure {
        let causes = causes(error);
        let h2 = causes.iter().find_map(|cause| cause.downcast_ref::<h2::Error>());
        if h2.and_then(h2::Error::reason) == Some(h2::Reason::HTTP_1_1_REQUIRED) {
            return self.http_1_1_required();
        }
        if let Some(tls) = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return self.tls(tls);
        }
        let io = causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>());
        let hyper = causes.iter().find_map(|cause| cause.downcast_ref::<hyper::Error>());
        if let Some(route) = self.route
            && error.is_connect()
            && let Some(failure) = self.proxy(route, error, &causes, io)
        {
            return failure;
        }
        let no_name = causes.iter().any(|cause| cause.is::<InvalidDnsNameError>());
        if error.is_builder() || no_name {
            let reason = innermost(&causes);
            return self.fail(
                FailureKind::MalformedUrl,
                format!("no request can be made of it ({reason})"),
                "check SyncBaseURL",
            );
        }
        if error.is_dns() {
            return self.fail(
                FailureKind::NameNotResolved,
                format!("the name of {} has no address", self.server),
                "check the host in SyncBaseURL and this host's DNS",
            );
        }
        if error.is_connect() && error.is_timeout() {
            return self.connect_timeout(&self.server);
        }
        if phase == AttemptPhase::Request
            && let Some(hyper) = hyper
        {
            if hyper.is_parse_too_large() {
                return self.header_too_large();
            }
            if hyper.is_parse() {
                return self.fail(
                    FailureKind::NotHttp,
                    format!("{} answered with something that is not HTTP", self.server),
                    "check the port and whether it should be https://",
                );
            }
        }
        match (phase, io) {
            (AttemptPhase::Request, Some(io)) if error.is_connect() => self.connect(io),
            (AttemptPhase::Request, _) => self.lost(&innermost(&causes)),
            (AttemptPhase::Body, _) => self.truncated(&innermost(&causes)),
        }
    }

    /// A failure of this URL: what happened, and what to do about it.
    pub(super) fn fail(
        &self,
        kind: FailureKind,
        what: impl Display,
        fix: impl Into<Cow<'static, str>>,
    ) -> Failure {
        Failure::new(kind, format!("{}: {what}", self.url)).fixed_by(fix)
    }

    pub(super) fn truncated(&self, reason: &str) -> Failure {
        self.fail(
            FailureKind::Truncated,
            format!("the response broke off before its end ({reason})"),
            "check the server's log and any proxy in between",
        )
    }

    pub(super) fn idle_timeout(&self) -> Failure {
        self.fail(
            FailureKind::IdleTimeout,
            format!(
                "no byte was sent or received by {} for {} s",
                self.server,
                seconds(self.timeouts.idle)
            ),
            "check the server's load and any proxy in between",
        )
    }

    pub(super) fn total_timeout(&self, limit: Duration) -> Failure {
        self.fail(
            FailureKind::TotalTimeout,
            format!("the response was not complete after {} s", seconds(limit)),
            "check the server's load and the network's speed",
        )
    }

    /// The failed attempt showed what the next one needs, so the next one does not
    /// wait.
    fn http_1_1_required(&self) -> Failure {
        let what = format!(
            "{} accepts this request by HTTP/1.1 only, which is used for the rest of the sync",
            self.server
        );
        Failure {
            retry_after: Some(Duration::ZERO),
            ..self.fail(
                FailureKind::Http11Required,
                what,
                "set SyncDisableHTTP2 to avoid this attempt",
            )
        }
    }

    fn header_too_large(&self) -> Failure {
        self.fail(
            FailureKind::HeaderTooLarge,
            "the response header is larger than the limit (400 KiB or 100 fields)",
            "check what answers at this address",
        )
    }

    fn connect_timeout(&self, peer: &str) -> Failure {
        self.fail(
            FailureKind::ConnectTimeout,
            format!("no connection to {peer} within {} s", seconds(self.timeouts.connect)),
            "check the network, firewalls, and whether a proxy is needed",
        )
    }

    fn connect(&self, error: &io::Error) -> Failure {
        let server = &self.server;
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.fail(
                FailureKind::Refused,
                format!("{server} refused the connection"),
                "check that the server runs there and the port in SyncBaseURL",
            ),
            io::ErrorKind::TimedOut => self.connect_timeout(server),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => self.lost(&error.to_string()),
            _ => self.fail(
                FailureKind::Unreachable,
                format!("{server} cannot be reached ({error})"),
                "check this host's network and firewall",
            ),
        }
    }

    fn lost(&self, reason: &str) -> Failure {
        let hint = if self.resolver.was_asked() && self.resolver.identity.is_none() {
            "the server asked for a client certificate and none is configured: set \
             ClientAuthCertificateFile if it needs one"
        } else {
            "check the server's log and any proxy in between"
        };
        self.fail(
            FailureKind::ConnectionLost,
            format!("{} closed the connection without a response ({reason})", self.server),
            hint,
        )
    }
}

/// Every cause of an error, itself first. An `io::Error` hides the error it was
/// made of from `source`, so that one is asked for separately.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    causes
}

/// The cause of all causes, in words.
fn innermost(causes: &[&(dyn Error + 'static)]) -> String {
    let reason = causes.last().map(ToString::to_string).unwrap_or_default();
    on_one_line(&reason, text::MAX_CHARS)
}

/// Seconds, with a fraction only if there is one.
fn seconds(duration: Duration) -> String {
    let text = format!("{:.1}", duration.as_secs_f64());
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests;
