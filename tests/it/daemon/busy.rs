//! A daemon whose clients ask for more than it can do at once.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use santa_sync::control::message::{ControlErrorKind, RuleLookup};
use santa_sync::ingest::IngestOutcome;
use santa_sync::store::EventStore;

use super::*;

/// Holds the write lock of `events.db`, as a program would that is stopped in
/// the middle of a commit.
fn lock_events(agent: &Agent) -> rusqlite::Connection {
    drop(EventStore::open(&agent.state_dir, santa_sync::model::Timestamp::from_secs(1)).unwrap());
    let lock = rusqlite::Connection::open(agent.state_dir.join("events.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    lock
}

/// DAEMON-4: with `events.db` locked by another program and 32 clients that add
/// events, a lookup is answered at once. The clients are told that the queue is
/// busy, and no event is half queued.
#[test]
fn daemon_4_a_lookup_waits_for_no_writer() {
    let server = FakeServer::builder().rules(fixtures::rules(50, 1)).start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let lock = lock_events(&agent);
    let (done, busy) = (AtomicBool::new(false), AtomicU64::new(0));
    let clock = SystemClock::new();
    let mut took = std::thread::scope(|scope| {
        for number in 0..32 {
            let (agent, done, busy) = (&agent, &done, &busy);
            scope.spawn(move || {
                let events: Vec<_> = fixtures::events(100, number).map(|e| e.to_json()).collect();
                let mut client = client(agent);
                while !done.load(Ordering::Relaxed) {
                    client.ask(&ControlRequest::events_add(events.clone()).expect("JSON")).unwrap();
                    let answer = client.answer().unwrap();
                    if matches!(answer, ControlResponse::Error { kind: ControlErrorKind::Busy, .. })
                    {
                        busy.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let unlocked = done.load(Ordering::Relaxed);
                        let added = matches!(answer, ControlResponse::EventsAdded { .. });
                        assert!(added && unlocked, "{answer:?}");
                    }
                }
            });
        }
        let mut client = client(&agent);
        let mut took = Vec::new();
        // Long enough that each of the writers has had to wait.
        while busy.load(Ordering::Relaxed) < 32 {
            let began = clock.now().elapsed;
            let team_id = Some("ZZZZZZZZZ9".to_owned());
            client
                .ask(&ControlRequest::RulesLookup(RuleLookup { team_id, ..RuleLookup::default() }))
                .unwrap();
            let answer = client.answer().unwrap();
            took.push(clock.now().elapsed.saturating_sub(began));
            assert!(matches!(answer, ControlResponse::Rule(_)), "{answer:?}");
        }
        done.store(true, Ordering::Relaxed);
        lock.execute_batch("ROLLBACK").unwrap();
        took
    });
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{} lookups: median {median:?}, longest {longest:?}", took.len());
    assert!(median < Duration::from_millis(100), "{median:?}");
    // The writers waited for seconds; a busy machine is allowed for.
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}

/// DAEMON-4: `events add` repeats what the daemon is too busy for, and loses
/// nothing.
#[test]
fn daemon_4_events_add_outlasts_a_busy_queue() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let _daemon = Daemon::start(&agent, 1, &[]);
    let lock = lock_events(&agent);
    let (producer, mut input) = agent.producer(&["--json"]);
    for event in fixtures::events(20, 3).map(|event| event.to_json()) {
        writeln!(input, "{event}").unwrap();
    }
    drop(input);
    // This client waits in line with the producer, and its wait ends in `busy`
    // as the producer's does.
    let event = fixtures::events(1, 9).next().unwrap().to_json();
    let answer = ask(&agent, &ControlRequest::events_add(vec![event.clone()]).expect("JSON"));
    assert!(
        matches!(answer, ControlResponse::Error { kind: ControlErrorKind::Busy, .. }),
        "{answer:?}"
    );
    lock.execute_batch("ROLLBACK").unwrap();
    let output = producer.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let ControlResponse::EventsAdded { results } =
        ask(&agent, &ControlRequest::events_add(vec![event]).expect("JSON"))
    else {
        panic!("not added")
    };
    assert!(results.iter().all(|result| result.outcome == IngestOutcome::Added), "{results:?}");
    assert_eq!(results.len(), 1);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.lines().count(), 20, "{told}");
    let added = told.lines().filter(|line| line.contains(r#""result":"added""#)).count() as u64;
    assert!(added > 10 && !told.contains("invalid"), "{told}");
    assert_eq!(agent.pending(), added + 1);
}

/// DAEMON-4: clients that say nothing, half a line, too long a line, or read
/// nothing, cost their own connection; everybody else is served meanwhile.
#[test]
fn daemon_4_clients_that_stall_hold_up_nobody() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    let path = agent.state_dir.join("agent.sock");
    let connect = || UnixStream::connect(&path).unwrap();
    let _silent: Vec<_> = (0..10).map(|_| connect()).collect();
    let _half: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(br#"{"request":"sta"#).unwrap();
            stream
        })
        .collect();
    // Asks and never reads: once the answers fill the socket nothing more of it
    // is read.
    let mut deaf = connect();
    deaf.set_nonblocking(true).unwrap();
    let mut asked = 0_u64;
    while deaf.write_all(b"{\"request\":\"metrics\"}\n").is_ok() {
        asked += 1;
    }
    assert!(asked > 100, "{asked}");
    // Four MiB in one line, from a client that does not look at the answer.
    let mut long = connect();
    assert!(long.write_all(&vec![b'x'; 4 << 20]).is_err(), "it is not read to its end");
    assert_eq!(sync(&agent).result, SyncResult::Success);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}
