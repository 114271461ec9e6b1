//! The lock of the state directory: one sync runs, one more may wait.
//!
//! Both places are advisory file locks, which the kernel drops with the process
//! that held them, however it ended. Whoever runs holds `agent.lock`; whoever
//! waits holds the directory itself meanwhile.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::files::{self, Access, Obstacle};

/// The file in the state directory whose lock says that a sync runs.
pub const LOCK_FILE: &str = "agent.lock";

/// Why the state directory was not locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// One runs, and another waits already or waiting was not wanted.
    #[error("too many syncs are in progress on {0}; try again later")]
    TooManySyncs(PathBuf),
    /// Something else than a file of ours is in the lock file's place.
    #[error("cannot lock {path}: it is {what}; move it away, and the next sync makes a new one")]
    NotAFile {
        /// The lock file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The lock file or the directory cannot be opened or locked.
    #[error("cannot lock {path}: {source}; check that the state directory exists and is yours")]
    Unusable {
        /// What could not be locked.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
pub struct StateLock {
    running: File,
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // One that was opened to read has nobody's number in it.
        let _ = self.running.set_len(0);
        // Closing is not enough while a program that another thread starts
        // still has a copy of the descriptor.
        let _ = flock(&self.running, FlockOperation::Unlock);
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
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| LockError::Unusable { path, source }
        };
        let running = files::open_own(&path, Access::Write)
            .map_err(|found| LockError::from_obstacle(&path, found))?;
        if try_lock(&running).map_err(unusable(&path))? {
            return Ok(Self::held(running));
        }
        if !wait {
            return Err(LockError::TooManySyncs(dir.to_owned()));
        }
        let waiting = File::open(dir).map_err(unusable(dir))?;
        if !try_lock(&waiting).map_err(unusable(dir))? {
            return Err(LockError::TooManySyncs(dir.to_owned()));
        }
        loop {
            match flock(&running, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self::held(running)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(unusable(&path)(error.into())),
            }
        }
    }

    /// Leaves word of who holds it, for people who wait; nothing rests on it.
    fn held(running: File) -> Self {
        use std::os::unix::fs::FileExt as _;
        let id = std::process::id().to_string();
        let _ = running.set_len(0).and_then(|()| running.write_all_at(id.as_bytes(), 0));
        Self { running }
    }

    /// The process that syncs on the directory, if one does and it is known.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<u32> {
        // The digits of a process id, and no more.
        let id = files::read_own(&dir.join(LOCK_FILE), 20).ok()??;
        let id = std::str::from_utf8(&id).ok()?.parse().ok()?;
        Self::is_held(dir).then_some(id)
    }

    /// Takes the lock of a directory in which there is one, without waiting and
    /// without creating anything.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub fn acquire_existing(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        let running = files::open_own(&path, Access::Read)
            .map_err(|found| LockError::from_obstacle(&path, found))?;
        if try_lock(&running).map_err(unusable)? {
            return Ok(Self { running });
        }
        Err(LockError::TooManySyncs(dir.to_owned()))
    }

    /// Whether a sync runs on the directory. Takes no place and creates
    /// nothing; a directory or lock file that cannot be read counts as free.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        // The shared lock lasts for an instant; `try_lock` tells it from a sync.
        let path = dir.join(LOCK_FILE);
        let Ok(file) = files::open_own(&path, Access::Read) else { return false };
        let shared = flock(&file, FlockOperation::NonBlockingLockShared);
        let _ = flock(&file, FlockOperation::Unlock);
        shared == Err(Errno::WOULDBLOCK)
    }
}

/// Takes the lock if nobody has it. A shared lock is [`StateLock::is_held`]
/// looking and gone in an instant, so it does not count.
fn try_lock(file: &File) -> io::Result<bool> {
    const TRIES: u32 = 1_000;
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) | Err(Errno::INTR) => flock(file, FlockOperation::Unlock)?,
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        std::thread::yield_now();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    /// SYNC-6: one runs; without waiting the next is told so at once.
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

    /// SYNC-6: who waits asks who is running, whatever lies in the lock's place.
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
            while flock(&probe, FlockOperation::NonBlockingLockShared).is_ok() {
                flock(&probe, FlockOperation::Unlock).expect("unlocked");
                std::thread::yield_now();
            }
            let third = StateLock::acquire(dir.path(), true);
            assert!(matches!(third, Err(LockError::TooManySyncs(_))), "{third:?}");
            drop(running);
            waiter.join().expect("no panic").expect("the waiter runs in its turn");
        });
        StateLock::acquire(dir.path(), false).expect("the lock is free again");
    }

    /// SYNC-6: a process about to start has a copy of every descriptor.
    #[test]
    fn sync_6_a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = state_dir();
        let running = StateLock::acquire(dir.path(), false).expect("the lock");
        let _copy = running.running.try_clone().expect("a copy");
        drop(running);
        assert!(!StateLock::is_held(dir.path()));
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
