//! The unique ids of queued events (EV-7).
//!
//! The table of their hashes is not in order of arrival. Deleting an entry with
//! its event would touch a page each time, so entries are left behind, and a
//! sweep deletes them in the table's own order, many per page.

use rusqlite::{OptionalExtension as _, Transaction};

use super::{OTHERS_END, QueueState};

/// How many entries the sweep visits for each deleted event. This leaves at
/// most about a third as many stale entries as events.
const SWEPT_EACH: u64 = 4;
/// How many more it visits each time.
const SWEPT_ALWAYS: u64 = 100;

/// Returns whether an event with this unique id is queued.
pub(super) fn is_queued(
    tx: &Transaction<'_>,
    state: QueueState,
    unique_id: &str,
) -> rusqlite::Result<bool> {
    let other: Option<i64> = tx
        .prepare_cached("SELECT idx FROM events WHERE uniqueid = ?1")?
        .query_row([unique_id], |row| row.get(0))
        .optional()?;
    if other.is_some_and(|idx| idx <= OTHERS_END || idx - OTHERS_END > state.settled_through) {
        return Ok(true);
    }
    // Two unique ids may have the same hash.
    let same: Option<bool> = tx
        .prepare_cached(
            "SELECT e.uniqueid = ?2 FROM agent_unique AS u JOIN agent_events AS e ON e.id = u.id \
             WHERE u.hash = ?1 AND u.id > ?3",
        )?
        .query_row((hash(unique_id), unique_id, state.settled_through), |row| row.get(0))
        .optional()?;
    Ok(same == Some(true))
}

/// Records that an event with this unique id is queued.
pub(super) fn note(tx: &Transaction<'_>, unique_id: &str, id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO agent_unique (hash, id) VALUES (?1, ?2)")?
        .execute((hash(unique_id), id))
        .map(|_| ())
}

/// Deletes the unique id of an event that leaves out of order.
pub(super) fn forget(tx: &Transaction<'_>, unique_id: &str, id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM agent_unique WHERE hash = ?1 AND id = ?2")?
        .execute((hash(unique_id), id))
        .map(|_| ())
}

/// Deletes stale entries of delivered events, after `left` more events have
/// been deleted.
pub(super) fn sweep(tx: &Transaction<'_>, state: QueueState, left: u64) -> rusqlite::Result<()> {
    if state.pending == 0 {
        tx.prepare_cached("DELETE FROM agent_unique")?.execute([])?;
        return Ok(());
    }
    let swept: i64 = tx
        .prepare_cached("SELECT swept FROM agent_queue_state")?
        .query_row([], |row| row.get(0))?;
    let through: Option<i64> = tx
        .prepare_cached(
            "SELECT hash FROM agent_unique WHERE hash > ?1 ORDER BY hash LIMIT 1 OFFSET ?2",
        )?
        .query_row((swept, SWEPT_ALWAYS + SWEPT_EACH * left), |row| row.get(0))
        .optional()?;
    tx.prepare_cached("DELETE FROM agent_unique WHERE hash > ?1 AND hash <= ?2 AND id <= ?3")?
        .execute((swept, through.unwrap_or(i64::MAX), state.settled_through))?;
    tx.prepare_cached("UPDATE agent_queue_state SET swept = ?1")?
        .execute([through.unwrap_or(i64::MIN)])?;
    Ok(())
}

#[expect(clippy::cast_possible_wrap, reason = "any 64 bits will do")]
fn hash(unique_id: &str) -> i64 {
    xxhash_rust::xxh3::xxh3_64(unique_id.as_bytes()) as i64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, blocked, names, numbered, open, queue, read, settle};
    use super::super::{Limits, Queued};
    use super::*;

    /// Two texts of one hash cannot be had here; a wrong entry does as well.
    #[test]
    fn ev_7_an_event_is_not_taken_for_another_of_the_same_hash() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        queue(&mut store, ["a".to_owned()]);
        store
            .commit("collide", |tx| {
                tx.execute("INSERT INTO agent_unique VALUES (?1, 1)", [hash("b")]).map(|_| ())
            })
            .expect("collided");
        let mut one = |name| {
            let answers = store.queue_events(&[blocked(name)], at(0), Limits::default());
            answers.expect("an answer")[0]
        };
        assert_eq!(one("b"), Queued::Added);
        assert_eq!(one("b"), Queued::Duplicate);
        assert_eq!(one("a"), Queued::Duplicate);
        assert_eq!(names(&read(&mut store, 9)), ["a", "b"]);
    }

    #[test]
    fn ev_8_unique_ids_of_events_that_left_are_swept_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path());
        queue(&mut store, numbered(0..3000));
        for round in 0..300 {
            let batch = read(&mut store, 50);
            settle(&mut store, &batch);
            queue(&mut store, numbered(3000 + round * 50..3050 + round * 50));
        }
        let known: u64 = store
            .conn
            .query_row("SELECT count(*) FROM agent_unique", [], |row| row.get(0))
            .expect("a count");
        assert!((3000..=5200).contains(&known), "{known} of 18,000");
        while !read(&mut store, 500).is_empty() {
            let batch = read(&mut store, 500);
            settle(&mut store, &batch);
        }
        let left: bool = store
            .conn
            .query_row("SELECT EXISTS (SELECT 1 FROM agent_unique)", [], |row| row.get(0))
            .expect("an answer");
        assert!(!left, "an empty queue knows none");
    }
}
