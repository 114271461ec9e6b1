//! The requirements that a sync server is checked against: their ids, what the server has to do,
//! and what happens to which agents if it does not. Data only; the checks are in
//! [`super::checks`].

mod exchanges;
mod syncs;
mod uploads;

use serde::Serialize;

/// The part of the protocol that a requirement belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// HTTP and TLS.
    Http,
    /// Encodings and transfer forms of request bodies.
    Encodings,
    /// Machine ids and enrolment.
    Identity,
    /// Preflight.
    Preflight,
    /// Clean syncs.
    Clean,
    /// Rule download.
    Rules,
    /// Pages and cursors of a rule download.
    Pages,
    /// Event upload.
    Events,
    /// Postflight.
    Postflight,
    /// Machines do not disturb each other.
    Isolation,
    /// Errors, credentials, XSRF tokens.
    Errors,
    /// What an operator changes reaches the machines.
    Operator,
}

impl Section {
    /// Every section in the order of a report.
    pub const ALL: [Self; 12] = [
        Self::Http,
        Self::Encodings,
        Self::Identity,
        Self::Preflight,
        Self::Clean,
        Self::Rules,
        Self::Pages,
        Self::Events,
        Self::Postflight,
        Self::Isolation,
        Self::Errors,
        Self::Operator,
    ];

    /// The heading of its requirements.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP and TLS",
            Self::Encodings => "Encodings",
            Self::Identity => "Identity and enrolment",
            Self::Preflight => "Preflight",
            Self::Clean => "Clean syncs",
            Self::Rules => "Rule download",
            Self::Pages => "Pages",
            Self::Events => "Event upload",
            Self::Postflight => "Postflight",
            Self::Isolation => "Independence of machines",
            Self::Errors => "Errors and access",
            Self::Operator => "Changes by an operator",
        }
    }
}

/// How bad it is at worst if a requirement is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Real clients break or lose something.
    Fail,
    /// Works with limits, or only in some configurations.
    Warning,
    /// Worth knowing, nobody's fault.
    Info,
}

/// What a check needs beyond a server that responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetUp {
    /// At least one rule for the machines of the run.
    Rules,
    /// Rules on at least two pages.
    Pages,
    /// A machine id that the server has never seen.
    FreshId,
    /// A second machine id.
    TwoIds,
    /// An operator who acts when asked.
    Operator,
    /// A credential of the operator.
    Credential,
    /// Uploads made-up events.
    Events,
    /// Off unless asked for, because the check leaves much behind on the server.
    Heavy,
    /// Waits for seconds or minutes.
    Slow,
}

/// One requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// Its id, such as `CLEAN-04`.
    pub id: &'static str,
    /// The part of the protocol.
    pub section: Section,
    /// What the server has to do, in one sentence.
    pub title: &'static str,
    /// What happens to which agents if the server does not.
    pub breaks: &'static str,
    /// The worst verdict that its check can come to.
    pub level: Level,
    /// What its check needs.
    pub set_up: &'static [SetUp],
}

impl Requirement {
    const fn new(
        section: Section,
        id: &'static str,
        level: Level,
        set_up: &'static [SetUp],
        title: &'static str,
        breaks: &'static str,
    ) -> Self {
        Self { id, section, title, breaks, level, set_up }
    }

    /// Whether its check needs this.
    #[must_use]
    pub fn needs(&self, set_up: SetUp) -> bool {
        self.set_up.contains(&set_up)
    }
}

/// Every requirement, in the order of a report.
pub fn catalogue() -> impl Iterator<Item = &'static Requirement> + Clone {
    exchanges::REQUIREMENTS.iter().chain(syncs::REQUIREMENTS).chain(uploads::REQUIREMENTS)
}

/// Returns the requirement with this id, in upper or lower case.
#[must_use]
pub fn requirement(id: &str) -> Option<&'static Requirement> {
    catalogue().find(|requirement| requirement.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_88_requirements_each_with_an_id_of_its_own() {
        let ids: BTreeSet<_> = catalogue().map(|requirement| requirement.id).collect();
        assert_eq!((catalogue().count(), ids.len()), (88, 88));
    }

    #[test]
    fn requirements_are_in_the_order_of_their_sections_and_numbers() {
        let places: Vec<_> = catalogue()
            .map(|requirement| {
                let (_, number) = requirement.id.rsplit_once('-').unwrap();
                (requirement.section, number.parse::<u8>().unwrap())
            })
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        for pair in places.windows(2) {
            let begins = pair[1].1 == 1;
            assert!(begins || pair[1] == (pair[0].0, pair[0].1 + 1), "{pair:?}");
        }
    }

    #[test]
    fn a_requirement_that_needs_pages_needs_rules() {
        for requirement in catalogue().filter(|requirement| requirement.needs(SetUp::Pages)) {
            assert!(!requirement.needs(SetUp::Rules), "{}: pages say so", requirement.id);
        }
    }
}
