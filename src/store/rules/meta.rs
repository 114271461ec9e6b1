//! What the store knows about its rules without reading them.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::generations;
use super::progress::Progress;
use super::rules_hash::{Digest, counts_of};
use crate::model::{RuleCounts, RuleSide, RuleState, Timestamp};
use crate::store::settings::to_json;
use crate::store::{Store, StoreError, agent_meta};

/// Hash of the rules, 32 hex digits.
const HASH_KEY: &str = "rules_hash";
/// Digest of all columns of the rules, 32 hex digits.
const DIGEST_KEY: &str = "rules_digest";
/// Counts of the rules, as JSON.
const COUNTS_KEY: &str = "rules_counts";
/// 1 once a rule download has been committed.
const COMPLETE_KEY: &str = "rules_complete";

/// SQLite's number of the schema at the last commit. It grows with each VACUUM
/// and each change of a table or an index, and restarts in a new file.
const SCHEMA_KEY: &str = "rules_schema";

/// 1 after another program has changed the rules; see the migration that
/// creates the triggers.
const TOUCHED_KEY: &str = "rules_touched";

impl Store {
    /// Returns how many rules the store holds. Counts them only if another
    /// program has changed them.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rule_counts(&self) -> Result<RuleCounts, StoreError> {
        let digest = digest(&self.rules).map_err(self.failed("read the rule counts"))?;
        Ok(digest.counts)
    }

    /// Returns the hash of the rules in stored order: 32 lower-case hex digits,
    /// bit for bit the reference's. Reads the rules only if another program has
    /// changed them.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_hash(&self) -> Result<String, StoreError> {
        let digest = digest(&self.rules).map_err(self.failed("read the rules hash"))?;
        Ok(digest.hash)
    }

    /// Returns whether a rule download has been committed since the store was
    /// created or rebuilt. Until then, a missing rule means nothing.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_complete(&self) -> Result<bool, StoreError> {
        is_complete(&self.rules).map_err(self.failed("read the state of the rules"))
    }

    /// Adopts rules that another program has written: computes their hash and
    /// counts.
    pub(in crate::store) fn adopt_rules(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let failed = self.failed("count the rules");
        adopt(&mut self.rules, now).map_err(failed)
    }
}

fn adopt(conn: &mut Connection, now: Timestamp) -> rusqlite::Result<()> {
    if kept_digest(conn)?.is_some() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    own_digest(&tx, now)?;
    tx.commit()
}

/// Returns hash and counts, recomputed only if another program has changed the
/// rules.
pub(super) fn digest(conn: &Connection) -> rusqlite::Result<Digest> {
    match kept_digest(conn)? {
        Some(digest) => Ok(digest),
        None => Digest::of(conn),
    }
}

/// Returns hash and counts to continue from. If another program has changed the
/// rules, recomputes and stores them, which makes a generation.
pub(super) fn own_digest(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<Digest> {
    if let Some(digest) = kept_digest(tx)? {
        return Ok(digest);
    }
    let counts = counts_of(tx)?;
    let mut progress = Progress::resume(tx, Some(i64::MIN))?;
    progress.read_on()?;
    let (hash, content) = progress.finish()?;
    let digest = Digest { hash, content, counts };
    keep_digest(tx, &digest)?;
    agent_meta::forget(tx, TOUCHED_KEY)?;
    generations::record_found(tx, &digest, now)?;
    Ok(digest)
}

/// Returns hash and counts of the last commit; `None` if there was none or
/// another program has changed the rules since.
pub(super) fn kept_digest(conn: &Connection) -> rusqlite::Result<Option<Digest>> {
    if is_touched(conn)? {
        return Ok(None);
    }
    let Some(hash) = agent_meta::get(conn, HASH_KEY)? else { return Ok(None) };
    let Some(content) = agent_meta::get(conn, DIGEST_KEY)? else { return Ok(None) };
    let counts: Option<String> = agent_meta::get(conn, COUNTS_KEY)?;
    Ok(counts.and_then(|json| serde_json::from_str(&json).ok()).map(|counts| Digest {
        hash,
        content,
        counts,
    }))
}

pub(super) fn keep_digest(conn: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    let counts = to_json(&digest.counts)?;
    agent_meta::put(conn, HASH_KEY, &digest.hash)?;
    agent_meta::put(conn, DIGEST_KEY, &digest.content)?;
    agent_meta::put(conn, COUNTS_KEY, &counts)?;
    agent_meta::put(conn, SCHEMA_KEY, &schema(conn)?)
}

/// Returns whether the rows are as numbered at the last commit: not restored
/// from a dump, and not rewritten by a VACUUM.
pub(super) fn is_same_file(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(agent_meta::get(conn, SCHEMA_KEY)? == Some(schema(conn)?))
}

fn schema(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "schema_version", |row| row.get(0))
}

pub(super) fn is_complete(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(agent_meta::get(conn, COMPLETE_KEY)?.unwrap_or(false))
}

/// Returns whether any rule may allow something
/// ([`crate::model::Rule::may_allow`]). Stops at the first one found.
pub(in crate::store) fn any_allowing(conn: &Connection) -> rusqlite::Result<bool> {
    let states = RuleState::ALL.iter().copied().filter(|state| state.side() != RuleSide::Blocks);
    let states: Vec<_> = states.map(|state| state.number().to_string()).collect();
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM execution_rules \
         WHERE state IN ({}) AND typeof(identifier) = 'text')",
        states.join(", ")
    );
    conn.query_row(&sql, [], |row| row.get(0))
}

pub(super) fn set_complete(conn: &Connection) -> rusqlite::Result<()> {
    agent_meta::put(conn, COMPLETE_KEY, &true)
}

/// Returns whether another program has changed the rules. Any value but 0 means
/// that it has.
fn is_touched(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM agent_meta WHERE key = ?1 AND value IS NOT 0")?
        .exists([TOUCHED_KEY])
}
