//! What a release of the authorizer can do, by the version in its preflight.
//! Source of the numbers: Santa's release tags 2024.12 to 2026.7.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::RuleState;

/// A release of Santa: its year and number within the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    year: u32,
    number: u32,
}

/// The first release that reports SIP flags.
const REPORTS_SIP: Release = Release { year: 2025, number: 5 };
/// The first release that knows CEL rules.
const CEL: Release = Release { year: 2025, number: 6 };
/// The first release whose clean syncs clear settings.
const CLEARS_SETTINGS: Release = Release { year: 2026, number: 4 };
/// The first release that knows rules that block silently in one place only.
const SILENT_IN_ONE_PLACE: Release = Release { year: 2026, number: 6 };

/// The form in which a release takes rules. Rules whose policy it does not know are altered or
/// left out. Releases with the same form get identical rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleForm {
    /// All rules unchanged.
    #[default]
    AsStored,
    /// Rules that block silently in one place only, GUI or TTY, block silently everywhere.
    SilentEverywhere,
    /// As [`Self::SilentEverywhere`], and CEL rules are left out.
    WithoutCel,
}

impl RuleForm {
    /// Returns the form for a release; `None` counts as newer than all.
    #[must_use]
    pub fn of(release: Option<Release>) -> Self {
        match release {
            Some(release) if release < CEL => Self::WithoutCel,
            Some(release) if release < SILENT_IN_ONE_PLACE => Self::SilentEverywhere,
            Some(_) | None => Self::AsStored,
        }
    }
}

impl Release {
    /// Parses a version such as `2026.3` or `2026.3.130`. `None` if it cannot be parsed: such a
    /// release counts as newer than all, because its limits are not known.
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

    /// Whether a release reports SIP flags in preflight.
    #[must_use]
    pub fn reports_sip(release: Option<Self>) -> bool {
        release.is_none_or(|release| release >= REPORTS_SIP)
    }

    /// The state to send instead of one that the release does not know; `None`
    /// if the rule must be left out (RELAY-15).
    #[must_use]
    pub fn sendable(release: Option<Self>, state: RuleState) -> Option<RuleState> {
        let form = RuleForm::of(release);
        match state {
            RuleState::SilentBlockGui | RuleState::SilentBlockTty => Some(match form {
                RuleForm::AsStored => state,
                RuleForm::SilentEverywhere | RuleForm::WithoutCel => RuleState::SilentBlock,
            }),
            RuleState::Cel => match form {
                RuleForm::AsStored | RuleForm::SilentEverywhere => Some(state),
                RuleForm::WithoutCel => None,
            },
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
        for (version, form) in [
            ("2024.12", RuleForm::WithoutCel),
            ("2025.5.9", RuleForm::WithoutCel),
            ("2025.6", RuleForm::SilentEverywhere),
            ("2026.5", RuleForm::SilentEverywhere),
            ("2026.6", RuleForm::AsStored),
            ("later", RuleForm::AsStored),
        ] {
            assert_eq!(RuleForm::of(Release::parse(version)), form, "{version}");
        }
        assert_eq!(sent("2026.7", RuleState::AllowTransitive), None);
        assert!(!Release::reports_sip(Release::parse("2025.4")));
        assert!(Release::reports_sip(Release::parse("2025.5")));
        assert!(!Release::clears_settings(Release::parse("2026.3")));
        assert!(Release::clears_settings(Release::parse("2026.4")));
    }
}
