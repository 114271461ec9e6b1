//! What a download does to each rule it names or deletes, found out before it
//! is applied: for the log of changes, and for the preview of a dry run.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};
use xxhash_rust::xxh3::Xxh3;

use super::commit::Cleanup;
use super::names::{Fingerprint, fingerprint_of_row, namings};
use super::row::{self, Sound};
use crate::model::{RuleRef, RuleSet, RuleState};

/// What became of a rule in a commit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, EnumString, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LoggedChange {
    /// Stored; there was none of its identifier and type.
    Added,
    /// Stored in the place of one that decided otherwise.
    Replaced,
    /// Stored in the place of one that differed in its texts alone.
    Reworded,
    /// Stored again as it was, which moves it to the end.
    SentAgain,
    /// Deleted.
    Removed,
    /// To be deleted, but there was none.
    Missed,
}

impl LoggedChange {
    /// All of them.
    pub(super) const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name in the database and in `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What a commit does to one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) kind: LoggedChange,
    pub(super) identifier: String,
    pub(super) rule_type: i32,
    pub(super) before: Option<i32>,
    pub(super) after: Option<RuleState>,
}

/// A stored rule, as far as it is compared with one that is sent.
struct StoredRow {
    state: Option<i32>,
    /// Of what decides.
    deciding: u64,
    /// Of the texts that are shown.
    texts: u64,
}

/// The columns of [`StoredRow::read`].
const COMPARED_COLUMNS: &str = "state, cel_expr, seatbelt_policy, custommsg, customurl, comment, \
                       event_detail_button_text, rule_id";

impl StoredRow {
    /// Reads the columns of [`COMPARED_COLUMNS`], the first of which is `at`.
    fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        let bytes = |column| row.get_ref(at + column).map(row::bytes);
        let rule_id = row.get_ref(at + 7)?.as_i64().unwrap_or(0);
        Ok(Self {
            state: row::number(row.get_ref(at)?),
            deciding: hash(&[bytes(1)?, bytes(2)?], rule_id),
            texts: hash(&[bytes(3)?, bytes(4)?, bytes(5)?, bytes(6)?], 0),
        })
    }

    fn compare(&self, rule: &RuleRef<'_>) -> LoggedChange {
        let details = &rule.details;
        let texts = [
            details.custom_msg,
            details.custom_url,
            details.comment,
            details.event_detail_button_label,
        ];
        let decides_as_before = self.state == rule.policy.state().map(RuleState::number)
            && self.deciding == hash(&[details.cel_expr.as_bytes(), &[]], 0);
        if !decides_as_before {
            LoggedChange::Replaced
        } else if self.texts == hash(&texts.map(str::as_bytes), 0) {
            LoggedChange::SentAgain
        } else {
            LoggedChange::Reworded
        }
    }
}

fn hash(texts: &[&[u8]], number: i64) -> u64 {
    let mut hash = Xxh3::new();
    for text in texts {
        hash.update(&text.len().to_le_bytes());
        hash.update(text);
    }
    hash.update(&number.to_le_bytes());
    hash.digest()
}

/// Compares a download with the rules as they are, of which there are `stored`,
/// and shows what becomes of each: first of those that the download names, in
/// its order, where only the last word on one counts; then, in stored order, of
/// those that the cleanup deletes.
pub(super) fn compare(
    conn: &Connection,
    rules: &RuleSet,
    cleanup: Cleanup,
    stored: usize,
    visit: &mut dyn FnMut(Change),
) -> rusqlite::Result<()> {
    let namings = namings(rules, 0);
    let mut last: HashMap<Fingerprint, usize> = HashMap::with_capacity(namings.len());
    last.extend(namings.iter().map(|naming| (naming.names(), naming.place())));
    // Looking up single rules costs more than reading all of them, if they are
    // not few.
    let mut known =
        if stored > 0 && rules.len() >= stored / 8 { Some(content_of(conn, &last)?) } else { None };
    let mut find = conn.prepare(&format!(
        "SELECT {COMPARED_COLUMNS} FROM execution_rules WHERE identifier = ?1 AND type = ?2"
    ))?;
    for (rule, naming) in rules.iter().zip(&namings) {
        if last.get(&naming.names()) != Some(&naming.place()) {
            continue;
        }
        let identifier = rule.identifier.to_string();
        let rule_type = rule.identifier.rule_type().number();
        let found = match &mut known {
            Some(known) => known.remove(&naming.names()),
            None => find
                .query_row(params![identifier, rule_type], |row| StoredRow::read(row, 0))
                .optional()?,
        };
        let after = rule.policy.state();
        let kind = match (&found, after) {
            (None, None) => LoggedChange::Missed,
            (None, Some(_)) => LoggedChange::Added,
            (Some(_), None) => LoggedChange::Removed,
            (Some(found), Some(_)) => found.compare(&rule),
        };
        let before = found.and_then(|found| found.state);
        visit(Change { kind, identifier, rule_type, before, after });
    }
    removed_by_cleanup(conn, cleanup, &last, visit)
}

/// The stored rules that a download names.
fn content_of(
    conn: &Connection,
    named: &HashMap<Fingerprint, usize>,
) -> rusqlite::Result<HashMap<Fingerprint, StoredRow>> {
    let mut found = HashMap::new();
    let mut scratch = Vec::new();
    let mut statement =
        conn.prepare(&format!("SELECT identifier, type, {COMPARED_COLUMNS} FROM execution_rules"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (identifier, rule_type) = (row::text(row.get_ref(0)?), row::number(row.get_ref(1)?));
        let (Some(identifier), Some(rule_type)) = (identifier, rule_type) else { continue };
        let fingerprint = fingerprint_of_row(identifier, rule_type, &mut scratch);
        if named.contains_key(&fingerprint) {
            found.insert(fingerprint, StoredRow::read(row, 2)?);
        }
    }
    Ok(found)
}

fn removed_by_cleanup(
    conn: &Connection,
    cleanup: Cleanup,
    named: &HashMap<Fingerprint, usize>,
    visit: &mut dyn FnMut(Change),
) -> rusqlite::Result<()> {
    let Some(condition) = cleanup.condition() else { return Ok(()) };
    let mut scratch = Vec::new();
    let mut statement = conn.prepare(&format!(
        "SELECT identifier, state, type FROM execution_rules WHERE {condition} ORDER BY rowid"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 0)? else { continue };
        if named.contains_key(&fingerprint_of_row(identifier, rule_type, &mut scratch)) {
            continue;
        }
        visit(Change {
            kind: LoggedChange::Removed,
            identifier: identifier.to_owned(),
            rule_type,
            before: Some(state),
            after: None,
        });
    }
    Ok(())
}
