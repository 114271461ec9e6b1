//! The hash of the rules as it goes on from commit to commit.
//!
//! The hash covers the rules one after another, so what it costs to bring it
//! up to date is the rules behind the first one that changed. States kept at
//! about every [`EVERY`] rows make that all it costs: rules added at the end
//! cost what they are, and a rule that changes often is near the end, because
//! a replaced rule moves there.
//!
//! A state says after which row it was taken, and rows are numbered anew when a
//! database is dumped and restored. So it also says what that row was and how
//! many rows it covers, and counts only while both fit the table. Counting
//! takes 80 ms for a million rules, so it is left to files that a dump, a
//! VACUUM or a change of the schema may have written since the last commit.

use rusqlite::{OptionalExtension as _, Row, Transaction};
use xxhash_rust::xxh3::xxh3_128;

use super::meta;
use super::row::{self, Sound};
use super::xxh3::Xxh3;

/// Row numbers between two kept states. A state takes some 450 bytes, and going
/// on from one costs at most this many rows too many, under a millisecond.
const EVERY: i64 = 4_096;

/// The columns of a row that the hash needs, in the order of [`Hashed::read`].
const COLUMNS: &str = "rowid, identifier, state, type, cel_expr, seatbelt_policy";

/// What of a row is in the hash.
struct Hashed<'a> {
    row: i64,
    /// Identifier, expression and sandbox policy.
    texts: [&'a [u8]; 3],
    state: i32,
    rule_type: i32,
}

impl<'a> Hashed<'a> {
    /// Reads a row of [`COLUMNS`]; `None` if it is foreign.
    fn read(row: &'a Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 1)? else {
            return Ok(None);
        };
        let texts =
            [identifier.as_bytes(), row::bytes(row.get_ref(4)?), row::bytes(row.get_ref(5)?)];
        Ok(Some(Self { row: row.get(0)?, texts, state, rule_type }))
    }

    /// Writes the bytes that the hash takes in.
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        self.texts.iter().for_each(|text| bytes.extend_from_slice(text));
        bytes.extend_from_slice(&self.state.to_le_bytes());
        bytes.extend_from_slice(&self.rule_type.to_le_bytes());
    }
}

/// The hash up to some row.
pub(super) struct Progress<'tx> {
    tx: &'tx Transaction<'tx>,
    state: Xxh3,
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
            state: Xxh3::new(),
            last_row: i64::MIN,
            rows: 0,
            passed_over: 0,
            scratch: Vec::new(),
        };
        match kept {
            None => {}
            Some((last_row, Some(kept))) if kept.fits(tx, last_row, &mut start.scratch)? => {
                return Ok(Self { state: kept.state, last_row, rows: kept.rows, ..start });
            }
            Some(_) => {
                tx.execute("DELETE FROM agent_rules_hash", [])?;
            }
        }
        Ok(start)
    }

    /// Takes in the next row that is in the hash: `texts` are its identifier,
    /// expression and sandbox policy.
    pub(super) fn add(
        &mut self,
        row: i64,
        texts: [&[u8]; 3],
        state: i32,
        rule_type: i32,
    ) -> rusqlite::Result<()> {
        self.take(&Hashed { row, texts, state, rule_type })
    }

    fn take(&mut self, hashed: &Hashed<'_>) -> rusqlite::Result<()> {
        if self.last_row != i64::MIN && hashed.row / EVERY != self.last_row / EVERY {
            self.keep()?;
        }
        self.last_row = hashed.row;
        self.rows += std::mem::take(&mut self.passed_over) + 1;
        hashed.write_to(&mut self.scratch);
        self.state.update(&self.scratch);
        Ok(())
    }

    /// Takes in all further rows of the table.
    pub(super) fn read_on(&mut self) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT {COLUMNS} FROM execution_rules WHERE rowid > ?1 AND state != 6 ORDER BY rowid"
        );
        let mut statement = self.tx.prepare(&sql)?;
        let mut rows = statement.query([self.last_row])?;
        while let Some(row) = rows.next()? {
            match Hashed::read(row)? {
                Some(hashed) => self.take(&hashed)?,
                None => self.passed_over += 1,
            }
        }
        Ok(())
    }

    /// The hash of all rows, the table's last being the last taken in: 32
    /// lower-case hex digits.
    pub(super) fn finish(self) -> rusqlite::Result<String> {
        if self.last_row != i64::MIN {
            self.keep()?;
        }
        Ok(format!("{:032x}", self.state.digest()))
    }

    /// Keeps the state, and of the others of its [`EVERY`] rows none.
    fn keep(&self) -> rusqlite::Result<()> {
        let first = self.last_row - self.last_row.rem_euclid(EVERY);
        self.tx
            .prepare_cached("DELETE FROM agent_rules_hash WHERE last_row BETWEEN ?1 AND ?2")?
            .execute([first, self.last_row])?;
        let kept =
            Kept { state: self.state.clone(), rows: self.rows, last: xxh3_128(&self.scratch) };
        self.tx
            .prepare_cached("INSERT INTO agent_rules_hash (last_row, state) VALUES (?1, ?2)")?
            .execute((self.last_row, kept.to_bytes()))
            .map(|_| ())
    }
}

/// A kept state, and what tells whether it still fits the table.
struct Kept {
    state: Xxh3,
    /// How many rows there are up to the last in it.
    rows: u64,
    /// The hash of the last of them.
    last: u128,
}

/// What a kept state begins with, so long that releases which kept the state
/// alone do not take it for one of theirs.
const FORM: [u8; 512] = [2; 512];

impl Kept {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = FORM.to_vec();
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.last.to_le_bytes());
        bytes.extend_from_slice(&self.state.to_bytes());
        bytes
    }

    /// `None` if they are not bytes of [`Self::to_bytes`].
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&FORM)?;
        let (rows, rest) = rest.split_first_chunk()?;
        let (last, state) = rest.split_first_chunk()?;
        Some(Self {
            state: Xxh3::from_bytes(state)?,
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
        let sql = format!("SELECT {COLUMNS} FROM execution_rules WHERE rowid = ?1");
        let is_last = tx
            .prepare_cached(&sql)?
            .query_row([last_row], |row| {
                Ok(Hashed::read(row)?.is_some_and(|hashed| {
                    hashed.write_to(scratch);
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
