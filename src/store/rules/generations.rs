//! Generations of the rules: what each commit did, so that somebody who holds
//! an earlier set can be told what has changed since (RULE-12).
//!
//! A commit that received or deleted rules is a generation. So are rules that
//! another program wrote, once they are noticed. Each is recorded in the
//! transaction that makes it, together with its changes and the deletion of old
//! ones. Rules that were only sent again are not recorded one by one where that
//! says nothing: in a clean sync, which sends all of them, and in a commit that
//! left the rules as they were, in order too. A commit of too many rules is
//! recorded without its changes; then nobody can go on from before it.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use super::change_log::{Change, LoggedChange, compare};
use super::commit::{Cleanup, RuleCommit, RulesCommitted};
use super::row;
use super::rules_hash::{Digest, total};
use crate::model::{
    CleanSyncReason, RuleCounts, RuleSet, RuleState, RuleType, StoredRule, SyncType, Timestamp,
};
use crate::store::settings::{read_requests, to_json};
use crate::store::{Store, StoreError};

/// What is kept of the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) generations: u64,
    pub(super) changes: u64,
    pub(super) bytes: u64,
    /// The most rules that a clean sync sends and deletes, if its changes are
    /// to be kept. Finding and writing them takes longer than its commit.
    pub(super) clean: u64,
}

pub(super) const BOUNDS: Bounds =
    Bounds { generations: 1_000, changes: 200_000, bytes: 64 << 20, clean: 20_000 };

/// What a change takes on disk besides its identifier, in bytes; rounded up.
const CHANGE_BYTES: u64 = 48;

/// Who made a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum GenerationSource {
    /// A sync.
    Sync,
    /// `rules import`.
    Import,
    /// Another program, or a version of this one that recorded nothing.
    Found,
}

impl GenerationSource {
    /// Its name in the database and in `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What one commit made of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Its number; each is higher than all before it.
    pub number: i64,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Who made it.
    pub source: GenerationSource,
    /// The id of the sync that made it.
    pub sync: Option<String>,
    /// The type of the commit, which says what it deleted first.
    pub sync_type: Option<SyncType>,
    /// The reference's hash of the rules afterwards.
    pub rules_hash: String,
    /// A hash of all columns of the rules in stored order.
    pub digest: String,
    /// The counts of the rules afterwards.
    pub counts: RuleCounts,
    /// Rules whose identifier and type had none before.
    pub added: u64,
    /// Rules in the place of one that decided otherwise.
    pub replaced: u64,
    /// Rules in the place of one that differed in its texts alone.
    pub reworded: u64,
    /// Rules stored again as they were, which moves them to the end.
    pub sent_again: u64,
    /// Rules deleted and not sent again.
    pub removed: u64,
    /// REMOVEs of a rule that did not exist.
    pub missed: u64,
    /// Whether its changes are kept. If the commit was too large for that, each
    /// rule that it deleted first counts as removed.
    pub complete: bool,
}

/// A change that a generation made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedRule {
    /// What became of the rule.
    pub change: LoggedChange,
    /// Its identifier.
    pub identifier: String,
    /// Its type; `None` if another program wrote one that is not known.
    pub rule_type: Option<RuleType>,
    /// The policy stored before.
    pub before: Option<&'static str>,
    /// The policy stored afterwards.
    pub after: Option<&'static str>,
}

/// Since when a rule decides as it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSince {
    /// The number of the generation.
    pub generation: i64,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The id of the sync that made it.
    pub sync: Option<String>,
    /// Whether the rule came with this generation. If not, it came with it or
    /// earlier: what was before it is not known any more.
    pub exact: bool,
}

/// What lies between an earlier generation and the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesSince {
    /// The newest generation.
    pub newest: Generation,
    /// Whether both hold the same rules: in every column, and in order.
    pub same: bool,
    /// Whether the removed and the sent rules since are all known.
    pub complete: bool,
    /// The types of the commits in between that deleted rules first, without
    /// repetitions.
    pub clean: Vec<SyncType>,
}

/// What a commit is about to do to single rules.
#[derive(Debug)]
pub(super) struct Changes {
    /// Those that are kept; `None` if they are too many.
    kept: Option<Vec<Change>>,
    /// How many there are of each kind, in the order of [`LoggedChange::ALL`].
    counts: [u64; 6],
}

impl Changes {
    /// Finds out what a download will do to the rules as they are.
    pub(super) fn find(
        conn: &Connection,
        rules: &RuleSet,
        sync_type: SyncType,
        before: &RuleCounts,
        bounds: Bounds,
    ) -> rusqlite::Result<Self> {
        let cleanup = Cleanup::of(sync_type);
        let stored = total(before);
        let deleted = if cleanup == Cleanup::Nothing { 0 } else { stored };
        let mut found = Self { kept: None, counts: [0; 6] };
        let replaces_all = matches!(cleanup, Cleanup::AllButTransitive | Cleanup::All);
        let most = if replaces_all { bounds.clean } else { bounds.changes };
        if (rules.len() + deleted) as u64 > most {
            return Ok(found);
        }
        let mut kept = Vec::new();
        compare(conn, rules, cleanup, stored, &mut |change| {
            for (count, kind) in found.counts.iter_mut().zip(LoggedChange::ALL) {
                *count += u64::from(*kind == change.kind);
            }
            if !(replaces_all && change.kind == LoggedChange::SentAgain) {
                kept.push(change);
            }
        })?;
        found.kept = Some(kept);
        Ok(found)
    }

    #[cfg(test)]
    pub(super) const fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Counts of a commit whose single changes are not known.
    const fn counted(mut self, done: &RulesCommitted) -> Self {
        if self.kept.is_none() {
            let removed = done.removed_by_rule + done.removed_by_cleanup;
            self.counts = [done.added, done.replaced, 0, 0, removed, 0];
        }
        self
    }
}

/// Records a commit, and returns the number of its generation.
pub(super) fn record(
    tx: &Transaction<'_>,
    commit: &RuleCommit,
    changes: Changes,
    done: &RulesCommitted,
    [before, digest]: [&Digest; 2],
) -> rusqlite::Result<i64> {
    let mut changes = changes.counted(done);
    if before.content == digest.content {
        let kept = changes.kept.iter_mut();
        kept.for_each(|kept| kept.retain(|change| change.kind != LoggedChange::SentAgain));
    }
    let number = insert(tx, commit, Some(commit.sync_type), &changes, digest)?;
    prune(tx, BOUNDS)?;
    Ok(number)
}

/// Records rules that were found to be others than the last generation's.
pub(super) fn record_found(
    tx: &Transaction<'_>,
    digest: &Digest,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let last: Option<String> = tx
        .query_row("SELECT digest FROM agent_generations ORDER BY number DESC LIMIT 1", [], |row| {
            row.get(0)
        })
        .optional()?;
    if last.unwrap_or_else(|| Digest::default().content) != digest.content {
        let changes = Changes { kept: None, counts: [0; 6] };
        let found =
            RuleCommit { source: GenerationSource::Found, ..(SyncType::Normal, now).into() };
        insert(tx, &found, None, &changes, digest)?;
        prune(tx, BOUNDS)?;
    }
    Ok(())
}

fn insert(
    tx: &Transaction<'_>,
    commit: &RuleCommit,
    sync_type: Option<SyncType>,
    Changes { kept, counts }: &Changes,
    digest: &Digest,
) -> rusqlite::Result<i64> {
    let number = next_number(tx, commit.at)?;
    let entries = kept.as_deref().unwrap_or_default();
    let bytes: u64 =
        entries.iter().map(|change| change.identifier.len() as u64 + CHANGE_BYTES).sum();
    let [added, replaced, reworded, sent_again, removed, missed] = counts;
    tx.prepare_cached(
        "INSERT INTO agent_generations (number, sync, source, sync_type, committed, hash, digest, \
         counts, added, replaced, reworded, sent_again, removed, missed, complete, changes, bytes) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?
    .execute(params![
        number,
        commit.sync,
        commit.source.name(),
        sync_type.map(SyncType::name),
        commit.at.as_millis(),
        digest.hash,
        digest.content,
        to_json(&digest.counts)?,
        added,
        replaced,
        reworded,
        sent_again,
        removed,
        missed,
        kept.is_some(),
        entries.len() as u64,
        bytes,
    ])?;
    let mut note = tx.prepare_cached(
        "INSERT INTO agent_rule_changes (generation, place, change, identifier, type, before, after) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (change, place) in entries.iter().zip(0_i64..) {
        let after = change.after.map(RuleState::number);
        let Change { kind, identifier, rule_type, before, .. } = change;
        note.execute(params![number, place, kind.name(), identifier, rule_type, before, after])?;
    }
    Ok(number)
}

/// The number after the last. In a database that replaced a lost one, whose last number is not
/// known, the first number is the time in seconds.
fn next_number(tx: &Transaction<'_>, at: Timestamp) -> rusqlite::Result<i64> {
    Ok(match last_number(tx)? {
        Some(last) => last.saturating_add(1),
        None if is_recreated(tx)? => at.as_secs().max(1),
        None => 1,
    })
}

fn last_number(tx: &Transaction<'_>) -> rusqlite::Result<Option<i64>> {
    tx.query_row("SELECT max(number) FROM agent_generations", [], |row| row.get(0))
}

/// Whether the database replaced a lost one, and no clean sync has succeeded since.
fn is_recreated(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    let requests = read_requests(tx)?;
    Ok(requests.iter().any(|request| request.reason == CleanSyncReason::RulesRecreated))
}

/// Whether the next generation is the first since the database replaced a lost one. It is
/// recorded even if it has no rules and received none: that is a change from the lost rules, and
/// the numbers must not begin at 1 again later.
pub(super) fn follows_lost_ones(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    Ok(last_number(tx)?.is_none() && is_recreated(tx)?)
}

/// Deletes what is beyond the bounds: the oldest generations, and the changes of
/// the oldest that are kept.
pub(super) fn prune(tx: &Transaction<'_>, bounds: Bounds) -> rusqlite::Result<()> {
    let (mut generations, mut changes, mut bytes) = (0, 0, 0);
    let mut statement = tx.prepare_cached(
        "SELECT number, changes, bytes FROM agent_generations ORDER BY number DESC",
    )?;
    let mut rows = statement.query([])?;
    let (mut without_changes, mut gone) = (None, None);
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        generations += 1;
        changes += row.get::<_, u64>(1)?;
        bytes += row.get::<_, u64>(2)?;
        if generations > bounds.generations {
            gone = Some(number);
            break;
        }
        if without_changes.is_none() && (changes > bounds.changes || bytes > bounds.bytes) {
            without_changes = Some(number);
        }
    }
    drop(rows);
    if let Some(number) = without_changes.max(gone) {
        tx.prepare_cached("DELETE FROM agent_rule_changes WHERE generation <= ?1")?
            .execute([number])?;
        tx.prepare_cached(
            "UPDATE agent_generations SET complete = 0, changes = 0, bytes = 0 \
             WHERE number <= ?1 AND changes > 0",
        )?
        .execute([number])?;
    }
    if let Some(number) = gone {
        tx.prepare_cached("DELETE FROM agent_generations WHERE number <= ?1")?.execute([number])?;
    }
    Ok(())
}

/// The columns of [`Generation::read`], in its order.
const COLUMNS: &str = "number, committed, source, sync, sync_type, hash, digest, counts, added, \
                       replaced, reworded, sent_again, removed, missed, complete";

impl Generation {
    /// The empty set that a store holds before its first generation, as number 0.
    #[must_use]
    pub fn none() -> Self {
        let Digest { hash, content, counts } = Digest::default();
        Self {
            number: 0,
            committed_at: Timestamp::from_secs(0),
            source: GenerationSource::Sync,
            sync: None,
            sync_type: None,
            rules_hash: hash,
            digest: content,
            counts,
            added: 0,
            replaced: 0,
            reworded: 0,
            sent_again: 0,
            removed: 0,
            missed: 0,
            complete: true,
        }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let text = |column| row.get_ref(column).map(row::lossy);
        let (source, sync_type, counts) = (text(2)?, text(4)?, text(7)?);
        Ok(Self {
            number: row.get(0)?,
            committed_at: Timestamp::from_millis(row.get(1)?),
            source: source.parse().unwrap_or(GenerationSource::Found),
            sync: row.get(3)?,
            sync_type: serde_json::from_value(sync_type.into()).ok(),
            rules_hash: text(5)?,
            digest: text(6)?,
            counts: serde_json::from_str(&counts).unwrap_or_default(),
            added: row.get(8)?,
            replaced: row.get(9)?,
            reworded: row.get(10)?,
            sent_again: row.get(11)?,
            removed: row.get(12)?,
            missed: row.get(13)?,
            complete: row.get(14)?,
        })
    }
}

fn logged(row: &Row<'_>) -> rusqlite::Result<Option<LoggedRule>> {
    let change = row::lossy(row.get_ref(0)?);
    let Ok(change) = change.parse() else { return Ok(None) };
    let policy = |column| -> rusqlite::Result<Option<&'static str>> {
        let state = row::number(row.get_ref(column)?).and_then(RuleState::from_number);
        Ok(state.map(RuleState::policy_name))
    };
    Ok(Some(LoggedRule {
        change,
        identifier: row::lossy(row.get_ref(1)?),
        rule_type: row::number(row.get_ref(2)?).and_then(RuleType::from_number),
        before: policy(3)?,
        after: policy(4)?,
    }))
}

const READ_RULE_LOG: &str = "read the log of rule changes";

impl Store {
    /// The newest generation; `None` if the store never held a rule.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn newest_generation(&self) -> Result<Option<Generation>, StoreError> {
        self.one_generation("number = (SELECT max(number) FROM agent_generations)", [])
    }

    /// A generation by its number; `None` if it is not kept any more.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn generation(&self, number: i64) -> Result<Option<Generation>, StoreError> {
        self.one_generation("number = ?1", [number])
    }

    fn one_generation(
        &self,
        condition: &str,
        params: impl rusqlite::Params,
    ) -> Result<Option<Generation>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM agent_generations WHERE {condition}");
        let read =
            || self.rules.prepare_cached(&sql)?.query_row(params, Generation::read).optional();
        read().map_err(self.failed(READ_RULE_LOG))
    }

    /// Shows the kept generations that were committed at `since` or later to
    /// `visit`, newest first, until it breaks.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_generations(
        &self,
        since: Timestamp,
        visit: &mut dyn FnMut(Generation) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut read = || {
            let mut statement = self.rules.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM agent_generations WHERE committed >= ?1 \
                 ORDER BY number DESC"
            ))?;
            let mut rows = statement.query([since.as_millis()])?;
            while let Some(row) = rows.next()? {
                if visit(Generation::read(row)?).is_break() {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(self.failed(READ_RULE_LOG))
    }

    /// Shows the kept changes of a generation to `visit`, those that the
    /// download named first and in its order, until it breaks; only those of
    /// rules with that text in their identifier, in any case of ASCII letters.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_changes(
        &self,
        generation: i64,
        identifier: &str,
        visit: &mut dyn FnMut(LoggedRule) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut read = || {
            let mut statement = self.rules.prepare_cached(
                "SELECT change, identifier, type, before, after FROM agent_rule_changes \
                 WHERE generation = ?1 AND instr(lower(identifier), lower(?2)) ORDER BY place",
            )?;
            let mut rows = statement.query((generation, identifier))?;
            while let Some(row) = rows.next()? {
                if let Some(change) = logged(row)?
                    && visit(change).is_break()
                {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(self.failed(READ_RULE_LOG))
    }

    /// Since when a rule decides as it does; `None` if no generation is kept, or
    /// for a transitive rule, which belongs to none.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rule_since(&self, rule: &StoredRule) -> Result<Option<RuleSince>, StoreError> {
        if rule.state == RuleState::AllowTransitive {
            return Ok(None);
        }
        // A commit whose changes are not kept may have brought any rule.
        let read = || {
            let came: Option<i64> = self.rules.query_row(
                "SELECT max(generation) FROM agent_rule_changes \
                 WHERE identifier = ?1 AND type = ?2 AND change IN ('added', 'replaced')",
                (&rule.identifier, rule.rule_type.number()),
                |row| row.get(0),
            )?;
            let unknown: Option<i64> = self.rules.query_row(
                "SELECT coalesce(max(number) FILTER (WHERE complete = 0), min(number)) \
                 FROM agent_generations",
                [],
                |row| row.get(0),
            )?;
            Ok((came, unknown))
        };
        let (came, unknown) = read().map_err(self.failed(READ_RULE_LOG))?;
        let Some(number) = came.max(unknown) else { return Ok(None) };
        Ok(self.generation(number)?.map(|generation| RuleSince {
            generation: generation.number,
            committed_at: generation.committed_at,
            sync: generation.sync,
            exact: came == Some(number),
        }))
    }

    /// What lies between a generation, or [`Generation::none`], and the newest
    /// one; `None` if it is not kept any more.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_since(&self, base: i64) -> Result<Option<RulesSince>, StoreError> {
        let none = Generation::none();
        let newest = self.newest_generation()?.unwrap_or_else(Generation::none);
        let base = if base == none.number { Some(none) } else { self.generation(base)? };
        let Some(base) = base else { return Ok(None) };
        // Each number follows the one before it.
        let mut next = newest.number;
        let mut since = RulesSince {
            same: base.digest == newest.digest,
            newest,
            complete: true,
            clean: Vec::new(),
        };
        self.visit_generations(Timestamp::from_millis(i64::MIN), &mut |generation| {
            if generation.number <= base.number {
                return ControlFlow::Break(());
            }
            since.complete &= generation.complete && generation.number == next;
            next = generation.number - 1;
            let clean =
                generation.sync_type.filter(|sync_type| sync_type.deletes_execution_rules());
            since.clean.extend(clean.filter(|sync_type| !since.clean.contains(sync_type)));
            ControlFlow::Continue(())
        })?;
        since.complete &= next == base.number;
        Ok(Some(since))
    }
}
