//! One daemon on a state directory: the lock it holds for as long as it lives.

use std::io;
use std::path::Path;

use super::DaemonError;
use super::beat::Beat;
use crate::files::{self, Access, FileLock};

/// The file in the state directory whose lock says that a daemon runs.
const LOCK_FILE: &str = "daemon.lock";

/// The right to be the daemon of a state directory, held until dropped.
#[derive(Debug)]
pub(super) struct Guard(FileLock);

impl Guard {
    /// Takes the place.
    ///
    /// # Errors
    /// If it cannot be locked, or another daemon holds it.
    pub(super) fn take_or_say_who(state_dir: &Path) -> Result<Self, DaemonError> {
        let path = || state_dir.to_owned();
        Self::take(state_dir)
            .map_err(|source| DaemonError::Guard { path: path(), source })?
            .ok_or_else(|| DaemonError::Taken {
                path: path(),
                pid: Beat::read(state_dir).map(|beat| beat.pid),
            })
    }

    /// Whether this is the lock of the state directory at this path: that
    /// directory may have been removed or replaced.
    pub(super) fn holds(&self, state_dir: &Path) -> bool {
        self.0.is_at(&state_dir.join(LOCK_FILE))
    }

    /// Takes the place, if it is free.
    pub(super) fn take(state_dir: &Path) -> io::Result<Option<Self>> {
        let file = files::open_own(&state_dir.join(LOCK_FILE), Access::Write)?;
        Ok(FileLock::try_new(file)?.map(Self))
    }
}

/// Whether a daemon runs on the state directory. A directory that cannot be
/// read counts as free.
#[must_use]
pub fn is_taken(state_dir: &Path) -> bool {
    files::is_locked(&state_dir.join(LOCK_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_place() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_taken(dir.path()));
        let guard = Guard::take(dir.path()).expect("no error").expect("the place");
        assert!(is_taken(dir.path()));
        assert!(Guard::take(dir.path()).expect("no error").is_none());
        assert!(guard.holds(dir.path()));
        std::fs::remove_file(dir.path().join(LOCK_FILE)).expect("removed");
        assert!(!guard.holds(dir.path()), "it is gone");
        let another = Guard::take(dir.path()).expect("no error").expect("the new place");
        assert!(another.holds(dir.path()) && !guard.holds(dir.path()), "it is another one");
        drop(another);
        drop(guard);
        assert!(!is_taken(dir.path()));
        assert!(Guard::take(dir.path()).expect("no error").is_some());
    }
}
