//! Rows of table `events`, which any program may have written, with values of
//! any type and size. A value larger than any event is never loaded.

use rusqlite::blob::Blob;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, MAIN_DB, Row};

use crate::model::EventRow;

/// The largest payload loaded, in bytes. An event takes 1 to 50 KB, and
/// anything beyond 1 MiB cannot be decoded.
pub(super) const MAX_PAYLOAD_BYTES: u64 = 16 << 20;

/// How much of a larger payload is kept when its row is set aside, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// The longest unique id loaded, in bytes. Ours have at most 1024.
const NAME_MAX: u64 = 4096;

/// Returns the columns that [`read`] needs from table `events`, aliased `e`.
pub(super) fn columns() -> String {
    format!(
        "CASE WHEN octet_length(e.uniqueid) <= {NAME_MAX} THEN e.uniqueid END, \
         octet_length(e.uniqueid), \
         CASE WHEN typeof(e.eventdata) = 'blob' AND octet_length(e.eventdata) <= {MAX_PAYLOAD_BYTES} \
              THEN e.eventdata END, \
         CASE WHEN typeof(e.eventdata) = 'blob' THEN octet_length(e.eventdata) ELSE 0 END"
    )
}

/// Reads the four columns of [`columns`] from the column `at` on.
pub(super) fn read(row: &Row<'_>, at: usize, id: i64) -> rusqlite::Result<EventRow> {
    let name_length: Option<u64> = row.get(at + 1)?;
    let unique_id = match (row.get_ref(at)?, name_length) {
        (ValueRef::Null, Some(length)) => format!("(a unique id of {length} bytes)"),
        (value, _) => text(value),
    };
    let size: u64 = row.get(at + 3)?;
    Ok(EventRow {
        id,
        unique_id,
        data: data(row.get_ref(at + 2)?),
        oversize: (size > MAX_PAYLOAD_BYTES).then_some(size),
    })
}

/// Returns the columns that [`read_queued`] needs.
pub(super) fn queued_columns() -> String {
    format!("q.id, a.uniqueid, a.eventdata, e.idx IS NULL, {}", columns())
}

/// Where [`queued_columns`] come from.
pub(super) const QUEUED_EVENTS: &str = "agent_queue AS q LEFT JOIN agent_events AS a ON a.id = q.id \
     LEFT JOIN events AS e ON e.idx = q.idx";

/// Reads the columns of [`queued_columns`], which come first in the row. `None`
/// if the producer has deleted the event.
pub(super) fn read_queued(row: &Row<'_>) -> rusqlite::Result<Option<EventRow>> {
    let id = row.get(0)?;
    if let Some(unique_id) = row.get(1)? {
        return Ok(Some(EventRow { id, unique_id, data: row.get(2)?, oversize: None }));
    }
    let taken_back: bool = row.get(3)?;
    if taken_back { Ok(None) } else { read(row, 4, id).map(Some) }
}

/// Loads the beginning of the payload of a row whose payload is too large to
/// be loaded whole.
pub(super) fn load_head(conn: &Connection, idx: i64, row: &mut EventRow) -> rusqlite::Result<()> {
    if row.oversize.is_some() {
        let payload: Blob<'_> = conn.blob_open(MAIN_DB, "events", "eventdata", idx, true)?;
        row.data = vec![0; HEAD_BYTES.min(payload.len())];
        payload.read_at_exact(&mut row.data, 0)?;
    }
    Ok(())
}

/// Returns a hash that identifies the payload of a row.
pub(super) fn fingerprint(row: &EventRow) -> u64 {
    row.oversize.unwrap_or_else(|| xxhash_rust::xxh3::xxh3_64(&row.data))
}

/// Returns the text of a column, whatever a producer wrote to it.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    }
}

/// Returns the payload of a row. Only a blob is a payload; anything else counts
/// as empty.
fn data(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Blob(data) => data.to_owned(),
        ValueRef::Text(_) | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Null => Vec::new(),
    }
}
