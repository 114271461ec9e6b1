//! `service`: the daemon as a service of launchd or systemd.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Subcommand, ValueEnum};

use super::error::{EXIT_UNREACHABLE, Error};
use super::output;

mod install;

use crate::failure::Remedy;
use install::{Installer, Outcome};

/// The label of the launchd job.
pub(super) const LABEL: &str = "com.santa-sync.daemon";
/// The name of the systemd unit.
pub(super) const UNIT: &str = "santa-sync.service";

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

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Install and start the service, and check that it runs
    Install {
        /// Print the service file without installing it
        #[arg(long)]
        print: bool,
    },
    /// Stop and remove the service; state and configuration stay
    Uninstall,
    /// Show whether the service is installed and running
    Status,
}

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Manager {
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
        }
    }
}

/// What a command answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    success: bool,
    said: String,
}

/// Runs the service manager's command.
trait Runner {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<Answer>;
}

/// Runs it in earnest.
struct System;

impl Runner for System {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<Answer> {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Answer { success: output.status.success(), said: said.trim().to_owned() })
    }
}

/// For an image: what is installed there starts when it does.
struct Nobody;

impl Runner for Nobody {
    fn run(&self, _: &'static str, _: &[&str]) -> io::Result<Answer> {
        Ok(Answer { success: true, said: "active".to_owned() })
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let system = if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd };
    let runner: &dyn Runner = if args.root.is_some() { &Nobody } else { &System };
    let program = args.program.clone().map_or_else(std::env::current_exe, Ok);
    let program =
        program.map_err(|source| ServiceError::Runner { program: "santa-sync", source })?;
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    let installer = Installer::new(args.manager.unwrap_or(system), &program, root, runner)?;
    Ok(act(&installer, args.action)?)
}

fn act(installer: &Installer<'_>, action: Action) -> Result<ExitCode, ServiceError> {
    match action {
        Action::Install { print: true } => {
            output::line(format_args!("# {}", installer.path().display()));
            output::bytes(format!("{}\n", installer.text().trim_end()).as_bytes());
        }
        Action::Install { print: false } => output::line(match installer.install()? {
            Outcome::Changed => format!("installed {} and running", installer.path().display()),
            Outcome::Unchanged => "installed and running already".to_owned(),
        }),
        Action::Uninstall => output::line(match installer.uninstall()? {
            Outcome::Changed => "stopped and removed; state and configuration are left",
            Outcome::Unchanged => "not installed",
        }),
        Action::Status => {
            let (is_there, runs) = installer.status()?;
            output::line(format_args!("installed  {}", if is_there { "yes" } else { "no" }));
            output::line(format_args!("running    {}", if runs { "yes" } else { "no" }));
            if !(is_there && runs) {
                return Ok(ExitCode::from(EXIT_UNREACHABLE));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
