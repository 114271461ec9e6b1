//! The end of the queue for a sync: what was queued when it began (EV-1).
//! Events that arrive during a sync must not prolong it indefinitely.

use super::foreign::FIRST_ID;
use super::{EventStore, state};
use crate::model::Timestamp;
use crate::store::StoreError;

/// The end of the queue at a given moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The highest event id at that moment.
    through: i64,
    /// How many rows of another program's database had been settled or were
    /// queued.
    pub(super) elsewhere: u64,
}

impl Horizon {
    /// A horizon that includes everything.
    pub const ENDLESS: Self = Self { through: i64::MAX, elsewhere: u64::MAX };

    /// Returns the highest event id of our own queue; 0 if it has never held an
    /// event.
    #[must_use]
    pub const fn through(self) -> i64 {
        self.through
    }

    /// Returns whether an event of our own queue was queued at that moment.
    #[must_use]
    pub const fn covers(self, id: i64) -> bool {
        id <= self.through
    }

    /// Returns whether an event after `id` may have been queued at that moment.
    #[must_use]
    pub const fn goes_past(self, id: i64) -> bool {
        id < self.through
    }
}

impl EventStore {
    /// Returns the current end of the queue, for a sync that begins. The cost
    /// does not depend on the length of the queue. Enters rows that another
    /// producer wrote to our database, deletes refusals of events that no longer
    /// exist, and queues executables of requested bundles that did not fit before.
    ///
    /// # Errors
    /// If the queue cannot be read. Another program's database that cannot be
    /// read is logged and counts as empty.
    pub fn horizon(&mut self, now: Timestamp) -> Result<Horizon, StoreError> {
        self.adopt(now)?;
        self.tidy_refusals()?;
        self.serve_bundle_requests(now)?;
        let state = state(&self.conn).map_err(self.failed("read the end of the queue"))?;
        let waiting = self.pending_elsewhere().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot count the events of EventsDatabase; the next sync tries again");
            0
        });
        let settled = self.foreign.as_ref().map_or(0, super::foreign::Foreign::settled);
        Ok(Horizon { through: state.last_id, elsewhere: settled.saturating_add(waiting) })
    }

    /// Deletes refusals of events that were dropped from a full queue or
    /// deleted by their producer.
    fn tidy_refusals(&mut self) -> Result<(), StoreError> {
        let refused = || -> rusqlite::Result<Vec<i64>> {
            let gone = "SELECT r.id FROM agent_refusals AS r WHERE r.id >= ?1 \
                        OR NOT EXISTS (SELECT 1 FROM agent_queue AS q WHERE q.id = r.id)";
            self.conn.prepare_cached(gone)?.query_map([FIRST_ID], |row| row.get(0))?.collect()
        };
        let mut gone = refused().map_err(self.failed("read what the server refused"))?;
        gone.retain(|id| {
            *id < FIRST_ID || self.foreign.as_ref().and_then(|f| f.holds(*id)) == Some(false)
        });
        if gone.is_empty() {
            return Ok(());
        }
        self.commit("forget refusals", |tx| {
            let mut forget = tx.prepare_cached("DELETE FROM agent_refusals WHERE id = ?1")?;
            gone.iter().try_for_each(|id| forget.execute([id]).map(|_| ()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        at, blocked, delivered, elsewhere, names, numbered, open, queue, read,
    };
    use super::*;

    fn read_within(store: &mut EventStore, horizon: Horizon) -> Vec<String> {
        let rows = store.read_batch_within(2, None, horizon, at(0).wall).expect("a batch");
        store.settle(&delivered(&rows), at(0).wall).expect("settled");
        names(&rows).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn ev_1_reading_ends_with_what_was_queued_at_the_horizon_and_a_batch_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        assert_eq!(store.horizon(at(0).wall).expect("a horizon").through(), 0);
        queue(&mut store, numbered(0..5));
        let horizon = store.horizon(at(0).wall).expect("a horizon");
        let last = read(&mut store, 9).last().expect("a row").id;
        assert_eq!(horizon.through(), last);
        assert!(horizon.covers(last) && !horizon.covers(last + 1));
        // A flood: more comes in during each request than is sent.
        let mut sent = Vec::new();
        let mut come = 5;
        loop {
            queue(&mut store, numbered(come..come + 3));
            come += 3;
            match read_within(&mut store, horizon) {
                batch if batch.is_empty() => break,
                batch => sent.extend(batch),
            }
        }
        assert_eq!(sent, numbered(0..6).collect::<Vec<_>>());
        let next = store.horizon(at(0).wall).expect("a horizon");
        assert_eq!(read_within(&mut store, next), ["event 000006", "event 000007"]);
    }

    #[test]
    fn ev_1_rows_that_another_producer_left_lie_before_the_horizon() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        queue(&mut store, ["ours".to_owned()]);
        store
            .conn
            .execute("INSERT INTO events VALUES (7, 'theirs', x'01')", [])
            .expect("a row of theirs");
        let horizon = store.horizon(at(0).wall).expect("a horizon");
        store
            .queue_events(&[blocked("later")], at(0), super::super::Limits::default())
            .expect("queued");
        assert_eq!(read_within(&mut store, horizon), ["ours", "theirs"]);
        assert!(read_within(&mut store, horizon).is_empty());
    }

    #[test]
    fn ev_1_another_programs_database_ends_after_as_many_rows_as_it_had() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = elsewhere(dir.path());
        let other = rusqlite::Connection::open(&path).expect("their connection");
        let add = |idx: i64| {
            let sql = "INSERT INTO events VALUES (?1, 'theirs ' || ?1, x'01')";
            other.execute(sql, [idx]).expect("a row");
        };
        (10..13).for_each(add);
        let mut store = open(&dir.path().join("state"));
        store.drain_also(&path).expect("opens");
        let horizon = store.horizon(at(0).wall).expect("a horizon");
        let mut sent = 0;
        for idx in 0.. {
            // Keys are random numbers: these come before those that wait.
            add(9 - idx);
            queue(&mut store, [format!("ours {idx}")]);
            match read_within(&mut store, horizon).len() {
                0 => break,
                rows => sent += rows,
            }
        }
        assert_eq!(sent, 4, "three, and what filled the last batch");
        assert_eq!(names(&read(&mut store, 1)), ["ours 0"], "later events wait for the next sync");
    }
}
