//! Applying a download to the rules, in one transaction.

use rusqlite::{
    Connection, OptionalExtension as _, Statement, Transaction, TransactionBehavior, params,
};

use super::digest::Digest;
use super::meta;
use crate::model::{Policy, Rule, RuleCounts, RuleSet, RuleState, RuleType, SyncType, Timestamp};
use crate::store::{Store, StoreError};

/// What a commit of rules did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RulesCommitted {
    /// Rules of the download that the store took, REMOVE ones included.
    pub processed: u64,
    /// Rules stored whose identifier and type had none.
    pub added: u64,
    /// Rules stored in the place of an older one.
    pub replaced: u64,
    /// Rules that a REMOVE deleted.
    pub removed_by_rule: u64,
    /// Execution rules that the type of the sync deleted before the download
    /// was applied.
    pub removed_by_cleanup: u64,
    /// Transitive rules in the store afterwards.
    pub kept_transitive: u64,
    /// Whether anything in the store changed.
    pub changed: bool,
    /// The hash of the rules afterwards.
    pub hash: String,
    /// The counts of the rules afterwards.
    pub counts: RuleCounts,
    /// What to tell users of: the application's name and the identifier of its
    /// rule. Of NORMAL syncs only.
    pub announce: Vec<(String, String)>,
}

impl Store {
    /// Applies a complete download: deletes what the type of the sync says,
    /// then takes the rules in the order received, all in one transaction
    /// together with their hash and counts. On disk when it returns.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn commit_rules(
        &mut self,
        rules: &RuleSet,
        sync_type: SyncType,
        now: Timestamp,
    ) -> Result<RulesCommitted, StoreError> {
        let failed = self.failed("commit the rules");
        let committed = commit(&mut self.rules, rules, sync_type).map_err(failed)?;
        tracing::debug!(at = %now, changed = committed.changed, "rules committed");
        Ok(committed)
    }
}

fn commit(
    conn: &mut Connection,
    rules: &RuleSet,
    sync_type: SyncType,
) -> rusqlite::Result<RulesCommitted> {
    if rules.is_empty() && sync_type == SyncType::Normal && meta::is_complete(conn)? {
        return summary(conn, RulesCommitted::default());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut done = RulesCommitted::default();
    let other_rules = clean_up(&tx, sync_type, &mut done)?;
    apply(&tx, rules, &mut done)?;
    if sync_type == SyncType::Normal {
        done.announce = announcements(rules);
    }
    let rules_changed =
        done.added + done.replaced + done.removed_by_rule + done.removed_by_cleanup > 0;
    done.changed = rules_changed || other_rules > 0;
    if rules_changed {
        meta::write_digest(&tx, &Digest::of(&tx)?)?;
    }
    meta::set_complete(&tx)?;
    tx.commit()?;
    summary(conn, done)
}

fn summary(conn: &Connection, mut done: RulesCommitted) -> rusqlite::Result<RulesCommitted> {
    let digest = meta::read_digest(conn)?.unwrap_or_default();
    done.hash = digest.hash;
    done.kept_transitive = u64::from(digest.counts.transitive);
    done.counts = digest.counts;
    Ok(done)
}

/// Deletes what a sync of that type deletes. Answers how many rules of other
/// kinds than execution rules went.
fn clean_up(
    tx: &Transaction<'_>,
    sync_type: SyncType,
    done: &mut RulesCommitted,
) -> rusqlite::Result<usize> {
    let execution = match sync_type {
        SyncType::Normal | SyncType::CleanFileAccessRules => None,
        SyncType::CleanAll => Some("DELETE FROM execution_rules"),
        SyncType::Clean | SyncType::CleanRules => {
            Some("DELETE FROM execution_rules WHERE state != 6")
        }
        SyncType::CleanStandalone => Some("DELETE FROM execution_rules WHERE state IN (7, 8)"),
    };
    if let Some(sql) = execution {
        done.removed_by_cleanup = tx.execute(sql, [])? as u64;
    }
    let others: &[&str] = match sync_type {
        SyncType::Normal | SyncType::CleanRules | SyncType::CleanStandalone => &[],
        SyncType::CleanFileAccessRules => &["DELETE FROM file_access_rules"],
        SyncType::Clean | SyncType::CleanAll => &[
            "DELETE FROM file_access_rules",
            "DELETE FROM network_flow_rules",
            "DELETE FROM signal_rules",
        ],
    };
    others.iter().try_fold(0, |sum, sql| Ok(sum + tx.execute(sql, [])?))
}

fn apply(tx: &Transaction<'_>, rules: &RuleSet, done: &mut RulesCommitted) -> rusqlite::Result<()> {
    let mut delete = tx.prepare(
        "DELETE FROM execution_rules WHERE identifier = ?1 AND type = ?2 RETURNING state",
    )?;
    let mut insert = tx.prepare(INSERT)?;
    for rule in rules.iter() {
        let identifier = rule.identifier.to_string();
        let rule_type = rule.identifier.rule_type();
        let before: Option<i32> = delete
            .query_row(params![identifier, rule_type.number()], |row| row.get(0))
            .optional()?;
        done.processed += 1;
        match rule.policy.state() {
            None => done.removed_by_rule += u64::from(before.is_some()),
            Some(state) => {
                insert_rule(&mut insert, &identifier, rule_type, state, rule)?;
                if before.is_some() {
                    done.replaced += 1;
                } else {
                    done.added += 1;
                }
            }
        }
    }
    Ok(())
}

/// Every column, so that a default of the table never decides.
const INSERT: &str = "INSERT INTO execution_rules (identifier, state, type, custommsg, timestamp, \
     customurl, comment, cel_expr, rule_id, seatbelt_policy, event_detail_button_text) \
     VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, 0, NULL, ?8)";

fn insert_rule(
    insert: &mut Statement<'_>,
    identifier: &str,
    rule_type: RuleType,
    state: RuleState,
    rule: &Rule,
) -> rusqlite::Result<()> {
    let text = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    let details = rule.details.as_deref();
    insert.execute(params![
        identifier,
        state.number(),
        rule_type.number(),
        details.and_then(|d| text(&d.custom_msg)),
        details.and_then(|d| text(&d.custom_url)),
        details.and_then(|d| text(&d.comment)),
        details.and_then(|d| text(&d.cel_expr)),
        details.and_then(|d| text(&d.event_detail_button_label)),
    ])?;
    Ok(())
}

fn announcements(rules: &RuleSet) -> Vec<(String, String)> {
    rules
        .iter()
        .filter(|rule| rule.policy != Policy::Remove)
        .filter_map(|rule| {
            let name = &rule.details.as_ref()?.notification_app_name;
            (!name.is_empty()).then(|| (name.clone(), rule.identifier.to_string()))
        })
        .collect()
}
