//! Reading the queue, oldest first, a batch at a time.

use rusqlite::OptionalExtension as _;

use super::horizon::Horizon;
use super::rejected::is_set_aside;
use super::settle::forget_entry;
use super::{EventStore, add_bytes, foreign, not_entered, row, save_state, state};
use crate::model::{EventRow, Timestamp};
use crate::store::StoreError;

/// The largest total payload of a batch, in bytes, which bounds memory. A
/// thousand typical events take 1 to 5 MB.
const BATCH_BYTES: usize = 8 << 20;

/// A row of the queue; without an event if its producer has deleted it.
struct QueueRow {
    id: i64,
    idx: i64,
    event: Option<EventRow>,
}

impl EventStore {
    /// Returns the oldest queued events after `after`, at most `limit`. Only an
    /// empty batch means that nothing is left. Events that the server refused
    /// come in batches as small as [`Self::note_refused`] has determined.
    ///
    /// Rows of [`Self::drain_also`]'s database come last, in the order of its
    /// table; what cannot be read there is logged and does not affect our own
    /// events.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn read_batch(
        &mut self,
        limit: usize,
        after: Option<i64>,
        now: Timestamp,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read_batch_within(limit, after, Horizon::ENDLESS, now)
    }

    /// Like [`Self::read_batch`], but ends with the last event of the horizon:
    /// the last batch may contain later events, but no batch begins with one.
    /// Rows of [`Self::drain_also`]'s database end once as many have been
    /// settled as waited there when the horizon was taken.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn read_batch_within(
        &mut self,
        limit: usize,
        after: Option<i64>,
        horizon: Horizon,
        now: Timestamp,
    ) -> Result<Vec<EventRow>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        if after.is_none_or(|after| after < foreign::FIRST_ID && horizon.goes_past(after)) {
            loop {
                let rows = self.own_rows(limit, after)?;
                let found = rows.len();
                let (batch, gone) = self.lend(rows);
                if !gone.is_empty() {
                    self.forget(&gone)?;
                }
                if batch.first().is_some_and(|row| horizon.covers(row.id)) {
                    return Ok(batch);
                }
                if !batch.is_empty() || (found == 0 && self.adopt(now)? == 0) {
                    break;
                }
            }
        }
        if self.foreign.as_ref().is_some_and(|foreign| foreign.settled() >= horizon.elsewhere) {
            return Ok(Vec::new());
        }
        self.foreign_rows(limit, after)
    }

    /// Returns the batch that [`Self::read_batch`] will return once everything
    /// up to `after` has been settled; `None` unless it consists of our own
    /// events.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn read_on(&self, limit: usize, after: i64) -> Result<Option<Vec<EventRow>>, StoreError> {
        if limit == 0 || after >= foreign::FIRST_ID {
            return Ok(None);
        }
        let rows = self.own_rows(limit, Some(after))?;
        let own = |row: QueueRow| row.event.filter(|_| row.idx >= super::OTHERS_END);
        let batch: Option<Vec<EventRow>> = rows.into_iter().map(own).collect();
        Ok(batch.filter(|batch| !batch.is_empty()))
    }

    /// Returns rows of the other program's database, as many as fit in a batch.
    /// Deletes those that were set aside earlier but could not be deleted then.
    fn foreign_rows(
        &mut self,
        limit: usize,
        mut after: Option<i64>,
    ) -> Result<Vec<EventRow>, StoreError> {
        let Some(foreign) = &mut self.foreign else { return Ok(Vec::new()) };
        let failed = |source| StoreError::from_use(&self.path, READ_EVENTS, source);
        loop {
            let mut room = BatchRoom::new(limit);
            let (mut batch, mut known) = (Vec::new(), Vec::new());
            let rows = foreign.read(limit, after, BATCH_BYTES);
            let Some(last) = rows.last().map(|row| row.id) else { return Ok(Vec::new()) };
            for row in rows {
                if is_set_aside(&self.conn, &row).map_err(failed)? {
                    known.push(row);
                    continue;
                }
                let batch_limit = self
                    .conn
                    .prepare_cached("SELECT batch_limit FROM agent_refusals WHERE id = ?1")
                    .and_then(|mut sql| sql.query_row([row.id], |row| row.get(0)).optional())
                    .map_err(failed)?;
                if !room.take(row.data.len(), batch_limit) {
                    break;
                }
                batch.push(row);
            }
            foreign.discard(&known);
            if !batch.is_empty() {
                foreign.lend(&batch);
                return Ok(batch);
            }
            foreign.pass_over(last);
            after = Some(last);
        }
    }

    /// Visits the queued events, oldest first, until `each` breaks, excluding
    /// another program's database.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn visit(
        &self,
        each: &mut dyn FnMut(EventRow, Timestamp) -> std::ops::ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT {}, q.arrived FROM {} \
             WHERE q.id > (SELECT settled_through FROM agent_queue_state) ORDER BY q.id",
            row::queued_columns(),
            row::QUEUED_EVENTS
        );
        let mut visit = || {
            let mut rows = self.conn.prepare(&sql)?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let arrived = Timestamp::from_millis(row.get("arrived")?);
                if let Some(event) = row::read_queued(row)?
                    && each(event, arrived).is_break()
                {
                    break;
                }
            }
            Ok(())
        };
        visit().map_err(self.failed(READ_EVENTS))
    }

    /// Returns rows of our own database, as many as fit in a batch.
    fn own_rows(&self, limit: usize, after: Option<i64>) -> Result<Vec<QueueRow>, StoreError> {
        let sql = format!(
            "SELECT {}, q.idx, r.batch_limit FROM {} LEFT JOIN agent_refusals AS r ON r.id = q.id \
             WHERE q.id > max(?1, (SELECT settled_through FROM agent_queue_state)) \
             ORDER BY q.id LIMIT ?2",
            row::queued_columns(),
            row::QUEUED_EVENTS
        );
        let read = || {
            let mut statement = self.conn.prepare_cached(&sql)?;
            let mut rows = statement.query((after.unwrap_or(0), limit as u64))?;
            let mut found = Vec::new();
            let mut room = BatchRoom::new(limit);
            while let Some(row) = rows.next()? {
                let event = row::read_queued(row)?;
                if let Some(event) = &event
                    && !room.take(event.data.len(), row.get("batch_limit")?)
                {
                    break;
                }
                found.push(QueueRow { id: row.get("id")?, idx: row.get("idx")?, event });
            }
            for QueueRow { idx, event, .. } in &mut found {
                if let Some(event) = event {
                    row::load_head(&self.conn, *idx, event)?;
                }
            }
            Ok(found)
        };
        read().map_err(self.failed(READ_EVENTS))
    }

    /// Remembers the fingerprints of other producers' rows. Returns the batch,
    /// and the ids of rows that no longer exist.
    fn lend(&mut self, rows: Vec<QueueRow>) -> (Vec<EventRow>, Vec<i64>) {
        let mut gone = Vec::new();
        let mut batch = Vec::with_capacity(rows.len());
        self.lent.clear();
        for QueueRow { id, idx, event } in rows {
            match event {
                None => gone.push(id),
                Some(event) => {
                    if idx < super::OTHERS_END {
                        self.lent.insert(id, row::fingerprint(&event));
                    }
                    batch.push(event);
                }
            }
        }
        (batch, gone)
    }

    /// Deletes entries whose row no longer exists.
    fn forget(&mut self, gone: &[i64]) -> Result<(), StoreError> {
        self.commit("tidy the queue", |tx| {
            let mut state = state(tx)?;
            for id in gone {
                let still: bool = tx
                    .prepare_cached(
                        "SELECT NOT EXISTS (SELECT 1 FROM agent_queue AS q JOIN events AS e \
                         ON e.idx = q.idx WHERE q.id = ?1)",
                    )?
                    .query_row([id], |row| row.get(0))?;
                if still && forget_entry(tx, *id)? {
                    state.pending = state.pending.saturating_sub(1);
                }
            }
            save_state(tx, state)
        })
    }

    /// Enters rows that another producer wrote to our database, some in each
    /// commit; returns how many.
    pub(super) fn adopt(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let (mut from, mut adopted) = (i64::MIN, 0);
        loop {
            let any: bool = self
                .conn
                .prepare_cached(&format!("SELECT EXISTS ({NOT_ENTERED})"))
                .and_then(|mut any| any.query_row((from, 1), |row| row.get(0)))
                .map_err(self.failed(READ_EVENTS))?;
            if !any {
                return Ok(adopted);
            }
            let found = self.commit("enter another program's events", |tx| {
                let found: Vec<(i64, i64)> = tx
                    .prepare_cached(NOT_ENTERED)?
                    .query_map((from, ADOPTED_AT_ONCE), |row| row.try_into())?
                    .collect::<Result<_, _>>()?;
                let mut state = state(tx)?;
                for (idx, bytes) in &found {
                    state.last_id += 1;
                    state.pending += 1;
                    tx.prepare_cached(
                        "INSERT INTO agent_queue (id, idx, arrived, allowed, bytes) \
                         VALUES (?1, ?2, ?3, 0, ?4)",
                    )?
                    .execute((state.last_id, idx, now.as_millis(), bytes))?;
                }
                add_bytes(tx, found.iter().map(|(_, bytes)| bytes).sum())?;
                save_state(tx, state)?;
                Ok(found)
            })?;
            let Some((last, _)) = found.last() else { return Ok(adopted) };
            (from, adopted) = (last + 1, adopted + found.len() as u64);
        }
    }
}

/// Rows of other producers that have not been entered.
const NOT_ENTERED: &str = concat!(
    "SELECT e.idx, \
     CASE WHEN typeof(e.eventdata) = 'blob' THEN octet_length(e.eventdata) ELSE 0 END \
     FROM events AS e WHERE e.idx >= ?1 AND ",
    not_entered!(),
    " ORDER BY e.idx LIMIT ?2"
);

/// How many rows are entered in one commit, so that it stays short.
const ADOPTED_AT_ONCE: u64 = 10_000;

const READ_EVENTS: &str = "read queued events";

/// How much more fits in a batch.
struct BatchRoom {
    limit: usize,
    count: usize,
    bytes: usize,
}

impl BatchRoom {
    fn new(limit: usize) -> Self {
        Self { limit, count: 0, bytes: 0 }
    }

    /// Adds one more event if it fits: a batch holds at least one event, and no
    /// more than each of its events allows.
    fn take(&mut self, bytes: usize, batch_limit: Option<usize>) -> bool {
        let limit = self.limit.min(batch_limit.unwrap_or(usize::MAX));
        let fits = self.count == 0 || (self.count < limit && self.bytes + bytes <= BATCH_BYTES);
        if fits {
            *self = Self { limit, count: self.count + 1, bytes: self.bytes + bytes };
        }
        fits
    }
}
