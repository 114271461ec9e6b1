//! The report for CI systems and for browsers.

use quick_xml::Reader;
use quick_xml::events::Event;
use santa_sync::harness::conformance::{Conformance, Expectation, Report, Verdict};
use santa_sync::harness::{Builder, FakeServer, Fault, Misbehaviour, every, fixtures};
use santa_sync::model::Stage;
use serde_json::json;

/// A server whose postflight response is hostile to whoever shows it.
fn report() -> Report {
    let hostile = json!({"error": "]]></failure><script>alert(1)</script>\u{7}\u{1b}[31m\u{ffff}"});
    let server = FakeServer::builder()
        .rules(fixtures::rules(25, 1))
        .page_size(10)
        .fault(Stage::Postflight, every(), Fault::WrongShape(hostile))
        .start()
        .unwrap();
    super::report(&server, |conformance| conformance.only(["POST", "ERR-01", "OPS-01"]))
}

/// The elements of a document, in order, with their attributes; an error if it is not XML.
fn elements(xml: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut reader = Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(element) | Event::Empty(element) => {
                let attributes = element.attributes().map(|attribute| {
                    let attribute = attribute.expect("an attribute");
                    (attribute.key.as_ref().to_owned(), attribute.value.into_owned())
                });
                found.push((element.name().as_ref().to_owned(), attributes.collect()));
            }
            Event::Eof => return found,
            Event::End(_)
            | Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::GeneralRef(_) => {}
        }
    }
}

fn attribute<'a>(attributes: &'a [(String, String)], name: &str) -> &'a str {
    let found = attributes.iter().find(|(known, _)| known == name);
    let Some((_, value)) = found else { panic!("{name} in {attributes:?}") };
    value
}

#[test]
fn a_ci_system_counts_what_failed_and_what_was_skipped() {
    let report = report();
    let mut xml = Vec::new();
    report.junit(false, &mut xml).unwrap();
    let xml = String::from_utf8(xml).unwrap();
    let found = elements(&xml);
    let count = |name: &str| found.iter().filter(|(known, _)| known == name).count();
    let (root, totals) = &found[0];
    assert_eq!(root, "testsuites", "{xml}");
    assert_eq!(count("testcase"), report.results.len());
    for (total, of) in [("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")] {
        assert_eq!(attribute(totals, total), count(of).to_string(), "{xml}");
    }
    assert!(count("failure") > 0 && count("skipped") > 0, "{xml}");
    let named: Vec<_> = found
        .iter()
        .filter(|(element, _)| element == "testcase")
        .map(|(_, attributes)| attribute(attributes, "name"))
        .collect();
    assert!(named.iter().any(|name| name.starts_with("ERR-01 ")), "{named:?}");
    assert!(!xml.contains(['\u{7}', '\u{1b}', '\u{ffff}']), "not characters of XML: {xml}");
}

#[test]
fn warnings_are_failures_of_a_strict_run_alone() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .fault(Stage::Preflight, every(), Fault::WrongShape(json!({"batch_size": 60_000})))
        .start()
        .unwrap();
    let report = super::report(&server, |conformance| conformance.only(["PRE-05"]));
    assert_eq!(super::complaints(&report), ["PRE-05 warning"]);
    let failures = |strict| {
        let mut xml = Vec::new();
        report.junit(strict, &mut xml).unwrap();
        let xml = String::from_utf8(xml).unwrap();
        elements(&xml).iter().filter(|(element, _)| element == "failure").count()
    };
    assert_eq!((failures(false), failures(true)), (0, 1));
}

/// Checks that all forms of the report agree with each other and with the exit code, and that the
/// counts add up to the number of requirements. Returns the number of failures in JUnit.
fn failures(report: &Report, strict: bool) -> usize {
    let mut xml = Vec::new();
    report.junit(strict, &mut xml).unwrap();
    let xml = String::from_utf8(xml).unwrap();
    let found = elements(&xml);
    let count = |name: &str| found.iter().filter(|(known, _)| known == name).count();
    let (_, totals) = &found[0];
    for (total, of) in [
        ("tests", "testcase"),
        ("failures", "failure"),
        ("skipped", "skipped"),
        ("errors", "error"),
    ] {
        assert_eq!(attribute(totals, total), count(of).to_string(), "{xml}");
        let suites = found.iter().filter(|(name, _)| name == "testsuite");
        let sum: usize = suites.map(|(_, of)| attribute(of, total).parse::<usize>().unwrap()).sum();
        assert_eq!(sum, count(of), "{total} of the suites: {xml}");
    }
    assert_eq!(report.is_met(strict), count("failure") + count("error") == 0, "{xml}");

    let requirements = report.results.len();
    assert_eq!(count("testcase"), requirements + count("error"));
    let json = serde_json::to_value(report).unwrap();
    let counts = &json["counts"];
    let text = report.text(false).to_string();
    let mut lines = text.lines();
    let (_, of_text) = lines.next().unwrap().split_once("/: ").unwrap();
    let of_text: Vec<_> = of_text.split("; ").next().unwrap().split(", ").collect();
    let page = report.html().to_string();
    let cards = page.split_once("<ul class=\"cards\">").unwrap().1.split_once("</ul>").unwrap().0;
    let mut sum = 0;
    for (verdict, count) in counts.as_object().unwrap() {
        let words = verdict.replace('_', " ");
        assert!(of_text.contains(&&*format!("{count} {words}")), "{of_text:?}");
        assert!(cards.contains(&format!(">{count}</b><span>{words}</span>")), "{count} {words}");
        sum += usize::try_from(count.as_u64().unwrap()).unwrap();
    }
    assert_eq!(sum, requirements, "{counts}");
    let verdicts = counts.as_object().unwrap().len();
    let rules = usize::from(report.rules.is_some());
    assert_eq!((of_text.len(), cards.matches("<li>").count()), (verdicts, verdicts + rules));
    let total = format!("{requirements} requirement");
    assert!(text.lines().any(|line| line.starts_with(&total)), "{text}");
    assert!(page.contains(&total), "{page}");

    let of = |verdict: &str| usize::try_from(counts[verdict].as_u64().unwrap_or(0)).unwrap();
    let untested = of("not_tested") + of("not_applicable");
    if let Some(deviations) = &report.deviations {
        let differ = deviations.new.iter().chain(&deviations.gone).map(|one| one.id);
        let differ: std::collections::BTreeSet<_> = differ.collect();
        assert_eq!(differ.len(), count("failure"));
        assert_eq!(deviations.is_empty(), page.contains("As expected:"));
    } else {
        let warnings = if strict { of("warning") } else { 0 };
        assert_eq!(count("failure"), of("fail") + of("unstable") + warnings);
        assert_eq!(count("skipped"), untested);
    }
    count("failure")
}

/// For a complete run, a run that ended early, and a run with every verdict except `unstable`.
#[test]
fn the_counts_of_every_form_agree_and_add_up_to_the_requirements() {
    let misbehaviours =
        [Misbehaviour::Pre09Standalone, Misbehaviour::Enc03NoGzip, Misbehaviour::Err02Errors];
    let builder = FakeServer::builder().rules(fixtures::rules(5, 1));
    let server = misbehaviours.into_iter().fold(builder, Builder::misbehave);
    let server = server.start().unwrap();
    let report = super::report(&server, |conformance| conformance);
    assert_eq!(report.results.len(), 88);
    assert_eq!(report.result("ERR-02").unwrap().verdict, Verdict::Info);
    assert_eq!(report.counts.len(), 6, "{:?}", report.counts);
    for strict in [false, true] {
        assert!(failures(&report, strict) > 0);
    }

    let short = |conformance: Conformance| conformance.deadline(std::time::Duration::ZERO);
    let report = super::report(&server, short);
    assert!(report.ended_early.is_some());
    assert_eq!(failures(&report, true), 0);
}

#[test]
fn known_deviations_are_skipped_and_new_ones_and_those_that_are_gone_fail() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .misbehave(Misbehaviour::Pre09Standalone)
        .misbehave(Misbehaviour::Enc03NoGzip)
        .start()
        .unwrap();
    let only = ["PRE-07", "PRE-09", "ENC-02", "ENC-03", "ERR-02", "CLEAN-08", "OPS-01"];
    let found = super::report(&server, |conformance| conformance.only(only));
    assert_eq!(super::complaints(&found), ["ENC-03 warning", "PRE-09 fail"]);
    assert_eq!([false, true].map(|strict| failures(&found, strict)), [1, 2]);
    for (known, failed, differs) in [
        ("ENC-03 warning\nPRE-09 fail", 0, ""),
        // Files of earlier versions have it.
        ("ENC-03 warning\nPRE-09 fail\nERR-02 warning", 0, ""),
        ("PRE-09 fail", 1, "new: ENC-03 warning"),
        ("ENC-03 warning\nPRE-09 fail\nPRE-07 fail", 1, "gone: PRE-07 fail"),
        ("ENC-03 fail\nPRE-09 fail", 1, "new: ENC-03 warning; gone: ENC-03 fail"),
        // Not applicable, not tested, and not chosen.
        (
            "ENC-03 warning\nPRE-09 fail\nCLEAN-08 warning\nOPS-01 fail\nHTTP-07 fail",
            1,
            "gone: CLEAN-08 warning",
        ),
        ("", 2, "new: ENC-03 warning, PRE-09 fail"),
    ] {
        let mut report = found.clone();
        report.expect(&Expectation::parse(known).unwrap());
        for strict in [false, true] {
            assert_eq!(failures(&report, strict), failed, "{known}");
        }
        assert_eq!(report.deviations.as_ref().unwrap().to_string(), differs, "{known}");
    }
    let mut report = found.clone();
    report.expect(&Expectation::of(&found));
    let mut xml = Vec::new();
    report.junit(true, &mut xml).unwrap();
    let xml = String::from_utf8(xml).unwrap();
    assert!(
        xml.contains(
            "<skipped message=\"known deviation: fail: preflight with client_mode STANDALONE: 500\""
        ),
        "{xml}"
    );
    let text = report.text(false).to_string();
    assert!(text.lines().next().unwrap().ends_with("; 2 of these are pinned"), "{text}");
    assert!(text.contains("PRE-09  all three client modes are accepted (pinned)"), "{text}");
}

#[test]
fn err_02_does_not_count_findings_of_other_requirements_again() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .misbehave(Misbehaviour::Page06Error)
        .start()
        .unwrap();
    let report = super::report(&server, |conformance| conformance.only(["PAGE-06", "ERR-02"]));
    assert_eq!(super::complaints(&report), ["PAGE-06 warning"]);
    assert_eq!(report.result("ERR-02").unwrap().verdict, Verdict::Info);
    assert_eq!(failures(&report, true), 1);
    let pinned = Expectation::of(&report).to_string();
    assert!(pinned.ends_with("\nPAGE-06 warning\n"), "{pinned}");
}

#[test]
fn the_page_shows_every_requirement_and_runs_nothing_of_the_server() {
    let report = report();
    let page = report.html().to_string();
    for result in &report.results {
        assert!(page.contains(result.id), "{} is missing", result.id);
    }
    for id in &report.machine_ids {
        assert!(page.contains(id.as_str()), "{id} is missing");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let findings = page.matches("<article").count();
    assert_eq!(findings, report.complaints().count());
}
