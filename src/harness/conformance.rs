//! Checks a sync server against the protocol, requirement by requirement.
//!
//! [`Conformance`] plays a client: it makes up machines, syncs as they would, and compares the
//! responses with what clients rely on. Each [`Requirement`] of the [`catalogue`] gets a
//! [`Verdict`], with the exchanges that show it.
//!
//! ```
//! use santa_sync::harness::conformance::{Conformance, Verdict, Waits};
//! use santa_sync::harness::{FakeServer, fixtures};
//!
//! // In place of your server.
//! let server = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).start()?;
//! let done = Conformance::new(&server.url())?
//!     .only(["HTTP", "CLEAN-04"])
//!     .waits(Waits::none())
//!     .run_blocking()?;
//! assert_eq!(done.report.result("CLEAN-04").map(|r| r.verdict), Some(Verdict::Pass));
//! assert!(done.report.is_met(false), "{}", done.report.text(false));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Judging and sending are separate: `client` records exchanges, `checks` judges them, and
//! `machine` knows what a client would send next. Every request is one that a real client could
//! make in that state, except where a requirement is about other requests.

mod catalogue;
mod checks;
mod client;
mod connection;
mod cookies;
mod ending;
mod estimate;
mod exchange;
mod expectation;
mod form;
mod lanes;
mod leftovers;
mod machine;
mod message;
mod operator;
mod options;
mod probe;
mod probe_events;
mod report;
mod rule_scope;
mod run;
mod series;
mod stranger;
mod table;
mod transcript;
mod verdict;
mod walk;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use std::{fmt, io};

use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::sync::watch;

pub use catalogue::{Level, Requirement, Section, SetUp, catalogue, requirement};
pub use ending::{EarlyEnd, EarlyEndKind};
pub use estimate::Estimate;
pub use exchange::{Answer, Break, BreakKind, Intent, ProbeExchange};
pub use expectation::{Deviation, Deviations, Expectation, ExpectationError};
pub use form::{Form, UnknownForm};
pub use operator::{Operator, OperatorReply, OperatorTask};
pub use options::{DEFAULT_DEADLINE, Waits, WalkLimits};
pub use probe_events::{PROBE_PATH, ProbeEvent};
pub use report::{Evidence, Report, RequirementResult, RuleFacts, Run, TextReport};
pub use transcript::TranscriptEntry;
pub use verdict::Verdict;

use crate::config::Config;
use crate::failure::{Failure, Remedy};
use crate::model::text::counted;
use crate::model::{BaseUrl, BaseUrlError, MachineId, MachineIdError, Secret};
use crate::sync::{self, Stop};
use crate::transport::{MIN_SECRET_BYTES, TransportOptions};
use client::ProbeClient;
use options::Options;
use probe::{Outcome, Probe};
use verdict::Judgement;

/// The version of Santa that the probe says it is.
const SANTA_VERSION: &str = "2026.4";

/// Why nothing could be checked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConformanceError {
    /// The URL is not that of a server.
    #[error("the server's URL {}", .0.what())]
    Url(#[from] BaseUrlError),
    /// A machine id is not valid.
    #[error(transparent)]
    MachineId(#[from] MachineIdError),
    /// A text that is to be redacted is too short to be looked for.
    #[error("a secret must have at least {MIN_SECRET_BYTES} bytes: shorter ones are not redacted")]
    ShortSecret,
    /// `only` or `skip` names a requirement that does not exist.
    #[error("no requirement is called {0}")]
    UnknownRequirement(String),
    /// Every requirement that was chosen is also skipped.
    #[error("nothing is left to check")]
    NothingChosen,
    /// The trust roots or the client certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] Failure),
    /// The configured proxy cannot be used.
    #[error("{0}")]
    Proxy(String),
    /// Nothing listens there.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses every machine of the probe.
    #[error("the server refuses new machine ids in every form ({0})")]
    Refused(String),
    /// The system provides no thread or no random numbers.
    #[error("the run cannot start: {0}")]
    System(#[source] io::Error),
}

impl Remedy for ConformanceError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Url(error) => error.fix().into(),
            Self::Credentials(failure) => return failure.fix.clone(),
            Self::MachineId(_) => "give another machine id".into(),
            Self::ShortSecret => "give the whole token, or none".into(),
            Self::NothingChosen => "skip fewer requirements than were chosen".into(),
            Self::UnknownRequirement(_) => {
                "give ids such as CLEAN-04, or the beginning of some, such as CLEAN".into()
            }
            Self::Proxy(_) => {
                "run the checks on a host that reaches the server without a proxy, and list the \
                 server in ExceptionsList of SyncProxyConfiguration, or in NO_PROXY; or use an \
                 http:// proxy and the server's https:// URL"
                    .into()
            }
            Self::Unreachable(what) if what.starts_with("the proxy") => {
                "check the proxy's address, user and password, and that it allows connections to \
                 the server"
                    .into()
            }
            Self::Unreachable(_) => "start the server, or correct the host and port of the URL"
                .into(),
            Self::Refused(_) => {
                "check the path of the URL: it must be the clients' SyncBaseURL; if machines have to \
                 be enrolled, give ids that belong to no real host with --machine-id, and the \
                 credential as for an agent (--set SyncExtraHeaders=..., or in the URL)"
                    .into()
            }
            Self::System(_) => "free some memory or threads of this user".into(),
        })
    }
}

/// Told of every verdict as it is reached.
pub(crate) trait Progress {
    fn settled(&self, requirement: &'static Requirement, verdict: Verdict);
}

type OnVerdict = Box<dyn Fn(&'static Requirement, Verdict) + Send>;

struct Told(Option<OnVerdict>);

impl Progress for Told {
    fn settled(&self, requirement: &'static Requirement, verdict: Verdict) {
        if let Some(call) = &self.0 {
            call(requirement, verdict);
        }
    }
}

/// A check of one server: what to check, and how.
#[must_use]
pub struct Conformance {
    transport: TransportOptions,
    options: Options,
    seed: Option<u64>,
    operator: Option<Box<dyn Operator>>,
    on_verdict: Option<OnVerdict>,
}

impl fmt::Debug for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conformance").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Conformance {
    /// Checks the server at this base URL, with default options. Plain http to any host is
    /// accepted here, and judged by HTTP-04.
    ///
    /// # Errors
    /// If the text is not an http or https URL.
    pub fn new(url: &str) -> Result<Self, ConformanceError> {
        let base_url = BaseUrl::parse_any_http(url)?;
        let transport = TransportOptions::new(base_url, MachineId::new("probe")?);
        Ok(Self {
            transport,
            options: Options::default(),
            seed: None,
            operator: None,
            on_verdict: None,
        })
    }

    /// Uses an agent's configuration: its extra headers, trust roots, client certificate and
    /// proxy. Its transfer form and content encoding become the form of requests.
    ///
    /// # Errors
    /// Never for a configuration that an agent can use.
    pub fn configured(mut self, config: &Config) -> Result<Self, ConformanceError> {
        let base_url = self.transport.base_url;
        let machine_id = MachineId::new("probe")?;
        self.transport = sync::run::transport_options(config, base_url, machine_id, SANTA_VERSION);
        let form = Form { transfer: config.transfer, encoding: config.content_encoding };
        if form != Form::DEFAULT {
            self.options.form = Some(form);
        }
        Ok(self)
    }

    /// Works in this form where the server accepts it; otherwise in the first it accepts.
    pub const fn form(mut self, form: Form) -> Self {
        self.options.form = Some(form);
        self
    }

    /// Uses these machine ids instead of new ones. The checks use at most the first five. The
    /// ids must not belong to real hosts: the run reports to the server that they hold rules.
    ///
    /// # Errors
    /// If one is not a valid machine id.
    pub fn machine_ids<T: AsRef<str>>(
        mut self,
        ids: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConformanceError> {
        for id in ids {
            let id = MachineId::new(id.as_ref())?.as_str().to_owned();
            if !self.options.machine_ids.contains(&id) {
                self.options.machine_ids.push(id);
            }
        }
        Ok(self)
    }

    /// Treats this text as a secret, besides what is known as one: it is redacted
    /// everywhere, and as a segment of the URL's path it is a credential.
    ///
    /// # Errors
    /// If it has fewer than 5 bytes, which would not be looked for.
    pub fn secret(mut self, text: impl Into<String>) -> Result<Self, ConformanceError> {
        let text = text.into();
        if text.len() < MIN_SECRET_BYTES {
            return Err(ConformanceError::ShortSecret);
        }
        self.options.secrets.push(Secret::new(text));
        Ok(self)
    }

    /// How many of the secrets are nowhere in the URL.
    #[must_use]
    pub(crate) fn secrets_beside_the_url(&self) -> usize {
        let url = self.transport.base_url.as_url().as_str();
        let path = percent_decode_str(url).decode_utf8_lossy();
        let is_there = |text: &str| url.contains(text) || path.contains(text);
        self.options.secrets.iter().filter(|secret| !is_there(secret.expose())).count()
    }

    /// Uploads no events.
    pub const fn without_events(mut self) -> Self {
        self.options.events = false;
        self
    }

    /// Also runs checks that leave much behind.
    pub const fn heavy(mut self) -> Self {
        self.options.heavy = true;
        self
    }

    /// Skips checks that wait.
    pub const fn without_slow(mut self) -> Self {
        self.options.slow = false;
        self
    }

    /// Waits this long where requirements are about time.
    pub const fn waits(mut self, waits: Waits) -> Self {
        self.options.waits = waits;
        self
    }

    /// Follows rule downloads this far.
    pub const fn walk_limits(mut self, limits: WalkLimits) -> Self {
        self.options.walk = limits;
        self
    }

    /// Gives up a request after this time; 35 s by default.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// Ends the run after this time, with a report of what was found until then;
    /// [`DEFAULT_DEADLINE`] by default. The time that an operator takes does not count.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// Checks only these requirements: ids, or beginnings of ids such as `CLEAN`.
    pub fn only<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.options.only.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Skips these requirements: ids, or beginnings of ids.
    pub fn skip<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.options.skip.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Has this operator change the server when asked.
    pub fn operator(mut self, operator: impl Operator + 'static) -> Self {
        self.operator = Some(Box::new(operator));
        self
    }

    /// Derives machine ids from this number instead of random ones. Every run with the same seed
    /// uses the same ids, which are new to the server only once.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Calls this with each verdict as it is reached; the verdict of the report may be worse.
    pub fn on_verdict(
        mut self,
        call: impl Fn(&'static Requirement, Verdict) + Send + 'static,
    ) -> Self {
        self.on_verdict = Some(Box::new(call));
        self
    }

    /// The requirements that will be checked.
    pub fn chosen(&self) -> Vec<&'static Requirement> {
        catalogue().filter(|requirement| self.options.chooses(requirement.id)).collect()
    }

    /// How many requests the run will make, and how long it will wait, if the server behaves.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        Estimate::of(&self.options, self.operator.is_some())
    }

    /// About how many tasks an operator gets: a check that complains is repeated, one that is
    /// blocked asks nothing.
    #[must_use]
    pub fn operator_tasks(&self) -> usize {
        self.chosen().iter().map(|requirement| OperatorTask::count_for(requirement.id)).sum()
    }

    /// Whether new machine ids are made up.
    #[must_use]
    pub fn makes_up_machines(&self) -> bool {
        self.options.machine_ids.is_empty()
    }

    /// Checks that [`Self::only`] and [`Self::skip`] name requirements and leave some.
    ///
    /// # Errors
    /// If they do not.
    pub fn check_choice(&self) -> Result<(), ConformanceError> {
        for name in self.options.only.iter().chain(&self.options.skip) {
            if !catalogue().any(|requirement| options::names(name, requirement.id)) {
                return Err(ConformanceError::UnknownRequirement(name.clone()));
            }
        }
        if self.chosen().is_empty() {
            return Err(ConformanceError::NothingChosen);
        }
        Ok(())
    }

    /// Runs the checks.
    ///
    /// # Errors
    /// If nothing can be checked.
    pub async fn run(self) -> Result<ConformanceRun, ConformanceError> {
        let (_sender, stop) = watch::channel(None);
        self.run_until(stop).await
    }

    /// Runs the checks until they are done or the caller stops them. A stop ends the run within
    /// two seconds, with a report of what was found; the rest is reported as not run.
    ///
    /// # Errors
    /// If nothing can be checked.
    pub async fn run_until(self, stop: Stop) -> Result<ConformanceRun, ConformanceError> {
        self.check_choice()?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => getrandom::u64()
                .map_err(|error| ConformanceError::System(io::Error::other(error.to_string())))?,
        };
        let client = ProbeClient::new(&self.transport, &self.options)?;
        let probe = Probe::new(client, self.options, seed, self.operator);
        let (started_at, started) = (probe.client.now(), probe.client.elapsed());
        Box::pin(run::run(&probe, &Told(self.on_verdict), stop)).await?;
        let took = probe.client.elapsed().saturating_sub(started);
        let mut report = report_of(&probe);
        report.started_at = started_at;
        report.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Ok(ConformanceRun { report, probe })
    }

    /// [`Self::run`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_blocking(self) -> Result<ConformanceRun, ConformanceError> {
        runtime()?.block_on(self.run())
    }

    /// [`Self::run_until`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Self::run_until`].
    pub fn run_until_blocking(self, stop: Stop) -> Result<ConformanceRun, ConformanceError> {
        runtime()?.block_on(self.run_until(stop))
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ConformanceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ConformanceError::System)
}

/// A run that is over.
pub struct ConformanceRun {
    /// What it found.
    pub report: Report,
    probe: Probe,
}

impl fmt::Debug for ConformanceRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConformanceRun").field("report", &self.report).finish_non_exhaustive()
    }
}

impl ConformanceRun {
    /// Every exchange as it was, secrets included.
    #[must_use]
    pub fn exchanges(&self) -> Vec<std::sync::Arc<ProbeExchange>> {
        self.probe.client.every_exchange()
    }

    /// Every exchange in full, with secrets redacted.
    pub fn transcript(&self) -> impl Iterator<Item = TranscriptEntry> {
        let exchanges = self.probe.client.every_exchange();
        exchanges.into_iter().map(|exchange| TranscriptEntry::of(&exchange, &self.probe.client))
    }
}

fn report_of(probe: &Probe) -> Report {
    let exchanges = probe.client.every_exchange();
    let outcomes = probe.outcomes();
    let missing = Outcome::from(Judgement::not_tested("not reached"));
    let results: Vec<_> = run::chosen(probe)
        .map(|requirement| {
            let outcome = outcomes.get(requirement.id).unwrap_or(&missing);
            result_of(probe, requirement, outcome, &exchanges)
        })
        .collect();
    let mut counts = BTreeMap::new();
    for result in &results {
        *counts.entry(result.verdict).or_insert(0) += 1;
    }
    let accepted = probe.trials().iter().any(|trial| trial.accepted);
    Report {
        schema_version: Report::SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        url: probe.client.redact(&probe.client.base_url().to_string()),
        started_at: probe.client.now(),
        duration_ms: 0,
        run_id: probe.run_id.clone(),
        form: accepted.then(|| probe.form()),
        requests: exchanges.len() as u64,
        rules: probe.base().ok().map(|base| checks::facts_of(&base)),
        counts,
        results,
        machine_ids: leftovers::machine_ids(probe.ids(), &exchanges),
        events: leftovers::events(probe.events(), &exchanges),
        ended_early: probe.early_end(),
        notes: notes(probe),
        deviations: None,
    }
}

fn result_of(
    probe: &Probe,
    requirement: &'static Requirement,
    outcome: &Outcome,
    exchanges: &[std::sync::Arc<ProbeExchange>],
) -> RequirementResult {
    let judgement = &outcome.judgement;
    let mut numbers = judgement.exchanges.clone();
    numbers.dedup();
    let evidence = numbers
        .iter()
        .filter_map(|number| exchanges.iter().find(|exchange| exchange.number == *number))
        .map(|exchange| Evidence::of(exchange, &probe.client))
        .collect();
    RequirementResult {
        id: requirement.id,
        section: requirement.section,
        title: requirement.title,
        breaks: judgement.harm.unwrap_or(requirement.breaks),
        level: requirement.level,
        verdict: judgement.verdict,
        summary: probe.client.redact(&judgement.said),
        blocked_by: judgement.blocked_by,
        pinned: None,
        runs: outcome
            .runs
            .iter()
            .map(|run| Run { verdict: run.verdict, summary: probe.client.redact(&run.said) })
            .collect(),
        evidence,
    }
}

fn notes(probe: &Probe) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(declared) = probe.options.form
        && declared != probe.form()
    {
        notes.push(format!("{declared} is not accepted; the checks worked in {}", probe.form()));
    }
    for (id, ended) in probe.refused_machines() {
        notes.push(probe.client.redact(&format!(
            "preflight of --machine-id {id}: {ended}; the run continued without it"
        )));
    }
    let limited = probe.client.exchanges().iter().filter(|exchange| exchange.is(429)).count();
    if limited > 0 {
        let requests = counted(limited as u64, "request");
        notes.push(format!("the server limits the request rate: {requests} repeated"));
    }
    let is_never_normal = probe.verdict("CLEAN-04") == Some(Verdict::Fail)
        && probe.base().is_ok_and(|base| !base.set.is_empty());
    if probe.verdict("CLEAN-06") == Some(Verdict::Warning) || is_never_normal {
        notes.push(
            "the server sends all rules each time, so RULE-05, RULE-06, CLEAN-05 and ISO-04 prove \
             little"
                .to_owned(),
        );
    }
    notes
}
