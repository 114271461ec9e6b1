//! The relay as its authorizer sees it: a daemon of this program with a store of many
//! rules, asked over one plain connection. The floor is one thread that reads the same
//! rows from SQLite and writes the same JSON.
//!
//! `cargo bench --bench relay -- [--rules N]... [--flood]`
//!
//! Run by root, it also measures a sync beside a stranger: a process of another user that
//! keeps opening connections and sends what the relay must refuse. `--flood` measures the
//! memory that uploads of accepted clients take and leave.

#![allow(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that measures"
)]

#[path = "support/process.rs"]
#[allow(dead_code, reason = "this bench uses a part of it")]
mod process;
#[path = "support/rules.rs"]
mod support;

use std::collections::VecDeque;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use process::Plain;
use rusqlite::Connection;
use santa_sync::Store;
use santa_sync::model::{SyncType, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use support::made;

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);
/// Rules of a page, as the relay makes them.
const PAGE: usize = 50_000;
/// Changes of the NORMAL sync.
const CHANGES: u64 = 1_000;
/// How often download and floor are measured, in turns.
const ROUNDS: usize = 5;
/// How often a sync is measured without and with a stranger.
const SYNCS: usize = 100;
/// The stranger's user: nobody.
const STRANGER: u32 = 65_534;
/// Connections that the stranger keeps open, or tries to.
const STRANGER_CONNECTIONS: usize = 1_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(address) = args.iter().find_map(|arg| arg.strip_prefix("--stranger=")) {
        pester(address);
    }
    let given = args.windows(2).filter(|pair| pair[0] == "--rules");
    let is_flood = args.iter().any(|arg| arg == "--flood");
    let mut rules: Vec<u64> = given.filter_map(|pair| pair[1].parse().ok()).collect();
    if is_flood {
        flood();
    } else if rules.is_empty() {
        rules = vec![1_000, 100_000, 1_000_000];
    }
    for rules in rules {
        measure(rules);
    }
}

fn measure(rules: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let mut store = Store::open(&state_dir, NOW).expect("a store").0;
    store.commit_rules(&made(0..rules, PAGE), (SyncType::Clean, NOW)).expect("committed");
    println!("{rules} rules");

    let daemon = Daemon::start(&state_dir);
    sleep(Duration::from_secs(3));
    let idle = daemon.memory("VmRSS:");
    let own = daemon.own_memory();
    println!("  idle daemon:                   {idle:>8.1} MB, {own:.1} MB of them its own data");
    let mut plain = Plain::connect(&daemon.url);

    // The first sync lets the authorizer upload its events.
    preflight(&mut plain, "");
    download(&mut plain, |_| {});
    postflight(&mut plain, 0, "NORMAL", "");
    let (answer, before) = timed(|| preflight(&mut plain, ""));
    assert_eq!(answer["syncType"], "CLEAN", "{answer}");
    // It is all there. What is timed below looks at nothing but the cursors: the client
    // shares the processors with the daemon.
    let (mut received, mut expected) = (0, 0);
    download(&mut plain, |page| {
        received += rules_on(page);
        expected += page.len();
    });
    assert_eq!(received, rules);
    let (mut firsts, mut wholes, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sent, mut bytes) = (0, 0);
    let cpu = daemon.cpu();
    for _ in 0..ROUNDS {
        // Not acknowledged, so all of it goes again.
        assert_eq!(preflight(&mut plain, "")["syncType"], "CLEAN");
        sent = 0;
        let (first, whole) = timed(|| download(&mut plain, |page| sent += page.len()));
        assert_eq!(sent, expected);
        let (written, floor) = timed(|| floor(&state_dir));
        bytes = written;
        firsts.push(first);
        wholes.push(whole);
        floors.push(floor);
    }
    let cpu = (daemon.cpu() - cpu) / ROUNDS as f64;
    let (first, whole, floor) = (median(firsts), median(wholes), median(floors));
    println!("  preflight:                     {:>8.1} ms", ms(before));
    println!("  CLEAN download, first page:    {:>8.1} ms", ms(first));
    println!("  CLEAN download, whole:         {:>8.1} ms, {:.1} MB", ms(whole), sent as f64 / 1e6);
    println!("  the same, CPU of the daemon:   {cpu:>8.1} ms");
    println!(
        "  floor, the same in one thread: {:>8.1} ms, {:.1} MB",
        ms(floor),
        bytes as f64 / 1e6
    );
    println!("  speed, in times of the floor:  {:>8.2}", floor.as_secs_f64() / whole.as_secs_f64());
    let peak = daemon.memory("VmHWM:");
    println!("  peak above idle:               {:>8.1} MB", peak - idle);
    let hash = store.rules_hash().expect("a hash");
    postflight(&mut plain, received, "CLEAN", &hash);

    store
        .commit_rules(&made(rules..rules + CHANGES, PAGE), (SyncType::Normal, NOW))
        .expect("committed");
    beside_a_stranger(&daemon, &mut plain, &hash);
    let (received, normal) = timed(|| {
        assert_eq!(preflight(&mut plain, &hash)["syncType"], "NORMAL");
        let mut received = 0;
        download(&mut plain, |page| received += rules_on(page));
        let hash = store.rules_hash().expect("a hash");
        postflight(&mut plain, received, "NORMAL", &hash);
        received
    });
    assert_eq!(received, CHANGES);
    println!("  a sync of {CHANGES} changes:        {:>8.1} ms", ms(normal));
    drop(plain);

    // The daemon looks for a server once, 15 to 30 s after its start.
    sleep(Duration::from_secs(40));
    let before = daemon.wake_ups();
    sleep(Duration::from_secs(20));
    let (idle, own) = (daemon.memory("VmRSS:"), daemon.own_memory());
    println!("  afterwards, idle:              {idle:>8.1} MB, {own:.1} MB of them its own data");
    println!("  wake-ups in 20 s:              {:>8}", daemon.wake_ups().saturating_sub(before));
}

/// Measures the memory that a daemon needs for many large uploads at once, and has
/// afterwards. All go to one daemon.
fn flood() {
    /// As many connections as the relay takes.
    const CLIENTS: usize = 32;
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::start(dir.path());
    println!("flood of uploads                    peak  6 s later  threads at most");
    for (uploads, megabytes, leaving) in [(600, 1, 1.0), (20, 24, 0.5), (40, 63, 0.0)] {
        daemon.forget_peak();
        let body = uploaded_events(megabytes);
        let (left, clients) = (AtomicUsize::new(uploads), AtomicUsize::new(CLIENTS));
        let mut threads = 0;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let leaves = (client as f64) < CLIENTS as f64 * leaving;
                let (left, clients, body) = (&left, &clients, &body);
                let address = daemon.address();
                scope.spawn(move || {
                    let take = |left: usize| left.checked_sub(1);
                    while left.fetch_update(Relaxed, Relaxed, take).is_ok() {
                        upload(address, body, leaves);
                    }
                    clients.fetch_sub(1, Relaxed);
                });
            }
            while clients.load(Relaxed) > 0 {
                threads = daemon.threads().max(threads);
                sleep(Duration::from_millis(20));
            }
        });
        let peak = daemon.memory("VmHWM:");
        sleep(Duration::from_secs(6));
        println!(
            "  {uploads:>3} of {megabytes:>2} MB, {:>3.0} % leave early {peak:>8.1} {:>10.1} {:>16}",
            leaving * 100.0,
            daemon.memory("VmRSS:"),
            threads
        );
    }
}

/// Uploads events, and waits for the answer or leaves. The relay may end either.
fn upload(address: &str, body: &[u8], leaves: bool) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let head = format!(
        "POST /eventupload/floor HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    if sent.is_ok() && !leaves {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// An upload of this size.
fn uploaded_events(megabytes: usize) -> Vec<u8> {
    let mut body = b"{\"events\":[".to_vec();
    let mut number = 0_u64;
    while body.len() < megabytes * 1_000_000 - 2_000 {
        let event = json!({
            "file_sha256": format!("{number:064x}"), "file_path": "/usr/local/bin",
            "file_name": "x".repeat(900), "decision": "BLOCK_BINARY",
            "execution_time": 1_755_000_000 + number,
        });
        serde_json::to_writer(&mut body, &event).expect("written");
        body.push(b',');
        number += 1;
    }
    body.pop();
    body.extend_from_slice(b"]}");
    body
}

/// Measures a sync of the changes alone, and while a stranger does what it can.
fn beside_a_stranger(daemon: &Daemon, plain: &mut Plain, hash: &str) {
    let mut sync = || {
        let ((), took) = timed(|| {
            // Not acknowledged, so the same changes go again.
            assert_eq!(preflight(plain, hash)["syncType"], "NORMAL");
            let mut received = 0;
            download(plain, |page| received += rules_on(page));
            assert_eq!(received, CHANGES);
        });
        took
    };
    let mut several = || median((0..SYNCS).map(|_| sync()).collect());
    let alone = several();
    let address = daemon.address();
    let stranger = Command::new(std::env::current_exe().expect("a path"))
        .arg(format!("--stranger={address}"))
        .uid(STRANGER)
        .stdin(Stdio::null())
        .spawn();
    let Ok(mut stranger) = stranger else {
        println!("  beside a stranger: not measured, because only root can be another user");
        return;
    };
    sleep(Duration::from_secs(6));
    let beside = several();
    // It does not end by itself.
    stranger.kill().expect("it still ran");
    stranger.wait().expect("ended");
    println!(
        "  the same beside a stranger:    {:>8.1} ms, {:.2} times {:.1} ms",
        ms(beside),
        beside.as_secs_f64() / alone.as_secs_f64(),
        ms(alone)
    );
}

/// What a stranger may do: opens 200 connections a second, keeps as many as it can, and
/// sends forged requests, junk and halves of requests.
fn pester(address: &str) -> ! {
    let request = |stage: &str, id: &str, body: &str| {
        format!(
            "POST /{stage}/{id} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let forged = [
        request("preflight", "floor", "{\"machine_id\":\"floor\",\"request_clean_sync\":true}"),
        request("postflight", "floor", "{\"machine_id\":\"floor\",\"rules_received\":1000}"),
        request("ruledownload", "floor", "{\"machine_id\":\"floor\"}"),
        request("eventupload", "floor", "{\"events\":[{\"file_sha256\":\"00\"}]}"),
        request("preflight", "another", "{}"),
        "POST /preflight/floor HTTP/1.1\r\nHost: ".to_owned(),
        "\u{16}\u{3}\u{1}junk\r\n\r\n".to_owned(),
        String::new(),
    ];
    let mut open = VecDeque::new();
    for request in forged.iter().cycle() {
        if let Ok(mut stream) = TcpStream::connect(address) {
            // The relay may have closed it.
            let _ = stream.write_all(request.as_bytes());
            open.push_back(stream);
        }
        if open.len() > STRANGER_CONNECTIONS {
            open.pop_front();
        }
        sleep(Duration::from_millis(5));
    }
    unreachable!("the requests never end")
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn preflight(plain: &mut Plain, hash: &str) -> Value {
    let request = json!({
        "machine_id": "floor", "santa_version": "2026.7.1", "client_mode": "MONITOR",
        "rulesHash": hash,
    });
    let answer = plain.post("preflight", "identity", request.to_string().as_bytes());
    serde_json::from_slice(&answer).expect("JSON")
}

fn postflight(plain: &mut Plain, received: u64, sync_type: &str, hash: &str) {
    let request = json!({
        "machine_id": "floor", "rules_received": received, "rules_processed": received,
        "syncType": sync_type, "rulesHash": hash,
    });
    plain.post("postflight", "identity", request.to_string().as_bytes());
}

fn rules_on(page: &[u8]) -> u64 {
    let page = str::from_utf8(page).expect("UTF-8");
    page.matches("\"identifier\"").count() as u64
}

/// Fetches all pages and shows them to `visit`. Returns when the first had come.
fn download(plain: &mut Plain, mut visit: impl FnMut(&[u8])) -> Duration {
    const LONGEST_CURSOR: usize = 1_000;
    let start = Instant::now();
    let (mut first, mut page, mut cursor) = (None, Vec::new(), String::new());
    loop {
        let request = json!({ "machine_id": "floor", "cursor": cursor }).to_string();
        plain.post_into("ruledownload", "identity", request.as_bytes(), &mut page);
        first = first.or(Some(start.elapsed()));
        visit(&page);
        let end = str::from_utf8(&page[page.len().saturating_sub(LONGEST_CURSOR)..]);
        let end = end.expect("the rules of this bench are ASCII");
        match end.rsplit_once("],\"cursor\":\"") {
            Some((_, rest)) => rest.trim_end_matches("\"}").clone_into(&mut cursor),
            None => return first.unwrap_or_default(),
        }
    }
}

/// What any program must do: read the rows, write the JSON.
fn floor(state_dir: &Path) -> usize {
    #[derive(Serialize)]
    struct Rule<'a> {
        identifier: &'a str,
        policy: &'static str,
        #[serde(rename = "ruleType")]
        kind: &'static str,
    }
    let store = Connection::open(state_dir.join("rules.db")).expect("opened");
    let mut statement = store
        .prepare(
            "SELECT rowid, identifier, state, type, custommsg, customurl, cel_expr, \
             event_detail_button_text FROM execution_rules WHERE state IS NOT 6 ORDER BY rowid",
        )
        .expect("prepared");
    let mut rows = statement.query([]).expect("asked");
    let (mut page, mut on_page, mut bytes) = (Vec::new(), 0, 0);
    while let Some(row) = rows.next().expect("read") {
        let state: i32 = row.get(2).expect("a state");
        let kind: i32 = row.get(3).expect("a type");
        let rule = Rule {
            identifier: row.get_ref(1).expect("a column").as_str().expect("text"),
            policy: if state == 1 { "ALLOWLIST" } else { "BLOCKLIST" },
            kind: if kind == 1000 { "BINARY" } else { "TEAMID" },
        };
        serde_json::to_writer(&mut page, &rule).expect("written");
        page.push(b',');
        on_page += 1;
        if on_page == PAGE {
            bytes += page.len();
            (page, on_page) = (Vec::new(), 0);
        }
    }
    bytes + page.len()
}

/// A daemon whose relay listens; killed when dropped.
struct Daemon {
    child: Child,
    url: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(state_dir: &Path) -> Self {
        let free = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = free.expect("a port").local_addr().expect("an address");
        let child = Command::new(env!("CARGO_BIN_EXE_santa-sync"))
            .args(["daemon", "--log-level", "error", "--set", "MachineID=floor", "--set"])
            .arg(format!("RelayListen={address}"))
            .arg("--state-dir")
            .arg(state_dir)
            .env_clear()
            .stdin(Stdio::null())
            .spawn()
            .expect("started");
        while TcpStream::connect(address).is_err() {
            sleep(Duration::from_millis(10));
        }
        Self { child, url: format!("http://{address}/") }
    }

    /// A figure of memory, in megabytes.
    fn memory(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib: f64 = line
            .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .expect("a figure");
        kib * 1.024e-3
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches('/')
    }

    /// Begins to look for the peak of its memory anew.
    fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("written");
    }

    fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs").count()
    }

    /// Memory that the daemon alone has written to, in megabytes. The rest of what is
    /// resident are pages of program and libraries as they are in their files.
    fn own_memory(&self) -> f64 {
        self.memory("RssAnon:")
    }

    /// Milliseconds on a processor so far, of the process and the threads that have
    /// ended.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("it runs");
        let words = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        // In hundredths of a second: in user mode, and in the kernel.
        let ticks: f64 = words.skip(11).take(2).map(|n| n.parse::<f64>().expect("a number")).sum();
        ticks * 10.0
    }

    /// How often its threads have gone to sleep.
    fn wake_ups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .filter_map(|text| {
                let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
                line?.trim().parse::<u64>().ok()
            })
            .sum()
    }
}
