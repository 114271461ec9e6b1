//! What a commit would do, without doing it.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use super::commit::Cleanup;
use super::row::{self, Sound};
use crate::model::{RuleDetails, RuleRef, RuleSet, RuleState, RuleType, SyncType};
use crate::store::{Store, StoreError};

/// What would become of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleChangeKind {
    /// Stored; there is none of its identifier and type.
    Added,
    /// Stored in the place of one that differs.
    Replaced,
    /// Deleted.
    Removed,
}

/// One rule that a commit would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// What would become of it.
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
    /// Rules that would be stored in the place of one that differs.
    pub replaced: u64,
    /// Rules that would be stored again as they are, which moves them to the
    /// end.
    pub unchanged: u64,
    /// Rules that would go: by REMOVE, or by the type of the sync and not sent
    /// again.
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
    /// What [`Self::commit_rules`] would do with this download. Lists at most
    /// `listed` changes; the totals are complete. Changes nothing.
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
    let mut result = Listing { preview: RulesPreview::default(), room: listed };
    // Only the last word of the download on an identifier and type counts.
    let mut last = HashMap::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        last.insert((rule.identifier.to_string(), rule.identifier.rule_type()), place);
    }
    let mut find = tx.prepare(
        "SELECT state, custommsg, customurl, comment, cel_expr, event_detail_button_text \
         FROM execution_rules WHERE identifier = ?1 AND type = ?2",
    )?;
    for (place, rule) in rules.iter().enumerate() {
        let key = (rule.identifier.to_string(), rule.identifier.rule_type());
        if last.get(&key) != Some(&place) {
            continue;
        }
        let stored = find.query_row(params![key.0, key.1.number()], Stored::read).optional()?;
        result.compare(key, stored, &rule);
    }
    if sync_type.deletes_execution_rules() {
        let mut all =
            tx.prepare("SELECT identifier, state, type FROM execution_rules ORDER BY rowid")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let Some(row) = Sound::read(row, 0)? else { continue };
            let Some(rule_type) = RuleType::from_number(row.rule_type) else { continue };
            let key = (row.identifier.to_owned(), rule_type);
            if last.contains_key(&key) {
                continue;
            }
            let state = RuleState::from_number(row.state);
            if Cleanup::of(sync_type).takes(state) {
                result.preview.removed += 1;
                result.list(RuleChangeKind::Removed, key, state, None);
            } else if state == Some(RuleState::AllowTransitive) {
                result.preview.kept_transitive += 1;
            }
        }
    }
    Ok(result.preview)
}

/// A stored rule as far as a download can say it.
struct Stored {
    state: Option<RuleState>,
    details: RuleDetails,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let text = |column| row.get_ref(column).map(row::lossy);
        Ok(Self {
            state: row::number(row.get_ref(0)?).and_then(RuleState::from_number),
            details: RuleDetails {
                custom_msg: text(1)?,
                custom_url: text(2)?,
                comment: text(3)?,
                cel_expr: text(4)?,
                event_detail_button_label: text(5)?,
                notification_app_name: String::new(),
            },
        })
    }

    fn is(&self, rule: &RuleRef<'_>) -> bool {
        let mut details = RuleDetails::from(rule.details);
        details.notification_app_name.clear();
        self.state == rule.policy.state() && self.details == details
    }
}

struct Listing {
    preview: RulesPreview,
    room: usize,
}

impl Listing {
    fn compare(&mut self, key: (String, RuleType), stored: Option<Stored>, rule: &RuleRef<'_>) {
        let after = rule.policy.state();
        match (stored, after) {
            (None, None) => {}
            (None, Some(_)) => {
                self.preview.added += 1;
                self.list(RuleChangeKind::Added, key, None, after);
            }
            (Some(stored), None) => {
                self.preview.removed += 1;
                self.list(RuleChangeKind::Removed, key, stored.state, None);
            }
            (Some(stored), Some(_)) if stored.is(rule) => self.preview.unchanged += 1,
            (Some(stored), Some(_)) => {
                self.preview.replaced += 1;
                self.list(RuleChangeKind::Replaced, key, stored.state, after);
            }
        }
    }

    fn list(
        &mut self,
        change: RuleChangeKind,
        (identifier, rule_type): (String, RuleType),
        before: Option<RuleState>,
        after: Option<RuleState>,
    ) {
        if self.room == 0 {
            self.preview.truncated = true;
            return;
        }
        self.room -= 1;
        let name = |state: RuleState| state.policy_name();
        self.preview.changes.push(RuleChange {
            change,
            identifier,
            rule_type,
            before: before.map(name),
            after: after.map(name),
        });
    }
}
