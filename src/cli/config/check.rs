//! `config check`

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::SCHEMA_VERSION;
use crate::cli::error::{self, EXIT_CONFIG};
use crate::cli::{Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Finding, FindingKind, Loaded, Severity, Source};
use crate::failure::Failure;
use crate::files::{self, Obstacle};
use crate::host::{self, IdentityProblem, SystemHost};
use crate::model::{MachineId, Timestamp};
use crate::protocol::cel;
use crate::store::{PROTECTED_FIX, is_protected};
use crate::transport::{
    CertificateFacts, ClientCertificate, Roots, inspect_client_certificate, inspect_roots,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exits with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Checks a profile before a management system fills in its placeholders: values with one
    /// are not checked, and files of the target host are not looked for
    #[arg(long)]
    template: bool,
}

/// Exit code of `--strict` for a configuration with warnings.
const EXIT_WARNINGS: u8 = 1;

/// What the check found, worst first.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    schema_version: u32,
    /// `ok`, `warning` or `error`.
    result: &'static str,
    exit_code: u8,
    /// The sources there are, the strongest first.
    sources: Vec<Source>,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    let sources = setup::sources(global);
    let now = SystemClock::new().now().wall;
    let (loaded, more) = if args.template {
        let loaded = Config::examine_template(&sources);
        let more = of_values(&loaded);
        (loaded, more)
    } else {
        let loaded = Config::examine(&sources);
        let more = in_use(&loaded, now).into_iter().chain(of_identity(&loaded)).collect();
        (loaded, more)
    };
    let report = CheckReport::new(loaded, more, args.strict);
    if report.sources.is_empty() {
        let files: Vec<_> = sources.files().iter().map(|f| f.display().to_string()).collect();
        output::note(format!("there is no configuration: no --set, and no {}", files.join(", ")));
    }
    if args.json {
        output::json(&report);
    } else {
        output::lines(report.text());
    }
    ExitCode::from(report.exit_code)
}

impl CheckReport {
    fn new(loaded: Loaded, more: Vec<Finding>, strict: bool) -> Self {
        let Loaded { mut findings, sources, .. } = loaded;
        findings.extend(more);
        for finding in &mut findings {
            if finding.kind == FindingKind::Misplaced {
                finding.severity = Severity::Warning;
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let result = match (errors, warnings) {
            (0, 0) => "ok",
            (0, _) => "warning",
            _ => "error",
        };
        let exit_code = match error::exit_of(&findings) {
            0 if strict && warnings > 0 => EXIT_WARNINGS,
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
        output::joined(&lines)
    }
}

/// What only shows when the configuration is to be used: what stops every sync
/// and no other command.
pub(in crate::cli) fn in_use(loaded: &Loaded, now: Timestamp) -> Vec<Finding> {
    let config = &loaded.config;
    let mut found = InUse { loaded, findings: of_values(loaded) };
    found.files();
    found.roots(now);
    if let Some(file) = &config.client_auth_certificate_file {
        let key = "ClientAuthCertificateFile";
        let password = config.client_auth_certificate_password.clone();
        let certificate = ClientCertificate { file: file.clone(), password };
        match inspect_client_certificate(&certificate) {
            Ok(facts) => found.validity(key, "the client certificate", &facts, now),
            Err(failure) => found.failure(key, &failure),
        }
    }
    found.findings
}

/// What is wrong with the host's identity and with the property lists that hold it
/// (HOST-2).
fn of_identity(loaded: &Loaded) -> Vec<Finding> {
    let finding = |problem: IdentityProblem| Finding {
        severity: Severity::Warning,
        kind: FindingKind::BadValue,
        key: Some(problem.key.to_owned()),
        source: loaded.effective.source(problem.key),
        message: problem.message,
        fix: problem.fix.to_owned(),
    };
    host::identity_problems(&loaded.config, &SystemHost).into_iter().map(finding).collect()
}

/// The part of [`in_use`] that needs nothing of this host.
fn of_values(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let mut found = InUse { loaded, findings: Vec::new() };
    let key = "SyncBaseURL";
    let rejected = loaded
        .findings
        .iter()
        .any(|finding| finding.key.as_deref() == Some(key) && finding.severity == Severity::Error);
    if config.sync_base_url.is_none() && !rejected && !loaded.effective.is_template(key) {
        found.add(
            Severity::Warning,
            FindingKind::MissingUrl,
            "SyncBaseURL",
            "is not set, so nothing is synced".to_owned(),
            "set it to https://host/path/",
        );
    }
    if let Some(Err(error)) = config.machine_id.as_deref().map(MachineId::new) {
        found.add(
            Severity::Error,
            FindingKind::BadValue,
            "MachineID",
            error.to_string(),
            "write the id itself, or remove the key to use the hardware UUID",
        );
    }
    if config.events_database.as_deref() == Some(Path::new(SANTAS_EVENTS)) {
        found.add(
            Severity::Warning,
            FindingKind::NoEffect,
            "EventsDatabase",
            "is Santa's own, which a running Santa lets nobody open, not even root".to_owned(),
            "remove the key; the relay takes Santa's events (docs/relay.md)",
        );
    }
    let mut expressions = 0;
    for rule in &config.static_rules {
        let expression = rule.details.as_ref().map_or("", |details| &details.cel_expr);
        if expression.is_empty() {
            continue;
        }
        expressions += 1;
        if let Err(reason) = cel::check(expression) {
            found.add(
                Severity::Warning,
                FindingKind::BadRule,
                "StaticRules",
                format!(
                    "the expression of {} {reason}; the rule still stands before every rule of \
                     the server",
                    rule.identifier
                ),
                "fix the expression or remove the rule",
            );
        }
    }
    if expressions > 0 {
        let rules = if expressions == 1 { "rule is" } else { "rules are" };
        found.add(
            Severity::Note,
            FindingKind::NotEvaluated,
            "StaticRules",
            format!(
                "{expressions} {rules} CEL: counted and shown here, evaluated by Santa alone, so \
                 `rules check` answers \"Decided by CEL\""
            ),
            "nothing, if Santa reads the same configuration",
        );
    }
    found.findings
}

/// Where Santa keeps its events.
const SANTAS_EVENTS: &str = "/var/db/santa/events.db";

/// Why the database that `EventsDatabase` names cannot be read, and what to do.
fn unreadable_database(file: &Path, obstacle: &Obstacle) -> (String, &'static str) {
    let file = file.display();
    match obstacle {
        Obstacle::Io(error) if is_protected(error) => {
            let message = format!("{file} is protected: the system denies it to root, too");
            (message, PROTECTED_FIX)
        }
        Obstacle::Io(_) | Obstacle::NotAFile(_) | Obstacle::TooLarge(_) => (
            format!("{file} cannot be read: {obstacle}"),
            "check the path and its permissions, or remove the key",
        ),
    }
}

/// Within this time of its end a certificate is worth a warning.
const SOON_DAYS: u64 = 30;

struct InUse<'a> {
    loaded: &'a Loaded,
    findings: Vec<Finding>,
}

impl InUse<'_> {
    fn add(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        key: &str,
        message: String,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            kind,
            key: Some(key.to_owned()),
            source: self.loaded.effective.source(key),
            message,
            fix: fix.into(),
        });
    }

    /// Files that a key names and that this user cannot use.
    fn files(&mut self) {
        let config = &self.loaded.config;
        if let Some(file) = &config.events_database
            && let Err(obstacle) = files::check_readable(file)
        {
            let (message, fix) = unreadable_database(file, &obstacle);
            let key = "EventsDatabase";
            self.add(Severity::Warning, FindingKind::Unreadable, key, message, fix);
        }
        if let Some(hook) = &config.notification_hook
            && let Err(error) = files::check_program(hook)
        {
            let message = format!("is not run: {error}");
            let key = "NotificationHook";
            self.add(Severity::Warning, FindingKind::BadValue, key, message, error.fix());
        }
        let Some(relay) = &config.relay else { return };
        if let Some(program) = relay.nudge.as_ref().and_then(|words| words.first())
            && let Err(error) = files::check_program(Path::new(program))
        {
            let message = format!("is not run: {error}");
            self.add(Severity::Warning, FindingKind::BadValue, "RelayNudge", message, error.fix());
        }
        if relay.tls
            && let Err(error) = files::check_guarded(&relay.directory)
        {
            let message = format!("is not used: {error}");
            let key = "RelayDirectory";
            self.add(Severity::Warning, FindingKind::BadValue, key, message, error.fix());
        }
    }

    fn roots(&mut self, now: Timestamp) {
        let config = &self.loaded.config;
        let (key, roots) = match (&config.server_auth_roots_file, &config.server_auth_roots_data) {
            (Some(file), _) => ("ServerAuthRootsFile", Roots::File(file.clone())),
            (None, Some(data)) => ("ServerAuthRootsData", Roots::Data(data.clone())),
            (None, None) => return,
        };
        match inspect_roots(&roots) {
            Ok(certificates) => {
                for certificate in certificates {
                    let what = format!("the root {:?}", certificate.subject);
                    self.validity(key, &what, &certificate, now);
                }
            }
            Err(failure) => self.failure(key, &failure),
        }
    }

    /// A failure of the transport.
    fn failure(&mut self, key: &str, failure: &Failure) {
        let fix = failure.fix.as_deref().unwrap_or("fix the file");
        self.add(Severity::Error, FindingKind::Unreadable, key, failure.message.clone(), fix);
    }

    fn validity(&mut self, key: &str, what: &str, facts: &CertificateFacts, now: Timestamp) {
        let kind = FindingKind::Expiry;
        let days = facts.not_after.since(now).as_secs() / 86_400;
        let (severity, message) = if now < facts.not_before {
            (Severity::Error, format!("{what} is not valid before {}", facts.not_before))
        } else if facts.not_after < now {
            (Severity::Error, format!("{what} expired at {}", facts.not_after))
        } else if days < SOON_DAYS {
            (Severity::Warning, format!("{what} expires in {days} days, at {}", facts.not_after))
        } else {
            return;
        };
        self.add(severity, kind, key, message, "renew it and replace the file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONF-4: `EventsDatabase` of a running santad is named by its cause.
    #[test]
    fn conf_4_a_database_that_santa_protects_is_named_by_its_cause() {
        let file = Path::new("/var/db/santa/events.db");
        let said = |code| {
            let error = Obstacle::Io(std::io::Error::from_raw_os_error(code));
            unreadable_database(file, &error)
        };
        let (message, fix) = said(1);
        assert!(message.ends_with("is protected: the system denies it to root, too"), "{message}");
        assert!(fix.contains("Santa's daemon denies other programs its own databases"), "{fix}");
        let (message, fix) = said(13);
        assert!(message.contains("cannot be read: ") && fix.contains("permissions"), "{message}");
    }
}
