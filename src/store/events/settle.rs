//! Removing events from the queue: delivered, unsendable and unreadable ones.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::rejected::{Cause, add as add_rejected, keep_within_bound, set_aside};
use super::{
    EventStore, OTHERS_END, QueueState, UNSENDABLE, add_bytes, bundles, count_drops, foreign,
    members, remove, row, save_state, state, unique,
};
use crate::model::SettledEvents;
use crate::model::Timestamp;
use crate::store::StoreError;

/// The most delivered events that stay in the file, though never more than are
/// queued. Deleting this many at once costs half of deleting them batch by
/// batch.
const MANY_EVENTS: i64 = 2_000;
/// How many of them one commit deletes, which takes about 10 ms.
const CLEARED_AT_ONCE: i64 = 2 * MANY_EVENTS;
/// How many rows that an earlier version left behind are deleted with each
/// batch. Each may touch a page of the unique index.
const LEFTOVERS_AT_ONCE: u64 = 2_000;

impl EventStore {
    /// Removes the rows of a batch from the queue, in one transaction that is
    /// on disk when this returns. Skips rows that are no longer queued, and
    /// rows that their producer has replaced. Executables of a requested bundle
    /// that are held are queued.
    ///
    /// Rows of another program's database are deleted afterwards; a failure is
    /// logged, and they are sent again.
    ///
    /// # Errors
    /// If it cannot be written; then the queue is as it was.
    pub fn settle(&mut self, settled: &SettledEvents, now: Timestamp) -> Result<(), StoreError> {
        let own: BTreeSet<i64> = settled.ids().filter(|id| *id < foreign::FIRST_ID).collect();
        let lent = std::mem::take(&mut self.lent);
        let (foreign, limits) = (self.foreign.as_ref(), self.limits);
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut state = state(&tx)?;
            for (id, reason) in &settled.rejected {
                match foreign.and_then(|foreign| foreign.lent_row(*id)) {
                    Some(row) => add_rejected(&tx, row, false, Cause::Undecodable, reason, now)?,
                    None => set_aside(&tx, *id, Cause::Undecodable, reason, now)?,
                }
            }
            if !settled.rejected.is_empty() {
                keep_within_bound(&tx, now)?;
            }
            for (_, kind) in &settled.dropped {
                count_drops(&tx, UNSENDABLE, kind, 1, now)?;
            }
            bundles::note_delivered(&tx, &settled.bundles_delivered)?;
            bundles::note_requests(&tx, &settled.bundle_requests, now)?;
            forget_refusals(&tx, settled.ids())?;

            let taken = take_out(&tx, &mut state, &own, &lent)?;
            state.pending = state.pending.saturating_sub(taken);
            for hash in &settled.bundle_requests {
                members::queue_fitting(&tx, &mut state, hash, limits, now)?;
            }
            save_state(&tx, state)?;
            let cleared = clear_delivered(&tx, state)? | clear_leftovers(&tx, state)?;
            tx.commit()?;
            Ok(cleared)
        };
        let cleared = run(&mut self.conn)
            .map_err(|source| StoreError::from_use(&self.path, "take events out", source))?;
        if cleared {
            self.compact();
        }
        if let Some(foreign) = &mut self.foreign {
            foreign.delete(settled.ids().filter(|id| *id >= foreign::FIRST_ID));
        }
        Ok(())
    }
}

/// Removes rows from the queue and returns how many there were.
fn take_out(
    tx: &Transaction<'_>,
    state: &mut QueueState,
    ids: &BTreeSet<i64>,
    lent: &BTreeMap<i64, u64>,
) -> rusqlite::Result<u64> {
    let mut taken = 0;
    for (id, fingerprint) in lent.iter().filter(|(id, _)| ids.contains(id)) {
        taken += u64::from(remove_unchanged(tx, *id, *fingerprint)?);
    }
    let Some(last) = ids.last() else { return Ok(taken) };
    let queued: Vec<(i64, i64, i64)> = tx
        .prepare_cached(
            "SELECT id, idx, bytes FROM agent_queue WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )?
        .query_map((state.settled_through, last, ids.len() as u64 + 1), |row| row.try_into())?
        .collect::<Result<_, _>>()?;
    if queued.iter().all(|(id, idx, _)| ids.contains(id) && *idx >= OTHERS_END) {
        // Nothing else is queued up to there, so moving the mark suffices.
        state.settled_through = state.settled_through.max(*last);
        add_bytes(tx, -queued.iter().map(|(_, _, bytes)| bytes).sum::<i64>())?;
        return Ok(taken + queued.len() as u64);
    }
    for id in ids.iter().filter(|id| **id > state.settled_through && !lent.contains_key(id)) {
        taken += u64::from(remove(tx, *id)?);
    }
    Ok(taken)
}

/// Removes another producer's row, unless it has been replaced since it was
/// read.
fn remove_unchanged(tx: &Transaction<'_>, id: i64, fingerprint: u64) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT {} FROM agent_queue AS q JOIN events AS e ON e.idx = q.idx WHERE q.id = ?1",
        row::columns()
    );
    let lies = tx.prepare_cached(&sql)?.query_row([id], |row| row::read(row, 0, id)).optional()?;
    let same = lies.is_none_or(|lies| row::fingerprint(&lies) == fingerprint);
    if same {
        return remove(tx, id);
    }
    // Without its entry it counts as a new row and is entered again.
    forget_entry(tx, id)
}

/// Removes the entry of another producer's row and keeps the row. Returns
/// whether the entry existed.
pub(super) fn forget_entry(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<bool> {
    let bytes: Option<i64> = tx
        .prepare_cached("DELETE FROM agent_queue WHERE id = ?1 RETURNING bytes")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    add_bytes(tx, -bytes.unwrap_or(0))?;
    Ok(bytes.is_some())
}

fn forget_refusals(tx: &Transaction<'_>, ids: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
    let any: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_refusals)")?
        .query_row([], |row| row.get(0))?;
    if any {
        let mut forget = tx.prepare_cached("DELETE FROM agent_refusals WHERE id = ?1")?;
        for id in ids {
            forget.execute([id])?;
        }
    }
    Ok(())
}

/// Deletes delivered events once they outnumber the queued ones, or are many.
/// Returns whether it did.
fn clear_delivered(tx: &Transaction<'_>, state: QueueState) -> rusqlite::Result<bool> {
    let oldest: Option<i64> =
        tx.prepare_cached("SELECT min(id) FROM agent_queue")?.query_row([], |row| row.get(0))?;
    let Some(oldest) = oldest.filter(|oldest| *oldest <= state.settled_through) else {
        return Ok(false);
    };
    if state.settled_through - oldest
        < i64::try_from(state.pending).unwrap_or(MANY_EVENTS).min(MANY_EVENTS)
    {
        return Ok(false);
    }
    let last = state.settled_through.min(oldest + CLEARED_AT_ONCE - 1);
    for sql in [
        "DELETE FROM agent_events WHERE id BETWEEN ?1 AND ?2",
        "DELETE FROM agent_queue WHERE id BETWEEN ?1 AND ?2",
    ] {
        tx.prepare_cached(sql)?.execute((oldest, last))?;
    }
    unique::sweep(tx, state, last.abs_diff(oldest) + 1)?;
    Ok(true)
}

/// Deletes rows of delivered events from table events, where earlier versions
/// queued them. Returns whether there were any.
fn clear_leftovers(tx: &Transaction<'_>, state: QueueState) -> rusqlite::Result<bool> {
    let cleared = tx
        .prepare_cached(
            "DELETE FROM events WHERE idx IN (SELECT idx FROM events \
             WHERE idx > 4294967296 AND idx <= 4294967296 + ?1 ORDER BY idx LIMIT ?2)",
        )?
        .execute((state.settled_through, LEFTOVERS_AT_ONCE))?;
    Ok(cleared > 0)
}
