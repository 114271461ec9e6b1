//! Records of the last syncs.

use rusqlite::{Connection, Transaction, params};

use super::rules::lossy;
use super::settings::{from_json, to_json};
use super::{Store, StoreError};
use crate::model::{ErrorRecord, SettingChange, SyncRecord, SyncResult, Trigger};

/// How many records are kept.
pub const RECORDS_KEPT: u32 = 50;

/// How many of the last scheduled and of the last requested syncs are always
/// kept. Neither kind can displace the other.
const KEPT_OF_A_KIND: u32 = RECORDS_KEPT / 2;

impl Store {
    /// Records that a sync begins; `begun` is its record so far. Returns its
    /// number for [`Self::end_sync`]. Deletes all but the last [`RECORDS_KEPT`]
    /// records, including those of syncs that never ended.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn begin_sync(&mut self, begun: &SyncRecord) -> Result<i64, StoreError> {
        let failed = self.failed("note that a sync begins");
        let insert = |conn: &mut Connection| {
            let tx = conn.transaction()?;
            tx.execute("INSERT INTO agent_syncs (begun) VALUES (?1)", [record_json(begun)?])?;
            let number = tx.last_insert_rowid();
            prune(&tx)?;
            tx.commit()?;
            Ok(number)
        };
        insert(&mut self.rules).map_err(failed)
    }

    /// Records the outcome of a sync.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn end_sync(&mut self, number: i64, record: &SyncRecord) -> Result<(), StoreError> {
        let failed = self.failed("note what became of the sync");
        let update = |conn: &Connection| {
            conn.execute(
                "UPDATE agent_syncs SET record = ?2 WHERE number = ?1",
                params![number, record_json(record)?],
            )
        };
        update(&self.rules).map(|_| ()).map_err(failed)
    }

    /// Writes a record for each sync whose process died; `reverted` is what the
    /// last of them had staged. The caller holds the lock of the state
    /// directory, so none of them is running. Returns how many there were.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn close_interrupted_syncs(
        &mut self,
        reverted: &[SettingChange],
    ) -> Result<usize, StoreError> {
        let failed = self.failed("note the interrupted syncs");
        let close = |conn: &mut Connection| {
            let tx = conn.transaction()?;
            prune(&tx)?;
            let open: Vec<(i64, String)> = tx
                .prepare_cached(
                    "SELECT number, begun FROM agent_syncs WHERE record IS NULL ORDER BY number",
                )?
                .query_map([], |row| Ok((row.get(0)?, lossy(row.get_ref(1)?))))?
                .collect::<Result<_, _>>()?;
            for (place, (number, begun)) in (1..).zip(&open) {
                let Some(begun) = readable(begun) else {
                    tx.execute("DELETE FROM agent_syncs WHERE number = ?1", [number])?;
                    continue;
                };
                let last = place == open.len();
                let record = interrupted(begun, if last { reverted } else { &[] });
                tx.execute(
                    "UPDATE agent_syncs SET record = ?2 WHERE number = ?1",
                    params![number, record_json(&record)?],
                )?;
            }
            tx.commit()?;
            Ok(open.len())
        };
        close(&mut self.rules).map_err(failed)
    }

    /// Returns the records of at most `limit` syncs that have ended, newest
    /// first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn history(&self, limit: u32) -> Result<Vec<SyncRecord>, StoreError> {
        let read = || {
            self.rules
                .prepare_cached(
                    "SELECT record FROM agent_syncs WHERE record IS NOT NULL \
                     ORDER BY number DESC LIMIT ?1",
                )?
                .query_map([limit], |row| row.get_ref(0).map(lossy))?
                .filter_map(|text| text.map(|text| readable(&text)).transpose())
                .collect::<rusqlite::Result<Vec<SyncRecord>>>()
        };
        let kept = read().map_err(self.failed("read the history"))?;
        let left = super::left_records(&self.dir);
        Ok(left.into_iter().chain(kept).take(limit as usize).collect())
    }
}

/// Deletes the oldest records beyond [`RECORDS_KEPT`], but keeps
/// [`KEPT_OF_A_KIND`] of either kind. An unreadable record counts as one of a
/// requested sync.
fn prune(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let trigger = to_json(&Trigger::Timer)?;
    tx.prepare_cached(
        "DELETE FROM agent_syncs WHERE number NOT IN (
            SELECT number FROM (
                SELECT number, row_number() OVER (PARTITION BY timer ORDER BY number DESC) AS place
                FROM (
                    SELECT number, CASE WHEN typeof(begun) = 'text' AND json_valid(begun)
                        THEN begun -> '$.trigger' END IS ?3 AS timer
                    FROM agent_syncs
                )
            ) ORDER BY place > ?2, number DESC LIMIT ?1
        )",
    )?
    .execute(params![RECORDS_KEPT, KEPT_OF_A_KIND, trigger])
    .map(|_| ())
}

/// Returns the JSON of a record, within its bounds.
fn record_json(record: &SyncRecord) -> rusqlite::Result<String> {
    to_json(&record.clone().bounded())
}

/// Parses a record. One that another version of this program wrote in an
/// unknown form is skipped: it must not stop a sync.
fn readable(text: &str) -> Option<SyncRecord> {
    from_json(text)
        .map_err(
            |error| tracing::warn!(%error, "an unreadable record of an earlier sync is skipped"),
        )
        .ok()
}

fn interrupted(begun: SyncRecord, reverted: &[SettingChange]) -> SyncRecord {
    let message = "the process ended during the sync; only rules that were already committed are \
                   in effect";
    let error = ErrorRecord::outside_stages("interrupted", message.to_owned(), None);
    SyncRecord {
        result: SyncResult::InternalError,
        exit_code: SyncResult::InternalError.exit_code(),
        error: Some(error),
        settings_reverted: reverted.to_vec(),
        ..begun
    }
}

#[cfg(test)]
mod tests;
