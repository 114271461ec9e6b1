//! `rules check`: which rule decides, and why.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::SCHEMA_VERSION;
use crate::cli::{Error, Global, connect, output, setup};
use crate::control::message::{Decision, LookupError, RuleLookup};
use crate::files::kind_of;
use crate::model::{Executable, Identifier};
use crate::store::RuleSince;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look up this file by its SHA-256
    #[arg(long, value_name = "FILE", conflicts_with = "sha256")]
    path: Option<PathBuf>,
    /// Look up a file's SHA-256
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Look up a code directory hash
    #[arg(long, value_name = "HEX")]
    cdhash: Option<String>,
    /// Look up a signing id: TEAMID:name or platform:name
    #[arg(long, value_name = "ID")]
    signing_id: Option<String>,
    /// Look up the SHA-256 of a leaf certificate
    #[arg(long, value_name = "HEX")]
    cert_sha256: Option<String>,
    /// Look up a team id
    #[arg(long, value_name = "ID")]
    team_id: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks the rule up and shows it.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let executable = executable(args)?;
    let setup = setup::load_to_read(global)?;
    let decision = connect::agent(global, &setup).decide(&executable)?;
    if args.json {
        setup.print_json(&Answer::new(&executable, decision));
        return Ok(());
    }
    let Decision { decision: Some(words), why: Some(why), rule: Some(rule), since, .. } = decision
    else {
        output::line("No matching rule exists");
        return Ok(());
    };
    output::line(output::printable(&words));
    output::line(format_args!("  decided by  {}", output::printable(&why)));
    for (name, text) in [
        ("message", &rule.custom_msg),
        ("link", &rule.custom_url),
        ("button", &rule.event_detail_button_label),
        ("comment", &rule.comment),
        ("expression", &rule.cel_expr),
    ] {
        if !text.is_empty() {
            output::line(format_args!("  {name:<10}  {}", output::printable(text)));
        }
    }
    if let Some(RuleSince { generation, committed_at, sync, exact }) = since {
        let or_earlier = if exact { "" } else { " or earlier" };
        let by = sync.map_or_else(String::new, |id| format!("sync {}, ", output::printable(&id)));
        output::line(format_args!(
            "  since       {committed_at}{or_earlier} ({by}generation {generation})"
        ));
    }
    if let Some(last_used) = rule.last_used {
        output::line(format_args!("  last used   {last_used}"));
    }
    Ok(())
}

fn executable(args: &Args) -> Result<Executable, Error> {
    let lookup = RuleLookup {
        sha256: args.sha256.clone(),
        cdhash: args.cdhash.clone(),
        signing_id: args.signing_id.clone(),
        cert_sha256: args.cert_sha256.clone(),
        team_id: args.team_id.clone(),
        since: true,
    };
    let mut executable = lookup.executable().map_err(|LookupError { field, text, error }| {
        let option = field.replace('_', "-");
        Error::usage(format!("--{option} {text:?}: {error}"))
    })?;
    if let Some(path) = &args.path {
        // Checked before it is opened: opening a FIFO would wait for a writer, and
        // a device may have no end.
        let shown = path.display();
        let metadata = fs::metadata(path).map_err(|error| {
            Error::usage(format!("cannot read {shown}: {error}")).with_fix("check the path")
        })?;
        if metadata.is_dir() {
            return Err(Error::usage(format!("{shown} is a directory"))
                .with_fix("name the executable in it; a bundle has it in Contents/MacOS"));
        }
        if !metadata.is_file() {
            let kind = kind_of(metadata.file_type());
            return Err(Error::usage(format!("{shown} is {kind}")).with_fix("name a regular file"));
        }
        let hash = sha256(path)
            .map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
        executable = executable.with(Identifier::Binary(hash));
    }
    if executable.is_empty() {
        return Err(Error::usage("there is nothing to look up")
            .with_fix("name a file with --path, or an identifier (see --help)"));
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
    /// The identifiers that were looked up.
    identifiers: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    decision: Decision,
}

impl Answer {
    fn new(executable: &Executable, decision: Decision) -> Self {
        let identifiers =
            executable.identifiers().map(|id| (id.rule_type().name(), id.to_string())).collect();
        Self { schema_version: SCHEMA_VERSION, identifiers, decision }
    }
}
