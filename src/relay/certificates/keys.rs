//! The relay's keys in the state directory.

use std::path::Path;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::issue::{self, Authority, Issued};
use super::{CertificateError, ClientReader};
use crate::files::{self, Access, FileLock, Replacement};
use crate::model::text::hex;
use crate::model::{Secret, Timestamp};

/// The file's name in the state directory.
pub const KEYS_FILE: &str = "relay-keys.json";

/// The form of the file. One of a newer form is not understood.
const VERSION: u32 = 1;

/// Six PEM texts take 5 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Characters of the password that the relay makes, each of 5 bits.
const PASSWORD_CHARS: usize = 26;

/// A certificate and its key, which fit together.
pub(super) struct Pair {
    certificate: String,
    key: Secret,
    der: CertificateDer<'static>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Everything that is kept.
#[derive(Debug)]
pub(super) struct Keys {
    /// The hardware that they were made on; `None` if it could not be read.
    hardware: Option<String>,
    pub(super) ca: Pair,
    pub(super) server: Pair,
    pub(super) client: Option<Pair>,
    /// The password that the client certificate is published with.
    pub(super) client_password: Option<Secret>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct KeysFile {
    version: u32,
    hardware_uuid: Option<String>,
    ca: PairText,
    server: PairText,
    client: Option<PairText>,
    client_password: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PairText {
    certificate: String,
    key: String,
}

impl Pair {
    pub(super) fn of(certificate: String, key: String) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| error.to_string())?;
        let (not_before, not_after) = {
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
            let validity = parsed.validity();
            (validity.not_before.timestamp(), validity.not_after.timestamp())
        };
        let pair = Self {
            certificate,
            key: Secret::new(key),
            der,
            not_before: Timestamp::from_secs(not_before),
            not_after: Timestamp::from_secs(not_after),
        };
        CertifiedKey::from_der(vec![pair.der()], pair.private_key()?, &default_provider())
            .map_err(|error| error.to_string())?;
        Ok(pair)
    }

    fn made(issued: Result<Issued, rcgen::Error>) -> Result<Self, CertificateError> {
        let made = issued.map_err(|error| error.to_string());
        made.and_then(|Issued { certificate, key }| Self::of(certificate, key))
            .map_err(|reason| CertificateError::Library { action: "made", reason })
    }

    /// The certificate as PEM.
    pub(super) fn pem(&self) -> &str {
        &self.certificate
    }

    /// The certificate.
    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// The key, in the form of PKCS#8.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes())
            .map_err(|error| error.to_string())
    }

    pub(super) fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.der))
    }

    /// Half of its life.
    pub(super) fn renew_at(&self) -> Timestamp {
        self.not_before.after(self.not_after.since(self.not_before) / 2)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        now < self.not_before || self.renew_at() <= now
    }

    fn is_issued_by(&self, ca: &Self) -> bool {
        let parsed = |pair: &Self| {
            let der = pair.der();
            let (_, ca) = X509Certificate::from_der(&ca.der).ok()?;
            let (_, leaf) = X509Certificate::from_der(&der).ok()?;
            leaf.verify_signature(Some(ca.public_key())).ok()
        };
        parsed(self).is_some()
    }

    fn authority(&self) -> Authority<'_> {
        Authority { certificate: &self.der, key: self.key.expose() }
    }

    fn text(&self) -> PairText {
        PairText { certificate: self.certificate.clone(), key: self.key.expose().to_owned() }
    }
}

/// Never shows the key.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("sha256", &self.sha256()).finish_non_exhaustive()
    }
}

impl Keys {
    /// A CA and a server's certificate of new keys.
    pub(super) fn make(
        hardware: Option<&str>,
        client_password: Option<Secret>,
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        let ca = Pair::made(issue::ca(now))?;
        let server = Pair::made(issue::server(&ca.authority(), now))?;
        let hardware = hardware.map(str::to_owned);
        Ok(Self { hardware, ca, server, client: None, client_password })
    }

    /// Why the CA must be made anew, if it must.
    pub(super) fn unusable_because(
        &self,
        hardware: Option<&str>,
        now: Timestamp,
    ) -> Option<String> {
        match (&self.hardware, hardware) {
            (Some(made_on), Some(hardware)) if made_on != hardware => {
                return Some("they were made on another hardware".to_owned());
            }
            _ => {}
        }
        self.ca.is_due(now).then(|| {
            format!("the CA is valid from {} to {}", self.ca.not_before, self.ca.not_after)
        })
    }

    /// Renews what is due, and returns whether anything changed.
    pub(super) fn renew(
        &mut self,
        reader: Option<&ClientReader<'_>>,
        hardware: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, CertificateError> {
        let mut is_changed = false;
        if self.hardware.is_none() && hardware.is_some() {
            self.hardware = hardware.map(str::to_owned);
            is_changed = true;
        }
        if self.server.is_due(now) || !self.server.is_issued_by(&self.ca) {
            self.server = Pair::made(issue::server(&self.ca.authority(), now))?;
            tracing::info!("the relay's certificate was renewed");
            is_changed = true;
        }
        let Some(reader) = reader else {
            // Without a reader the client certificate is never renewed, so it would stay due.
            return Ok(is_changed | self.client.take().is_some());
        };
        let is_usable = |pair: &Pair| !pair.is_due(now) && pair.is_issued_by(&self.ca);
        if !self.client.as_ref().is_some_and(is_usable) {
            self.client = Some(Pair::made(issue::client(&self.ca.authority(), now))?);
            tracing::info!("the authorizer's client certificate was renewed");
            is_changed = true;
        }
        let password = match (reader.password, &self.client_password) {
            (Some(given), _) => given.clone(),
            (None, Some(kept)) => kept.clone(),
            (None, None) => password()?,
        };
        is_changed |= self.client_password.as_ref() != Some(&password);
        self.client_password = Some(password);
        Ok(is_changed)
    }

    fn of(file: KeysFile) -> Result<Self, String> {
        if file.version != VERSION {
            return Err(format!("they have the form {}, not {VERSION}", file.version));
        }
        let pair = |name: &str, text: PairText| {
            Pair::of(text.certificate, text.key).map_err(|error| format!("{name}: {error}"))
        };
        Ok(Self {
            hardware: file.hardware_uuid,
            ca: pair("the CA", file.ca)?,
            server: pair("the server's certificate", file.server)?,
            client: file.client.map(|text| pair("the client certificate", text)).transpose()?,
            client_password: file.client_password.map(Secret::new),
        })
    }
}

/// A password that no one has to type.
fn password() -> Result<Secret, CertificateError> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0_u8; PASSWORD_CHARS];
    default_provider().secure_random.fill(&mut bytes).map_err(|_| CertificateError::Library {
        action: "made",
        reason: "the system has no random numbers".to_owned(),
    })?;
    let chars = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 32)));
    Ok(Secret::new(chars.map(|byte| char::from(*byte)).collect()))
}

/// Waits for whoever else makes keys.
pub(super) fn lock(state_dir: &Path) -> Result<FileLock, CertificateError> {
    let path = state_dir.join(format!("{KEYS_FILE}-lock"));
    let failed = |source| CertificateError::Keys { path: path.clone(), action: "written", source };
    let file = files::open_own(&path, Access::Write).map_err(failed)?;
    FileLock::wait(file).map_err(|error| failed(error.into()))
}

/// Reads the keys. The inner error says why what is there cannot be used, and
/// quotes nothing of it.
pub(super) fn load(state_dir: &Path) -> Result<Result<Option<Keys>, String>, CertificateError> {
    let path = state_dir.join(KEYS_FILE);
    let failed = |source| CertificateError::Keys { path: path.clone(), action: "read", source };
    // Refuses a file of another user and closes one that others can read.
    if files::keep_private(&path).map_err(failed)?.is_none() {
        return Ok(Ok(None));
    }
    let bytes = match files::read_own(&path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(files::Obstacle::TooLarge(_)) => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let Ok(file) = serde_json::from_slice::<KeysFile>(&bytes) else {
        return Ok(Err(format!("{KEYS_FILE} is damaged")));
    };
    Ok(Keys::of(file).map(Some))
}

/// Replaces the keys. They are on disk when this returns.
pub(super) fn store(state_dir: &Path, keys: &Keys) -> Result<(), CertificateError> {
    let path = state_dir.join(KEYS_FILE);
    let file = KeysFile {
        version: VERSION,
        hardware_uuid: keys.hardware.clone(),
        ca: keys.ca.text(),
        server: keys.server.text(),
        client: keys.client.as_ref().map(Pair::text),
        client_password: keys.client_password.as_ref().map(|text| text.expose().to_owned()),
    };
    let failed = |source| CertificateError::Keys { path: path.clone(), action: "written", source };
    let bytes = serde_json::to_vec_pretty(&file)
        .map_err(|error| failed(std::io::Error::other(error).into()))?;
    let how = Replacement { mode: 0o600, durable: true };
    files::replace(&path, &bytes, how).map_err(failed)
}

/// Removes the keys and their lock, if there are any.
pub(super) fn remove(state_dir: &Path) -> Result<(), CertificateError> {
    for name in [KEYS_FILE.to_owned(), format!("{KEYS_FILE}-lock")] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CertificateError::Keys {
                    path,
                    action: "removed",
                    source: error.into(),
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
