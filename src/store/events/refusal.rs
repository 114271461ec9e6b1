//! Events that the server refuses: isolated by halving batches across syncs,
//! then set aside with the server's message. Also what syncs remember about
//! refusals.

use rusqlite::{OptionalExtension as _, Transaction};

use super::rejected::{Cause, add as add_rejected, keep_within_bound, set_aside};
use super::{EventStore, foreign, save_state, state};
use crate::model::{Timestamp, UploadMemory};
use crate::store::{StoreError, agent_meta};

/// In how many syncs an event must be refused alone before it is set aside.
pub(super) const ALONE_MAX: u32 = 3;
/// The largest batch after a first refusal. Five halvings then lead to single
/// events, so that eight syncs isolate a refused event in a batch of any size.
const MAX_AFTER_REFUSAL: usize = 25;

const BATCH_CEILING_KEY: &str = "batch_ceiling";
const REFUSED_SYNCS: &str = "refused_syncs";

/// The outcome of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The next sync sends these events in smaller batches.
    Smaller {
        /// The largest batch; at least 1.
        batch_limit: usize,
    },
    /// The event was refused alone.
    Alone {
        /// In how many syncs so far; less than three.
        times: u32,
    },
    /// The event was refused alone in three syncs, or as too large, and has
    /// been set aside.
    SetAside,
    /// The batch was empty.
    Nothing,
}

/// Returns the outcome of a refused batch of `events` events, the first of
/// which was refused alone in `alone` earlier syncs.
pub fn judge_refusal(events: usize, alone: u32) -> Refused {
    match events {
        0 => Refused::Nothing,
        1 if alone + 1 >= ALONE_MAX => Refused::SetAside,
        1 => Refused::Alone { times: alone + 1 },
        more => Refused::Smaller { batch_limit: (more / 2).min(MAX_AFTER_REFUSAL) },
    }
}

impl EventStore {
    /// Records that the server refused the events of a batch permanently, with
    /// its message, together with what syncs remember. An event that was
    /// refused alone is set aside after three syncs, or immediately with
    /// `at_once`. An event's refusal must not be recorded twice in one sync.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn note_refused(
        &mut self,
        ids: &[i64],
        words: &str,
        at_once: bool,
        memory: UploadMemory,
        now: Timestamp,
    ) -> Result<Refused, StoreError> {
        let Some(&first) = ids.first() else { return Ok(Refused::Nothing) };
        let lent = self.foreign.as_ref().and_then(|foreign| foreign.lent_row(first)).cloned();
        let refused = self.commit("note refused events", |tx| {
            let alone: Option<u32> = tx
                .prepare_cached("SELECT alone FROM agent_refusals WHERE id = ?1")?
                .query_row([first], |row| row.get(0))
                .optional()?;
            let alone = if at_once { ALONE_MAX } else { alone.unwrap_or(0) };
            let refused = judge_refusal(ids.len(), alone);
            remember(tx, memory)?;
            let (batch_limit, alone) = match refused {
                Refused::Nothing => return Ok(refused),
                Refused::Smaller { batch_limit } => (batch_limit, 0),
                Refused::Alone { times } => (1, times),
                Refused::SetAside => {
                    if let Some(row) = &lent {
                        add_rejected(tx, row, false, Cause::Refused, words, now)?;
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

    /// Returns what earlier syncs learned about refused batches.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn upload_memory(&self) -> Result<UploadMemory, StoreError> {
        let read = || {
            // An unreadable value counts as missing: it is learned again.
            let ceiling: Option<u32> = agent_meta::get(&self.conn, BATCH_CEILING_KEY)?;
            Ok(UploadMemory {
                ceiling: ceiling.and_then(|ceiling| usize::try_from(ceiling).ok()),
                refused_syncs: agent_meta::get(&self.conn, REFUSED_SYNCS)?.unwrap_or(0),
            })
        };
        read().map_err(self.failed("read what the server refused"))
    }

    /// Stores what a sync has learned about the size of batches.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub fn note_upload_memory(&mut self, memory: UploadMemory) -> Result<(), StoreError> {
        self.commit("note the size of batches", |tx| remember(tx, memory))
    }
}

fn remember(tx: &Transaction<'_>, memory: UploadMemory) -> rusqlite::Result<()> {
    let UploadMemory { ceiling, refused_syncs } = memory;
    let ceiling = ceiling.map(|ceiling| u32::try_from(ceiling).unwrap_or(u32::MAX));
    match ceiling {
        Some(ceiling) => agent_meta::put(tx, BATCH_CEILING_KEY, &ceiling)?,
        None => agent_meta::forget(tx, BATCH_CEILING_KEY)?,
    }
    agent_meta::put(tx, REFUSED_SYNCS, &refused_syncs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EV-6: half the batch, down to one; alone three times.
    #[test]
    fn ev_6_a_refused_batch_is_halved_and_a_lone_event_has_three_chances() {
        assert_eq!(judge_refusal(0, 0), Refused::Nothing);
        assert_eq!(judge_refusal(50, 0), Refused::Smaller { batch_limit: 25 });
        assert_eq!(judge_refusal(5_000, 0), Refused::Smaller { batch_limit: 25 });
        assert_eq!(judge_refusal(3, 0), Refused::Smaller { batch_limit: 1 });
        assert_eq!(judge_refusal(2, 2), Refused::Smaller { batch_limit: 1 });
        assert_eq!(judge_refusal(1, 0), Refused::Alone { times: 1 });
        assert_eq!(judge_refusal(1, 1), Refused::Alone { times: 2 });
        assert_eq!(judge_refusal(1, 2), Refused::SetAside);
    }
}
