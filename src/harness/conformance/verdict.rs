//! What a check found.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};

/// The verdict on one requirement.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// It is met.
    Pass,
    /// Does not concern this server.
    NotApplicable,
    /// Could not be tested; the summary says why.
    NotTested,
    /// Worth knowing, nobody's fault.
    Info,
    /// Works with limits, or only in some configurations.
    Warning,
    /// The check came to different verdicts when it was repeated.
    Unstable,
    /// Real clients break or lose something.
    Fail,
}

impl Verdict {
    /// Every verdict, the best first.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in JSON and in expectation files, such as `not_tested`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The words for people, such as `not tested`.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Unstable => "unstable",
            Self::NotTested => "not tested",
            Self::NotApplicable => "not applicable",
        }
    }

    /// Whether a server author has something to look at: fail, warning or unstable.
    #[must_use]
    pub const fn is_complaint(self) -> bool {
        match self {
            Self::Fail | Self::Warning | Self::Unstable => true,
            Self::Pass | Self::Info | Self::NotTested | Self::NotApplicable => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A verdict with its reason and the exchanges that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// What was observed; empty for a plain pass.
    pub(super) said: String,
    /// Numbers of exchanges, the most telling first.
    pub(super) exchanges: Vec<u64>,
    /// The requirement whose failure kept this one from being tested.
    pub(super) blocked_by: Option<&'static str>,
    /// What it leads to, where the requirement can be broken in several ways; `None` leaves it
    /// at what the catalogue says of the requirement.
    pub(super) harm: Option<&'static str>,
    /// Whether it rests on nothing but a comparison with the rules of the first machine. They may
    /// differ for other reasons: see [`RuleScope`](super::rule_scope::RuleScope).
    pub(super) compares_rules: bool,
}

impl Judgement {
    pub(super) fn new(verdict: Verdict, said: impl Into<String>) -> Self {
        Self {
            verdict,
            said: said.into(),
            exchanges: Vec::new(),
            blocked_by: None,
            harm: None,
            compares_rules: false,
        }
    }

    pub(super) fn pass() -> Self {
        Self::new(Verdict::Pass, "")
    }

    pub(super) fn fail(said: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, said)
    }

    pub(super) fn warning(said: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, said)
    }

    pub(super) fn info(said: impl Into<String>) -> Self {
        Self::new(Verdict::Info, said)
    }

    pub(super) fn not_tested(said: impl Into<String>) -> Self {
        Self::new(Verdict::NotTested, said)
    }

    pub(super) fn not_applicable(said: impl Into<String>) -> Self {
        Self::new(Verdict::NotApplicable, said)
    }

    pub(super) fn blocked(by: &'static str, said: impl Into<String>) -> Self {
        Self { blocked_by: Some(by), ..Self::not_tested(said) }
    }

    /// Adds the exchange that shows it.
    pub(super) fn at(mut self, exchange: u64) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// Says what this way of breaking the requirement leads to.
    pub(super) const fn harms(mut self, harm: &'static str) -> Self {
        self.harm = Some(harm);
        self
    }

    /// The worse of both; of two alike, both reasons, each said once. Where they do not harm
    /// alike, what the catalogue says covers both.
    pub(super) fn and(mut self, other: Self) -> Self {
        if other.verdict > self.verdict {
            return other;
        }
        if other.verdict == self.verdict {
            let was_silent = self.said.is_empty();
            self.said = joined_once(&self.said, &other.said);
            self.exchanges.extend(other.exchanges);
            self.blocked_by = self.blocked_by.or(other.blocked_by);
            self.compares_rules &= other.compares_rules;
            // A plain pass says nothing, and so does not speak against the other.
            if !was_silent && self.harm != other.harm {
                self.harm = None;
            } else {
                self.harm = other.harm;
            }
        }
        self
    }
}

/// Reasons one after another. Of those that differ in what they are about alone, as `LOCKDOWN:
/// 500` and `STANDALONE: 500`, the rest is said once: `LOCKDOWN, STANDALONE: 500`.
fn joined_once(said: &str, more: &str) -> String {
    let mut parts: Vec<String> =
        said.split("; ").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    for part in more.split("; ").filter(|part| !part.is_empty()) {
        let (what, rest) = part.split_once(": ").unwrap_or((part, ""));
        let has_the_rest = |known: &&mut String| {
            !rest.is_empty() && known.split_once(": ").is_some_and(|(_, same)| same == rest)
        };
        if let Some(known) = parts.iter_mut().find(has_the_rest) {
            let known_what = known.split_once(": ").map_or("", |(known_what, _)| known_what);
            let is_new = |name: &&str| !known_what.split(", ").any(|known| known == *name);
            let new: Vec<_> = what.split(", ").filter(is_new).collect();
            let names = std::iter::once(known_what).chain(new).collect::<Vec<_>>().join(", ");
            *known = format!("{names}: {rest}");
        } else if !parts.iter().any(|known| known == part) {
            parts.push(part.to_owned());
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_verdict_wins_and_keeps_its_reason() {
        let both = Judgement::warning("slow").at(1).and(Judgement::fail("cut").at(2));
        assert_eq!(both, Judgement::fail("cut").at(2));
        let both = both.and(Judgement::info("odd"));
        assert_eq!(both.said, "cut");
        let both = both.and(Judgement::fail("late").at(3));
        assert_eq!((both.said.as_str(), both.exchanges), ("cut; late", vec![2, 3]));
    }

    #[test]
    fn the_harm_is_that_of_what_was_found_unless_there_are_several() {
        let slow = || Judgement::fail("slow").harms("hosts wait");
        let cut = || Judgement::fail("cut").harms("rules are lost");
        assert_eq!(Judgement::pass().and(slow()).harm, Some("hosts wait"));
        assert_eq!(slow().and(slow()).and(Judgement::pass()).harm, Some("hosts wait"));
        assert_eq!(slow().and(cut()).harm, None);
        assert_eq!(slow().and(Judgement::fail("odd")).harm, None);
    }

    #[test]
    fn what_reasons_have_in_common_is_said_once() {
        let all =
            ["LOCKDOWN: 500", "half a body: 400", "STANDALONE: 500", "half a body: 400", "late"];
        let said = all.into_iter().fold(String::new(), |said, more| joined_once(&said, more));
        assert_eq!(said, "LOCKDOWN, STANDALONE: 500; half a body: 400; late");
        assert_eq!(joined_once(&said, &said), said);
        assert_eq!(joined_once("", "a: b"), "a: b");
    }
}
