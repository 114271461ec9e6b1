//! `harness conformance`: what it finds of the fake server, well-behaved and not.

mod by_hand;
mod command;
mod cookies;
mod early;
mod estimate;
mod forms;
mod machines;
mod misbehaviours;
mod operator;
mod presets;
mod reports;
mod secrets;
mod tls;
mod trials;
mod words;

use santa_sync::harness::FakeServer;
use santa_sync::harness::conformance::{Conformance, Report, Waits};

/// Checks a server without waiting anywhere.
fn report(server: &FakeServer, change: impl FnOnce(Conformance) -> Conformance) -> Report {
    let conformance = Conformance::new(&server.url()).unwrap().waits(Waits::none());
    change(conformance).run_blocking().unwrap().report
}

/// Requirements that are not met, with their verdicts.
fn complaints(report: &Report) -> Vec<String> {
    report.complaints().map(|result| format!("{} {}", result.id, result.verdict)).collect()
}
