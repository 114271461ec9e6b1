//! Leaving the queue: what the server took, what it cannot be sent, what
//! cannot be read; and clearing away what a long queue left behind.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction};

use super::rejected::{Cause, keep_within_bound, set_aside};
use super::{
    EventStore, OTHERS_END, State, UNSENDABLE, bundles, count_drops, foreign, remove, save_state,
    state,
};
use crate::model::Timestamp;
use crate::store::StoreError;

/// In a queue longer than this, rows stay in the tables once they are settled,
/// and then so do all others until the queue is empty. Up to here the unique
/// index fits the page cache, and deleting is cheap.
const LONG: u64 = 10_000;

/// What became of the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settled {
    /// The server took these.
    pub delivered: Vec<i64>,
    /// These cannot be sent; with the kind they are counted under.
    pub dropped: Vec<(i64, String)>,
    /// These cannot be read; with the reason.
    pub rejected: Vec<(i64, String)>,
    /// Bundles the server asks for.
    pub bundle_requests: Vec<String>,
    /// For each executable delivered that belongs to a bundle asked for: the
    /// bundle's hash, and of how many executables it is made (0 if unknown).
    pub bundles_delivered: Vec<(String, u32)>,
}

impl Settled {
    fn ids(&self) -> impl Iterator<Item = i64> {
        let dropped = self.dropped.iter().map(|(id, _)| *id);
        let rejected = self.rejected.iter().map(|(id, _)| *id);
        self.delivered.iter().copied().chain(dropped).chain(rejected)
    }
}

impl EventStore {
    /// Takes the rows of a batch out of the queue, in one transaction that is
    /// on disk when this returns. Rows that are not in the queue any more are
    /// passed over, as is one whose producer has replaced it meanwhile.
    ///
    /// Rows of another program's database go afterwards; if that fails, the log
    /// tells, and they are sent again.
    ///
    /// # Errors
    /// If it cannot be written; then the queue is as it was.
    pub fn settle(&mut self, settled: &Settled, now: Timestamp) -> Result<(), StoreError> {
        let own: BTreeSet<i64> = settled.ids().filter(|id| *id < foreign::FIRST_ID).collect();
        let lent = std::mem::take(&mut self.lent);
        let foreign = self.foreign.as_ref();
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut state = state(&tx)?;
            for (id, reason) in &settled.rejected {
                match foreign.and_then(|foreign| foreign.lent_row(*id)) {
                    Some(row) => {
                        let row = (row.unique_id.as_str(), row.data.as_slice());
                        super::rejected::insert(&tx, row, Cause::Undecodable, reason, now)?;
                    }
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
            let cleared = state.pending == 0 && clear_away(&tx, state)?;
            save_state(&tx, state)?;
            tx.commit()?;
            Ok(cleared)
        };
        let cleared = run(&mut self.conn)
            .map_err(|source| StoreError::from_use(&self.path, "take events out", source))?;
        if cleared {
            self.give_room_back();
        }
        if let Some(foreign) = &mut self.foreign {
            foreign.delete(settled.ids().filter(|id| *id >= foreign::FIRST_ID));
        }
        Ok(())
    }

    /// Makes the file small again after many rows went at once. What is left is
    /// little, so this is cheap; another program's lock is no reason to wait.
    fn give_room_back(&self) {
        let made = self
            .conn
            .execute_batch("VACUUM")
            .and_then(|()| crate::store::db::checkpoint(&self.conn));
        if let Err(error) = made {
            tracing::debug!(%error, "events.db keeps its size");
        }
    }
}

/// Takes rows out of the queue and answers how many there were.
fn take_out(
    tx: &Transaction<'_>,
    state: &mut State,
    ids: &BTreeSet<i64>,
    lent: &std::collections::BTreeMap<i64, u64>,
) -> rusqlite::Result<u64> {
    let Some(last) = ids.last() else { return Ok(0) };
    let mut taken = 0;
    for (id, fingerprint) in lent.iter().filter(|(id, _)| ids.contains(id)) {
        taken += u64::from(remove_unchanged(tx, *id, *fingerprint)?);
    }
    let queued: Vec<(i64, i64)> = tx
        .prepare_cached(
            "SELECT id, idx FROM agent_queue WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )?
        .query_map((state.settled_through, last, ids.len() as u64 + 1), |row| row.try_into())?
        .collect::<Result<_, _>>()?;
    let ours = |(id, idx): &(i64, i64)| ids.contains(id) && *idx >= OTHERS_END;
    let begun: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_queue WHERE id <= ?1)")?
        .query_row([state.settled_through], |row| row.get(0))?;
    if (begun || state.pending > LONG) && !queued.is_empty() && queued.iter().all(ours) {
        state.settled_through = *last;
        return Ok(taken + queued.len() as u64);
    }
    for id in ids.iter().filter(|id| **id > state.settled_through && !lent.contains_key(id)) {
        taken += u64::from(remove(tx, *id)?);
    }
    Ok(taken)
}

/// Takes another producer's row out, unless it has been replaced since it was
/// read: then it keeps its place behind those that came before it.
fn remove_unchanged(tx: &Transaction<'_>, id: i64, fingerprint: u64) -> rusqlite::Result<bool> {
    let mut select = tx.prepare_cached(
        "SELECT e.eventdata FROM agent_queue AS q JOIN events AS e ON e.idx = q.idx WHERE q.id = ?1",
    )?;
    let mut rows = select.query([id])?;
    let same = match rows.next()? {
        Some(row) => foreign::fingerprint(&super::read::data(row.get_ref(0)?)) == fingerprint,
        None => true,
    };
    drop(rows);
    if same {
        return remove(tx, id);
    }
    // Without its entry it counts as new and is entered again.
    let gone = tx.prepare_cached("DELETE FROM agent_queue WHERE id = ?1")?.execute([id])?;
    Ok(gone > 0)
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

/// Deletes the rows of settled events once nothing is queued; answers whether
/// they were many.
fn clear_away(tx: &Transaction<'_>, state: State) -> rusqlite::Result<bool> {
    let left: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_queue)")?
        .query_row([], |row| row.get(0))?;
    if !left {
        return Ok(false);
    }
    // Without a condition SQLite frees whole pages; with one it looks each row
    // up in the unique index.
    let others: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE idx < 4294967296)")?
        .query_row([], |row| row.get(0))?;
    if others {
        tx.execute(
            "DELETE FROM events WHERE idx >= 4294967296 AND idx <= 4294967296 + ?1",
            [state.settled_through],
        )?;
        tx.execute("DELETE FROM agent_queue WHERE id <= ?1", [state.settled_through])?;
    } else {
        tx.execute_batch("DELETE FROM events; DELETE FROM agent_queue;")?;
    }
    Ok(true)
}
