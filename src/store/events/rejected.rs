//! Events that were set aside: kept with the reason until the operator sends
//! them back or drops them.

use rusqlite::{OptionalExtension as _, Transaction};

use super::queue::{NewEvent, Queued, insert as insert_queued};
use super::{EventStore, QUEUE_FULL, count_drops, save_state, state};
use crate::model::{EventSummary, Timestamp};
use crate::store::StoreError;

/// Why an event was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// Its row cannot be read.
    Undecodable,
    /// The server refused it by itself in three syncs.
    Refused,
}

impl Cause {
    /// The word for it in the database and in `--json`.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Refused => "refused",
        }
    }
}

/// An event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The number it is asked for by.
    pub id: i64,
    /// What made it unlike any other queued event.
    pub unique_id: String,
    /// `undecodable` if its row cannot be read, `refused` if the server refused
    /// it by itself in three syncs.
    pub cause: String,
    /// What is wrong with it, or the server's words.
    pub reason: String,
    /// When it was set aside.
    pub since: Timestamp,
    /// How many bytes its stored form has.
    pub bytes: u64,
}

/// What became of an event that was to be sent back to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requeued {
    /// It is queued again, as the newest.
    Added,
    /// An event of its unique id waits already; this one stays set aside.
    Duplicate,
    /// There is none of this number.
    Unknown,
}

/// So many events stay set aside, as their stored forms are whatever a producer
/// left: beyond, the oldest go and are counted like those of a full queue.
const KEPT: u64 = 100_000;

impl EventStore {
    /// The events set aside, oldest first, `limit` at most.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rejected(&self, limit: usize) -> Result<Vec<Rejected>, StoreError> {
        let sql = "SELECT id, uniqueid, cause, reason, rejected, coalesce(length(eventdata), 0) \
                   FROM rejected_events ORDER BY id LIMIT ?1";
        let read = || {
            self.conn
                .prepare(sql)?
                .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    Ok(Rejected {
                        id: row.get(0)?,
                        unique_id: row.get(1)?,
                        cause: row.get(2)?,
                        reason: row.get(3)?,
                        since: Timestamp::from_millis(row.get(4)?),
                        bytes: row.get(5)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.failed("read the events set aside"))
    }

    /// How many events are set aside.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rejected_count(&self) -> Result<u64, StoreError> {
        self.conn
            .query_row("SELECT count(*) FROM rejected_events", [], |row| row.get(0))
            .map_err(self.failed("count the events set aside"))
    }

    /// Sends events that were set aside back to the queue, in this order and
    /// one transaction.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn requeue(&mut self, ids: &[i64], now: Timestamp) -> Result<Vec<Requeued>, StoreError> {
        self.commit("requeue events", |tx| {
            let mut state = state(tx)?;
            let mut answers = Vec::with_capacity(ids.len());
            for id in ids {
                let sql = "SELECT uniqueid, eventdata, allowed FROM rejected_events WHERE id = ?1";
                let event = tx
                    .prepare_cached(sql)?
                    .query_row([id], |row| {
                        let (unique_id, data): (String, Option<Vec<u8>>) =
                            (row.get(0)?, row.get(1)?);
                        let summary =
                            EventSummary { unique_id, actionable: !row.get::<_, bool>(2)? };
                        Ok(NewEvent { summary, data: data.unwrap_or_default() })
                    })
                    .optional()?;
                let Some(event) = event else {
                    answers.push(Requeued::Unknown);
                    continue;
                };
                answers.push(match insert_queued(tx, &mut state, &event, now)? {
                    Queued::Added => {
                        tx.execute("DELETE FROM rejected_events WHERE id = ?1", [id])?;
                        Requeued::Added
                    }
                    Queued::Duplicate | Queued::BackedOff => Requeued::Duplicate,
                });
            }
            save_state(tx, state)?;
            Ok(answers)
        })
    }

    /// Deletes events that were set aside; answers for each whether it was
    /// there.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn drop_rejected(&mut self, ids: &[i64]) -> Result<Vec<bool>, StoreError> {
        self.commit("drop events set aside", |tx| {
            let mut delete = tx.prepare_cached("DELETE FROM rejected_events WHERE id = ?1")?;
            ids.iter().map(|id| Ok(delete.execute([id])? > 0)).collect()
        })
    }
}

/// Copies a queued event to those set aside, if it is still queued.
pub(super) fn set_aside(
    tx: &Transaction<'_>,
    id: i64,
    cause: Cause,
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO rejected_events (uniqueid, eventdata, allowed, cause, reason, rejected) \
         SELECT CAST(e.uniqueid AS TEXT), CAST(e.eventdata AS BLOB), q.allowed, ?2, ?3, ?4 \
         FROM agent_queue AS q JOIN events AS e ON e.idx = q.idx WHERE q.id = ?1",
    )?
    .execute((id, cause.name(), reason, now.as_millis()))
    .map(|_| ())
}

/// Sets an event of another program's database aside.
pub(super) fn insert(
    tx: &Transaction<'_>,
    (unique_id, data): (&str, &[u8]),
    cause: Cause,
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO rejected_events (uniqueid, eventdata, allowed, cause, reason, rejected) \
         VALUES (?1, ?2, 0, ?3, ?4, ?5)",
    )?
    .execute((unique_id, data, cause.name(), reason, now.as_millis()))
    .map(|_| ())
}

/// Keeps what is set aside within its bound.
pub(super) fn keep_within_bound(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    keep_newest(tx, KEPT, now)
}

fn keep_newest(tx: &Transaction<'_>, kept: u64, now: Timestamp) -> rusqlite::Result<()> {
    // Both ends of the index; counting would read all of it.
    let span: u64 = tx
        .prepare_cached(
            "SELECT coalesce((SELECT max(id) FROM rejected_events) \
             - (SELECT min(id) FROM rejected_events) + 1, 0)",
        )?
        .query_row([], |row| row.get(0))?;
    if span <= kept {
        return Ok(());
    }
    let gone = tx
        .prepare_cached(
            "DELETE FROM rejected_events WHERE id <= \
             (SELECT id FROM rejected_events ORDER BY id DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([kept])?;
    if gone > 0 {
        count_drops(tx, QUEUE_FULL, "", gone as u64, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EV-5, EV-8: what is set aside is bounded, the newest stay, and what goes
    /// is counted.
    #[test]
    fn ev_8_events_set_aside_are_bounded_and_drops_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_secs(1);
        let (mut store, _) = EventStore::open(dir.path(), now).expect("a queue");
        let reject = |store: &mut EventStore, name: &str| {
            let add = |tx: &Transaction<'_>| {
                insert(tx, (name, b"x"), Cause::Undecodable, "why", now)?;
                keep_newest(tx, 3, now)
            };
            store.commit("reject", add).expect("rejected");
            let left = store.rejected(10).expect("a list").into_iter().map(|r| (r.id, r.unique_id));
            (left.collect::<Vec<_>>(), store.drops().expect("counts").queue_full)
        };
        for name in ["a", "b"] {
            reject(&mut store, name);
        }
        let (three, _) = reject(&mut store, "c");
        assert_eq!(three.len(), 3);
        // A gap is no event.
        store.drop_rejected(&[three[1].0]).expect("dropped");
        let names =
            |left: &[(i64, String)]| left.iter().map(|(_, n)| n.clone()).collect::<Vec<_>>();
        let (left, dropped) = reject(&mut store, "d");
        assert_eq!((names(&left).join(" "), dropped), ("a c d".to_owned(), 0));
        let (left, dropped) = reject(&mut store, "e");
        assert_eq!((names(&left).join(" "), dropped), ("c d e".to_owned(), 1));
    }
}
