//! What a server sends takes no more memory of the simulator than it grants.

use std::collections::BTreeMap;
use std::time::Duration;

use santa_sync::harness::{FakeServer, Fault, SimulationReport, every, fixtures};
use santa_sync::model::Stage;

use super::simulation;

const MIB: u64 = 1 << 20;

/// Failed attempts by kind, of all stages.
fn kinds(report: &SimulationReport) -> BTreeMap<&str, u64> {
    let mut kinds = BTreeMap::new();
    for (_, kind, count) in report.failures() {
        *kinds.entry(kind).or_default() += count;
    }
    kinds
}

fn endless() -> FakeServer {
    FakeServer::builder().fault(Stage::RuleDownload, every(), Fault::EndlessBody).start().unwrap()
}

#[test]
fn an_endless_response_is_too_large_for_a_host_of_its_own() {
    let server = endless();
    let report = simulation(&server, 1, 1_500).response_memory(MIB).run().unwrap();
    let kinds = kinds(&report);
    assert!(kinds.keys().eq(&["too_large"]) && kinds["too_large"] >= 1, "{report}");
    assert!(report.cautions().iter().all(|c| !c.contains("simulator's fault")), "{report}");
}

/// Without the bound, 200 hosts would take 25 GiB.
#[test]
fn endless_responses_share_what_the_simulator_grants() {
    let server = endless();
    let hosts = simulation(&server, 200, 2_000).ramp(Duration::ZERO);
    let report = hosts.response_memory(4 * MIB).run().unwrap();
    let kinds = kinds(&report);
    assert!(kinds.keys().all(|kind| ["too_large", "simulator_memory"].contains(kind)), "{report}");
    let syncs = report.measured.syncs;
    assert!(syncs.failed > 0 && syncs.succeeded == 0, "{report}");
    assert!(kinds.values().sum::<u64>() >= syncs.failed, "{report}");
    let run = &report.shards[0];
    if let (Some(before), Some(peak)) = (run.memory_before, run.memory_peak) {
        assert!(peak - before < 128 * MIB, "{} MiB", (peak - before) / MIB);
    }
}

/// Each page fits; what the pages so far hold counts as well.
#[test]
fn the_rules_of_a_download_under_way_count() {
    let rules = || FakeServer::builder().rules(fixtures::rules(10_000, 1)).page_size(200);
    let server = rules().start().unwrap();
    let report = simulation(&server, 1, 6_000).response_memory(192 << 10).run().unwrap();
    let found = kinds(&report);
    assert!(found.keys().eq(&["simulator_memory"]), "{report}");
    assert!(found["simulator_memory"] >= 6, "each attempt: {report}");
    assert_eq!(
        (report.measured.syncs.succeeded, report.measured.rules_received),
        (0, 0),
        "{report}"
    );
    let caution = format!(
        "{} of the failed attempts are the simulator&#39;s fault",
        found["simulator_memory"]
    );
    assert!(report.to_html().contains(&caution));
    let shown = report.to_string();
    let caution = caution.replace("&#39;", "'");
    assert!(shown.contains(&caution) && shown.contains("192 KiB"), "{shown}");

    let server = rules().start().unwrap();
    let report = simulation(&server, 1, 6_000).response_memory(2 * MIB).run().unwrap();
    assert_eq!((kinds(&report).len(), report.measured.rules_received), (0, 10_000), "{report}");
}
