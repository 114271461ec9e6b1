//! RELAY-8: uploads of the authorizer from the body to the queue and upstream, and
//! what a killed process leaves.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::harness::FakeServer;
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::ingest::{IngestedUpload, UploadError, ingest_upload};
use santa_sync::model::{Timestamp, Transfer};
use santa_sync::protocol::wire;
use santa_sync::store::{EventStore, Limits, TakeError};
use serde_json::json;

use crate::agent::Agent;

fn open(dir: &Path) -> EventStore {
    EventStore::open(dir, Timestamp::from_secs(1_750_000_000)).expect("a queue").0
}

fn upload(events: impl Iterator<Item = AnyEvent>) -> wire::EventUploadRequest {
    let mut message = wire::EventUploadRequest::default();
    for event in events {
        match event {
            AnyEvent::Execution(event) => message.events.push(*event),
            AnyEvent::FileAccess(event) => message.file_access_events.push(event),
        }
    }
    message
}

fn take(
    store: &mut EventStore,
    message: &wire::EventUploadRequest,
    limits: Limits,
) -> Result<IngestedUpload, UploadError> {
    let body = json!(message).to_string();
    ingest_upload(store, Transfer::Json, body.as_bytes(), SystemClock::new().now(), limits)
}

/// RELAY-8, EV-9: from Santa's body to the upstream server, with a bundle that the
/// server requests.
#[test]
fn relay_8_what_the_authorizer_uploads_reaches_the_server_as_it_is() {
    let server = FakeServer::builder().start().expect("a server");
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let mut message = upload(fixtures::events(30, 9));
    for event in &mut message.events {
        event.decision = wire::Decision::AllowUnknown.into();
    }
    let mut start = message.events[0].clone();
    start.file_bundle_hash = "b".repeat(64);
    start.file_bundle_binary_count = 2;
    message.events[0] = start.clone();
    let member = |pid: i32| wire::Event {
        decision: wire::Decision::BundleBinary.into(),
        execution_time: 0.0,
        pid,
        ..start.clone()
    };
    let members =
        wire::EventUploadRequest { events: vec![member(1), member(2)], ..Default::default() };
    let mut store = open(&agent.state_dir);
    let taken = take(&mut store, &message, Limits::default()).expect("taken");
    assert_eq!((taken.relayed.queued, taken.relayed.wanted.len()), (30, 1), "{taken:?}");
    assert!(taken.warnings.is_empty(), "{taken:?}");
    assert_eq!(take(&mut store, &members, Limits::default()).expect("held").relayed.held, 2);
    drop(store);

    server.request_bundles(vec![start.file_bundle_hash.clone()]);
    // The members follow in this sync or the next.
    for _ in 0..2 {
        assert_eq!(agent.sync(&[]).code, Some(0));
    }
    assert_eq!(agent.pending(), 0);
    let of = |message: wire::EventUploadRequest| -> Vec<String> {
        let executions = message.events.into_iter().map(|event| json!(event).to_string());
        let accesses = message.file_access_events.into_iter();
        executions.chain(accesses.map(|event| json!(event).to_string())).collect()
    };
    let mut sent = [of(message), of(members)].concat();
    let mut received = of(upload(server.events().into_iter()));
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(received, sent);
    let store = EventStore::open_read_only(&agent.state_dir).expect("a queue");
    assert!(store.open_bundle_requests().expect("read").is_empty(), "it has been served");
}

/// RELAY-8: the limits of the configuration hold for uploads.
#[test]
fn relay_8_a_full_queue_is_reported_as_full() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let limits = Limits { events: 10, ..Limits::default() };
    take(&mut store, &upload(fixtures::events(8, 1)), limits).expect("taken");
    let refused = take(&mut store, &upload(fixtures::events(5, 2)), limits);
    assert!(matches!(refused, Err(UploadError::Take(TakeError::Full))), "{refused:?}");
    assert_eq!(store.pending().expect("a count"), 8);
}

/// How many events an upload of the killed process has.
const EVENTS: usize = 20;
/// Set for the process that is to be killed: where its queue is.
const VICTIM: &str = "SANTA_SYNC_TEST_UPLOADS";

/// RELAY-8, STATE-2: kill -9 at any time, also between the commit and the response:
/// what was acknowledged is there, what was not is there as a whole or not at all, and
/// sending it again makes it whole without making anything twice.
#[test]
fn relay_8_a_killed_relay_loses_nothing_and_doubles_nothing() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        take_until_killed(Path::new(&dir));
    }
    for acknowledged in [0, 1, 7, 30] {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "relay::uploads::relay_8_a_killed_relay_loses_nothing_and_doubles_nothing";
        let mut victim = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(victim.stderr.take().expect("piped")).lines();
        let mut count = 0;
        while count < acknowledged {
            let line = lines.next().expect("it runs until it is killed").expect("text");
            count += usize::from(line == "taken");
        }
        victim.kill().expect("killed");
        victim.wait().expect("gone");
        count += lines.filter(|line| line.as_ref().is_ok_and(|line| line == "taken")).count();

        let mut store = open(dir.path());
        let there = usize::try_from(store.pending().expect("a count")).expect("few");
        assert!(there % EVENTS == 0, "half an upload: {there}");
        assert!((count..=count + 1).contains(&(there / EVENTS)), "{there} after {count}");
        for number in [count.saturating_sub(1), count] {
            take(&mut store, &numbered(number), Limits::default()).expect("taken");
        }
        assert_eq!(store.pending().expect("a count"), ((count + 1) * EVENTS) as u64);
    }
}

fn numbered(number: usize) -> wire::EventUploadRequest {
    upload(fixtures::events(EVENTS, number as u64))
}

/// Takes uploads and says so, until the process is killed.
fn take_until_killed(dir: &Path) -> ! {
    let mut store = open(dir);
    for number in 0.. {
        take(&mut store, &numbered(number), Limits::default()).expect("taken");
        writeln!(std::io::stderr(), "taken").expect("a reader");
    }
    unreachable!("there is always a next number");
}

/// Set for the process whose memory is measured: where its queue is.
#[cfg(target_os = "linux")]
const MEASURED: &str = "SANTA_SYNC_TEST_UPLOAD_MEMORY";

/// RELAY-8, RELAY-12: an upload is in memory twice at most: as it came and as it is
/// stored. `SANTA_SYNC_MEMORY=full` takes the largest one.
#[cfg(target_os = "linux")]
#[test]
fn relay_8_a_large_upload_is_in_memory_twice_at_most() {
    let full = std::env::var_os("SANTA_SYNC_MEMORY").is_some_and(|value| value == "full");
    let body = if full { 64 << 10 } else { 16 << 10 };
    if let Some(dir) = std::env::var_os(MEASURED) {
        return take_measured(Path::new(&dir), body);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let name = "relay::uploads::relay_8_a_large_upload_is_in_memory_twice_at_most";
    let measured = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(MEASURED, dir.path())
        .output()
        .expect("a process");
    let told = String::from_utf8_lossy(&measured.stderr).into_owned();
    let peaks: Vec<u64> =
        told.lines().filter_map(|line| line.strip_prefix("peak ")?.parse().ok()).collect();
    let [before, after] = peaks[..] else { panic!("{told}") };
    let more = after - before;
    assert!(more > body / 2, "{more} KiB more for {body} KiB: the upload was not read");
    assert!(more < body + (body / 4) + (12 << 10), "{more} KiB more for {body} KiB");
}

/// Takes an upload of `body` KiB; reports the peak of the memory before, with the body
/// in it, and after.
#[cfg(target_os = "linux")]
fn take_measured(dir: &Path, body: u64) {
    use std::fmt::Write as _;

    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").to_owned()
    };
    let mut store = open(dir);
    let filler = "x".repeat(8 << 10);
    let mut text = String::with_capacity(usize::try_from(body).expect("a size") * 1024 + 9000);
    text.push_str("{\"events\":[");
    let mut events = 0;
    while text.len() < text.capacity() - 9000 {
        let comma = if events == 0 { "" } else { "," };
        write!(text, "{comma}{{\"pid\":{events},\"file_name\":\"{filler}\"}}").expect("written");
        events += 1;
    }
    text.push_str("]}");
    writeln!(std::io::stderr(), "peak {}", peak()).expect("a reader");
    let now = SystemClock::new().now();
    let taken = ingest_upload(&mut store, Transfer::Json, text.as_bytes(), now, Limits::default());
    writeln!(std::io::stderr(), "peak {}", peak()).expect("a reader");
    assert_eq!(taken.expect("taken").relayed.queued, events);
}
