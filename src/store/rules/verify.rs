//! Checking the whole store against itself.

use rusqlite::Connection;
use serde::Serialize;

use super::digest::Digest;
use super::meta;
use crate::model::{Identifier, RuleCounts, RuleState, RuleType};
use crate::store::{Store, StoreError};

/// How many problems of one kind are listed.
const LISTED: usize = 20;

/// What a check of the whole rule store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulesVerified {
    /// The hash of the rules, reckoned from all of them.
    pub rules_hash: String,
    /// Their counts, likewise.
    pub counts: RuleCounts,
    /// Rules in the store.
    pub rules: u64,
    /// Whether another program has changed the rules since the last commit.
    /// The next one takes that in; it is no problem.
    pub changed_by_others: bool,
    /// The file itself is damaged: the next sync sets it aside.
    pub file_is_damaged: bool,
    /// What is wrong, each in one sentence; the first of each kind.
    pub problems: Vec<String>,
}

impl Store {
    /// Checks the rules: the file's integrity, hash and counts as kept against
    /// all rules, and that each rule is one that could have been committed.
    /// Reads everything; the store may be in use meanwhile.
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
        problems.push(format!("the hash cannot be reckoned: {error}"));
        Digest::default()
    });
    if let Some(kept) = &kept {
        if kept.hash != found.hash {
            problems.push(format!("the kept hash {} is not that of the rules", kept.hash));
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
    let sql = format!("PRAGMA integrity_check({LISTED})");
    let lines: Vec<String> =
        conn.prepare(&sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Names the rules that no download could have brought. Answers how many rules
/// there are.
fn malformed(conn: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<u64> {
    let mut statement =
        conn.prepare("SELECT rowid, identifier, type, state FROM execution_rules ORDER BY rowid")?;
    let mut rows = statement.query([])?;
    let (mut total, mut bad) = (0, 0);
    while let Some(row) = rows.next()? {
        total += 1;
        let rowid: i64 = row.get(0)?;
        let read = (row.get::<_, String>(1), row.get::<_, i32>(2), row.get::<_, i32>(3));
        let (Ok(identifier), Ok(number), Ok(state)) = read else {
            bad += 1;
            if bad <= LISTED {
                problems.push(format!("the rule of row {rowid} holds what no rule can hold"));
            }
            continue;
        };
        let problem = match (RuleType::from_number(number), RuleState::from_number(state)) {
            (None, _) => format!("has the unknown type {number}"),
            (_, None) => format!("has the unknown state {state}"),
            (Some(rule_type), Some(_)) => match Identifier::parse(rule_type, &identifier) {
                Ok(parsed) if parsed.to_string() == identifier => continue,
                Ok(_) => format!("is not written as a {rule_type} identifier is stored"),
                Err(error) => error.to_string(),
            },
        };
        bad += 1;
        if bad <= LISTED {
            let shown: String = identifier.chars().take(128).collect();
            problems.push(format!("rule {shown:?} (row {rowid}): {problem}"));
        }
    }
    if bad > LISTED {
        problems.push(format!("and {} rules more", bad - LISTED));
    }
    Ok(total)
}
