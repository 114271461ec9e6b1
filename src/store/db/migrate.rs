//! Migrating a schema, and distinguishing a newer program's database from one
//! with a damaged version number.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{Database, StoreError, corruption, in_memory};
use crate::store::agent_meta;

/// A step of a schema: the version it leads to, and its SQL.
pub(in crate::store) type Migration = (i32, &'static str);

/// No program will be this many versions ahead of this one; a higher number is
/// damage.
const PLAUSIBLE: i64 = 1000;

/// Which version number a list of migrations uses.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Numbering {
    /// `PRAGMA user_version`.
    UserVersion,
    /// The key `schema_version` of `agent_meta`.
    Agent,
}

/// What a version number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// This program's newest.
    Current,
    /// One that this program can migrate.
    Older,
    /// A newer program's.
    Newer,
    /// Not a version of any program: it is damaged.
    Absurd,
}

impl Version {
    pub(super) const fn of(found: i64, supported: i64) -> Self {
        if found == supported {
            Self::Current
        } else if found < 0 || found > supported + PLAUSIBLE {
            Self::Absurd
        } else if found > supported {
            Self::Newer
        } else {
            Self::Older
        }
    }
}

impl Numbering {
    /// Returns the number, or -1 if the stored value is not a number.
    pub(super) fn read(self, conn: &Connection) -> rusqlite::Result<i64> {
        match self {
            Self::UserVersion => conn.pragma_query_value(None, "user_version", |row| row.get(0)),
            Self::Agent if !conn.table_exists(None, "agent_meta")? => Ok(0),
            Self::Agent => {
                let sql = "SELECT value FROM agent_meta WHERE key = 'schema_version'";
                let mut statement = conn.prepare(sql)?;
                let mut rows = statement.query([])?;
                let Some(row) = rows.next()? else { return Ok(0) };
                Ok(match row.get_ref(0)? {
                    ValueRef::Integer(number) => number,
                    ValueRef::Text(text) => {
                        std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(-1)
                    }
                    ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => -1,
                })
            }
        }
    }

    fn write(self, conn: &Connection, version: i32) -> rusqlite::Result<()> {
        match self {
            Self::UserVersion => conn.pragma_update(None, "user_version", version),
            Self::Agent => agent_meta::put(conn, "schema_version", &version),
        }
    }
}

/// Returns the two lists of migrations of a database.
pub(super) fn numberings(database: &Database) -> [(Numbering, &'static [Migration]); 2] {
    [(Numbering::UserVersion, database.tables), (Numbering::Agent, database.agent)]
}

/// Returns the version that a list of migrations leads to.
pub(in crate::store) fn newest(steps: &[Migration]) -> i32 {
    steps.last().map_or(0, |(version, _)| *version)
}

/// Migrates both schemas to the newest version. A newer program's database is
/// refused and left alone. If the tables are already those of the newest
/// schema, a damaged version number is repaired before any step runs; an absurd
/// number with other tables is corruption.
pub(super) fn migrate_all(
    conn: &mut Connection,
    path: &Path,
    database: &Database,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_open(path, source);
    if is_older(conn, database).map_err(failed)?
        && repair_versions(conn, path, database).map_err(failed)?
    {
        return Ok(());
    }
    for (numbering, steps) in numberings(database) {
        let found = numbering.read(conn).map_err(failed)?;
        let supported = newest(steps);
        match Version::of(found, i64::from(supported)) {
            Version::Current => {}
            Version::Older => {
                let done = migrate(conn, path, numbering, steps, supported);
                if matches!(done, Err(StoreError::Migration { .. })) {
                    super::check(conn, "integrity_check").map_err(failed)?;
                }
                done?;
            }
            Version::Newer => {
                super::check(conn, "integrity_check").map_err(failed)?;
                return Err(too_new(path, found, supported));
            }
            Version::Absurd => {
                super::check(conn, "integrity_check").map_err(failed)?;
                if !repair_versions(conn, path, database).map_err(failed)? {
                    return Err(failed(corruption(&absurd(found))));
                }
            }
        }
    }
    Ok(())
}

/// Returns whether the database has tables, and one of its version numbers is
/// older than this program's while none is newer.
fn is_older(conn: &Connection, database: &Database) -> rusqlite::Result<bool> {
    let mut versions = Vec::new();
    for (numbering, steps) in numberings(database) {
        versions.push(Version::of(numbering.read(conn)?, i64::from(newest(steps))));
    }
    Ok(versions.contains(&Version::Older)
        && !versions.contains(&Version::Newer)
        && conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?)
}

pub(super) fn absurd(found: i64) -> String {
    format!("its schema version {found} is not that of any program")
}

pub(super) fn too_new(path: &Path, found: i64, supported: i32) -> StoreError {
    StoreError::TooNew { path: path.to_owned(), found, supported }
}

/// Sets both version numbers to the newest if the tables are those of the
/// newest schema; returns whether they are.
fn repair_versions(conn: &Connection, path: &Path, database: &Database) -> rusqlite::Result<bool> {
    let fresh = match in_memory(database) {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::warn!(%error, "cannot compare the schema with the newest one");
            return Ok(false);
        }
    };
    if !schema(conn)?.is_superset(&schema(&fresh)?) {
        return Ok(false);
    }
    for (numbering, steps) in numberings(database) {
        numbering.write(conn, newest(steps))?;
    }
    tracing::warn!(path = %path.display(), "repaired the damaged version number of the database");
    Ok(true)
}

/// Returns every table, index and trigger with its SQL.
fn schema(conn: &Connection) -> rusqlite::Result<BTreeSet<(String, String, Option<String>)>> {
    let mut statement = conn.prepare("SELECT type, name, sql FROM sqlite_schema")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// Migrates a schema to version `to`, one transaction per step. The caller has
/// checked that the database is not a newer program's.
pub(in crate::store) fn migrate(
    conn: &mut Connection,
    path: &Path,
    numbering: Numbering,
    steps: &[Migration],
    to: i32,
) -> Result<(), StoreError> {
    let found = numbering.read(conn).map_err(|source| StoreError::from_open(path, source))?;
    let due = |version: i32| i64::from(version) > found && version <= to;
    for (version, sql) in steps.iter().filter(|(version, _)| due(*version)) {
        let step = |conn: &mut Connection| {
            let tx: Transaction<'_> =
                conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if numbering.read(&tx)? >= i64::from(*version) {
                // An older build, which takes no turn, came first.
                return Ok(());
            }
            tx.execute_batch(sql)?;
            numbering.write(&tx, *version)?;
            tx.commit()
        };
        step(conn).map_err(|source| StoreError::from_migration(path, *version, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
