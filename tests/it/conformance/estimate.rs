//! What is said before a run about its requests is what they are.

use std::sync::Arc;
use std::time::Duration;

use santa_sync::harness::conformance::{Conformance, Waits};
use santa_sync::harness::{FakeServer, fixtures};

use super::complaints;
use super::operator::Admin;

type Change = fn(Conformance, &Arc<FakeServer>) -> Conformance;

/// Runs with these options, and says how far the estimate was off, if too far.
fn error_of(what: &str, pages: usize, change: Change) -> Option<String> {
    let server = FakeServer::builder().rules(fixtures::rules(24, 1)).page_size(24 / pages);
    let server = Arc::new(server.start().unwrap());
    let conformance = Conformance::new(&server.url()).unwrap().waits(Waits::none());
    let conformance = change(conformance, &server);
    let estimated = conformance.estimate().requests_with(pages as u64);
    let made = conformance.run_blocking().unwrap().report.requests;
    // A twentieth is near enough for what "about" says.
    let is_near = estimated.abs_diff(made) <= made / 20 + 1;
    (!is_near).then(|| format!("{what}, {pages} pages: {estimated} estimated, {made} made"))
}

#[test]
fn the_estimate_is_near_the_requests_of_a_run() {
    let runs: [(&str, Change); 10] = [
        ("everything", |conformance, _| conformance),
        ("no waits", |conformance, _| conformance.without_slow()),
        ("no events", |conformance, _| conformance.without_events()),
        ("heavy", |conformance, _| conformance.heavy()),
        ("clean syncs and pages", |conformance, _| conformance.only(["CLEAN", "PAGE"])),
        ("events", |conformance, _| conformance.only(["EVENT"])),
        ("one", |conformance, _| conformance.only(["PRE-03"])),
        ("one machine", |conformance, _| conformance.machine_ids(["PROBE-1"]).unwrap()),
        ("two machines", |conformance, _| conformance.machine_ids(["PROBE-1", "PROBE-2"]).unwrap()),
        ("an operator", |conformance, server| conformance.operator(Admin(Arc::clone(server)))),
    ];
    let errors: Vec<_> = runs
        .into_iter()
        .flat_map(|(what, change)| [1, 2, 4].map(|pages| error_of(what, pages, change)))
        .flatten()
        .collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn the_estimate_is_exact_for_a_default_run() {
    for pages in [1, 3] {
        let server = FakeServer::builder().rules(fixtures::rules(24, 1)).page_size(24 / pages);
        let server = server.start().unwrap();
        let conformance = Conformance::new(&server.url()).unwrap().waits(Waits::none());
        let estimated = conformance.estimate().requests_with(pages as u64);
        assert_eq!(conformance.run_blocking().unwrap().report.requests, estimated);
    }
}

/// Each used machine except the first gets an additional preflight.
#[test]
fn the_estimate_is_exact_for_given_machines() {
    let soon = Duration::from_millis(1);
    let waits = Waits { idle: soon, between_pages: soon, in_sync: soon, ..Waits::none() };
    for (ids, pages) in [(1, 1), (2, 3), (3, 1), (3, 3), (5, 3)] {
        let server = FakeServer::builder().rules(fixtures::rules(24, 1)).page_size(24 / pages);
        let server = server.start().unwrap();
        let ids = (0..ids).map(|number| format!("PROBE-{number}"));
        let conformance = Conformance::new(&server.url()).unwrap().waits(waits);
        let conformance = conformance.machine_ids(ids.clone()).unwrap();
        let estimated = conformance.estimate().requests_with(pages as u64);
        let report = conformance.run_blocking().unwrap().report;
        assert_eq!(complaints(&report), [""; 0]);
        assert_eq!(report.requests, estimated, "{} machines, {pages} pages", ids.count());
    }
}

#[test]
fn the_estimated_waits_depend_on_the_number_of_machines() {
    let conformance = || Conformance::new("http://127.0.0.1:1/").unwrap();
    let waits = |conformance: Conformance| conformance.estimate().waits.as_secs();
    assert_eq!(waits(conformance()), 70);
    assert_eq!(waits(conformance().without_slow()), 0);
    assert_eq!(waits(conformance().only(["PAGE-05", "HTTP"])), 10);
    let with = |ids: &[&str]| waits(conformance().machine_ids(ids).unwrap());
    assert_eq!(with(&["A"]), 3 * 70 + 10 + 5);
    assert_eq!(with(&["A", "A"]), 3 * 70 + 10 + 5, "one machine named twice");
    assert_eq!(with(&["A", "B"]), 2 * 70);
    assert_eq!(with(&["A", "B", "C"]), 70 + 10);
    assert_eq!(with(&["A", "B", "C", "D"]), 70);
}
