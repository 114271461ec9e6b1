//! The report in the JUnit format that CI systems read: one suite for each section, one
//! case for each requirement.

use std::io;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{Evidence, Report, RequirementResult};
use crate::harness::conformance::catalogue::Section;
use crate::harness::conformance::verdict::Verdict;
use crate::model::text::escaped;

impl Report {
    /// The report as JUnit XML. With `strict`, warnings are failures too; otherwise they pass
    /// and stand in the output of their case.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn junit(&self, strict: bool, out: impl io::Write) -> io::Result<()> {
        let mut writer = Writer::new_with_indent(out, b' ', 1);
        writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        let all: Vec<_> = self.results.iter().collect();
        let [tests, failures, skipped] = counts(&all, strict);
        let time = seconds(self.duration_ms);
        writer
            .create_element("testsuites")
            .with_attributes([
                ("name", "santa-sync conformance"),
                ("tests", &tests),
                ("failures", &failures),
                ("skipped", &skipped),
                ("errors", "0"),
                ("time", &time),
            ])
            .write_inner_content(|writer| {
                Section::ALL.into_iter().try_for_each(|section| self.suite(writer, section, strict))
            })?;
        writer.get_mut().write_all(b"\n")
    }

    fn suite<W: io::Write>(
        &self,
        writer: &mut Writer<W>,
        section: Section,
        strict: bool,
    ) -> io::Result<()> {
        let results: Vec<_> = self.results.iter().filter(|r| r.section == section).collect();
        if results.is_empty() {
            return Ok(());
        }
        let [tests, failures, skipped] = counts(&results, strict);
        let started = self.started_at.to_string();
        let elapsed = results.iter().flat_map(|r| &r.evidence).map(|e| e.elapsed_ms).sum();
        let time = seconds(elapsed);
        writer
            .create_element("testsuite")
            .with_attributes([
                ("name", section.title()),
                ("tests", tests.as_str()),
                ("failures", failures.as_str()),
                ("skipped", skipped.as_str()),
                ("errors", "0"),
                ("timestamp", started.as_str()),
                ("time", time.as_str()),
            ])
            .write_inner_content(|writer| {
                results.iter().try_for_each(|result| case(writer, result, strict))
            })?;
        Ok(())
    }
}

fn case<W: io::Write>(
    writer: &mut Writer<W>,
    result: &RequirementResult,
    strict: bool,
) -> io::Result<()> {
    let name = format!("{} {}", result.id, result.title);
    let time = seconds(result.evidence.iter().map(|evidence| evidence.elapsed_ms).sum());
    let class = format!("conformance.{}", result.section.title());
    writer
        .create_element("testcase")
        .with_attributes([
            ("name", name.as_str()),
            ("classname", class.as_str()),
            ("time", time.as_str()),
        ])
        .write_inner_content(|writer| match Outcome::of(result.verdict, strict) {
            Outcome::Failed => {
                let text = details(result);
                let message = legal(&result.summary);
                let attributes = [("message", message.as_str()), ("type", result.verdict.name())];
                let failure = writer.create_element("failure").with_attributes(attributes);
                failure.write_text_content(BytesText::new(&text)).map(|_| ())
            }
            Outcome::Skipped => {
                let message = legal(&skipped_because(result));
                let skipped = writer.create_element("skipped");
                skipped.with_attribute(("message", message.as_str())).write_empty().map(|_| ())
            }
            Outcome::Passed if result.summary.is_empty() => Ok(()),
            Outcome::Passed => {
                let text = format!("{}: {}", result.verdict, legal(&result.summary));
                let output = writer.create_element("system-out");
                output.write_text_content(BytesText::new(&text)).map(|_| ())
            }
        })?;
    Ok(())
}

/// What a CI system is told.
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    const fn of(verdict: Verdict, strict: bool) -> Self {
        match verdict {
            Verdict::Fail | Verdict::Unstable => Self::Failed,
            Verdict::Warning if strict => Self::Failed,
            Verdict::Pass | Verdict::Info | Verdict::Warning => Self::Passed,
            Verdict::NotTested | Verdict::NotApplicable => Self::Skipped,
        }
    }
}

/// How many cases there are, how many failed, and how many were skipped.
fn counts(results: &[&RequirementResult], strict: bool) -> [String; 3] {
    let (mut failed, mut skipped) = (0_usize, 0_usize);
    for result in results {
        match Outcome::of(result.verdict, strict) {
            Outcome::Failed => failed += 1,
            Outcome::Skipped => skipped += 1,
            Outcome::Passed => {}
        }
    }
    [results.len(), failed, skipped].map(|n| n.to_string())
}

fn skipped_because(result: &RequirementResult) -> String {
    match result.blocked_by {
        Some(by) => format!("{}: blocked by {by}: {}", result.verdict, result.summary),
        None => format!("{}: {}", result.verdict, result.summary),
    }
}

/// What failed, why it matters, and the exchanges that show it.
fn details(result: &RequirementResult) -> String {
    let mut lines = vec![
        format!("{}: {}", result.id, result.title),
        format!("matters because: {}", result.breaks),
    ];
    for (number, run) in (1..).zip(&result.runs) {
        lines.push(format!("run {number}: {} {}", run.verdict, legal(&run.summary)));
    }
    for Evidence { exchange, request, sent, status, received, elapsed_ms } in &result.evidence {
        let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
        let request = legal(request);
        lines.push(format!("exchange {exchange}: {request} -> {status} in {elapsed_ms} ms"));
        lines.push(format!("  sent     {}", legal(sent)));
        lines.push(format!("  received {}", legal(received)));
    }
    lines.join("\n")
}

/// The text without what is unsafe to show, and without the characters that XML has no form for.
fn legal(text: &str) -> String {
    escaped(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// Seconds with milliseconds, as the format has them.
fn seconds(millis: u64) -> String {
    format!("{:.3}", Duration::from_millis(millis).as_secs_f64())
}
