//! Processes of every kind, and clocks that are ours.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::clock::{Sleep, SystemClock};
use crate::model::{Now, Timestamp};

fn shell(script: &str) -> Program {
    Program { path: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }
}

/// A watch over a time that passes a thousand times as fast.
fn watch_for(seconds: u64) -> (Supervision, watch::Sender<bool>) {
    watch_by(Arc::new(SystemClock::with_rate(1000)), seconds)
}

fn watch_by(clock: Arc<dyn Clock>, seconds: u64) -> (Supervision, watch::Sender<bool>) {
    let (tell, stop) = watch::channel(false);
    let limit = Duration::from_secs(seconds);
    (Supervision { clock, limit, stop, phase: watch::channel(SyncPhase::Starting).0 }, tell)
}

async fn ended(script: &str, limit: u64) -> ProcessEnd {
    let (watch, _stop) = watch_for(limit);
    run(shell(script), Vec::new(), watch, |_| {}).await
}

/// DAEMON-6: what does not end is killed with all it started.
#[tokio::test]
async fn daemon_6_a_process_that_hangs_is_killed() {
    let said = r#"{"line":"notification","application":"","identifier":""}"#;
    let script = format!("trap '' TERM; echo '{said}'; sleep 600 & sleep 600; sleep 600");
    // A busy machine may end the shell's time before it has set its trap.
    for seconds in [1, 1000, 10_000, 60_000] {
        let (watch, _stop) = watch_for(seconds);
        let deaf = AtomicBool::new(false);
        let tell = |_| deaf.store(true, Ordering::Relaxed);
        let ended = run(shell(&script), Vec::new(), watch, tell).await;
        let trouble = ended.trouble.expect("trouble");
        assert!(matches!(&trouble, ProcessFailure::Hung(_)), "{trouble:?}");
        if deaf.load(Ordering::Relaxed) {
            assert!(trouble.message().contains("was killed"), "{trouble:?}");
            return;
        }
    }
    panic!("the shell never set its trap");
}

/// DAEMON-6: a process may end in any way.
#[tokio::test]
async fn daemon_6_a_process_that_dies_is_told_of() {
    for (script, words) in [
        ("exit 70", "ended without a record (exit status: 70)"),
        ("kill -KILL $$", "ended without a record (signal: 9"),
        (r#"echo '{"line":"panicked","message":"at x.rs"}'; exit 70"#, "panicked: at x.rs"),
        ("head -c 5000000 /dev/zero; echo; exit 3", "(exit status: 3)"),
    ] {
        let trouble = ended(script, 60_000).await.trouble.expect("trouble");
        assert!(trouble.message().contains(words), "{trouble:?}");
    }
    let program = Program { path: "/no/such/program".into(), args: Vec::new() };
    let (watch, _stop) = watch_for(60_000);
    let ended = run(program, Vec::new(), watch, |_| {}).await;
    let trouble = ended.trouble.expect("trouble");
    assert!(trouble.message().contains("cannot be started"), "{trouble:?}");
}

/// The clock of a machine that sleeps for ever: time passes, and no wait
/// ends.
struct Asleep;

impl Clock for Asleep {
    fn now(&self) -> Now {
        Now { wall: Timestamp::from_secs(0), elapsed: Duration::from_hours(100) }
    }

    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

const RECORD: &str = r#"{"line":"panicked","message":"the end"}"#;

/// DAEMON-6: a machine that sleeps in the middle of a sync makes it no
/// hung one.
#[tokio::test]
async fn daemon_6_sleep_is_not_held_against_a_process() {
    let (watch, _stop) = watch_by(Arc::new(Asleep), 1);
    let ended = run(shell(&format!("echo '{RECORD}'")), Vec::new(), watch, |_| {}).await;
    let trouble = ended.trouble.expect("its own end");
    assert!(trouble.message().contains("the end"), "{trouble:?}");
}

/// DAEMON-6: a sync that waits in line for another has its whole time from
/// its begin on.
#[tokio::test]
async fn daemon_6_the_limit_of_a_sync_starts_when_it_begins() {
    /// Counts the waits that were asked for by their length.
    struct Waits(std::sync::Mutex<Vec<u64>>);
    impl Clock for Waits {
        fn now(&self) -> Now {
            Asleep.now()
        }

        fn sleep(&self, duration: Duration) -> Sleep {
            self.0.lock().expect("not poisoned").push(duration.as_secs());
            Asleep.sleep(duration)
        }
    }
    let waits = Arc::new(Waits(std::sync::Mutex::default()));
    let (watch, stop) = watch_by(Arc::clone(&waits) as Arc<dyn Clock>, 60);
    let mut phase = watch.phase.subscribe();
    let script = r#"echo '{"line":"in_line","behind":7}'; echo '{"line":"begun"}'; exec cat >&2"#;
    let asked = || waits.0.lock().expect("not poisoned").clone();
    let (ended, ()) = tokio::join!(run(shell(script), Vec::new(), watch, |_| {}), async {
        phase.wait_for(|phase| *phase == SyncPhase::Begun).await.expect("it begins");
        while asked().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    });
    assert!(matches!(ended.trouble, Some(ProcessFailure::Died(_))), "{ended:?}");
    let asked = asked();
    assert_eq!((asked.first(), asked.last()), (Some(&60), Some(&60)), "anew: {asked:?}");
}

/// DAEMON-6: the wait in line ends, too, and then the process has not hung
/// unless it does not listen.
#[tokio::test]
async fn daemon_6_the_wait_in_line_is_bounded() {
    /// Only waits of the length of the one in line end.
    struct InLineEnds;
    impl Clock for InLineEnds {
        fn now(&self) -> Now {
            Asleep.now()
        }

        fn sleep(&self, duration: Duration) -> Sleep {
            if duration == MAX_QUEUE_WAIT {
                Box::pin(std::future::ready(()))
            } else {
                Asleep.sleep(duration)
            }
        }
    }
    let (watch, _stop) = watch_by(Arc::new(InLineEnds), 1);
    let script = r#"echo '{"line":"in_line","behind":null}'; exec sleep 600"#;
    let ended = run(shell(script), Vec::new(), watch, |_| {}).await;
    let trouble = ended.trouble.expect("it was told to stop");
    assert!(trouble.message().contains("90000 s and was told to stop"), "{trouble:?}");
}
