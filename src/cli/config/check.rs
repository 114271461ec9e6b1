//! `config check`

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::super::{EXIT_CONFIG, Global, output, setup};
use super::SCHEMA_VERSION;
use crate::config::{Config, Finding, FindingKind, Loaded, Severity, Source};
use crate::model::MachineId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What the check found, worst first.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema_version: u32,
    /// `ok`, `warning` or `error`.
    result: &'static str,
    exit_code: u8,
    /// The files that were read or would have been.
    sources: Vec<PathBuf>,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    let sources = setup::sources(global);
    let report = Report::new(sources.files(), &Config::examine(&sources));
    if args.json {
        output::json(&report);
    } else {
        output::line(report.text());
    }
    ExitCode::from(report.exit_code)
}

impl Report {
    pub(crate) fn new(sources: Vec<PathBuf>, loaded: &Loaded) -> Self {
        let mut findings = loaded.findings.clone();
        findings.extend(more(loaded));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let result = match (errors, warnings) {
            (0, 0) => "ok",
            (0, _) => "warning",
            _ => "error",
        };
        let exit_code = match setup::exit_code(&findings) {
            0 => 0,
            // Whatever the mistake, this command could be understood.
            _ => EXIT_CONFIG,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            result,
            exit_code,
            sources,
            errors,
            warnings,
            findings,
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            let key = finding.key.as_ref().map(|key| format!(" {}:", output::printable(key)));
            let message = output::printable(&finding.message);
            lines.push(format!("{severity}:{} {message}", key.unwrap_or_default()));
            if finding.source != Source::Default {
                lines.push(format!("    in {}", finding.source));
            }
            lines.push(format!("    fix: {}", output::printable(&finding.fix)));
        }
        let plural = |n: usize, word| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        lines.push(match (self.errors, self.warnings) {
            (0, 0) => "The configuration is fine.".to_owned(),
            (errors, warnings) => {
                format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"))
            }
        });
        lines.join("\n")
    }
}

/// What only shows when the configuration is to be used: things that stop every
/// sync, but no other command.
fn more(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let finding = |severity, kind, key: &str, message: String, fix: &str| Finding {
        severity,
        kind,
        key: Some(key.to_owned()),
        source: loaded.effective.source(key),
        message,
        fix: fix.to_owned(),
    };
    let mut more = Vec::new();
    let rejected = loaded.findings.iter().any(|f| f.key.as_deref() == Some("SyncBaseURL"));
    if config.sync_base_url.is_none() && !rejected {
        more.push(finding(
            Severity::Warning,
            FindingKind::NoEffect,
            "SyncBaseURL",
            "is not set, so nothing is synced".to_owned(),
            "set it to https://host/path/",
        ));
    }
    if let Some(Err(error)) = config.machine_id.as_deref().map(MachineId::new) {
        more.push(finding(
            Severity::Error,
            FindingKind::BadValue,
            "MachineID",
            error.to_string(),
            "write the id itself, or remove the key to use the hardware UUID",
        ));
    }
    more
}
