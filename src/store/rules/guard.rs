//! The guard against a download that would remove most of the policy. The
//! protocol does not distinguish a server that lost its rules, or a mistake,
//! from intent.

use std::fmt;

use rusqlite::Connection;
use serde::Serialize;

use super::commit::Cleanup;
use super::names::{Naming, fingerprint_of_row, namings};
use super::preview::{RuleChange, RuleChangeKind};
use super::row::Sound;
use super::rules_hash::total;
use crate::model::{RuleCounts, RuleSet, RuleSide, RuleState, RuleType, text};

/// The guard applies to stores of at least this many rules.
const MIN_GUARDED_RULES: u64 = 100;
/// How many of the lost rules are named.
const MAX_EXAMPLES: usize = 5;
/// How much of an identifier a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 80;

/// How many of the stored rules a download may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleGuard {
    percent: u8,
}

impl RuleGuard {
    /// Allows a download to take away at most `percent` of the stored rules;
    /// 100 allows everything.
    #[must_use]
    pub const fn new(percent: u8) -> Self {
        Self { percent }
    }

    fn stops(self, lost: u64, stored: u64) -> bool {
        stored >= MIN_GUARDED_RULES && lost * 100 > stored * u64::from(self.percent)
    }
}

/// A download that was not committed because it would have taken away more than
/// the guard allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulesGuarded {
    /// Rules in the store, without the transitive ones that the host creates
    /// itself.
    pub stored: u64,
    /// How many of them would have been removed and not sent again.
    pub removed: u64,
    /// How many would have changed from allowing to blocking or back. A rule
    /// with an expression is neither.
    pub reversed: u64,
    /// The share that may be taken away, in percent.
    pub percent: u8,
    /// The first rules of both kinds, in stored order.
    pub examples: Vec<RuleChange>,
}

/// Describes the losses as part of a sentence.
impl fmt::Display for RulesGuarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, removed, reversed, percent, examples } = self;
        write!(
            f,
            "the download would remove {removed} of {stored} rules and turn {reversed} from \
             allowing to blocking or back, which is more than the {percent} % that \
             GuardRemovedPercent allows"
        )?;
        for (place, RuleChange { identifier, rule_type, before, after, .. }) in
            examples.iter().enumerate()
        {
            let lead = if place == 0 { "; for example" } else { "," };
            let identifier = text::escaped_start(identifier, MAX_SHOWN_CHARS);
            let before = before.unwrap_or("unknown");
            let after = after.unwrap_or("removed");
            write!(f, "{lead} {rule_type} {identifier} ({before} -> {after})")?;
        }
        Ok(())
    }
}

/// Checks what the download would take away, before anything has changed.
/// Returns `Some` if it is more than the guard allows.
pub(super) fn check(
    conn: &Connection,
    guard: RuleGuard,
    rules: &RuleSet,
    cleanup: Cleanup,
    before: &RuleCounts,
) -> rusqlite::Result<Option<RulesGuarded>> {
    let stored = (total(before) as u64).saturating_sub(u64::from(before.transitive));
    if stored < MIN_GUARDED_RULES
        || (cleanup == Cleanup::Nothing && !guard.stops(rules.len() as u64, stored))
    {
        // Each rule of such a download takes away at most one stored rule.
        return Ok(None);
    }
    let mut last = namings(rules, 0);
    last.sort_unstable();
    // Of rules with the same identifier and type, the last one applies.
    last.dedup_by(|later, earlier| {
        let same = later.names() == earlier.names();
        if same {
            *earlier = *later;
        }
        same
    });
    let mut found = RulesGuarded {
        stored: 0,
        removed: 0,
        reversed: 0,
        percent: guard.percent,
        examples: Vec::new(),
    };
    // For each reversed example, the position of its rule in the download.
    let mut reversing: Vec<(usize, usize)> = Vec::new();
    let mut scratch = Vec::new();
    let mut statement =
        conn.prepare("SELECT identifier, state, type FROM execution_rules ORDER BY rowid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(Sound { identifier, state, rule_type: number }) = Sound::read(row, 0)? else {
            continue;
        };
        let state = RuleState::from_number(state);
        let Some(rule_type) = RuleType::from_number(number) else { continue };
        if state == Some(RuleState::AllowTransitive) {
            continue;
        }
        found.stored += 1;
        let names = fingerprint_of_row(identifier, number, &mut scratch);
        let sent = last.binary_search_by_key(&names, |naming| naming.names());
        let sent = sent.ok().and_then(|place| last.get(place)).copied();
        let change = match sent {
            None if cleanup.takes(state) => RuleChangeKind::Removed,
            Some(naming) if naming.removes() => RuleChangeKind::Removed,
            Some(naming) if reverses(state, naming) => RuleChangeKind::Replaced,
            None | Some(_) => continue,
        };
        match change {
            RuleChangeKind::Removed => found.removed += 1,
            RuleChangeKind::Replaced | RuleChangeKind::Added => found.reversed += 1,
        }
        if found.examples.len() < MAX_EXAMPLES {
            if let (RuleChangeKind::Replaced, Some(naming)) = (change, sent) {
                reversing.push((naming.place(), found.examples.len()));
            }
            found.examples.push(RuleChange {
                change,
                identifier: identifier.to_owned(),
                rule_type,
                before: state.map(RuleState::policy_name),
                after: None,
            });
        }
    }
    if !guard.stops(found.removed + found.reversed, found.stored) {
        return Ok(None);
    }
    for (rule, place) in rules.iter().zip(1..) {
        for (_, example) in reversing.iter().filter(|(of, _)| *of == place) {
            if let Some(example) = found.examples.get_mut(*example) {
                example.after = rule.policy.state().map(RuleState::policy_name);
            }
        }
    }
    Ok(Some(found))
}

fn reverses(stored: Option<RuleState>, sent: Naming) -> bool {
    matches!(
        (stored.map(RuleState::side), sent.side()),
        (Some(RuleSide::Allows), Some(RuleSide::Blocks))
            | (Some(RuleSide::Blocks), Some(RuleSide::Allows))
    )
}
