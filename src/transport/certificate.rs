//! Certificates from files: the client's own with its key, and trust roots.
//! Each call reads them again, so that a renewed file counts from
//! the next sync on.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the error enums of other crates grow; what is new in them is read aloud"
)]

use std::sync::Arc;

use base64::Engine as _;
use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as Pkcs12Error;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate, X509Error};
use x509_parser::x509::X509Name;

use super::{ClientCertificate, Roots};
use crate::failure::{Failure, FailureKind};
use crate::files;
use crate::model::Timestamp;
use crate::model::text::hex;

/// Larger files are not certificates; the largest trust bundles have 300 KiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The description of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's common name, or the whole subject if it has none.
    pub subject: String,
    /// The same of the issuer.
    pub issuer: String,
    /// Valid from then.
    pub not_before: Timestamp,
    /// Valid until then.
    pub not_after: Timestamp,
    /// Lower-case hex digits of the SHA-256 of its DER form.
    pub sha256: String,
}

impl CertificateFacts {
    /// Whether it is valid at that time. Both ends belong to its validity.
    #[must_use]
    pub fn valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            not_before: Timestamp::from_secs(validity.not_before.timestamp()),
            not_after: Timestamp::from_secs(validity.not_after.timestamp()),
            sha256: hex(&Sha256::digest(der)),
        })
    }
}

/// A distinguished name as people know it.
pub(super) fn name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|cn| cn.as_str().ok());
    crate::model::text::on_one_line(&common.map_or_else(|| name.to_string(), str::to_owned), 100)
}

/// A client certificate ready for use.
#[derive(Clone, Debug)]
pub(super) struct ClientIdentity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: CertificateFacts,
}

/// Reads and describes a client certificate, for `doctor` and `status`.
///
/// # Errors
/// If the file cannot be read, holds no certificate with its key, or the
/// password is not the right one.
pub fn inspect_client_certificate(
    certificate: &ClientCertificate,
) -> Result<CertificateFacts, Failure> {
    Ok(load_identity(certificate)?.facts)
}

/// Reads and describes trust roots. Returns none for the platform's own,
/// which the operating system keeps.
///
/// # Errors
/// If the roots cannot be read or hold no certificate.
pub fn inspect_roots(roots: &Roots) -> Result<Vec<CertificateFacts>, Failure> {
    Ok(load_roots(roots)?.iter().filter_map(|der| CertificateFacts::of(der)).collect())
}

/// The configured trust roots; none for the platform's.
pub(super) fn load_roots(roots: &Roots) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let fail = |what: &str| {
        let fix = "put the CA certificates there as PEM, or remove the key to trust the \
                   system's roots";
        let message = match roots {
            Roots::File(file) => {
                format!("the trust roots in {} (ServerAuthRootsFile) {what}", file.display())
            }
            Roots::Data(_) | Roots::Platform => {
                format!("the trust roots in ServerAuthRootsData {what}")
            }
        };
        Failure::new(FailureKind::RootsUnreadable, message).fixed_by(fix)
    };
    let bytes = match roots {
        Roots::Platform => return Ok(Vec::new()),
        Roots::Data(bytes) => bytes.clone(),
        Roots::File(file) => files::read(file, MAX_FILE_BYTES)
            .map_err(|error| fail(&format!("cannot be read ({error})")))?,
    };
    let certificates = if is_pem(&bytes) {
        CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fail(&format!("are damaged ({error})")))?
    } else if bytes.first() == Some(&0x30) {
        vec![CertificateDer::from(bytes)]
    } else {
        return Err(fail("hold no certificate"));
    };
    if certificates.is_empty() {
        return Err(fail("hold no certificate"));
    }
    for (place, certificate) in certificates.iter().enumerate() {
        if X509Certificate::from_der(certificate).is_err() {
            return Err(fail(&format!("are damaged (certificate {})", place + 1)));
        }
    }
    Ok(certificates)
}

/// The client certificate, with the certificate that belongs to the key first.
pub(super) fn load_identity(certificate: &ClientCertificate) -> Result<ClientIdentity, Failure> {
    let unreadable = |what: &str, fix: &'static str| unreadable(certificate, what, fix);
    let bytes = files::read(&certificate.file, MAX_FILE_BYTES).map_err(|error| {
        unreadable(
            &format!("cannot be read ({error})"),
            "check ClientAuthCertificateFile and that this user may read it",
        )
    })?;
    let IdentityParts { certificates, keys } = if is_pem(&bytes) {
        from_pem(&bytes, certificate)?
    } else {
        from_pkcs12(&bytes, certificate)?
    };
    if certificates.is_empty() || keys.is_empty() {
        let missing = if certificates.is_empty() { "certificate" } else { "private key" };
        return Err(unreadable(
            &format!("contains no {missing}"),
            "put the chain and its key into one file (PKCS#12 or PEM)",
        ));
    }
    let provider = rustls::crypto::ring::default_provider();
    let mut reason = String::new();
    for key in &keys {
        for leaf in &certificates {
            match certified(leaf, &certificates, key.clone_key(), &provider) {
                Ok(identity) => return Ok(identity),
                Err(error) => reason = error,
            }
        }
    }
    Err(unreadable(
        &format!("cannot be used ({reason})"),
        "use an RSA (2048 bits or more), P-256, P-384 or Ed25519 key and the certificate issued \
         for it",
    ))
}

fn unreadable(certificate: &ClientCertificate, what: &str, fix: &'static str) -> Failure {
    let message = format!("the client certificate in {} {what}", certificate.file.display());
    Failure::new(FailureKind::ClientCertificateUnreadable, message).fixed_by(fix)
}

fn certified(
    leaf: &CertificateDer<'static>,
    certificates: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<ClientIdentity, String> {
    let facts = CertificateFacts::of(leaf).ok_or("damaged certificate")?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    // Compared here, because rustls reads no certificates of version 1, which OpenSSL
    // issues unless it is given extensions, and which servers take.
    let belongs = X509Certificate::from_der(leaf).is_ok_and(|(_, leaf)| {
        key.public_key().is_none_or(|public| public.as_ref() == leaf.public_key().raw)
    });
    if !belongs {
        return Err("no certificate belongs to the private key".to_owned());
    }
    let key = CertifiedKey::new(chain(leaf, certificates), key);
    Ok(ClientIdentity { key: Arc::new(key), facts })
}

/// The leaf and its issuers, as far as the file has them.
fn chain(
    leaf: &CertificateDer<'static>,
    certificates: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    let issuer_of = |der: &CertificateDer<'_>| {
        let (_, below) = X509Certificate::from_der(der).ok()?;
        certificates.iter().find(|candidate| {
            X509Certificate::from_der(candidate).is_ok_and(|(_, above)| issued(&above, &below))
        })
    };
    let mut chain = vec![leaf.clone()];
    while let Some(issuer) = chain.last().and_then(issuer_of) {
        // A root is its own issuer; servers have it already.
        if chain.contains(issuer) {
            break;
        }
        chain.push(issuer.clone());
    }
    chain
}

/// Whether one certificate was issued by another: a CA that was renewed or has
/// several keys has several certificates of one name. Key ids decide where both
/// have them, else the signature, if it is of a kind that can be verified.
fn issued(above: &X509Certificate<'_>, below: &X509Certificate<'_>) -> bool {
    if above.subject() != below.issuer() {
        return false;
    }
    let key = above.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    let key_of_issuer =
        below.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(ids) => ids.key_identifier.as_ref()?.0.into(),
            _ => None,
        });
    match (key, key_of_issuer) {
        (Some(key), Some(key_of_issuer)) => key == key_of_issuer,
        (None, _) | (_, None) => matches!(
            below.verify_signature(Some(above.public_key())),
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm)
        ),
    }
}

struct IdentityParts {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
}

fn from_pkcs12(bytes: &[u8], certificate: &ClientCertificate) -> Result<IdentityParts, Failure> {
    let password = certificate.password.as_ref().map_or("", |password| password.expose());
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|error| match error {
        Pkcs12Error::MacError(_) | Pkcs12Error::Pkcs5Error(_) | Pkcs12Error::UnpadError => {
            wrong_password(certificate)
        }
        other => unreadable(
            certificate,
            &format!("is neither PEM nor readable PKCS#12 ({other})"),
            "export it again with openssl pkcs12 -export",
        ),
    })?;
    let certificates = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec().into()).collect();
    let keys = archive
        .keys
        .iter()
        .map(|bag| PrivateKeyDer::Pkcs8(bag.key.as_der().to_vec().into()))
        .collect();
    Ok(IdentityParts { certificates, keys })
}

fn from_pem(bytes: &[u8], certificate: &ClientCertificate) -> Result<IdentityParts, Failure> {
    let damaged = |what: String| {
        Failure::new(
            FailureKind::ClientCertificateUnreadable,
            format!(
                "the client certificate in {} is damaged ({what}); export it again",
                certificate.file.display()
            ),
        )
    };
    let text = String::from_utf8_lossy(bytes);
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(unreadable(
            certificate,
            "has a key encrypted in the old PEM form",
            "convert the key with openssl pkcs8 -topk8",
        ));
    }
    let certificates = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| damaged(error.to_string()))?;
    let mut keys = PrivateKeyDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(error.to_string()))?;
    for section in text.split("-----BEGIN ENCRYPTED PRIVATE KEY-----").skip(1) {
        let base64: String =
            section.lines().take_while(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD
            .decode(base64.trim())
            .map_err(|error| damaged(error.to_string()))?;
        let info = EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
            .map_err(|error| damaged(error.to_string()))?;
        let password = certificate.password.as_ref().map_or("", |password| password.expose());
        let key = info.decrypt(password).map_err(|_| wrong_password(certificate))?;
        keys.push(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()));
    }
    Ok(IdentityParts { certificates, keys })
}

fn wrong_password(certificate: &ClientCertificate) -> Failure {
    let file = certificate.file.display();
    let (message, fix) = if certificate.password.is_some() {
        (
            format!("the password does not open the client certificate in {file}"),
            "check ClientAuthCertificatePassword",
        )
    } else {
        (
            format!("the client certificate in {file} is encrypted and no password is configured"),
            "set ClientAuthCertificatePassword",
        )
    };
    Failure::new(FailureKind::ClientCertificatePassword, message).fixed_by(fix)
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

#[cfg(test)]
mod tests;
