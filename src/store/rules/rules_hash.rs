//! The hash, the digest and the counts of the stored rules.

use rusqlite::{Connection, Row};
use xxhash_rust::xxh3::Xxh3Default;

use super::row::{self, Sound};
#[cfg(feature = "harness")]
use crate::model::Identifier;
use crate::model::{RuleCounts, RuleRef, RuleState, write_hashed_rule};

/// What the store keeps about the rules as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// The reference's hash, which preflight reports: 32 lower-case hex digits.
    pub(super) hash: String,
    /// A hash of ours over all columns, in the same form.
    pub(super) content: String,
    pub(super) counts: RuleCounts,
}

impl Default for Digest {
    /// The digest of no rules.
    fn default() -> Self {
        let empty = format!("{:032x}", Xxh3Default::new().digest128());
        Self { hash: empty.clone(), content: empty, counts: RuleCounts::default() }
    }
}

impl Digest {
    /// Computes all three from all rules in stored order: rowid order, the
    /// order of arrival. Transitive rules are counted but not hashed; foreign
    /// rows are neither. What commits maintain must equal this.
    pub(super) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let (mut hash, mut content) = (Xxh3Default::new(), Xxh3Default::new());
        let mut counts = RuleCounts::default();
        let mut bytes = Vec::new();
        let sql = format!("SELECT {} FROM execution_rules ORDER BY rowid", Hashed::COLUMNS);
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(rule) = Hashed::read(row)? else { continue };
            counts.adjust(rule.state, rule.rule_type, 1);
            if rule.state == RuleState::AllowTransitive.number() {
                continue;
            }
            rule.write_hashed(&mut bytes);
            hash.update(&bytes);
            rule.write_content(&mut bytes);
            content.update(&bytes);
        }
        let text = |hash: &Xxh3Default| format!("{:032x}", hash.digest128());
        Ok(Self { hash: text(&hash), content: text(&content), counts })
    }
}

/// The reference's hash, as a number, and the counts of these rules, as a store reports
/// them that holds them in this order: for simulated hosts, which have no store. A rule
/// is its identifier, its state and its expression.
#[cfg(feature = "harness")]
pub fn hash_and_counts<'a>(
    rules: impl IntoIterator<Item = (&'a Identifier, RuleState, &'a str)>,
) -> (u128, RuleCounts) {
    let mut hash = Xxh3Default::new();
    let mut counts = RuleCounts::default();
    let (mut bytes, mut text) = (Vec::new(), String::new());
    for (identifier, state, cel_expr) in rules {
        let (state, rule_type) = (state.number(), identifier.rule_type().number());
        counts.adjust(state, rule_type, 1);
        text.clear();
        identifier.push_to(&mut text);
        let decisive = [text.as_bytes(), cel_expr.as_bytes(), &[]];
        write_hashed_rule(decisive, state, rule_type, &mut bytes);
        hash.update(&bytes);
    }
    (hash.digest128(), counts)
}

/// The rules as another program holds them that was sent some of them in another
/// form, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentForm {
    /// The reference's hash of them.
    pub rules_hash: String,
    /// How many there are.
    pub counts: RuleCounts,
}

impl SentForm {
    /// Computes it from all rules in stored order. `sent` is the state in which a rule
    /// of a state was sent; `None` if it was left out.
    pub(super) fn of(
        conn: &Connection,
        sent: &dyn Fn(RuleState) -> Option<RuleState>,
    ) -> rusqlite::Result<Self> {
        let (mut hash, mut counts) = (Xxh3Default::new(), RuleCounts::default());
        let mut bytes = Vec::new();
        let sql = format!("SELECT {} FROM execution_rules ORDER BY rowid", Hashed::COLUMNS);
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(rule) = Hashed::read(row)? else { continue };
            let Some(state) = RuleState::from_number(rule.state).and_then(sent) else { continue };
            let rule = Hashed { state: state.number(), ..rule };
            counts.adjust(rule.state, rule.rule_type, 1);
            rule.write_hashed(&mut bytes);
            hash.update(&bytes);
        }
        Ok(Self { rules_hash: format!("{:032x}", hash.digest128()), counts })
    }
}

/// Counts the stored rules.
pub(super) fn counts_of(conn: &Connection) -> rusqlite::Result<RuleCounts> {
    let mut counts = RuleCounts::default();
    let mut statement = conn.prepare("SELECT identifier, state, type FROM execution_rules")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(Sound { state, rule_type, .. }) = Sound::read(row, 0)? {
            counts.adjust(state, rule_type, 1);
        }
    }
    Ok(counts)
}

/// The parts of a rule that the hash and the digest cover.
pub(super) struct Hashed<'a> {
    pub(super) row: i64,
    state: i32,
    rule_type: i32,
    rule_id: i64,
    /// Identifier, expression and sandbox policy: what the hash covers.
    decisive: [&'a [u8]; 3],
    /// Message, link, comment and button: what only the digest covers.
    shown: [&'a [u8]; 4],
}

impl<'a> Hashed<'a> {
    /// The columns that [`Self::read`] needs, in its order.
    pub(super) const COLUMNS: &'static str = "rowid, identifier, state, type, cel_expr, \
        seatbelt_policy, custommsg, customurl, comment, event_detail_button_text, rule_id";

    /// Reads a row of [`Self::COLUMNS`]; `None` if it is foreign.
    pub(super) fn read(row: &'a Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 1)? else {
            return Ok(None);
        };
        let bytes = |column| row.get_ref(column).map(row::bytes);
        Ok(Some(Self {
            row: row.get(0)?,
            state,
            rule_type,
            rule_id: row.get_ref(10)?.as_i64().unwrap_or(0),
            decisive: [identifier.as_bytes(), bytes(4)?, bytes(5)?],
            shown: [bytes(6)?, bytes(7)?, bytes(8)?, bytes(9)?],
        }))
    }

    /// Returns the parts of a downloaded rule that was stored as `row`;
    /// `identifier` is the text of its identifier.
    pub(super) fn of(
        row: i64,
        identifier: &'a str,
        state: RuleState,
        rule: &'a RuleRef<'_>,
    ) -> Self {
        let details = &rule.details;
        Self {
            row,
            state: state.number(),
            rule_type: rule.identifier.rule_type().number(),
            rule_id: 0,
            decisive: [identifier.as_bytes(), details.cel_expr.as_bytes(), &[]],
            shown: [
                details.custom_msg.as_bytes(),
                details.custom_url.as_bytes(),
                details.comment.as_bytes(),
                details.event_detail_button_label.as_bytes(),
            ],
        }
    }

    /// Writes the bytes that the hash covers.
    pub(super) fn write_hashed(&self, bytes: &mut Vec<u8>) {
        write_hashed_rule(self.decisive, self.state, self.rule_type, bytes);
    }

    /// Writes the bytes that the digest covers: every text with its length, so
    /// that two rules are never written alike.
    pub(super) fn write_content(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for text in self.decisive.iter().chain(&self.shown) {
            bytes.extend_from_slice(&text.len().to_le_bytes());
            bytes.extend_from_slice(text);
        }
        bytes.extend_from_slice(&self.state.to_le_bytes());
        bytes.extend_from_slice(&self.rule_type.to_le_bytes());
        bytes.extend_from_slice(&self.rule_id.to_le_bytes());
    }
}

/// Returns how many rules there are of all known types.
pub(super) fn total(counts: &RuleCounts) -> usize {
    [counts.binary, counts.certificate, counts.teamid, counts.signingid, counts.cdhash]
        .iter()
        .map(|n| *n as usize)
        .sum()
}
