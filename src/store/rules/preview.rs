//! Previewing a commit.

use rusqlite::Connection;
use serde::Serialize;

use super::change_log::{Change, LoggedChange, compare};
use super::commit::Cleanup;
use super::meta;
use super::rules_hash::total;
use crate::model::{RuleSet, RuleState, RuleType, SyncType};
use crate::store::{Store, StoreError};

/// What would happen to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleChangeKind {
    /// Stored; none with its identifier and type exists.
    Added,
    /// Stored in place of one that differs.
    Replaced,
    /// Deleted.
    Removed,
}

/// One rule that a commit would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// What would happen to it.
    pub change: RuleChangeKind,
    /// Its identifier.
    pub identifier: String,
    /// Its type.
    pub rule_type: RuleType,
    /// The policy stored.
    pub before: Option<&'static str>,
    /// The policy that would be stored.
    pub after: Option<&'static str>,
}

/// What [`Store::commit_rules`] would do.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct RulesPreview {
    /// Rules that would be new.
    pub added: u64,
    /// Rules that would be stored in place of one that differs.
    pub replaced: u64,
    /// Rules that would be stored again unchanged, which moves them to the end.
    pub unchanged: u64,
    /// Rules that would be deleted: by REMOVE, or by the type of sync if not
    /// sent again.
    pub removed: u64,
    /// Transitive rules that would stay.
    pub kept_transitive: u64,
    /// The first changes: those of the download in its order, then the other
    /// removals in stored order.
    pub changes: Vec<RuleChange>,
    /// Whether there are more changes than listed.
    pub truncated: bool,
}

impl Store {
    /// Returns what [`Self::commit_rules`] would do with this download. Lists
    /// at most `listed` changes; the totals are complete. Changes nothing.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn preview_rules(
        &self,
        rules: &RuleSet,
        sync_type: SyncType,
        listed: usize,
    ) -> Result<RulesPreview, StoreError> {
        preview(&self.rules, rules, sync_type, listed).map_err(self.failed("compare the rules"))
    }
}

fn preview(
    conn: &Connection,
    rules: &RuleSet,
    sync_type: SyncType,
    listed: usize,
) -> rusqlite::Result<RulesPreview> {
    // One snapshot for all that follows.
    let tx = conn.unchecked_transaction()?;
    let counts = meta::digest(&tx)?.counts;
    let cleanup = Cleanup::of(sync_type);
    let mut result = Listing { preview: RulesPreview::default(), room: listed };
    let mut transitive_gone = 0;
    compare(&tx, rules, cleanup, total(&counts), &mut |change| {
        transitive_gone += u32::from(
            change.kind != LoggedChange::Added
                && change.before == Some(RuleState::AllowTransitive.number()),
        );
        result.take(change);
    })?;
    if sync_type.deletes_execution_rules() {
        result.preview.kept_transitive =
            u64::from(counts.transitive.saturating_sub(transitive_gone));
    }
    Ok(result.preview)
}

struct Listing {
    preview: RulesPreview,
    room: usize,
}

impl Listing {
    fn take(&mut self, change: Change) {
        let (total, kind) = match change.kind {
            LoggedChange::Missed => return,
            LoggedChange::SentAgain => {
                self.preview.unchanged += 1;
                return;
            }
            LoggedChange::Added => (&mut self.preview.added, RuleChangeKind::Added),
            LoggedChange::Replaced | LoggedChange::Reworded => {
                (&mut self.preview.replaced, RuleChangeKind::Replaced)
            }
            LoggedChange::Removed => (&mut self.preview.removed, RuleChangeKind::Removed),
        };
        // Rows of an unknown type are not counted.
        let Some(rule_type) = RuleType::from_number(change.rule_type) else { return };
        *total += 1;
        if self.room == 0 {
            self.preview.truncated = true;
            return;
        }
        self.room -= 1;
        let before = change.before.and_then(RuleState::from_number);
        self.preview.changes.push(RuleChange {
            change: kind,
            identifier: change.identifier,
            rule_type,
            before: before.map(RuleState::policy_name),
            after: change.after.map(RuleState::policy_name),
        });
    }
}
