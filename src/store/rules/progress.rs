//! The hash and the digest of the rules as they go on from commit to commit.
//!
//! Both cover the rules one after another, so what it costs to bring them up to
//! date is the rules behind the first one that changed. States kept at
//! about every [`EVERY`] rows make that all it costs: rules added at the end
//! cost what they are, and a rule that changes often is near the end, because
//! a replaced rule moves there.
//!
//! A state says after which row it was taken, and rows are numbered anew when a
//! database is dumped and restored. So it also says what that row was and how
//! many rows it covers, and counts only while both fit the table. Counting
//! takes 80 ms for a million rules, so it is left to files that a dump, a
//! VACUUM or a change of the schema may have written since the last commit.

use rusqlite::{OptionalExtension as _, Transaction};
use xxhash_rust::xxh3::xxh3_128;

use super::digest::Hashed;
use super::xxh3::Xxh3;
use super::{meta, row};

/// Row numbers between two kept states. A state takes some 1,100 bytes, and going
/// on from one costs at most this many rows too many, under a millisecond.
const EVERY: i64 = 4_096;

/// The hash up to some row.
pub(super) struct Progress<'tx> {
    tx: &'tx Transaction<'tx>,
    hash: Xxh3,
    content: Xxh3,
    /// The last row taken in.
    last_row: i64,
    /// How many rows there are up to it, and foreign ones behind it.
    rows: u64,
    passed_over: u64,
    /// What of that row is in the hash, in one piece.
    scratch: Vec<u8>,
}

impl<'tx> Progress<'tx> {
    /// From the kept state before `first_touched`, the first row that was
    /// deleted or changed, or from the last one if there is none. Forgets the
    /// states behind it, and all of them if that one does not fit the table.
    pub(super) fn resume(
        tx: &'tx Transaction<'tx>,
        first_touched: Option<i64>,
    ) -> rusqlite::Result<Self> {
        if let Some(row) = first_touched {
            tx.execute("DELETE FROM agent_rules_hash WHERE last_row >= ?1", [row])?;
        }
        let kept: Option<(i64, Option<Kept>)> = tx
            .query_row(
                "SELECT last_row, state FROM agent_rules_hash ORDER BY last_row DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, Kept::from_bytes(row::bytes(row.get_ref(1)?)))),
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
                let Kept { hash, content, rows, .. } = kept;
                return Ok(Self { hash, content, last_row, rows, ..start });
            }
            Some(_) => {
                tx.execute("DELETE FROM agent_rules_hash", [])?;
            }
        }
        Ok(start)
    }

    /// Takes in the next row that is in the hash.
    pub(super) fn add(&mut self, hashed: &Hashed<'_>) -> rusqlite::Result<()> {
        if self.last_row != i64::MIN && hashed.row / EVERY != self.last_row / EVERY {
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

    /// Takes in all further rows of the table.
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

    /// The hash and the digest of all rows, the table's last being the last taken
    /// in: 32 lower-case hex digits each.
    pub(super) fn finish(self) -> rusqlite::Result<(String, String)> {
        if self.last_row != i64::MIN {
            self.keep()?;
        }
        let text = |hash: &Xxh3| format!("{:032x}", hash.digest());
        Ok((text(&self.hash), text(&self.content)))
    }

    /// Keeps the state, and of the others of its [`EVERY`] rows none.
    fn keep(&self) -> rusqlite::Result<()> {
        let first = self.last_row - self.last_row.rem_euclid(EVERY);
        self.tx
            .prepare_cached("DELETE FROM agent_rules_hash WHERE last_row BETWEEN ?1 AND ?2")?
            .execute([first, self.last_row])?;
        let kept = Kept {
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

/// A kept state, and what tells whether it still fits the table.
struct Kept {
    hash: Xxh3,
    content: Xxh3,
    /// How many rows there are up to the last in it.
    rows: u64,
    /// The hash of the last of them.
    last: u128,
}

/// What a kept state begins with, so long that releases which kept the state
/// of the hash alone do not take it for one of theirs.
const FORM: [u8; 512] = [3; 512];

impl Kept {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = FORM.to_vec();
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.last.to_le_bytes());
        let hash = self.hash.to_bytes();
        bytes.extend_from_slice(&hash.len().to_le_bytes());
        bytes.extend_from_slice(&hash);
        bytes.extend_from_slice(&self.content.to_bytes());
        bytes
    }

    /// `None` if they are not bytes of [`Self::to_bytes`].
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&FORM)?;
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

    /// Whether the row is the one the state was kept after, with as many rows
    /// up to it.
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
