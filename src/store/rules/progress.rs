//! The hash of the rules as it goes on from commit to commit.
//!
//! The hash covers the rules one after another, so what it costs to bring it
//! up to date is the rules behind the first one that changed. States kept at
//! about every [`EVERY`] rows make that all it costs: rules added at the end
//! cost what they are, and a rule that changes often is near the end, because
//! a replaced rule moves there.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension as _, Transaction};

use super::xxh3::Xxh3;

/// Row numbers between two kept states. A state takes some 250 bytes, and going
/// on from one costs at most this many rows too many, under a millisecond.
const EVERY: i64 = 4_096;

/// The hash up to some row.
pub(super) struct Progress<'tx> {
    tx: &'tx Transaction<'tx>,
    state: Xxh3,
    last_row: i64,
    /// What of a row is in the hash, in one piece.
    scratch: Vec<u8>,
}

impl<'tx> Progress<'tx> {
    /// From the kept state before `first_touched`, the first row that was
    /// deleted or changed, or from the last one if there is none. Forgets the
    /// states behind it.
    pub(super) fn resume(
        tx: &'tx Transaction<'tx>,
        first_touched: Option<i64>,
    ) -> rusqlite::Result<Self> {
        if let Some(row) = first_touched {
            tx.execute("DELETE FROM agent_rules_hash WHERE last_row >= ?1", [row])?;
        }
        let kept: Option<(i64, Vec<u8>)> = tx
            .query_row(
                "SELECT last_row, state FROM agent_rules_hash ORDER BY last_row DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let start = Self { tx, state: Xxh3::new(), last_row: i64::MIN, scratch: Vec::new() };
        Ok(match kept {
            None => start,
            Some((last_row, bytes)) => match Xxh3::from_bytes(&bytes) {
                Some(state) => Self { state, last_row, ..start },
                None => return Self::resume(tx, Some(i64::MIN)),
            },
        })
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
        if self.last_row != i64::MIN && row / EVERY != self.last_row / EVERY {
            self.keep()?;
        }
        self.last_row = row;
        self.scratch.clear();
        for text in texts {
            self.scratch.extend_from_slice(text);
        }
        self.scratch.extend_from_slice(&state.to_le_bytes());
        self.scratch.extend_from_slice(&rule_type.to_le_bytes());
        self.state.update(&self.scratch);
        Ok(())
    }

    /// Takes in all further rows of the table.
    pub(super) fn read_on(&mut self) -> rusqlite::Result<()> {
        let tx = self.tx;
        let mut statement = tx.prepare(
            "SELECT rowid, identifier, cel_expr, seatbelt_policy, state, type \
             FROM execution_rules WHERE rowid > ?1 AND state != 6 ORDER BY rowid",
        )?;
        let mut rows = statement.query([self.last_row])?;
        while let Some(row) = rows.next()? {
            let mut texts: [&[u8]; 3] = [&[]; 3];
            for (text, column) in texts.iter_mut().zip(1..) {
                if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column)? {
                    *text = bytes;
                }
            }
            self.add(row.get(0)?, texts, row.get(4)?, row.get(5)?)?;
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
        self.tx
            .prepare_cached("INSERT INTO agent_rules_hash (last_row, state) VALUES (?1, ?2)")?
            .execute((self.last_row, self.state.to_bytes()))
            .map(|_| ())
    }
}
