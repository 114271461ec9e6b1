//! Fingerprints of identifiers and types, compact enough to hold and sort a
//! million.

use xxhash_rust::xxh3::xxh3_128;

use crate::model::{Identifier, Policy, RuleSet, RuleSide, RuleState, RuleType};

/// An identifier and its type, hashed to 96 bits. Two different ones collide
/// with a probability of 2^-96; a server that provoked a collision would only
/// lose one of its own rules.
pub(super) type Fingerprint = u128;

/// Returns the fingerprint of an identifier.
pub(super) fn fingerprint(identifier: &Identifier, scratch: &mut Vec<u8>) -> Fingerprint {
    scratch.clear();
    scratch.extend_from_slice(&identifier.rule_type().number().to_le_bytes());
    scratch.extend_from_slice(match identifier {
        Identifier::Cdhash(bytes) => bytes,
        Identifier::Binary(bytes) | Identifier::Certificate(bytes) => bytes,
        Identifier::TeamId(bytes) => bytes,
        Identifier::SigningId(text) => text.as_bytes(),
    });
    xxh3_128(scratch) >> 32
}

/// Returns the fingerprint of a row. A row whose identifier is not in our form
/// never matches a rule of a download.
pub(super) fn fingerprint_of_row(text: &str, rule_type: i32, scratch: &mut Vec<u8>) -> Fingerprint {
    let parsed = RuleType::from_number(rule_type).and_then(|t| Identifier::parse(t, text).ok());
    match parsed {
        Some(identifier) if identifier.to_string() == text => fingerprint(&identifier, scratch),
        _ => xxh3_128(format!("{rule_type} {text}").as_bytes()) >> 32,
    }
}

/// A rule of the download, or a row, as one number: the fingerprint, then the
/// place (30 bits; 0 for a row, else 1 + the position in the download), then
/// the side of the rule (2 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Naming(u128);

impl Naming {
    /// `side` is `None` for a rule that removes.
    pub(super) fn new(names: Fingerprint, place: u32, side: Option<RuleSide>) -> Self {
        let side = match side {
            None => 0,
            Some(RuleSide::Allows) => 1,
            Some(RuleSide::Blocks) => 2,
            Some(RuleSide::Depends) => 3,
        };
        Self(names << 32 | u128::from(place) << 2 | side)
    }

    pub(super) const fn names(self) -> Fingerprint {
        self.0 >> 32
    }

    #[expect(clippy::cast_possible_truncation, reason = "cut to the 30 bits of the place")]
    pub(super) const fn place(self) -> usize {
        (self.0 as u32 >> 2) as usize
    }

    pub(super) const fn side(self) -> Option<RuleSide> {
        match self.0 & 3 {
            1 => Some(RuleSide::Allows),
            2 => Some(RuleSide::Blocks),
            3 => Some(RuleSide::Depends),
            _ => None,
        }
    }

    pub(super) const fn removes(self) -> bool {
        self.side().is_none()
    }
}

/// Returns the side of a policy; `None` for REMOVE.
fn side_of(policy: Policy) -> Option<RuleSide> {
    policy.state().map(RuleState::side)
}

/// Returns the namings of a download in the order received, with capacity for
/// `more`.
pub(super) fn namings(rules: &RuleSet, more: usize) -> Vec<Naming> {
    let mut namings = Vec::with_capacity(rules.len() + more);
    let mut scratch = Vec::new();
    for (rule, place) in rules.iter().zip(1..) {
        let names = fingerprint(&rule.identifier, &mut scratch);
        namings.push(Naming::new(names, place, side_of(rule.policy)));
    }
    namings
}
