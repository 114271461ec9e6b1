//! `rules check`: which rule decides, and why.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::SCHEMA_VERSION;
use crate::cli::setup::{self, Setup};
use crate::cli::{Error, Global, by_daemon, output};
use crate::control::client::Client;
use crate::control::message::Decision;
use crate::control::message::{self, ControlRequest, RuleLookup};
use crate::files::kind_of;
use crate::model::{Executable, Identifier, RuleType, StaticRules};
use crate::store::{RuleSince, Store};

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
    let by_daemon = by_daemon::find_to_ask(global, &setup.state_dir)
        .and_then(|client| asked(client, &executable))
        .transpose()?;
    let decision = match by_daemon {
        Some(decision) => decision,
        None => looked_up(&setup, &executable)?,
    };
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

fn looked_up(setup: &Setup, executable: &Executable) -> Result<Decision, Error> {
    let store = Store::open_read_only(&setup.state_dir)?;
    let config = &setup.config;
    let settings = config.as_settings().overlaid(&store.applied_settings()?);
    let transitive_enabled = settings.enable_transitive_rules.unwrap_or(false);
    let static_rules = StaticRules::new(config.static_rules.clone());
    let found = store.lookup(executable, &static_rules, transitive_enabled)?;
    Ok(Decision::new(&store, found, true)?)
}

/// Asks the daemon. Returns `None` if it cannot be asked.
fn asked(mut client: Client, executable: &Executable) -> Option<Result<Decision, Error>> {
    let mut lookup = RuleLookup { since: true, ..RuleLookup::default() };
    for identifier in executable.identifiers() {
        let field = match identifier.rule_type() {
            RuleType::Binary => &mut lookup.sha256,
            RuleType::Cdhash => &mut lookup.cdhash,
            RuleType::SigningId => &mut lookup.signing_id,
            RuleType::Certificate => &mut lookup.cert_sha256,
            RuleType::TeamId => &mut lookup.team_id,
        };
        *field = Some(identifier.to_string());
    }
    let answer = by_daemon::ask(&mut client, &ControlRequest::RulesLookup(lookup), |answer| {
        let message::ControlResponse::Rule(decision) = answer else { return None };
        // A daemon of an older version does not tell the rule.
        (decision.matched == decision.rule.is_some()).then_some(*decision)
    })?;
    Some(answer.map_err(Error::unusable))
}

fn executable(args: &Args) -> Result<Executable, Error> {
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
                .map_err(|error| Error::usage(format!("{option} {text:?}: {error}")))?;
            executable = executable.with(identifier);
        }
    }
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// DAEMON-4: a rule that the daemon knows and does not tell is not taken
    /// for none.
    #[test]
    fn daemon_4_half_an_answer_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("agent.sock")).expect("a socket");
        let team = Identifier::parse(RuleType::TeamId, "ABCDEFGHIJ").expect("a team");
        let executable = Executable::default().with(team);
        for (answer, whole) in [
            (r#"{"answer":"rule","matched":true,"decision":"Blocked","why":"it is"}"#, false),
            (r#"{"answer":"rule","matched":false,"decision":null,"why":null}"#, true),
        ] {
            let client = Client::connect(dir.path()).expect("a daemon");
            let (stream, _) = listener.accept().expect("a client");
            (&stream).write_all(format!("{answer}\n").as_bytes()).expect("answered");
            let asked = asked(client, &executable);
            assert_eq!(asked.is_some_and(|asked| asked.is_ok()), whole, "{answer}");
            let mut request = String::new();
            BufReader::new(stream).read_line(&mut request).expect("asked");
            assert!(request.contains("ABCDEFGHIJ"), "{request}");
        }
    }
}
