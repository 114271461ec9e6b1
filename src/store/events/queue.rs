//! Taking events in: deduplication, the bound of the queue, one commit for a
//! whole batch.

use rusqlite::{OptionalExtension as _, Transaction};

use super::{EventStore, OTHERS_END, QUEUE_FULL, State, count_drops, remove, save_state, state};
use crate::model::{EventSummary, Now, Timestamp};
use crate::store::StoreError;

/// The bound of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most events kept queued. Beyond, the oldest records of allowed
    /// things are dropped, and if there are none, the oldest events.
    pub events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 1_000_000 }
    }
}

/// An event to take in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What the queue must know of it.
    pub summary: EventSummary,
    /// Its stored form.
    pub data: Vec<u8>,
}

/// What became of an event that was to be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queued {
    /// It is queued.
    Added,
    /// An event of the same unique id waits already; that one stays.
    Duplicate,
    /// It is a record of something allowed, of which an equal one was taken in
    /// less than 4 h ago.
    BackedOff,
}

impl EventStore {
    /// Takes an event in, see [`Self::queue_events`].
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

    /// Takes events in, in this order and one transaction: they are on disk
    /// when this returns. Answers what became of each.
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
                summary.actionable || self.backoff.admits(&summary.unique_id, now.elapsed)
            })
            .collect();
        if !admitted.contains(&true) {
            return Ok(vec![Queued::BackedOff; events.len()]);
        }
        let mut queued = self.enter(events, &admitted, now.wall, limits);
        // Asked afterwards: then it does not matter when the file was set aside,
        // and events in a file that nobody reads are entered again.
        if self.is_another() {
            queued = self
                .reopen(now.wall)
                .and_then(|()| self.enter(events, &admitted, now.wall, limits));
        }
        if queued.is_err() {
            for (event, _) in events.iter().zip(admitted).filter(|(_, admitted)| *admitted) {
                self.backoff.forget(&event.summary.unique_id);
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
            keep_within(tx, &mut state, limits, now)?;
            save_state(tx, state)?;
            Ok(answers)
        })
    }
}

/// Enters an event, unless one of its unique id is queued.
pub(super) fn insert(
    tx: &Transaction<'_>,
    state: &mut State,
    event: &NewEvent,
    now: Timestamp,
) -> rusqlite::Result<Queued> {
    let unique_id = event.summary.unique_id.as_str();
    let same: Option<i64> = tx
        .prepare_cached("SELECT idx FROM events WHERE uniqueid = ?1")?
        .query_row([unique_id], |row| row.get(0))
        .optional()?;
    if let Some(idx) = same {
        let id = idx - OTHERS_END;
        if id <= 0 || id > state.settled_through {
            return Ok(Queued::Duplicate);
        }
        // It was delivered; only its row is still there.
        remove(tx, id)?;
    }
    state.last_id += 1;
    state.pending += 1;
    let (id, idx) = (state.last_id, OTHERS_END + state.last_id);
    tx.prepare_cached("INSERT INTO events (idx, uniqueid, eventdata) VALUES (?1, ?2, ?3)")?
        .execute((idx, unique_id, &event.data))?;
    tx.prepare_cached(
        "INSERT INTO agent_queue (id, idx, arrived, allowed) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((id, idx, now.as_millis(), !event.summary.actionable))?;
    Ok(Queued::Added)
}

/// Drops what is too many and counts it.
fn keep_within(
    tx: &Transaction<'_>,
    state: &mut State,
    limits: Limits,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let surplus = state.pending.saturating_sub(limits.events);
    let mut dropped = 0;
    for sql in [
        "SELECT id FROM agent_queue WHERE allowed = 1 AND id > ?1 ORDER BY id LIMIT ?2",
        "SELECT id FROM agent_queue WHERE id > ?1 ORDER BY id LIMIT ?2",
    ] {
        if dropped == surplus {
            break;
        }
        let oldest: Vec<i64> = tx
            .prepare_cached(sql)?
            .query_map((state.settled_through, surplus - dropped), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for id in oldest {
            dropped += u64::from(remove(tx, id)?);
        }
    }
    if dropped > 0 {
        state.pending -= dropped;
        count_drops(tx, QUEUE_FULL, "", dropped, now)?;
    }
    Ok(())
}
