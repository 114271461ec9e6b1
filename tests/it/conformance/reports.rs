//! The report for CI systems and for browsers.

use quick_xml::Reader;
use quick_xml::events::Event;
use santa_sync::harness::conformance::Report;
use santa_sync::harness::{FakeServer, Fault, every, fixtures};
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
