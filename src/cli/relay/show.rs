//! `relay show`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{own_command, profile_points_here, running_relay};
use crate::cli::setup::Setup;
use crate::cli::{Error, Global, output, setup};
use crate::config::{RelayConfig, default_relay_dir};
use crate::control::relay::{RelayStatus, clients_words};
use crate::failure::Remedy as _;
use crate::model::{RelayManner, Timestamp};
use crate::relay::certificates::{self, CA_FILE, CLIENT_FILE};
use crate::relay::{leaving, profiles};

/// The version of the `--json` form.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is in use: what the daemon that runs has, else what is configured.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct ShowReport {
    schema_version: u32,
    /// Where the authorizer finds the relay; `null` if there is none.
    url: Option<String>,
    /// Where this command's configuration has it; `null` if it has none.
    configured_url: Option<String>,
    manner: String,
    tls: bool,
    client_certificate: bool,
    /// Whether requests must carry `RelaySecret`; never its value.
    secret: bool,
    directory: String,
    certificates: Option<CertificatesForm>,
    /// Whether Santa's profile leads here; `null` if there is none to read.
    santas_profile_points_here: Option<bool>,
    /// Since when the authorizer is being led away.
    leaving_since: Option<Timestamp>,
    /// Whether a daemon runs on the state directory.
    daemon_runs: bool,
    /// How the relay of the daemon stands.
    status: Option<RelayStatus>,
    next_step: String,
    /// The flags that lead pedro here.
    #[serde(skip)]
    pedro_flags: Option<String>,
    /// Why the configuration cannot be used.
    #[serde(skip)]
    refusal: Option<String>,
}

#[derive(Debug, Serialize)]
struct CertificatesForm {
    ca_sha256: String,
    server_expires: Timestamp,
    /// The files that the authorizer needs and that are missing.
    missing: Vec<String>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let setup = setup::load_to_read(global)?;
    let report = ShowReport::of(global, &setup);
    if args.json {
        setup.print_json(&report);
    } else {
        output::lines(report.text());
    }
    Ok(ExitCode::SUCCESS)
}

impl ShowReport {
    fn of(global: &Global, setup: &Setup) -> Self {
        let (config, state_dir) = (&setup.config, &*setup.state_dir);
        let relay = config.relay.as_ref();
        let daemon_runs = crate::control::is_daemon_running(state_dir);
        let status = running_relay(state_dir);
        let live = status.as_ref().filter(|status| !status.url.is_empty());
        let directory = match live {
            Some(live) if !live.directory.is_empty() => PathBuf::from(&live.directory),
            Some(_) | None => relay
                .map_or_else(|| default_relay_dir().to_owned(), |relay| relay.directory.clone()),
        };
        let configured_url = relay.map(RelayConfig::url);
        let url = live.map(|live| live.url.clone()).or_else(|| configured_url.clone());
        let fact = |live_has: fn(&RelayStatus) -> bool, relay_has: fn(&RelayConfig) -> bool| {
            live.map(live_has).or(relay.map(relay_has)).unwrap_or_default()
        };
        let tls = fact(|live| live.url.starts_with("https:"), |relay| relay.tls);
        let client_certificate =
            fact(|live| live.client_certificate, |relay| relay.client_certificate);
        let manner = match live {
            Some(live) => live.manner.clone(),
            None => relay.map_or(RelayManner::default(), |relay| relay.manner).name().to_owned(),
        };
        let is_pedro = manner == RelayManner::Pedro.name();
        let flags = relay.filter(|_| is_pedro).map(|relay| {
            profiles::pedro_flags(relay, relay.interval.unwrap_or(profiles::PEDRO_INTERVAL))
        });
        let mut report = Self {
            schema_version: SCHEMA_VERSION,
            url,
            configured_url,
            manner,
            tls,
            client_certificate,
            secret: fact(|live| live.secret, |relay| relay.secret.is_some()),
            directory: directory.display().to_string(),
            certificates: certificates_in_use(state_dir, &directory, tls, client_certificate),
            santas_profile_points_here: relay.and_then(|relay| profile_points_here(config, relay)),
            leaving_since: leaving::leaving_since(state_dir),
            daemon_runs,
            status,
            next_step: String::new(),
            pedro_flags: flags,
            refusal: setup.refusal().map(|(message, _)| message.to_owned()),
        };
        report.next_step = match (&report.url, setup.refusal()) {
            (None, Some((_, fix))) => fix.to_owned(),
            (None | Some(_), _) => report.next_step(global, config.sync_base_url.is_some()),
        };
        report
    }

    /// The first thing that is missing on the way to an authorizer in step.
    fn next_step(&self, global: &Global, has_server: bool) -> String {
        let own = |words: &str| own_command(global, words);
        let certificates = self.certificates.as_ref();
        let has_files = certificates.is_some_and(|made| made.missing.is_empty());
        let Some(url) = &self.url else {
            return format!(
                "`{}` makes certificates and writes the profiles for both sides",
                own("relay setup")
            );
        };
        if self.leaving_since.is_some() {
            return format!(
                "`{}` goes on; `{}` has the authorizer stay",
                own("relay remove"),
                own("relay setup")
            );
        }
        if self.tls && !has_files {
            return format!("`{}`, as root, makes the certificates", own("relay setup"));
        }
        if self.santas_profile_points_here == Some(false) {
            return format!(
                "lead Santa here: install the profile that `santa-sync relay setup` has written \
                 for it, with SyncBaseURL {url}"
            );
        }
        if !has_server && self.configured_url.is_some() {
            return "set SyncBaseURL, the real server's URL, in the agent's own domain".to_owned();
        }
        if !self.daemon_runs {
            return format!("`{}` starts the daemon", own("service install --relay"));
        }
        let Some(status) = &self.status else {
            return "wait until the daemon has read the configuration; `santa-sync status` shows \
                    it"
            .to_owned();
        };
        if status.error.is_some() {
            return status.error_fix.clone().unwrap_or_else(|| {
                format!("have the relay listen at {url}; the daemon tries again every 5 s")
            });
        }
        if let Some(reason) = &status.not_ready {
            return format!("nothing can be handed out yet ({reason}): `{}`", own("sync"));
        }
        match (&status.authorizer, status.in_step) {
            (None, _) if self.manner == RelayManner::Pedro.name() => {
                format!("start pedro with --sync-endpoint {}", url.trim_end_matches('/'))
            }
            (None, _) if cfg!(target_os = "macos") => {
                format!("have Santa sync: `santactl sync`; it must sync with {url}")
            }
            (None, _) => format!("have the authorizer's sync client sync with {url}"),
            (Some(_), false) if status.acknowledged.is_none() => {
                "wait for the authorizer's next sync, which brings the rules".to_owned()
            }
            (Some(_), false) => {
                format!(
                    "wait for the authorizer's next sync; `{}` says what keeps it",
                    own("doctor")
                )
            }
            (Some(_), true) => "none: the authorizer is in step".to_owned(),
        }
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut row = |name: &str, value: &str| {
            lines.push(format!("{name:18} {}", output::printable(value)));
        };
        let Some(url) = &self.url else {
            match &self.refusal {
                Some(refusal) => row("Relay", &format!("not known: {refusal}")),
                None => row("Relay", "None (RelayListen is not set)"),
            }
            row("Next step", &self.next_step);
            return output::joined(&lines);
        };
        row("Relay", url);
        if self.configured_url.as_ref() != Some(url) {
            let configured = self.configured_url.as_deref().unwrap_or("no relay");
            row("Configuration", &format!("{configured}, other than the daemon's"));
        }
        row("Authorizer", &self.manner);
        let checks_peers = match &self.status {
            Some(status) => status.checks_peers,
            None => self.client_certificate || cfg!(target_os = "linux"),
        };
        row("Who is served", clients_words(self.client_certificate, checks_peers, self.secret));
        row("RelaySecret", if self.secret { "set" } else { "not set" });
        if self.tls {
            row("Certificates", &self.directory);
            match &self.certificates {
                None => row("", "none have been made"),
                Some(made) => {
                    row("  CA", &made.ca_sha256);
                    row("  valid until", &made.server_expires.to_string());
                    made.missing.iter().for_each(|name| row("  missing", name));
                }
            }
        }
        let is_pedro = self.manner == RelayManner::Pedro.name();
        match self.santas_profile_points_here {
            Some(true) => row("Santa's profile", "leads here"),
            Some(false) => row("Santa's profile", "leads elsewhere"),
            // Only a Mac has profiles.
            None if cfg!(target_os = "macos") && !is_pedro => {
                row("Santa's profile", "none can be read");
            }
            None => {}
        }
        if let Some(flags) = &self.pedro_flags {
            row("pedro's flags", flags);
        }
        if let Some(at) = self.leaving_since {
            row("Leaving since", &at.to_string());
        }
        match &self.status {
            None if self.daemon_runs => row("Daemon", "runs, without a relay"),
            None => row("Daemon", "not running"),
            Some(RelayStatus { error: Some(error), .. }) => row("Daemon", error),
            Some(status) => {
                row("Daemon", &format!("listens at {}", status.url));
                let last = status.authorizer.as_ref().map(|last| last.at.to_string());
                row("Last preflight", last.as_deref().unwrap_or("None"));
                row("In step", if status.in_step { "Yes" } else { "No" });
            }
        }
        row("Next step", &self.next_step);
        output::joined(&lines)
    }
}

/// What is known of the certificates, with TLS.
fn certificates_in_use(
    state_dir: &Path,
    directory: &Path,
    tls: bool,
    needs_client: bool,
) -> Option<CertificatesForm> {
    let inspected = if tls { certificates::inspect(state_dir) } else { Ok(None) };
    let made = inspected.inspect_err(|error| output::note(error.with_fix())).ok()??;
    let needed = [Some(CA_FILE), needs_client.then_some(CLIENT_FILE)];
    let missing = needed.into_iter().flatten().filter(|name| !directory.join(name).exists());
    Some(CertificatesForm {
        ca_sha256: made.ca_sha256(),
        server_expires: made.server_expires(),
        missing: missing.map(str::to_owned).collect(),
    })
}
