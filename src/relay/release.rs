//! What a release of the authorizer can do, by the version in its preflight.
//! Source of the numbers: Santa's release tags 2024.12 to 2026.7.

use std::fmt;

use crate::model::RuleState;

/// A release of Santa: its year and number within the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    year: u32,
    number: u32,
}

/// The first release that knows CEL rules.
const CEL: Release = Release { year: 2025, number: 6 };
/// The first release whose clean syncs clear settings.
const CLEARS_SETTINGS: Release = Release { year: 2026, number: 4 };
/// The first release that knows rules that are silent in one place.
const SILENT_IN_ONE_PLACE: Release = Release { year: 2026, number: 6 };

impl Release {
    /// Reads a version, for example `2026.3` or `2026.3.130`. One that cannot be
    /// read counts as newer than all: what it cannot do is not known.
    #[must_use]
    pub fn parse(version: &str) -> Option<Self> {
        let mut parts = version.trim().split('.');
        let year = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        Some(Self { year, number })
    }

    /// Whether its clean syncs clear settings that the server no longer gives.
    #[must_use]
    pub fn clears_settings(release: Option<Self>) -> bool {
        release.is_none_or(|release| release >= CLEARS_SETTINGS)
    }

    /// Whether it does not know all states of rules that servers send.
    #[must_use]
    pub fn alters_rules(release: Option<Self>) -> bool {
        release.is_some_and(|release| release < SILENT_IN_ONE_PLACE)
    }

    /// The state to send instead of one that the release does not know; `None`
    /// if the rule must be left out (RELAY-15).
    #[must_use]
    pub fn sendable(release: Option<Self>, state: RuleState) -> Option<RuleState> {
        let knows = |first| release.is_none_or(|release| release >= first);
        match state {
            RuleState::SilentBlockGui | RuleState::SilentBlockTty => {
                Some(if knows(SILENT_IN_ONE_PLACE) { state } else { RuleState::SilentBlock })
            }
            RuleState::Cel => Some(state).filter(|_| knows(CEL)),
            RuleState::Allow
            | RuleState::Block
            | RuleState::SilentBlock
            | RuleState::AllowCompiler => Some(state),
            // No server sends these.
            RuleState::AllowTransitive
            | RuleState::AllowLocalBinary
            | RuleState::AllowLocalSigningId
            | RuleState::CelV2
            | RuleState::Seatbelt => None,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.year, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-15: what a release does not know goes out as the nearest it knows,
    /// or not at all.
    #[test]
    fn relay_15_a_release_is_sent_only_policies_it_knows() {
        let sent = |version, state| Release::sendable(Release::parse(version), state);
        for silent in [RuleState::SilentBlockGui, RuleState::SilentBlockTty] {
            assert_eq!(sent("2026.5", silent), Some(RuleState::SilentBlock));
            assert_eq!(sent("2026.6", silent), Some(silent));
            assert_eq!(sent("2027.1.3", silent), Some(silent));
            assert_eq!(sent("later", silent), Some(silent), "an unknown one may know it");
        }
        assert_eq!(sent("2025.5.9", RuleState::Cel), None);
        assert_eq!(sent("2025.6", RuleState::Cel), Some(RuleState::Cel));
        assert_eq!(sent("2025.10", RuleState::Cel), Some(RuleState::Cel), "numbers, not text");
        assert_eq!(sent("2024.12", RuleState::Block), Some(RuleState::Block));
        assert!(Release::alters_rules(Release::parse("2026.5")));
        assert!(!Release::alters_rules(Release::parse("2026.6")));
        assert!(!Release::alters_rules(Release::parse("later")));
        assert_eq!(sent("2026.7", RuleState::AllowTransitive), None);
        assert!(!Release::clears_settings(Release::parse("2026.3")));
        assert!(Release::clears_settings(Release::parse("2026.4")));
    }
}
