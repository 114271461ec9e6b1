//! The hash and the digest of the rules, continued from commit to commit.
//!
//! Both cover the rules in order. With states kept about every [`ROWS_BETWEEN_SAVES`] rows,
//! updating them costs only as much as the rules after the first one that
//! changed: added rules cost only themselves, and a rule that changes often is
//! near the end, because a replaced rule moves there.
//!
//! A state belongs to a rowid, and rows are renumbered when a database is
//! dumped and restored. So a state also stores a hash of its row and the number
//! of rows that it covers, and is valid only if both match the table. Counting
//! a million rows takes 80 ms, so it is done only if a restore, a VACUUM or a
//! schema change may have happened since the last commit.

use rusqlite::{OptionalExtension as _, Transaction};
use xxhash_rust::xxh3::xxh3_128;

use super::rules_hash::Hashed;
use super::xxh3::Xxh3;
use super::{meta, row};

/// Row numbers between two kept states. A state takes some 1,100 bytes, and
/// continuing from one reads at most this many rows too many, which takes under
/// a millisecond.
const ROWS_BETWEEN_SAVES: i64 = 4_096;

/// Hash and digest up to some row.
pub(super) struct Progress<'tx> {
    tx: &'tx Transaction<'tx>,
    hash: Xxh3,
    content: Xxh3,
    /// The last row that is covered.
    last_row: i64,
    /// How many rows there are up to it, and how many foreign ones after it.
    rows: u64,
    passed_over: u64,
    /// The hashed bytes of that row.
    scratch: Vec<u8>,
}

impl<'tx> Progress<'tx> {
    /// Continues from the last state before `first_touched`, the first row that
    /// was deleted or changed, or from the last state if there is none. Deletes
    /// later states, and all of them if that one does not match the table.
    pub(super) fn resume(
        tx: &'tx Transaction<'tx>,
        first_touched: Option<i64>,
    ) -> rusqlite::Result<Self> {
        if let Some(row) = first_touched {
            tx.execute("DELETE FROM agent_rules_hash WHERE last_row >= ?1", [row])?;
        }
        let kept: Option<(i64, Option<StoredProgress>)> = tx
            .query_row(
                "SELECT last_row, state FROM agent_rules_hash ORDER BY last_row DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, StoredProgress::from_bytes(row::bytes(row.get_ref(1)?)))),
            )
            .optional()?;
        let mut start = Self {
            tx,
            hash: Xxh3::new(),
            content: Xxh3::new(),
            last_row: i64::MIN,
            rows: 0,
            passed_over: 0,
            scratch: Vec::new(),
        };
        match kept {
            None => {}
            Some((last_row, Some(kept))) if kept.fits(tx, last_row, &mut start.scratch)? => {
                let StoredProgress { hash, content, rows, .. } = kept;
                return Ok(Self { hash, content, last_row, rows, ..start });
            }
            Some(_) => {
                tx.execute("DELETE FROM agent_rules_hash", [])?;
            }
        }
        Ok(start)
    }

    /// Adds the next row.
    pub(super) fn add(&mut self, hashed: &Hashed<'_>) -> rusqlite::Result<()> {
        if self.last_row != i64::MIN
            && hashed.row / ROWS_BETWEEN_SAVES != self.last_row / ROWS_BETWEEN_SAVES
        {
            self.keep()?;
        }
        self.last_row = hashed.row;
        self.rows += std::mem::take(&mut self.passed_over) + 1;
        hashed.write_content(&mut self.scratch);
        self.content.update(&self.scratch);
        hashed.write_hashed(&mut self.scratch);
        self.hash.update(&self.scratch);
        Ok(())
    }

    /// Adds all further rows of the table.
    pub(super) fn read_on(&mut self) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT {} FROM execution_rules WHERE rowid > ?1 AND state != 6 ORDER BY rowid",
            Hashed::COLUMNS
        );
        let mut statement = self.tx.prepare(&sql)?;
        let mut rows = statement.query([self.last_row])?;
        while let Some(row) = rows.next()? {
            match Hashed::read(row)? {
                Some(hashed) => self.add(&hashed)?,
                None => self.passed_over += 1,
            }
        }
        Ok(())
    }

    /// Returns the hash and the digest after the table's last row was added: 32
    /// lower-case hex digits each.
    pub(super) fn finish(self) -> rusqlite::Result<(String, String)> {
        if self.last_row != i64::MIN {
            self.keep()?;
        }
        let text = |hash: &Xxh3| format!("{:032x}", hash.digest());
        Ok((text(&self.hash), text(&self.content)))
    }

    /// Stores the state, and deletes the others of the same [`ROWS_BETWEEN_SAVES`] rows.
    fn keep(&self) -> rusqlite::Result<()> {
        let first = self.last_row - self.last_row.rem_euclid(ROWS_BETWEEN_SAVES);
        self.tx
            .prepare_cached("DELETE FROM agent_rules_hash WHERE last_row BETWEEN ?1 AND ?2")?
            .execute([first, self.last_row])?;
        let kept = StoredProgress {
            hash: self.hash.clone(),
            content: self.content.clone(),
            rows: self.rows,
            last: xxh3_128(&self.scratch),
        };
        self.tx
            .prepare_cached("INSERT INTO agent_rules_hash (last_row, state) VALUES (?1, ?2)")?
            .execute((self.last_row, kept.to_bytes()))
            .map(|_| ())
    }
}

/// A stored state, with what shows whether it still matches the table.
struct StoredProgress {
    hash: Xxh3,
    content: Xxh3,
    /// How many rows it covers.
    rows: u64,
    /// The hash of the last covered row.
    last: u128,
}

/// The beginning of a stored state, long enough that earlier releases do not
/// mistake it for one of theirs.
const STATE_FORMAT: [u8; 512] = [3; 512];

impl StoredProgress {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = STATE_FORMAT.to_vec();
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.last.to_le_bytes());
        let hash = self.hash.to_bytes();
        bytes.extend_from_slice(&hash.len().to_le_bytes());
        bytes.extend_from_slice(&hash);
        bytes.extend_from_slice(&self.content.to_bytes());
        bytes
    }

    /// Returns `None` unless the bytes are from [`Self::to_bytes`].
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&STATE_FORMAT)?;
        let (rows, rest) = rest.split_first_chunk()?;
        let (last, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (hash, content) = rest.split_at_checked(usize::from_le_bytes(*length))?;
        Some(Self {
            hash: Xxh3::from_bytes(hash)?,
            content: Xxh3::from_bytes(content)?,
            rows: u64::from_le_bytes(*rows),
            last: u128::from_le_bytes(*last),
        })
    }

    /// Returns whether the row and the number of rows up to it match the state.
    fn fits(
        &self,
        tx: &Transaction<'_>,
        last_row: i64,
        scratch: &mut Vec<u8>,
    ) -> rusqlite::Result<bool> {
        let sql = format!("SELECT {} FROM execution_rules WHERE rowid = ?1", Hashed::COLUMNS);
        let is_last = tx
            .prepare_cached(&sql)?
            .query_row([last_row], |row| {
                Ok(Hashed::read(row)?.is_some_and(|hashed| {
                    hashed.write_hashed(scratch);
                    xxh3_128(scratch) == self.last
                }))
            })
            .optional()?;
        if is_last != Some(true) {
            return Ok(false);
        }
        if meta::is_same_file(tx)? {
            return Ok(true);
        }
        let rows: u64 = tx
            .prepare_cached(
                "SELECT count(*) FROM execution_rules WHERE rowid <= ?1 AND state != 6",
            )?
            .query_row([last_row], |row| row.get(0))?;
        Ok(rows == self.rows)
    }
}
