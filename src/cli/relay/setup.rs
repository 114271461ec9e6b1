//! `relay setup`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plist::Value;

use super::{
    SANTAS_PROFILE, own_command, profile_points_here, program_rule, show_steps, shown_path,
    write_plist,
};
use crate::cli::{Error, Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{
    Config, Domain, Effective, Loaded, RawKeys, RelayConfig, Sources, leads_to, state_dir,
};
use crate::host::{self, HostSource as _, RememberingHost, SystemHost};
use crate::model::{RelayManner, Secret};
use crate::relay::certificates::{self, ClientReader, Places};
use crate::relay::leaving;
use crate::relay::profiles::{self, ProgramRule};
use crate::store::Store;

/// The port where none is configured. Below 1024, only root can take it while
/// the daemon is down.
const DEFAULT_PORT: u16 = 917;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Serve over TLS, and only who has the relay's client certificate [default, but for pedro]
    #[arg(long, conflicts_with = "plain")]
    tls: bool,
    /// Serve in plain HTTP
    #[arg(long)]
    plain: bool,
    /// Listen at this port of 127.0.0.1 [default: as configured, else 917]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Write the profiles to this directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let sources = setup::sources(global);
    let before = Config::load(&sources)?;
    let wanted = Config::load(&with_choices(sources.clone(), &before, args))?;
    let Some(relay) = &wanted.config.relay else {
        return Err(Error::internal("RelayListen was set and has no effect"));
    };
    if !args.output.is_dir() {
        // Before anything is made.
        let what = format!("--output {} is not a directory", args.output.display());
        return Err(Error::unusable(what).with_fix("name another directory with --output"));
    }
    let way = way_to_server(&before, &wanted, relay);
    let raw = RawKeys::read(&sources);
    let host = SystemHost;
    let dir = state_dir(global.state_dir.as_deref(), &wanted.config);
    let password = make_certificates(global, &dir, &wanted.config, relay)?;
    leaving::end(&dir)
        .map_err(|error| Error::unusable(format!("cannot write to {}: {error}", dir.display())))?;
    let program = std::env::current_exe().and_then(|program| program_rule(&program, &host));
    let program = program
        .map_err(|error| Error::internal(format!("cannot read this program's file: {error}")))?;

    let is_macos = host.uname().is_macos();
    let own = profiles::own_side(&raw, way, relay);
    let own_file = if is_macos {
        let profile = profiles::mobileconfig(Domain::Agent, "Santa sync agent", &own);
        let path = args.output.join("relay-agent.mobileconfig");
        write_plist(&path, &profile)?;
        path
    } else {
        let path = args.output.join("relay-agent.plist");
        write_plist(&path, &Value::Dictionary(own))?;
        path
    };
    let santas_file = args.output.join(SANTAS_PROFILE);
    if relay.manner == RelayManner::Santa {
        let side = profiles::santas_side(&raw, relay, password.as_ref(), &program);
        let profile = profiles::mobileconfig(Domain::Santa, "Santa", &side.keys);
        write_plist(&santas_file, &profile)?;
        side.notes.iter().for_each(output::note);
        if let ProgramRule::Binary(_) = program
            && is_macos
        {
            output::note(
                "no team has signed this program, so Santa's profile allows it by its SHA-256; an \
                 update has another, and LOCKDOWN would block it",
            );
        }
    }
    if relay.listen.port() >= 1024 {
        output::note(format_args!(
            "any user can take port {} while nothing listens there, and serve rules in the \
             relay's place; choose one below 1024",
            relay.listen.port()
        ));
    }
    let facts = Facts {
        is_macos,
        has_server: way.get("SyncBaseURL").is_some(),
        points_here: profile_points_here(&wanted.config, relay) == Some(true),
        own_file: shown_path(&own_file),
        santas_file: shown_path(&santas_file),
        // What is read by default on this system.
        config_file: global
            .config
            .as_deref()
            .map_or_else(|| "/etc/santa-sync/config.plist".to_owned(), shown_path),
        install: own_command(global, "service install --relay"),
        show: own_command(global, "relay show"),
        doctor: own_command(global, "doctor"),
    };
    show_steps(&steps(relay, &facts));
    Ok(ExitCode::SUCCESS)
}

/// The sources with what the command line chooses.
fn with_choices(mut sources: Sources, before: &Loaded, args: &Args) -> Sources {
    let config = &before.config;
    let configured = config.relay.as_ref().filter(|_| args.port.is_none());
    let listen = configured.map_or_else(
        || format!("127.0.0.1:{}", args.port.unwrap_or(DEFAULT_PORT)),
        |relay| relay.listen.to_string(),
    );
    let text = |name: &str| {
        let chosen = before.effective.get(name);
        chosen.and_then(|chosen| chosen.value.as_string()).unwrap_or_default().to_lowercase()
    };
    let flag = |name: &str| {
        let value = &before.effective.get(name)?.value;
        value.as_boolean().or_else(|| value.as_signed_integer().map(|number| number != 0))
    };
    let is_pedro = text("RelayManner") == RelayManner::Pedro.name();
    let tls = args.tls || (!args.plain && flag("RelayTLS").unwrap_or(!is_pedro));
    let client = tls && flag("RelayClientCertificate").unwrap_or(true);
    sources.sets.extend([
        format!("RelayListen={listen}"),
        format!("RelayTLS={tls}"),
        format!("RelayClientCertificate={client}"),
    ]);
    sources
}

/// The configuration that says how the real server is reached: until there is a
/// relay, Santa's domain may. One that leads here already does not count.
fn way_to_server<'a>(before: &'a Loaded, wanted: &'a Loaded, relay: &RelayConfig) -> &'a Effective {
    match &before.config.sync_base_url {
        Some(url) if leads_to(url, relay.listen.port()) => &wanted.effective,
        Some(_) | None => &before.effective,
    }
}

/// Makes the certificates if TLS needs any, and returns the password of the
/// client's.
fn make_certificates(
    global: &Global,
    dir: &Path,
    config: &Config,
    relay: &RelayConfig,
) -> Result<Option<Secret>, Error> {
    if !relay.tls {
        return Ok(None);
    }
    Store::prepare_dir(dir)?;
    let host = RememberingHost::new(SystemHost, dir);
    let password =
        config.santa_profile.as_ref().and_then(|profile| profile.client_password.as_ref());
    let client =
        relay.client_certificate.then(|| ClientReader { user: host::nobody_id(&host), password });
    let places = Places { state_dir: dir, directory: &relay.directory, client };
    let now = SystemClock::with_rate(global.clock_rate).now().wall;
    let made = certificates::ensure(&places, host::hardware_uuid(&host).as_deref(), now)?;
    if let Some(reason) = made.made_because() {
        output::line(format_args!("made new certificates: {reason}"));
    }
    output::line(format_args!(
        "certificates in {}, CA {}",
        relay.directory.display(),
        made.ca_sha256()
    ));
    Ok(made.client_password().cloned())
}

/// What the steps depend on.
struct Facts {
    is_macos: bool,
    has_server: bool,
    points_here: bool,
    own_file: String,
    santas_file: String,
    config_file: String,
    /// Commands on the same state directory.
    install: String,
    show: String,
    doctor: String,
}

/// The order of a migration: the authorizer is led here before the agent's own
/// way changes, so that no sync goes to the wrong server.
fn steps(relay: &RelayConfig, facts: &Facts) -> Vec<String> {
    let mut steps = Vec::new();
    match relay.manner {
        RelayManner::Santa if facts.points_here => {}
        RelayManner::Santa if facts.is_macos => steps.push(format!(
            "Install {} in place of the profile that Santa has now: it holds all of its keys. \
             Santa keeps its rules until the relay answers.",
            facts.santas_file
        )),
        RelayManner::Santa => steps.push(format!(
            "Have the authorizer's sync client sync with {}. {} has what it needs, as Santa's keys; \
             it tries again until the relay answers.",
            relay.url(),
            facts.santas_file
        )),
        RelayManner::Pedro => steps.push(format!(
            "Start pedro with {}",
            profiles::pedro_flags(relay, relay.interval.unwrap_or(profiles::PEDRO_INTERVAL))
        )),
    }
    if !facts.has_server {
        steps.push(format!("Add SyncBaseURL, the real server's URL, to {}.", facts.own_file));
    }
    steps.push(if facts.is_macos {
        format!(
            "Install {} in place of the profile for com.santa-sync, if there is one.",
            facts.own_file
        )
    } else {
        format!(
            "Install the agent's side, which has all keys in use, as root: `install -D -m 0640 {} \
             {}`.",
            facts.own_file, facts.config_file
        )
    });
    steps.push(format!("`{}`: the service manager then holds the port.", facts.install));
    steps.push(format!("`{}`, and `{}` if something is wrong.", facts.show, facts.doctor));
    steps
}
