//! Machine ids that the operator gives, and which checks use which of them.

use std::time::Duration;

use santa_sync::harness::conformance::{Conformance, EarlyEndKind, Verdict, Waits};
use santa_sync::harness::{FakeServer, Misbehaviour, fixtures};
use santa_sync::model::Stage;

use super::complaints;

const IDS: [&str; 3] = ["PROBE-1", "PROBE-2", "PROBE-3"];
/// Longer than a run without waits takes.
const LONG: Duration = Duration::from_mins(1);
/// Longer than any test takes.
const VERY_LONG: Duration = Duration::from_hours(1);

/// No check ends during the test, so the counts are reached only if the checks run in parallel.
#[test]
fn checks_that_wait_run_in_parallel_with_one_machine_each() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let (sender, stop) = tokio::sync::watch::channel(None);
    let waits = Waits { in_sync: VERY_LONG, ..Waits::none() };
    let conformance = Conformance::new(&server.url())
        .unwrap()
        .waits(waits)
        .machine_ids(IDS)
        .unwrap()
        .only(["RULE-07", "RULE-08", "EVENT-11"]);
    let running = std::thread::spawn(move || conformance.run_until_blocking(stop).unwrap().report);
    // After the first sync, RULE-07 and EVENT-11 have each synced and made one more request, and
    // RULE-08 is in the middle of its sync.
    for (stage, count) in
        [(Stage::Postflight, 3), (Stage::RuleDownload, 4), (Stage::EventUpload, 3)]
    {
        assert!(server.wait_for(stage, count, LONG), "{stage}");
    }
    sender.send(Some("enough")).unwrap();
    let report = running.join().unwrap();
    assert_eq!(report.ended_early.map(|end| end.kind), Some(EarlyEndKind::Interrupted));
    for (id, uploads, postflights) in [(IDS[0], 1, 2), (IDS[1], 1, 0), (IDS[2], 1, 1)] {
        let host = server.host(id).unwrap();
        assert_eq!((host.event_uploads, host.postflights), (uploads, postflights), "{id}");
    }
}

/// The run uses the other ids, and a mistyped id is not reported as a fault of the server.
#[test]
fn a_machine_that_the_server_does_not_know_is_left_out_and_named() {
    let soon = Duration::from_millis(1);
    let known = [IDS[0], IDS[2]].map(str::to_owned).to_vec();
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .style(|style| style.enrolled = Some(known))
        .start()
        .unwrap();
    let report = Conformance::new(&server.url())
        .unwrap()
        .waits(Waits { in_sync: soon, ..Waits::none() })
        .machine_ids(IDS)
        .unwrap()
        .skip(["HTTP-07", "ID-04"])
        .run_blocking()
        .unwrap()
        .report;
    assert_eq!(complaints(&report), [""; 0]);
    for id in ["RULE-07", "RULE-08", "EVENT-11", "ISO-01"] {
        assert_eq!(report.result(id).unwrap().verdict, Verdict::Pass, "{id}");
    }
    let note = "preflight of --machine-id PROBE-2: 403; the run continued without it";
    assert_eq!(report.notes, [note]);
}

/// Everything but the first preflight of the run repeats one.
#[test]
fn a_given_machine_that_may_not_repeat_its_preflight_breaks_one_requirement() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .misbehave(Misbehaviour::Pre11Error)
        .start()
        .unwrap();
    let report = Conformance::new(&server.url())
        .unwrap()
        .waits(Waits::none())
        .machine_ids([IDS[0]])
        .unwrap()
        .run_blocking()
        .unwrap()
        .report;
    assert_eq!(complaints(&report), ["PRE-11 fail"]);
    for id in ["HTTP-01", "ENC-02", "ENC-04", "ENC-09", "ID-01", "PRE-07"] {
        assert_eq!(report.result(id).unwrap().blocked_by, Some("PRE-11"), "{id}");
    }
}
