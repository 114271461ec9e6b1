//! The table `agent_meta` of either database: what this agent knows besides the
//! rows themselves, one value a key.

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

/// Returns the value of a key; `None` if there is none, or one of another type.
pub(super) fn get<T: FromSql>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    conn.prepare_cached("SELECT value FROM agent_meta WHERE key = ?1")?
        .query_row([key], |row| Ok(T::column_result(row.get_ref(0)?).ok()))
        .optional()
        .map(Option::flatten)
}

/// Sets the value of a key.
pub(super) fn put(conn: &Connection, key: &str, value: &dyn ToSql) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO agent_meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])
        .map(|_| ())
}

/// Deletes a key.
pub(super) fn forget(conn: &Connection, key: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM agent_meta WHERE key = ?1")?.execute([key]).map(|_| ())
}
