//! Checking the whole store against itself.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde::Serialize;

use super::meta;
use super::row::{self, Sound};
use super::rules_hash::Digest;
use crate::model::{Identifier, RuleCounts, RuleState, RuleType, text};
use crate::store::{Store, StoreError};

/// How many problems of one kind are listed.
const MAX_PROBLEMS_LISTED: usize = 20;

/// What a check of the whole rule store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulesVerified {
    /// The hash of the rules, computed from all of them.
    pub rules_hash: String,
    /// Their counts, likewise.
    pub counts: RuleCounts,
    /// Rules in the store.
    pub rules: u64,
    /// Whether another program has changed the rules since the last commit. The
    /// next commit adopts the change; this is not a problem.
    pub changed_by_others: bool,
    /// Whether the file itself is damaged; then the next sync sets it aside.
    pub file_is_damaged: bool,
    /// The problems, each in one sentence; the first of each kind.
    pub problems: Vec<String>,
}

impl Store {
    /// Checks the integrity of the file, the stored hash, digest and counts
    /// against all rules, and that each rule is one that could have been
    /// committed. Reads everything; the store may be in use meanwhile.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn verify_rules(&self) -> Result<RulesVerified, StoreError> {
        let verified = verify(&self.rules).map_err(self.failed("verify the rules"))?;
        if verified.file_is_damaged {
            self.mark_rules_suspect();
        }
        Ok(verified)
    }
}

fn verify(conn: &Connection) -> rusqlite::Result<RulesVerified> {
    // One snapshot for all that follows.
    let tx = conn.unchecked_transaction()?;
    let mut problems = integrity(&tx)?;
    let file_is_damaged = !problems.is_empty();
    let rules = malformed(&tx, &mut problems)?;
    let kept = meta::kept_digest(&tx)?;
    let found = Digest::of(&tx).unwrap_or_else(|error| {
        problems.push(format!("the hash cannot be computed: {error}"));
        Digest::default()
    });
    if let Some(kept) = &kept {
        if kept.hash != found.hash {
            problems.push(format!("the kept hash {} is not that of the rules", kept.hash));
        }
        if kept.content != found.content {
            problems.push(format!("the kept digest {} is not that of the rules", kept.content));
        }
        if kept.counts != found.counts {
            problems.push(format!("the kept counts are not those of the rules: {:?}", kept.counts));
        }
    }
    Ok(RulesVerified {
        rules_hash: found.hash,
        counts: found.counts,
        rules,
        changed_by_others: kept.is_none(),
        file_is_damaged,
        problems,
    })
}

fn integrity(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = format!("PRAGMA integrity_check({MAX_PROBLEMS_LISTED})");
    let lines: Vec<String> =
        conn.prepare(&sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Names the rows that no download could have stored. Returns how many rows
/// there are.
fn malformed(conn: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<u64> {
    let mut statement =
        conn.prepare("SELECT rowid, identifier, state, type FROM execution_rules ORDER BY rowid")?;
    let mut rows = statement.query([])?;
    let (mut total, mut bad) = (0, 0);
    while let Some(row) = rows.next()? {
        total += 1;
        let problem = match Sound::read(row, 1)? {
            None => Some(foreign(row)?),
            Some(sound) => malformation(sound).map(|problem| (shown(sound.identifier), problem)),
        };
        let Some((identifier, problem)) = problem else { continue };
        bad += 1;
        if bad <= MAX_PROBLEMS_LISTED {
            let rowid: i64 = row.get(0)?;
            problems.push(format!("rule {identifier} (row {rowid}): {problem}"));
        }
    }
    if bad > MAX_PROBLEMS_LISTED {
        problems.push(format!("and {} rules more", bad - MAX_PROBLEMS_LISTED));
    }
    Ok(total)
}

/// Returns what is wrong with a row that is not foreign.
fn malformation(Sound { identifier, state, rule_type }: Sound<'_>) -> Option<String> {
    match (RuleType::from_number(rule_type), RuleState::from_number(state)) {
        (None, _) => Some(format!("has the unknown type {rule_type}")),
        (_, None) => Some(format!("has the unknown state {state}")),
        (Some(rule_type), Some(_)) => match Identifier::parse(rule_type, identifier) {
            Ok(parsed) if parsed.to_string() == identifier => None,
            Ok(_) => Some(format!("is not written as a {rule_type} identifier is stored")),
            Err(error) => Some(error.to_string()),
        },
    }
}

/// Returns the identifier of a foreign row and what is wrong with it.
fn foreign(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    let identifier = row.get_ref(1)?;
    let named = match row::text(identifier) {
        Some(text) => shown(text),
        None => kind(identifier),
    };
    let mut wrong = Vec::new();
    if row::text(identifier).is_none() {
        wrong.push("its identifier is not text".to_owned());
    }
    for (column, name) in [(2, "state"), (3, "type")] {
        let value = row.get_ref(column)?;
        if row::number(value).is_none() {
            wrong.push(format!("its {name} is {}", kind(value)));
        }
    }
    let wrong = wrong.join(" and ");
    Ok((
        named,
        format!(
            "{wrong}; another program wrote it, it decides nothing, and a clean sync deletes it"
        ),
    ))
}

/// Formats a value for display.
fn kind(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => format!("the number {number}"),
        ValueRef::Real(number) => format!("the number {number:?}"),
        ValueRef::Text(bytes) => match str::from_utf8(bytes) {
            Ok(text) => format!("the text {}", shown(text)),
            Err(_) => format!("a text of {} bytes that is not UTF-8", bytes.len()),
        },
        ValueRef::Blob(bytes) => format!("a BLOB of {} bytes", bytes.len()),
    }
}

fn shown(text: &str) -> String {
    format!("\"{}\"", text::escaped_start(text, 128))
}
