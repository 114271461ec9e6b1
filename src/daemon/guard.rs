//! One daemon on a state directory: the lock it holds for as long as it lives.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::DaemonError;
use super::beat::Beat;
use crate::files::{self, Access};

/// The file in the state directory whose lock says that a daemon runs.
const LOCK_FILE: &str = "daemon.lock";

/// The right to be the daemon of a state directory, held until dropped.
#[derive(Debug)]
pub(super) struct Guard {
    file: File,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing is not enough while a program that another thread starts
        // still has a copy of the descriptor.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

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

    /// Whether this is the lock of the state directory that lies at this path:
    /// that directory may have been removed or replaced.
    pub(super) fn holds(&self, state_dir: &Path) -> bool {
        let number = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let there = fs::symlink_metadata(state_dir.join(LOCK_FILE)).ok().map(number);
        there.is_some() && there == self.file.metadata().ok().map(number)
    }

    /// Takes the place, if it is free.
    pub(super) fn take(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = state_dir.join(LOCK_FILE);
        let file = files::open_own(&path, Access::Write)?;
        // Whoever only looks, see [`is_taken`], is gone in an instant.
        for _ in 0..1_000 {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { file })),
                Err(Errno::WOULDBLOCK) if !shared(&file) => return Ok(None),
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// Whether a daemon runs on the state directory. A directory that cannot be
/// read counts as free.
#[must_use]
pub fn is_taken(state_dir: &Path) -> bool {
    let path = state_dir.join(LOCK_FILE);
    files::open_own(&path, Access::Read).is_ok_and(|file| !shared(&file))
}

/// Whether the lock can be shared: then nobody holds it for himself.
fn shared(file: &File) -> bool {
    if flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
        return false;
    }
    let _ = flock(file, FlockOperation::Unlock);
    true
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
