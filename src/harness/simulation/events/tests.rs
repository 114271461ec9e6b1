use super::*;

const WALL: Timestamp = Timestamp::from_secs(1_800_000_000);

fn traits(denied_percent: u8, bundle_binaries: &str) -> EventTraits {
    let bundle_binaries = bundle_binaries.parse().expect("a mix");
    EventTraits { bytes: Mix::only(0), denied_percent, bundle_binaries }
}

fn at(hours: u64) -> Now {
    Now { wall: WALL, elapsed: Duration::from_hours(hours) }
}

fn happened(queue: &mut EventQueue, hours: u64, per_hour: u32) -> usize {
    queue.happen(at(hours), per_hour, &traits(10, "0"));
    queue.len()
}

#[test]
fn events_happen_as_often_as_they_should() {
    let mut queue = EventQueue::new(1);
    assert_eq!(happened(&mut queue, 1, 60), 0, "the queue begins with the host");
    let after = happened(&mut queue, 101, 60);
    assert!((5_700..6_300).contains(&after), "{after}");
    assert_eq!(happened(&mut queue, 101, 60), after, "nothing happens twice");
    assert_eq!(happened(&mut EventQueue::new(1), 1000, 0), 0);
}

#[test]
fn an_event_is_the_same_each_time_it_is_sent() {
    let mut queue = EventQueue::new(3);
    happened(&mut queue, 0, 100);
    happened(&mut queue, 1, 100);
    assert_eq!(queue.batch(10, queue.last()), queue.batch(10, queue.last()));
}

#[test]
fn events_are_as_large_as_they_should_be() {
    for bytes in [4_000, 40_000] {
        let sizes =
            (0..50).map(|seed| stored::encode(&made::event(seed, WALL, (bytes, true), None)).len());
        let large = sizes.filter(|size| *size >= bytes as usize).collect::<Vec<_>>();
        assert!(large.len() > 30, "executions are, file accesses are not");
        assert!(large.iter().all(|size| *size < bytes as usize + 500), "{large:?}");
    }
}

#[test]
fn what_the_server_accepted_leaves_the_queue_and_what_came_later_stays() {
    let mut queue = EventQueue::new(5);
    happened(&mut queue, 0, 60);
    happened(&mut queue, 1, 60);
    let horizon = queue.last();
    let before = queue.len();
    happened(&mut queue, 2, 60);
    let batch = queue.batch(before + 100, horizon);
    assert!(batch.len() > before, "a batch that has begun may hold later ones");
    let delivered = queue.batch(10, horizon).iter().map(|row| row.id).collect();
    let count = queue.len();
    queue.settle(&SettledEvents { delivered, ..SettledEvents::default() }, WALL);
    assert_eq!(queue.len(), count - 10);
    assert_eq!(queue.batch(1, horizon)[0].id, 11);
    assert!(queue.batch(10, 10).is_empty(), "none of those is left");
}

/// EV-6: halved, then alone, then set aside after three syncs.
#[test]
fn ev_6_a_refused_event_is_isolated_and_set_aside() {
    let mut queue = EventQueue::new(5);
    happened(&mut queue, 0, 60);
    happened(&mut queue, 1, 60);
    let ids = |queue: &EventQueue| {
        queue.batch(4, queue.last()).iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&queue), [1, 2, 3, 4]);
    assert!(!queue.refuse(&[1, 2, 3, 4], false));
    assert_eq!(ids(&queue), [1, 2]);
    assert!(!queue.refuse(&[1, 2], false));
    for _ in 0..2 {
        assert_eq!(ids(&queue), [1]);
        assert!(!queue.refuse(&[1], false));
    }
    assert!(queue.refuse(&[1], false));
    assert_eq!(ids(&queue), [2]);
    assert!(queue.refuse(&[2], true), "one that is too large is set aside at once");
}

/// The events of the queue, as the agent reads them.
fn read(queue: &EventQueue) -> Vec<QueuedEvent> {
    let rows = queue.batch(usize::MAX, i64::MAX);
    let decoded = rows.iter().map(|row| {
        let decoded = stored::decode_row(&row.data);
        let stored::DecodedEvent::Sendable(event) = decoded else { panic!("{decoded:?}") };
        event
    });
    decoded.collect()
}

/// EV-10: what is denied is known beforehand, so that a host can be woken for it.
#[test]
fn ev_10_denials_come_at_the_time_that_was_announced() {
    let mut queue = EventQueue::new(7);
    let traits = traits(25, "0");
    assert_eq!(queue.next_denial(), None, "before it has begun");
    queue.happen(at(0), 40, &traits);
    let (mut denials, mut now) = (0, Duration::ZERO);
    while now < Duration::from_hours(100) {
        let next = queue.next_denial().expect("another one");
        let early = Now { elapsed: next.saturating_sub(Duration::from_nanos(1)), wall: WALL };
        assert_eq!(queue.happen(early, 40, &traits), None);
        let due = Now { elapsed: next, wall: WALL };
        assert_eq!(queue.happen(due, 40, &traits), Some((next, next)));
        (denials, now) = (denials + 1, next);
    }
    let denied = read(&queue).iter().filter(|event| stored::is_denial(event)).count();
    assert_eq!(denied, denials);
    assert!((850..1150).contains(&denials), "a quarter of 4,000: {denials}");
    assert!((3_700..4_300).contains(&queue.len()), "{}", queue.len());
    for (share, denied) in [(0, 0), (100, 50)] {
        let mut queue = EventQueue::new(7);
        queue.happen(at(0), 50, &self::traits(share, "0"));
        queue.happen(at(1), 50, &self::traits(share, "0"));
        let found = read(&queue).iter().filter(|event| stored::is_denial(event)).count();
        assert_eq!(found == 0, denied == 0, "{share} %");
        assert_eq!(queue.next_denial().is_some(), denied > 0);
        assert!(denied == 0 || found == queue.len(), "{found}");
    }
}

/// EV-9: the server is sent the executables of a bundle that it requests, once a
/// request, and of no bundle that this host has not reported.
#[test]
fn ev_9_the_executables_of_a_requested_bundle_are_queued() {
    let mut queue = EventQueue::new(9);
    let traits = traits(100, "3");
    queue.happen(at(0), 1, &traits);
    queue.happen(at(1), 20, &traits);
    let QueuedEvent::Execution(first) = read(&queue).remove(0) else { panic!("an execution") };
    let hash = first.file_bundle_hash.clone();
    assert_eq!((hash.len(), first.file_bundle_binary_count), (64, 3));
    let stranger = "0".repeat(64);
    let all = queue.batch(usize::MAX, i64::MAX).iter().map(|row| row.id).collect();
    let settled = |delivered, bundle_requests: &[&String]| SettledEvents {
        delivered,
        bundle_requests: bundle_requests.iter().map(ToString::to_string).collect(),
        ..SettledEvents::default()
    };
    queue.settle(&settled(all, &[&hash, &stranger]), WALL);
    queue.settle(&settled(Vec::new(), &[&hash]), WALL);
    let members = read(&queue);
    assert_eq!(members.len(), 3, "a request that is open is not served twice");
    let mut files = std::collections::BTreeSet::new();
    for member in &members {
        assert_eq!(stored::bundle_of(member), Some((hash.as_str(), 3)));
        assert!(!stored::is_denial(member), "it is not urgent");
        let QueuedEvent::Execution(member) = member else { panic!("an execution") };
        files.insert(member.file_sha256.clone());
    }
    assert_eq!(files.len(), 3);
    let delivered = queue.batch(usize::MAX, i64::MAX).iter().map(|row| row.id).collect();
    let bundles_delivered = vec![(hash.clone(), 3); 3];
    queue.settle(&SettledEvents { bundles_delivered, ..settled(delivered, &[]) }, WALL);
    assert_eq!(queue.len(), 0);
    queue.settle(&settled(Vec::new(), &[&hash]), WALL);
    assert_eq!(queue.len(), 3, "once all are delivered, another request is served");
}
