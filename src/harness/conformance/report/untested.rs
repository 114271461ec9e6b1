//! Requirements that could not be tested, by the reason they share: it is shown once.

use super::{Report, RequirementResult};
use crate::harness::conformance::verdict::Verdict;

/// A reason that so many share is left out where each of them is listed.
const MIN_SHARED: usize = 3;

/// Requirements that were not tested for the same reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UntestedGroup<'a> {
    pub(super) reason: String,
    pub(super) ids: Vec<&'a str>,
}

impl UntestedGroup<'_> {
    /// Whether the reason is left out where its requirements are listed.
    pub(super) fn is_shared(&self) -> bool {
        self.ids.len() >= MIN_SHARED
    }
}

/// Every reason with its requirements, the most frequent first.
pub(super) fn groups(report: &Report) -> Vec<UntestedGroup<'_>> {
    let mut groups: Vec<UntestedGroup<'_>> = Vec::new();
    for result in report.results.iter().filter(|result| result.verdict == Verdict::NotTested) {
        let reason = reason(result);
        match groups.iter_mut().find(|group| group.reason == reason) {
            Some(group) => group.ids.push(result.id),
            None => groups.push(UntestedGroup { reason, ids: vec![result.id] }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.ids.len()));
    groups
}

/// Why a requirement was not tested.
fn reason(result: &RequirementResult) -> String {
    match result.blocked_by {
        Some(by) => format!("blocked by {by}: {}", result.summary),
        None => result.summary.clone(),
    }
}
