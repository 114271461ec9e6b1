//! What is written, and what its reader makes of it.

use std::fs;

use super::*;
use crate::control::moment::Stamp;
use crate::model::Now;

const DEADLINE: Duration = Duration::from_hours(1);

#[test]
fn what_is_written_is_read_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(DaemonStatus::read(dir.path()), None);
    let status = example();
    status.write(dir.path()).expect("written");
    status.write(dir.path()).expect("written over");
    assert_eq!(DaemonStatus::read(dir.path()), Some(status));
    let mode = fs::metadata(dir.path().join(STATUS_FILE)).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 1);
}

fn at(wall: Timestamp) -> Moment {
    let now = Now { wall, elapsed: Duration::ZERO };
    Moment { now, awake: None, boot_id: None, woke_at: None }
}

/// DAEMON-6: a daemon that does not do what it announced is not taken for
/// one that waits; without a name of the boot, by the wall clock.
#[test]
fn daemon_6_an_overdue_sync_tells_a_stuck_daemon() {
    let status = example();
    let next = status.next_sync_at.expect("a time");
    let live = |status: &DaemonStatus, process, wall| status.liveness(process, &at(wall), DEADLINE);
    assert_eq!(live(&status, true, next.after(OVERDUE_GRACE)), Liveness::Alive);
    assert_eq!(live(&status, true, next.after(OVERDUE_GRACE * 2)), Liveness::Stuck);
    assert_eq!(live(&status, false, next), Liveness::Dead);
    let syncing = DaemonStatus {
        doing: Activity::Syncing,
        next_sync_at: None,
        sync_began_at: Some(next),
        ..status
    };
    assert_eq!(live(&syncing, true, next.after(DEADLINE)), Liveness::Alive);
    assert_eq!(live(&syncing, true, next.after(DEADLINE * 2)), Liveness::Stuck);
    let long = DaemonStatus { sync_limit: Some(2 * DEADLINE.as_secs()), ..syncing.clone() };
    assert_eq!(live(&long, true, next.after(DEADLINE * 2)), Liveness::Alive, "its own limit");
    let stopped = DaemonStatus { doing: Activity::Stopped, sync_began_at: None, ..syncing };
    assert_eq!(live(&stopped, false, next), Liveness::Stopped);
}

const MINUTE: Duration = Duration::from_mins(1);
const NIGHT: Duration = Duration::from_hours(8);

/// A machine whose clocks are ours.
#[derive(Clone)]
struct TestClocks {
    wall: Timestamp,
    elapsed: Duration,
    awake: Duration,
    boot: &'static str,
}

impl TestClocks {
    fn works(&mut self, duration: Duration) {
        self.awake += duration;
        self.sleeps(duration);
    }

    fn sleeps(&mut self, duration: Duration) {
        self.elapsed += duration;
        self.wall = self.wall.after(duration);
    }

    fn seen(&self) -> Moment {
        Moment {
            now: Now { wall: self.wall, elapsed: self.elapsed },
            awake: Some(self.awake),
            boot_id: Some(self.boot.to_owned()),
            woke_at: None,
        }
    }

    fn stamp(&self) -> Stamp {
        let ms = |d: Duration| u64::try_from(d.as_millis()).expect("in range");
        Stamp { elapsed_ms: ms(self.elapsed), awake_ms: Some(ms(self.awake)) }
    }

    /// The status of a daemon that waits ten minutes, or syncs.
    fn status(&self, syncs: bool) -> DaemonStatus {
        let (stamp, wait) = (self.stamp(), MINUTE * 10);
        let boot = Boot {
            id: self.boot.to_owned(),
            started: stamp,
            written: stamp,
            sync_began: syncs.then_some(stamp),
            next_sync: (!syncs).then(|| stamp.after(wait)),
        };
        DaemonStatus {
            started_at: self.wall,
            beat_at: self.wall,
            next_sync_at: (!syncs).then(|| self.wall.after(wait)),
            sync_began_at: syncs.then_some(self.wall),
            boot: Some(boot),
            ..example()
        }
    }

    fn judges(&self, status: &DaemonStatus) -> Liveness {
        status.liveness(true, &self.seen(), DEADLINE)
    }
}

fn machine() -> TestClocks {
    TestClocks {
        wall: Timestamp::from_secs(1_800_000_000),
        elapsed: NIGHT,
        awake: NIGHT / 2,
        boot: "a",
    }
}

/// DAEMON-6: a step of the wall clock makes no daemon stuck and hides none.
#[test]
fn daemon_6_a_step_of_the_clock_does_not_alter_the_judgement() {
    for syncs in [false, true] {
        let mut machine = machine();
        let status = machine.status(syncs);
        machine.works(MINUTE);
        machine.wall = machine.wall.after(NIGHT * 100);
        assert_eq!(machine.judges(&status), Liveness::Alive, "a step ahead, {syncs}");
        machine.wall = Timestamp::from_secs(0);
        machine.works(DEADLINE + MINUTE * 3);
        assert_eq!(machine.judges(&status), Liveness::Stuck, "a step back, {syncs}");
        assert_eq!(status.uptime(&machine.seen()), DEADLINE + MINUTE * 4);
        assert_eq!(status.age(&machine.seen()), DEADLINE + MINUTE * 4);
    }
}

/// DAEMON-6: a night's sleep is not held against a daemon, before the sync,
/// in the middle of it or when it is due; time awake is.
#[test]
fn daemon_6_sleep_is_no_delay() {
    for syncs in [false, true] {
        let mut machine = machine();
        let status = machine.status(syncs);
        machine.works(MINUTE * 5);
        machine.sleeps(NIGHT);
        machine.works(MINUTE);
        assert_eq!(machine.judges(&status), Liveness::Alive, "{syncs}");
        machine.works(DEADLINE + MINUTE * 2);
        assert_eq!(machine.judges(&status), Liveness::Stuck, "{syncs}");
    }
}

/// DAEMON-6: where time awake cannot be read, what has passed since the
/// machine woke stands in for it.
#[test]
fn daemon_6_a_mac_that_has_just_woken_is_given_time() {
    let mut machine = machine();
    let mut status = machine.status(false);
    if let Some(Boot { next_sync: Some(next), .. }) = &mut status.boot {
        next.awake_ms = None;
    }
    machine.sleeps(NIGHT);
    let woke_at = Some(machine.wall);
    machine.works(MINUTE);
    let seen = Moment { awake: None, woke_at, ..machine.seen() };
    assert_eq!(status.liveness(true, &seen, DEADLINE), Liveness::Alive);
    machine.works(MINUTE * 2);
    let seen = Moment { awake: None, woke_at, ..machine.seen() };
    assert_eq!(status.liveness(true, &seen, DEADLINE), Liveness::Stuck);
}

/// DAEMON-6: numbers of another boot say nothing; the daemon that holds the
/// place is about to write its own.
#[test]
fn daemon_6_the_heartbeat_of_another_boot_is_no_evidence() {
    let mut machine = machine();
    let status = machine.status(false);
    machine.works(NIGHT);
    machine.boot = "b";
    assert_eq!(machine.judges(&status), Liveness::Alive);
    assert_eq!(status.liveness(false, &machine.seen(), DEADLINE), Liveness::Dead);
    assert_eq!(status.age(&machine.seen()), NIGHT, "by the wall clock");
}
