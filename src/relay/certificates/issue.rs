//! Makes keys and certificates. Pure, but for the randomness of the keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::model::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// How long before it is made a certificate is valid: a clock may be corrected
/// by less than this.
const BACKDATED: Duration = DAY;

/// The life of a server's or client's certificate, from before its making to
/// its end. macOS takes 825 days from private CAs, and 398 from public ones.
const LEAF_LIFE: Duration = Duration::from_hours(24 * 398);

/// The life of the CA: 20 years. Santa's side holds on to the file's path, not
/// to the certificate.
const CA_LIFE: Duration = Duration::from_hours(24 * 365 * 20);

/// The addresses that the relay can have.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A certificate and its key, both as PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// The issuer of further certificates, as PEM and DER.
pub(super) struct Authority<'a> {
    pub(super) certificate: &'a CertificateDer<'a>,
    pub(super) key: &'a str,
}

/// Makes a CA that can vouch for this host's loopback addresses only.
pub(super) fn ca(now: Timestamp) -> Result<Issued, rcgen::Error> {
    let mut params = params("Santa sync relay CA", now, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let addresses = LOOPBACK.map(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, bits))
    });
    // Constraints on addresses alone would leave every host name permitted.
    let names = [GeneralSubtree::DnsName("localhost".to_owned())];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: addresses.into_iter().chain(names).collect(),
        excluded_subtrees: Vec::new(),
    });
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Issued { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Makes a certificate for the relay at either loopback address.
pub(super) fn server(ca: &Authority<'_>, now: Timestamp) -> Result<Issued, rcgen::Error> {
    // The blanks keep verifiers from taking the name for a host's.
    let mut params = params("Santa sync relay", now, LEAF_LIFE);
    params.subject_alt_names = LOOPBACK.map(SanType::IpAddress).to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf(ca, params)
}

/// Makes a certificate for the authorizer.
pub(super) fn client(ca: &Authority<'_>, now: Timestamp) -> Result<Issued, rcgen::Error> {
    let mut params = params("Santa sync relay client", now, LEAF_LIFE);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf(ca, params)
}

fn leaf(ca: &Authority<'_>, mut params: CertificateParams) -> Result<Issued, rcgen::Error> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(ca.certificate, KeyPair::from_pem(ca.key)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Issued { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn params(name: &str, now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let backdated = i64::try_from(BACKDATED.as_secs()).unwrap_or_default();
    let begin = Timestamp::from_secs(now.as_secs().saturating_sub(backdated));
    params.not_before = date(begin);
    params.not_after = date(begin.after(life));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate cannot name times outside these years; a clock that far off
/// makes one that is made anew.
fn date(at: Timestamp) -> OffsetDateTime {
    const YEAR_1970: i64 = 0;
    const YEAR_9999: i64 = 253_370_764_800;
    let secs = at.as_secs().clamp(YEAR_1970, YEAR_9999);
    OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
