//! Certificates for the fake server: a root, an intermediate and a leaf for
//! loopback, made when it starts, with one flaw if a misbehaviour asks for it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use time::OffsetDateTime;

use crate::model::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// What is wrong with the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateFlaw {
    /// Its time is over.
    Expired,
    /// It is for another host.
    WrongName,
    /// The intermediate certificate is not sent.
    IncompleteChain,
    /// It expires in a week.
    ExpiresSoon,
}

/// What the server needs for https, and its clients.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    pub(super) config: Arc<ServerConfig>,
    /// The root certificate, as PEM.
    pub(super) roots: String,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub(super) enum IdentityError {
    #[error("cannot make a certificate: {0}")]
    Made(#[from] rcgen::Error),
    #[error("cannot use the certificate: {0}")]
    Used(#[from] rustls::Error),
}

/// Makes the certificates.
pub(super) fn identity(
    flaw: Option<CertificateFlaw>,
    now: Timestamp,
) -> Result<ServerIdentity, IdentityError> {
    let issuer = |name: &str| {
        let mut params = params(name, now, 3650 * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let root = CertifiedIssuer::self_signed(issuer("Fake sync server root"), KeyPair::generate()?)?;
    let between = CertifiedIssuer::signed_by(
        issuer("Fake sync server intermediate"),
        KeyPair::generate()?,
        &root,
    )?;

    let life = match flaw {
        Some(CertificateFlaw::ExpiresSoon) => 8 * DAY,
        Some(
            CertificateFlaw::Expired
            | CertificateFlaw::WrongName
            | CertificateFlaw::IncompleteChain,
        )
        | None => 365 * DAY,
    };
    let mut leaf = params("Fake sync server", now, life);
    if flaw == Some(CertificateFlaw::Expired) {
        leaf.not_before = date(now, -30);
        leaf.not_after = date(now, -1);
    }
    leaf.subject_alt_names = if flaw == Some(CertificateFlaw::WrongName) {
        vec![SanType::DnsName("other.invalid".try_into()?)]
    } else {
        vec![
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
            SanType::DnsName("localhost".try_into()?),
        ]
    };
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let mut chain = vec![leaf.signed_by(&key, &between)?.der().clone()];
    if flaw != Some(CertificateFlaw::IncompleteChain) {
        chain.push(between.der().clone());
    }

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(ServerIdentity { config: Arc::new(config), roots: root.pem() })
}

/// Valid from a day ago.
fn params(name: &str, now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(now, -1);
    let days = i64::try_from(life.as_secs() / DAY.as_secs()).unwrap_or_default();
    params.not_after = date(now, days - 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The time so many days from now.
fn date(now: Timestamp, days: i64) -> OffsetDateTime {
    let day = i64::try_from(DAY.as_secs()).unwrap_or_default();
    OffsetDateTime::from_unix_timestamp(now.as_secs().saturating_add(days * day))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
