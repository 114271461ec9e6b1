//! What the store knows of its rules without looking at them.

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension as _, ToSql};

use super::digest::Digest;
use crate::model::RuleCounts;
use crate::store::{Store, StoreError};

/// Hash of the rules, 32 hex digits.
const HASH: &str = "rules_hash";
/// Counts of the rules, as JSON.
const COUNTS: &str = "rules_counts";
/// 1 once a rule download has been committed.
const COMPLETE: &str = "rules_complete";

impl Store {
    /// How many rules the store holds. Does not count them.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rule_counts(&self) -> Result<RuleCounts, StoreError> {
        let digest = read_digest(&self.rules).map_err(self.failed("read the rule counts"))?;
        Ok(digest.unwrap_or_default().counts)
    }

    /// The hash of the rules in stored order: 32 lower-case hex digits, bit for
    /// bit the reference's. Does not read the rules.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_hash(&self) -> Result<String, StoreError> {
        let digest = read_digest(&self.rules).map_err(self.failed("read the rules hash"))?;
        Ok(digest.unwrap_or_default().hash)
    }

    /// Whether a rule download has been committed since the store was created
    /// or rebuilt. Before that, its lack of a rule says nothing.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_complete(&self) -> Result<bool, StoreError> {
        let complete: Option<bool> =
            get(&self.rules, COMPLETE).map_err(self.failed("read the state of the rules"))?;
        Ok(complete.unwrap_or(false))
    }

    /// Takes in a database that this program has not written so far: reckons
    /// its hash and counts.
    pub(in crate::store) fn adopt_rules(&mut self) -> Result<(), StoreError> {
        let failed = self.failed("count the rules");
        adopt(&mut self.rules).map_err(failed)
    }
}

fn adopt(conn: &mut Connection) -> rusqlite::Result<()> {
    if read_digest(conn)?.is_some() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    write_digest(&tx, &Digest::of(&tx)?)?;
    tx.commit()
}

pub(super) fn read_digest(conn: &Connection) -> rusqlite::Result<Option<Digest>> {
    let Some(hash) = get(conn, HASH)? else { return Ok(None) };
    let counts: Option<String> = get(conn, COUNTS)?;
    Ok(counts
        .and_then(|json| serde_json::from_str(&json).ok())
        .map(|counts| Digest { hash, counts }))
}

pub(super) fn write_digest(conn: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    let counts = serde_json::to_string(&digest.counts)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    put(conn, HASH, &digest.hash)?;
    put(conn, COUNTS, &counts)
}

pub(super) fn is_complete(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(get(conn, COMPLETE)?.unwrap_or(false))
}

pub(super) fn set_complete(conn: &Connection) -> rusqlite::Result<()> {
    put(conn, COMPLETE, &true)
}

fn get<T: FromSql>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    conn.prepare_cached("SELECT value FROM agent_meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn put(conn: &Connection, key: &str, value: &dyn ToSql) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO agent_meta (key, value) VALUES (?1, ?2)")?
        .execute(rusqlite::params![key, value])
        .map(|_| ())
}
