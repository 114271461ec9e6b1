//! Uploads between syncs, and bundles that a server requests.

use std::time::Duration;

use santa_sync::harness::{FakeServer, Fault, SimulationReport, every, fixtures};
use santa_sync::model::Stage;
use serde_json::Value;

use super::simulation;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap()
}

/// Ten hosts for five minutes of theirs, in which the server has them sync once.
fn fleet(server: &FakeServer, per_hour: &str, denied: u8, prompt: u8) -> SimulationReport {
    server.change_settings(|settings| settings.full_sync_interval_seconds = 3600);
    let simulation = simulation(server, 10, 3_000).events_per_hour(per_hour.parse().unwrap());
    let mut plan = simulation.current_plan().clone();
    (plan.denied_percent, plan.prompt_percent) = (denied, prompt);
    simulation.plan(plan).run().unwrap()
}

/// EV-10: within 2 s, which a test on a busy machine cannot ask of a clock that runs a
/// hundred times as fast; but long before the next sync.
#[test]
fn ev_10_what_was_denied_reaches_the_server_between_two_syncs() {
    let server = server();
    let report = fleet(&server, "120", 50, 100);
    let measured = &report.measured;
    let prompt = &measured.prompt_uploads;
    assert_eq!((measured.syncs.begun, measured.syncs.succeeded), (10, 10), "{report}");
    assert!(prompt.begun >= 20 && prompt.failed == 0, "{report}");
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
        let report = fleet(&server, "120", denied, prompt);
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
    let report = fleet(&server, "60", 100, 100);
    let prompt = &report.measured.prompt_uploads;
    assert_eq!((prompt.succeeded, prompt.events), (0, 0), "{report}");
    assert_eq!(server.events_received(), 0);
    // Before a host's first sync has succeeded it uploads nothing on its own.
    assert_eq!(prompt.failed + prompt.broken_off, prompt.begun, "{report}");
}

/// EV-9: a server that requests each new bundle gets the executables.
#[test]
fn ev_9_a_server_that_requests_bundles_gets_their_executables() {
    let server = server();
    server.change_style(|style| style.requests_bundles = true);
    server.change_settings(|settings| settings.full_sync_interval_seconds = 3600);
    let simulation = simulation(&server, 5, 3_000).events_per_hour("120".parse().unwrap());
    let mut plan = simulation.current_plan().clone();
    plan.denied_percent = 100;
    plan.bundle_binaries = "4".parse().unwrap();
    let report = simulation.plan(plan).run().unwrap();
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
