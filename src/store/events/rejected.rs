//! Events that were set aside: kept with the reason until the operator requeues
//! or drops them.

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use strum::IntoStaticStr;
use xxhash_rust::xxh3::Xxh3;

use super::queue::{NewEvent, Queued, insert as insert_queued};
use super::{EventStore, QUEUE_FULL, count_drops, row, save_state, state};
use crate::model::{EventRow, EventSummary, Timestamp};
use crate::store::StoreError;

/// Why an event was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Cause {
    /// Its row cannot be read.
    Undecodable,
    /// The server refused it alone in three syncs.
    Refused,
    /// It is larger than any event that servers take.
    TooLarge,
}

impl Cause {
    /// Returns its name in the database and in `--json`.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        self.into()
    }
}

/// An event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its number.
    pub id: i64,
    /// Its unique id in the queue.
    pub unique_id: String,
    /// `undecodable` if its row cannot be read, `refused` if the server refused
    /// it alone in three syncs, `too_large` if the authorizer uploaded one that is
    /// larger than any that servers take.
    pub cause: String,
    /// What is wrong with it, or the server's message.
    pub reason: String,
    /// When it was set aside.
    pub since: Timestamp,
    /// The size of its stored form in bytes.
    pub bytes: u64,
}

/// The outcome of requeueing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requeued {
    /// It is queued again, as the newest.
    Added,
    /// An event with its unique id is queued already; this one stays set aside.
    Duplicate,
    /// No event with this number is set aside.
    Unknown,
}

/// The bounds of what stays set aside. Beyond, the oldest are dropped and
/// counted like those of a full queue.
const REJECTED_BOUNDS: RejectedBounds = RejectedBounds { events: 100_000, bytes: 200 << 20 };

#[derive(Clone, Copy, Debug)]
struct RejectedBounds {
    events: u64,
    /// The most bytes of their payloads.
    bytes: u64,
}

/// The most events dropped in one commit.
const DROPPED_AT_ONCE: u64 = 10_000;

/// How much of a reason is kept, in characters.
const REASON_MAX: usize = 1024;

impl EventStore {
    /// Returns at most `limit` events that are set aside, oldest first.
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

    /// Returns how many events are set aside.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rejected_count(&self) -> Result<u64, StoreError> {
        self.conn
            .query_row("SELECT rejected FROM agent_queue_state", [], |row| row.get(0))
            .map_err(self.failed("count the events set aside"))
    }

    /// Requeues events that were set aside, in this order and in one
    /// transaction.
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
                        delete(tx, *id)?;
                        Requeued::Added
                    }
                    Queued::Duplicate | Queued::BackedOff => Requeued::Duplicate,
                });
            }
            save_state(tx, state)?;
            Ok(answers)
        })
    }

    /// Deletes events that were set aside; returns for each whether it existed.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn drop_rejected(&mut self, ids: &[i64]) -> Result<Vec<bool>, StoreError> {
        let dropped = self
            .commit("drop events set aside", |tx| ids.iter().map(|id| delete(tx, *id)).collect())?;
        self.compact();
        Ok(dropped)
    }
}

/// Copies a queued event to the events set aside, if it is still queued.
pub(super) fn set_aside(
    tx: &Transaction<'_>,
    id: i64,
    cause: Cause,
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT {}, q.idx, q.allowed FROM {} \
         WHERE q.id = ?1 AND q.id > (SELECT settled_through FROM agent_queue_state)",
        row::queued_columns(),
        row::QUEUED_EVENTS
    );
    let queued = tx
        .prepare_cached(&sql)?
        .query_row([id], |row| Ok((row::read_queued(row)?, row.get("idx")?, row.get("allowed")?)))
        .optional()?;
    let Some((Some(mut event), idx, allowed)) = queued else { return Ok(()) };
    row::load_head(tx, idx, &mut event)?;
    add(tx, &event, allowed, cause, reason, now)
}

/// Sets an event aside, unless it already is.
pub(super) fn add(
    tx: &Transaction<'_>,
    event: &EventRow,
    allowed: bool,
    cause: Cause,
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if is_set_aside(tx, event)? {
        return Ok(());
    }
    let reason: String = reason.chars().take(REASON_MAX).collect();
    let EventRow { unique_id, data, .. } = event;
    tx.prepare_cached(
        "INSERT INTO rejected_events \
         (uniqueid, eventdata, allowed, cause, reason, rejected, digest) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        unique_id,
        data,
        allowed,
        cause.name(),
        reason,
        now.as_millis(),
        digest(event),
    ))?;
    count(tx, 1, i64::try_from(data.len()).unwrap_or(i64::MAX))
}

/// Returns whether exactly this event is set aside.
pub(super) fn is_set_aside(conn: &Connection, event: &EventRow) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM rejected_events \
         WHERE digest = ?1 AND uniqueid = ?2 AND eventdata = ?3)",
    )?
    .query_row((digest(event), &event.unique_id, &event.data), |row| row.get(0))
}

#[expect(clippy::cast_possible_wrap, reason = "any 64 bits will do")]
fn digest(event: &EventRow) -> i64 {
    let mut digest = Xxh3::new();
    digest.update(event.unique_id.as_bytes());
    digest.update(&event.unique_id.len().to_le_bytes());
    digest.update(&event.oversize.unwrap_or_default().to_le_bytes());
    digest.update(&event.data);
    digest.digest() as i64
}

/// Deletes an event that was set aside; returns whether it existed.
fn delete(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<bool> {
    let bytes: Option<i64> = tx
        .prepare_cached(
            "DELETE FROM rejected_events WHERE id = ?1 RETURNING coalesce(octet_length(eventdata), 0)",
        )?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = bytes {
        count(tx, -1, -bytes)?;
    }
    Ok(bytes.is_some())
}

/// Adjusts the number and size of the events set aside.
fn count(tx: &Transaction<'_>, events: i64, bytes: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE agent_queue_state SET rejected = max(0, rejected + ?1), \
         rejected_bytes = max(0, rejected_bytes + ?2)",
    )?
    .execute((events, bytes))
    .map(|_| ())
}

/// Drops the oldest events set aside beyond the bounds.
pub(super) fn keep_within_bound(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    keep_newest(tx, REJECTED_BOUNDS, now)
}

fn keep_newest(tx: &Transaction<'_>, kept: RejectedBounds, now: Timestamp) -> rusqlite::Result<()> {
    let mut dropped = 0;
    while dropped < DROPPED_AT_ONCE {
        let (events, bytes): (u64, u64) = tx
            .prepare_cached("SELECT rejected, rejected_bytes FROM agent_queue_state")?
            .query_row([], |row| row.try_into())?;
        if events <= kept.events && bytes <= kept.bytes {
            break;
        }
        let oldest: Option<i64> = tx
            .prepare_cached("SELECT min(id) FROM rejected_events")?
            .query_row([], |row| row.get(0))?;
        let Some(oldest) = oldest else { break };
        delete(tx, oldest)?;
        dropped += 1;
    }
    if dropped > 0 {
        count_drops(tx, QUEUE_FULL, "", dropped, now)?;
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
                let (unique_id, data) = (name.to_owned(), b"x".to_vec());
                let row = EventRow { id: 0, unique_id, data, oversize: None };
                add(tx, &row, false, Cause::Undecodable, "why", now)?;
                keep_newest(tx, RejectedBounds { events: 3, bytes: 100 }, now)
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
