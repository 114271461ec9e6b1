//! Advisory locks on whole files, which the kernel drops with the process that
//! holds them, however it ended.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Access, FileIdentity, open_own};

/// How often a lock is tried while somebody only looks at it.
const ATTEMPTS: u32 = 1_000;
/// How many of these attempts are made without a pause. Whoever looks may lose the processor
/// meanwhile, for several time slices.
const AT_ONCE: u32 = 100;
/// The pause before each later attempt.
const PAUSE: Duration = Duration::from_millis(1);

/// An exclusive lock on an open file, held until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough while a program that another thread starts
        // still has a copy of the descriptor.
        let _ = self.file.unlock();
    }
}

impl FileLock {
    /// Locks a file unless somebody else holds it; then returns `None`. A look
    /// by [`is_locked`] lasts for an instant and does not count.
    ///
    /// # Errors
    /// If the file cannot be locked at all.
    pub fn try_new(file: File) -> io::Result<Option<Self>> {
        for attempt in 0..ATTEMPTS {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { file })),
                Err(TryLockError::WouldBlock) if !can_share(&file) => return Ok(None),
                Err(TryLockError::WouldBlock) if attempt < AT_ONCE => std::thread::yield_now(),
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(PAUSE),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Locks a file, and blocks the thread while somebody else holds it.
    ///
    /// # Errors
    /// If the file cannot be locked at all.
    pub fn wait(file: File) -> io::Result<Self> {
        loop {
            match file.lock() {
                Ok(()) => return Ok(Self { file }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The locked file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Whether the locked file is the one at that path, which may have been
    /// removed or replaced since.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let locked = self.file.metadata().ok().map(|metadata| FileIdentity::from(&metadata));
        locked.is_some() && locked == FileIdentity::at(path)
    }
}

/// Whether somebody holds an exclusive lock on the file of this program at
/// `path`. Creates nothing; a file that cannot be read counts as free.
#[must_use]
pub fn is_locked(path: &Path) -> bool {
    open_own(path, Access::Read).is_ok_and(|file| !can_share(&file))
}

/// Whether a shared lock can be had: then nobody holds an exclusive one.
fn can_share(file: &File) -> bool {
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => false,
        Ok(()) | Err(TryLockError::Error(_)) => {
            let _ = file.unlock();
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> File {
        open_own(path, Access::Write).expect("opened")
    }

    #[test]
    fn one_holds_a_lock_and_looking_does_not_take_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        assert!(!is_locked(&path));
        let held = FileLock::try_new(open(&path)).expect("no error").expect("free");
        assert!(is_locked(&path));
        assert!(FileLock::try_new(open(&path)).expect("no error").is_none());
        drop(held);
        assert!(!is_locked(&path));
        drop(FileLock::wait(open(&path)).expect("free again"));
    }

    /// SYNC-6: a process about to start has a copy of every descriptor.
    #[test]
    fn sync_6_a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let held = FileLock::try_new(open(&path)).expect("no error").expect("free");
        let _copy = held.file().try_clone().expect("a copy");
        drop(held);
        assert!(!is_locked(&path));
    }

    /// Any number of looks do not keep a free lock from being taken.
    #[test]
    fn a_look_never_counts_as_a_holder() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        drop(open(&path));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = is_locked(&path);
                }
            });
            for _ in 0..1_000 {
                let held = FileLock::try_new(open(&path)).expect("no error");
                if held.is_none() {
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                    panic!("a look was taken for a holder");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_lock_knows_when_its_file_was_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let held = FileLock::try_new(open(&path)).expect("no error").expect("free");
        assert!(held.is_at(&path));
        std::fs::remove_file(&path).expect("removed");
        assert!(!held.is_at(&path), "it is gone");
        let another = FileLock::try_new(open(&path)).expect("no error").expect("free");
        assert!(another.is_at(&path) && !held.is_at(&path), "it is another file");
    }
}
