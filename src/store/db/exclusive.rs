//! Lets one process at a time create, migrate, check or set aside a database.
//!
//! SQLite's own locks do not cover this: switching to a write-ahead log and
//! renaming a file happen outside of any transaction.

use std::path::Path;
use std::time::Duration;

use rustix::event::Timespec;

use super::StoreError;
use crate::files::{self, Access, FileLock, beside};

/// The longest wait for other processes. Migrating a million rows takes a
/// fraction of it.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// The pause between two attempts.
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// The right to prepare a database, held until dropped or until the process
/// ends. It does not restrict use of the database.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: FileLock,
}

impl Turn {
    /// Waits for the turn. The lock file is never deleted: otherwise two
    /// processes could hold locks on two files of the same name.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_file = beside(path, "-lock");
        let failed = |found| StoreError::from_obstacle(&lock_file, found);
        for _ in 0..MAX_WAIT.as_millis() / TURN_PAUSE.as_millis() {
            let file = files::open_own(&lock_file, Access::Write).map_err(failed)?;
            match FileLock::try_new(file).map_err(|error| failed(error.into()))? {
                Some(lock) => return Ok(Self { _lock: lock }),
                None => pause(),
            }
        }
        Err(StoreError::BeingPrepared { path: path.to_owned(), seconds: MAX_WAIT.as_secs() })
    }
}

/// Pauses briefly.
pub(super) fn pause() {
    let Ok(timeout) = Timespec::try_from(TURN_PAUSE) else { return };
    // Polling nothing only waits.
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}
