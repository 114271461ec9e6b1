//! The result of a run, for people and programs.

mod evidence;
mod junit;
mod page;
mod text;
mod untested;

use std::collections::BTreeMap;

use serde::Serialize;

pub use evidence::Evidence;
pub use text::TextReport;

use super::catalogue::{Level, Section};
use super::ending::EarlyEnd;
use super::expectation::{Deviations, Expectation};
use super::form::Form;
use super::probe_events::ProbeEvent;
use super::verdict::Verdict;
use crate::model::Timestamp;

/// The version of [`Report`]'s JSON.
const SCHEMA_VERSION: u32 = 1;

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this structure.
    pub schema_version: u32,
    /// The version of this program.
    pub version: &'static str,
    /// The server's base URL, with secrets redacted.
    pub url: String,
    /// When the run began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// Marks the machine ids and events of this run.
    pub run_id: String,
    /// The form that the checks worked in; `None` if no form was accepted.
    pub form: Option<Form>,
    /// Why the run ended early; `None` if it was complete.
    pub ended_early: Option<EarlyEnd>,
    /// How many requests were made.
    pub requests: u64,
    /// What a complete rule download brings; `None` if there was none.
    pub rules: Option<RuleFacts>,
    /// How many requirements have each verdict; the sum is the length of `results`.
    pub counts: BTreeMap<Verdict, u64>,
    /// Every requirement that was chosen, in the order of the catalogue.
    pub results: Vec<RequirementResult>,
    /// Every machine id of which the server took a request.
    pub machine_ids: Vec<String>,
    /// Every made-up event of an upload that the server took.
    pub events: Vec<ProbeEvent>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// What differs from the known deviations, after [`Report::expect`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviations: Option<Deviations>,
}

/// The size of a complete rule download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleFacts {
    /// Rules that a client holds afterwards.
    pub rules: u64,
    /// Rules that the server sent, including those that a client drops.
    pub received: u64,
    /// The number of pages.
    pub pages: u64,
    /// Bytes of the largest page, decoded.
    pub largest_page_bytes: u64,
    /// Bytes of the longest cursor.
    pub longest_cursor_bytes: u64,
}

/// What was found about one requirement.
#[derive(Clone, Debug, Serialize)]
pub struct RequirementResult {
    /// Its id, such as `CLEAN-04`.
    pub id: &'static str,
    /// The part of the protocol.
    pub section: Section,
    /// What the server has to do.
    pub title: &'static str,
    /// What happens to which agents: by what was found, or wherever it is not met.
    pub breaks: &'static str,
    /// The worst verdict it can lead to.
    pub level: Level,
    /// The verdict.
    pub verdict: Verdict,
    /// What was observed; empty for a plain pass.
    pub summary: String,
    /// The requirement whose failure kept this one from being tested.
    pub blocked_by: Option<&'static str>,
    /// The verdict that is pinned as a known deviation, after [`Report::expect`].
    pub pinned: Option<Verdict>,
    /// Both runs of a check that came to different verdicts.
    pub runs: Vec<Run>,
    /// The exchanges that show it, as excerpts; the transcript has them whole.
    pub evidence: Vec<Evidence>,
}

/// One run of a check that was repeated.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Its verdict.
    pub verdict: Verdict,
    /// What it observed.
    pub summary: String,
}

/// What a result means for the run as a whole, and so for its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing speaks against the server.
    Met,
    /// It is not met, or not as pinned.
    NotMet,
    /// It is not met, as pinned.
    Known,
    /// It was not tested, or does not concern the server.
    Skipped,
}

impl Report {
    pub(super) const SCHEMA_VERSION: u32 = SCHEMA_VERSION;

    /// How many requirements have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }

    /// The result of a requirement, if it was chosen.
    #[must_use]
    pub fn result(&self, id: &str) -> Option<&RequirementResult> {
        self.results.iter().find(|result| result.id.eq_ignore_ascii_case(id))
    }

    /// Compares the report with known deviations. From then on [`Self::is_met`], and every form
    /// of the report, distinguish known, new and gone deviations.
    pub fn expect(&mut self, known: &Expectation) {
        for result in &mut self.results {
            result.pinned = known.verdict(result.id);
        }
        self.deviations = Some(known.compare(self));
    }

    /// What a result means for the run as a whole.
    pub(super) fn standing(&self, result: &RequirementResult, strict: bool) -> Standing {
        let is_skipped = matches!(result.verdict, Verdict::NotTested | Verdict::NotApplicable);
        let is_complaint = result.verdict.is_complaint();
        match &self.deviations {
            Some(deviations) if deviations.names(result.id) => Standing::NotMet,
            Some(_) if is_complaint => Standing::Known,
            None if is_complaint && (strict || result.verdict != Verdict::Warning) => {
                Standing::NotMet
            }
            Some(_) | None if is_skipped => Standing::Skipped,
            Some(_) | None => Standing::Met,
        }
    }

    /// How many results are not met as pinned.
    pub(super) fn known(&self) -> u64 {
        let is_known = |result: &&RequirementResult| self.standing(result, true) == Standing::Known;
        self.results.iter().filter(is_known).count() as u64
    }

    /// Every fail, warning and unstable result.
    pub fn complaints(&self) -> impl Iterator<Item = &RequirementResult> {
        self.results.iter().filter(|result| result.verdict.is_complaint())
    }

    /// Whether the run was complete and no requirement failed or was unstable; with `strict`,
    /// there must be no warning either. After [`Self::expect`], whether the deviations are the
    /// known ones.
    #[must_use]
    pub fn is_met(&self, strict: bool) -> bool {
        let is_met = |result| self.standing(result, strict) != Standing::NotMet;
        self.ended_early.is_none() && self.results.iter().all(is_met)
    }

    /// The report as text; `verbose` lists every requirement.
    #[must_use]
    pub const fn text(&self, verbose: bool) -> TextReport<'_> {
        TextReport::new(self, verbose)
    }
}
