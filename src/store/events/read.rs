//! Reading the queue, oldest first, a batch at a time.

use rusqlite::OptionalExtension as _;
use rusqlite::types::ValueRef;

use super::horizon::Horizon;
use super::{EventStore, foreign, save_state, state};
use crate::model::{EventRow, Timestamp};
use crate::store::StoreError;

/// A batch ends once its payloads come to this many bytes, so that memory is
/// bounded whatever the events hold. A thousand common ones take 1 to 5 MB.
const BATCH_BYTES: usize = 8 << 20;

/// A row as the queue sees it: without a payload if its producer took it back.
struct Row {
    id: i64,
    idx: i64,
    event: Option<EventRow>,
}

impl EventStore {
    /// The oldest queued events after `after`, at most `limit` of them. Fewer
    /// may come before the queue ends: only an empty answer says that nothing
    /// is left. Events of a batch that the server refused come in batches as
    /// small as [`Self::note_refused`] has made them.
    ///
    /// Rows of [`Self::drain_also`]'s database come last, in its table's order;
    /// what cannot be read there is told in the log and leaves our own events
    /// alone.
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
    /// its last batch may hold later events, no batch begins with one. Rows of
    /// [`Self::drain_also`]'s database end once as many have been settled as
    /// waited there when the horizon was taken.
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

    /// The batch that [`Self::read_batch`] will hand out once everything up to
    /// `after` has been settled, if that is known by now: `None` unless all of
    /// it is our own events.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn read_on(&self, limit: usize, after: i64) -> Result<Option<Vec<EventRow>>, StoreError> {
        if limit == 0 || after >= foreign::FIRST_ID {
            return Ok(None);
        }
        let rows = self.own_rows(limit, Some(after))?;
        let own = |row: Row| row.event.filter(|_| row.idx >= super::OTHERS_END);
        let batch: Option<Vec<EventRow>> = rows.into_iter().map(own).collect();
        Ok(batch.filter(|batch| !batch.is_empty()))
    }

    /// Rows of the other program's database, as many as fit a batch.
    fn foreign_rows(
        &mut self,
        limit: usize,
        after: Option<i64>,
    ) -> Result<Vec<EventRow>, StoreError> {
        let Some(foreign) = &mut self.foreign else { return Ok(Vec::new()) };
        let mut room = Room::new(limit);
        let mut batch = Vec::new();
        for row in foreign.read(limit, after, BATCH_BYTES) {
            let batch_limit = self
                .conn
                .prepare_cached("SELECT batch_limit FROM agent_refusals WHERE id = ?1")
                .and_then(|mut sql| sql.query_row([row.id], |row| row.get(0)).optional())
                .map_err(|source| StoreError::from_use(&self.path, READING, source))?;
            if !room.take(row.data.len(), batch_limit) {
                break;
            }
            batch.push(row);
        }
        foreign.lend(&batch);
        Ok(batch)
    }

    /// Visits the queued events, oldest first, until told to stop; those of
    /// another program's database are not shown.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn visit(
        &self,
        each: &mut dyn FnMut(EventRow, Timestamp) -> std::ops::ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let sql = "SELECT q.id, e.uniqueid, e.eventdata, q.arrived \
                   FROM agent_queue AS q JOIN events AS e ON e.idx = q.idx \
                   WHERE q.id > (SELECT settled_through FROM agent_queue_state) ORDER BY q.id";
        let mut visit = || {
            let mut rows = self.conn.prepare(sql)?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let event = EventRow {
                    id: row.get(0)?,
                    unique_id: text(row.get_ref(1)?),
                    data: data(row.get_ref(2)?),
                };
                if each(event, Timestamp::from_millis(row.get(3)?)).is_break() {
                    break;
                }
            }
            Ok(())
        };
        visit().map_err(self.failed(READING))
    }

    /// Rows of our own database, as many as fit a batch.
    fn own_rows(&self, limit: usize, after: Option<i64>) -> Result<Vec<Row>, StoreError> {
        let sql = "SELECT q.id, q.idx, e.uniqueid, e.eventdata, r.batch_limit \
                   FROM agent_queue AS q \
                   LEFT JOIN events AS e ON e.idx = q.idx \
                   LEFT JOIN agent_refusals AS r ON r.id = q.id \
                   WHERE q.id > max(?1, (SELECT settled_through FROM agent_queue_state)) \
                   ORDER BY q.id LIMIT ?2";
        let read = || {
            let mut statement = self.conn.prepare_cached(sql)?;
            let mut rows = statement.query((after.unwrap_or(0), limit as u64))?;
            let mut found = Vec::new();
            let mut room = Room::new(limit);
            while let Some(row) = rows.next()? {
                let id = row.get(0)?;
                let unique_id = row.get_ref(2)?;
                let event = (unique_id != ValueRef::Null).then(|| {
                    let data = data(row.get_ref(3)?);
                    Ok::<_, rusqlite::Error>(EventRow { id, unique_id: text(unique_id), data })
                });
                let event = event.transpose()?;
                if let Some(event) = &event
                    && !room.take(event.data.len(), row.get(4)?)
                {
                    break;
                }
                found.push(Row { id, idx: row.get(1)?, event });
            }
            Ok(found)
        };
        read().map_err(self.failed(READING))
    }

    /// Notes what is handed out of other producers' rows, and tells which rows
    /// have nothing to hand out.
    fn lend(&mut self, rows: Vec<Row>) -> (Vec<EventRow>, Vec<i64>) {
        let mut gone = Vec::new();
        let mut batch = Vec::with_capacity(rows.len());
        self.lent.clear();
        for Row { id, idx, event } in rows {
            match event {
                None => gone.push(id),
                Some(event) => {
                    if idx < super::OTHERS_END {
                        self.lent.insert(id, foreign::fingerprint(&event.data));
                    }
                    batch.push(event);
                }
            }
        }
        (batch, gone)
    }

    /// Takes entries out whose row is gone.
    fn forget(&mut self, gone: &[i64]) -> Result<(), StoreError> {
        self.commit("tidy the queue", |tx| {
            let mut state = state(tx)?;
            for id in gone {
                let sql = "DELETE FROM agent_queue WHERE id = ?1 \
                           AND idx NOT IN (SELECT e.idx FROM events AS e WHERE e.idx = agent_queue.idx)";
                state.pending = state.pending.saturating_sub(tx.execute(sql, [id])? as u64);
            }
            save_state(tx, state)
        })
    }

    /// Enters rows that another producer left in our database; answers how
    /// many.
    pub(super) fn adopt(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        const FOUND: &str = "SELECT e.idx FROM events AS e WHERE e.idx < 4294967296 AND NOT EXISTS \
             (SELECT 1 FROM agent_queue AS q WHERE q.idx = e.idx AND q.idx < 4294967296)";
        let any = self
            .conn
            .prepare_cached(&format!("SELECT EXISTS ({FOUND})"))
            .and_then(|mut any| any.query_row([], |row| row.get(0)));
        if !any.map_err(self.failed(READING))? {
            return Ok(0);
        }
        self.commit("enter another program's events", |tx| {
            let mut state = state(tx)?;
            let sql = format!(
                "INSERT INTO agent_queue (id, idx, arrived, allowed) \
                 SELECT ?1 + row_number() OVER (ORDER BY idx), idx, ?2, 0 FROM ({FOUND})"
            );
            let adopted = tx.execute(&sql, (state.last_id, now.as_millis()))?;
            state.last_id = state.last_id.saturating_add_unsigned(adopted as u64);
            state.pending += adopted as u64;
            save_state(tx, state)?;
            Ok(adopted as u64)
        })
    }
}

const READING: &str = "read queued events";

/// The text of a column, whatever a producer wrote into it.
pub(super) fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    }
}

/// The payload of a row; text and numbers are none.
pub(super) fn data(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Blob(data) => data.to_owned(),
        ValueRef::Text(_) | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Null => Vec::new(),
    }
}

/// What a batch may still take.
struct Room {
    limit: usize,
    count: usize,
    bytes: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { limit, count: 0, bytes: 0 }
    }

    /// Takes one more event if there is room: a batch holds no more events than
    /// any of them allows, and at least one.
    fn take(&mut self, bytes: usize, batch_limit: Option<usize>) -> bool {
        let limit = self.limit.min(batch_limit.unwrap_or(usize::MAX));
        let fits = self.count == 0 || (self.count < limit && self.bytes + bytes <= BATCH_BYTES);
        if fits {
            *self = Self { limit, count: self.count + 1, bytes: self.bytes + bytes };
        }
        fits
    }
}
