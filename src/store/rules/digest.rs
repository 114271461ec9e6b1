//! The hash and the counts of the stored rules.

use rusqlite::Connection;
use xxhash_rust::xxh3::Xxh3Default;

use super::row::{self, Sound};
use crate::model::{RuleCounts, RuleState, RuleType};

/// What preflight tells of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// 32 lower-case hex digits.
    pub(super) hash: String,
    pub(super) counts: RuleCounts,
}

impl Default for Digest {
    /// Of no rules.
    fn default() -> Self {
        Self {
            hash: format!("{:032x}", Xxh3Default::new().digest128()),
            counts: RuleCounts::default(),
        }
    }
}

impl Digest {
    /// Reckons both from all rules in stored order: rowid order, which is that
    /// of their arrival. Transitive rules are counted but not hashed, and foreign
    /// rows are neither. What commits keep up to date must equal this.
    pub(super) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let mut hash = Xxh3Default::new();
        let mut counts = RuleCounts::default();
        let mut statement = conn.prepare(
            "SELECT identifier, state, type, cel_expr, seatbelt_policy FROM execution_rules \
             ORDER BY rowid",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 0)? else {
                continue;
            };
            count(&mut counts, state, rule_type, 1);
            if state == RuleState::AllowTransitive.number() {
                continue;
            }
            hash.update(identifier.as_bytes());
            for column in 3..5 {
                hash.update(row::bytes(row.get_ref(column)?));
            }
            hash.update(&state.to_le_bytes());
            hash.update(&rule_type.to_le_bytes());
        }
        Ok(Self { hash: format!("{:032x}", hash.digest128()), counts })
    }
}

/// How many rules there are of whatever type this program knows.
pub(super) fn total(counts: &RuleCounts) -> usize {
    [counts.binary, counts.certificate, counts.teamid, counts.signingid, counts.cdhash]
        .iter()
        .map(|n| *n as usize)
        .sum()
}

/// Counts `by` more rules of a state and type, or fewer.
pub(super) fn count(counts: &mut RuleCounts, state: i32, rule_type: i32, by: i32) {
    let add = |n: &mut u32| *n = n.saturating_add_signed(by);
    match RuleType::from_number(rule_type) {
        Some(RuleType::Binary) => add(&mut counts.binary),
        Some(RuleType::Certificate) => add(&mut counts.certificate),
        Some(RuleType::TeamId) => add(&mut counts.teamid),
        Some(RuleType::SigningId) => add(&mut counts.signingid),
        Some(RuleType::Cdhash) => add(&mut counts.cdhash),
        None => {}
    }
    if state == RuleState::AllowCompiler.number() {
        add(&mut counts.compiler);
    } else if state == RuleState::AllowTransitive.number() {
        add(&mut counts.transitive);
    }
}
