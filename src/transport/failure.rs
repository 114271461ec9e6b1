//! From what went wrong on the wire to one kind a cause, with a message that
//! says where and what to try next.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the error enums of other crates grow; what is new in them has the kind of the rest"
)]

mod apple;

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::InvalidDnsNameError;
use rustls::{AlertDescription, CertificateError};
use url::Url;

use self::apple::AppleVerdict;
use super::proxy::{ProxyRoute, SYSTEM_SETTINGS};
use super::tls::RecordingResolver;
use super::{Roots, Timeouts, text};
use crate::failure::{Failure, FailureKind};
use crate::model::Timestamp;
use crate::model::text::on_one_line;

/// How to fix a certificate that has expired.
const RENEW: &str = "renew it, or check this host's clock";
/// How to fix a certificate that is not valid yet.
const CHECK_CLOCK: &str = "check this host's clock";

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

    /// Failures on the way to the proxy and in talking to it. `None` if it let
    /// us pass and the failure is behind it.
    fn proxy(
        &self,
        route: &ProxyRoute,
        error: &reqwest::Error,
        causes: &[&(dyn Error + 'static)],
        io: Option<&io::Error>,
    ) -> Option<Failure> {
        if self.resolver.legs.server_reached() {
            return None;
        }
        let proxy = named(route);
        let refused = |what: String| {
            self.fail(
                FailureKind::ProxyRefused,
                what,
                format!("check the proxy's address and that it allows {}", self.server),
            )
        };
        // Neither client library names these error types, so their words count.
        let said = |phrase: &str| causes.iter().any(|cause| cause.to_string().contains(phrase));
        let credentials = |what: &str| {
            let verb = if route.user.is_some() { "check" } else { "set" };
            let origin = route.origin;
            let fix = match origin.strip_prefix("SyncProxyConfiguration") {
                Some(_) => format!(
                    "{verb} the proxy's user and password in SyncProxyConfiguration (HTTPSUser and \
                     HTTPSPassword, and so on for HTTP and SOCKS)"
                ),
                None if origin == SYSTEM_SETTINGS => {
                    "name this proxy with a user and password in SyncProxyConfiguration: those of \
                     the system's network settings are in a keychain"
                        .to_owned()
                }
                None => format!(
                    "{verb} the proxy's user and password in {origin}, as \
                     http://USER:PASSWORD@HOST:PORT"
                ),
            };
            Some(self.fail(FailureKind::ProxyCredentials, format!("{proxy} {what}"), fix))
        };
        if said("proxy authorization required") || said("credentials not accepted") {
            return credentials(if route.user.is_some() {
                "did not accept its user and password"
            } else {
                "wants a user and password"
            });
        }
        if said("does not support user/pass authentication") {
            return credentials("accepts none of the ways to log in that are offered");
        }
        if said("tunnel error: unsuccessful") {
            return Some(refused(format!("{proxy} refused to connect to {}", self.server)));
        }
        if said("tunnel error:") || said("SOCKS error:") {
            let socks = causes.iter().find_map(|cause| {
                cause.to_string().strip_prefix("SOCKS error: ").map(str::to_owned)
            });
            let reason = socks.unwrap_or_else(|| innermost(causes));
            return Some(refused(format!("{proxy} did not connect us ({reason})")));
        }
        if error.is_dns() {
            return Some(refused(format!("the name of {proxy} has no address")));
        }
        if error.is_timeout() {
            return Some(self.connect_timeout(&format!("{} by {proxy}", self.server)));
        }
        // The server's own connection errors come as the proxy's words; what is
        // left is the way to the proxy.
        io.filter(|io| io.kind() != io::ErrorKind::UnexpectedEof)
            .map(|io| refused(format!("{proxy} does not answer ({io})")))
    }

    /// The failure that an error of the handshake stands for.
    pub(super) fn tls(&self, error: &rustls::Error) -> Failure {
        let legs = &self.resolver.legs;
        if let Some(route) = self.route
            && legs.tls_proxy()
            && !legs.server_reached()
        {
            return self.tls_of_proxy(route, error);
        }
        match error {
            rustls::Error::InvalidCertificate(reason) => self.server_certificate(reason),
            rustls::Error::AlertReceived(alert) => self.alert(*alert),
            rustls::Error::PeerIncompatible(reason) => self.fail(
                FailureKind::TlsHandshake,
                format!("{} does not offer TLS that can be used ({reason:?})", self.server),
                "it needs TLS 1.2 or later with a modern cipher suite",
            ),
            rustls::Error::InvalidMessage(_) => self.fail(
                FailureKind::TlsHandshake,
                format!("{} does not speak TLS ({error})", self.server),
                "check the port and whether the server expects http://",
            ),
            other => self.fail(
                FailureKind::TlsHandshake,
                format!("the TLS handshake with {} failed ({other})", self.server),
                "check the server's TLS settings",
            ),
        }
    }

    fn tls_of_proxy(&self, route: &ProxyRoute, error: &rustls::Error) -> Failure {
        let verdict = match error {
            rustls::Error::InvalidCertificate(verdict) => AppleVerdict::of(verdict),
            _ => None,
        };
        let standard = verdict.and_then(AppleVerdict::as_certificate_error);
        let kind = match &standard.map_or_else(|| error.clone(), rustls::Error::from) {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => FailureKind::CertificateExpired,
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => FailureKind::CertificateWrongName,
            rustls::Error::InvalidCertificate(_) => FailureKind::CertificateUntrusted,
            _ => FailureKind::TlsHandshake,
        };
        let reason = on_one_line(&error.to_string(), text::MAX_CHARS);
        self.fail(
            kind,
            format!("the TLS handshake with {} failed ({reason})", named(route)),
            "check its certificate: a proxy is verified by the system's \
             trust store and shown no client certificate, whatever is \
             configured for the server",
        )
    }

    fn server_certificate(&self, reason: &CertificateError) -> Failure {
        match AppleVerdict::of(reason) {
            None => self.refused_certificate(reason),
            Some(verdict) => self.refused_by_apple(verdict, reason),
        }
    }

    /// A verdict of Apple's verifier. It leaves out which certificate is outside
    /// its validity, and since when; the chain that the server showed says so.
    fn refused_by_apple(&self, verdict: AppleVerdict, reason: &CertificateError) -> Failure {
        let server = &self.server;
        let chain = self.resolver.server_chain();
        let outside = |when: &str, at: Timestamp, fix| {
            let what = format!("the certificate of {server}, or one of its issuers, {when} {at}");
            self.fail(FailureKind::CertificateExpired, what, fix)
        };
        match verdict {
            AppleVerdict::Expired => {
                if let Some(facts) = chain.iter().find(|facts| facts.not_after < self.now) {
                    return outside("expired on", facts.not_after, RENEW);
                }
            }
            AppleVerdict::NotValidYet => {
                if let Some(facts) = chain.iter().find(|facts| facts.not_before > self.now) {
                    return outside("is not valid before", facts.not_before, CHECK_CLOCK);
                }
            }
            AppleVerdict::NotTrusted => {
                return self.fail(
                    FailureKind::CertificateUntrusted,
                    format!(
                        "the certificate of {server} is not signed by any CA that the system trusts"
                    ),
                    "have the management system install its CA (for root, the trust of a user's \
                     login keychain does not count), set ServerAuthRootsFile, or have the server \
                     send its intermediates",
                );
            }
            AppleVerdict::ValidForTooLong => {
                return self.fail(
                    FailureKind::CertificateUntrusted,
                    format!(
                        "the certificate of {server} is valid for longer than macOS accepts \
                         (825 days)"
                    ),
                    "have it issued for a shorter time, or set ServerAuthRootsFile, for which \
                     macOS's rules do not count",
                );
            }
            AppleVerdict::NotCompliant => {
                return self.fail(
                    FailureKind::CertificateUntrusted,
                    format!("the certificate of {server} breaks a rule of macOS"),
                    "it needs a DNS name in subjectAltName, the extended key usage serverAuth, \
                     an RSA key of 2048 bits or more and SHA-2; or set ServerAuthRootsFile, for \
                     which macOS's rules do not count",
                );
            }
            AppleVerdict::Revoked => {}
        }
        let standard = verdict.as_certificate_error();
        self.refused_certificate(standard.as_ref().unwrap_or(reason))
    }

    fn refused_certificate(&self, reason: &CertificateError) -> Failure {
        let at = |time: rustls::pki_types::UnixTime| {
            Timestamp::from_secs(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
        };
        let server = &self.server;
        let roots = match self.roots {
            Roots::Platform => "the system's trust store".to_owned(),
            Roots::File(file) => format!("the roots in {}", file.display()),
            Roots::Data(_) => "the roots in ServerAuthRootsData".to_owned(),
        };
        let outside = |when: &str, fix| {
            let what = format!("the certificate of {server}, or one of its issuers, {when}");
            self.fail(FailureKind::CertificateExpired, what, fix)
        };
        match reason {
            CertificateError::ExpiredContext { not_after, .. } => {
                outside(&format!("expired on {}", at(*not_after)), RENEW)
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                outside(&format!("is not valid before {}", at(*not_before)), CHECK_CLOCK)
            }
            CertificateError::Expired | CertificateError::NotValidYet => {
                outside("is not valid at this time", RENEW)
            }
            CertificateError::NotValidForNameContext { presented, .. } => self.fail(
                FailureKind::CertificateWrongName,
                format!(
                    "the certificate of {server} is for {} only",
                    names(&presented.iter().map(|name| bare(name).to_owned()).collect::<Vec<_>>())
                ),
                "use a name of the certificate in SyncBaseURL, or have it issued for this one",
            ),
            CertificateError::NotValidForName => self.fail(
                FailureKind::CertificateWrongName,
                format!("the certificate of {server} is for another name"),
                "use a name of the certificate in SyncBaseURL, or have it issued for this one",
            ),
            CertificateError::UnknownIssuer => self.fail(
                FailureKind::CertificateUntrusted,
                format!("the certificate of {server} is not signed by any CA in {roots}"),
                "add its CA (ServerAuthRootsFile), or have the server send its intermediates",
            ),
            other => {
                let reason = match other {
                    CertificateError::Other(reason) => reason.to_string(),
                    known => format!("{known}"),
                };
                // A certificate made by `openssl req -x509` is one of a CA.
                if reason.contains("CaUsedAsEndEntity") {
                    return self.fail(
                        FailureKind::CertificateUntrusted,
                        format!(
                            "the certificate of {server} is a CA's own, as a self-signed one may \
                             be, and is not in {roots}"
                        ),
                        "put it into ServerAuthRootsFile, or have the server use one that a CA \
                         issued",
                    );
                }
                self.fail(
                    FailureKind::CertificateUntrusted,
                    format!(
                        "the certificate of {server} cannot be trusted by {roots} ({})",
                        on_one_line(&reason, text::MAX_CHARS)
                    ),
                    "check the server's certificate chain",
                )
            }
        }
    }

    fn alert(&self, alert: AlertDescription) -> Failure {
        let about_certificates = matches!(
            alert,
            AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::HandshakeFailure
        );
        let asked = self.resolver.was_asked();
        if about_certificates
            && (asked || alert == AlertDescription::CertificateRequired)
            && let Some(failure) = self.client_certificate(alert)
        {
            return failure;
        }
        let hint = if alert == AlertDescription::ProtocolVersion {
            "it must offer TLS 1.2 or later"
        } else {
            "check the server's TLS settings and its log"
        };
        self.fail(
            FailureKind::TlsHandshake,
            format!("{} ended the TLS handshake ({alert:?})", self.server),
            hint,
        )
    }

    fn client_certificate(&self, alert: AlertDescription) -> Option<Failure> {
        let server = &self.server;
        let authorities = self.resolver.authorities();
        let accepted = if authorities.is_empty() {
            String::new()
        } else {
            format!(" (it accepts those of {})", names(&authorities))
        };
        let Some(identity) = &self.resolver.identity else {
            return Some(self.fail(
                FailureKind::ClientCertificateRequired,
                format!("{server} wants a client certificate{accepted} and none is configured"),
                "set ClientAuthCertificateFile",
            ));
        };
        let facts = &identity.facts;
        let file = self.certificate_file?.display();
        let which = format!(
            "the client certificate {} in {file}, issued by {}, valid {} to {}",
            facts.subject, facts.issuer, facts.not_before, facts.not_after
        );
        if alert == AlertDescription::CertificateExpired || !facts.valid_at(self.now) {
            return Some(self.fail(
                FailureKind::ClientCertificateExpired,
                format!("{server} refused {which}, which is outside its validity"),
                "renew it, or check this host's clock",
            ));
        }
        Some(self.fail(
            FailureKind::ClientCertificateRejected,
            format!("{server} refused {which} ({alert:?}){accepted}"),
            "check that the server trusts its issuer and that it was not revoked",
        ))
    }
}

fn named(route: &ProxyRoute) -> String {
    format!("the proxy {} ({})", route.shown(), route.origin)
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

/// A name of a certificate, which comes as `DnsName("host")` or the like.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

fn names(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(5).map(|name| on_one_line(name, 100)).collect();
    match (shown.is_empty(), names.len() > shown.len()) {
        (true, _) => "no host name (subjectAltName)".to_owned(),
        (false, true) => format!("{}, …", shown.join(", ")),
        (false, false) => shown.join(", "),
    }
}

/// Seconds, with a fraction only if there is one.
fn seconds(duration: Duration) -> String {
    let text = format!("{:.1}", duration.as_secs_f64());
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests;
