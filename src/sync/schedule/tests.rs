//! Weeks of schedule on a virtual clock.

use super::*;
use crate::model::Timestamp;

const WEEK: Duration = Duration::from_hours(7 * 24);

/// A host whose time is ours to move.
struct World {
    now: Now,
    schedule: Schedule,
    /// Deterministic, and covers 0..1 evenly enough.
    random: u64,
    /// When each sync began, and why.
    began: Vec<(Duration, SyncReason)>,
    /// What each sync gives as the interval.
    interval: Option<u32>,
}

impl World {
    fn new(host: u64) -> Self {
        let now = Now { wall: Timestamp::from_secs(1_800_000_000), elapsed: secs(1_000) };
        let schedule = Schedule::new(now, host);
        Self { now, schedule, random: 1, began: Vec::new(), interval: None }
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f64::from(u32::try_from(self.random >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }

    fn pass(&mut self, duration: Duration) {
        self.now.elapsed += duration;
        self.now.wall = self.now.wall.after(duration);
    }

    /// Moves to the next begin and answers why it came.
    fn next(&mut self) -> SyncReason {
        let due = self.schedule.due().expect("a next time");
        self.pass(due.saturating_sub(self.now.elapsed));
        let why = self.schedule.begin(self.now).expect("it is due");
        assert!(self.schedule.runs() && self.schedule.due().is_none());
        assert_eq!(self.schedule.begin(self.now), None, "one at a time");
        self.began.push((self.now.elapsed, why));
        why
    }

    fn end(&mut self, end: SyncEnd, interval: Option<u32>) {
        let random = self.random();
        self.schedule.end(self.now, end, interval, random);
        assert!(self.schedule.due().is_some(), "never silent");
    }

    /// A sync that takes a second, begun at its time.
    fn sync(&mut self, end: SyncEnd) -> Duration {
        let last = self.now.elapsed;
        self.next();
        let waited = self.now.elapsed.saturating_sub(last);
        self.pass(secs(1));
        self.end(end, self.interval);
        waited
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// DAEMON-1: 15 s and a splay that is a host's own.
#[test]
fn daemon_1_the_first_sync_comes_after_15_to_30_seconds() {
    let first = |host| {
        let world = World::new(host);
        world.schedule.left(world.now).expect("a time")
    };
    assert_eq!(first(0), secs(15));
    assert_eq!(first(15_000), secs(30));
    assert_eq!(first(7), first(7));
    for host in (0..u64::MAX).step_by(1 << 58) {
        assert!((secs(15)..=secs(30)).contains(&first(host)), "{host}");
    }
}

/// DAEMON-1: a week of success keeps the interval, within 5 %.
#[test]
fn daemon_1_a_week_of_success_syncs_every_ten_minutes() {
    let mut world = World::new(0);
    let start = world.now.elapsed;
    while world.now.elapsed < start + WEEK {
        world.sync(SyncEnd::Success);
    }
    let gaps: Vec<_> =
        world.began.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
    assert!(gaps.iter().all(|gap| (secs(570)..=secs(630)).contains(gap)));
    assert!(gaps.iter().min() < Some(&secs(575)) && gaps.iter().max() > Some(&secs(625)));
    assert!((1000..=1015).contains(&gaps.len()), "{}", gaps.len());
    assert_eq!(world.began[0].1, SyncReason::Start);
    assert!(world.began[1..].iter().all(|(_, why)| *why == SyncReason::Interval));
}

/// DAEMON-2: 10 minutes, doubling to the interval; a success resets it.
#[test]
fn daemon_2_failures_back_off_to_the_interval_and_a_success_ends_it() {
    let hours = secs(4 * 60 * 60);
    let mut world = World::new(0);
    world.interval = Some(14_400);
    world.sync(SyncEnd::Failure);
    for minutes in [10, 20, 40, 80, 160, 240, 240, 240] {
        let wait = secs(minutes * 60);
        assert_eq!(world.schedule.back_off(), Some(wait));
        let waited = world.sync(SyncEnd::Failure);
        let share = if wait < hours { 0.25 } else { 0.05 };
        let bounds = wait.mul_f64(1.0 - share)..=wait.mul_f64(1.0 + share);
        assert!(bounds.contains(&waited), "{waited:?} after {wait:?}");
    }
    world.sync(SyncEnd::Success);
    assert_eq!((world.schedule.failures(), world.schedule.back_off()), (0, None));
    assert!(world.sync(SyncEnd::Failure) > hours.mul_f64(0.94), "the interval again");
    assert_eq!(world.schedule.back_off(), Some(secs(600)));
    for interval in [60, 300, 600] {
        world.interval = Some(interval);
        world.sync(SyncEnd::Success);
        world.sync(SyncEnd::Failure);
        assert_eq!(world.schedule.back_off(), Some(secs(interval.into())), "no longer");
    }
}

/// DAEMON-2: a week without a server is asked at the interval, and the first
/// success is followed by the interval.
#[test]
fn daemon_2_a_week_of_failure_neither_hammers_nor_falls_silent() {
    let mut world = World::new(0);
    let start = world.now.elapsed;
    while world.now.elapsed < start + WEEK {
        world.sync(SyncEnd::Failure);
    }
    assert!((1000..=1015).contains(&world.began.len()), "{}", world.began.len());
    world.schedule.failures = u32::MAX;
    assert_eq!(world.schedule.back_off(), Some(secs(600)), "no overflow");
}

/// DAEMON-1: a night's sleep is caught up once, not once for each time missed.
#[test]
fn daemon_1_sleep_is_caught_up_once() {
    let mut world = World::new(0);
    world.sync(SyncEnd::Success);
    for _ in 0..7 {
        world.pass(secs(8 * 60 * 60));
        assert_eq!(world.schedule.left(world.now), Some(Duration::ZERO));
        assert_eq!(world.sync(SyncEnd::Success), Duration::ZERO);
        let left = world.schedule.left(world.now).expect("a time");
        assert!((secs(569)..=secs(629)).contains(&left), "{left:?}");
    }
}

/// DAEMON-1: a sync that the machine slept through ends late; one follows
/// after a pause, and then the interval holds again.
#[test]
fn daemon_1_a_sync_longer_than_the_interval_is_followed_after_a_pause() {
    let mut world = World::new(0);
    world.next();
    world.pass(secs(5 * 60 * 60));
    world.end(SyncEnd::Success, None);
    assert_eq!(world.schedule.left(world.now), Some(OVERRUN_PAUSE));
    world.sync(SyncEnd::Success);
    assert!(world.sync(SyncEnd::Success) > secs(560));
}

/// DAEMON-1: whoever sets the wall clock moves nothing.
#[test]
fn daemon_1_the_wall_clock_may_jump_both_ways() {
    let mut jumping = World::new(3);
    let mut steady = World::new(3);
    for round in 0..1000_i64 {
        let by = if round % 2 == 0 { 400_000_000 } else { -500_000_000 };
        jumping.now.wall = Timestamp::from_secs(jumping.now.wall.as_secs() + by);
        let end = if round % 7 == 0 { SyncEnd::Failure } else { SyncEnd::Success };
        jumping.sync(end);
        steady.sync(end);
    }
    assert_eq!(jumping.began, steady.began);
}

/// DAEMON-1: a new interval counts from the sync that brought it, within
/// PRE-5's bounds.
#[test]
fn daemon_1_the_interval_changes_with_the_settings() {
    let mut world = World::new(0);
    for (given, held) in [(3600, 3600), (120, 120), (1, 60), (99_999_999, 604_800), (0, 60)] {
        world.next();
        world.end(SyncEnd::Success, Some(given));
        assert_eq!(world.schedule.interval(), secs(held));
        let left = world.schedule.left(world.now).expect("a time");
        let bounds = secs(held).mul_f64(0.95)..=secs(held).mul_f64(1.05);
        assert!(bounds.contains(&left), "{left:?} of {held}");
    }
    // Unknown leaves it, and bounds the back-off.
    world.sync(SyncEnd::Failure);
    world.sync(SyncEnd::Failure);
    assert_eq!(world.schedule.interval(), secs(60));
    assert_eq!(world.schedule.back_off(), Some(secs(60)));
}

/// DAEMON-3: idle, a request begins a sync at once; many are one.
#[test]
fn daemon_3_requests_while_idle_are_one_sync_at_once() {
    let mut world = World::new(0);
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::AtOnce);
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::Already);
    assert_eq!(world.schedule.left(world.now), Some(Duration::ZERO));
    assert_eq!(world.next(), SyncReason::Asked);
    world.end(SyncEnd::Success, None);
    assert!(!world.schedule.is_asked());
    assert!(world.schedule.left(world.now) > Some(secs(500)), "the timer starts over");
}

/// DAEMON-3: while one runs, one more is remembered and no other.
#[test]
fn daemon_3_requests_while_a_sync_runs_are_one_more_sync() {
    let mut world = World::new(0);
    world.next();
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::Next);
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::Already);
    assert_eq!(world.schedule.due(), None);
    world.end(SyncEnd::Failure, None);
    assert_eq!(world.next(), SyncReason::Asked);
    world.end(SyncEnd::Success, None);
    assert_eq!(world.schedule.left(world.now).map(|left| left > secs(500)), Some(true));
}

/// DAEMON-3: a request does not wait for the back-off, and does not end it.
#[test]
fn daemon_3_a_request_during_a_back_off_begins_at_once() {
    let mut world = World::new(0);
    world.sync(SyncEnd::Failure);
    world.schedule.ask(Requester::Owner, world.now);
    assert_eq!(world.next(), SyncReason::Asked);
    world.end(SyncEnd::Failure, Some(3_600));
    assert_eq!(world.schedule.back_off(), Some(secs(1_200)));
}

/// A host without a server looks again at its interval, and what failed
/// before still counts.
#[test]
fn nothing_to_sync_with_is_neither_success_nor_failure() {
    let mut world = World::new(0);
    world.sync(SyncEnd::Failure);
    world.sync(SyncEnd::Nothing);
    assert_eq!(world.schedule.failures(), 1);
    assert!(world.schedule.left(world.now) > Some(secs(500)));
}

/// What a change of the network does to the next time.
impl World {
    fn network_changes(&mut self) {
        let random = self.random();
        self.schedule.network_changed(self.now, random);
    }

    fn left(&self) -> Duration {
        self.schedule.left(self.now).expect("a time")
    }

    /// Fails until the back-off is as long as it gets.
    fn long_back_off(&mut self) {
        for _ in 0..8 {
            self.sync(SyncEnd::Failure);
        }
        assert!(self.left() > secs(560) && self.schedule.why() == Some(SyncReason::BackOff));
    }
}

/// DAEMON-2: a network that changes during a back-off is tried once it has
/// settled; if that fails, too, the back-off goes on.
#[test]
fn daemon_2_a_changed_network_is_tried_5_to_10_s_later() {
    let mut world = World::new(0);
    world.long_back_off();
    world.pass(secs(30));
    world.network_changes();
    assert!((secs(5)..=secs(10)).contains(&world.left()), "{:?}", world.left());
    assert_eq!(world.schedule.why(), Some(SyncReason::Network));
    assert_eq!(world.next(), SyncReason::Network);
    world.pass(secs(1));
    world.end(SyncEnd::Failure, None);
    assert!(world.left() > secs(560), "{:?}", world.left());
    assert_eq!((world.schedule.why(), world.schedule.failures()), (Some(SyncReason::BackOff), 9));
    world.pass(MIN_NETWORK_SYNC_GAP);
    world.network_changes();
    assert_eq!(world.next(), SyncReason::Network);
    world.end(SyncEnd::Success, None);
    assert_eq!(
        (world.schedule.why(), world.schedule.back_off()),
        (Some(SyncReason::Interval), None)
    );
}

/// DAEMON-2: the delay counts from the last change.
#[test]
fn daemon_2_a_network_that_keeps_changing_is_left_to_settle() {
    let mut world = World::new(0);
    world.long_back_off();
    for _ in 0..20 {
        world.network_changes();
        world.pass(secs(4));
        assert_eq!(world.schedule.begin(world.now), None);
    }
    assert_eq!(world.next(), SyncReason::Network);
    // One that never settles puts the time of the back-off off by nothing.
    world.end(SyncEnd::Failure, None);
    let due = world.now.elapsed + world.left();
    while world.now.elapsed + secs(4) < due {
        world.network_changes();
        assert!(world.now.elapsed + world.left() <= due);
        world.pass(secs(4));
    }
    world.network_changes();
    assert_eq!((world.next(), world.now.elapsed), (SyncReason::BackOff, due));
}

/// DAEMON-2: however often it changes, it begins a sync a minute at most.
#[test]
fn daemon_2_a_changed_network_is_tried_once_a_minute_at_most() {
    let mut world = World::new(0);
    world.long_back_off();
    let mut tried = Vec::new();
    for _ in 0..600 {
        world.network_changes();
        world.pass(secs(11));
        if let Some(why) = world.schedule.begin(world.now) {
            if why == SyncReason::Network {
                tried.push(world.now.elapsed);
            }
            world.end(SyncEnd::Failure, None);
        }
    }
    assert!(tried.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= MIN_NETWORK_SYNC_GAP));
    assert!((80..=110).contains(&tried.len()), "{}", tried.len());
}

/// DAEMON-2: while syncs succeed, the network may do what it likes; the
/// schedule is the same to the last bit.
#[test]
fn daemon_2_a_changed_network_is_nothing_to_a_healthy_host() {
    let mut world = World::new(0);
    world.network_changes();
    assert_eq!(world.schedule.why(), Some(SyncReason::Start));
    world.sync(SyncEnd::Success);
    let before = world.schedule.clone();
    world.network_changes();
    assert_eq!(world.schedule, before);
    assert!(!world.schedule.heeds_network());
    // A change in the middle of a sync that succeeds is one it has met.
    world.next();
    world.network_changes();
    world.end(SyncEnd::Success, None);
    assert_eq!(world.schedule.why(), Some(SyncReason::Interval));
}

/// DAEMON-2: a change at the end of a sync that fails is tried; one that had
/// settled before, the sync itself has tried.
#[test]
fn daemon_2_a_change_during_a_failing_sync_counts_if_it_came_late() {
    for (passed, why) in [(secs(2), SyncReason::Network), (secs(11), SyncReason::BackOff)] {
        let mut world = World::new(0);
        world.next();
        assert!(world.schedule.heeds_network());
        world.network_changes();
        world.pass(passed);
        world.end(SyncEnd::Failure, None);
        assert_eq!(world.schedule.why(), Some(why));
    }
}

/// DAEMON-3: whoever asks does not wait for the network to settle, and what
/// was asked for is the try.
#[test]
fn daemon_3_a_request_comes_before_a_changed_network() {
    let mut world = World::new(0);
    world.long_back_off();
    world.network_changes();
    world.schedule.ask(Requester::Owner, world.now);
    assert_eq!(world.next(), SyncReason::Asked);
    world.end(SyncEnd::Failure, None);
    assert_eq!(world.schedule.why(), Some(SyncReason::BackOff));
}

/// DAEMON-1: each time says why it comes.
#[test]
fn daemon_1_why_the_next_sync_begins_is_known() {
    let mut world = World::new(0);
    assert_eq!((world.schedule.why(), world.next()), (Some(SyncReason::Start), SyncReason::Start));
    assert_eq!(world.schedule.why(), None, "it runs");
    world.end(SyncEnd::Success, None);
    assert_eq!(
        (world.schedule.why(), world.next()),
        (Some(SyncReason::Interval), SyncReason::Interval)
    );
    world.end(SyncEnd::Failure, None);
    assert_eq!(
        (world.schedule.why(), world.next()),
        (Some(SyncReason::BackOff), SyncReason::BackOff)
    );
    world.schedule.ask(Requester::Owner, world.now);
    world.end(SyncEnd::Failure, None);
    assert_eq!((world.schedule.why(), world.next()), (Some(SyncReason::Asked), SyncReason::Asked));
}

/// DAEMON-4: an hour in which the group asks all the time has a sync every ten
/// seconds, and one a minute while syncs fail. The timer and the owner do not
/// notice.
#[test]
fn daemon_4_syncs_that_the_group_asks_for_keep_their_distance() {
    for (end, apart) in [(SyncEnd::Success, 10), (SyncEnd::Failure, 60)] {
        let mut world = World::new(0);
        world.sync(end);
        world.began.clear();
        let hour_ends = world.now.elapsed + secs(3600);
        while world.now.elapsed < hour_ends {
            // Thirty-two clients, ten times a second.
            for _ in 0..32 {
                world.schedule.ask(Requester::Group, world.now);
            }
            if world.schedule.due().is_some_and(|due| due <= world.now.elapsed) {
                world.sync(end);
            }
            world.pass(Duration::from_millis(100));
        }
        let syncs = world.began.len() as u64;
        assert!((3600 / (apart + 2)..=3600 / apart + 10).contains(&syncs), "{end:?}: {syncs}");
        for pair in world.began.windows(2) {
            let [(before, _), (after, _)] = pair else { panic!("a pair") };
            // A back-off may be over earlier, which is not the group's doing.
            let due = pair[1].1 == SyncReason::BackOff;
            assert!(due || *after >= *before + secs(apart), "{end:?}: {before:?} {after:?}");
        }
    }
}

/// DAEMON-4: a request of the group that comes too early waits for its time; the
/// owner's does not, and takes the group's along.
#[test]
fn daemon_4_the_owner_does_not_wait_with_the_group() {
    let mut world = World::new(0);
    world.sync(SyncEnd::Success);
    assert_eq!(world.schedule.ask(Requester::Group, world.now), RequestOutcome::AtOnce);
    world.sync(SyncEnd::Success);
    assert_eq!(world.schedule.ask(Requester::Group, world.now), RequestOutcome::Later(secs(9)));
    assert_eq!(world.schedule.ask(Requester::Group, world.now), RequestOutcome::Later(secs(9)));
    assert_eq!(world.schedule.left(world.now), Some(secs(9)));
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::Already);
    assert_eq!(world.schedule.left(world.now), Some(Duration::ZERO));
    world.sync(SyncEnd::Success);
    assert!(!world.schedule.is_asked(), "both have had their sync");
    assert_eq!(world.schedule.ask(Requester::Owner, world.now), RequestOutcome::AtOnce);
    world.sync(SyncEnd::Failure);
    assert_eq!(
        world.schedule.ask(Requester::Owner, world.now),
        RequestOutcome::AtOnce,
        "not after a failure"
    );
    world.sync(SyncEnd::Failure);
    assert_eq!(world.schedule.ask(Requester::Group, world.now), RequestOutcome::Later(secs(60)));
}

/// DAEMON-2, HTTP-3: a server that was down meets three times its usual load at most
/// when it is back, measured over 10 s; with intervals beyond 10 minutes, that of a fleet
/// with one of 10 minutes.
#[test]
fn daemon_2_a_fleet_comes_back_from_an_outage_without_a_peak() {
    use crate::model::Stage;
    use crate::sync::retry::{RetryPace, WaitSchedule};

    const HOSTS: u32 = 6_000;
    for (interval, outage) in [(60, 300), (600, 30), (600, 300), (600, 3_000), (3_600, 300)] {
        let steady = f64::from(HOSTS) / f64::from(interval.min(600));
        let down = secs(6_000)..secs(6_000 + outage);
        // Syncs that succeed, by second, from the return on.
        let mut back = [0_u32; 60];
        for host in 0..HOSTS {
            let host = u64::from(host);
            let mut world = World::new(host);
            world.interval = Some(interval);
            world.random = host;
            world.random();
            // Hosts are spread over the interval.
            let share = world.random();
            world.pass(secs(interval.into()).mul_f64(share));
            world.schedule = Schedule::new(world.now, host);
            while world.now.elapsed < down.end + secs(60) {
                let pace = RetryPace::of(Stage::Preflight, world.next().trigger());
                let mut waits = WaitSchedule::new(pace, 0.25);
                let end = loop {
                    if !down.contains(&world.now.elapsed) {
                        break SyncEnd::Success;
                    }
                    match waits.next_wait() {
                        Some(wait) => world.pass(wait),
                        None => break SyncEnd::Failure,
                    }
                };
                let since = world.now.elapsed.checked_sub(down.end);
                let second = since.and_then(|since| usize::try_from(since.as_secs()).ok());
                if let Some(count) = second.and_then(|second| back.get_mut(second)) {
                    *count += u32::from(end == SyncEnd::Success);
                }
                world.end(end, Some(interval));
            }
        }
        let peak = back.windows(10).map(|ten| ten.iter().sum::<u32>()).max().expect("windows");
        let times = f64::from(peak) / 10.0 / steady;
        assert!(times <= 3.0, "{times:.2} after {outage} s, at {interval} s");
    }
}
