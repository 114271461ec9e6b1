//! `relay remove`: leads the authorizer away, and once nothing uses the relay, removes
//! what was made for it (RELAY-14).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{
    SANTAS_PROFILE, own_command, profile_points_here, quoted, running_relay, show_steps,
    write_plist,
};
use crate::cli::error::EXIT_UNREACHABLE;
use crate::cli::{Error, Global, output, service, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{
    Config, Domain, Loaded, RawKeys, RelayConfig, SantaProfile, default_relay_dir, state_dir,
};
use crate::control::status::DaemonStatus;
use crate::host::AuthorizerReport;
use crate::model::{RelayManner, Timestamp};
use crate::relay::{certificates, leaving, profiles};
use crate::store::Store;

/// How often the daemon's status is read.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An authorizer that came within this time may come again: it is more than the 10 min
/// between syncs that servers set by default.
const CAME_LATELY: Duration = Duration::from_mins(15);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Wait so many seconds for the authorizer's next sync
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait: u64,
    /// Remove the certificates and keys, once the authorizer syncs with another server and the
    /// Relay keys are gone from the configuration
    #[arg(long)]
    finish: bool,
    /// Write Santa's profile to this directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// What became of the wait for the authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// It has the server's interval, or no daemon runs that could give it.
    Enough,
    /// It did not sync in time.
    InVain,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let sources = setup::sources(global);
    let loaded = Config::load(&sources)?;
    let config = &loaded.config;
    let dir = state_dir(global.state_dir.as_deref(), config);
    let Some(relay) = config.relay.as_ref().filter(|_| !args.finish) else {
        let now = SystemClock::with_rate(global.clock_rate).now().wall;
        if let Some(use_of_it) = RelayUse::find(&loaded, &dir, now) {
            return Err(use_of_it.refusal());
        }
        return finish(&dir, &relay_directory(&loaded)).map(|()| ExitCode::SUCCESS);
    };
    let points_here = profile_points_here(config, relay);
    let waited = match points_here {
        // It is led elsewhere already.
        Some(false) => Waited::Enough,
        Some(true) | None => lead_away(global, args, &dir)?,
    };
    let profile = args.output.join(SANTAS_PROFILE);
    let writes_profile = relay.manner == RelayManner::Santa && points_here == Some(true);
    if writes_profile {
        let raw = RawKeys::read(&sources);
        let keys = profiles::santas_side_without_relay(&raw, &loaded.effective);
        write_plist(&profile, &profiles::mobileconfig(Domain::Santa, "Santa", &keys))?;
    }
    let mut steps = Vec::new();
    if points_here != Some(false) {
        steps.push(lead_step(relay, writes_profile.then_some(&*profile)));
    }
    steps.extend(last_steps(global, &loaded, relay));
    show_steps(&steps);
    match waited {
        Waited::Enough => Ok(ExitCode::SUCCESS),
        Waited::InVain => {
            let what = format!(
                "the authorizer has not synced within {} s; it keeps the relay's interval until \
                 its next server names another",
                args.wait
            );
            let fix = format!("have it sync, then repeat `{}`", own_command(global, REMOVE));
            Err(Error::new(EXIT_UNREACHABLE, what).with_fix(fix))
        }
    }
}

const REMOVE: &str = "relay remove";
const FINISH: &str = "relay remove --finish";

/// How the authorizer is led to the real server.
fn lead_step(relay: &RelayConfig, profile: Option<&Path>) -> String {
    match (relay.manner, profile) {
        (RelayManner::Santa, Some(profile)) => format!(
            "Install {} in place of Santa's profile: it leads Santa to the real server.",
            profile.display()
        ),
        (RelayManner::Santa, None) => {
            "Have the authorizer sync with the real server, not with the relay.".to_owned()
        }
        (RelayManner::Pedro, _) => {
            "Start pedro with --sync-endpoint and the real server's URL.".to_owned()
        }
    }
}

/// What follows once the authorizer syncs elsewhere.
fn last_steps(global: &Global, loaded: &Loaded, relay: &RelayConfig) -> [String; 3] {
    let source = loaded.effective.source("RelayListen");
    // Without the keys nobody knows any more where the files are.
    let own = own_command(global, FINISH);
    let finish = if relay.directory == default_relay_dir() {
        own
    } else {
        let set = format!("RelayDirectory={}", relay.directory.display());
        format!("{own} --set {}", quoted(&set))
    };
    [
        format!(
            "Remove RelayListen and the other Relay keys from {source}, and reload the daemon: {}.",
            reload()
        ),
        format!("`{finish}` removes the certificates and keys."),
        format!(
            "`{}` gives up the port, or `{}` if the authorizer syncs by itself.",
            own_command(global, "service install"),
            own_command(global, "service uninstall")
        ),
    ]
}

/// How the daemon of the service reads its configuration again.
fn reload() -> String {
    if cfg!(target_os = "macos") {
        format!("`sudo launchctl kill SIGHUP {}`", service::LAUNCHD_TARGET)
    } else {
        format!("`sudo systemctl reload {}`", service::UNIT)
    }
}

/// Where the certificates for the authorizer are. `RelayDirectory` counts without
/// `RelayListen`, too.
fn relay_directory(loaded: &Loaded) -> PathBuf {
    let configured = loaded.effective.get("RelayDirectory");
    let configured = configured.and_then(|chosen| chosen.value.as_string());
    configured.map_or_else(|| default_relay_dir().to_owned(), PathBuf::from)
}

/// What still uses the relay's certificates and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RelayUse {
    /// The configuration has a relay, here.
    Configured { source: String },
    /// A daemon runs with one.
    Running { state_dir: PathBuf, url: String },
    /// Santa's profile names its files.
    Profile { directory: PathBuf },
    /// The authorizer came lately.
    Authorizer { at: Timestamp },
}

impl RelayUse {
    /// What there is, the first to be ended first.
    fn find(loaded: &Loaded, dir: &Path, now: Timestamp) -> Option<Self> {
        if loaded.config.relay.is_some() {
            let source = loaded.effective.source("RelayListen").to_string();
            return Some(Self::Configured { source });
        }
        if let Some(relay) = running_relay(dir) {
            return Some(Self::Running { state_dir: dir.to_owned(), url: relay.url });
        }
        let directory = relay_directory(loaded);
        if loaded.config.santa_profile.as_ref().is_some_and(|santas| names(santas, &directory)) {
            return Some(Self::Profile { directory });
        }
        let at = AuthorizerReport::read(dir)?.at;
        // One from the future says nothing of now.
        let is_lately = at <= now && now.since(at) < CAME_LATELY;
        is_lately.then_some(Self::Authorizer { at })
    }

    fn refusal(&self) -> Error {
        let (what, fix) = match self {
            Self::Configured { source } => (
                format!(
                    "RelayListen is set in {source}, so the daemon would make the certificates anew"
                ),
                format!(
                    "once the authorizer syncs with another server, remove the Relay keys there, \
                     reload the daemon ({}), and repeat",
                    reload()
                ),
            ),
            Self::Running { state_dir, url } => (
                format!("the daemon on {} still has a relay, at {url}", state_dir.display()),
                format!(
                    "remove the Relay keys from its configuration or command line, reload it ({}), \
                     and repeat",
                    reload()
                ),
            ),
            Self::Profile { directory } => (
                format!("Santa's profile names files of {}", directory.display()),
                "install a profile that leads Santa to the real server, and repeat".to_owned(),
            ),
            Self::Authorizer { at } => (
                format!("the authorizer synced with the relay at {at}, so it may still need it"),
                format!(
                    "have it sync with another server, and repeat after {}",
                    at.after(CAME_LATELY)
                ),
            ),
        };
        Error::unusable(what).with_fix(fix)
    }
}

/// Whether Santa's profile names a file of the relay's.
fn names(profile: &SantaProfile, directory: &Path) -> bool {
    let files = [&profile.roots_file, &profile.client_file];
    files.into_iter().flatten().any(|file| file.starts_with(directory))
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
fn lead_away(global: &Global, args: &Args, state_dir: &Path) -> Result<Waited, Error> {
    Store::prepare_dir(state_dir)?;
    let clock = SystemClock::with_rate(global.clock_rate);
    let begin = if let Some(since) = leaving::leaving_since(state_dir) {
        since
    } else {
        let now = clock.now().wall;
        leaving::begin(state_dir, now).map_err(|error| cannot_note(&error))?;
        now
    };
    if running_relay(state_dir).is_none() {
        output::line("noted: once the daemon runs, its relay hands out the server's own interval");
        output::note(
            "no daemon with a relay runs on this state directory, so the authorizer keeps the \
             relay's interval until a server names another",
        );
        return Ok(Waited::Enough);
    }
    output::line("the relay hands out the server's own interval from now on");
    let hasten = if cfg!(target_os = "macos") { " (`santactl sync` hastens it)" } else { "" };
    output::note(format_args!(
        "waiting at most {} s for the authorizer's next sync{hasten}",
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
        return Ok(Waited::Enough);
    }
    Ok(Waited::InVain)
}

/// When the authorizer last finished a sync, as far as the daemon has said.
fn last_finished(state_dir: &Path) -> Option<Timestamp> {
    Some(DaemonStatus::read(state_dir)?.relay?.acknowledged?.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-14: each refusal says where the use is, and what ends it.
    #[test]
    fn relay_14_what_still_uses_the_relay_is_named_with_what_ends_it() {
        let at = Timestamp::from_secs(1_800_000_000);
        let said = |use_of_it: RelayUse| use_of_it.refusal().to_string();
        let text = said(RelayUse::Configured { source: "/etc/c.plist".to_owned() });
        assert!(text.contains("set in /etc/c.plist") && text.contains("reload"), "{text}");
        let state_dir = PathBuf::from("/state");
        let url = "http://127.0.0.1:917/".to_owned();
        let text = said(RelayUse::Running { state_dir, url });
        assert!(text.contains("daemon on /state") && text.contains("127.0.0.1:917"), "{text}");
        let text = said(RelayUse::Authorizer { at });
        assert!(text.contains(&at.after(CAME_LATELY).to_string()), "{text}");
    }

    /// RELAY-14: a profile that names the relay's files leads to it, whatever its URL.
    #[test]
    fn relay_14_a_profile_that_names_the_relays_files_uses_them() {
        let directory = Path::new("/etc/santa-sync/relay");
        let with =
            |file: &str| SantaProfile { roots_file: Some(file.into()), ..SantaProfile::default() };
        assert!(names(&with("/etc/santa-sync/relay/ca.pem"), directory));
        assert!(!names(&with("/etc/santa-sync/relayed.pem"), directory));
        assert!(!names(&SantaProfile::default(), directory));
    }
}
