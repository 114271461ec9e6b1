//! `relay show`

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::profile_points_here;
use crate::cli::{Error, Global, output, setup};
use crate::config::{Config, RelayConfig, default_relay_dir};
use crate::control::relay::RelayStatus;
use crate::control::status::DaemonStatus;
use crate::model::{RelayManner, Timestamp};
use crate::relay::certificates::{self, CA_FILE, CLIENT_FILE};
use crate::relay::leaving;

/// The version of the `--json` form.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is in use.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct ShowReport {
    schema_version: u32,
    /// Where the authorizer finds the relay; `null` if none is configured.
    url: Option<String>,
    manner: &'static str,
    tls: bool,
    client_certificate: bool,
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
    let report = ShowReport::of(&setup.config, &setup.state_dir)?;
    if args.json {
        setup.print_json(&report);
    } else {
        output::lines(report.text());
    }
    Ok(ExitCode::SUCCESS)
}

impl ShowReport {
    fn of(config: &Config, state_dir: &Path) -> Result<Self, Error> {
        let relay = config.relay.as_ref();
        let directory = relay.map_or(default_relay_dir(), |relay| &relay.directory);
        let made = match relay {
            Some(relay) if relay.tls => certificates::inspect(state_dir)?,
            Some(_) | None => None,
        };
        let needs_client = relay.is_some_and(|relay| relay.client_certificate);
        let needed = [Some(CA_FILE), needs_client.then_some(CLIENT_FILE)];
        let missing = needed.into_iter().flatten().filter(|name| !directory.join(name).exists());
        let certificates = made.map(|made| CertificatesForm {
            ca_sha256: made.ca_sha256(),
            server_expires: made.server_expires(),
            missing: missing.map(str::to_owned).collect(),
        });
        let daemon_runs = crate::control::is_daemon_running(state_dir);
        let status = daemon_runs.then(|| DaemonStatus::read(state_dir)).flatten();
        let mut report = Self {
            schema_version: SCHEMA_VERSION,
            url: relay.map(RelayConfig::url),
            manner: relay.map_or(RelayManner::default(), |relay| relay.manner).name(),
            tls: relay.is_some_and(|relay| relay.tls),
            client_certificate: needs_client,
            secret: relay.is_some_and(|relay| relay.secret.is_some()),
            directory: directory.display().to_string(),
            certificates,
            santas_profile_points_here: relay.and_then(|relay| profile_points_here(config, relay)),
            leaving_since: leaving::leaving_since(state_dir),
            daemon_runs,
            status: status.and_then(|status| status.relay),
            next_step: String::new(),
        };
        report.next_step = report.next_step(config.sync_base_url.is_some());
        Ok(report)
    }

    /// The first thing that is missing on the way to an authorizer in step.
    fn next_step(&self, has_server: bool) -> String {
        let certificates = self.certificates.as_ref();
        let has_files = certificates.is_some_and(|made| made.missing.is_empty());
        let Some(url) = &self.url else {
            return "`santa-sync relay setup` makes certificates and writes the profiles for both \
                    sides"
                .to_owned();
        };
        if self.leaving_since.is_some() {
            return "`santa-sync relay remove` goes on; `santa-sync relay setup` has the \
                    authorizer stay"
                .to_owned();
        }
        if self.tls && !has_files {
            return "`santa-sync relay setup`, as root, makes the certificates".to_owned();
        }
        if self.santas_profile_points_here == Some(false) {
            return format!(
                "lead Santa here: install the profile that `santa-sync relay setup` has written \
                 for it, with SyncBaseURL {url}"
            );
        }
        if !has_server {
            return "set SyncBaseURL, the real server's URL, in the agent's own domain".to_owned();
        }
        if !self.daemon_runs {
            return "`santa-sync service install --relay` starts the daemon".to_owned();
        }
        let Some(status) = &self.status else {
            return "wait until the daemon has read the configuration; `santa-sync status` shows \
                    it"
            .to_owned();
        };
        if let Some(error) = &status.error {
            return format!("have the relay listen: {error}");
        }
        if let Some(reason) = &status.not_ready {
            return format!("nothing can be handed out yet ({reason}): `santa-sync sync`");
        }
        match (&status.authorizer, status.in_step) {
            (None, _) if self.manner == RelayManner::Pedro.name() => {
                format!("start pedro with --sync-endpoint {}", url.trim_end_matches('/'))
            }
            (None, _) => format!(
                "have the authorizer sync: `santactl sync` on a Mac; it must sync with {url}"
            ),
            (Some(_), false) => {
                "wait for the authorizer's next sync; `santa-sync doctor` says what keeps it"
                    .to_owned()
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
            row("Relay", "None (RelayListen is not set)");
            row("Next step", &self.next_step);
            return output::joined(&lines);
        };
        row("Relay", url);
        row("Authorizer", self.manner);
        row(
            "Who is served",
            match (self.client_certificate, self.secret) {
                (true, _) => "who has the relay's client certificate",
                (false, _) if cfg!(target_os = "linux") => "processes of RelayPeerUsers",
                (false, true) => "who knows RelaySecret",
                (false, false) => "every user of this host",
            },
        );
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
        row(
            "Santa's profile",
            match self.santas_profile_points_here {
                Some(true) => "leads here",
                Some(false) => "leads elsewhere",
                None => "none can be read",
            },
        );
        if let Some(at) = self.leaving_since {
            row("Leaving since", &at.to_string());
        }
        match &self.status {
            None if self.daemon_runs => row("Daemon", "has not reported on the relay"),
            None => row("Daemon", "does not run"),
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
