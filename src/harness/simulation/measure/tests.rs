//! Tests of what a simulation measures.

use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn groups() -> [HostGroup; 2] {
    ["most", "few"].map(|name| HostGroup::new(name.to_owned(), 0))
}

/// A run of which every second host was in another process.
fn measured(hosts: impl Iterator<Item = u64>) -> Measurements {
    let mut all = Measurements::new(secs(100), &groups());
    for host in hosts {
        let began = secs(host);
        let group = Some(usize::from(host % 4 == 3));
        all.host_takes_part(group);
        all.sync_begins(group, began, Duration::from_millis(host));
        let traffic = Traffic { bytes_sent: 10, bytes_received: host, ..Traffic::default() };
        let end = match host % 3 {
            0 => AttemptEnd::Answered,
            1 => AttemptEnd::Failed(FailureKind::ServerError),
            _ => AttemptEnd::CutByOutage,
        };
        all.attempt_ends((group, Stage::Preflight), (began, began + secs(2)), end, traffic);
        all.events_accepted(group, began, 3);
        let end = if host % 3 == 0 {
            SimulatedEnd::Succeeded { clean: host % 2 == 0 }
        } else {
            SimulatedEnd::Failed
        };
        all.sync_ends(group, began + secs(2), secs(2), end);
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

/// No host is counted twice or left out, and a latency is accurate to 1%.
#[test]
fn groups_add_up_to_the_whole() {
    let mut whole = measured(0..60);
    whole.syncs_left(0);
    let [most, few] = whole.groups.as_slice() else { panic!("{:?}", whole.groups) };
    assert_eq!(
        (most.name.as_str(), most.hosts, few.name.as_str(), few.hosts),
        ("most", 45, "few", 15)
    );
    let mut sum = GroupMeasurements::default();
    sum.add(most);
    sum.add(few);
    assert_eq!(sum.syncs, whole.syncs);
    assert_eq!((few.syncs.begun, few.syncs.succeeded, few.syncs.failed), (15, 5, 10));
    assert_eq!(sum.events_uploaded, whole.events_uploaded);
    assert_eq!(few.figures().requests + most.figures().requests, whole.requests());
    assert_eq!(sum.figures().failures(), whole.figures().failures());
    let (of_sum, of_whole) = (&sum.stages[&Stage::Preflight], &whole.stages[&Stage::Preflight]);
    assert_eq!(of_sum.cut_by_outage, of_whole.cut_by_outage);
    assert_eq!(of_sum.bytes_received, of_whole.bytes_received);
    assert_eq!(of_sum.latency.count(), of_whole.latency.count());
    let secs = |latency: Option<Duration>| latency.expect("some").as_secs_f64();
    let (group, all) =
        (secs(few.sync_durations.quantile(0.5)), secs(whole.sync_durations.quantile(0.5)));
    assert!((group / all - 1.0).abs() < 0.01, "{group} {all}");
}

#[test]
fn a_sync_that_has_not_ended_is_unfinished_in_its_group() {
    let mut all = measured(std::iter::once(3));
    all.sync_begins(Some(1), secs(50), Duration::ZERO);
    all.syncs_left(1);
    let unfinished = |syncs: SyncCounts| syncs.unfinished;
    assert_eq!(all.groups.iter().map(|group| unfinished(group.syncs)).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(unfinished(all.syncs), 1);
}

/// Without the figures of one shard, the sum of the others would look complete.
#[test]
fn groups_are_measured_for_all_shards_or_for_none() {
    let mut old = serde_json::to_value(measured(0..3)).expect("JSON");
    old.as_object_mut().expect("an object").remove("groups").expect("groups");
    let old: Measurements = serde_json::from_value(old).expect("an old report");
    let mut sums = [measured(3..6), old.clone()];
    sums[0].add(&old);
    sums[1].add(&measured(3..6));
    for mut sum in sums {
        sum.add(&measured(6..9));
        assert_eq!((sum.syncs.begun, sum.groups.as_slice()), (9, &[][..]));
    }
}

/// The documented memory of a group.
#[test]
fn the_latencies_of_a_group_take_little_memory() {
    let mut all = measured(std::iter::once(0));
    let few = &mut all.groups[0];
    few.sync_durations.record(Duration::from_hours(1));
    assert!(few.sync_durations.memory() <= 26 << 10, "{}", few.sync_durations.memory());
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
    let mut all = Measurements::new(secs(100), &groups());
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
