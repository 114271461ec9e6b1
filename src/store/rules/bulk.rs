//! Applying a download that replaces most of the store: rows first, their index
//! last.
//!
//! Hashes arrive in random order, and maintaining the unique index row by row
//! would cost four times as much as everything else. Without the index nothing
//! detects two rules with the same identifier and type, so these are found
//! before anything is written.

use rusqlite::Transaction;

use super::commit::{Cleanup, RulesCommitted};
use super::insert::Insert;
use super::names::{Fingerprint, Naming, fingerprint_of_row, namings};
use super::progress::Progress;
use super::row;
use super::rules_hash::{Digest, Hashed, total};
use crate::model::{RuleCounts, RuleSet, RuleSide};

/// Commits of fewer rows are applied row by row: rebuilding the index has a
/// cost of its own.
const WORTH_IT: usize = 1_000;

/// Returns whether so much changes that rebuilding the index is cheaper.
pub(super) fn pays(rules: &RuleSet, cleanup: Cleanup, before: &RuleCounts) -> bool {
    let stored = total(before);
    let stays = match cleanup {
        Cleanup::Nothing | Cleanup::Local => stored,
        Cleanup::AllButTransitive => before.transitive as usize,
        Cleanup::All => 0,
    };
    let changes = rules.len() + (stored - stays.min(stored));
    changes >= WORTH_IT && changes / 4 >= stays
}

/// Applies the download.
pub(super) fn apply(
    tx: &Transaction<'_>,
    rules: &RuleSet,
    cleanup: Cleanup,
    before: &RuleCounts,
    done: &mut RulesCommitted,
) -> rusqlite::Result<Digest> {
    tx.execute_batch("DROP INDEX IF EXISTS execution_rules_unique")?;
    if let Some(condition) = cleanup.condition() {
        // Without a condition SQLite frees all pages at once.
        let all_go = cleanup == Cleanup::All
            || (cleanup == Cleanup::AllButTransitive && before.transitive == 0);
        let sql = if all_go {
            "DELETE FROM execution_rules".to_owned()
        } else {
            format!("DELETE FROM execution_rules WHERE {condition}")
        };
        done.removed_by_cleanup = tx.execute(&sql, [])? as u64;
    }
    let rows = remaining(tx)?;
    let plan = BulkPlan::new(rules, &rows, done);
    let mut counts = RuleCounts::default();
    let mut delete = tx.prepare("DELETE FROM execution_rules WHERE rowid = ?1")?;
    for row in &rows {
        if plan.replaced.binary_search(&row.names).is_ok() {
            delete.execute([row.rowid])?;
        } else if let Some(state) = row.state {
            counts.adjust(state, row.rule_type, 1);
        }
    }
    drop((delete, rows));
    // Remaining rows come before inserted ones, in the hash as in the table.
    let mut progress = Progress::resume(tx, Some(i64::MIN))?;
    progress.read_on()?;
    let mut insert = Insert::prepare(tx)?;
    let mut identifier = String::new();
    for (rule, last) in rules.iter().zip(&plan.last) {
        let (true, Some(state)) = (*last, rule.policy.state()) else { continue };
        identifier.clear();
        rule.identifier.push_to(&mut identifier);
        let row = insert.execute(&identifier, state, &rule)?;
        progress.add(&Hashed::of(row, &identifier, state, &rule))?;
        counts.adjust(state.number(), rule.identifier.rule_type().number(), 1);
    }
    drop((insert, plan));
    tx.execute_batch(
        "CREATE UNIQUE INDEX execution_rules_unique ON execution_rules (identifier, type)",
    )?;
    let (hash, content) = progress.finish()?;
    Ok(Digest { hash, content, counts })
}

/// A row that the cleanup has kept and that a rule of a download may name.
struct KeptRow {
    rowid: i64,
    names: Fingerprint,
    rule_type: i32,
    /// `None` if it is not a number; then the row does not count.
    state: Option<i32>,
}

fn remaining(tx: &Transaction<'_>) -> rusqlite::Result<Vec<KeptRow>> {
    let mut scratch = Vec::new();
    let mut found = Vec::new();
    let mut statement = tx.prepare("SELECT rowid, identifier, state, type FROM execution_rules")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (identifier, state) = (row::text(row.get_ref(1)?), row::number(row.get_ref(2)?));
        let (Some(identifier), Some(rule_type)) = (identifier, row::number(row.get_ref(3)?)) else {
            continue;
        };
        let names = fingerprint_of_row(identifier, rule_type, &mut scratch);
        found.push(KeptRow { rowid: row.get(0)?, names, rule_type, state });
    }
    Ok(found)
}

/// Which rules of a download apply, and which rows they replace.
struct BulkPlan {
    /// For each rule, whether no later rule has its identifier and type.
    last: Vec<bool>,
    /// The fingerprints of replaced rows, sorted.
    replaced: Vec<Fingerprint>,
}

impl BulkPlan {
    /// Examines the download, and counts in `done` what applying it rule by
    /// rule would do.
    fn new(rules: &RuleSet, rows: &[KeptRow], done: &mut RulesCommitted) -> Self {
        let mut namings = namings(rules, rows.len());
        // A row exists, whatever its rule decides.
        let is_there = Some(RuleSide::Depends);
        namings.extend(rows.iter().map(|row| Naming::new(row.names, 0, is_there)));
        namings.sort_unstable();

        let mut plan = Self { last: vec![false; rules.len()], replaced: Vec::new() };
        for same in namings.chunk_by(|a, b| a.names() == b.names()) {
            let mut present = false;
            for naming in same {
                match (naming.place(), present, naming.removes()) {
                    (0, ..) | (_, false, true) => {}
                    (_, true, true) => done.removed_by_rule += 1,
                    (_, true, false) => done.replaced += 1,
                    (_, false, false) => done.added += 1,
                }
                present = !naming.removes();
            }
            let (Some(first), Some(end)) = (same.first(), same.last()) else { continue };
            if let Some(place) = end.place().checked_sub(1) {
                if first.place() == 0 {
                    plan.replaced.push(first.names());
                }
                if let Some(last) = plan.last.get_mut(place) {
                    *last = true;
                }
            }
        }
        plan
    }
}
