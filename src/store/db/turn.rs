//! One process at a time creates, migrates, checks or sets aside a database.
//!
//! SQLite's own locks do not cover that: the switch to a write-ahead log and
//! the renaming of a file happen outside of any transaction.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{StoreError, beside};
use crate::files::{self, Access};

/// The longest wait for other processes. A migration of a million rows takes a
/// fraction of it.
const LONGEST: Duration = Duration::from_mins(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to prepare a database, held until dropped or until the process
/// ends. It says nothing about who uses the database.
#[derive(Debug)]
pub(super) struct Turn {
    file: File,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Closing is not enough while a program that another thread starts
        // still has a copy of the descriptor.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Turn {
    /// Waits for the turn. The lock file stays: deleting it would let two
    /// processes hold locks on two files of the same name.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock = beside(path, "-lock");
        let file = files::open_own(&lock, Access::Write)
            .map_err(|found| StoreError::from_obstacle(&lock, found))?;
        for _ in 0..LONGEST.as_millis() / PAUSE.as_millis() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK) => pause(),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(StoreError::File { path: lock, source: error.into() });
                }
            }
        }
        Err(StoreError::BeingPrepared { path: path.to_owned(), seconds: LONGEST.as_secs() })
    }
}

/// Lets other processes run for a moment.
pub(super) fn pause() {
    let Ok(timeout) = Timespec::try_from(PAUSE) else { return };
    // A poll of nothing: only the time passes.
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}
