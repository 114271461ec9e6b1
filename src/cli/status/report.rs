//! What `status` says, and how it says it.

use std::path::Path;

use serde::Serialize;

use crate::cli::output::{self, brief};
use crate::config::Config;
use crate::control::moment::Moment;
use crate::control::status::SyncReason;
use crate::control::status::{Activity, DaemonStatus, Liveness, PromptUpload};
use crate::failure::ErrorText;
use crate::host::{MachineIdProblem, SystemHost};
use crate::model::{
    CleanSyncRequest, ClientMode, DEFAULT_SYNC_INTERVAL_SECS, ErrorRecord, MachineId, RuleCounts,
    SCHEMA_VERSION, SyncRecord, SyncResult, SyncType, SyncWarning, Timestamp, Trigger,
};
use crate::store::{EventStore, ReadStore, Standing, Store, StoreError, left_records};
use crate::sync::run;
use crate::sync::upload::UploadResult;
use crate::transport::{ClientCertificate, inspect_client_certificate};

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    schema_version: u32,
    state_dir: String,
    server: Option<String>,
    machine_id: Option<String>,
    machine_id_error: Option<ErrorText>,
    client_mode: &'static str,
    /// Why the mode is not the one that was set.
    client_mode_held: Option<String>,
    last_attempt: Option<Attempt>,
    last_success: Option<Success>,
    last_rule_sync: Option<Timestamp>,
    /// Syncs that failed since the last success.
    failures_in_a_row: usize,
    /// What stands in the store and deserves a warning.
    warnings: Vec<StandingWarning>,
    full_sync_interval: Interval,
    clean_sync_requests: Vec<CleanSyncRequest>,
    rules: RulesReport,
    events: Events,
    client_certificate: Option<Certificate>,
    /// The daemon of this state directory; `null` if none has run on it.
    daemon: Option<Daemon>,
    /// The settings in effect, by their protocol names.
    settings: std::collections::BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Attempt {
    at: Timestamp,
    id: String,
    trigger: Trigger,
    result: SyncResult,
    sync_type: Option<SyncType>,
    duration_ms: u64,
    /// What its responses held that was not read as sent.
    warnings: Vec<SyncWarning>,
    error: Option<ErrorRecord>,
}

/// What stands in the store and deserves a warning.
#[derive(Debug, Serialize)]
struct StandingWarning {
    #[serde(flatten)]
    standing: Standing,
    message: String,
    fix: &'static str,
}

impl StandingWarning {
    fn of(standing: &Standing) -> Self {
        Self { standing: standing.clone(), message: standing.to_string(), fix: standing.fix() }
    }
}

#[derive(Debug, Serialize)]
struct Success {
    at: Timestamp,
    age_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Interval {
    seconds: u32,
    /// `server` or `default`.
    origin: &'static str,
}

#[derive(Debug, Serialize, Default)]
struct RulesReport {
    /// A rule download has been completed.
    complete: bool,
    hash: String,
    counts: RuleCounts,
}

#[derive(Debug, Serialize, Default)]
struct Events {
    pending: u64,
    oldest: Option<Timestamp>,
    /// Events that left because the queue was full.
    dropped_queue_full: u64,
    /// Events that left because the protocol cannot carry them, by kind.
    dropped_unsendable: std::collections::BTreeMap<String, u64>,
    /// Events set aside, which `events requeue` brings back.
    rejected: u64,
}

#[derive(Debug, Serialize)]
struct Certificate {
    file: String,
    subject: Option<String>,
    not_after: Option<Timestamp>,
    days_left: Option<i64>,
    error: Option<String>,
}

/// The daemon, judged by its status.
#[derive(Debug, Serialize)]
struct Daemon {
    liveness: Liveness,
    /// Since its start, if it lives.
    uptime_seconds: Option<u64>,
    /// Since its status was written.
    heartbeat_age_seconds: u64,
    #[serde(flatten)]
    status: DaemonStatus,
}

impl Daemon {
    fn read(config: &Config, state_dir: &Path) -> Option<Self> {
        let status = DaemonStatus::read(state_dir)?;
        Some(Self::of(status, crate::daemon::is_running(state_dir), config))
    }

    fn of(mut status: DaemonStatus, runs: bool, config: &Config) -> Self {
        let seen = Moment::read(&SystemHost);
        let liveness = status.liveness(runs, &seen, config.sync_deadline);
        if !runs {
            // What a daemon that is gone announced does not happen.
            (status.next_sync_at, status.next_sync_why) = (None, None);
        }
        Self {
            liveness,
            uptime_seconds: runs.then(|| status.uptime(&seen).as_secs()),
            heartbeat_age_seconds: status.age(&seen).as_secs(),
            status,
        }
    }

    fn show(&self) {
        let status = &self.status;
        heading("Daemon");
        row(
            "State",
            match self.liveness {
                Liveness::Alive => "Alive",
                Liveness::Stuck => "Stuck (what it announced is overdue; restart the service)",
                Liveness::Stopped => "Stopped",
                Liveness::Dead => "Dead (it ended without saying so; look at its log)",
            },
        );
        row("Process", &format!("{} (version {})", status.pid, status.version));
        if let Some(uptime) = self.uptime_seconds {
            row("Uptime", &age(uptime));
        }
        row("Heartbeat", &format!("{} ago", age(self.heartbeat_age_seconds)));
        match (status.sync_began_at, status.next_sync_at) {
            (Some(began), _) if status.doing == Activity::Waiting => {
                row("Sync Waiting Since", &format!("{began} (for one of another process)"));
            }
            (Some(began), _) => row("Sync Running Since", &began.to_string()),
            (None, Some(next)) => {
                let why = status
                    .next_sync_why
                    .map_or_else(String::new, |why| format!(" ({})", why_words(why)));
                row("Next Sync", &format!("{next}{why}"));
            }
            (None, None) => {}
        }
        if let Some(wait) = status.back_off {
            row("Back-off", &format!("{wait} s after {} failures", status.failures_in_a_row));
        }
        if let Some(PromptUpload { at, report }) = &status.prompt_upload {
            let words = match (report.result, &report.error) {
                (UploadResult::Uploaded, _) => format!("{at} {} events", report.events),
                (UploadResult::NotYet, _) => format!("{at} left to the next sync, the first one"),
                (UploadResult::Busy, _) => format!("{at} put off: another process syncs"),
                (UploadResult::Failed, error) => {
                    let error = error.as_deref().unwrap_or("no reason was reported");
                    format!("{at} failed, left to the next sync: {error}")
                }
            };
            whole_row("Prompt Upload", &words);
        }
        for (name, incident) in
            [("Last Panic", &status.last_panic), ("Last Hang", &status.last_hang)]
        {
            if let Some(incident) = incident {
                whole_row(name, &format!("{} {}", incident.at, incident.message));
            }
        }
        if let Some(refused) = &status.configuration_refused {
            whole_row("Configuration Refused", refused);
        }
    }
}

/// The report for a user who may not read the state directory.
#[derive(Debug, Serialize)]
pub(super) struct DaemonReport {
    schema_version: u32,
    state_dir: String,
    server: Option<String>,
    last_success: Option<Success>,
    daemon: Daemon,
}

impl DaemonReport {
    pub(super) fn new(
        config: &Config,
        state_dir: &Path,
        status: DaemonStatus,
        now: Timestamp,
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            state_dir: state_dir.display().to_string(),
            server: status.configuration.server.clone(),
            last_success: status.last_success.map(|at| Success::new(at, now)),
            daemon: Daemon::of(status, true, config),
        }
    }

    pub(super) fn show(&self) {
        heading("Sync");
        row("Server", self.server.as_deref().unwrap_or("None (SyncBaseURL is not set)"));
        row("State Directory", &self.state_dir);
        row(
            "Last Successful Full Sync",
            &words_of(self.last_success.as_ref(), "None since the daemon's start"),
        );
        if let Some(last) = &self.daemon.status.last_sync {
            row("Last Attempt", &format!("{} {}", last.at, last.result.name()));
            if let Some(error) = &last.error {
                whole_row("Last Error", error);
            }
        }
        self.daemon.show();
    }
}

impl Success {
    fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { at, age_seconds: now.since(at).as_secs() }
    }
}

fn words_of(success: Option<&Success>, none: &str) -> String {
    success.map_or_else(
        || none.to_owned(),
        |success| format!("{} ({} ago)", success.at, age(success.age_seconds)),
    )
}

impl Status {
    /// Reads the state directory. One that does not exist yet is a host that
    /// has never synced.
    pub(super) fn read(
        config: &Config,
        state_dir: &Path,
        machine_id: Result<(MachineId, String), MachineIdProblem>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let store = present(Store::open_read_only(state_dir))?;
        let events = present(EventStore::open_read_only(state_dir))?;
        let events =
            events.as_ref().map_or_else(|| Ok(Events::default()), |events| Events::read(events))?;
        let store = store.as_ref();
        let read = match store {
            Some(store) => StoreReading::of(store, config)?,
            None => StoreReading { history: left_records(state_dir), ..StoreReading::default() },
        };
        let (machine_id, machine_id_error) = match machine_id {
            Ok((id, _)) => (Some(id.as_str().to_owned()), None),
            Err(problem) => (None, Some(ErrorText::of(&problem))),
        };
        let failures = read.history.iter().take_while(|r| r.result != SyncResult::Success);
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            state_dir: state_dir.display().to_string(),
            server: config.sync_base_url.as_ref().map(ToString::to_string),
            machine_id,
            machine_id_error,
            client_mode: read.mode.name(),
            client_mode_held: read.mode_held,
            failures_in_a_row: failures.count(),
            warnings: read.standing.iter().map(StandingWarning::of).collect(),
            last_attempt: read.history.first().map(Attempt::of),
            last_success: read.last_success.map(|at| Success::new(at, now)),
            last_rule_sync: read.last_rule_sync,
            full_sync_interval: read.interval,
            clean_sync_requests: read.requests,
            rules: read.rules,
            events,
            client_certificate: certificate(config, now),
            daemon: Daemon::read(config, state_dir),
            settings: read.settings,
        })
    }

    /// Shows the server and the machine id of the daemon that runs, whose
    /// configuration may come from its own command line.
    pub(super) fn use_daemons_configuration(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let configuration = &daemon.status.configuration;
        // A daemon of an older version does not report its configuration.
        if matches!(daemon.liveness, Liveness::Alive | Liveness::Stuck)
            && !configuration.digest.is_empty()
        {
            self.server.clone_from(&configuration.server);
            self.machine_id.clone_from(&configuration.machine_id);
            self.machine_id_error.clone_from(&configuration.machine_id_error);
        }
    }

    pub(super) fn last_success_at(&self) -> Option<Timestamp> {
        self.last_success.as_ref().map(|success| success.at)
    }
}

/// What the store says.
#[derive(Default)]
struct StoreReading {
    mode: Mode,
    mode_held: Option<String>,
    standing: Vec<Standing>,
    history: Vec<SyncRecord>,
    last_success: Option<Timestamp>,
    last_rule_sync: Option<Timestamp>,
    interval: Interval,
    requests: Vec<CleanSyncRequest>,
    rules: RulesReport,
    settings: std::collections::BTreeMap<&'static str, String>,
}

/// MONITOR unless something else is in effect.
struct Mode(ClientMode);

impl Default for Mode {
    fn default() -> Self {
        Self(ClientMode::Monitor)
    }
}

impl Mode {
    fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self { seconds: DEFAULT_SYNC_INTERVAL_SECS, origin: "default" }
    }
}

impl StoreReading {
    fn of(store: &ReadStore, config: &Config) -> Result<Self, StoreError> {
        let applied = store.applied_settings()?;
        let set = applied.client_mode.or(config.client_mode);
        let mode = store.client_mode(config.client_mode)?;
        let held =
            if set.is_some_and(|set| set != mode) { store.lockdown_held_back()? } else { None };
        let held = held.map(|held| held.words().to_owned());
        let interval = applied
            .full_sync_interval
            .map_or_else(Interval::default, |seconds| Interval { seconds, origin: "server" });
        let settings =
            applied.shown().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Ok(Self {
            mode: Mode(mode),
            mode_held: held,
            standing: run::standing(store, config)?,
            history: store.history(crate::store::RECORDS_KEPT)?,
            last_success: store.full_sync_last_success()?,
            last_rule_sync: store.rule_sync_last_success()?,
            interval,
            requests: store.clean_sync_requests()?,
            rules: RulesReport {
                complete: store.rules_complete()?,
                hash: store.rules_hash()?,
                counts: store.rule_counts()?,
            },
            settings,
        })
    }
}

impl Events {
    fn read(store: &EventStore) -> Result<Self, StoreError> {
        let drops = store.drops()?;
        Ok(Self {
            pending: store.pending()?,
            oldest: store.oldest()?,
            dropped_queue_full: drops.queue_full,
            dropped_unsendable: drops.unsendable,
            rejected: store.rejected_count()?,
        })
    }
}

impl Attempt {
    fn of(record: &SyncRecord) -> Self {
        Self {
            at: record.started_at,
            id: record.id.clone(),
            trigger: record.trigger,
            result: record.result,
            sync_type: record.sync_type,
            duration_ms: record.duration_ms,
            warnings: record.warnings.clone(),
            error: record.error.clone(),
        }
    }
}

/// A store that does not exist yet is not an error.
fn present<T>(opened: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match opened {
        Ok(store) => Ok(Some(store)),
        Err(error) if error.is_unused() => Ok(None),
        Err(error) => Err(error),
    }
}

fn certificate(config: &Config, now: Timestamp) -> Option<Certificate> {
    let file = config.client_auth_certificate_file.clone()?;
    let shown = file.display().to_string();
    let password = config.client_auth_certificate_password.clone();
    Some(match inspect_client_certificate(&ClientCertificate { file, password }) {
        Ok(facts) => Certificate {
            file: shown,
            days_left: Some((facts.not_after.as_secs() - now.as_secs()).div_euclid(24 * 60 * 60)),
            subject: Some(facts.subject),
            not_after: Some(facts.not_after),
            error: None,
        },
        Err(failure) => Certificate {
            file: shown,
            subject: None,
            not_after: None,
            days_left: None,
            error: Some(failure.to_string()),
        },
    })
}

impl Status {
    /// In the form `santactl status` has.
    pub(super) fn show(&self) {
        let unset = || "None".to_owned();
        heading("Sync");
        row("Server", self.server.as_deref().unwrap_or("None (SyncBaseURL is not set)"));
        match (&self.machine_id, &self.machine_id_error) {
            (Some(id), _) => row("Machine ID", id),
            (None, Some(error)) => whole_row("Machine ID", &error.to_string()),
            (None, None) => row("Machine ID", "None"),
        }
        row("State Directory", &self.state_dir);
        row("Mode", self.client_mode);
        if let Some(held) = &self.client_mode_held {
            row("Mode held back", held);
        }
        for StandingWarning { message, fix, .. } in &self.warnings {
            whole_row("Warning", message);
            whole_row("", fix);
        }
        row("Last Successful Full Sync", &words_of(self.last_success.as_ref(), "Never"));
        row(
            "Last Successful Rule Sync",
            &self.last_rule_sync.map_or_else(|| "Never".to_owned(), |at| at.to_string()),
        );
        if let Some(attempt) = &self.last_attempt {
            row("Last Attempt", &format!("{} {}", attempt.at, attempt.result.name()));
            if let Some(error) = &attempt.error {
                whole_row("Last Error", &error.line());
                row("Failures In A Row", &self.failures_in_a_row.to_string());
            }
        }
        if let Some(warning) = self.last_attempt.as_ref().and_then(|a| a.warnings.first()) {
            let more = self.last_attempt.as_ref().map_or(0, |a| a.warnings.len()) - 1;
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            whole_row("Last Warning", &format!("{warning}{more}"));
        }
        let Interval { seconds, origin } = &self.full_sync_interval;
        row("Full Sync Interval", &format!("{seconds} s ({origin})"));
        for request in &self.clean_sync_requests {
            let answer = request.last_answer.map_or("nothing yet", SyncType::name);
            row(
                "Clean Sync Requested",
                &format!(
                    "{} ({} since {}; the server answered {answer})",
                    request.sync_type.name(),
                    request.reason.words(),
                    request.since
                ),
            );
        }
        if let Some(daemon) = &self.daemon {
            daemon.show();
        }
        heading("Rules");
        let counts = &self.rules.counts;
        for (name, count) in [
            ("Binary Rules", counts.binary),
            ("Certificate Rules", counts.certificate),
            ("TeamID Rules", counts.teamid),
            ("SigningID Rules", counts.signingid),
            ("CDHash Rules", counts.cdhash),
            ("Compiler Rules", counts.compiler),
            ("Transitive Rules", counts.transitive),
        ] {
            row(name, &count.to_string());
        }
        row("Rules Hash", &self.rules.hash);
        row("Complete", if self.rules.complete { "Yes" } else { "No (no rule download yet)" });
        heading("Events");
        row("Events Pending Upload", &self.events.pending.to_string());
        row("Oldest", &self.events.oldest.map_or_else(unset, |at| at.to_string()));
        row("Dropped (Queue Full)", &self.events.dropped_queue_full.to_string());
        for (kind, count) in &self.events.dropped_unsendable {
            row(&format!("Dropped ({kind})"), &count.to_string());
        }
        row("Set Aside", &self.events.rejected.to_string());
        if let Some(certificate) = &self.client_certificate {
            heading("Client Certificate");
            row("File", &certificate.file);
            if let Some(error) = &certificate.error {
                whole_row("Error", error);
            }
            if let (Some(subject), Some(until)) = (&certificate.subject, certificate.not_after) {
                row("Subject", subject);
                let days = certificate.days_left.unwrap_or_default();
                row("Valid Until", &format!("{until} ({days} days left)"));
            }
        }
        heading("Settings From The Server");
        for (name, value) in &self.settings {
            row(name, value);
        }
    }
}

const fn why_words(why: SyncReason) -> &'static str {
    match why {
        SyncReason::Start => "the first since the daemon's start",
        SyncReason::Interval => "by the interval",
        SyncReason::BackOff => "by the back-off",
        SyncReason::Network => "the network has changed since the last failure",
        SyncReason::Asked => "requested",
    }
}

fn heading(text: &str) {
    output::line(format!(">>> {text}"));
}

/// A value that must not be cut: records bound it.
fn whole_row(name: &str, value: &str) {
    output::line(format!("  {name:<26} | {}", output::printable(value)));
}

fn row(name: &str, value: &str) {
    output::line(format!("  {name:<26} | {}", brief(value)));
}

/// An age in its largest whole unit and the next.
fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}
