//! Records of syncs that could not be written to `rules.db`, because another
//! program locks it, because there is no store yet, or because the sync could
//! not begin. They are kept in a file until the next sync enters them into the
//! database; `history` shows them meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::settings::to_json;
use super::{Store, StoreError};
use crate::files::{self, Obstacle, Replacement};
use crate::model::SyncRecord;

/// The file in the state directory.
pub const LEFT_RECORDS_FILE: &str = "left-records.json";
/// The most records kept; the newest stay.
const MAX_LEFT: usize = 10;
/// The largest file that is read, in bytes. A record has at most 256 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// A record to be entered into the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left {
    /// The number that [`Store::begin_sync`] returned, if the sync got that
    /// far.
    number: Option<i64>,
    record: SyncRecord,
}

/// Keeps the record of a sync that could not be written to `rules.db`. `number`
/// is what [`Store::begin_sync`] returned. A caller without the lock of the
/// state directory may lose one of two records written at the same time.
///
/// # Errors
/// If the file cannot be written.
pub fn leave_record(
    dir: &Path,
    number: Option<i64>,
    record: &SyncRecord,
) -> Result<(), StoreError> {
    let path = path(dir);
    let failed = |found: Obstacle| StoreError::from_obstacle(&path, found);
    let mut left = read(dir);
    left.push(Left { number, record: record.clone() });
    left.drain(..left.len().saturating_sub(MAX_LEFT));
    let text =
        serde_json::to_vec(&left).map_err(|error| failed(std::io::Error::from(error).into()))?;
    files::replace(&path, &text, Replacement { mode: 0o600, durable: true }).map_err(failed)
}

impl Store {
    /// Enters the records of the file into the database and deletes the file.
    /// Returns how many there were. The caller holds the lock of the state
    /// directory.
    ///
    /// # Errors
    /// If the database cannot be written; then they wait on.
    pub fn enter_left_records(&mut self) -> Result<usize, StoreError> {
        let left = read(&self.dir);
        if left.is_empty() {
            return Ok(0);
        }
        let failed = self.failed("enter the records of earlier syncs");
        enter(&mut self.rules, &left).map_err(failed)?;
        if let Err(error) = fs::remove_file(path(&self.dir)) {
            // The next sync finds that each has been entered.
            tracing::warn!(%error, "{LEFT_RECORDS_FILE} cannot be removed");
        }
        Ok(left.len())
    }
}

/// Returns the records of a state directory that are not in its database yet,
/// newest first. [`Store::history`] includes them; this is for a directory
/// without a store.
#[must_use]
pub fn left_records(dir: &Path) -> Vec<SyncRecord> {
    read(dir).into_iter().rev().map(|left| left.record).collect()
}

fn enter(conn: &mut Connection, left: &[Left]) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    for Left { number, record } in left {
        let text = to_json(record)?;
        let updated = tx.execute(
            "UPDATE agent_syncs SET record = ?2 WHERE number = ?1 AND record IS NULL",
            params![number, text],
        )?;
        let known: bool = tx.query_row(
            "SELECT EXISTS (SELECT 1 FROM agent_syncs WHERE record = ?1)",
            [&text],
            |row| row.get(0),
        )?;
        if updated == 0 && !known {
            tx.execute("INSERT INTO agent_syncs (begun, record) VALUES (?1, ?1)", [text])?;
        }
    }
    tx.commit()
}

fn path(dir: &Path) -> PathBuf {
    dir.join(LEFT_RECORDS_FILE)
}

/// Reads the file. One that cannot be read is logged and counts as empty:
/// records of the past must not stop a sync.
fn read(dir: &Path) -> Vec<Left> {
    let path = path(dir);
    let read = || -> Result<Vec<Left>, Obstacle> {
        let Some(text) = files::read_own(&path, MAX_BYTES)? else { return Ok(Vec::new()) };
        Ok(serde_json::from_slice(&text).map_err(std::io::Error::from)?)
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "records of earlier syncs cannot be read");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SyncResult, SyncType, Timestamp, Trigger};

    fn record(message: &str) -> SyncRecord {
        SyncRecord::not_begun(
            SyncResult::MissingMachineId,
            message.to_owned(),
            None,
            Trigger::Timer,
            Timestamp::from_secs(1_700_000_000),
            SyncType::Normal,
        )
    }

    fn messages(store: &Store) -> Vec<String> {
        let history = store.history(50).expect("read");
        history.into_iter().map(|r| r.error.expect("an error").message).collect()
    }

    /// SYNC-7: a record that could not be written is shown at once, and entered
    /// by the next sync, once.
    #[test]
    fn sync_7_a_record_that_could_not_be_written_is_shown_and_entered_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_secs(1);
        let (mut store, _) = Store::open(dir.path(), now).expect("a store");
        let number = store.begin_sync(&record("begun")).expect("begun");
        leave_record(dir.path(), Some(number), &record("locked")).expect("left");
        leave_record(dir.path(), None, &record("no id")).expect("left");
        assert_eq!(messages(&store), ["no id", "locked"]);
        assert_eq!(store.enter_left_records().expect("entered"), 2);
        assert_eq!(store.enter_left_records().expect("nothing"), 0);
        assert_eq!(store.close_interrupted_syncs(&[]).expect("closed"), 0);
        assert_eq!(messages(&store), ["no id", "locked"]);
        // A file that could not be removed is not entered twice.
        leave_record(dir.path(), None, &record("no id")).expect("left");
        store.enter_left_records().expect("entered");
        assert_eq!(messages(&store), ["no id", "locked"]);
    }

    /// SYNC-7: the file is bounded, and an unreadable one costs nothing.
    #[test]
    fn sync_7_records_that_wait_are_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..2 * MAX_LEFT {
            leave_record(dir.path(), None, &record(&n.to_string())).expect("left");
        }
        let left = read(dir.path());
        assert_eq!(left.len(), MAX_LEFT);
        fs::write(path(dir.path()), "not JSON").expect("written");
        assert!(read(dir.path()).is_empty());
        fs::remove_file(path(dir.path())).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", path(dir.path())).expect("a link");
        assert!(read(dir.path()).is_empty());
        assert!(leave_record(dir.path(), None, &record("x")).is_err());
    }
}
