//! A client certificate that looks like the configured one, but must not be accepted: it has the
//! same subject and issuer names, another key, and the signature of a made-up CA.

use std::io::{self, Write as _};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::NamedTempFile;

use crate::transport::CertificateFacts;

/// Makes such a certificate, and writes it with its key to a file that is deleted when the value
/// is dropped.
pub(super) fn write(like: &CertificateFacts) -> io::Result<NamedTempFile> {
    let pem = pem(like).map_err(io::Error::other)?;
    let mut file = NamedTempFile::new()?;
    file.write_all(pem.as_bytes())?;
    file.flush()?;
    Ok(file)
}

fn pem(like: &CertificateFacts) -> Result<String, rcgen::Error> {
    let mut issuer = named(&like.issuer);
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(issuer, KeyPair::generate()?)?;
    let mut leaf = named(&like.subject);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &issuer)?;
    Ok([leaf.pem(), issuer.pem(), key.serialize_pem()].concat())
}

/// Valid from 1975 to 4096, rcgen's default: an expired certificate would be refused for another
/// reason.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
