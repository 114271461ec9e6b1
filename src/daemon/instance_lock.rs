//! One daemon on a state directory: the lock it holds for as long as it lives.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::DaemonError;
use crate::control::INSTANCE_LOCK_FILE;
use crate::control::status::DaemonStatus;
use crate::files::{self, Access, FileLock};

/// The right to be the daemon of a state directory, held until dropped.
#[derive(Debug)]
pub(super) struct InstanceLock(FileLock);

impl InstanceLock {
    /// Takes the place.
    ///
    /// # Errors
    /// If it cannot be locked, or another daemon holds it.
    pub(super) fn acquire(state_dir: &Path) -> Result<Self, DaemonError> {
        let path = || state_dir.to_owned();
        Self::take(state_dir)
            .map_err(|source| DaemonError::Lock { path: path(), source })?
            .ok_or_else(|| DaemonError::Taken {
                path: path(),
                pid: DaemonStatus::read(state_dir).map(|status| status.pid),
            })
    }

    /// Whether this is the lock of the state directory at this path: that
    /// directory may have been removed or replaced.
    pub(super) fn holds(&self, state_dir: &Path) -> bool {
        self.0.is_at(&state_dir.join(INSTANCE_LOCK_FILE))
    }

    /// Takes the place, if it is free.
    pub(super) fn take(state_dir: &Path) -> io::Result<Option<Self>> {
        let file = files::open_own(&state_dir.join(INSTANCE_LOCK_FILE), Access::Write)?;
        Ok(FileLock::try_new(file)?.map(Self::held))
    }

    /// Writes this process's id into the file, for people and for programs that rotate
    /// the log and signal the process.
    fn held(lock: FileLock) -> Self {
        let id = format!("{}\n", std::process::id());
        let file = lock.file();
        let _ = file.set_len(0).and_then(|()| file.write_all_at(id.as_bytes(), 0));
        Self(lock)
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        let _ = self.0.file().set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::is_daemon_running;

    #[test]
    fn there_is_one_place() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_daemon_running(dir.path()));
        let instance_lock = InstanceLock::take(dir.path()).expect("no error").expect("the place");
        assert!(is_daemon_running(dir.path()));
        assert!(InstanceLock::take(dir.path()).expect("no error").is_none());
        assert!(instance_lock.holds(dir.path()));
        let read = || std::fs::read_to_string(dir.path().join(INSTANCE_LOCK_FILE)).expect("a file");
        assert_eq!(read(), format!("{}\n", std::process::id()), "as newsyslog reads it");
        std::fs::remove_file(dir.path().join(INSTANCE_LOCK_FILE)).expect("removed");
        assert!(!instance_lock.holds(dir.path()), "it is gone");
        let another = InstanceLock::take(dir.path()).expect("no error").expect("the new place");
        assert!(another.holds(dir.path()) && !instance_lock.holds(dir.path()), "it is another one");
        drop(another);
        drop(instance_lock);
        assert!(!is_daemon_running(dir.path()));
        assert_eq!(read(), "", "no other process gets its signals");
        assert!(InstanceLock::take(dir.path()).expect("no error").is_some());
    }
}
