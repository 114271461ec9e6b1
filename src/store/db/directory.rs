//! The state directory: private to its owner, and at a place where nobody else
//! can replace its files.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::StoreError;
use crate::files;
use crate::store::{EVENTS_FILE, LOCK_FILE, RULES_FILE};

/// The mode of the directory.
const PRIVATE_MODE: u32 = 0o700;
/// The mode that the daemon sets for a `SocketGroup`, which may reach the
/// control socket but not list the directory.
const FOR_SOCKET_GROUP: u32 = 0o710;
/// A directory that contains one of these is a state directory.
const OUR_FILES: [&str; 3] = [RULES_FILE, EVENTS_FILE, LOCK_FILE];

/// Creates the state directory, or checks the existing one and makes it
/// private.
pub(in crate::store) fn prepare_dir(dir: &Path) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Directory { path: dir.to_owned(), source };
    let refused = |reason: &str| unusable(io::Error::new(io::ErrorKind::InvalidInput, reason));
    if dir.to_str().is_none() {
        // SQLite needs the directory as text.
        return Err(refused("the name of a state directory must be UTF-8"));
    }
    // Checked before creating it, too: a directory created where others may
    // write could be replaced at once.
    for _ in 0..2 {
        files::check_guarded(dir)
            .map_err(|exposed| StoreError::DirectoryExposed { path: dir.to_owned(), exposed })?;
        DirBuilder::new().recursive(true).mode(PRIVATE_MODE).create(dir).map_err(unusable)?;
    }
    let mode = fs::metadata(dir).map_err(unusable)?.permissions().mode() & 0o7777;
    if mode == PRIVATE_MODE || mode == FOR_SOCKET_GROUP {
        return Ok(());
    }
    // A mistyped --state-dir must not close /etc to everybody.
    let is_ours = || OUR_FILES.iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok());
    if !is_ours() && holds_directories(dir).map_err(unusable)? {
        return Err(refused(&format!(
            "others may use it (mode {mode:04o}) and it contains directories, so it is not a state directory"
        )));
    }
    fs::set_permissions(dir, Permissions::from_mode(PRIVATE_MODE)).map_err(unusable)
}

fn holds_directories(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}
