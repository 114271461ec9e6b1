//! Events that the authorizer of this host uploads to the relay (RELAY-8).
//!
//! Promise: all events of an upload are on disk when it is accepted, or none is.
//! An upload that is sent again, because its response was lost, adds nothing. The
//! queue drops nothing for an upload: one that does not fit is refused, and the
//! authorizer keeps its events. Executables of bundles need no room in the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::members::{self, MemberTaken};
use super::queue::insert;
use super::rejected::{self, Cause};
use super::{EventStore, Limits, NewEvent, QueueState, Queued, save_state, state};
use crate::model::{
    EventDigest, EventRow, EventSummary, Now, RelayedEvent, RelayedKind, Timestamp,
};
use crate::store::StoreError;

/// How long an event is known after it was taken.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);
/// How many events are known.
const MAX_REMEMBERED: i64 = 10_000;
/// How many forgotten events are deleted with each upload, besides as many as it
/// adds.
const FORGOTTEN_ALWAYS: u64 = 100;

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Relayed {
    /// Events added to the queue, executables of requested bundles among them.
    pub queued: u64,
    /// Events that were taken before.
    pub duplicates: u64,
    /// Events that were set aside: too large, or not readable.
    pub set_aside: u64,
    /// Executables of bundles that are held until upstream requests the bundle, or
    /// until the queue has room for them.
    pub held: u64,
    /// Hashes of bundles that the events name and whose executables the
    /// authorizer is to upload; each once.
    pub wanted: Vec<String>,
    /// Whether a denial was queued (EV-10).
    pub urgent: bool,
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The queue is at its bound.
    #[error("the event queue is full")]
    Full,
    /// The queue cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EventStore {
    /// Takes the events of an upload, in their order and in one transaction, which
    /// is on disk when this returns. Neither filters nor backs off.
    ///
    /// An upload that would exceed `limits` is taken only if nothing is queued, so
    /// that one larger than the queue does not block the authorizer forever.
    ///
    /// # Errors
    /// If the queue is full or cannot be written; then none of the events is
    /// taken.
    pub fn take_relayed(
        &mut self,
        events: &[RelayedEvent],
        now: Now,
        limits: Limits,
    ) -> Result<Relayed, TakeError> {
        let mut taken = self.take_once(events, now.wall, limits);
        // As in `queue_events`: a file that was set aside is read by nobody.
        if self.is_another() {
            self.reopen(now.wall)?;
            taken = self.take_once(events, now.wall, limits);
        }
        taken
    }

    fn take_once(
        &mut self,
        events: &[RelayedEvent],
        now: Timestamp,
        limits: Limits,
    ) -> Result<Relayed, TakeError> {
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let taken = take(&tx, events, now, limits)?;
            if taken.is_some() {
                tx.commit()?;
            }
            Ok(taken)
        };
        run(&mut self.conn)
            .map_err(self.failed("take the authorizer's events"))?
            .ok_or(TakeError::Full)
    }
}

/// Takes the events; `None` if they do not fit.
fn take(
    tx: &Transaction<'_>,
    events: &[RelayedEvent],
    now: Timestamp,
    limits: Limits,
) -> rusqlite::Result<Option<Relayed>> {
    let mut state = state(tx)?;
    let room = Room { limits, pending: state.pending };
    let mut taken = Relayed::default();
    let mut bundles: BTreeMap<&str, u64> = BTreeMap::new();
    forget(tx, events.len(), now)?;
    for event in events {
        match &event.kind {
            RelayedKind::Plain | RelayedKind::OfBundle(_) => {
                if is_remembered(tx, event.digest, now)?
                    || insert(tx, &mut state, &to_queue(event), now)? == Queued::Duplicate
                {
                    taken.duplicates += 1;
                    continue;
                }
                remember(tx, event.digest, now)?;
                taken.queued += 1;
                taken.urgent |= event.denial;
            }
            RelayedKind::Member(bundle) => {
                let held = bundles.entry(&bundle.hash).or_default();
                match members::take(tx, event, bundle, now)? {
                    MemberTaken::Known => taken.duplicates += 1,
                    MemberTaken::Held => *held += 1,
                }
            }
            RelayedKind::TooLarge { reason } => {
                set_aside(tx, event, Cause::TooLarge, reason, now, &mut taken)?;
            }
            RelayedKind::Unreadable { reason } => {
                set_aside(tx, event, Cause::Undecodable, reason, now, &mut taken)?;
            }
        }
        if !room.has_kept(tx, state)? {
            return Ok(None);
        }
    }
    for (hash, held) in &bundles {
        match members::queue_fitting(tx, &mut state, hash, limits, now)? {
            0 => taken.held += held,
            queued => taken.queued += queued,
        }
    }
    if !bundles.is_empty() {
        members::keep_within_bounds(tx, now)?;
    }
    if taken.set_aside > 0 {
        rejected::keep_within_bound(tx, now)?;
    }
    taken.wanted = wanted(tx, state, events)?;
    save_state(tx, state)?;
    Ok(Some(taken))
}

/// The queue before an upload.
struct Room {
    limits: Limits,
    pending: u64,
}

impl Room {
    /// Whether the queue as it is now has kept within its bounds, has not grown or
    /// was empty.
    fn has_kept(&self, tx: &Transaction<'_>, state: QueueState) -> rusqlite::Result<bool> {
        let exempt = self.pending == 0 || state.pending <= self.pending;
        Ok(exempt || fits(tx, state, self.limits, 0, 0)?)
    }
}

/// Whether so many more events, with payloads of so many bytes, fit into the
/// queue.
pub(super) fn fits(
    tx: &Transaction<'_>,
    state: QueueState,
    limits: Limits,
    events: u64,
    bytes: u64,
) -> rusqlite::Result<bool> {
    let queued: u64 = tx
        .prepare_cached("SELECT bytes FROM agent_queue_state")?
        .query_row([], |row| row.get(0))?;
    Ok(state.pending.saturating_add(events) <= limits.events
        && queued.saturating_add(bytes) <= limits.bytes)
}

fn to_queue(event: &RelayedEvent) -> NewEvent {
    let summary =
        EventSummary { unique_id: event.digest.unique_id(), actionable: event.actionable };
    NewEvent { summary, data: event.data.to_vec() }
}

fn set_aside(
    tx: &Transaction<'_>,
    event: &RelayedEvent,
    cause: Cause,
    reason: &str,
    now: Timestamp,
    taken: &mut Relayed,
) -> rusqlite::Result<()> {
    if is_remembered(tx, event.digest, now)? {
        taken.duplicates += 1;
        return Ok(());
    }
    let row = EventRow {
        id: 0,
        unique_id: event.digest.unique_id(),
        data: event.data.to_vec(),
        oversize: None,
    };
    rejected::add(tx, &row, !event.actionable, cause, reason, now)?;
    remember(tx, event.digest, now)?;
    taken.set_aside += 1;
    Ok(())
}

/// The bundles that the events name and that lack executables, each once, in the
/// order of the events.
fn wanted(
    tx: &Transaction<'_>,
    state: QueueState,
    events: &[RelayedEvent],
) -> rusqlite::Result<Vec<String>> {
    let (mut seen, mut wanted, mut named) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for event in events {
        if let RelayedKind::OfBundle(bundle) = &event.kind
            && seen.insert((bundle.hash.as_str(), bundle.executables))
            && members::is_wanted(tx, state, bundle)?
            && named.insert(bundle.hash.as_str())
        {
            wanted.push(bundle.hash.clone());
        }
    }
    Ok(wanted)
}

/// Whether the event was taken lately.
fn is_remembered(
    tx: &Transaction<'_>,
    digest: EventDigest,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let taken: Option<i64> = tx
        .prepare_cached("SELECT taken FROM agent_relayed WHERE digest = ?1")?
        .query_row([digest.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(taken.is_some_and(|taken| is_recent(Timestamp::from_millis(taken), now)))
}

/// Whether an event taken at that time is still known. One that seems to come from
/// the future was taken before the clock was set back.
pub(super) fn is_recent(taken: Timestamp, now: Timestamp) -> bool {
    now.since(taken) < REMEMBERED_FOR
}

fn remember(tx: &Transaction<'_>, digest: EventDigest, now: Timestamp) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO agent_relayed (digest, taken) VALUES (?1, ?2)")?
        .execute((digest.as_bytes(), now.as_millis()))
        .map(|_| ())
}

/// Makes room for `added` more events: deletes those beyond [`MAX_REMEMBERED`],
/// and old ones.
fn forget(tx: &Transaction<'_>, added: usize, now: Timestamp) -> rusqlite::Result<()> {
    let added = i64::try_from(added).unwrap_or(i64::MAX).min(MAX_REMEMBERED);
    tx.prepare_cached(
        "DELETE FROM agent_relayed WHERE id <= (SELECT max(id) FROM agent_relayed) + ?1 - ?2",
    )?
    .execute((added, MAX_REMEMBERED))?;
    let oldest: Option<i64> = tx
        .prepare_cached("SELECT taken FROM agent_relayed ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if oldest.is_some_and(|oldest| !is_recent(Timestamp::from_millis(oldest), now)) {
        let end = now.as_millis().saturating_sub(millis(REMEMBERED_FOR));
        tx.prepare_cached(
            "DELETE FROM agent_relayed WHERE taken <= ?1 \
             AND id IN (SELECT id FROM agent_relayed ORDER BY id LIMIT ?2)",
        )?
        .execute((end, FORGOTTEN_ALWAYS + 2 * added.unsigned_abs()))?;
    }
    Ok(())
}

/// Milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
