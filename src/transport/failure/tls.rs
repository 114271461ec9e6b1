//! Failures of the TLS handshake: certificates of the server, of the proxy and of this
//! client.

use rustls::{AlertDescription, CertificateError};

use super::apple::AppleVerdict;
use super::proxy::named;
use super::{FailureContext, on_one_line, text};
use crate::failure::{Failure, FailureKind};
use crate::model::Timestamp;
use crate::transport::Roots;
use crate::transport::proxy::ProxyRoute;

/// How to fix a certificate that has expired.
const RENEW: &str = "renew it, or check this host's clock";
/// How to fix a certificate that is not valid yet.
const CHECK_CLOCK: &str = "check this host's clock";

impl FailureContext<'_> {
    /// Classifies an error of the TLS handshake.
    pub(in crate::transport) fn tls(&self, error: &rustls::Error) -> Failure {
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

    /// Classifies a verdict of Apple's verifier. The verdict does not name the certificate that is
    /// not valid at this time, nor its dates; these come from the chain that the server sent.
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
                // `openssl req -x509` makes CA certificates.
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

/// The bare name in a certificate's name such as `DnsName("host")`.
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

#[cfg(test)]
mod tests;
