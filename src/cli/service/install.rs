//! The files of the service and the commands that activate them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{LABEL, LAUNCHD_TARGET, Manager, Runner, ServiceError, UNIT, launchd_value};
use crate::config::Config;
use crate::files::{self, Replacement, directory_of};

/// The program's path in both templates.
const TEMPLATE_PROGRAM: &str = "/usr/local/bin/santa-sync";

const LAUNCHD_PLIST: &str = include_str!("../../../launchd/com.santa-sync.daemon.plist");
const UNIT_FILE: &str = include_str!("santa-sync.service");

/// What a service file says besides its template.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    /// The program.
    pub(super) program: PathBuf,
    /// Its options, before the command. Each is [plain](is_plain).
    pub(super) arguments: Vec<String>,
    /// Directories outside the state directory that the daemon writes to.
    pub(super) writable: BTreeSet<PathBuf>,
    /// Whether the configuration names a file that root can read only because it
    /// is root.
    pub(super) reads_private_files: bool,
}

impl Unit {
    /// Grants what this configuration needs.
    pub(super) fn fit(&mut self, config: &Config) {
        let written = [&config.metrics_file, &config.events_database];
        self.writable.extend(written.into_iter().flatten().map(|path| directory_of(path)));
        self.writable.extend(config.state_directory.clone());
        let read = [
            &config.client_auth_certificate_file,
            &config.server_auth_roots_file,
            &config.machine_id_plist,
            &config.machine_owner_plist,
        ];
        self.reads_private_files = read.into_iter().flatten().any(|path| is_private(path));
    }
}

/// Whether root without its privileges could not read the file: it, or a directory
/// above it, is another user's and closed to others.
fn is_private(path: &Path) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.ancestors().any(|part| {
        let needed = if part == path { 0o004 } else { 0o001 };
        part.metadata().is_ok_and(|data| data.uid() != 0 && data.mode() & needed == 0)
    })
}

/// Whether a text can stand in either kind of service file without quotes.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    text.starts_with('/') && text.chars().all(plain)
}

/// Whether something had to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done.
    Changed,
    /// It was so already.
    Unchanged,
}

/// Installs the service, or takes it away. Doing either twice is doing it once.
pub(super) struct Installer<'a> {
    manager: Manager,
    /// The root of an image, or `/`.
    root: PathBuf,
    path: PathBuf,
    text: String,
    runner: &'a dyn Runner,
}

impl<'a> Installer<'a> {
    /// For a manager and a service, with the files below `root`.
    pub(super) fn new(
        manager: Manager,
        unit: &Unit,
        root: &Path,
        runner: &'a dyn Runner,
    ) -> Result<Self, ServiceError> {
        // Quoting differs between the two; a path that needs any is refused.
        let program = unit.program.to_str().filter(|text| is_plain(text));
        let program = program.ok_or_else(|| ServiceError::Program(unit.program.clone()))?;
        let (path, text) = match manager {
            Manager::Launchd => {
                (format!("Library/LaunchDaemons/{LABEL}.plist"), job_text(program, unit))
            }
            Manager::Systemd => (format!("etc/systemd/system/{UNIT}"), unit_text(program, unit)),
        };
        Ok(Self { manager, root: root.to_owned(), path: root.join(path), text, runner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Writes the file, has the manager start the service, and checks that it
    /// runs.
    pub(super) fn install(&self) -> Result<Outcome, ServiceError> {
        let old = files::read_own(&self.path, self.text.len() as u64);
        let same = old.is_ok_and(|old| old.is_some_and(|old| old == self.text.as_bytes()));
        if same && self.running()?.0 {
            return Ok(Outcome::Unchanged);
        }
        self.write().map_err(|source| self.file_error(source))?;
        match self.manager {
            Manager::Launchd => {
                // Fails if it is not loaded, and then there is nothing to unload.
                self.ask(&["bootout", LAUNCHD_TARGET])?;
                self.must(&["enable", LAUNCHD_TARGET])?;
                let path = self.path.to_string_lossy();
                self.must(&["bootstrap", "system", &path])?;
            }
            Manager::Systemd => {
                self.must(&["daemon-reload"])?;
                self.must(&["enable", UNIT])?;
                // Returns once the daemon has said that it is ready.
                self.must(&["restart", UNIT])?;
            }
        }
        match self.running()? {
            (true, _) => Ok(Outcome::Changed),
            (false, said) => Err(ServiceError::NotRunning { said, log: self.log() }),
        }
    }

    /// Stops the service and removes the file.
    pub(super) fn uninstall(&self) -> Result<Outcome, ServiceError> {
        if !self.installed() {
            return Ok(Outcome::Unchanged);
        }
        self.make_way().map_err(|source| self.file_error(source))?;
        match self.manager {
            Manager::Launchd => self.ask(&["bootout", LAUNCHD_TARGET])?,
            Manager::Systemd => self.must(&["disable", "--now", UNIT])?,
        };
        fs::remove_file(&self.path).map_err(|source| self.file_error(source))?;
        if self.manager == Manager::Systemd {
            self.must(&["daemon-reload"])?;
        }
        Ok(Outcome::Changed)
    }

    /// Whether it is installed, and whether it runs.
    pub(super) fn status(&self) -> Result<(bool, bool), ServiceError> {
        let installed = self.installed();
        Ok((installed, installed && self.running()?.0))
    }

    fn installed(&self) -> bool {
        self.path.exists()
    }

    /// Whether the manager runs it, and what the manager says.
    fn running(&self) -> Result<(bool, String), ServiceError> {
        let answer = match self.manager {
            Manager::Launchd => self.ask(&["print", LAUNCHD_TARGET])?,
            Manager::Systemd => self.ask(&["is-active", UNIT])?,
        };
        let says = match self.manager {
            // Below a root of an image nothing runs, and the runner says `active`.
            Manager::Launchd => {
                launchd_value(&answer.output, "state") == Some("running")
                    || answer.output == "active"
            }
            Manager::Systemd => answer.output == "active",
        };
        Ok((answer.success && says, answer.output))
    }

    const fn program(&self) -> &'static str {
        match self.manager {
            Manager::Launchd => "/bin/launchctl",
            Manager::Systemd => "systemctl",
        }
    }

    const fn log(&self) -> &'static str {
        match self.manager {
            Manager::Launchd => "/var/log/santa-sync.log",
            Manager::Systemd => "`journalctl -u santa-sync`",
        }
    }

    fn ask(&self, args: &[&str]) -> Result<super::CommandResult, ServiceError> {
        let program = self.program();
        self.runner.run(program, args).map_err(|source| ServiceError::Runner { program, source })
    }

    fn must(&self, args: &[&str]) -> Result<super::CommandResult, ServiceError> {
        let answer = self.ask(args)?;
        if answer.success {
            return Ok(answer);
        }
        let command = format!("`{} {}`", self.program(), args.join(" "));
        Err(ServiceError::Command { command, said: answer.output })
    }

    fn write(&self) -> io::Result<()> {
        self.make_way()?;
        // launchd refuses a job that others may write, and both read it as root.
        let how = Replacement { mode: 0o644, durable: true };
        Ok(files::replace(&self.path, self.text.as_bytes(), how)?)
    }

    /// Makes the directories on the way to the file. No link may lead out of
    /// the root.
    fn make_way(&self) -> io::Result<()> {
        let dir = directory_of(&self.path);
        let below = dir.strip_prefix(&self.root).map_err(io::Error::other)?;
        files::create_below(&self.root, below)
    }

    fn file_error(&self, source: io::Error) -> ServiceError {
        ServiceError::File { path: self.path.clone(), source }
    }
}

fn job_text(program: &str, unit: &Unit) -> String {
    let item = |text: &str| format!("<string>{text}</string>\n\t\t");
    let arguments: String = unit.arguments.iter().map(|argument| item(argument)).collect();
    LAUNCHD_PLIST
        .replace(TEMPLATE_PROGRAM, program)
        .replace("<string>daemon</string>", &format!("{arguments}<string>daemon</string>"))
}

fn unit_text(program: &str, unit: &Unit) -> String {
    let words = [&[program.to_owned()], &unit.arguments[..], &["daemon".to_owned()]].concat();
    let start = format!("ExecStart={}", words.join(" "));
    let mut text = UNIT_FILE.replace(&format!("ExecStart={TEMPLATE_PROGRAM} daemon"), &start);
    let dirs: Vec<_> = unit.writable.iter().filter_map(|dir| dir.to_str()).collect();
    if dirs.iter().any(|dir| is_plain(dir)) {
        // `-`: a directory that does not exist yet does not keep the service down.
        let dirs: Vec<_> =
            dirs.into_iter().filter(|dir| is_plain(dir)).map(|dir| format!("-{dir}")).collect();
        let paths = format!("ReadWritePaths={}\n", dirs.join(" "));
        text = text.replace("UMask=0077\n", &format!("UMask=0077\n{paths}"));
    }
    if unit.reads_private_files {
        text = text.replace("=CAP_CHOWN", "=CAP_CHOWN CAP_DAC_READ_SEARCH");
    }
    text
}

#[cfg(test)]
mod tests;
