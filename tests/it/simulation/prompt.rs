//! Uploads between syncs, and bundles that a server requests.

use std::time::Duration;

use santa_sync::harness::simulation::plan::SimulationPlan;
use santa_sync::harness::{FakeServer, Fault, SimulationReport, every, fixtures};
use santa_sync::model::Stage;
use serde_json::Value;

use super::simulation;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap()
}

/// Hosts for 80 s of theirs, in which the server has each sync once. An upload may take
/// 3 s of real time: its limit is 30 s of the hosts' clocks.
fn fleet(
    server: &FakeServer,
    hosts: u32,
    change: impl FnOnce(&mut SimulationPlan),
) -> SimulationReport {
    server.change_settings(|settings| settings.full_sync_interval_seconds = 3600);
    let simulation = simulation(server, hosts, 8_000).speed(10);
    let mut plan = simulation.current_plan().clone();
    change(&mut plan);
    simulation.plan(plan).run().unwrap()
}

fn events(per_hour: u32, denied: u8) -> impl FnOnce(&mut SimulationPlan) {
    move |plan| {
        plan.events_per_hour = per_hour.to_string().parse().unwrap();
        plan.denied_percent = denied;
    }
}

/// EV-10: within 2 s, which a test on a busy machine cannot ask of a clock that runs
/// ten times as fast; but long before the next sync.
#[test]
fn ev_10_what_was_denied_reaches_the_server_between_two_syncs() {
    let server = server();
    let report = fleet(&server, 10, events(1200, 50));
    let measured = &report.measured;
    let prompt = &measured.prompt_uploads;
    assert_eq!((measured.syncs.begun, measured.syncs.succeeded), (10, 10), "{report}");
    assert!(prompt.begun >= 10 && prompt.failed == 0, "{report}");
    assert_eq!(prompt.delays.count(), prompt.succeeded, "{report}");
    assert!(prompt.events >= prompt.succeeded, "each has the event that it is for: {report}");
    assert_eq!(measured.events_uploaded, server.events_received(), "{report}");
    assert_eq!(measured.stages[&Stage::EventUpload].answered, server.count(Stage::EventUpload));
    assert!(prompt.delays.quantile(0.5).unwrap() < Duration::from_mins(1), "{report}");
    let shown = report.to_string();
    assert!(shown.contains("uploads after a denial: "), "{shown}");
    assert!(report.to_html().contains("Uploads after a denial"));
    let saved: Value = serde_json::to_value(&report).unwrap();
    let of = &saved["measured"]["prompt_uploads"];
    assert_eq!(of["begun"], prompt.begun);
    insta::assert_snapshot!(
        of.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(" "),
        @"begun broken_off delays events failed succeeded"
    );
}

#[test]
fn nothing_is_uploaded_between_syncs_where_nothing_is_denied_or_nobody_does() {
    for (denied, prompt) in [(0, 100), (50, 0)] {
        let server = server();
        let report = fleet(&server, 10, |plan| {
            events(1200, denied)(plan);
            plan.prompt_percent = prompt;
        });
        assert_eq!(report.measured.prompt_uploads.begun, 0, "{report}");
        assert!(!report.to_string().contains("uploads after a denial"));
        let uploads = server.count(Stage::EventUpload);
        assert!(uploads <= 10, "one a sync at most: {report}");
    }
}

/// EV-10: a failure is left to the next sync.
#[test]
fn an_upload_that_fails_is_not_repeated_before_the_next_sync() {
    let server = server();
    server.fault(Stage::EventUpload, every(), Fault::status(503));
    let report = fleet(&server, 20, events(200, 100));
    let prompt = &report.measured.prompt_uploads;
    assert_eq!((prompt.succeeded, prompt.events), (0, 0), "{report}");
    assert_eq!(server.events_received(), 0);
    // A host without events at its first sync has a server that it may upload to.
    assert!(prompt.begun > 0 && prompt.failed == prompt.begun, "{report}");
    assert!(prompt.begun <= 8 * 20, "at most once in 10 s: {report}");
}

/// EV-9: a server that requests each new bundle gets the executables.
#[test]
fn ev_9_a_server_that_requests_bundles_gets_their_executables() {
    let server = server();
    server.change_style(|style| style.requests_bundles = true);
    let report = fleet(&server, 5, |plan| {
        events(600, 100)(plan);
        plan.bundle_binaries = "4".parse().unwrap();
    });
    let measured = &report.measured;
    assert!(measured.bundles_requested > 0, "{report}");
    assert!(measured.bundle_binaries >= 4, "{report}");
    let members = server
        .events()
        .iter()
        .filter(|event| event.to_json()["decision"] == "BUNDLE_BINARY")
        .count();
    assert_eq!(measured.bundle_binaries, members as u64, "{report}");
    assert!(report.to_string().contains("bundles: requested "), "{report}");
    assert!(report.to_html().contains("Bundles were requested"));
}
