//! `harness conformance`: checks a sync server, requirement by requirement.

mod operator;

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::time;
use crate::cli::sync::{Signals, exit_code};
use crate::cli::{Error, Global, output};
use crate::harness::conformance::{
    Conformance, ConformanceError, ConformanceRun, Expectation, Form, Report, Requirement,
};
use crate::host::{self, SystemHost};
use crate::model::text::counted;
use operator::AskedOperator;

/// A requirement is not met, the server differs from what was pinned, or the run ended early.
const EXIT_NOT_MET: u8 = 1;

pub(super) const EXAMPLES: &str = "\
The checks play a client: they make up machine ids that begin with 5A17A000- and events below
/tmp/santa-conformance-probe, and tell the server that these machines hold its rules. Use a test
instance: if the server keeps one state for all hosts, a run changes it. The report ends with what
is left on the server.

Credentials are those of an agent's configuration, from --set and --config only:
  --set SyncExtraHeaders='{\"Authorization\":\"Bearer ...\"}'  --set ServerAuthRootsFile=ca.pem
  --set ClientAuthCertificateFile=probe.p12
They are sent only to that server, and redacted in every report.

If the server refuses machine ids that it does not know, enrol two or three that belong to no real
host, and give them with --machine-id.

Exit codes:
  0    no requirement failed; there may be warnings
  1    a requirement failed or was unstable (with --strict also a warning, with --expect any
       deviation that is new or gone), or the run ended early: at its deadline, or because the
       server stopped responding
  64   the command line is wrong, a file cannot be read or written, or the server refuses every
       new machine
  69   nothing responds at the URL
  78   the credentials or the proxy cannot be used
  129, 130, 143   SIGHUP, SIGINT or SIGTERM ended the run

A run that a signal ends still writes its reports: what was found, what was not run, and what is
left on the server.

Examples:
  santa-sync harness conformance http://127.0.0.1:8080/santa/
  santa-sync harness conformance https://santa.test/sync/ --only CLEAN,PAGE --transcript run.jsonl
  santa-sync harness conformance http://127.0.0.1:8080/ --html report.html --junit report.xml
  santa-sync harness conformance http://127.0.0.1:8080/ --write-expect known.txt
  santa-sync harness conformance http://127.0.0.1:8080/ --expect known.txt --json";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Base URL of the server [default: SyncBaseURL of --set or --config]
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Check only these requirements: ids, or beginnings of ids such as CLEAN
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Skip these requirements
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    skip: Vec<String>,
    /// Send requests in this form: json-deflate, json-none, json-gzip, protobuf-gzip, protobuf-deflate or
    /// protobuf-none
    #[arg(long, value_name = "FORM")]
    form: Option<Form>,
    /// Use this machine id instead of new ones. It must not belong to a real host. May be
    /// repeated: with several ids, checks that wait run in parallel. One new id is still sent, to
    /// see how the server refuses it (ID-04)
    #[arg(long = "machine-id", value_name = "ID")]
    machine_ids: Vec<String>,
    /// Redact this text in everything that is written, for example a token in the URL's path that
    /// does not look like one; may be repeated. ERR-03 then tries the path without it
    #[arg(long = "secret", value_name = "TEXT")]
    secrets: Vec<String>,
    /// Do not ask for confirmation before using the ids of --machine-id
    #[arg(long)]
    yes: bool,
    /// End the run after this time, with a report of what was found until then. The time that an
    /// operator takes does not count
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = time)]
    deadline: Duration,
    /// Upload no events
    #[arg(long)]
    no_events: bool,
    /// Skip checks that wait: the run takes seconds instead of more than a minute
    #[arg(long)]
    no_slow: bool,
    /// Also upload a full batch of events (up to 50)
    #[arg(long)]
    heavy: bool,
    /// Ask you to change the server and to look things up, and check the results
    #[arg(long)]
    operator: bool,
    /// Fail only on what differs from this file of known deviations
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write the deviations found to this file
    #[arg(long, value_name = "FILE", conflicts_with = "expect")]
    write_expect: Option<PathBuf>,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
    /// Write every exchange in full to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
    /// Write the report as JUnit XML, for CI systems
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the report as a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show every requirement and everything left on the server
    #[arg(long, short)]
    verbose: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl From<ConformanceError> for Error {
    fn from(error: ConformanceError) -> Self {
        let exit = match error {
            ConformanceError::Url(_)
            | ConformanceError::MachineId(_)
            | ConformanceError::ShortSecret
            | ConformanceError::UnknownRequirement(_)
            | ConformanceError::NothingChosen
            | ConformanceError::Refused(_) => crate::cli::error::EXIT_USAGE,
            ConformanceError::Credentials(_) | ConformanceError::Proxy(_) => {
                crate::cli::error::EXIT_CONFIG
            }
            ConformanceError::Unreachable(_) => crate::cli::error::EXIT_UNREACHABLE,
            ConformanceError::System(_) => crate::cli::error::EXIT_INTERNAL,
        };
        Self::of(exit, &error)
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let expectation = args.expect.as_deref().map(read_expectation).transpose()?;
    let conformance = conformance(global, args)?;
    conformance.check_choice()?;
    let outputs = [&args.transcript, &args.junit, &args.html];
    for path in outputs.into_iter().flatten() {
        // Before the run, which would be in vain.
        File::create(path).map_err(|error| cannot_write(path, &error))?;
    }
    let known = args.write_expect.as_deref().map(ExpectationFile::open).transpose()?;
    announce(args, &conformance)?;
    let signals = Signals::catch(host::ignored_signals(&SystemHost));
    let stop = signals.stop();
    let mut done = watched(conformance).run_until_blocking(stop.clone())?;
    // The report marks what --write-expect writes as known.
    let written = args.write_expect.is_some().then(|| Expectation::of(&done.report));
    if let Some(known) = expectation.as_ref().or(written.as_ref()) {
        done.report.expect(known);
    }
    if let Some(path) = &args.transcript {
        write_transcript(path, &done)?;
    }
    if let Some(path) = &args.junit {
        write_to(path, |file| done.report.junit(args.strict, file))?;
    }
    if let Some(path) = &args.html {
        write_to(path, |file| write!(file, "{}", done.report.html()))?;
    }
    if let Some(known) = known {
        known.write(&done.report)?;
    }
    show(args, &done.report);
    if done.report.ended_early.is_some() {
        return Ok(ExitCode::from(exit_code(&stop).unwrap_or(EXIT_NOT_MET)));
    }
    Ok(if done.report.is_met(args.strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NOT_MET)
    })
}

fn conformance(global: &Global, args: &Args) -> Result<Conformance, Error> {
    let config = super::configuration(global)?;
    let configured = config.sync_base_url.as_ref().map(|url| url.as_url().to_string());
    let url = args.url.clone().or(configured).ok_or_else(|| {
        Error::usage("no server is named").with_fix("give its base URL as an argument")
    })?;
    let mut conformance = Conformance::new(&url)?
        .configured(&config)?
        .machine_ids(&args.machine_ids)?
        .only(&args.only)
        .skip(&args.skip)
        .deadline(args.deadline);
    if let Some(form) = args.form {
        conformance = conformance.form(form);
    }
    for secret in &args.secrets {
        conformance = conformance.secret(secret)?;
    }
    if args.no_events {
        conformance = conformance.without_events();
    }
    if args.no_slow {
        conformance = conformance.without_slow();
    }
    if args.heavy {
        conformance = conformance.heavy();
    }
    if args.operator {
        let expected = conformance.operator_tasks();
        conformance = conformance.operator(AskedOperator::new(expected));
    }
    Ok(conformance)
}

/// Says what the run will do, and asks for confirmation if it could harm real hosts.
fn announce(args: &Args, conformance: &Conformance) -> Result<(), Error> {
    let chosen = conformance.chosen();
    let estimate = conformance.estimate();
    let time = match estimate.waits.as_secs() {
        0 => String::new(),
        seconds => format!(", and waits {seconds} s"),
    };
    let events = if args.no_events { "no events" } else { "made-up events" };
    output::note(format!(
        "checks {} with about {} (plus {} for each page of rules after the first) and \
         {events}{time}; use a test instance",
        counted(chosen.len() as u64, "requirement"),
        counted(estimate.requests, "request"),
        estimate.per_page,
    ));
    let elsewhere = conformance.secrets_beside_the_url();
    if elsewhere > 0 {
        output::note(format!(
            "{} of --secret not in the URL: if it should be, check the spelling, because the token \
             is shown otherwise",
            counted(elsewhere as u64, "text")
        ));
    }
    if conformance.makes_up_machines() || args.yes {
        return Ok(());
    }
    let ids = args.machine_ids.join(", ");
    output::note(format!(
        "the server will believe that {ids} hold its rules; a real host with such an id would not \
         get them"
    ));
    if !io::stdin().is_terminal() {
        return Err(Error::usage("the use of --machine-id must be confirmed")
            .with_fix("add --yes if no real host has these ids"));
    }
    if operator::confirmed("Are you sure that no real host has these ids?") {
        return Ok(());
    }
    Err(Error::usage("the use of --machine-id was not confirmed")
        .with_fix("give ids that no real host has"))
}

/// Shows how far the run is, on a terminal.
fn watched(conformance: Conformance) -> Conformance {
    if !io::stderr().is_terminal() {
        return conformance;
    }
    let bar = ProgressBar::new(conformance.chosen().len() as u64);
    // The template is a constant and valid.
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    conformance.on_verdict(move |requirement: &Requirement, _| {
        bar.set_message(requirement.id);
        bar.inc(1);
    })
}

fn show(args: &Args, report: &Report) {
    if args.json {
        output::json(report);
        return;
    }
    output::lines(report.text(args.verbose));
    if let Some(path) = &args.transcript {
        output::line(format_args!("Exchanges in full, by number: {}", path.display()));
    }
    match &report.deviations {
        Some(_) if args.write_expect.is_some() => {}
        Some(deviations) if deviations.is_empty() => output::line("As expected."),
        Some(deviations) => output::line(format_args!("Not as expected: {deviations}")),
        None => {}
    }
}

fn write_transcript(path: &Path, done: &ConformanceRun) -> Result<(), Error> {
    write_to(path, |file| {
        done.transcript().try_for_each(|entry| writeln!(file, "{}", json!(entry)))
    })
}

/// Creates and writes a file.
fn write_to(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Error> {
    let written = File::create(path).map(BufWriter::new).and_then(|mut file| {
        write(&mut file)?;
        file.flush()
    });
    written.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::usage(format!("cannot write {}: {error}", path.display()))
        .with_fix("name a file that this user may write")
}

/// The file that known deviations are written to.
struct ExpectationFile<'a> {
    path: &'a Path,
    is_new: bool,
}

impl<'a> ExpectationFile<'a> {
    /// Checks that the file can be written. Its contents stay until the run is complete.
    fn open(path: &'a Path) -> Result<Self, Error> {
        let is_new = !path.exists();
        let opened = File::options().append(true).create(true).open(path);
        opened.map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path, is_new })
    }

    /// Writes the deviations of a complete run.
    fn write(self, report: &Report) -> Result<(), Error> {
        if report.ended_early.is_none() {
            let text = Expectation::of(report).to_string();
            return fs::write(self.path, text).map_err(|error| cannot_write(self.path, &error));
        }
        output::note(format!(
            "{} is not written, because the run ended early",
            self.path.display()
        ));
        if self.is_new {
            // An empty file would say that there are no deviations.
            fs::remove_file(self.path).map_err(|error| cannot_write(self.path, &error))?;
        }
        Ok(())
    }
}

fn read_expectation(path: &Path) -> Result<Expectation, Error> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Error::usage(format!("cannot read {shown}: {error}"))
            .with_fix("name a file of known deviations; --write-expect writes one")
    })?;
    Expectation::parse(&text).map_err(|error| Error::usage(format!("{shown}: {error}")))
}
