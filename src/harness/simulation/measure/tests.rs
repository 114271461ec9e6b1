//! What a simulation measures.

use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A run of which every second host was in another process.
fn measured(hosts: impl Iterator<Item = u64>) -> Measurements {
    let mut all = Measurements::new(secs(100));
    for host in hosts {
        let began = secs(host);
        all.sync_begins(began, Duration::from_millis(host));
        let traffic = Traffic { bytes_sent: 10, bytes_received: host, ..Traffic::default() };
        let end = match host % 3 {
            0 => AttemptEnd::Answered,
            1 => AttemptEnd::Failed(FailureKind::ServerError),
            _ => AttemptEnd::CutByOutage,
        };
        all.attempt_ends(Stage::Preflight, (began, began + secs(2)), end, traffic);
        all.events_accepted(began, 3);
        let end = if host % 3 == 0 {
            SimulatedEnd::Succeeded { clean: host % 2 == 0 }
        } else {
            SimulatedEnd::Failed
        };
        all.sync_ends(began + secs(2), secs(2), end);
    }
    all
}

#[test]
fn shards_add_up_to_the_whole() {
    let whole = measured(0..60);
    let mut sum = measured((0..60).step_by(2));
    let other = measured((1..60).step_by(2));
    let text = serde_json::to_string(&other).expect("JSON");
    sum.add(&serde_json::from_str(&text).expect("the same"));
    assert_eq!(sum.syncs, whole.syncs);
    assert_eq!(sum.requests(), whole.requests());
    assert_eq!(sum.series.requests, whole.series.requests);
    assert_eq!(
        serde_json::to_value(&sum).expect("JSON"),
        serde_json::to_value(&whole).expect("JSON")
    );
}

#[test]
fn an_attempt_is_counted_where_it_began_and_its_latency_where_it_ended() {
    let all = measured(std::iter::once(30));
    let bin = |second: usize| second * 1000 / 100;
    assert_eq!(all.series.bin_ms, 100);
    assert_eq!(all.series.requests[bin(30)], 1);
    assert_eq!(all.series.latency[bin(32)].count(), 1);
    assert_eq!(all.series.latency[bin(32)].quantile(0.5).map(|l| l.as_secs()), Some(2));
}

#[test]
fn what_runs_is_the_most_of_each_time_and_carried_on_where_nothing_changes() {
    let mut all = Measurements::new(secs(100));
    let at = |tenth: u64| Duration::from_millis(100 * tenth);
    for (tenth, running) in [(0, 1), (0, 3), (0, 2), (3, 5), (3, 1), (5, 0), (7, 0)] {
        all.note_running(at(tenth), running);
    }
    assert_eq!(all.series.running, [3, 2, 2, 5, 1, 1, 0, 0]);
}

#[test]
fn long_simulations_have_longer_bins() {
    let width = |lasting| Series::new(lasting).bin_ms;
    assert_eq!(width(secs(720)), 1000);
    assert_eq!(width(Duration::from_hours(1)), 5000);
    assert_eq!(width(Duration::from_hours(7 * 24)), 3_600_000);
}
