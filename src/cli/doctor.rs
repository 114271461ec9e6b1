//! `doctor`: finds what keeps this host from syncing, layer by layer.
//!
//! It changes nothing on this host. Its one word to the server is a preflight
//! in this host's own name (other identities are refused by servers that know
//! their hosts), announced before it is sent and left out with `--no-probe`;
//! its response is read and discarded.

use std::process::ExitCode;

use serde::Serialize;
use strum::IntoStaticStr;

use super::{Error, Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, state_dir};
use crate::control::configuration::ConfigurationReport;
use crate::failure::Remedy;
use crate::host::{self, RememberingHost, SystemHost};
use crate::model::SyncResult;

mod daemon;
mod encodings;
mod local;
mod network;
mod probe;
mod relay;
mod report;
mod state;
mod stores;

/// The version of the `--json` form.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print a report to send to whoever helps: the findings, this host's names and versions, the
    /// configuration, and what the system says of the service; without secrets
    #[arg(long, conflicts_with = "json")]
    report: bool,
    /// Send no request to the server; check DNS and TCP only
    #[arg(long)]
    no_probe: bool,
    /// Test which transfers and request encodings the server accepts, with one preflight for each
    /// of the six combinations; the server may count them as syncs
    #[arg(long, conflicts_with = "no_probe")]
    encodings: bool,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Not looked at, because something before it fails or nothing asks for it.
    Skipped,
    /// The server does not take it, which only matters if it is configured.
    Refused,
    /// Works, but somebody should look.
    Warning,
    /// Keeps this host from syncing.
    Problem,
}

/// The layers in the order they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "lowercase")]
enum Layer {
    Configuration,
    Identity,
    #[strum(serialize = "state directory")]
    StateDirectory,
    Stores,
    Service,
    Daemon,
    Relay,
    Dns,
    Connection,
    Tls,
    #[strum(serialize = "client certificate")]
    ClientCertificate,
    Http,
    Body,
    Clock,
    Encodings,
    History,
}

impl Layer {
    fn name(self) -> &'static str {
        self.into()
    }

    /// The result of a sync with a problem there.
    const fn result(self) -> SyncResult {
        match self {
            Self::Configuration => SyncResult::BadConfiguration,
            Self::Identity => SyncResult::MissingMachineId,
            Self::StateDirectory | Self::Stores => SyncResult::StateUnusable,
            Self::Daemon => SyncResult::DaemonNotReachable,
            Self::Service
            | Self::Relay
            | Self::Dns
            | Self::Connection
            | Self::Tls
            | Self::ClientCertificate
            | Self::Http
            | Self::Body
            | Self::Clock
            | Self::Encodings
            | Self::History => SyncResult::PreflightFailed,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    layer: Layer,
    status: Status,
    message: String,
    /// What to do; only for warnings and problems.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// One word for the cause, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The exit code if this is the first problem: the one a sync would end
    /// with.
    #[serde(skip)]
    exit_code: u8,
}

impl Line {
    fn new(layer: Layer, status: Status, message: impl Into<String>) -> Self {
        let exit_code = layer.result().exit_code();
        Self { layer, status, message: message.into(), fix: None, kind: None, exit_code }
    }

    fn ok(layer: Layer, message: impl Into<String>) -> Self {
        Self::new(layer, Status::Ok, message)
    }

    fn skipped(layer: Layer, message: impl Into<String>) -> Self {
        Self::new(layer, Status::Skipped, message)
    }

    fn refused(layer: Layer, message: impl Into<String>) -> Self {
        Self::new(layer, Status::Refused, message)
    }

    fn warning(layer: Layer, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(layer, Status::Warning, message) }
    }

    fn problem(layer: Layer, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(layer, Status::Problem, message) }
    }

    /// An error with its remedy, or with `otherwise` if it has none.
    fn of_error(layer: Layer, error: &dyn Remedy, otherwise: &'static str) -> Self {
        Self::problem(layer, error.to_string(), error.fix().unwrap_or(otherwise.into()))
    }

    fn text(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Refused => "refused",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        let message = output::printable(&self.message);
        let line = format!("{status:8} {:18} {message}", self.layer.name());
        match &self.fix {
            Some(fix) => format!("{line}\n{:27} fix: {}", "", output::printable(fix)),
            None => line,
        }
    }
}

#[derive(Debug, Serialize)]
struct DoctorReport {
    schema_version: u32,
    /// The worst status of all lines.
    result: Status,
    exit_code: u8,
    lines: Vec<Line>,
}

impl DoctorReport {
    fn new(lines: Vec<Line>) -> Self {
        let result = match lines.iter().map(|line| line.status).max() {
            // A check that was not asked for does not make the report worse.
            None | Some(Status::Skipped | Status::Refused) => Status::Ok,
            Some(worst) => worst,
        };
        // The first problem is the one to fix first: the layers build on each
        // other.
        let first = lines.iter().find(|line| line.status == Status::Problem);
        let exit_code = first.map_or(0, |line| line.exit_code);
        Self { schema_version: SCHEMA_VERSION, result, exit_code, lines }
    }

    fn summary(&self) -> String {
        let count = |status| self.lines.iter().filter(|line| line.status == status).count();
        let (problems, warnings) = (count(Status::Problem), count(Status::Warning));
        let counted = |n, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        match (problems, warnings) {
            (0, 0) => "Everything looked at is fine.".to_owned(),
            (0, _) => format!("No problem, {}.", counted(warnings, "warning")),
            (_, _) => format!(
                "{}, {}; fix the first problem first.",
                counted(problems, "problem"),
                counted(warnings, "warning")
            ),
        }
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::internal(format!("cannot start the runtime: {error}")))?;
    // Lines are shown as they come: some layers take their time.
    let mut lines = ReportLines { shown: !args.json && !args.report, all: Vec::new() };
    runtime.block_on(examine(global, args, &mut lines));
    let report = DoctorReport::new(lines.all);
    if args.json {
        output::json(&report);
    } else if args.report {
        output::lines(report_text(global, &report));
    } else {
        output::line(report.summary());
    }
    Ok(ExitCode::from(report.exit_code))
}

fn report_text(global: &Global, report: &DoctorReport) -> String {
    let loaded = Config::examine(&setup::sources(global));
    let dir = state_dir(global.state_dir.as_deref(), &loaded.config);
    let host = RememberingHost::new(SystemHost, &dir);
    let facts = host::facts(&loaded.config, &host);
    let now = SystemClock::with_rate(global.clock_rate).now().wall;
    report::Parts { report, loaded: &loaded, facts: &facts, host: &host, now }.text()
}

/// Lines found so far.
struct ReportLines {
    shown: bool,
    all: Vec<Line>,
}

impl ReportLines {
    fn add(&mut self, line: Line) {
        if self.shown {
            output::lines(line.text());
        }
        self.all.push(line);
    }

    fn extend(&mut self, lines: impl IntoIterator<Item = Line>) {
        lines.into_iter().for_each(|line| self.add(line));
    }
}

async fn examine(global: &Global, args: &Args, lines: &mut ReportLines) {
    let clock = SystemClock::with_rate(global.clock_rate);
    let loaded = Config::examine(&setup::sources(global));
    lines.extend(local::configuration(&loaded, &clock));
    let dir = state_dir(global.state_dir.as_deref(), &loaded.config);
    let host = RememberingHost::new(SystemHost, &dir);
    lines.extend(local::proxies(&loaded.config.proxy, &host));
    let report = host::facts(&loaded.config, &host);
    lines.extend(local::identity(&report));
    lines.extend(state::examine(&dir, loaded.config.socket_group.is_some()));
    let mut found = Vec::new();
    let rules = stores::examine(&dir, loaded.config.client_mode, clock, &mut found);
    lines.extend(found);
    lines.extend(stores::standing(&rules, &loaded.config));
    let service = local::service(&host);
    lines.add(service.clone());
    let is_own = global.set.is_empty() && global.config.is_none() && global.state_dir.is_none();
    let service = is_own.then_some(&service);
    let own = ConfigurationReport::examine(&loaded, &host, |name| std::env::var(name).ok());
    let daemon = daemon::examine(&dir, &loaded, &own, service, &host);
    lines.extend(daemon.lines);
    let now = clock.now().wall;
    lines.extend(relay::examine(&loaded.config, &dir, daemon.relay.as_ref(), &host, now));
    let daemon = daemon.configuration.filter(|configuration| configuration.digest == own.digest);
    let way = network::ProbeTarget { loaded: &loaded, report: &report, daemon: daemon.as_ref() };
    network::examine(args, &way, rules.open(), &clock, lines).await;
    lines.extend(local::history(&rules, &clock));
}

#[cfg(test)]
mod tests;
