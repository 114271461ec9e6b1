//! Where facts are read: this system, or a recording of another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::command::{self, CommandError, time_limit};
use super::known::KnownFacts;
use crate::files;

/// The largest file of facts read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The output of `uname`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Uname {
    /// `Darwin` or `Linux`.
    pub sysname: String,
    /// The host name.
    pub nodename: String,
    /// The kernel's version, for example `6.1.0-18-amd64`.
    pub release: String,
    /// The processor's architecture.
    pub machine: String,
}

impl Uname {
    /// Whether the system is macOS.
    #[must_use]
    pub fn is_macos(&self) -> bool {
        self.sysname == "Darwin"
    }
}

/// Reads files and runs commands, of this system or of a recorded one.
pub trait HostSource: Send + Sync {
    /// The system's and the host's names.
    fn uname(&self) -> Uname;

    /// The content of a file.
    ///
    /// # Errors
    /// If it is not a file, cannot be read or is larger than 4 MiB.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What a program, named by its absolute path, writes.
    ///
    /// # Errors
    /// If it cannot be run, fails or does not end within its time limit: 10 s on
    /// macOS, 2 s elsewhere.
    fn run(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, CommandError>;

    /// The facts that an earlier sync of this host read.
    fn known(&self) -> KnownFacts {
        KnownFacts::default()
    }
}

/// The system this program runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost;

impl HostSource for SystemHost {
    fn uname(&self) -> Uname {
        let uname = rustix::system::uname();
        let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
        Uname {
            sysname: text(uname.sysname()),
            nodename: text(uname.nodename()),
            release: text(uname.release()),
            machine: text(uname.machine()),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_bounded(path)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, CommandError> {
        command::run(program, args, time_limit(cfg!(target_os = "macos")))
    }
}

#[cfg(any(test, feature = "internals"))]
/// A recorded system: a directory with `uname` (four lines), the system's
/// files under `files/`, and under `commands/` the programs' output, in files
/// called `NAME.ARG` after the program and one of its arguments (the last that
/// has such a file counts), or `NAME` for any other. A program with a file
/// `NAME.hangs` does not end, one with `NAME.exit` fails with the exit code in that;
/// one without a file is not installed.
#[derive(Clone, Debug)]
pub struct RecordedHost {
    root: PathBuf,
}

#[cfg(any(test, feature = "internals"))]
impl RecordedHost {
    /// The system recorded in that directory.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

#[cfg(any(test, feature = "internals"))]
impl HostSource for RecordedHost {
    fn uname(&self) -> Uname {
        let text = fs::read_to_string(self.root.join("uname")).unwrap_or_default();
        let mut lines = text.lines().map(str::to_owned);
        let mut line = || lines.next().unwrap_or_default();
        Uname { sysname: line(), nodename: line(), release: line(), machine: line() }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let relative = path.strip_prefix("/").map_err(io::Error::other)?;
        read_bounded(&self.root.join("files").join(relative))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, CommandError> {
        let name = program.rsplit('/').next().unwrap_or_default();
        let commands = self.root.join("commands");
        let program = program.to_owned();
        if commands.join(format!("{name}.hangs")).exists() {
            let limit = time_limit(self.uname().is_macos());
            return Err(CommandError::TimedOut { program, limit });
        }
        if let Ok(code) = fs::read_to_string(commands.join(format!("{name}.exit"))) {
            return Err(CommandError::Failed { program, code: code.trim().parse().ok() });
        }
        let of_argument = args
            .iter()
            .rev()
            .filter(|arg| !arg.contains('/'))
            .map(|arg| commands.join(format!("{name}.{arg}")))
            .find(|path| path.exists());
        let path = of_argument.unwrap_or_else(|| commands.join(name));
        read_bounded(&path).map_err(|error| CommandError::Io { program, error })
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    Ok(files::read(path, MAX_FILE)?)
}
