//! The options of a run.

use std::time::Duration;

use super::form::Form;
use crate::model::Secret;

/// How long a run may take by default: 15 minutes, about ten times as long as it takes with a
/// server that responds at once.
pub const DEFAULT_DEADLINE: Duration = Duration::from_mins(15);

/// How long the checks wait where a requirement is about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Between two requests on one connection (HTTP-05): 5 s.
    pub idle: Duration,
    /// Before the second page (PAGE-05): 10 s.
    pub between_pages: Duration,
    /// In the middle of a sync (RULE-08): 70 s.
    pub in_sync: Duration,
    /// For a server that no longer accepts connections to come back: 5 s.
    pub return_of_server: Duration,
    /// For a server that let a request time out to respond to another: 30 s.
    pub hung_server: Duration,
}

impl Waits {
    /// No waits: for tests of the checks themselves.
    #[must_use]
    pub const fn none() -> Self {
        let nothing = Duration::ZERO;
        Self {
            idle: nothing,
            between_pages: nothing,
            in_sync: nothing,
            return_of_server: nothing,
            hung_server: nothing,
        }
    }
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5),
            between_pages: Duration::from_secs(10),
            in_sync: Duration::from_secs(70),
            return_of_server: Duration::from_secs(5),
            hung_server: Duration::from_secs(30),
        }
    }
}

/// How far a rule download is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// This many pages: 500.
    pub pages: usize,
    /// The total size of the pages, decoded: 64 MiB. A run keeps every response in memory.
    pub bytes: usize,
    /// This long: 120 s.
    pub time: Duration,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self { pages: 500, bytes: 64 << 20, time: Duration::from_mins(2) }
    }
}

/// The options of a run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The form of requests; `None` chooses the first form that the server accepts.
    pub(super) form: Option<Form>,
    /// Machine ids to use instead of new ones.
    pub(super) machine_ids: Vec<String>,
    /// Texts that are secrets, besides those that are known to be.
    pub(super) secrets: Vec<Secret>,
    /// Whether events are uploaded.
    pub(super) events: bool,
    /// Whether heavy checks run.
    pub(super) heavy: bool,
    /// Whether checks that wait run.
    pub(super) slow: bool,
    /// Ids or beginnings of ids to check; all if empty.
    pub(super) only: Vec<String>,
    /// Ids or beginnings of ids to leave out.
    pub(super) skip: Vec<String>,
    pub(super) waits: Waits,
    pub(super) walk: WalkLimits,
    /// The longest time for one request: 35 s.
    pub(super) request_timeout: Duration,
    /// The longest time for the run, without that of the operator.
    pub(super) deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            form: None,
            machine_ids: Vec::new(),
            secrets: Vec::new(),
            events: true,
            heavy: false,
            slow: true,
            only: Vec::new(),
            skip: Vec::new(),
            waits: Waits::default(),
            walk: WalkLimits::default(),
            request_timeout: Duration::from_secs(35),
            deadline: DEFAULT_DEADLINE,
        }
    }
}

impl Options {
    /// Whether this requirement was chosen.
    pub(super) fn chooses(&self, id: &str) -> bool {
        let is_in = |list: &[String]| list.iter().any(|name| names(name, id));
        (self.only.is_empty() || is_in(&self.only)) && !is_in(&self.skip)
    }
}

/// Whether a text names a requirement: its id, or the beginning of it (`clean`, `EVENT-0`).
pub(super) fn names(text: &str, id: &str) -> bool {
    id.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)) && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_chosen_by_id_or_by_its_beginning() {
        let options = Options {
            only: vec!["clean".to_owned(), "EVENT-0".to_owned()],
            skip: vec!["CLEAN-04".to_owned()],
            ..Options::default()
        };
        let chosen: Vec<_> = ["CLEAN-01", "CLEAN-04", "EVENT-03", "EVENT-10", "HTTP-01"]
            .into_iter()
            .filter(|id| options.chooses(id))
            .collect();
        assert_eq!(chosen, ["CLEAN-01", "EVENT-03"]);
        assert!(Options::default().chooses("HTTP-01"));
    }
}
