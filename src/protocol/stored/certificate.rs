//! Signing certificates: archived as DER, sent as what a server wants to know.

use sha2::{Digest as _, Sha256};
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use super::super::archive::{ArchiveError, ArchivedObject, ArchivedValue};
use super::super::wire;
use crate::model::text::hex;

/// The longest chain read; longer ones are cut. Real ones have three.
const MAX_CHAIN: usize = 32;

/// The certificates of a signing chain, leaf first.
pub(super) fn chain(
    owner: &ArchivedObject<'_>,
    key: &'static str,
) -> Result<Vec<wire::Certificate>, ArchiveError> {
    let Some(list) = owner.list(key)? else { return Ok(Vec::new()) };
    list.iter()
        .take(MAX_CHAIN)
        .map(|element| {
            let element = element?;
            let ArchivedValue::Object(certificate) = element else {
                return Err(owner.kind(key, &element, "a list of MOLCertificate"));
            };
            if certificate.class() != "MOLCertificate" {
                return Err(owner.kind(key, &element, "a list of MOLCertificate"));
            }
            let der = certificate.bytes("certData")?;
            Ok(from_der(der.ok_or_else(|| certificate.missing("certData"))?))
        })
        .collect()
}

/// What a certificate says. Of one that cannot be parsed only the hash is
/// known, which still tells it apart.
pub(super) fn from_der(der: &[u8]) -> wire::Certificate {
    let mut certificate =
        wire::Certificate { sha256: hex(&Sha256::digest(der)), ..wire::Certificate::default() };
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        let subject = parsed.subject();
        certificate.cn = first(subject.iter_common_name());
        certificate.org = first(subject.iter_organization());
        certificate.ou = first(subject.iter_organizational_unit());
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        certificate.valid_from = seconds(parsed.validity().not_before.timestamp());
        certificate.valid_until = seconds(parsed.validity().not_after.timestamp());
    }
    certificate
}

fn first<'a>(mut names: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> String {
    names.next().map(text).unwrap_or_default()
}

/// The text of a name's part, in whichever of ASN.1's string types.
fn text(part: &AttributeTypeAndValue<'_>) -> String {
    let value = part.attr_value();
    match value.tag() {
        Tag::BmpString => {
            let units: Vec<u16> = value
                .data
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                .collect();
            String::from_utf16_lossy(&units)
        }
        Tag::TeletexString => value.data.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(value.data).into_owned(),
    }
}
