//! Many syncs in a row by one daemon, against a server at which things go
//! wrong. `SANTA_SYNC_SOAK=10000 cargo test --test it soak -- --nocapture` makes
//! that many, and prints what it measured.

use std::fs;

use rustix::process::Signal;
use santa_sync::daemon::message::{Answer, Request};
use santa_sync::harness::{FakeServer, Fault, every, fixtures};
use santa_sync::model::{Stage, SyncResult};

use crate::agent::Agent;
use crate::daemon::{Daemon, ask, sync};

/// How many syncs without the variable; a few seconds' worth.
const DEFAULT: u64 = 30;

/// What must not grow.
#[derive(Debug)]
struct Measured {
    resident_kib: u64,
    descriptors: usize,
    state_bytes: u64,
    state_files: usize,
}

fn measure(daemon: &Daemon, agent: &Agent) -> Measured {
    let proc = format!("/proc/{}", daemon.pid());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
    let files: Vec<_> = fs::read_dir(&agent.state_dir).expect("a directory").flatten().collect();
    Measured {
        resident_kib: resident.unwrap_or(0),
        descriptors: fs::read_dir(format!("{proc}/fd")).map_or(0, Iterator::count),
        state_bytes: files.iter().filter_map(|f| Some(f.metadata().ok()?.len())).sum(),
        state_files: files.len(),
    }
}

/// The n-th fault of an endless series, the same in each run.
fn fault(n: u64) -> Option<(Stage, Fault)> {
    let stages = [Stage::Preflight, Stage::EventUpload, Stage::RuleDownload, Stage::Postflight];
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let stage = stages[usize::try_from(mixed % 4).expect("small")];
    let fault = match mixed / 4 % 16 {
        0 => Fault::status(503),
        1 => Fault::status(404),
        2 => Fault::Truncate,
        3 => Fault::CloseBeforeAnswer,
        4 => Fault::Html,
        5 => Fault::NotJson,
        6 => Fault::CorruptGzip,
        7 => Fault::retry_after(429, "1"),
        _ => return None,
    };
    Some((stage, fault))
}

/// DAEMON-6: nothing grows, nothing is lost, and no sync is the last one.
#[test]
fn daemon_6_many_syncs_with_faults_leave_nothing_behind() {
    let wanted: u64 =
        std::env::var("SANTA_SYNC_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT);
    let server = FakeServer::builder()
        .rules(fixtures::rules(200, 1))
        .page_size(50)
        .transcript_limit(10)
        .start()
        .unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 2_000, &[]);
    // Nobody reads its log from here on.
    let off = Request::LogLevel { level: "off".to_owned() };
    assert_eq!(ask(&agent, &off), Answer::Done);
    let mut events = fixtures::events(usize::MAX, 7);
    let (mut queued, mut succeeded) = (0_u64, 0_u64);
    let mut early = None;
    for n in 0..wanted {
        server.clear_faults();
        if let Some((stage, fault)) = fault(n) {
            server.fault(stage, every(), fault);
        }
        if n % 3 == 0 {
            agent.queue(events.by_ref().take(1).map(|event| event.to_json()));
            queued += 1;
        }
        succeeded += u64::from(sync(&agent).result == SyncResult::Success);
        if n == wanted / 10 {
            early = Some(measure(&daemon, &agent));
        }
    }
    let late = measure(&daemon, &agent);
    let early = early.expect("measured");

    server.clear_faults();
    while sync(&agent).result != SyncResult::Success {}
    assert!(succeeded > wanted / 3, "{succeeded} of {wanted}");
    assert_eq!(
        (agent.pending(), server.events_received() >= queued),
        (0, true),
        "no event is lost"
    );
    let verified = agent.run(&["rules", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(agent.rules(), 200);
    let remembered = agent.store().history(100).unwrap().len() as u64;
    assert!(remembered == 50 || remembered > wanted.min(49), "{remembered}");
    println!("{wanted} syncs, {succeeded} succeeded\nearly {early:?}\nlate  {late:?}");
    assert!(late.descriptors <= early.descriptors + 2, "{early:?} {late:?}");
    assert!(late.resident_kib <= early.resident_kib + 2048, "{early:?} {late:?}");
    assert!(late.state_bytes <= early.state_bytes + 512 * 1024, "{early:?} {late:?}");
    assert!(late.state_files <= early.state_files + 2, "{early:?} {late:?}");
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}
