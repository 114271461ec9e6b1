use std::path::Path;
use std::sync::LazyLock;

use url::Url;

use super::*;
use crate::failure::{FailureKind as Kind, Remedy as _};
use crate::transport::certificate::load_identity;
use crate::transport::tls::RecordingResolver;
use crate::transport::{ClientCertificate, Timeouts};

static TARGET: LazyLock<Url> =
    LazyLock::new(|| Url::parse("https://h/preflight/ID").expect("a URL"));

fn context<'a>(
    resolver: &'a RecordingResolver,
    timeouts: &'a Timeouts,
    file: &'a Path,
) -> FailureContext<'a> {
    FailureContext {
        url: TARGET.to_string(),
        target: &TARGET,
        server: "h:443".to_owned(),
        route: None,
        resolver,
        certificate_file: Some(file),
        roots: &Roots::Platform,
        timeouts,
        now: Timestamp::from_secs(2_000_000_000),
    }
}

/// HTTP-12: servers send various alerts if the client certificate is missing or refused; whether
/// they requested one is more reliable.
#[test]
fn http_12_an_alert_means_what_was_asked_for_and_shown() {
    let file = format!("{}/fixtures/certificates/sec1.pem", env!("CARGO_MANIFEST_DIR"));
    let certificate = ClientCertificate { file: file.into(), password: None };
    let timeouts = Timeouts::default();
    let [none, asked, shown] = [
        RecordingResolver::new(None, false),
        RecordingResolver::new(None, true),
        RecordingResolver::new(Some(load_identity(&certificate).expect("the fixture")), true),
    ];
    let (required, rejected, expired, handshake) = (
        Kind::ClientCertificateRequired,
        Kind::ClientCertificateRejected,
        Kind::ClientCertificateExpired,
        Kind::TlsHandshake,
    );
    for (alert, kinds) in [
        (AlertDescription::CertificateRequired, [required, required, rejected]),
        (AlertDescription::HandshakeFailure, [handshake, required, rejected]),
        (AlertDescription::BadCertificate, [handshake, required, rejected]),
        (AlertDescription::UnknownCA, [handshake, required, rejected]),
        (AlertDescription::AccessDenied, [handshake, required, rejected]),
        (AlertDescription::CertificateRevoked, [handshake, required, rejected]),
        (AlertDescription::CertificateExpired, [handshake, required, expired]),
        (AlertDescription::ProtocolVersion, [handshake, handshake, handshake]),
        (AlertDescription::InternalError, [handshake, handshake, handshake]),
    ] {
        for (resolver, kind) in [&none, &asked, &shown].into_iter().zip(kinds) {
            let failure = context(resolver, &timeouts, &certificate.file).alert(alert);
            assert_eq!(failure.kind, kind, "{alert:?}: {failure}");
        }
    }
}

/// HTTP-12: verdicts of the platforms' verifiers that have no details.
#[test]
fn http_12_every_verdict_on_a_server_s_certificate_has_its_kind() {
    let resolver = RecordingResolver::new(None, false);
    let timeouts = Timeouts::default();
    let context = context(&resolver, &timeouts, Path::new("none"));
    for (verdict, kind, words) in [
        (CertificateError::Expired, Kind::CertificateExpired, "not valid at this time"),
        (CertificateError::NotValidYet, Kind::CertificateExpired, "not valid at this time"),
        (CertificateError::NotValidForName, Kind::CertificateWrongName, "for another name"),
        (CertificateError::UnknownIssuer, Kind::CertificateUntrusted, "the system's trust store"),
        (CertificateError::Revoked, Kind::CertificateUntrusted, "check the server's certificate"),
        (CertificateError::BadSignature, Kind::CertificateUntrusted, "cannot be trusted"),
    ] {
        let failure = context.server_certificate(&verdict);
        assert_eq!(failure.kind, kind, "{verdict:?}");
        assert!(failure.with_fix().contains(words), "{verdict:?}: {failure}");
    }
}

/// HTTP-12: the message and the code of Apple's verifier give the kind of failure; the dates come
/// from the chain that the server sent.
#[test]
fn http_12_verdicts_of_apple_s_verifier_have_their_kind() {
    let verdict = |text: &str| {
        let error: Box<dyn std::error::Error + Send + Sync> = text.into();
        CertificateError::Other(rustls::OtherError(std::sync::Arc::from(error)))
    };
    let timeouts = Timeouts::default();
    let resolver = RecordingResolver::new(None, false);
    let texts = [
        "“h” certificate is expired: -67818",
        "“h” certificate is not valid yet: -67819",
        "“h” certificate is revoked: -67820",
        "“h” certificate is not trusted: -67843",
        "“h” certificate is not standards compliant: -67901",
        "“h” certificate is not standards compliant: -67825",
        "“h” certificate has a problem of a later system: -67999",
    ];
    let context = context(&resolver, &timeouts, Path::new("none"));
    let failures = texts.map(|text| {
        let failure = context.server_certificate(&verdict(text));
        format!("{}: {}", failure.kind.name(), failure.with_fix())
    });
    insta::assert_snapshot!(failures.join("\n"), @r"
    certificate_expired: https://h/preflight/ID: the certificate of h:443, or one of its issuers, is not valid at this time; renew it, or check this host's clock
    certificate_expired: https://h/preflight/ID: the certificate of h:443, or one of its issuers, is not valid at this time; renew it, or check this host's clock
    certificate_untrusted: https://h/preflight/ID: the certificate of h:443 cannot be trusted by the system's trust store (Revoked); check the server's certificate chain
    certificate_untrusted: https://h/preflight/ID: the certificate of h:443 is not signed by any CA that the system trusts; have the management system install its CA (for root, the trust of a user's login keychain does not count), set ServerAuthRootsFile, or have the server send its intermediates
    certificate_untrusted: https://h/preflight/ID: the certificate of h:443 is valid for longer than macOS accepts (825 days); have it issued for a shorter time, or set ServerAuthRootsFile, for which macOS's rules do not count
    certificate_untrusted: https://h/preflight/ID: the certificate of h:443 breaks a rule of macOS; it needs a DNS name in subjectAltName, the extended key usage serverAuth, an RSA key of 2048 bits or more and SHA-2; or set ServerAuthRootsFile, for which macOS's rules do not count
    certificate_untrusted: https://h/preflight/ID: the certificate of h:443 cannot be trusted by the system's trust store (“h” certificate has a problem of a later system: -67999); check the server's certificate chain
    ");

    resolver.show(&[(1_000_000_000, 1_900_000_000)]);
    let text = context.server_certificate(&verdict(texts[0])).to_string();
    assert!(text.contains("expired on 2030-03-17"), "{text}");
    resolver.show(&[(1_000_000_000, 2_100_000_000), (2_050_000_000, 2_100_000_000)]);
    let text = context.server_certificate(&verdict(texts[1])).to_string();
    assert!(text.contains("is not valid before 2034-12-"), "{text}");
}

#[test]
fn names_of_certificates_are_shown_bare() {
    assert_eq!(bare("DnsName(\"a.example\")"), "a.example");
    assert_eq!(bare("IpAddress(127.0.0.1)"), "127.0.0.1");
    assert_eq!(bare("plain"), "plain");
}
