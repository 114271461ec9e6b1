//! The files of the service and the commands that put them in force.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{LABEL, Manager, Runner, ServiceError, UNIT};
use crate::files::{self, Replacement};

/// The job in launchd's system domain.
const TARGET: &str = "system/com.santa-sync.daemon";
/// The program's path in both templates.
const TEMPLATE_PROGRAM: &str = "/usr/local/bin/santa-sync";

const PLIST: &str = include_str!("../../../launchd/com.santa-sync.daemon.plist");
const UNIT_FILE: &str = include_str!("santa-sync.service");

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
    /// For a manager and a program, with the files below `root`.
    pub(super) fn new(
        manager: Manager,
        program: &Path,
        root: &Path,
        runner: &'a dyn Runner,
    ) -> Result<Self, ServiceError> {
        // Quoting differs between the two; a path that needs any is refused.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
        let shown =
            program.to_str().filter(|text| text.starts_with('/') && text.chars().all(plain));
        let shown = shown.ok_or_else(|| ServiceError::Program(program.to_owned()))?;
        let (path, text) = match manager {
            Manager::Launchd => (format!("Library/LaunchDaemons/{LABEL}.plist"), PLIST),
            Manager::Systemd => (format!("etc/systemd/system/{UNIT}"), UNIT_FILE),
        };
        let text = text.replace(TEMPLATE_PROGRAM, shown);
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
                self.ask(&["bootout", TARGET])?;
                self.must(&["enable", TARGET])?;
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
            Manager::Launchd => self.ask(&["bootout", TARGET])?,
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
        let (answer, word) = match self.manager {
            Manager::Launchd => (self.ask(&["print", TARGET])?, "state = running"),
            Manager::Systemd => (self.ask(&["is-active", UNIT])?, "active"),
        };
        let says = match self.manager {
            Manager::Launchd => answer.said.contains(word) || answer.said == "active",
            Manager::Systemd => answer.said == word,
        };
        Ok((answer.success && says, answer.said))
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

    fn ask(&self, args: &[&str]) -> Result<super::Answer, ServiceError> {
        let program = self.program();
        self.runner.run(program, args).map_err(|source| ServiceError::Runner { program, source })
    }

    fn must(&self, args: &[&str]) -> Result<super::Answer, ServiceError> {
        let answer = self.ask(args)?;
        if answer.success {
            return Ok(answer);
        }
        let command = format!("`{} {}`", self.program(), args.join(" "));
        Err(ServiceError::Command { command, said: answer.said })
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
        let dir = files::directory_of(&self.path);
        let below = dir.strip_prefix(&self.root).map_err(io::Error::other)?;
        files::create_below(&self.root, below)
    }

    fn file_error(&self, source: io::Error) -> ServiceError {
        ServiceError::File { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests;
