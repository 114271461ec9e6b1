//! Bundles whose executables the server asked for: visible to whoever can find
//! the executables, until they have been delivered.

use rusqlite::Transaction;

use super::EventStore;
use crate::model::Timestamp;
use crate::store::StoreError;

/// The most requests kept open. A server may ask for any text.
const MOST: u64 = 10_000;

/// The longest bundle hash kept, in bytes; a SHA-256 has 64 digits.
const HASH_MAX: usize = 256;

/// A bundle that the server asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRequest {
    /// The bundle's hash.
    pub hash: String,
    /// When it was asked for first.
    pub since: Timestamp,
    /// How many executables it has; 0 while that is not known.
    pub executables: u32,
    /// How many of them the server took.
    pub delivered: u32,
}

impl EventStore {
    /// The bundles the server waits for, oldest request first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn open_bundle_requests(&self) -> Result<Vec<BundleRequest>, StoreError> {
        let sql = "SELECT hash, requested, executables, delivered FROM agent_bundle_requests \
                   ORDER BY requested, hash";
        let read = || {
            self.conn
                .prepare(sql)?
                .query_map([], |row| {
                    Ok(BundleRequest {
                        hash: row.get(0)?,
                        since: Timestamp::from_millis(row.get(1)?),
                        executables: row.get(2)?,
                        delivered: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.failed("read the bundle requests"))
    }

    /// Keeps the bundles a server asks for. [`Self::settle`] does it together
    /// with the batch that was answered.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn note_bundle_requests(
        &mut self,
        hashes: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.commit("note bundle requests", |tx| note_requests(tx, hashes, now))
    }
}

/// Keeps requests; one that is open already stays as it is.
pub(super) fn note_requests(
    tx: &Transaction<'_>,
    hashes: &[String],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut note = tx.prepare_cached(
        "INSERT OR IGNORE INTO agent_bundle_requests (hash, requested, executables, delivered) \
         SELECT ?1, ?2, 0, 0 WHERE (SELECT count(*) FROM agent_bundle_requests) < ?3",
    )?;
    for hash in hashes {
        if hash.is_empty() || hash.len() > HASH_MAX {
            tracing::warn!(bytes = hash.len(), "the server asked for a bundle by no hash");
            continue;
        }
        note.execute((hash, now.as_millis(), MOST))?;
    }
    Ok(())
}

/// Counts executables the server took; a bundle of which it has all is served.
pub(super) fn note_delivered(
    tx: &Transaction<'_>,
    delivered: &[(String, u32)],
) -> rusqlite::Result<()> {
    for (hash, executables) in delivered {
        tx.prepare_cached(
            "UPDATE agent_bundle_requests SET delivered = delivered + 1, \
             executables = max(executables, ?2) WHERE hash = ?1",
        )?
        .execute((hash, executables))?;
        tx.prepare_cached(
            "DELETE FROM agent_bundle_requests WHERE hash = ?1 AND delivered >= executables",
        )?
        .execute([hash])?;
    }
    Ok(())
}
