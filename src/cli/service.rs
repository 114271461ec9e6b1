//! `service`: the daemon as a service of launchd or systemd.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::error::{EXIT_UNREACHABLE, Error};
use super::output;

mod install;
mod launchd;

use install::{Installer, Outcome, Unit, is_plain};

use super::{Global, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Sources};
use crate::control;
use crate::control::status::DaemonStatus;
use crate::failure::Remedy;
use crate::files::{self, Exposed};

/// The label of the launchd job.
pub(super) const LABEL: &str = crate::daemon::LAUNCHD_LABEL;
/// The job in launchd's system domain.
pub(super) const LAUNCHD_TARGET: &str = "system/com.santa-sync.daemon";
const LAUNCHCTL: &str = "/bin/launchctl";
const SYSTEMCTL: &str = "systemctl";
/// The name of the systemd unit.
pub(super) const UNIT: &str = "santa-sync.service";

/// Returns a value of the job itself in the output of `launchctl print`; those of
/// its sections are indented further.
pub(super) fn launchd_value<'a>(output: &'a str, name: &str) -> Option<&'a str> {
    output.lines().find_map(|line| {
        let (found, value) = line.strip_prefix('\t')?.split_once(" = ")?;
        (found == name).then(|| value.trim())
    })
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Service manager [default: the one of this system]
    #[arg(long, value_name = "MANAGER", global = true)]
    manager: Option<Manager>,
    /// Program to run [default: this program]
    #[arg(long, value_name = "FILE", global = true)]
    program: Option<PathBuf>,
    /// Install below this directory without contacting a service manager, for disk images
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Action {
    /// Install and start the service, and check that it runs
    Install {
        /// Print the service file without installing it
        #[arg(long)]
        print: bool,
        /// Have the service manager hold the relay's port [default address: the configured one]
        #[arg(
            long,
            value_name = "ADDRESS",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = ""
        )]
        relay: Option<String>,
    },
    /// Stop and remove the service; state and configuration stay
    Uninstall,
    /// Show whether the service is installed and running
    Status,
}

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Manager {
    /// Of macOS.
    Launchd,
    /// Of most Linux systems.
    Systemd,
}

/// Why a service cannot be managed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    Runner { program: &'static str, source: io::Error },
    #[error("{command} failed: {said}")]
    Command { command: String, said: String },
    #[error("the service is installed but does not run: {said}")]
    NotRunning { said: String, log: &'static str },
    #[error("{0} is not an absolute path a service can have")]
    Program(PathBuf),
    #[error("root is not to run this program: {exposed}")]
    Exposed { exposed: Exposed, manager: Manager },
}

impl Remedy for ServiceError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::File { .. } => Some("run this as root".into()),
            Self::Runner { .. } => {
                Some("name the service manager of this system with --manager".into())
            }
            Self::Command { .. } => None,
            Self::NotRunning { log, .. } => Some(format!("see {log}").into()),
            Self::Program(_) => Some("name another with --program".into()),
            Self::Exposed { manager, .. } => {
                let dir = match manager {
                    Manager::Launchd => "/usr/local/santa-sync/bin",
                    Manager::Systemd => "/usr/local/bin",
                };
                let fix = format!("copy it to {dir}, owned by root with mode 0755, and run that");
                Some(fix.into())
            }
        }
    }
}

/// The result of a command of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommandResult {
    success: bool,
    /// The exit code; `None` after a signal.
    code: Option<i32>,
    output: String,
}

/// Runs the service manager's command, and sees what becomes of it.
trait Runner {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<CommandResult>;

    /// Waits.
    fn pause(&self, duration: Duration);

    /// The process of the daemon that runs on the service's state directory, as it
    /// says itself.
    fn daemon_process(&self) -> Option<u32>;

    /// Whether the files are those of an image, in which nothing runs.
    fn is_image(&self) -> bool {
        false
    }
}

impl dyn Runner + '_ {
    /// Runs a command that may fail.
    fn ask(&self, program: &'static str, args: &[&str]) -> Result<CommandResult, ServiceError> {
        self.run(program, args).map_err(|source| ServiceError::Runner { program, source })
    }

    /// Runs a command that must succeed.
    fn must(&self, program: &'static str, args: &[&str]) -> Result<CommandResult, ServiceError> {
        let answer = self.ask(program, args)?;
        if answer.success { Ok(answer) } else { Err(failed(program, args, answer)) }
    }
}

fn failed(program: &str, args: &[&str], answer: CommandResult) -> ServiceError {
    let command = format!("`{program} {}`", args.join(" "));
    ServiceError::Command { command, said: answer.output }
}

/// The manager of this system.
struct System {
    state_dir: PathBuf,
}

impl Runner for System {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<CommandResult> {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        let (success, code) = (output.status.success(), output.status.code());
        Ok(CommandResult { success, code, output: said.trim().to_owned() })
    }

    fn pause(&self, duration: Duration) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        // Without one, the manager is asked more often.
        if let Ok(runtime) = runtime {
            runtime.block_on(SystemClock::new().sleep(duration));
        }
    }

    fn daemon_process(&self) -> Option<u32> {
        if !control::is_daemon_running(&self.state_dir) {
            return None;
        }
        DaemonStatus::read(&self.state_dir).map(|status| status.pid)
    }
}

/// The manager of an image, which does not run.
struct Nobody;

impl Runner for Nobody {
    fn run(&self, _: &'static str, _: &[&str]) -> io::Result<CommandResult> {
        Ok(CommandResult { success: true, code: Some(0), output: String::new() })
    }

    fn pause(&self, _: Duration) {}

    fn daemon_process(&self) -> Option<u32> {
        None
    }

    fn is_image(&self) -> bool {
        true
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let system = if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd };
    let manager = args.manager.unwrap_or(system);
    let program = args.program.clone().map_or_else(std::env::current_exe, Ok);
    let program =
        program.map_err(|source| ServiceError::Runner { program: "santa-sync", source })?;
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    let in_image = args.root.is_some();
    let mut unit = Unit { program, arguments: arguments(global, in_image)?, ..Unit::default() };
    let config = match args.action {
        // What is not a directory is refused when it is written to.
        Action::Install { .. } if in_image && !root.is_dir() => None,
        Action::Install { .. } if in_image => {
            Some(Config::load(&image_sources(global, manager, root))?.config)
        }
        Action::Install { print, .. } => {
            let config = Config::load(&setup::sources(global))?.config;
            note_temporary(&unit.program);
            match safe_program(&unit.program, manager) {
                Ok(program) => unit.program = program,
                Err(error) if print => output::note(error.with_fix()),
                Err(error) => return Err(error.into()),
            }
            Some(config)
        }
        Action::Uninstall | Action::Status => None,
    };
    let state_dir = config.as_deref().map(|c| config::state_dir(global.state_dir.as_deref(), c));
    let system = System { state_dir: state_dir.unwrap_or_default() };
    let runner: &dyn Runner = if in_image { &Nobody } else { &system };
    if let Action::Install { relay, .. } = &args.action {
        let holds = Installer::has_socket(manager, root);
        unit.relay_socket = relay_socket(relay.as_deref(), config.as_deref(), holds)?;
    }
    if let Some(config) = &config {
        unit.fit(config);
    }
    if let Some(dir) = &global.state_dir {
        unit.writable.insert(dir.clone());
    }
    if args.action == Action::Uninstall && args.root.is_none() {
        let config = Config::examine(&setup::sources(global)).config;
        if let Some(refusal) = super::relay::keeps_service(&config) {
            return Err(refusal);
        }
    }
    let installer = Installer::new(manager, &unit, root, runner)?;
    let done = act(&installer, args)?;
    if !in_image
        && matches!(args.action, Action::Install { print: false, .. })
        && config.is_some_and(|config| config.sync_base_url.is_none())
    {
        output::note("no SyncBaseURL is configured; the daemon syncs as soon as one is");
    }
    Ok(done)
}

/// Where the service manager is to listen for the relay: `asked` is the value of
/// `--relay`, and `holds` whether it listens already, which stays so as long as a
/// relay is configured.
fn relay_socket(
    asked: Option<&str>,
    config: Option<&Config>,
    holds: bool,
) -> Result<Option<SocketAddr>, Error> {
    let configured = config.and_then(|config| config.relay.as_ref()).map(|relay| relay.listen);
    match asked {
        None => Ok(configured.filter(|_| holds)),
        Some("") => configured.map(Some).ok_or_else(|| {
            Error::usage("no RelayListen is configured, so there is no port to hold").with_fix(
                "`santa-sync relay setup` first; for an image, name its configuration with \
                 --config FILE, or the address with --relay=127.0.0.1:917",
            )
        }),
        Some(text) => {
            let address = text.parse::<SocketAddr>().ok();
            let usable = |address: &SocketAddr| {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                loopback.contains(&address.ip()) && address.port() != 0
            };
            let address = address.filter(usable).ok_or_else(|| {
                Error::usage(format!("--relay={text} is not an address that the relay can have"))
                    .with_fix("write 127.0.0.1:PORT or [::1]:PORT")
            })?;
            if configured.is_some_and(|configured| configured != address) {
                return Err(Error::usage(format!("--relay={text} is not RelayListen"))
                    .with_fix("write --relay alone"));
            }
            Ok(Some(address))
        }
    }
}

/// The configuration of an image: the file named on the command line, in the image or,
/// if it is not there yet, on this host; and the files that its system will read.
fn image_sources(global: &Global, manager: Manager, root: &Path) -> Sources {
    let in_image = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let file = global.config.as_ref().map(|path| {
        let inside = in_image(path);
        if inside.exists() { inside } else { path.clone() }
    });
    let system = config::system_files(manager == Manager::Launchd);
    let system = system.iter().map(|path| in_image(path)).collect();
    Sources { sets: global.set.clone(), file, system }
}

/// The options of the command line that the daemon is to have, too. `RelayListen` of an
/// image only says which port is held.
fn arguments(global: &Global, in_image: bool) -> Result<Vec<String>, Error> {
    let is_kept_out = |set: &String| !(in_image && set.starts_with("RelayListen="));
    if global.set.iter().any(is_kept_out) {
        return Err(Error::usage("--set has no place in a service, whose file everyone can read")
            .with_fix("write the keys into the configuration file"));
    }
    let mut arguments = Vec::new();
    let paths = [("--config", &global.config), ("--state-dir", &global.state_dir)];
    for (option, path) in paths {
        let Some(path) = path else { continue };
        let text = path.to_str().filter(|text| is_plain(text)).ok_or_else(|| {
            Error::usage(format!("{option} {} cannot stand in a service file", path.display()))
                .with_fix("name an absolute path of letters, digits and ._-+")
        })?;
        arguments.extend([option.to_owned(), text.to_owned()]);
    }
    Ok(arguments)
}

/// Notes that a program is where it does not stay.
fn note_temporary(program: &Path) {
    let path = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let text = path.to_string_lossy();
    let temporary = ["/home/", "/Users/", "/root/", "/var/root/", "/tmp/", "/private/tmp/"]
        .iter()
        .any(|start| text.starts_with(start))
        || ["/target/debug/", "/target/release/"].iter().any(|part| text.contains(part));
    if temporary {
        output::note(format_args!(
            "{} is in a home or a build directory; copy it to a directory of root's and install \
             the service from there",
            path.display()
        ));
    }
}

/// The program that root is to run: one that only root, or this user, can replace.
/// For launchd it is named without links, which would have to be as safe.
fn safe_program(program: &Path, manager: Manager) -> Result<PathBuf, ServiceError> {
    let canonical = program.canonicalize();
    let path = match (manager, canonical) {
        (Manager::Launchd, Ok(canonical)) => canonical,
        (Manager::Launchd | Manager::Systemd, _) => program.to_owned(),
    };
    match files::check_program(&path) {
        Ok(_) => Ok(path),
        Err(exposed) => Err(ServiceError::Exposed { exposed, manager }),
    }
}

fn act(installer: &Installer<'_>, args: &Args) -> Result<ExitCode, ServiceError> {
    let in_image = args.root.is_some();
    match args.action {
        Action::Install { print: true, .. } => {
            let text = (installer.path().to_owned(), installer.text());
            for (path, text) in std::iter::once(text).chain(installer.socket()) {
                // Only systemd's files may begin with a remark.
                match installer.manager() {
                    Manager::Launchd => output::note(format_args!("this is {}", path.display())),
                    Manager::Systemd => output::line(format_args!("# {}", path.display())),
                }
                output::bytes(format!("{}\n", text.trim_end()).as_bytes());
            }
        }
        Action::Install { print: false, .. } => {
            let outcome = installer.install()?;
            let path = installer.path().display();
            output::line(match (outcome, in_image) {
                (Outcome::Changed, false) => format!("installed {path} and running"),
                (Outcome::Unchanged, false) => "installed and running already".to_owned(),
                (Outcome::Changed, true) => format!("installed {path}; it starts with the image"),
                (Outcome::Unchanged, true) => "installed already".to_owned(),
            });
        }
        Action::Uninstall => output::line(match installer.uninstall()? {
            Outcome::Changed => "stopped and removed; state and configuration are left",
            Outcome::Unchanged => "not installed",
        }),
        Action::Status => {
            let (is_installed, is_running) = installer.status()?;
            let word = |yes| if yes { "yes" } else { "no" };
            output::line(format_args!("installed  {}", word(is_installed)));
            let running = if in_image { "unknown (--root)" } else { word(is_running) };
            output::line(format_args!("running    {running}"));
            if !(is_installed && is_running) {
                return Ok(ExitCode::from(EXIT_UNREACHABLE));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
