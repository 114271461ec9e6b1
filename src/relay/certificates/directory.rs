//! What the authorizer reads: the CA and its own client certificate.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12Archive,
    PrivateKey, PrivateKeyChain,
};

use super::keys::{Keys, Pair};
use super::{CertificateError, ClientReader, Places};
use crate::files::{self, Obstacle, Replacement};
use crate::model::Secret;

/// The CA's certificate as PEM, for `ServerAuthRootsFile`.
pub const CA_FILE: &str = "ca.pem";
/// The client certificate with its key, for `ClientAuthCertificateFile`.
pub const CLIENT_FILE: &str = "client.p12";

/// Larger files are not of the relay's making.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Rounds of the password's derivation, as `openssl pkcs12` has them. The file's
/// owner protects it; the password is in a profile that everyone can read.
const ITERATIONS: u32 = 2048;

/// Writes what differs from what should be there.
pub(super) fn publish(places: &Places<'_>, keys: &Keys) -> Result<(), CertificateError> {
    create(places.directory)?;
    publish_ca(&places.directory.join(CA_FILE), keys.ca.pem())?;
    let (Some(reader), Some(client), Some(password)) =
        (&places.client, &keys.client, &keys.client_password)
    else {
        return Ok(());
    };
    publish_client(&places.directory.join(CLIENT_FILE), reader, client, password)
}

/// Creates the directory, which everyone may read and only root or this user
/// may write to.
fn create(dir: &Path) -> Result<(), CertificateError> {
    let failed =
        |source: io::Error| CertificateError::Directory { path: dir.into(), source: source.into() };
    files::check_guarded(dir)?;
    let absolute = std::path::absolute(dir).map_err(failed)?;
    let existing = absolute.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    // Links above the directory are checked already; none may come between.
    let root = existing.canonicalize().map_err(failed)?;
    let below = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
    files::create_below(&root, below).map_err(failed)?;
    let metadata = fs::metadata(&absolute).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(io::Error::other("it is not a directory")));
    }
    if metadata.mode() & 0o055 == 0o055 {
        return Ok(());
    }
    // A crash may have left it closed; any other closed directory has a reason.
    if !holds_only_ours(&absolute).map_err(failed)? {
        let mode = metadata.mode() & 0o7777;
        return Err(failed(io::Error::other(format!("others cannot read it (mode {mode:04o})"))));
    }
    fs::set_permissions(&absolute, fs::Permissions::from_mode(0o755)).map_err(failed)
}

fn holds_only_ours(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if ![CA_FILE, CLIENT_FILE].contains(&name.trim_end_matches(".new")) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn publish_ca(path: &Path, pem: &str) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::Directory { path: path.to_owned(), source };
    let is_readable =
        files::own(path).map_err(failed)?.is_some_and(|metadata| metadata.mode() & 0o7777 == 0o644);
    let is_same = || {
        let found = files::read_own(path, MAX_FILE_BYTES);
        found.is_ok_and(|found| found.is_some_and(|found| found == pem.as_bytes()))
    };
    if is_readable && is_same() {
        return Ok(());
    }
    let how = Replacement { mode: 0o644, durable: true };
    files::replace(path, pem.as_bytes(), how).map_err(failed)
}

fn publish_client(
    path: &Path,
    reader: &ClientReader<'_>,
    client: &Pair,
    password: &Secret,
) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::Directory { path: path.to_owned(), source };
    let metadata = files::own(path).map_err(failed)?;
    let has_owner = metadata.as_ref().is_some_and(|metadata| metadata.uid() == reader.user);
    let is_closed = metadata.is_some_and(|metadata| metadata.mode() & 0o7777 == 0o400);
    if is_closed && holds(path, client, password) {
        return if has_owner { Ok(()) } else { give(path, reader.user) };
    }
    let bytes = pkcs12(client, password)
        .map_err(|reason| CertificateError::Library { action: "made", reason })?;
    // Given away only when it is complete and in its place: the next call sees
    // to it if this one does not come so far.
    let how = Replacement { mode: 0o400, durable: true };
    files::replace(path, &bytes, how).map_err(failed)?;
    give(path, reader.user)
}

fn give(path: &Path, user: u32) -> Result<(), CertificateError> {
    if rustix::process::geteuid().as_raw() == user {
        return Ok(());
    }
    lchown(path, Some(user), None).map_err(|source| CertificateError::Owner {
        path: path.to_owned(),
        user,
        source,
    })
}

/// Whether the file is the certificate with its key under that password.
fn holds(path: &Path, client: &Pair, password: &Secret) -> bool {
    let Ok(Some(bytes)) = files::read_own(path, MAX_FILE_BYTES) else { return false };
    let Ok(archive) = Pkcs12Archive::from_pkcs12(&bytes, password.expose()) else { return false };
    let der = client.der();
    let has_certificate = archive.certs.iter().any(|bag| bag.cert.as_der() == der.as_ref());
    let key = client.private_key();
    let has_key = archive
        .keys
        .iter()
        .any(|bag| key.as_ref().is_ok_and(|key| key.secret_der() == bag.key.as_der()));
    has_certificate && has_key
}

/// The certificate with its key in the algorithms that every macOS reads: newer
/// ones than triple DES and a SHA-1 MAC fail on some.
fn pkcs12(client: &Pair, password: &Secret) -> Result<Vec<u8>, String> {
    let text = |error: p12_keystore::error::Error| error.to_string();
    let key = PrivateKey::from_der(client.private_key()?.secret_der()).map_err(text)?;
    let certificate = Certificate::from_der(&client.der()).map_err(text)?;
    let chain = PrivateKeyChain::new([1_u8].as_slice(), key, [certificate]);
    let mut store = KeyStore::new();
    store.add_entry("santa-sync relay client", KeyStoreEntry::PrivateKeyChain(chain));
    store
        .writer(password.expose())
        .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
        .encryption_iterations(ITERATIONS)
        .mac_algorithm(MacAlgorithm::HmacSha1)
        .mac_iterations(ITERATIONS)
        .write()
        .map_err(text)
}

/// Removes both files, and the directory if that leaves it empty.
pub(super) fn remove(dir: &Path) -> Result<(), CertificateError> {
    for name in [CA_FILE, CLIENT_FILE] {
        let path = dir.join(name);
        let failed = |source: Obstacle| CertificateError::Directory { path: path.clone(), source };
        if files::own(&path).map_err(failed)?.is_some() {
            fs::remove_file(&path).map_err(|error| failed(error.into()))?;
        }
    }
    // Not empty, or not there: then it is left as it is.
    let _ = fs::remove_dir(dir);
    Ok(())
}
