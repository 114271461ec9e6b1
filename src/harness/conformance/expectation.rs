//! Known deviations of a server, pinned in a file. A run then reports which deviations are new,
//! and which pinned ones are gone.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::catalogue::requirement;
use super::report::Report;
use super::verdict::Verdict;

/// ERR-02 repeats what other requirements have found. Files of earlier versions may pin it.
const REPEATS_OTHERS: &str = "ERR-02";

/// Why a text is not a list of known deviations.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct ExpectationError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Known deviations: requirement and verdict.
///
/// The text has one per line, `CLEAN-04 fail`; what follows a `#` is a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    known: BTreeMap<&'static str, Verdict>,
}

impl Expectation {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// If a line is not a requirement and a verdict, or names a requirement again.
    pub fn parse(text: &str) -> Result<Self, ExpectationError> {
        let mut known = BTreeMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let wrong = |what: String| ExpectationError { line, what };
            let content = content.split('#').next().unwrap_or_default();
            let mut words = content.split_whitespace();
            let Some(id) = words.next() else { continue };
            let Some(requirement) = requirement(id) else {
                return Err(wrong(format!("{id:?} is not a requirement")));
            };
            let (Some(verdict), None) = (words.next(), words.next()) else {
                return Err(wrong("write a requirement and its verdict: CLEAN-04 fail".to_owned()));
            };
            let verdict: Verdict = verdict
                .to_ascii_lowercase()
                .parse()
                .ok()
                .filter(|verdict: &Verdict| verdict.is_complaint())
                .ok_or_else(|| {
                    wrong(format!(
                        "{verdict:?} is not a deviation; write fail, warning or unstable"
                    ))
                })?;
            if requirement.id == REPEATS_OTHERS {
                continue;
            }
            if known.insert(requirement.id, verdict).is_some() {
                return Err(wrong(format!("{} is pinned twice", requirement.id)));
            }
        }
        Ok(Self { known })
    }

    /// The deviations of this report.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        Self { known: report.complaints().map(|result| (result.id, result.verdict)).collect() }
    }

    /// The verdict that is pinned for a requirement.
    pub(super) fn verdict(&self, id: &str) -> Option<Verdict> {
        self.known.get(id).copied()
    }

    /// The deviations that only the report has, and those that only this list has. Requirements
    /// that were not chosen, or could not be tested, are left out.
    #[must_use]
    pub fn compare(&self, report: &Report) -> Deviations {
        let found = Self::of(report);
        let new = found.known.iter().filter(|(id, verdict)| self.known.get(*id) != Some(*verdict));
        let was_tested =
            |id: &str| report.result(id).is_some_and(|result| result.verdict != Verdict::NotTested);
        let gone = self
            .known
            .iter()
            .filter(|(id, verdict)| found.known.get(*id) != Some(*verdict) && was_tested(id));
        let owned = |(id, verdict): (&&'static str, &Verdict)| Deviation { id, verdict: *verdict };
        Deviations { new: new.map(owned).collect(), gone: gone.map(owned).collect() }
    }
}

/// The text of a file.
impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Known deviations of the server: requirement and verdict.")?;
        self.known.iter().try_for_each(|(id, verdict)| writeln!(f, "{id} {verdict}"))
    }
}

/// A requirement that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// Its id.
    pub id: &'static str,
    /// Its verdict: fail, warning or unstable.
    pub verdict: Verdict,
}

/// How a report differs from what was pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deviations {
    /// Found, and not pinned with that verdict.
    pub new: Vec<Deviation>,
    /// Pinned, and not found with that verdict.
    pub gone: Vec<Deviation>,
}

impl Deviations {
    /// Whether a requirement is among them.
    #[must_use]
    pub fn names(&self, id: &str) -> bool {
        self.new.iter().chain(&self.gone).any(|deviation| deviation.id == id)
    }

    /// Whether the report is as pinned.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

/// One line: `new: CLEAN-04 fail; gone: ENC-03 warning`.
impl fmt::Display for Deviations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = [("new", &self.new), ("gone", &self.gone)]
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| {
                let names: Vec<_> =
                    list.iter().map(|one| format!("{} {}", one.id, one.verdict)).collect();
                format!("{what}: {}", names.join(", "))
            })
            .collect();
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_requirements_verdicts_and_comments() {
        let text = "# known\nCLEAN-04 fail  # issue 12\n\nenc-03 WARNING\n";
        let expectation = Expectation::parse(text).unwrap();
        assert_eq!(
            expectation.to_string(),
            "# Known deviations of the server: requirement and verdict.\nCLEAN-04 fail\n\
             ENC-03 warning\n"
        );
        assert_eq!(Expectation::parse(&expectation.to_string()), Ok(expectation));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, message) in [
            ("CLEAN-99 fail", "line 1: \"CLEAN-99\" is not a requirement"),
            ("\nCLEAN-04", "line 2: write a requirement and its verdict: CLEAN-04 fail"),
            (
                "CLEAN-04 pass",
                "line 1: \"pass\" is not a deviation; write fail, warning or unstable",
            ),
            ("CLEAN-04 fail\nclean-04 warning", "line 2: CLEAN-04 is pinned twice"),
        ] {
            assert_eq!(Expectation::parse(text).unwrap_err().to_string(), message);
        }
    }
}
