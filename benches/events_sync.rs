//! Whole syncs of a long event queue, from outside: the program against the
//! fake server, and beside it what that server takes of batches that were
//! encoded and compressed beforehand, alone and with the one durable commit a
//! batch that every client must make which loses nothing.
//!
//! `cargo bench --bench events_sync -- [--events N] [--batch N]... [--count-only]`
//!
//! The server reads every event and keeps none; with `--count-only` it does not
//! even read them.

#![allow(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program that measures"
)]

#[path = "support/process.rs"]
mod process;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use process::{Plain, run};
use rusqlite::Connection;
use santa_sync::harness::FakeServer;
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::model::{Now, Timestamp, Transfer};
use santa_sync::protocol::body::{self};
use santa_sync::protocol::stored::{self, QueuedEvent};
use santa_sync::protocol::wire::EventUploadRequest;
use santa_sync::store::{EventStore, Limits, NewEvent};
use santa_sync::transport::Packer;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let all = |name: &str| -> Vec<u32> {
        let pairs = args.windows(2).filter(|pair| pair[0] == name);
        pairs.filter_map(|pair| pair[1].parse().ok()).collect()
    };
    let events = all("--events").first().copied().unwrap_or(100_000);
    let count_only = args.iter().any(|arg| arg == "--count-only");
    let batches = Some(all("--batch")).filter(|given| !given.is_empty());
    println!("{events} events; events a second, and times what the server takes");
    println!(
        "{:>6} {:>10} {:>10} {:>10} {:>8} {:>8} {:>9} {:>9}",
        "batch", "server", "+ commit", "sync", "x", "x commit", "CPU ms", "peak MB"
    );
    for batch in batches.unwrap_or_else(|| vec![1, 50, 100, 1_000]) {
        // Batches of one pay a request and a commit for each event.
        measure(if batch == 1 { events / 20 } else { events }, batch, count_only);
    }
}

fn measure(events: u32, batch: u32, count_only: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = FakeServer::builder().batch_size(batch);
    let server =
        if count_only { server.count_only() } else { server.forget_events().transcript_limit(0) };
    let server = server.start().expect("a server");
    let bodies: Vec<Vec<u8>> = (0..10).map(|seed| body_of(batch, seed)).collect();
    let mut conn = Connection::open(dir.path().join("floor.db")).expect("a database");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE queue (settled_through INTEGER); INSERT INTO queue VALUES (0);",
    )
    .expect("a table");
    let requests = events.div_ceil(batch);
    let rate = |seconds: f64| f64::from(events) / seconds;
    let alone = rate(accepted(&server.url(), &bodies, requests, || ()));
    let kept = rate(accepted(&server.url(), &bodies, requests, || {
        let tx = conn.transaction().expect("begun");
        tx.execute("UPDATE queue SET settled_through = settled_through + 1", []).expect("counted");
        tx.commit().expect("committed");
    }));
    let state = dir.path().join("state");
    queue(&state, events);
    let before = server.events_received();
    let mut command = Command::new(env!("CARGO_BIN_EXE_santa-sync"));
    command
        .args(["sync", "--set", &format!("SyncBaseURL={}", server.url())])
        .args(["--set", "MachineID=bench", "--state-dir"])
        .arg(&state);
    let ran = run(&mut command);
    assert_eq!(server.events_received() - before, u64::from(events));
    let ours = rate(ran.wall / 1e3);
    println!(
        "{batch:>6} {alone:>10.0} {kept:>10.0} {ours:>10.0} {:>8.2} {:>8.2} {:>9.0} {:>9.1}",
        ours / alone,
        ours / kept,
        ran.cpu,
        ran.peak
    );
}

/// Queues events as programs do that hand us some.
fn queue(state: &Path, events: u32) {
    let (mut store, _) = EventStore::open(state, Timestamp::from_secs(0)).expect("a queue");
    let mut all = fixtures::events(events as usize, 1).map(QueuedEvent::from);
    loop {
        let some: Vec<NewEvent> = all
            .by_ref()
            .take(10_000)
            .map(|event| NewEvent {
                // As if a rule asked for each, so that none is backed off.
                summary: stored::summarize(&event, true).expect("a whole event"),
                data: stored::encode(&event),
            })
            .collect();
        if some.is_empty() {
            break;
        }
        let now =
            Now { wall: Timestamp::from_secs(1_755_000_000), elapsed: std::time::Duration::ZERO };
        store.queue_events(&some, now, Limits::default()).expect("queued");
    }
    assert_eq!(store.pending().expect("a count"), u64::from(events));
}

/// A batch as it goes over the wire.
fn body_of(batch: u32, seed: u64) -> Vec<u8> {
    let mut message = EventUploadRequest { machine_id: "floor".into(), ..Default::default() };
    for event in fixtures::events(batch as usize, seed) {
        match event {
            AnyEvent::Execution(event) => message.events.push(*event),
            AnyEvent::FileAccess(event) => message.file_access_events.push(event),
        }
    }
    let body = body::encode(Transfer::Json, &message).expect("a body");
    Packer::default().pack(body).bytes.into()
}

/// Seconds until the server has taken so many batches over one connection.
fn accepted(url: &str, bodies: &[Vec<u8>], requests: u32, mut between: impl FnMut()) -> f64 {
    let mut server = Plain::connect(url);
    let start = Instant::now();
    for body in bodies.iter().cycle().take(requests as usize) {
        server.post("eventupload", "deflate", body);
        between();
    }
    start.elapsed().as_secs_f64()
}
