//! Bundles whose executables the server requested: kept visible to producers
//! until the executables have been delivered.

use rusqlite::Transaction;

use super::{EventStore, members, save_state, state};
use crate::model::{EventBundle, Timestamp};
use crate::store::StoreError;

/// The most requests kept open. A server may ask for any text.
const MAX_BUNDLES: u64 = 10_000;

/// A bundle that the server requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRequest {
    /// The bundle's hash.
    pub hash: String,
    /// When it was first requested.
    pub since: Timestamp,
    /// How many executables it has; 0 while that is not known.
    pub executables: u32,
    /// How many of them the server accepted.
    pub delivered: u32,
}

impl EventStore {
    /// Returns the bundles that the server is waiting for, oldest request
    /// first.
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

    /// Stores the bundles that a server requests, and queues those of their
    /// executables that are held. [`Self::settle`] does this in the transaction of
    /// its batch.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn note_bundle_requests(
        &mut self,
        hashes: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let limits = self.limits;
        self.commit("note bundle requests", |tx| {
            note_requests(tx, hashes, now)?;
            let mut state = state(tx)?;
            for hash in hashes {
                members::queue_fitting(tx, &mut state, hash, limits, now)?;
            }
            save_state(tx, state)
        })
    }
}

/// Stores requests; an open one is left unchanged.
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
        if EventBundle::new(hash, 0).is_none() {
            tracing::warn!(bytes = hash.len(), "the server asked for a bundle by no hash");
            continue;
        }
        note.execute((hash, now.as_millis(), MAX_BUNDLES))?;
    }
    Ok(())
}

/// Counts delivered executables; deletes the request of a bundle once all are
/// delivered.
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
