//! Whole syncs of many rules, from outside: the program against the fake
//! server, and beside it the floor, a program that only downloads, parses and
//! inserts. Each is a process of its own; peak memory is the kernel's figure.
//!
//! `cargo bench --bench rules_sync -- [--rules N]... [--page N]... [--proto]
//! [--gzip]`; with `--gzip` answers come compressed, but for the floor, which asks
//! for none.

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
#[path = "support/rules.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use process::{Plain, Ran, run};
use rusqlite::Connection;
use santa_sync::harness::{FakeServer, ResponseEncoding};
use santa_sync::model::{Identifier, Policy, Rule, RulePage, RuleSet, RuleType};
use santa_sync::protocol::wire;
use serde::Deserialize;
use support::{bare_commit, rule_of};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [mode, url, dir] = args.as_slice()
        && mode == "floor"
    {
        return floor(url, Path::new(dir));
    }
    let all = |name: &str, default: &[u64]| -> Vec<u64> {
        let given: Vec<u64> = args
            .windows(2)
            .filter(|pair| pair[0] == name)
            .filter_map(|pair| pair[1].parse().ok())
            .collect();
        if given.is_empty() { default.to_vec() } else { given }
    };
    let proto = args.iter().any(|arg| arg == "--proto");
    let gzip = args.iter().any(|arg| arg == "--gzip");
    println!(
        "{:>9} {:>6}  {:<28} {:>9} {:>9} {:>9}  times the floor",
        "rules", "page", "", "wall ms", "CPU ms", "peak MB"
    );
    for rules in all("--rules", &[1_000, 100_000, 1_000_000]) {
        for page in all("--page", &[10_000]) {
            measure(rules, page, proto, gzip);
        }
    }
}

fn measure(rules: u64, page: u64, proto: bool, gzip: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let server = FakeServer::builder()
        .rules((0..rules).map(wire_rule))
        .page_size(usize::try_from(page).expect("small"))
        .encode_ahead()
        .style(|style| {
            if gzip {
                style.response_encoding = ResponseEncoding::AsAccepted;
            }
        })
        .start()
        .expect("a server");
    let url = server.url();
    let shown = |name: &str, ran: &Ran, floor: Option<&Ran>| {
        let times = floor.map_or(String::new(), |f| {
            format!("{:.2} wall, {:.2} CPU", ran.wall / f.wall, ran.cpu / f.cpu)
        });
        println!(
            "{rules:>9} {page:>6}  {name:<28} {:>9.0} {:>9.0} {:>9.1}  {times}",
            ran.wall, ran.cpu, ran.peak
        );
    };
    let bare = run(Command::new(std::env::current_exe().expect("this program")).args([
        "floor",
        &url,
        &dir.path().join("floor").display().to_string(),
    ]));
    shown("floor", &bare, None);
    let state = dir.path().join("state");
    let sync = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_santa-sync"));
        command.args(["sync", "--set", &format!("SyncBaseURL={url}"), "--set", "MachineID=bench"]);
        if proto {
            command.args(["--set", "SyncEnableProtoTransfer=true"]);
        }
        command.arg("--state-dir").arg(&state).args(more);
        run(&mut command)
    };
    shown("clean sync, new state", &sync(&["--clean-all"]), Some(&bare));
    shown("clean sync again", &sync(&["--clean-all"]), Some(&bare));
    shown("nothing new", &sync(&[]), None);
    server.queue_changes((rules..rules + 1_000).map(wire_rule).collect());
    shown("1,000 rules added", &sync(&[]), None);
}

fn wire_rule(number: u64) -> wire::Rule {
    wire::Rule {
        identifier: rule_of(number, Policy::Allowlist).identifier.to_string(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Binary.into(),
        ..wire::Rule::default()
    }
}

#[derive(Deserialize)]
struct BarePage {
    rules: Vec<BareRule>,
    #[serde(default)]
    cursor: String,
}

#[derive(Deserialize)]
struct BareRule {
    identifier: String,
    #[serde(rename = "policy")]
    _policy: String,
    #[serde(alias = "ruleType", rename = "rule_type")]
    _rule_type: String,
}

/// Downloads over one plain connection, parses into the fields of a rule, and
/// inserts with the index last.
fn floor(url: &str, dir: &Path) {
    fs::create_dir(dir).expect("made");
    let mut server = Plain::connect(url);
    let (mut rules, mut cursor) = (RuleSet::default(), String::new());
    loop {
        let body = serde_json::json!({ "cursor": cursor, "machine_id": "floor" }).to_string();
        let answer = server.post("ruledownload", "identity", body.as_bytes());
        let page: BarePage = serde_json::from_slice(&answer).expect("a page");
        let identifier = |text: &str| Identifier::parse(RuleType::Binary, text).expect("one");
        let checked = page.rules.iter().map(|rule| Rule {
            identifier: identifier(&rule.identifier),
            policy: Policy::Allowlist,
            details: None,
        });
        rules.push_page(checked.collect::<RulePage>(), Vec::new());
        cursor = page.cursor;
        if cursor.is_empty() {
            break;
        }
    }
    let mut conn = Connection::open(dir.join("floor.db")).expect("a database");
    bare_commit(&mut conn, dir, &rules);
}
