//! Events that the server refuses: found by halving across syncs, then set
//! aside with the server's words.

use rusqlite::OptionalExtension as _;

use super::rejected::{Cause, insert as insert_rejected, keep_within_bound, set_aside};
use super::{EventStore, foreign, save_state, state};
use crate::model::Timestamp;
use crate::store::StoreError;

/// In how many syncs an event is refused by itself before it is set aside.
pub(super) const ALONE_MAX: u32 = 3;

/// What a refusal led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The next sync sends these events in batches of at most so many.
    Smaller {
        /// At least 1.
        batch_limit: usize,
    },
    /// The event was refused by itself, in so many syncs so far.
    Alone {
        /// Less than three.
        times: u32,
    },
    /// The event was refused by itself in three syncs and has been set aside.
    SetAside,
    /// There was no event.
    Nothing,
}

/// What the refusal of a batch of `events` events leads to, the first of which
/// was refused by itself in `alone` syncs before.
pub(super) fn judge(events: usize, alone: u32) -> Refused {
    match events {
        0 => Refused::Nothing,
        1 if alone + 1 >= ALONE_MAX => Refused::SetAside,
        1 => Refused::Alone { times: alone + 1 },
        more => Refused::Smaller { batch_limit: more / 2 },
    }
}

impl EventStore {
    /// Notes that the server refused the events of a batch for good, in its
    /// words. To be called once a sync, which a refusal ends.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn note_refused(
        &mut self,
        ids: &[i64],
        words: &str,
        now: Timestamp,
    ) -> Result<Refused, StoreError> {
        let Some(&first) = ids.first() else { return Ok(Refused::Nothing) };
        let lent = self
            .foreign
            .as_ref()
            .and_then(|foreign| foreign.lent_row(first))
            .map(|row| (row.unique_id.clone(), row.data.clone()));
        let refused = self.commit("note refused events", |tx| {
            let alone: Option<u32> = tx
                .prepare_cached("SELECT alone FROM agent_refusals WHERE id = ?1")?
                .query_row([first], |row| row.get(0))
                .optional()?;
            let refused = judge(ids.len(), alone.unwrap_or(0));
            let (batch_limit, alone) = match refused {
                Refused::Nothing => return Ok(refused),
                Refused::Smaller { batch_limit } => (batch_limit, 0),
                Refused::Alone { times } => (1, times),
                Refused::SetAside => {
                    if let Some((unique_id, data)) = &lent {
                        insert_rejected(tx, (unique_id, data), Cause::Refused, words, now)?;
                    } else {
                        set_aside(tx, first, Cause::Refused, words, now)?;
                        let mut state = state(tx)?;
                        state.pending =
                            state.pending.saturating_sub(u64::from(super::remove(tx, first)?));
                        save_state(tx, state)?;
                    }
                    tx.execute("DELETE FROM agent_refusals WHERE id = ?1", [first])?;
                    keep_within_bound(tx, now)?;
                    return Ok(refused);
                }
            };
            let mut note = tx.prepare_cached(
                "INSERT OR REPLACE INTO agent_refusals (id, batch_limit, alone) VALUES (?1, ?2, ?3)",
            )?;
            for id in ids {
                note.execute((id, batch_limit as u64, alone))?;
            }
            Ok(refused)
        })?;
        if refused == Refused::SetAside
            && let Some(foreign) = &mut self.foreign
        {
            foreign.delete(ids.iter().copied().filter(|id| *id >= foreign::FIRST_ID));
        }
        Ok(refused)
    }

    /// The largest batch that the oldest event may be sent in, if the server
    /// refused one with it. [`Self::read_batch`] keeps to it by itself.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn batch_limit(&self) -> Result<Option<usize>, StoreError> {
        let sql = "SELECT min(batch_limit) FROM agent_refusals";
        let limit = self.conn.query_row(sql, [], |row| row.get(0));
        limit.map_err(self.failed("read what the server refused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EV-6: half the batch, down to one; alone three times.
    #[test]
    fn ev_6_a_refused_batch_is_halved_and_a_lone_event_has_three_chances() {
        assert_eq!(judge(0, 0), Refused::Nothing);
        assert_eq!(judge(500, 0), Refused::Smaller { batch_limit: 250 });
        assert_eq!(judge(3, 0), Refused::Smaller { batch_limit: 1 });
        assert_eq!(judge(2, 2), Refused::Smaller { batch_limit: 1 });
        assert_eq!(judge(1, 0), Refused::Alone { times: 1 });
        assert_eq!(judge(1, 1), Refused::Alone { times: 2 });
        assert_eq!(judge(1, 2), Refused::SetAside);
    }
}
