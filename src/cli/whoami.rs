//! `whoami`: who this host is to its server, each value with its source.

use std::process::ExitCode;

use serde::Serialize;

use super::output;
use super::setup::Setup;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::ErrorText;
use crate::host::{self, AuthorizerReport, HostReport, RememberingHost, SystemHost};
use crate::model::SyncResult;

/// The version of the `--json` form.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct IdentityReport {
    schema_version: u32,
    machine_id: Option<String>,
    /// Why there is no machine id.
    machine_id_error: Option<ErrorText>,
    facts: Vec<FactForm>,
    /// What could not be read.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FactForm {
    name: &'static str,
    value: String,
    source: String,
}

/// Runs the command.
pub(super) fn run(setup: &Setup, args: &Args) -> ExitCode {
    let heard = AuthorizerReport::read(&setup.state_dir);
    let relay = setup.config.relay.as_ref();
    let state = AuthorizerReport::state(heard.as_ref(), relay, SystemClock::new().now().wall);
    let host = RememberingHost::new(SystemHost, &setup.state_dir);
    let facts = host::facts(&setup.config, &host).with_authorizer(heard.as_ref(), state);
    let report = IdentityReport::of(facts);
    if args.json {
        setup.print_json(&report);
    } else {
        output::lines(report.text());
    }
    ExitCode::from(report.exit_code())
}

impl IdentityReport {
    fn of(report: HostReport) -> Self {
        let HostReport { machine_id, facts: _, sources, problems, known: _ } = report;
        let mut facts: Vec<FactForm> = sources
            .into_iter()
            .map(|(name, fact)| FactForm { name, value: fact.value, source: fact.source })
            .collect();
        facts.push(FactForm {
            name: "agent_version",
            value: env!("CARGO_PKG_VERSION").to_owned(),
            source: "this program".to_owned(),
        });
        let (id, error) = match machine_id {
            Ok((id, source)) => {
                let value = id.as_str().to_owned();
                facts.insert(0, FactForm { name: "machine_id", value, source });
                (Some(id.as_str().to_owned()), None)
            }
            Err(problem) => (None, Some(ErrorText::of(&problem))),
        };
        Self {
            schema_version: SCHEMA_VERSION,
            machine_id: id,
            machine_id_error: error,
            facts,
            problems,
        }
    }

    fn text(&self) -> String {
        let width = |f: fn(&FactForm) -> usize| self.facts.iter().map(f).max().unwrap_or(0);
        let names = width(|fact| fact.name.len());
        let values = width(|fact| fact.value.chars().count()).min(40);
        let mut lines: Vec<String> = self
            .facts
            .iter()
            .map(|fact| {
                let value = match output::printable(&fact.value) {
                    empty if empty.is_empty() => "-".to_owned(),
                    value => value,
                };
                let source = output::printable(&fact.source);
                format!("{:names$}  {value:values$}  {source}", fact.name)
            })
            .collect();
        if let Some(error) = &self.machine_id_error {
            lines.insert(0, format!("error: {}", output::printable(&error.to_string())));
        }
        lines.extend(self.problems.iter().map(|p| format!("note: {}", output::printable(p))));
        output::joined(&lines)
    }

    fn exit_code(&self) -> u8 {
        match self.machine_id_error {
            None => 0,
            Some(_) => SyncResult::MissingMachineId.exit_code(),
        }
    }
}

#[cfg(test)]
mod tests;
