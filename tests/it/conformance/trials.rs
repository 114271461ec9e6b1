//! Servers that do not do the same each time.

use santa_sync::harness::conformance::Verdict;
use santa_sync::harness::{FakeServer, Fault, fixtures, nth};
use santa_sync::model::Stage;

use super::{complaints, report};

fn server() -> santa_sync::harness::Builder {
    FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10)
}

#[test]
fn what_happens_once_is_unstable_with_both_runs() {
    // Three pages of the first sync, then the first page of the check, then the same again.
    let again = nth(5);
    let fault = Fault::status(500);
    let server = server().fault(Stage::RuleDownload, again, fault).start().unwrap();
    let report = report(&server, |conformance| conformance.only(["RULE-05"]));
    let result = report.result("RULE-05").unwrap();
    assert_eq!(result.verdict, Verdict::Unstable, "{}", result.summary);
    let runs: Vec<_> = result.runs.iter().map(|run| run.verdict).collect();
    assert_eq!(runs, [Verdict::Fail, Verdict::Pass]);
    assert!(!report.is_met(false));
}

#[test]
fn a_server_that_limits_the_rate_is_given_time() {
    let server =
        server().fault(Stage::Preflight, nth(9), Fault::retry_after(429, "0")).start().unwrap();
    let report = report(&server, |conformance| conformance.only(["CLEAN", "PRE"]));
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.notes, ["the server limits the request rate: 1 request repeated"]);
}

#[test]
fn without_events_none_is_uploaded() {
    let server = server().start().unwrap();
    let report = report(&server, |conformance| conformance.without_events().without_slow());
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(server.events_received(), 0);
    assert_eq!(report.events, []);
    assert_eq!(report.result("EVENT-03").unwrap().verdict, Verdict::NotTested);
}

#[test]
fn a_server_without_rules_is_accused_of_nothing() {
    let server = FakeServer::builder().start().unwrap();
    let report = report(&server, |conformance| conformance);
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.result("CLEAN-02").unwrap().verdict, Verdict::NotTested);
    assert_eq!(report.result("CLEAN-08").unwrap().verdict, Verdict::Info);
}
