//! Queueing events: deduplication, the bounds of the queue, one commit for a
//! whole batch.

use rusqlite::Transaction;

use super::{
    EventStore, OTHERS_END, QUEUE_FULL, QueueState, add_bytes, count_drops, remove, save_state,
    state, unique,
};
use crate::model::{EventSummary, Now, Timestamp};
use crate::store::StoreError;

/// The bounds of the queue. Beyond either, the oldest records of allowed
/// executions are dropped; if there are none, the oldest events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most events kept queued.
    pub events: u64,
    /// The most bytes of their payloads.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 1_000_000, bytes: 2 << 30 }
    }
}

/// How many more events than were added are dropped in one commit after a bound
/// was lowered.
const DROPPED_AT_ONCE: usize = 10_000;

/// An event to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What the queue must know about it.
    pub summary: EventSummary,
    /// Its stored form.
    pub data: Vec<u8>,
}

/// The outcome of queueing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queued {
    /// It is queued.
    Added,
    /// An event with the same unique id is queued already, and stays.
    Duplicate,
    /// It is a record of something allowed, and an equal one was queued less
    /// than 4 h ago.
    BackedOff,
}

impl EventStore {
    /// Queues an event, see [`Self::queue_events`].
    ///
    /// # Errors
    /// If it cannot be written; then it is not queued.
    pub fn queue_event(
        &mut self,
        summary: &EventSummary,
        data: &[u8],
        now: Now,
        limits: Limits,
    ) -> Result<Queued, StoreError> {
        let event = NewEvent { summary: summary.clone(), data: data.to_owned() };
        let answers = self.queue_events(std::slice::from_ref(&event), now, limits)?;
        Ok(answers.first().copied().unwrap_or(Queued::Duplicate))
    }

    /// Queues events in this order and in one transaction, which is on disk
    /// when this returns. Returns the outcome for each.
    ///
    /// # Errors
    /// If they cannot be written; then none is queued.
    pub fn queue_events(
        &mut self,
        events: &[NewEvent],
        now: Now,
        limits: Limits,
    ) -> Result<Vec<Queued>, StoreError> {
        let admitted: Vec<bool> = events
            .iter()
            .map(|NewEvent { summary, .. }| {
                summary.actionable || self.recent.admits(&summary.unique_id, now.elapsed)
            })
            .collect();
        if !admitted.contains(&true) {
            return Ok(vec![Queued::BackedOff; events.len()]);
        }
        let mut queued = self.enter(events, &admitted, now.wall, limits);
        // Checked afterwards, so that it does not matter when the file was set
        // aside: events in a file that nobody reads are queued again.
        if self.is_another() {
            queued = self
                .reopen(now.wall)
                .and_then(|()| self.enter(events, &admitted, now.wall, limits));
        }
        if queued.is_err() {
            for (event, _) in events.iter().zip(admitted).filter(|(_, admitted)| *admitted) {
                self.recent.forget(&event.summary.unique_id);
            }
        }
        queued
    }

    fn enter(
        &mut self,
        events: &[NewEvent],
        admitted: &[bool],
        now: Timestamp,
        limits: Limits,
    ) -> Result<Vec<Queued>, StoreError> {
        self.commit("queue events", |tx| {
            let mut state = state(tx)?;
            let mut answers = Vec::with_capacity(events.len());
            for (event, admitted) in events.iter().zip(admitted) {
                answers.push(if *admitted {
                    insert(tx, &mut state, event, now)?
                } else {
                    Queued::BackedOff
                });
            }
            keep_within(tx, &mut state, limits, events.len(), now)?;
            save_state(tx, state)?;
            Ok(answers)
        })
    }
}

/// Queues an event, unless one with its unique id is queued.
pub(super) fn insert(
    tx: &Transaction<'_>,
    state: &mut QueueState,
    event: &NewEvent,
    now: Timestamp,
) -> rusqlite::Result<Queued> {
    let unique_id = event.summary.unique_id.as_str();
    if unique::is_queued(tx, *state, unique_id)? {
        return Ok(Queued::Duplicate);
    }
    state.last_id += 1;
    state.pending += 1;
    let id = state.last_id;
    let bytes = i64::try_from(event.data.len()).unwrap_or(i64::MAX);
    tx.prepare_cached("INSERT INTO agent_events (id, uniqueid, eventdata) VALUES (?1, ?2, ?3)")?
        .execute((id, unique_id, &event.data))?;
    tx.prepare_cached(
        "INSERT INTO agent_queue (id, idx, arrived, allowed, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((id, OTHERS_END + id, now.as_millis(), !event.summary.actionable, bytes))?;
    add_bytes(tx, bytes)?;
    unique::note(tx, unique_id, id)?;
    Ok(Queued::Added)
}

/// Drops and counts events beyond the limits, after `added` events were queued.
fn keep_within(
    tx: &Transaction<'_>,
    state: &mut QueueState,
    limits: Limits,
    added: usize,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let bytes: u64 = tx
        .prepare_cached("SELECT bytes FROM agent_queue_state")?
        .query_row([], |row| row.get(0))?;
    let mut surplus_events = state.pending.saturating_sub(limits.events);
    let mut surplus_bytes = bytes.saturating_sub(limits.bytes);
    let mut room = DROPPED_AT_ONCE.saturating_add(added);
    let mut dropped = 0;
    for sql in [
        "SELECT id, bytes FROM agent_queue WHERE allowed = 1 AND id > ?1 ORDER BY id",
        "SELECT id, bytes FROM agent_queue WHERE id > ?1 ORDER BY id",
    ] {
        if surplus_events == 0 && surplus_bytes == 0 {
            break;
        }
        let mut oldest = Vec::new();
        let mut statement = tx.prepare_cached(sql)?;
        let mut rows = statement.query([state.settled_through])?;
        while (surplus_events > 0 || surplus_bytes > 0)
            && room > 0
            && let Some(row) = rows.next()?
        {
            oldest.push(row.get(0)?);
            surplus_events = surplus_events.saturating_sub(1);
            surplus_bytes = surplus_bytes.saturating_sub(row.get(1)?);
            room -= 1;
        }
        drop(rows);
        for id in oldest {
            dropped += u64::from(remove(tx, id)?);
        }
    }
    if dropped > 0 {
        state.pending = state.pending.saturating_sub(dropped);
        count_drops(tx, QUEUE_FULL, "", dropped, now)?;
    }
    Ok(())
}
