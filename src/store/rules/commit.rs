//! Applying a download to the rules, in one transaction.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior};
use thiserror::Error;

use super::generations::{BOUNDS, Changes, GenerationSource};
use super::guard::{RuleGuard, RulesGuarded};
use super::insert::Insert;
use super::progress::Progress;
use super::row::Sound;
use super::rules_hash::Digest;
use super::{bulk, generations, guard, meta, snapshot};
use crate::model::{Policy, RuleCounts, RuleSet, RuleState, SyncType, Timestamp};
use crate::store::settings::rules_replaced;
use crate::store::{Store, StoreError, db};

/// What a commit of rules did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RulesCommitted {
    /// Rules of the download that the store accepted, including REMOVEs.
    pub processed: u64,
    /// Rules stored under a new identifier and type.
    pub added: u64,
    /// Rules stored in place of an older one.
    pub replaced: u64,
    /// Rules deleted by a REMOVE.
    pub removed_by_rule: u64,
    /// Execution rules that the type of sync deleted before the download was
    /// applied.
    pub removed_by_cleanup: u64,
    /// Transitive rules in the store afterwards.
    pub kept_transitive: u64,
    /// Whether anything in the store changed.
    pub changed: bool,
    /// The hash of the rules afterwards.
    pub hash: String,
    /// The counts of the rules afterwards.
    pub counts: RuleCounts,
    /// The generation that the commit made, if it received or deleted rules.
    pub generation: Option<i64>,
    /// What users are notified of: the application's name and the identifier of
    /// its rule. Of NORMAL syncs only.
    pub announce: Vec<(String, String)>,
}

/// How to commit rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCommit {
    /// The type of sync: which rules are deleted first.
    pub sync_type: SyncType,
    /// The time.
    pub at: Timestamp,
    /// Who commits the rules. Only a sync completes a store.
    pub source: GenerationSource,
    /// The id of the sync.
    pub sync: Option<String>,
    /// Limits what the commit may take away.
    pub guard: Option<RuleGuard>,
}

/// A sync's commit, without an id or a guard.
impl From<(SyncType, Timestamp)> for RuleCommit {
    fn from((sync_type, at): (SyncType, Timestamp)) -> Self {
        Self { sync_type, at, source: GenerationSource::Sync, sync: None, guard: None }
    }
}

/// Why rules were not committed. The store is as it was.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The download would have taken away too much.
    #[error("{0}")]
    Guarded(RulesGuarded),
    /// The database cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Applies a complete download: deletes the rules that the type of sync
    /// replaces, then stores the rules in the order received. This is one
    /// transaction, together with the hash, the counts and the log of changes,
    /// and is on disk when it returns.
    ///
    /// # Errors
    /// If the download takes away more of the stored rules than the guard
    /// allows, or the database cannot be written; then it is as it was.
    pub fn commit_rules(
        &mut self,
        rules: &RuleSet,
        commit: impl Into<RuleCommit>,
    ) -> Result<RulesCommitted, CommitError> {
        let failed = self.failed("commit the rules");
        let done = apply(&mut self.rules, rules, &commit.into())
            .map_err(failed)?
            .map_err(CommitError::Guarded)?;
        if done.changed {
            tracing::debug!(generation = done.generation, "rules committed");
        }
        Ok(done)
    }

    /// Makes every statement on the rules end early, and its transaction roll
    /// back, once `give_up` returns true: the time of a commit grows with what
    /// a server sends. [`Self::never_give_up`] undoes this.
    pub fn give_up_when(&mut self, give_up: impl FnMut() -> bool + Send + 'static) {
        if let Err(error) = self.rules.progress_handler(db::GIVE_UP_STEPS, Some(give_up)) {
            tracing::warn!(%error, "a commit of rules cannot be interrupted");
        }
    }

    /// Lets statements on the rules run to their end.
    pub fn never_give_up(&mut self) {
        if let Err(error) = self.rules.progress_handler(0, None::<fn() -> bool>) {
            tracing::warn!(%error, "a commit of rules may be interrupted");
        }
    }
}

fn apply(
    conn: &mut Connection,
    rules: &RuleSet,
    commit: &RuleCommit,
) -> rusqlite::Result<Result<RulesCommitted, RulesGuarded>> {
    let completes = commit.source == GenerationSource::Sync;
    if let Some(done) = nothing_to_do(conn, rules, commit.sync_type, completes)? {
        return Ok(Ok(done));
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = meta::own_digest(&tx, commit.at)?;
    if let Some(guard) = commit.guard {
        let cleanup = Cleanup::of(commit.sync_type);
        if let Some(guarded) = guard::check(&tx, guard, rules, cleanup, &before.counts)? {
            tx.rollback()?;
            return Ok(Err(guarded));
        }
    }
    let changes = Changes::find(&tx, rules, commit.sync_type, &before.counts, BOUNDS)?;
    let (mut done, digest) = apply_within(&tx, rules, commit.sync_type, &before, completes)?;
    let wanted = completes && snapshot::is_wanted_clean_all(&tx, commit.sync_type)?;
    let news = !rules.is_empty() || done.removed_by_cleanup > 0;
    if news || wanted || completes && generations::follows_lost_ones(&tx)? {
        let number = generations::record(&tx, commit, changes, &done, [&before, &digest])?;
        done.generation = Some(number);
    }
    snapshot::note(&tx, commit, done.generation, wanted)?;
    tx.commit()?;
    Ok(Ok(summary(done, digest)))
}

/// Returns the result of a commit that changes nothing; `None` if it may change
/// something.
fn nothing_to_do(
    conn: &Connection,
    rules: &RuleSet,
    sync_type: SyncType,
    completes: bool,
) -> rusqlite::Result<Option<RulesCommitted>> {
    let nothing = rules.is_empty()
        && sync_type == SyncType::Normal
        && (!completes || meta::is_complete(conn)?);
    if !nothing {
        return Ok(None);
    }
    let kept = meta::kept_digest(conn)?;
    Ok(kept.map(|digest| summary(RulesCommitted::default(), digest)))
}

/// Applies a download within a transaction. `before` is the current digest of
/// the rules; returns the new one.
fn apply_within(
    tx: &Transaction<'_>,
    rules: &RuleSet,
    sync_type: SyncType,
    before: &Digest,
    completes: bool,
) -> rusqlite::Result<(RulesCommitted, Digest)> {
    let mut done = RulesCommitted { processed: rules.len() as u64, ..RulesCommitted::default() };
    let cleanup = Cleanup::of(sync_type);
    let digest = if bulk::pays(rules, cleanup, &before.counts) {
        bulk::apply(tx, rules, cleanup, &before.counts, &mut done)?
    } else {
        one_by_one(tx, rules, cleanup, before, &mut done)?
    };
    done.changed = any_change(&done);
    if done.changed {
        meta::keep_digest(tx, &digest)?;
    }
    done.changed |= clean_other_rules(tx, sync_type)?;
    if sync_type == SyncType::Normal {
        done.announce = announcements(rules);
    }
    if completes {
        meta::set_complete(tx)?;
    }
    if completes && sync_type.is_clean() {
        rules_replaced(tx)?;
    }
    Ok((done, digest))
}

fn summary(done: RulesCommitted, Digest { hash, counts, .. }: Digest) -> RulesCommitted {
    RulesCommitted { hash, counts, kept_transitive: u64::from(counts.transitive), ..done }
}

/// Which execution rules a sync deletes before it applies its download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleanup {
    Nothing,
    /// Those that a user of the host created.
    Local,
    /// All but the transitive ones, including foreign rows that claim to be
    /// transitive.
    AllButTransitive,
    All,
}

impl Cleanup {
    pub(super) const fn of(sync_type: SyncType) -> Self {
        match sync_type {
            SyncType::Normal | SyncType::CleanFileAccessRules => Self::Nothing,
            SyncType::CleanStandalone => Self::Local,
            SyncType::Clean | SyncType::CleanRules => Self::AllButTransitive,
            SyncType::CleanAll => Self::All,
        }
    }

    /// Returns the SQL condition on the rows to delete; `None` if there are
    /// none.
    pub(super) const fn condition(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Local => Some("state IN (7, 8)"),
            // The second length is in bytes: a text may continue after a NUL.
            Self::AllButTransitive => Some(
                "state IS NOT 6 OR type IS NOT 1000 OR typeof(identifier) IS NOT 'text' \
                 OR length(identifier) != 64 OR length(CAST(identifier AS BLOB)) != 64 \
                 OR identifier GLOB '*[^0-9a-f]*'",
            ),
            Self::All => Some("true"),
        }
    }

    /// Returns whether a rule of that state is deleted, consistent with
    /// [`Self::condition`] for rows that are not foreign.
    pub(super) const fn takes(self, state: Option<RuleState>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Local => {
                matches!(state, Some(RuleState::AllowLocalBinary | RuleState::AllowLocalSigningId))
            }
            Self::AllButTransitive => !matches!(state, Some(RuleState::AllowTransitive)),
            Self::All => true,
        }
    }
}

/// Applies the rules row by row, with the index in place. The cost grows with
/// the rules applied and, because of the hash, with the rules after the first
/// one that changed.
fn one_by_one(
    tx: &Transaction<'_>,
    rules: &RuleSet,
    cleanup: Cleanup,
    before: &Digest,
    done: &mut RulesCommitted,
) -> rusqlite::Result<Digest> {
    let mut counts = before.counts;
    let mut first_touched = None;
    let mut gone = |counts: &mut RuleCounts, row: &Row<'_>| {
        let number: i64 = row.get(0)?;
        if let Some(Sound { state, rule_type, .. }) = Sound::read(row, 1)? {
            counts.adjust(state, rule_type, -1);
        }
        first_touched = Some(first_touched.map_or(number, |first: i64| first.min(number)));
        Ok(())
    };
    if let Some(condition) = cleanup.condition() {
        let sql = format!(
            "DELETE FROM execution_rules WHERE {condition} \
             RETURNING rowid, identifier, state, type"
        );
        let mut delete = tx.prepare(&sql)?;
        let mut rows = delete.query([])?;
        while let Some(row) = rows.next()? {
            gone(&mut counts, row)?;
            done.removed_by_cleanup += 1;
        }
    }
    let mut delete = tx.prepare(
        "DELETE FROM execution_rules WHERE identifier = ?1 AND type = ?2 \
         RETURNING rowid, identifier, state, type",
    )?;
    let mut insert = Insert::prepare(tx)?;
    let mut identifier = String::new();
    for rule in rules.iter() {
        identifier.clear();
        rule.identifier.push_to(&mut identifier);
        let rule_type = rule.identifier.rule_type().number();
        let stored = delete
            .query_row((&identifier, rule_type), |row| gone(&mut counts, row))
            .optional()?
            .is_some();
        match rule.policy.state() {
            None => done.removed_by_rule += u64::from(stored),
            Some(state) => {
                insert.execute(&identifier, state, &rule)?;
                counts.adjust(state.number(), rule_type, 1);
                if stored {
                    done.replaced += 1;
                } else {
                    done.added += 1;
                }
            }
        }
    }
    if !any_change(done) {
        return Ok(before.clone());
    }
    let mut progress = Progress::resume(tx, first_touched)?;
    progress.read_on()?;
    let (hash, content) = progress.finish()?;
    Ok(Digest { hash, content, counts })
}

fn any_change(done: &RulesCommitted) -> bool {
    done.added + done.replaced + done.removed_by_rule + done.removed_by_cleanup > 0
}

/// Deletes rules of other kinds than execution rules. Returns whether any went.
fn clean_other_rules(tx: &Transaction<'_>, sync_type: SyncType) -> rusqlite::Result<bool> {
    let statements: &[&str] = match sync_type {
        SyncType::Normal | SyncType::CleanRules | SyncType::CleanStandalone => &[],
        SyncType::CleanFileAccessRules => &["DELETE FROM file_access_rules"],
        SyncType::Clean | SyncType::CleanAll => &[
            "DELETE FROM file_access_rules",
            "DELETE FROM network_flow_rules",
            "DELETE FROM signal_rules",
        ],
    };
    statements.iter().try_fold(false, |any, sql| Ok(any | (tx.execute(sql, [])? > 0)))
}

fn announcements(rules: &RuleSet) -> Vec<(String, String)> {
    rules
        .iter()
        .filter(|rule| {
            rule.policy != Policy::Remove && !rule.details.notification_app_name.is_empty()
        })
        .map(|rule| (rule.details.notification_app_name.to_owned(), rule.identifier.to_string()))
        .collect()
}
