//! The lock of a state directory: one sync runs, one more may wait.
//!
//! Both are advisory file locks, which the kernel releases when the process
//! ends. The running sync holds `agent.lock`; the waiting one holds the
//! directory itself.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::failure::Remedy;
use crate::files::{self, Access, FileLock, Obstacle};

/// The file in the state directory whose lock says that a sync runs.
pub const LOCK_FILE: &str = "agent.lock";

/// Why a state directory was not locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// A sync is running, and another one is waiting or this one may not wait.
    #[error("too many syncs are in progress on {0}")]
    TooManySyncs(PathBuf),
    /// The lock file's path is not a regular file of ours.
    #[error("cannot lock {path}: it is {what}")]
    NotAFile {
        /// The lock file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The lock file or the directory cannot be opened or locked.
    #[error("cannot lock {path}: {source}")]
    Unusable {
        /// What could not be locked.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Remedy for LockError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        let fix = match self {
            Self::TooManySyncs(_) => "try again later",
            Self::NotAFile { .. } => "move it away, and the next sync creates a new one",
            Self::Unusable { .. } => "check that the state directory exists and its owner and mode",
        };
        Some(fix.into())
    }
}

impl LockError {
    fn from_obstacle(path: &Path, obstacle: Obstacle) -> Self {
        let path = path.to_owned();
        match obstacle {
            Obstacle::Io(source) => Self::Unusable { path, source },
            Obstacle::NotAFile(what) => Self::NotAFile { path, what },
            Obstacle::TooLarge(_) => Self::Unusable { path, source: obstacle.into() },
        }
    }
}

/// The right to sync on a state directory, held until dropped.
#[derive(Debug)]
pub struct StateLock(FileLock);

impl Drop for StateLock {
    fn drop(&mut self) {
        // Fails for a lock file that was opened for reading, which names nobody.
        let _ = self.0.file().set_len(0);
    }
}

impl StateLock {
    /// Locks a state directory that exists. With `wait`, blocks the thread
    /// while another sync runs, unless somebody else waits already.
    ///
    /// # Errors
    /// [`LockError::TooManySyncs`] if a sync runs and this one may not wait;
    /// [`LockError::Unusable`] if the directory cannot be locked at all.
    pub fn acquire(dir: &Path, wait: bool) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        if let Some(lock) = try_lock(open(&path, Access::Write)?, &path)? {
            return Ok(Self::held(lock));
        }
        if !wait {
            return Err(LockError::TooManySyncs(dir.to_owned()));
        }
        let waiting = File::open(dir).map_err(unusable(dir))?;
        let Some(_waiting) = try_lock(waiting, dir)? else {
            return Err(LockError::TooManySyncs(dir.to_owned()));
        };
        let lock = FileLock::wait(open(&path, Access::Write)?).map_err(unusable(&path))?;
        Ok(Self::held(lock))
    }

    /// Writes this process's id into the lock file, for display only.
    fn held(lock: FileLock) -> Self {
        use std::os::unix::fs::FileExt as _;
        let id = std::process::id().to_string();
        let file = lock.file();
        let _ = file.set_len(0).and_then(|()| file.write_all_at(id.as_bytes(), 0));
        Self(lock)
    }

    /// Returns the id of the process that syncs on the directory, if known.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<u32> {
        // A process id has at most 20 digits.
        let id = files::read_own(&dir.join(LOCK_FILE), 20).ok()??;
        let id = std::str::from_utf8(&id).ok()?.parse().ok()?;
        Self::is_held(dir).then_some(id)
    }

    /// Locks a directory that has a lock file, without waiting and without
    /// creating anything.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub fn acquire_existing(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let lock = try_lock(open(&path, Access::Read)?, &path)?;
        lock.map(Self).ok_or_else(|| LockError::TooManySyncs(dir.to_owned()))
    }

    /// Returns whether a sync runs on the directory. Creates nothing; a
    /// directory or lock file that cannot be read counts as free.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        files::is_locked(&dir.join(LOCK_FILE))
    }
}

fn open(path: &Path, access: Access) -> Result<File, LockError> {
    files::open_own(path, access).map_err(|found| LockError::from_obstacle(path, found))
}

fn try_lock(file: File, path: &Path) -> Result<Option<FileLock>, LockError> {
    FileLock::try_new(file).map_err(unusable(path))
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> LockError + use<> {
    let path = path.to_owned();
    move |source| LockError::Unusable { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    /// SYNC-6: while one sync runs, one that may not wait is refused at once.
    #[test]
    fn sync_6_a_second_sync_that_may_not_wait_is_one_too_many() {
        let dir = state_dir();
        assert!(!StateLock::is_held(dir.path()));
        let running = StateLock::acquire(dir.path(), false).expect("the lock");
        assert!(StateLock::is_held(dir.path()));
        assert_eq!(StateLock::holder(dir.path()), Some(std::process::id()));
        let refused = StateLock::acquire(dir.path(), false);
        assert!(matches!(refused, Err(LockError::TooManySyncs(_))), "{refused:?}");
        drop(running);
        assert!(!StateLock::is_held(dir.path()));
        assert_eq!(StateLock::holder(dir.path()), None);
        StateLock::acquire(dir.path(), false).expect("the lock is free again");
    }

    /// SYNC-6: asking for the lock's holder never blocks, whatever file is at
    /// its path.
    #[test]
    fn sync_6_asking_who_holds_the_lock_waits_for_nobody() {
        let dir = state_dir();
        let fifo = dir.path().join(LOCK_FILE);
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("it ran");
        assert!(made.success());
        assert_eq!(StateLock::holder(dir.path()), None);
    }

    /// SYNC-6: one waits and gets its turn; a third is one too many.
    #[test]
    fn sync_6_one_waits_and_a_further_one_is_refused() {
        let dir = state_dir();
        let running = StateLock::acquire(dir.path(), true).expect("the lock");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| StateLock::acquire(dir.path(), true).map(drop));
            // The waiter holds the directory once it waits.
            let probe = File::open(dir.path()).expect("the directory");
            while probe.try_lock_shared().is_ok() {
                assert!(!waiter.is_finished(), "it does not wait");
                probe.unlock().expect("unlocked");
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            let third = StateLock::acquire(dir.path(), true);
            assert!(matches!(third, Err(LockError::TooManySyncs(_))), "{third:?}");
            drop(running);
            waiter.join().expect("no panic").expect("the waiter runs in its turn");
        });
        StateLock::acquire(dir.path(), false).expect("the lock is free again");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = state_dir();
        let error = StateLock::acquire(&dir.path().join("gone"), true).expect_err("no directory");
        assert!(error.to_string().contains("gone/agent.lock"), "{error}");
        assert!(!StateLock::is_held(&dir.path().join("gone")));
    }
}
