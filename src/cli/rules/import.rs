//! `rules import`: rules from a file, for hosts that no server manages.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use serde::de::{
    self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Serialize};

use super::{EXIT_TOO_MANY_SYNCS, Failure, SCHEMA_VERSION, setup, usage};
use crate::cli::sync::in_line;
use crate::cli::{Global, output};
use crate::clock::{Clock as _, SystemClock};
use crate::model::{Rule, RuleSet, SyncType, parse_rule};
use crate::protocol::cel;
use crate::store::{LockError, Notice, RuleChange, RuleChangeKind, StateLock, Store, StoreError};
use crate::sync::job::SILENT;

/// How many faults of a file are told.
const FAULTS_TOLD: usize = 20;
/// How many changes of a dry run are listed.
const LISTED: usize = 1_000;
/// Rules of a file that are packed at once.
const PAGE: usize = 10_000;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Args {
    /// The file, in the form of `rules export`; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Deletes all rules but transitive ones first
    #[arg(long)]
    clean: bool,
    /// Deletes all rules first
    #[arg(long, conflicts_with = "clean")]
    clean_all: bool,
    /// Only tells what would change
    #[arg(long)]
    dry_run: bool,
    /// Imports although a server or the configuration manages the rules
    #[arg(long)]
    force: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    const fn sync_type(&self) -> SyncType {
        match (self.clean, self.clean_all) {
            (_, true) => SyncType::CleanAll,
            (true, false) => SyncType::Clean,
            (false, false) => SyncType::Normal,
        }
    }
}

/// Reads the whole file, then imports all of it or nothing.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let setup = setup(global)?;
    let managed = setup.config.sync_base_url.is_some() || !setup.config.static_rules.is_empty();
    if managed && !args.force && !args.dry_run {
        return Err(usage(
            "SyncBaseURL or StaticRules is set, so rules are managed centrally and the next sync \
             may undo an import; --force imports anyway, --dry-run tells what would change",
        ));
    }
    let rules = read(args)?;
    if args.dry_run {
        let preview = match Store::open_read_only(&setup.state_dir) {
            Ok(store) => store.preview_rules(&rules, args.sync_type(), LISTED)?,
            Err(StoreError::Missing { .. }) => {
                Store::in_memory()?.preview_rules(&rules, args.sync_type(), LISTED)?
            }
            Err(error) => return Err(error.into()),
        };
        let answer = Answer {
            schema_version: SCHEMA_VERSION,
            dry_run: true,
            added: preview.added,
            replaced: preview.replaced,
            unchanged: Some(preview.unchanged),
            removed: preview.removed,
            rules_hash: None,
            changes: Some(preview.changes),
            truncated: Some(preview.truncated),
        };
        answer.tell(args.json);
        return Ok(());
    }
    Store::prepare_dir(&setup.state_dir)?;
    let _lock = locked(&setup.state_dir, args.json).map_err(|error| match error {
        LockError::TooManySyncs(_) => Failure::new(EXIT_TOO_MANY_SYNCS, error.to_string()),
        LockError::NotAFile { .. } | LockError::Unusable { .. } => {
            Failure::new(StoreError::EXIT_CODE, error.to_string())
        }
    })?;
    let (mut store, notices) = Store::open(&setup.state_dir, SystemClock::new().now().wall)?;
    for notice in &notices {
        if let Notice::SetAside { path, reason } = notice {
            let path = path.display();
            output::note(format_args!("the rule store was corrupt ({reason}); it lies at {path}"));
        }
    }
    let done = store.import_rules(&rules, args.sync_type())?;
    store.compact_rules(|| false);
    let answer = Answer {
        schema_version: SCHEMA_VERSION,
        dry_run: false,
        added: done.added,
        replaced: done.replaced,
        unchanged: None,
        removed: done.removed_by_rule + done.removed_by_cleanup,
        rules_hash: Some(done.hash),
        changes: None,
        truncated: None,
    };
    answer.tell(args.json);
    Ok(())
}

/// Waits for the state directory. A wait that is not over at once is told of.
fn locked(state_dir: &Path, json: bool) -> Result<StateLock, LockError> {
    let (over, waits) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(SILENT) == Err(RecvTimeoutError::Timeout) && !json {
                in_line(StateLock::holder(state_dir));
            }
        });
        let lock = StateLock::acquire(state_dir, true);
        drop(over);
        lock
    })
}

#[derive(Serialize)]
struct Answer {
    schema_version: u32,
    dry_run: bool,
    added: u64,
    replaced: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
    removed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<RuleChange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

impl Answer {
    fn tell(&self, json: bool) {
        if json {
            output::json(self);
            return;
        }
        let mut lines = output::Lines::new();
        for change in self.changes.iter().flatten() {
            let identifier = output::printable(&change.identifier);
            let sign = match change.change {
                RuleChangeKind::Added => '+',
                RuleChangeKind::Replaced => '~',
                RuleChangeKind::Removed => '-',
            };
            let policy = match (change.before, change.after) {
                (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
                (_, Some(policy)) | (Some(policy), None) => policy.to_owned(),
                (None, None) => String::new(),
            };
            lines.line(format_args!("{sign} {:<11}  {identifier}  {policy}", change.rule_type));
        }
        if self.truncated == Some(true) {
            lines.line(format_args!("  and more than these {LISTED}"));
        }
        lines.line(format_args!(
            "{}: {} added, {} replaced, {} removed",
            if self.dry_run {
                "Nothing was changed; the import would have done"
            } else {
                "Imported"
            },
            self.added,
            self.replaced,
            self.removed
        ));
    }
}

fn read(args: &Args) -> Result<RuleSet, Failure> {
    let name = args.file.display();
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.file);
        Box::new(file.map_err(|error| usage(format!("cannot read {name}: {error}")))?)
    };
    let mut reading = Reading::default();
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(input));
    let read = json.deserialize_map(FileVisitor(&mut reading)).and_then(|()| json.end());
    read.map_err(|error| {
        usage(format!(
            "{name} is no rule file ({{\"rules\":[{{...}}]}}): {error}; nothing is imported"
        ))
    })?;
    if !reading.found {
        return Err(usage(format!("{name} has no \"rules\"; nothing is imported")));
    }
    reading.pack();
    if reading.faults_total > 0 {
        let more = reading.faults_total - reading.faults.len();
        let mut told = reading.faults.join("\n  ");
        if more > 0 {
            told = format!("{told}\n  and {more} more");
        }
        return Err(usage(format!("nothing is imported, {name} has faults:\n  {told}")));
    }
    Ok(reading.rules)
}

/// The rules of a file, and what is wrong with it.
#[derive(Default)]
struct Reading {
    found: bool,
    rules: RuleSet,
    page: Vec<Rule>,
    faults: Vec<String>,
    faults_total: usize,
}

impl Reading {
    fn take(&mut self, index: usize, entries: &Entries) {
        let pairs = entries.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let rule = parse_rule(pairs).map_err(|error| error.to_string()).and_then(|rule| {
            let expression = rule.details.as_ref().map_or("", |d| &d.cel_expr);
            if expression.is_empty() {
                return Ok(rule);
            }
            cel::check(expression).map_err(|error| format!("the CEL expression {error}"))?;
            Ok(rule)
        });
        match rule {
            Ok(rule) => self.page.push(rule),
            Err(fault) => {
                self.faults_total += 1;
                if self.faults.len() < FAULTS_TOLD {
                    let named =
                        entries.0.iter().find(|(k, _)| k.eq_ignore_ascii_case("identifier"));
                    let named: String =
                        named.map(|(_, v)| v.chars().take(80).collect()).unwrap_or_default();
                    self.faults.push(format!("rule {index} {named:?}: {fault}"));
                }
            }
        }
        if self.page.len() == PAGE {
            self.pack();
        }
    }

    fn pack(&mut self) {
        self.rules.push_page(std::mem::take(&mut self.page), Vec::new());
    }
}

/// A dictionary of text. `null` counts as absent.
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    match map.next_value::<serde_json::Value>()? {
                        serde_json::Value::String(text) => entries.push((key, text)),
                        // Keys this program does not know may hold anything.
                        serde_json::Value::Null
                        | serde_json::Value::Bool(_)
                        | serde_json::Value::Number(_)
                        | serde_json::Value::Array(_)
                        | serde_json::Value::Object(_) => {}
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Takes the rules in one by one, so that the file is never in memory.
struct FileVisitor<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for FileVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key != "rules" {
                map.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut self.0.found, true) {
                return Err(de::Error::duplicate_field("rules"));
            } else {
                map.next_value_seed(RulesSeed(&mut *self.0))?;
            }
        }
        Ok(())
    }
}

struct RulesSeed<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for RulesSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RulesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(entries) = seq.next_element::<Entries>()? {
            self.0.take(index, &entries);
            index += 1;
        }
        Ok(())
    }
}
