//! Executables of bundles that the authorizer uploaded, held apart from the queue
//! until the upstream server requests their bundle (RELAY-8).
//!
//! A member stays known after it has been queued, without its payload, so that
//! the authorizer is not asked for it again and again.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, Transaction};

use super::queue::insert;
use super::relayed::{fits, is_recent, millis};
use super::{EventStore, Limits, NewEvent, QueueState, save_state, state, unique};
use crate::model::{EventBundle, EventDigest, EventSummary, RelayedEvent, Timestamp};
use crate::store::StoreError;

/// How long the members of a bundle are held.
const HELD_FOR: Duration = Duration::from_hours(30 * 24);
/// The most members known.
const MAX_MEMBERS: u64 = 50_000;
/// The most bytes of their payloads.
const MAX_BYTES: u64 = 256 << 20;

/// What became of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberTaken {
    /// It is held.
    Held,
    /// It is held already, or was queued for the same request a short time ago.
    Known,
}

/// A bundle of which members are known.
struct KnownBundle {
    id: i64,
    members: u64,
    held: u64,
    bytes: u64,
}

/// A request of the upstream server for a bundle.
struct OpenRequest {
    requested: i64,
    delivered: u64,
}

impl EventStore {
    /// Queues the held members of every requested bundle that fits into the queue,
    /// and forgets bundles that have been held too long.
    ///
    /// # Errors
    /// If the queue cannot be written.
    pub(super) fn serve_bundle_requests(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let any: bool = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_bundles)")
            .and_then(|mut any| any.query_row([], |row| row.get(0)))
            .map_err(self.failed("look for held bundles"))?;
        if !any {
            return Ok(());
        }
        let limits = self.limits;
        self.commit("queue the executables of bundles", |tx| {
            keep_within_bounds(tx, now)?;
            let hashes: Vec<String> = tx
                .prepare_cached(
                    "SELECT b.hash FROM agent_bundles AS b \
                     JOIN agent_bundle_requests AS r ON r.hash = b.hash \
                     WHERE b.held > 0 ORDER BY b.id",
                )?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut state = state(tx)?;
            for hash in &hashes {
                queue_fitting(tx, &mut state, hash, limits, now)?;
            }
            save_state(tx, state)
        })
    }
}

/// Takes a member of a bundle.
pub(super) fn take(
    tx: &Transaction<'_>,
    event: &RelayedEvent,
    bundle: &EventBundle,
    now: Timestamp,
) -> rusqlite::Result<MemberTaken> {
    let known = find_or_add(tx, &bundle.hash, now)?;
    let found: Option<(i64, bool, Option<i64>, Option<i64>)> = tx
        .prepare_cached(
            "SELECT id, eventdata IS NOT NULL, request, queued FROM agent_bundle_members \
             WHERE bundle = ?1 AND digest = ?2",
        )?
        .query_row((known.id, event.digest.as_bytes()), |row| row.try_into())
        .optional()?;
    match found {
        Some((_, true, ..)) => return Ok(MemberTaken::Known),
        Some((_, false, Some(request), Some(queued)))
            if open_request(tx, &bundle.hash)?.is_some_and(|open| open.requested == request)
                && is_recent(Timestamp::from_millis(queued), now) =>
        {
            return Ok(MemberTaken::Known);
        }
        Some((id, ..)) => {
            tx.prepare_cached("UPDATE agent_bundle_members SET eventdata = ?2 WHERE id = ?1")?
                .execute((id, &event.data[..]))?;
        }
        None => {
            tx.prepare_cached(
                "INSERT INTO agent_bundle_members (bundle, digest, eventdata) VALUES (?1, ?2, ?3)",
            )?
            .execute((known.id, event.digest.as_bytes(), &event.data[..]))?;
        }
    }
    tx.prepare_cached(
        "UPDATE agent_bundles SET members = members + ?2, held = held + 1, bytes = bytes + ?3 \
         WHERE id = ?1",
    )?
    .execute((known.id, found.is_none(), event.data.len() as u64))?;
    Ok(MemberTaken::Held)
}

/// Queues the held members of a bundle, if the upstream server has requested it and
/// they fit into the queue; else they stay held. Returns how many were queued.
pub(super) fn queue_fitting(
    tx: &Transaction<'_>,
    state: &mut QueueState,
    hash: &str,
    limits: Limits,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    let (Some(open), Some(bundle)) = (open_request(tx, hash)?, find(tx, hash)?) else {
        return Ok(0);
    };
    if bundle.held == 0
        || (state.pending > 0 && !fits(tx, *state, limits, bundle.held, bundle.bytes)?)
    {
        return Ok(0);
    }
    let ids: Vec<i64> = tx
        .prepare_cached(
            "SELECT id FROM agent_bundle_members \
             WHERE bundle = ?1 AND eventdata IS NOT NULL ORDER BY id",
        )?
        .query_map([bundle.id], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in ids {
        let (digest, data) = tx
            .prepare_cached("SELECT digest, eventdata FROM agent_bundle_members WHERE id = ?1")?
            .query_row([id], |row| Ok((EventDigest::from_bytes(row.get(0)?), row.get(1)?)))?;
        let summary = EventSummary { unique_id: digest.unique_id(), actionable: true };
        insert(tx, state, &NewEvent { summary, data }, now)?;
        tx.prepare_cached(
            "UPDATE agent_bundle_members SET eventdata = NULL, request = ?2, queued = ?3 \
             WHERE id = ?1",
        )?
        .execute((id, open.requested, now.as_millis()))?;
    }
    tx.prepare_cached("UPDATE agent_bundles SET held = 0, bytes = 0 WHERE id = ?1")?
        .execute([bundle.id])?;
    Ok(bundle.held)
}

/// Whether members of a bundle are lacking: not all of them have been uploaded, or
/// the upstream server has requested the bundle and not all of them are held,
/// queued or delivered.
pub(super) fn is_wanted(
    tx: &Transaction<'_>,
    state: QueueState,
    bundle: &EventBundle,
) -> rusqlite::Result<bool> {
    let needed = u64::from(bundle.executables.max(1));
    let Some(known) = find(tx, &bundle.hash)? else { return Ok(true) };
    let Some(open) = open_request(tx, &bundle.hash)? else { return Ok(known.members < needed) };
    let mut there = known.held + open.delivered;
    if there >= needed {
        return Ok(false);
    }
    let mut served = tx.prepare_cached(
        "SELECT digest FROM agent_bundle_members \
         WHERE bundle = ?1 AND eventdata IS NULL AND request = ?2",
    )?;
    let mut served = served.query((known.id, open.requested))?;
    while let Some(row) = served.next()? {
        let unique_id = EventDigest::from_bytes(row.get(0)?).unique_id();
        there += u64::from(unique::is_queued(tx, state, &unique_id)?);
        if there >= needed {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Forgets bundles that have been held too long, and the oldest ones beyond the
/// bounds.
pub(super) fn keep_within_bounds(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let (mut members, mut bytes): (u64, u64) = tx
        .prepare_cached(
            "SELECT coalesce(sum(members), 0), coalesce(sum(bytes), 0) FROM agent_bundles",
        )?
        .query_row([], |row| row.try_into())?;
    let end = now.as_millis().saturating_sub(millis(HELD_FOR));
    loop {
        let oldest: Option<(i64, i64, u64, u64)> = tx
            .prepare_cached(
                "SELECT id, arrived, members, bytes FROM agent_bundles ORDER BY id LIMIT 1",
            )?
            .query_row([], |row| row.try_into())
            .optional()?;
        let Some((id, arrived, its_members, its_bytes)) = oldest else { return Ok(()) };
        if arrived > end && members <= MAX_MEMBERS && bytes <= MAX_BYTES {
            return Ok(());
        }
        for sql in [
            "DELETE FROM agent_bundle_members WHERE bundle = ?1",
            "DELETE FROM agent_bundles WHERE id = ?1",
        ] {
            tx.prepare_cached(sql)?.execute([id])?;
        }
        members = members.saturating_sub(its_members);
        bytes = bytes.saturating_sub(its_bytes);
    }
}

fn find(tx: &Transaction<'_>, hash: &str) -> rusqlite::Result<Option<KnownBundle>> {
    tx.prepare_cached("SELECT id, members, held, bytes FROM agent_bundles WHERE hash = ?1")?
        .query_row([hash], |row| {
            Ok(KnownBundle {
                id: row.get(0)?,
                members: row.get(1)?,
                held: row.get(2)?,
                bytes: row.get(3)?,
            })
        })
        .optional()
}

fn find_or_add(tx: &Transaction<'_>, hash: &str, now: Timestamp) -> rusqlite::Result<KnownBundle> {
    if let Some(known) = find(tx, hash)? {
        return Ok(known);
    }
    tx.prepare_cached(
        "INSERT INTO agent_bundles (hash, arrived, members, held, bytes) VALUES (?1, ?2, 0, 0, 0)",
    )?
    .execute((hash, now.as_millis()))?;
    Ok(KnownBundle { id: tx.last_insert_rowid(), members: 0, held: 0, bytes: 0 })
}

fn open_request(tx: &Transaction<'_>, hash: &str) -> rusqlite::Result<Option<OpenRequest>> {
    tx.prepare_cached("SELECT requested, delivered FROM agent_bundle_requests WHERE hash = ?1")?
        .query_row([hash], |row| Ok(OpenRequest { requested: row.get(0)?, delivered: row.get(1)? }))
        .optional()
}
