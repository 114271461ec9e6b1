//! The report in the JUnit format that CI systems read: one suite for each section, one
//! case for each requirement.

use std::io;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{Evidence, Report, RequirementResult, Standing};
use crate::harness::conformance::catalogue::Section;
use crate::model::text::{counted, escaped};

impl Report {
    /// The report as JUnit XML, with failures if and only if [`Self::is_met`] is false. With
    /// `strict`, warnings are failures too; otherwise they pass and are in the output of their
    /// case. After [`Self::expect`], known deviations are skipped, and new and gone ones are
    /// failures. A run that ended early is an error in a case of its own.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn junit(&self, strict: bool, out: impl io::Write) -> io::Result<()> {
        let mut writer = Writer::new_with_indent(out, b' ', 1);
        writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        let all: Vec<_> = self.results.iter().collect();
        let errors = usize::from(self.ended_early.is_some());
        let Counts { tests, failures, skipped } = self.counts_of(&all, strict);
        let [tests, failures, skipped, errors] =
            [tests + errors, failures, skipped, errors].map(|count| count.to_string());
        let time = seconds(self.duration_ms);
        writer
            .create_element("testsuites")
            .with_attributes([
                ("name", "santa-sync conformance"),
                ("tests", &tests),
                ("failures", &failures),
                ("skipped", &skipped),
                ("errors", &errors),
                ("time", &time),
            ])
            .write_inner_content(|writer| {
                self.suite_of_the_run(writer)?;
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
        let Counts { tests, failures, skipped } = self.counts_of(&results, strict);
        let [tests, failures, skipped] = [tests, failures, skipped].map(|count| count.to_string());
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
                results
                    .iter()
                    .try_for_each(|result| case(writer, result, self.standing(result, strict)))
            })?;
        Ok(())
    }

    /// A suite with one error, where the run ended early.
    fn suite_of_the_run<W: io::Write>(&self, writer: &mut Writer<W>) -> io::Result<()> {
        let Some(end) = &self.ended_early else { return Ok(()) };
        let attributes =
            [("name", "Run"), ("tests", "1"), ("failures", "0"), ("skipped", "0"), ("errors", "1")];
        let suite = writer.create_element("testsuite").with_attributes(attributes);
        suite.write_inner_content(|writer| {
            let case = writer.create_element("testcase").with_attributes([
                ("name", "every requirement is run"),
                ("classname", "conformance.Run"),
                ("time", "0.000"),
            ]);
            case.write_inner_content(|writer| {
                let not_run = counted(end.not_run, "requirement");
                let message = legal(&format!("{}; {not_run} not run", end.cause));
                let error = writer.create_element("error");
                let error =
                    error.with_attributes([("message", &*message), ("type", "ended-early")]);
                error.write_empty().map(|_| ())
            })?;
            Ok(())
        })?;
        Ok(())
    }

    fn counts_of(&self, results: &[&RequirementResult], strict: bool) -> Counts {
        let mut counts = Counts { tests: results.len(), ..Counts::default() };
        for result in results {
            match self.standing(result, strict) {
                Standing::NotMet => counts.failures += 1,
                Standing::Skipped | Standing::Known => counts.skipped += 1,
                Standing::Met => {}
            }
        }
        counts
    }
}

/// How many cases there are, how many failed, and how many were skipped.
#[derive(Default)]
struct Counts {
    tests: usize,
    failures: usize,
    skipped: usize,
}

fn case<W: io::Write>(
    writer: &mut Writer<W>,
    result: &RequirementResult,
    standing: Standing,
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
        .write_inner_content(|writer| match standing {
            Standing::NotMet => {
                let text = details(result);
                let message = legal(&message_of(result));
                let attributes = [("message", message.as_str()), ("type", result.verdict.name())];
                let failure = writer.create_element("failure").with_attributes(attributes);
                failure.write_text_content(BytesText::new(&text)).map(|_| ())
            }
            Standing::Skipped | Standing::Known => {
                let message = legal(&skipped_because(result));
                let skipped = writer.create_element("skipped");
                skipped.with_attribute(("message", message.as_str())).write_empty().map(|_| ())
            }
            Standing::Met if result.summary.is_empty() => Ok(()),
            Standing::Met => {
                let text = format!("{}: {}", result.verdict, legal(&result.summary));
                let output = writer.create_element("system-out");
                output.write_text_content(BytesText::new(&text)).map(|_| ())
            }
        })?;
    Ok(())
}

/// What was observed, and how that differs from what is pinned.
fn message_of(result: &RequirementResult) -> String {
    match result.pinned {
        Some(pinned) if pinned != result.verdict => {
            let found = result.verdict.words();
            let summary = &result.summary;
            let summary = if summary.is_empty() { String::new() } else { format!(": {summary}") };
            format!("pinned as {}, but found {found}{summary}", pinned.words())
        }
        Some(_) | None => result.summary.clone(),
    }
}

fn skipped_because(result: &RequirementResult) -> String {
    if result.pinned == Some(result.verdict) {
        return format!("known deviation: {}: {}", result.verdict, result.summary);
    }
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
