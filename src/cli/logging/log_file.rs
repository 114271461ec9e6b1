//! The file that standard error is written to, opened again after a rotation.
//!
//! Whoever starts the daemon opens its log, and a program that rotates logs renames
//! the file and sends SIGHUP. The daemon would go on writing to the renamed one.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::cli::output;
use crate::files::{self, Access, FileIdentity};

/// The file that standard error was at the start.
#[derive(Debug)]
pub(in crate::cli) struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// The file of standard error; `None` if that is not a file but a terminal, a pipe or
    /// the journal.
    pub(in crate::cli) fn of_stderr() -> Option<Self> {
        let stderr = io::stderr();
        let path = path_of(stderr.as_fd())?;
        let identity = identity(stderr.as_fd()).filter(|_| path.is_absolute())?;
        (FileIdentity::at(&path) == Some(identity)).then_some(Self { path })
    }

    /// Has standard error, and standard output if that is the same file, go on in the
    /// file that has the name of the first one, unless that is the same.
    pub(in crate::cli) fn reopen(&self) {
        let (stderr, stdout) = (io::stderr(), io::stdout());
        let rotated = identity(stderr.as_fd());
        let reopened = reopened(&self.path, rotated).and_then(|file| {
            let Some(file) = file else { return Ok(()) };
            if rotated.is_some() && identity(stdout.as_fd()) == rotated {
                dup2_stdout(&file)?;
            }
            Ok(dup2_stderr(&file)?)
        });
        if let Err(error) = reopened {
            output::error(format_args!(
                "the log {} cannot be opened again: {error}; lines go to the file it was",
                self.path.display()
            ));
        }
    }
}

/// Opens the file at the log's path to append to it, creating one if there is none;
/// `None` if it is the one that is open.
fn reopened(path: &Path, open: Option<FileIdentity>) -> io::Result<Option<File>> {
    if open.is_some() && FileIdentity::at(path) == open {
        return Ok(None);
    }
    Ok(Some(files::open_own(path, Access::Append)?))
}

fn identity(fd: BorrowedFd<'_>) -> Option<FileIdentity> {
    let metadata = File::from(fd.try_clone_to_owned().ok()?).metadata().ok()?;
    metadata.is_file().then(|| FileIdentity::from(&metadata))
}

/// The path of an open file.
#[cfg(target_os = "macos")]
fn path_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = rustix::fs::getpath(fd).ok()?;
    Some(Path::new(OsStr::from_bytes(path.as_bytes())).to_owned())
}

/// The path of an open file.
#[cfg(not(target_os = "macos"))]
fn path_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new()).ok()?;
    Some(Path::new(OsStr::from_bytes(path.as_bytes())).to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    /// DAEMON-5: a rotated log is opened again by its name: the new file that the
    /// rotating program made, as it is, or one of our own.
    #[test]
    fn daemon_5_a_rotated_log_is_opened_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("santa-sync.log");
        let first = files::open_own(&path, Access::Append).expect("made");
        let seen = identity(first.as_fd());
        assert_eq!(path_of(first.as_fd()), path.canonicalize().ok());
        assert!(reopened(&path, seen).expect("no error").is_none(), "it is the same");

        let old = dir.path().join("santa-sync.log.0");
        fs::rename(&path, &old).expect("renamed");
        let mut own = reopened(&path, seen).expect("no error").expect("a new one");
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
        own.write_all(b"one\n").expect("written");
        let mut again = reopened(&path, seen).expect("no error").expect("it is another one");
        again.write_all(b"two\n").expect("written");
        own.write_all(b"three\n").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"one\ntwo\nthree\n", "appended");

        fs::rename(&path, &old).expect("renamed");
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        reopened(&path, seen).expect("no error").expect("a new one");
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o640, "as it was made");
    }

    /// STATE-1: what somebody put in the log's place is not written to.
    #[test]
    fn state_1_a_log_is_not_opened_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, target) = (dir.path().join("log"), dir.path().join("target"));
        fs::write(&target, "precious").expect("written");
        symlink(&target, &path).expect("a link");
        let error = reopened(&path, None).expect_err("a link").to_string();
        assert!(error.contains("a link to"), "{error}");
        fs::remove_file(&path).expect("removed");
        fs::hard_link(&target, &path).expect("a link");
        reopened(&path, None).expect_err("a file with two names");
        assert_eq!(fs::read(&target).expect("there"), b"precious");
    }
}
