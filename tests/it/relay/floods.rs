//! RELAY-12: what a flood of accepted clients may take, counted in threads and work, not
//! in bytes that an allocator keeps.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::relay::bounds::{BLOCKING_NAME, BLOCKING_THREADS};
use santa_sync::sync::progress::When;

use super::chain::{Chain, MACHINE_ID, wait};
use super::santa::{Age, Santa, Status};

/// Holds uploads at the queue, and counts them.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Default)]
struct GateState {
    is_open: bool,
    inside: usize,
    /// The most that were inside at once.
    peak: usize,
    passed: usize,
}

impl Gate {
    fn with<T>(&self, act: impl FnOnce(&mut GateState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside += 1;
        state.peak = state.peak.max(state.inside);
        let mut state = self
            .opened
            .wait_while(state, |state| !state.is_open)
            .unwrap_or_else(PoisonError::into_inner);
        state.inside -= 1;
        state.passed += 1;
    }

    fn open(&self) {
        self.with(|state| state.is_open = true);
        self.opened.notify_all();
    }
}

/// A relay whose uploads wait at a gate.
fn gated() -> (Chain, Santa, Arc<Gate>) {
    let rules: Vec<_> = fixtures::rules(10, 3).collect();
    let upstream = FakeServer::builder().rules(rules).start().expect("a server");
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let chain = Chain::with(upstream, |options| {
        options.checkpoint = Arc::new(move |when, effect| {
            if effect == "take_events" && matches!(when, When::Before) {
                at_gate.pass();
            }
        });
    });
    let santa = Santa::new(Age::Y2026M7, &chain.url());
    (chain, santa, gate)
}

fn post(chain: &Chain, stage: &str, body: &str) -> TcpStream {
    let address = chain.options.config.listen;
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let length = body.len();
    let request = format!(
        "POST /{stage}/{MACHINE_ID} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn status(mut stream: TcpStream) -> u16 {
    let mut text = String::new();
    // A refused connection may be reset after its answer.
    let _ = stream.read_to_string(&mut text);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The relay's threads for work that blocks; 0 where other tests have some, too.
fn blocking_threads() -> usize {
    if std::env::var_os("NEXTEST").is_none() {
        return 0;
    }
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == BLOCKING_NAME).count()
}

/// Work of clients that have gone goes on, but not more of it at once than of clients
/// that stay; other requests are served beside it.
#[test]
fn relay_12_uploads_of_clients_that_are_gone_do_not_pile_up() {
    let (chain, santa, gate) = gated();
    chain.sync_as(None);
    let upload = format!("{{\"events\":[{{\"file_name\":\"{}\"}}]}}", "x".repeat(500_000));
    let first = post(&chain, "eventupload", &upload);
    assert!(wait(|| gate.with(|state| state.inside == 1)));
    drop(first);
    let mut most_threads = 0;
    for _ in 0..40 {
        let upload = post(&chain, "eventupload", &upload);
        assert_eq!(status(post(&chain, "preflight", "{}")), 200, "other requests are served");
        drop(upload);
        most_threads = most_threads.max(blocking_threads());
    }
    assert_eq!(gate.with(|state| (state.inside, state.peak)), (1, 1));
    assert!(most_threads <= BLOCKING_THREADS, "{most_threads} threads");
    gate.open();
    // Who waits is served in turn.
    assert_eq!(status(post(&chain, "eventupload", "{}")), 200);
    for _ in 0..2 {
        assert_eq!(santa.sync().status, Status::Success);
    }
    assert_eq!(santa.rows().len(), 10);
    assert_eq!(gate.with(|state| (state.inside, state.peak)), (0, 1));
}

/// RELAY-5: a download of several pages over one connection, each read while the one
/// before it is sent, beside clients that ask for a page and go away.
#[test]
fn relay_5_a_download_of_several_pages_beside_clients_that_go_away() {
    let rules: Vec<_> = fixtures::rules(100_050, 3).collect();
    let upstream = FakeServer::builder().rules(rules).start().expect("a server");
    let chain = Chain::new(upstream);
    let santa = Santa::new(Age::Y2026M7, &chain.url());
    chain.sync_as(None);
    assert_eq!(santa.sync().received, 0, "first its events");
    let mut pages = 0;
    let done = santa.sync_with(&mut |step| {
        use super::santa::{Act, Step};
        if matches!(step, Step::Attempt { stage: santa_sync::model::Stage::RuleDownload, .. }) {
            pages += 1;
            drop(post(&chain, "ruledownload", "{}"));
        }
        Act::Go
    });
    assert_eq!((done.status, pages, done.received), (Status::Success, 3, 100_050));
    assert!(santa.rows() == super::stored::rows(&chain.state_dir()), "every rule, in order");
    assert!(wait(|| chain.status().in_step), "{:?}", chain.status());
}
