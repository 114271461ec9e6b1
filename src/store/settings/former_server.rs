//! Which former server's settings and rules are still in effect (PRE-7).

use rusqlite::Connection;

use crate::store::agent_meta;

/// The server and machine id whose settings are in effect, if not the current
/// ones; as JSON.
const FORMER_SETTINGS_KEY: &str = "former_settings";
/// The same for rules.
const FORMER_RULES_KEY: &str = "former_rules";

type Owner = (String, String);

/// Records that the store now belongs to `new`, while what is in effect belongs
/// to `old` or an earlier owner.
pub(super) fn changed(conn: &Connection, old: &Owner, new: &Owner) -> rusqlite::Result<()> {
    let settings: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM agent_settings WHERE slot = 'applied')",
        [],
        |row| row.get(0),
    )?;
    let rules: bool =
        conn.query_row("SELECT EXISTS (SELECT 1 FROM execution_rules)", [], |row| row.get(0))?;
    for (key, any) in [(FORMER_SETTINGS_KEY, settings), (FORMER_RULES_KEY, rules)] {
        let owner = read(conn, key)?.unwrap_or_else(|| old.clone());
        if any && owner != *new {
            agent_meta::put(conn, key, &super::to_json(&owner)?)?;
        } else {
            agent_meta::forget(conn, key)?;
        }
    }
    Ok(())
}

/// Records that the settings in effect are the current server's.
pub(super) fn settings_replaced(conn: &Connection) -> rusqlite::Result<()> {
    agent_meta::forget(conn, FORMER_SETTINGS_KEY)
}

/// Records that the rules in effect are the current server's.
pub(in crate::store) fn rules_replaced(conn: &Connection) -> rusqlite::Result<()> {
    agent_meta::forget(conn, FORMER_RULES_KEY)
}

/// Returns whose settings are in effect, if not the current server's.
pub(in crate::store) fn former_settings(conn: &Connection) -> rusqlite::Result<Option<Owner>> {
    read(conn, FORMER_SETTINGS_KEY)
}

/// Returns whose rules are in effect, if not the current server's.
pub(in crate::store) fn former_rules(conn: &Connection) -> rusqlite::Result<Option<Owner>> {
    read(conn, FORMER_RULES_KEY)
}

/// Reads an owner. An unreadable one is still not the current one.
fn read(conn: &Connection, key: &str) -> rusqlite::Result<Option<Owner>> {
    let unreadable = || ("an unknown server".to_owned(), "unknown".to_owned());
    let text: Option<String> = agent_meta::get(conn, key)?;
    Ok(text.map(|text| super::from_json(&text).unwrap_or_else(|_| unreadable())))
}
