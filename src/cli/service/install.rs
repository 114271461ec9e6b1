//! The files of the service and the commands that activate them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{
    CommandResult, LABEL, LAUNCHCTL, LAUNCHD_TARGET, Manager, Runner, SYSTEMCTL, ServiceError,
    UNIT, launchd,
};
use crate::config::{Config, RELAY_SOCKET};
use crate::files::{self, Replacement, directory_of};

/// The program's path in the template of launchd's job. Homebrew may own
/// /usr/local/bin.
const JOB_PROGRAM: &str = "/usr/local/santa-sync/bin/santa-sync";
/// The program's path in the template of systemd's unit.
const UNIT_PROGRAM: &str = "/usr/local/bin/santa-sync";

const LAUNCHD_PLIST: &str = include_str!("../../../launchd/com.santa-sync.daemon.plist");
const UNIT_FILE: &str = include_str!("santa-sync.service");
const SOCKET_FILE: &str = include_str!("santa-sync.socket");

/// The systemd unit that holds the relay's port.
const SOCKET_UNIT: &str = "santa-sync.socket";
/// A larger launchd job is not of this program's making.
const MAX_JOB_BYTES: u64 = 64 * 1024;
/// Where it is below the root.
const SOCKET_PATH: &str = "etc/systemd/system/santa-sync.socket";
/// The address in its template.
const TEMPLATE_ADDRESS: &str = "127.0.0.1:917";

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
    /// Whether the daemon itself listens at a port below 1024.
    pub(super) binds_low_port: bool,
    /// Where the service manager listens for the relay; `None`: nowhere.
    pub(super) relay_socket: Option<SocketAddr>,
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
        let Some(relay) = &config.relay else { return };
        self.binds_low_port = self.relay_socket.is_none() && relay.listen.port() < 1024;
        if relay.tls {
            self.writable.insert(relay.directory.clone());
            // The authorizer's own certificate is another user's, and closed.
            self.reads_private_files |= relay.client_certificate;
        }
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
    /// The text of systemd's unit for the relay's socket.
    socket: Option<String>,
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
        let socket = match manager {
            Manager::Launchd => None,
            Manager::Systemd => unit.relay_socket.map(socket_text),
        };
        let (root, path) = (root.to_owned(), root.join(path));
        Ok(Self { manager, root, path, text, socket, runner })
    }

    pub(super) const fn manager(&self) -> Manager {
        self.manager
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The other file that systemd gets, if any.
    pub(super) fn socket(&self) -> Option<(PathBuf, &str)> {
        Some((self.root.join(SOCKET_PATH), self.socket.as_deref()?))
    }

    /// Writes the file, has the manager start the service, and checks that it
    /// runs.
    pub(super) fn install(&self) -> Result<Outcome, ServiceError> {
        let same = is_same(&self.path, Some(&self.text)) && self.is_socket_same();
        if same && self.running()?.0 {
            return Ok(Outcome::Unchanged);
        }
        self.write().map_err(|source| self.file_error(source))?;
        self.write_socket()?;
        if self.runner.is_image() {
            return Ok(Outcome::Changed);
        }
        match self.manager {
            Manager::Launchd => {
                launchd::load(self.runner, &self.path)?;
                launchd::wait_until_it_runs(self.runner, self.log())?;
                return Ok(Outcome::Changed);
            }
            Manager::Systemd => {
                self.must(&["daemon-reload"])?;
                self.must(&["enable", UNIT])?;
                if self.socket.is_some() {
                    self.must(&["enable", SOCKET_UNIT])?;
                    // A socket does not begin to listen while its service runs.
                    self.must(&["stop", UNIT])?;
                    self.must(&["restart", SOCKET_UNIT])?;
                }
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
        if self.manager == Manager::Systemd {
            // Before the service: a connection to the socket would start it.
            self.remove_socket(&self.root.join(SOCKET_PATH))?;
        }
        match self.manager {
            Manager::Launchd if self.runner.is_image() => {}
            Manager::Launchd => launchd::unload(self.runner)?,
            Manager::Systemd => {
                self.must(&["disable", "--now", UNIT])?;
            }
        }
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

    /// Whether systemd's unit for the socket is as it is to be.
    fn is_socket_same(&self) -> bool {
        self.manager == Manager::Launchd
            || is_same(&self.root.join(SOCKET_PATH), self.socket.as_deref())
    }

    /// Whether the service manager holds the relay's port.
    pub(super) fn has_socket(manager: Manager, root: &Path) -> bool {
        match manager {
            Manager::Systemd => root.join(SOCKET_PATH).exists(),
            Manager::Launchd => {
                let job = root.join(format!("Library/LaunchDaemons/{LABEL}.plist"));
                let job = files::read_own(&job, MAX_JOB_BYTES).ok().flatten();
                job.is_some_and(|job| String::from_utf8_lossy(&job).contains("<key>Sockets</key>"))
            }
        }
    }

    /// Writes systemd's unit for the socket, or takes away one that is left.
    fn write_socket(&self) -> Result<(), ServiceError> {
        if self.manager == Manager::Launchd {
            return Ok(());
        }
        let path = self.root.join(SOCKET_PATH);
        let failed = |source: io::Error| ServiceError::File { path: path.clone(), source };
        if let Some(text) = &self.socket {
            let how = Replacement { mode: 0o644, durable: true };
            return files::replace(&path, text.as_bytes(), how).map_err(|e| failed(e.into()));
        }
        self.remove_socket(&path)
    }

    fn remove_socket(&self, path: &Path) -> Result<(), ServiceError> {
        if !path.exists() {
            return Ok(());
        }
        // Fails if it is not loaded.
        self.ask(&["disable", "--now", SOCKET_UNIT])?;
        fs::remove_file(path).map_err(|source| ServiceError::File { path: path.to_owned(), source })
    }

    fn installed(&self) -> bool {
        self.path.exists()
    }

    /// Whether the manager runs it, and what the manager says. An image has no
    /// manager; there it counts as running.
    fn running(&self) -> Result<(bool, String), ServiceError> {
        if self.runner.is_image() {
            return Ok((true, String::new()));
        }
        Ok(match self.manager {
            Manager::Launchd => {
                let answer = self.runner.ask(LAUNCHCTL, &["print", LAUNCHD_TARGET])?;
                (launchd::running_process(&answer).is_some(), answer.output)
            }
            Manager::Systemd => {
                let answer = self.ask(&["is-active", UNIT])?;
                (answer.success && answer.output == "active", answer.output)
            }
        })
    }

    const fn log(&self) -> &'static str {
        match self.manager {
            Manager::Launchd => "/var/log/santa-sync.log",
            Manager::Systemd => "`journalctl -u santa-sync`",
        }
    }

    fn ask(&self, args: &[&str]) -> Result<CommandResult, ServiceError> {
        self.runner.ask(SYSTEMCTL, args)
    }

    fn must(&self, args: &[&str]) -> Result<CommandResult, ServiceError> {
        self.runner.must(SYSTEMCTL, args)
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

/// Whether a file holds that text; `None` stands for no file.
fn is_same(path: &Path, text: Option<&str>) -> bool {
    let length = text.map_or(0, str::len) as u64;
    files::read_own(path, length).is_ok_and(|old| old.as_deref() == text.map(str::as_bytes))
}

fn job_text(program: &str, unit: &Unit) -> String {
    let item = |text: &str| format!("<string>{text}</string>\n\t\t");
    let arguments: String = unit.arguments.iter().map(|argument| item(argument)).collect();
    let text = LAUNCHD_PLIST
        .replace(JOB_PROGRAM, program)
        .replace("<string>daemon</string>", &format!("{arguments}<string>daemon</string>"));
    let Some(address) = unit.relay_socket else { return text };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let entries = [
        ("SockFamily", family.to_owned()),
        ("SockNodeName", address.ip().to_string()),
        ("SockProtocol", "TCP".to_owned()),
        ("SockServiceName", address.port().to_string()),
        ("SockType", "stream".to_owned()),
    ];
    let entries = entries
        .map(|(key, value)| format!("\t\t\t<key>{key}</key>\n\t\t\t<string>{value}</string>\n"));
    let sockets = format!(
        "\t<!-- launchd holds the relay's port, also while the daemon is down. -->\n\
         \t<key>Sockets</key>\n\t<dict>\n\t\t<key>{RELAY_SOCKET}</key>\n\t\t<dict>\n{}\t\t</dict>\n\
         \t</dict>\n</dict>\n</plist>",
        entries.concat()
    );
    text.replace("</dict>\n</plist>", &sockets)
}

fn socket_text(address: SocketAddr) -> String {
    SOCKET_FILE.replace(TEMPLATE_ADDRESS, &address.to_string())
}

fn unit_text(program: &str, unit: &Unit) -> String {
    let words = [&[program.to_owned()], &unit.arguments[..], &["daemon".to_owned()]].concat();
    let start = format!("ExecStart={}", words.join(" "));
    let mut text = UNIT_FILE.replace(&format!("ExecStart={UNIT_PROGRAM} daemon"), &start);
    let dirs: Vec<_> = unit.writable.iter().filter_map(|dir| dir.to_str()).collect();
    if dirs.iter().any(|dir| is_plain(dir)) {
        // `-`: a directory that does not exist yet does not keep the service down.
        let dirs: Vec<_> =
            dirs.into_iter().filter(|dir| is_plain(dir)).map(|dir| format!("-{dir}")).collect();
        let paths = format!("ReadWritePaths={}\n", dirs.join(" "));
        text = text.replace("UMask=0077\n", &format!("UMask=0077\n{paths}"));
    }
    let more = [
        (unit.reads_private_files, " CAP_DAC_READ_SEARCH"),
        (unit.binds_low_port, " CAP_NET_BIND_SERVICE"),
    ];
    let more: String = more.iter().filter(|(needed, _)| *needed).map(|(_, name)| *name).collect();
    text = text.replace("=CAP_CHOWN", &format!("=CAP_CHOWN{more}"));
    if unit.relay_socket.is_some() {
        // With it, the service does not start without the port.
        let after = format!("[Unit]\nRequires={SOCKET_UNIT}\nAfter={SOCKET_UNIT}\n");
        text = text.replace("[Unit]\n", &after);
    }
    text
}

#[cfg(test)]
mod tests;
