//! What became of the last syncs.

use rusqlite::{Connection, params};

use super::settings::{from_json, to_json};
use super::{Store, StoreError};
use crate::model::{ErrorRecord, SettingChange, SyncRecord, SyncResult};

/// How many syncs are remembered.
pub const RECORDS_KEPT: u32 = 50;

impl Store {
    /// Notes that a sync begins; `begun` is its record as far as it is known.
    /// Answers its number for [`Self::end_sync`].
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn begin_sync(&mut self, begun: &SyncRecord) -> Result<i64, StoreError> {
        let failed = self.failed("note that a sync begins");
        let insert = |conn: &Connection| {
            conn.execute("INSERT INTO agent_syncs (begun) VALUES (?1)", [to_json(begun)?])?;
            Ok(conn.last_insert_rowid())
        };
        insert(&self.rules).map_err(failed)
    }

    /// Notes what became of a sync, and forgets all but the last
    /// [`RECORDS_KEPT`].
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn end_sync(&mut self, number: i64, record: &SyncRecord) -> Result<(), StoreError> {
        let failed = self.failed("note what became of the sync");
        let update = |conn: &mut Connection| {
            let tx = conn.transaction()?;
            tx.execute(
                "UPDATE agent_syncs SET record = ?2 WHERE number = ?1",
                params![number, to_json(record)?],
            )?;
            tx.execute(
                "DELETE FROM agent_syncs WHERE number NOT IN \
                 (SELECT number FROM agent_syncs ORDER BY number DESC LIMIT ?1)",
                [RECORDS_KEPT],
            )?;
            tx.commit()
        };
        update(&mut self.rules).map_err(failed)
    }

    /// Gives syncs whose process died a record that says so; `reverted` is what
    /// the last of them had left staged. Whoever calls this holds the lock of
    /// the state directory, so none of them runs. Answers how many there were.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn close_interrupted_syncs(
        &mut self,
        reverted: &[SettingChange],
    ) -> Result<usize, StoreError> {
        let failed = self.failed("note the interrupted syncs");
        let close = |conn: &mut Connection| {
            let open: Vec<(i64, String)> = conn
                .prepare_cached(
                    "SELECT number, begun FROM agent_syncs WHERE record IS NULL ORDER BY number",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            for (place, (number, begun)) in (1..).zip(&open) {
                let Some(begun) = readable(begun) else {
                    conn.execute("DELETE FROM agent_syncs WHERE number = ?1", [number])?;
                    continue;
                };
                let last = place == open.len();
                let record = interrupted(begun, if last { reverted } else { &[] });
                conn.execute(
                    "UPDATE agent_syncs SET record = ?2 WHERE number = ?1",
                    params![number, to_json(&record)?],
                )?;
            }
            Ok(open.len())
        };
        close(&mut self.rules).map_err(failed)
    }

    /// The last syncs that have ended, newest first, at most `limit`.
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
                .query_map([limit], |row| row.get::<_, String>(0))?
                .filter_map(|text| text.map(|text| readable(&text)).transpose())
                .collect::<rusqlite::Result<Vec<SyncRecord>>>()
        };
        read().map_err(self.failed("read the history"))
    }
}

/// A record, unless another version of this program wrote it in a form of its
/// own: what it says of the past is not worth a sync.
fn readable(text: &str) -> Option<SyncRecord> {
    from_json(text)
        .map_err(|error| tracing::warn!(%error, "the record of an earlier sync is passed over"))
        .ok()
}

fn interrupted(begun: SyncRecord, reverted: &[SettingChange]) -> SyncRecord {
    let error = ErrorRecord {
        stage: String::new(),
        kind: "interrupted".to_owned(),
        message: "the process ended in the middle of the sync; nothing of it is in force but \
                  rules that were already committed"
            .to_owned(),
        http_status: None,
        cause: None,
    };
    SyncRecord {
        result: SyncResult::InternalError,
        exit_code: SyncResult::InternalError.exit_code(),
        error: Some(error),
        settings_reverted: reverted.to_vec(),
        ..begun
    }
}
