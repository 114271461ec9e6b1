//! `relay remove`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{SANTAS_PROFILE, profile_points_here, show_steps, write_plist};
use crate::agent::RemoteAgent;
use crate::cli::{Error, Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Domain, RawKeys, RelayConfig, default_relay_dir, state_dir};
use crate::control::status::DaemonStatus;
use crate::model::{RelayManner, Timestamp};
use crate::relay::{certificates, leaving, profiles};
use crate::store::Store;

/// How often the daemon's status is read.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait so many seconds for the authorizer's next sync
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait: u64,
    /// Remove the certificates although no profile of Santa's can be read; the authorizer must
    /// sync with another server already
    #[arg(long)]
    finish: bool,
    /// Write Santa's profile to this directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// What is to be done, by what is known of the authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It comes here: it is given what it needs elsewhere, then led away.
    LeadAway,
    /// It does not come here: what was made for it is removed.
    Finish,
}

impl Stage {
    /// `points_here` is whether Santa's profile leads here, if one can be read;
    /// `finish` whether the command line says that it does not come.
    const fn of(points_here: Option<bool>, finish: bool) -> Self {
        match (points_here, finish) {
            (Some(true), _) | (None, false) => Self::LeadAway,
            (Some(false), _) | (None, true) => Self::Finish,
        }
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let sources = setup::sources(global);
    let loaded = Config::load(&sources)?;
    let config = &loaded.config;
    let dir = state_dir(global.state_dir.as_deref(), config);
    let Some(relay) = &config.relay else {
        if let Some(url) = running(&dir) {
            let dir = dir.display();
            let what = format!(
                "the daemon on {dir} runs a relay at {url}, which this configuration does not have"
            );
            let fix = "repeat with the daemon's --config and --set, or remove the Relay keys first";
            return Err(Error::unusable(what).with_fix(fix));
        }
        // The keys are gone already; what was made for them may be left.
        return finish(&dir, default_relay_dir()).map(|()| ExitCode::SUCCESS);
    };
    match Stage::of(profile_points_here(config, relay), args.finish) {
        Stage::Finish => {
            finish(&dir, &relay.directory)?;
            show_steps(&[
                "Remove RelayListen and the other Relay keys from the agent's configuration."
                    .to_owned(),
                "`santa-sync service install`, or `santa-sync service uninstall` if the authorizer \
                 syncs by itself."
                    .to_owned(),
            ]);
        }
        Stage::LeadAway => {
            lead_away(global, args, &dir)?;
            let profile = args.output.join(SANTAS_PROFILE);
            if relay.manner == RelayManner::Santa && config.santa_profile.is_some() {
                let raw = RawKeys::read(&sources);
                let keys = profiles::santas_side_without_relay(&raw, &loaded.effective);
                write_plist(&profile, &profiles::mobileconfig(Domain::Santa, "Santa", &keys))?;
            }
            show_steps(&steps(relay, config.santa_profile.is_some(), &profile));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the relay of the running daemon is; `None` without one.
fn running(state_dir: &Path) -> Option<String> {
    let mut daemon = RemoteAgent::connect(state_dir).ok()??;
    daemon.status().ok()?.relay.map(|relay| relay.url)
}

fn steps(relay: &RelayConfig, has_profile: bool, profile: &Path) -> Vec<String> {
    let first = match relay.manner {
        RelayManner::Santa if has_profile => format!(
            "Install {} in place of Santa's profile: it leads Santa to the real server.",
            profile.display()
        ),
        RelayManner::Santa => "Have the authorizer sync with the real server.".to_owned(),
        RelayManner::Pedro => {
            "Start pedro with --sync-endpoint and the real server's URL.".to_owned()
        }
    };
    let again = if has_profile { "" } else { " --finish" };
    vec![first, format!("`santa-sync relay remove{again}` again removes the certificates.")]
}

/// Removes what was made for the authorizer.
fn finish(state_dir: &Path, directory: &Path) -> Result<(), Error> {
    certificates::remove(state_dir, directory)?;
    leaving::end(state_dir).map_err(|error| cannot_note(&error))?;
    output::line("the relay's certificates and keys are removed");
    Ok(())
}

fn cannot_note(error: &std::io::Error) -> Error {
    Error::unusable(format!("the state directory cannot be written: {error}"))
}

/// Has the relay hand out the server's own interval, and waits for a sync that
/// takes it.
fn lead_away(global: &Global, args: &Args, state_dir: &Path) -> Result<(), Error> {
    Store::prepare_dir(state_dir)?;
    let clock = SystemClock::with_rate(global.clock_rate);
    let begin = if let Some(since) = leaving::leaving_since(state_dir) {
        since
    } else {
        let now = clock.now().wall;
        leaving::begin(state_dir, now).map_err(|error| cannot_note(&error))?;
        now
    };
    output::line("the relay hands out the server's own interval from now on");
    if !crate::control::is_daemon_running(state_dir) {
        output::note(
            "no daemon runs, so the authorizer does not hear of it; it keeps the relay's interval until its next server tells it another",
        );
        return Ok(());
    }
    output::note(format_args!(
        "waiting at most {} s for the authorizer's next sync (`santactl sync` hastens it)",
        args.wait
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime =
        runtime.map_err(|error| Error::internal(format!("cannot start the runtime: {error}")))?;
    let end = clock.now().wall.after(Duration::from_secs(args.wait));
    let has_come = runtime.block_on(async {
        loop {
            if last_finished(state_dir).is_some_and(|at| begin <= at) {
                return true;
            }
            if end <= clock.now().wall {
                return false;
            }
            clock.sleep(LOOK_AGAIN).await;
        }
    });
    if has_come {
        output::line("the authorizer has taken it");
    } else {
        output::note(
            "the authorizer has not synced; it keeps the relay's interval until its next server \
             tells it another",
        );
    }
    Ok(())
}

/// When the authorizer last finished a sync, as far as the daemon has said.
fn last_finished(state_dir: &Path) -> Option<Timestamp> {
    Some(DaemonStatus::read(state_dir)?.relay?.acknowledged?.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-14: nothing is removed under an authorizer that still comes.
    #[test]
    fn relay_14_what_an_authorizer_still_uses_is_not_removed() {
        for finish in [false, true] {
            assert_eq!(Stage::of(Some(true), finish), Stage::LeadAway);
            assert_eq!(Stage::of(Some(false), finish), Stage::Finish);
        }
        assert_eq!(Stage::of(None, false), Stage::LeadAway);
        assert_eq!(Stage::of(None, true), Stage::Finish);
    }
}
