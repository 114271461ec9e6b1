//! Stored settings and clean-sync requests, read so that neither those of a
//! newer program nor damaged ones stop this one.
//!
//! Each key of a stored object is read separately. A key that is unknown or has
//! an unreadable value is ignored, and kept for the program that wrote it.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{strength, to_json};
use crate::model::{CleanSyncReason, CleanSyncRequest, Settings, SyncType};

type Object = Map<String, Value>;

/// The content of a slot of `agent_settings`.
#[derive(Debug)]
enum Slot {
    Empty,
    /// Not a JSON object.
    Unreadable,
    Settings {
        known: Box<Settings>,
        /// Keys that this program cannot read.
        kept: Object,
    },
}

/// Returns the settings of a slot, if it has readable ones.
pub(super) fn read_slot(conn: &Connection, slot: &str) -> rusqlite::Result<Option<Settings>> {
    Ok(match load(conn, slot)? {
        Slot::Settings { known, .. } => Some(*known),
        Slot::Empty | Slot::Unreadable => None,
    })
}

/// Returns whether a slot holds something unreadable.
pub(super) fn is_unreadable(conn: &Connection, slot: &str) -> rusqlite::Result<bool> {
    Ok(matches!(load(conn, slot)?, Slot::Unreadable))
}

/// Returns whether a slot holds anything.
pub(super) fn is_filled(conn: &Connection, slot: &str) -> rusqlite::Result<bool> {
    Ok(!matches!(load(conn, slot)?, Slot::Empty))
}

/// Fills a slot. Unless `clear` is set, unreadable keys in it are kept.
pub(super) fn write_slot(
    conn: &Connection,
    slot: &str,
    settings: &Settings,
    clear: bool,
) -> rusqlite::Result<()> {
    let mut object = to_object(settings)?;
    if let (false, Slot::Settings { kept, .. }) = (clear, load(conn, slot)?) {
        for (key, value) in kept {
            let set = object.entry(key).or_insert(Value::Null);
            if set.is_null() {
                *set = value;
            }
        }
    }
    conn.execute(
        "INSERT OR REPLACE INTO agent_settings (slot, settings) VALUES (?1, ?2)",
        params![slot, to_json(&object)?],
    )
    .map(|_| ())
}

fn load(conn: &Connection, slot: &str) -> rusqlite::Result<Slot> {
    let object = conn
        .prepare_cached("SELECT settings FROM agent_settings WHERE slot = ?1")?
        .query_row([slot], |row| row.get_ref(0).map(object_of))
        .optional()?;
    Ok(match object {
        None => Slot::Empty,
        Some(None) => Slot::Unreadable,
        Some(Some(object)) => {
            let (known, kept) = object
                .into_iter()
                .partition(|(key, value)| read::<Settings>(one(key, value)).is_some());
            match read(Value::Object(known)) {
                Some(known) => Slot::Settings { known: Box::new(known), kept },
                None => Slot::Unreadable,
            }
        }
    })
}

/// A row of `agent_clean_sync_requests` that this program understands.
#[derive(Debug)]
struct RequestRow {
    key: String,
    object: Object,
    request: CleanSyncRequest,
}

/// Returns the clean-sync requests that this program understands, strongest
/// first.
pub(in crate::store) fn read_requests(
    conn: &Connection,
) -> rusqlite::Result<Vec<CleanSyncRequest>> {
    let mut requests: Vec<CleanSyncRequest> =
        rows(conn)?.into_iter().map(|row| row.request).collect();
    requests.sort_by_key(|request| (std::cmp::Reverse(strength(request.sync_type)), request.since));
    Ok(requests)
}

/// Adds a request, or replaces the one of the same reason.
pub(super) fn write_request(conn: &Connection, request: &CleanSyncRequest) -> rusqlite::Result<()> {
    write_row(conn, &to_json(&request.reason)?, &to_object(request)?)
}

/// Notes the server's sync type on every request.
pub(super) fn note_answer(conn: &Connection, answered: SyncType) -> rusqlite::Result<()> {
    for mut row in rows(conn)? {
        row.object.insert("last_answer".to_owned(), Value::String(answered.name().to_owned()));
        write_row(conn, &row.key, &row.object)?;
    }
    Ok(())
}

/// Deletes the request of that reason; returns whether there was one.
pub(super) fn delete_request(conn: &Connection, reason: CleanSyncReason) -> rusqlite::Result<bool> {
    let key = to_json(&reason)?;
    Ok(conn.execute("DELETE FROM agent_clean_sync_requests WHERE reason = ?1", [key])? > 0)
}

/// Ends the requests that a successful sync of that type fulfils.
pub(super) fn end_requests(conn: &Connection, done: SyncType) -> rusqlite::Result<()> {
    for row in rows(conn)?.into_iter().filter(|row| row.request.is_ended_by(done)) {
        conn.execute("DELETE FROM agent_clean_sync_requests WHERE reason = ?1", [row.key])?;
    }
    Ok(())
}

fn write_row(conn: &Connection, key: &str, object: &Object) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR REPLACE INTO agent_clean_sync_requests (reason, request) VALUES (?1, ?2)",
        params![key, to_json(object)?],
    )
    .map(|_| ())
}

fn rows(conn: &Connection) -> rusqlite::Result<Vec<RequestRow>> {
    let mut statement = conn
        .prepare_cached("SELECT reason, request FROM agent_clean_sync_requests ORDER BY reason")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str().ok().map(str::to_owned);
        let object = object_of(row.get_ref(1)?);
        let Some((key, object)) = key.zip(object) else { continue };
        let Some(request) = request_of(&object) else { continue };
        found.push(RequestRow { key, object, request });
    }
    Ok(found)
}

/// Reads a request. One for an unknown type of sync is ignored.
fn request_of(object: &Object) -> Option<CleanSyncRequest> {
    let get = |key: &str| object.get(key).cloned();
    Some(CleanSyncRequest {
        sync_type: get("sync_type").and_then(read)?,
        reason: get("reason").and_then(read).unwrap_or(CleanSyncReason::Other),
        since: get("since").and_then(read)?,
        last_answer: get("last_answer").and_then(read),
    })
}

fn object_of(value: ValueRef<'_>) -> Option<Object> {
    serde_json::from_str(value.as_str().ok()?).ok()
}

fn to_object(value: &impl serde::Serialize) -> rusqlite::Result<Object> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Ok(Object::new()),
        Err(error) => Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
    }
}

fn one(key: &str, value: &Value) -> Value {
    Value::Object(Object::from_iter([(key.to_owned(), value.clone())]))
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests;
