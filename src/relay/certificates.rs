//! The relay's certificates: a CA of its own, the server's certificate, and the
//! authorizer's client certificate.
//!
//! The keys stay in one file of the state directory, replaced as a whole, so
//! that a crash leaves a set that fits together. [`ensure`] makes what is
//! missing, renews what has reached half of its life, and makes everything anew
//! on another hardware, because a copied key is no longer this host's alone.
//! What the authorizer has to read is in `RelayDirectory`, and is written again
//! whenever it is not as it should be.

mod directory;
mod issue;
mod keys;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use thiserror::Error;

use self::keys::Keys;
use crate::failure::Remedy;
use crate::files::{Exposed, Obstacle};
use crate::model::{Secret, Timestamp};

pub use self::directory::{CA_FILE, CLIENT_FILE};
pub use self::keys::KEYS_FILE;

/// Where the keys and the certificates are, and who reads them.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The state directory, which holds the keys.
    pub state_dir: &'a Path,
    /// `RelayDirectory`, which the authorizer reads.
    pub directory: &'a Path,
    /// Who gets a client certificate; `None`: nobody.
    pub client: Option<ClientReader<'a>>,
}

/// The user that the authorizer's sync client runs as.
#[derive(Clone, Copy, Debug)]
pub struct ClientReader<'a> {
    /// The only user that can read the client certificate, besides root.
    pub user: u32,
    /// The password by which the authorizer opens it; `None`: one of the
    /// relay's own making.
    pub password: Option<&'a Secret>,
}

/// Why there are no certificates to serve with.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The file with the keys cannot be read or written.
    #[error("the relay's keys in {path} cannot be {action}: {source}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: Obstacle,
    },
    /// Others may replace what is in `RelayDirectory`.
    #[error("the relay's directory is not safe: {0}")]
    Exposed(#[from] Exposed),
    /// A file or directory for the authorizer cannot be written.
    #[error("{path} cannot be written: {source}")]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Obstacle,
    },
    /// The client certificate cannot be given to the user that needs it.
    #[error("{path} cannot be given to user {user}: {source}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user.
        user: u32,
        /// Why.
        source: std::io::Error,
    },
    /// The system or a library refuses to make a certificate or to use it.
    #[error("the relay's certificates cannot be {action}: {reason}")]
    Library {
        /// `made` or `used`.
        action: &'static str,
        /// Why.
        reason: String,
    },
}

impl Remedy for CertificateError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Keys { .. } => Some(
                "run as the owner of the state directory; if that is so, remove the file, and new \
                 keys are made"
                    .into(),
            ),
            Self::Exposed(exposed) => Some(exposed.fix().into()),
            Self::Directory { .. } | Self::Owner { .. } => {
                Some("run as root, or set RelayDirectory to a directory of this user's".into())
            }
            Self::Library { .. } => None,
        }
    }
}

/// Certificates that can be served with, all valid at the time they were asked
/// for.
#[derive(Debug)]
pub struct RelayCertificates {
    keys: Keys,
    /// Why everything was made anew in this call, if it was.
    made_because: Option<String>,
}

impl RelayCertificates {
    /// The TLS side of the listener: TLS 1.2 or later, HTTP/1.1. With
    /// `client_certificate` a handshake fails without a certificate of the
    /// relay's CA.
    ///
    /// # Errors
    /// If the library refuses the certificates.
    pub fn server_config(
        &self,
        client_certificate: bool,
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        let refused = |reason: String| CertificateError::Library { action: "used", reason };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?;
        let builder = if client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.keys.ca.der()).map_err(|error| refused(error.to_string()))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .map_err(|error| refused(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let server = &self.keys.server;
        let key = server.private_key().map_err(refused)?;
        let mut config = builder
            .with_single_cert(vec![server.der()], key)
            .map_err(|error| refused(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The time from which all of these certificates are valid.
    #[must_use]
    pub fn valid_from(&self) -> Timestamp {
        let client = self.keys.client.as_ref().map(|client| client.not_before);
        self.keys
            .ca
            .not_before
            .max(self.keys.server.not_before)
            .max(client.unwrap_or(self.keys.ca.not_before))
    }

    /// The time from which [`ensure`] has something to renew.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        let client = self.keys.client.as_ref().map(keys::Pair::renew_at);
        let server = self.keys.server.renew_at();
        client.map_or(server, |client| client.min(server)).min(self.keys.ca.renew_at())
    }

    /// Lower-case hex digits of the SHA-256 of the CA's certificate.
    #[must_use]
    pub fn ca_sha256(&self) -> String {
        self.keys.ca.sha256()
    }

    /// When the server's certificate expires.
    #[must_use]
    pub fn server_expires(&self) -> Timestamp {
        self.keys.server.not_after
    }

    /// The password of the client certificate; `None` without one.
    #[must_use]
    pub fn client_password(&self) -> Option<&Secret> {
        self.keys.client_password.as_ref()
    }

    /// Why all certificates were made anew; `None` if the CA is the former one.
    #[must_use]
    pub fn made_because(&self) -> Option<&str> {
        self.made_because.as_deref()
    }
}

/// Makes, renews and publishes what is needed at `now`, and returns it. Doing it
/// twice is doing it once. `hardware` is the hardware UUID, `None` if it cannot
/// be read.
///
/// # Errors
/// If the keys cannot be kept, or the authorizer could not read what it needs.
pub fn ensure(
    places: &Places<'_>,
    hardware: Option<&str>,
    now: Timestamp,
) -> Result<RelayCertificates, CertificateError> {
    // A setup by hand and the daemon may come here at once.
    let _lock = keys::lock(places.state_dir)?;
    let kept = match keys::load(places.state_dir)? {
        Ok(Some(kept)) => match kept.unusable_because(hardware, now) {
            None => Ok(kept),
            // The password stays, because it is in the authorizer's profile.
            Some(reason) => Err((reason, kept.client_password)),
        },
        Ok(None) => Err(("there were none".to_owned(), None)),
        Err(flaw) => Err((flaw, None)),
    };
    let (mut keys, made_because) = match kept {
        Ok(kept) => (kept, None),
        Err((reason, password)) => (Keys::make(hardware, password, now)?, Some(reason)),
    };
    let mut is_changed = made_because.is_some();
    if let Some(reason) = &made_because {
        tracing::info!(reason, "the relay's certificates were made anew");
    }
    is_changed |= keys.renew(places.client.as_ref(), hardware, now)?;
    if is_changed {
        keys::store(places.state_dir, &keys)?;
    }
    directory::publish(places, &keys)?;
    Ok(RelayCertificates { keys, made_because })
}

/// Reads the certificates without making any; `None` if there are none that can
/// be used.
///
/// # Errors
/// If the keys cannot be read.
pub fn inspect(state_dir: &Path) -> Result<Option<RelayCertificates>, CertificateError> {
    let keys = keys::load(state_dir)?.unwrap_or_default();
    Ok(keys.map(|keys| RelayCertificates { keys, made_because: None }))
}

/// Removes what [`ensure`] has written to `RelayDirectory`, and the keys. What
/// else lies in the directory stays.
///
/// # Errors
/// If a file cannot be removed.
pub fn remove(state_dir: &Path, directory: &Path) -> Result<(), CertificateError> {
    directory::remove(directory)?;
    keys::remove(state_dir)
}

#[cfg(test)]
mod tests;
