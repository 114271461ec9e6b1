//! Notices that the file of this program was replaced, as an upgrade does.
//!
//! Where a system has no /proc, the daemon would start syncs with the new program
//! that it was not made for. So it ends between two syncs, and the service manager
//! starts the new one. Pure but for [`examine`]: the time and what is there come in.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::FileIdentity;

/// How long a file must stay as it is until it counts as whole: who copies a program
/// into place writes it for a while.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// What tells the file of a program from any other, and from an earlier or later
/// content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramFile {
    identity: FileIdentity,
    length: u64,
    modified: (i64, i64),
}

/// Examines the program at a path; `None` if there is none that could be started.
pub(super) fn examine(path: &Path) -> Option<ProgramFile> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    Some(ProgramFile {
        identity: FileIdentity::from(&metadata),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// What is known of this program's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is the one that runs, or there is none.
    Same,
    /// It is another one since then, by [`crate::model::Now::elapsed`].
    Changing(ProgramFile, Duration),
    /// It is another one, and whole.
    Replaced,
}

/// The file of this program.
#[derive(Debug)]
pub(super) struct OwnProgram {
    path: PathBuf,
    running: ProgramFile,
    state: State,
}

impl OwnProgram {
    /// The program at a path, which runs; `None` if it cannot be examined.
    pub(super) fn new(path: PathBuf) -> Option<Self> {
        Some(Self { running: examine(&path)?, path, state: State::Same })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what is at the path now, and returns when to look again, if that is
    /// needed.
    pub(super) fn found(
        &mut self,
        file: Option<ProgramFile>,
        elapsed: Duration,
    ) -> Option<Duration> {
        let file = file.filter(|file| *file != self.running);
        self.state = match (self.state, file) {
            (State::Replaced, _) => State::Replaced,
            (State::Same | State::Changing(..), None) => State::Same,
            (State::Changing(known, since), Some(file)) if known == file => {
                if since + SETTLE_TIME <= elapsed {
                    State::Replaced
                } else {
                    State::Changing(known, since)
                }
            }
            (State::Same | State::Changing(..), Some(file)) => State::Changing(file, elapsed),
        };
        match self.state {
            State::Changing(_, since) => Some(since + SETTLE_TIME),
            State::Same | State::Replaced => None,
        }
    }

    /// Whether a process that is started now would be of another program, or of one
    /// that is not whole.
    pub(super) fn is_another(&self) -> bool {
        self.state != State::Same
    }

    /// Whether another program is in place.
    pub(super) fn is_replaced(&self) -> bool {
        self.state == State::Replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn program(path: &Path, content: &str) {
        let new = path.with_extension("new");
        fs::write(&new, content).expect("written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::rename(&new, path).expect("renamed");
    }

    /// DAEMON-5: a program counts as replaced once another one is whole.
    #[test]
    fn daemon_5_a_program_is_replaced_once_another_one_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("santa-sync");
        program(&path, "old");
        let mut own = OwnProgram::new(path.clone()).expect("it is there");
        assert_eq!(own.found(examine(&path), seconds(1)), None);
        assert!(!own.is_another());

        program(&path, "ne");
        let half = examine(&path);
        assert_eq!(own.found(half, seconds(10)), Some(seconds(15)));
        assert_eq!(own.found(half, seconds(14)), Some(seconds(15)));
        assert!(own.is_another() && !own.is_replaced());
        // Written on: the time begins again.
        program(&path, "new!");
        assert_eq!(own.found(examine(&path), seconds(15)), Some(seconds(20)));
        assert!(!own.is_replaced());
        assert_eq!(own.found(examine(&path), seconds(20)), None);
        assert!(own.is_replaced());
    }

    /// DAEMON-5: a program that is removed, or replaced by what cannot be started,
    /// leaves the daemon running; so does one that comes back.
    #[test]
    fn daemon_5_a_program_that_is_gone_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("santa-sync");
        program(&path, "old");
        let old = examine(&path);
        let mut own = OwnProgram::new(path.clone()).expect("it is there");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        assert_eq!(examine(&path), None, "nobody can start it");
        fs::remove_file(&path).expect("removed");
        assert_eq!(own.found(examine(&path), seconds(1)), None);
        program(&path, "new");
        own.found(examine(&path), seconds(2));
        assert!(own.is_another());
        own.found(old, seconds(20));
        assert!(!own.is_another(), "it was put back");
    }
}
