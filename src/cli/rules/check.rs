//! `rules check`: which rule decides, and why.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Failure, RuleForm, SCHEMA_VERSION, open, usage};
use crate::cli::{Global, output};
use crate::model::{Executable, Identifier, Match, RuleOrigin, RuleType, StaticRules};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file, by its SHA-256
    #[arg(long, value_name = "FILE", conflicts_with = "sha256")]
    path: Option<PathBuf>,
    /// SHA-256 of a file
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Code directory hash
    #[arg(long, value_name = "HEX")]
    cdhash: Option<String>,
    /// TEAMID:name or platform:name
    #[arg(long, value_name = "ID")]
    signing_id: Option<String>,
    /// SHA-256 of the leaf certificate
    #[arg(long, value_name = "HEX")]
    cert_sha256: Option<String>,
    /// Developer team
    #[arg(long, value_name = "ID")]
    team_id: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks up and tells.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let executable = executable(args)?;
    let (config, store) = open(global)?;
    let settings = config.as_settings().overlaid(&store.applied_settings()?);
    let transitive_enabled = settings.enable_transitive_rules.unwrap_or(false);
    let static_rules = StaticRules::new(config.static_rules);
    let found = store.lookup(&executable, &static_rules, transitive_enabled)?;
    if args.json {
        output::json(&Answer::new(&executable, found));
        return Ok(());
    }
    let Some(found) = found else {
        output::line("No matching rule exists");
        return Ok(());
    };
    output::line(found.rule.wording());
    output::line(format_args!("  decided by  {}", output::printable(&found.to_string())));
    let details = &found.rule.details;
    for (name, text) in [
        ("message", &details.custom_msg),
        ("link", &details.custom_url),
        ("button", &details.event_detail_button_label),
        ("comment", &details.comment),
        ("expression", &details.cel_expr),
    ] {
        if !text.is_empty() {
            output::line(format_args!("  {name:<10}  {}", output::printable(text)));
        }
    }
    Ok(())
}

fn executable(args: &Args) -> Result<Executable, Failure> {
    let mut executable = Executable::default();
    for (rule_type, option, text) in [
        (RuleType::Binary, "--sha256", &args.sha256),
        (RuleType::Cdhash, "--cdhash", &args.cdhash),
        (RuleType::SigningId, "--signing-id", &args.signing_id),
        (RuleType::Certificate, "--cert-sha256", &args.cert_sha256),
        (RuleType::TeamId, "--team-id", &args.team_id),
    ] {
        if let Some(text) = text {
            let identifier = Identifier::parse(rule_type, text)
                .map_err(|error| usage(format!("{option} {text:?}: {error}")))?;
            executable = executable.with(identifier);
        }
    }
    if let Some(path) = &args.path {
        let hash = sha256(path)
            .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
        executable = executable.with(Identifier::Binary(hash));
    }
    if executable.is_empty() {
        return Err(usage("name a file with --path, or an identifier (see --help)"));
    }
    Ok(executable)
}

fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[derive(Serialize)]
struct Answer {
    schema_version: u32,
    /// What was looked for.
    identifiers: BTreeMap<&'static str, String>,
    matched: bool,
    decision: Option<String>,
    why: Option<String>,
    origin: Option<&'static str>,
    rule: Option<RuleForm>,
}

impl Answer {
    fn new(executable: &Executable, found: Option<Match>) -> Self {
        let identifiers =
            executable.identifiers().map(|id| (id.rule_type().name(), id.to_string())).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            identifiers,
            matched: found.is_some(),
            decision: found.as_ref().map(|found| found.rule.wording()),
            why: found.as_ref().map(ToString::to_string),
            origin: found.as_ref().map(|found| match found.origin {
                RuleOrigin::Configuration => "configuration",
                RuleOrigin::Store => "store",
            }),
            rule: found.map(|found| found.rule.into()),
        }
    }
}
