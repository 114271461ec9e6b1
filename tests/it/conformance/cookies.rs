//! HTTP-06, and what servers that require cookies are not accused of.

use santa_sync::harness::conformance::{Report, Verdict};
use santa_sync::harness::{FakeServer, Fault, Misbehaviour, fixtures, from};
use santa_sync::model::Stage;

use super::{complaints, report};

/// A server that does these things, checked for some requirements or all.
fn checked(misbehaviours: &[Misbehaviour], only: &[&str]) -> Report {
    let builder = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10);
    let server = misbehaviours.iter().fold(builder, |builder, m| builder.misbehave(*m));
    let server = server.start().unwrap();
    report(&server, |conformance| conformance.without_slow().only(only.iter().copied()))
}

#[test]
fn cookies_are_tried_in_the_order_of_a_sync() {
    let report = checked(&[Misbehaviour::Http06UsedUp], &[]);
    assert_eq!(complaints(&report), ["HTTP-06 warning", "RULE-07 warning", "EVENT-11 fail"]);
    let said = &report.result("HTTP-06").unwrap().summary;
    let expected = "without the cookies of preflight, event_upload: status 401; \
                    with them, event_upload works";
    assert_eq!(said, expected);
    assert_eq!(report.result("EVENT-12").unwrap().verdict, Verdict::Pass);
}

/// What comes between two syncs comes without their cookies.
#[test]
fn a_server_that_demands_the_cookie_of_preflight_refuses_what_comes_outside_a_sync() {
    let report = checked(&[Misbehaviour::Http06Cookie], &[]);
    assert_eq!(complaints(&report), ["HTTP-06 warning", "RULE-07 warning", "EVENT-11 fail"]);
    let said = |id| report.result(id).unwrap().summary.as_str();
    assert_eq!(said("RULE-07"), "a rule download outside a sync: 401");
    assert_eq!(said("EVENT-11"), "an event uploaded outside a sync: 401");
}

/// A session that ends with the last page must not hide what the first stage broke at.
#[test]
fn a_cookie_that_no_client_returns_is_the_reason_for_everything_behind_it() {
    for also in [None, Some(Misbehaviour::Http06UsedUp)] {
        let misbehaviours: Vec<_> =
            [Misbehaviour::Http06SecureCookie].into_iter().chain(also).collect();
        let report = checked(&misbehaviours, &[]);
        assert_eq!(complaints(&report), ["HTTP-06 fail"], "{also:?}");
        let said = &report.result("HTTP-06").unwrap().summary;
        assert!(said.contains("(session: it is Secure and this is http)"), "{said}");
        let harm = report.result("HTTP-06").unwrap().breaks;
        assert!(harm.contains("every sync of every agent ends"), "{harm}");
        for result in &report.results {
            let by = result.blocked_by;
            assert!(by.is_none() || by == Some("HTTP-06"), "{}: {by:?}", result.id);
        }
        assert_eq!(report.result("HTTP-01").unwrap().blocked_by, Some("HTTP-06"));
    }
}

/// EVENT-12 needs an accepted upload to see whether it disturbs a sync.
#[test]
fn an_upload_during_a_sync_is_retried_with_its_cookies_if_the_server_requires_them() {
    let report = checked(&[Misbehaviour::Http06Cookie], &["EVENT-12"]);
    let result = report.result("EVENT-12").unwrap();
    let said = "tested with an upload that carries the cookies of the sync; without them, \
                event_upload: status 401";
    assert_eq!((result.verdict, &*result.summary), (Verdict::Pass, said));

    let both = [Misbehaviour::Http06Cookie, Misbehaviour::Event12Ends];
    let report = checked(&both, &["HTTP-06", "EVENT-12"]);
    assert_eq!(complaints(&report), ["HTTP-06 warning", "EVENT-12 fail"]);
}

#[test]
fn an_upload_that_is_refused_beside_a_sync_does_not_disturb_it() {
    for cookie in [false, true] {
        let builder = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10);
        let builder = builder.fault(Stage::EventUpload, from(2), Fault::status(401));
        let builder = if cookie { builder.misbehave(Misbehaviour::Http06Cookie) } else { builder };
        let server = builder.start().unwrap();
        let report = report(&server, |conformance| conformance.only(["EVENT-12"]));
        let result = report.result("EVENT-12").unwrap();
        assert_eq!((result.verdict, result.blocked_by), (Verdict::NotTested, Some("EVENT-11")));
        assert!(result.summary.ends_with("event_upload: status 401"), "{}", result.summary);
    }
}
