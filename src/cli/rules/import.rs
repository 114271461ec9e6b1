//! `rules import`: rules from a file, for hosts that no server manages.

mod reading;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use serde::Serialize;

use self::reading::{Reading, Refused};
use super::SCHEMA_VERSION;
use crate::cli::sync::in_line;
use crate::cli::{Error, Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::model::SyncType;
use crate::store::{
    GenerationSource, LockError, Notice, RuleChange, RuleChangeKind, RuleCommit, StateLock, Store,
    StoreError,
};
use crate::sync::run::QUIET_WAIT;

/// How many changes a dry run lists.
const MAX_CHANGES_LISTED: usize = 1_000;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Args {
    /// File in the format of `rules export`; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Delete all rules except transitive ones first
    #[arg(long)]
    clean: bool,
    /// Delete all rules first
    #[arg(long, conflicts_with = "clean")]
    clean_all: bool,
    /// Show what would change without changing it
    #[arg(long)]
    dry_run: bool,
    /// Import nothing if a CEL rule's expression is unusable, instead of skipping that rule
    #[arg(long)]
    strict: bool,
    /// Import even if a server or the configuration manages the rules
    #[arg(long)]
    force: bool,
    /// Print one JSON object
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
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let setup = setup::load(global)?;
    let managed = setup.config.sync_base_url.is_some() || !setup.config.static_rules.is_empty();
    if managed && !args.force && !args.dry_run {
        return Err(Error::usage(
            "SyncBaseURL or StaticRules is set, so the rules are managed centrally and the next sync \
             may undo an import",
        )
        .with_fix("--force imports anyway; --dry-run shows what would change"));
    }
    let name = args.file.display();
    let Reading { rules, refused, refused_total, .. } = reading::read(&args.file, args.strict)?;
    if !args.json {
        for rule in &refused {
            output::note(format_args!("skipped: {rule}"));
        }
        if refused_total > refused.len() {
            output::note(format_args!("skipped: {} more rules", refused_total - refused.len()));
        }
    }
    if rules.is_empty() && refused_total > 0 {
        let first = refused.first().map(ToString::to_string).unwrap_or_default();
        return Err(Error::usage(format!(
            "{name} has no rule that can be stored ({first}); nothing was imported or deleted"
        )));
    }
    if rules.is_empty() && args.sync_type() == SyncType::Normal {
        return Err(Error::usage(format!("{name} has no rules, so there is nothing to import"))
            .with_fix("--clean deletes the stored rules"));
    }
    if args.dry_run {
        let preview = match Store::open_read_only(&setup.state_dir) {
            Ok(store) => store.preview_rules(&rules, args.sync_type(), MAX_CHANGES_LISTED)?,
            Err(StoreError::Missing { .. }) => {
                Store::in_memory()?.preview_rules(&rules, args.sync_type(), MAX_CHANGES_LISTED)?
            }
            Err(error) => return Err(error.into()),
        };
        let output = ImportOutput {
            schema_version: SCHEMA_VERSION,
            dry_run: true,
            added: preview.added,
            replaced: preview.replaced,
            unchanged: Some(preview.unchanged),
            removed: preview.removed,
            refused: refused_total,
            refused_rules: refused,
            rules_hash: None,
            changes: Some(preview.changes),
            truncated: Some(preview.truncated),
        };
        output.print(args.json);
        return Ok(());
    }
    Store::prepare_dir(&setup.state_dir)?;
    let _lock = locked(&setup.state_dir, args.json)?;
    let (mut store, notices) = Store::open(&setup.state_dir, SystemClock::new().now().wall)?;
    for notice in &notices {
        if let Notice::SetAside { path, reason } = notice {
            let path = path.display();
            output::note(format_args!(
                "the rule store was corrupt ({reason}); it was moved to {path}"
            ));
        }
    }
    let commit = RuleCommit {
        source: GenerationSource::Import,
        ..(args.sync_type(), SystemClock::new().now().wall).into()
    };
    let done = store.commit_rules(&rules, commit)?;
    store.compact_rules(|| false);
    let output = ImportOutput {
        schema_version: SCHEMA_VERSION,
        dry_run: false,
        added: done.added,
        replaced: done.replaced,
        unchanged: None,
        removed: done.removed_by_rule + done.removed_by_cleanup,
        refused: refused_total,
        refused_rules: refused,
        rules_hash: Some(done.hash),
        changes: None,
        truncated: None,
    };
    output.print(args.json);
    Ok(())
}

/// Waits for the lock of the state directory and says so if it takes a while.
fn locked(state_dir: &Path, json: bool) -> Result<StateLock, LockError> {
    let (over, waits) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waits.recv_timeout(QUIET_WAIT) == Err(RecvTimeoutError::Timeout) && !json {
                in_line(StateLock::holder(state_dir));
            }
        });
        let lock = StateLock::acquire(state_dir, true);
        drop(over);
        lock
    })
}

#[derive(Serialize)]
struct ImportOutput {
    schema_version: u32,
    dry_run: bool,
    added: u64,
    replaced: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
    removed: u64,
    /// CEL rules skipped because their expression is unusable.
    refused: usize,
    /// The first of them.
    refused_rules: Vec<Refused>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<RuleChange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

impl ImportOutput {
    fn print(&self, json: bool) {
        if json {
            output::json(self);
            return;
        }
        let mut lines = output::Lines::new();
        for change in self.changes.iter().flatten() {
            let identifier = &change.identifier;
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
            lines.line(format_args!("  only the first {MAX_CHANGES_LISTED} changes are listed"));
        }
        lines.line(format_args!(
            "{}: {} added, {} replaced, {} removed",
            if self.dry_run {
                "Nothing was changed; the import would result in"
            } else {
                "Imported"
            },
            self.added,
            self.replaced,
            self.removed
        ));
        if self.refused > 0 {
            lines.line(format_args!("{} skipped", self.refused));
        }
    }
}
