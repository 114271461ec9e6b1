//! `relay`: the sync server for this host's own authorizer: set up, shown,
//! taken away.

mod program;
mod remove;
mod setup;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use plist::Value;

use super::error::{EXIT_CONFIG, Error};
use super::{Global, output};
use crate::agent::RemoteAgent;
use crate::config::{Config, RelayConfig};
use crate::control::relay::RelayStatus;
use crate::control::status::DaemonStatus;
use crate::files::{self, Replacement};
pub(super) use program::program_rule;

/// The profile for Santa's side.
const SANTAS_PROFILE: &str = "relay-santa.mobileconfig";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make certificates, and write the profiles that lead Santa here and the agent to its server
    Setup(setup::Args),
    /// Show what is in use and the next step
    Show(show::Args),
    /// Lead the authorizer away from here, then remove the certificates
    Remove(remove::Args),
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    match &args.action {
        Action::Setup(args) => setup::run(global, args),
        Action::Show(args) => show::run(global, args),
        Action::Remove(args) => remove::run(global, args),
    }
}

/// Whether Santa's own profile leads to this relay; `None` if none can be read.
fn profile_points_here(config: &Config, relay: &RelayConfig) -> Option<bool> {
    config.santa_profile.as_ref().map(|profile| profile.points_to(relay))
}

/// How the relay of the daemon on a state directory stands: as the daemon says, or as its
/// file does if this user may not ask it. `None` without a daemon or a relay.
fn running_relay(state_dir: &Path) -> Option<RelayStatus> {
    let asked = RemoteAgent::connect(state_dir).ok().flatten();
    if let Some(status) = asked.and_then(|mut daemon| daemon.status().ok()) {
        return status.relay;
    }
    let runs = crate::control::is_daemon_running(state_dir);
    runs.then(|| DaemonStatus::read(state_dir)).flatten()?.relay
}

/// Why `service uninstall` would leave Santa without a server, if it would.
pub(super) fn keeps_service(config: &Config) -> Option<Error> {
    let relay = config.relay.as_ref()?;
    (profile_points_here(config, relay) == Some(true)).then(|| {
        let what = format!(
            "Santa's profile leads to the relay of this service ({}); without it Santa gets no \
             rules, and another program could take its place",
            relay.url()
        );
        Error::new(EXIT_CONFIG, what).with_fix("`santa-sync relay remove` says how to undo that")
    })
}

/// Writes a property list that may hold secrets.
fn write_plist(path: &Path, value: &Value) -> Result<(), Error> {
    let mut text = Vec::new();
    value
        .to_writer_xml(&mut text)
        .map_err(|error| Error::internal(format!("cannot write a property list: {error}")))?;
    text.push(b'\n');
    let how = Replacement { mode: 0o600, durable: false };
    files::replace(path, &text, how).map_err(|error| {
        Error::unusable(format!("cannot write {}: {error}", path.display()))
            .with_fix("name another directory with --output")
    })?;
    output::line(format_args!("wrote {}", path.display()));
    Ok(())
}

/// A command line of this program on the same state directory and configuration.
fn own_command(global: &Global, words: &str) -> String {
    let option = |name: &str, path: &Option<PathBuf>| {
        path.as_deref().map_or_else(String::new, |path| format!("{name} {} ", shown_path(path)))
    };
    let (config, state_dir) =
        (option("--config", &global.config), option("--state-dir", &global.state_dir));
    format!("santa-sync {config}{state_dir}{words}")
}

/// A path as a shell takes it from any directory.
fn shown_path(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&absolute.display().to_string())
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Numbers what is to be done.
fn show_steps(steps: &[String]) {
    output::line("");
    output::line("Next, in this order:");
    for (number, step) in steps.iter().enumerate() {
        output::line(format_args!("{}. {step}", number + 1));
    }
}
