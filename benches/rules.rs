//! Decoding, committing and looking up rules, each with its floor beside it:
//! the least that any program must do for the same result.
//!
//! `cargo bench --bench rules [-- FILTER]`

#![allow(clippy::expect_used, missing_docs, reason = "a program that measures")]

#[path = "support/rules.rs"]
mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use rusqlite::Connection;
use santa_sync::model::{Executable, Identifier, Policy, RuleSet, SyncType, Timestamp, Transfer};
use santa_sync::protocol::{rules, wire};
use santa_sync::store::Store;
use serde::Deserialize;
use support::{bare_commit, made, rule_of, set};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);
/// Rules of a page, and of the commits.
const PAGE: u64 = 10_000;

/// The least of a page that one could make do with.
#[derive(Deserialize)]
struct BarePage<'a> {
    #[serde(borrow)]
    rules: Vec<BareRule<'a>>,
}

#[derive(Deserialize)]
struct BareRule<'a> {
    identifier: &'a str,
    policy: &'a str,
    #[serde(rename = "ruleType")]
    rule_type: &'a str,
}

fn page() -> wire::RuleDownloadResponse {
    let rules = (0..PAGE).map(|n| wire::Rule {
        identifier: rule_of(n, Policy::Allowlist).identifier.to_string(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Binary.into(),
        ..wire::Rule::default()
    });
    wire::RuleDownloadResponse { rules: rules.collect(), cursor: "next".to_owned() }
}

fn decode(c: &mut Criterion) {
    let json = serde_json::to_vec(&page()).expect("JSON");
    let proto = page().encode_to_vec();
    let mut group = c.benchmark_group("decode a page of 10,000 rules");
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("JSON", |b| {
        b.iter(|| rules::page_of(Transfer::Json, black_box(&json)).expect("a page"));
    });
    group.bench_function("JSON, floor: three borrowed fields", |b| {
        b.iter(|| {
            let page: BarePage<'_> = serde_json::from_slice(black_box(&json)).expect("a page");
            let sum = |rule: &BareRule<'_>| {
                rule.identifier.len() + rule.policy.len() + rule.rule_type.len()
            };
            page.rules.iter().map(sum).sum::<usize>()
        });
    });
    group.bench_function("protobuf", |b| {
        b.iter(|| rules::page_of(Transfer::Protobuf, black_box(&proto)).expect("a page"));
    });
    group.bench_function("protobuf, floor: prost alone", |b| {
        b.iter(|| wire::RuleDownloadResponse::decode(black_box(proto.as_slice())).expect("a page"));
    });
    group.finish();
}

fn pack(c: &mut Criterion) {
    let rules: Vec<_> = (0..PAGE).map(|n| rule_of(n, Policy::Allowlist)).collect();
    let mut group = c.benchmark_group("keep a page of 10,000 rules");
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("packed", |b| {
        b.iter_batched(
            || rules.clone(),
            |rules| {
                let mut set = RuleSet::default();
                set.push_page(rules, Vec::new());
                set
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn commit(c: &mut Criterion) {
    let rules = made(0..PAGE * 5, 10_000);
    let mut group = c.benchmark_group("commit 50,000 rules");
    group.sample_size(10);
    group.throughput(Throughput::Elements(PAGE * 5));
    group.bench_function("clean", |b| {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
        b.iter(|| store.commit_rules(&rules, (SyncType::Clean, NOW)).expect("committed"));
    });
    group.bench_function("floor: rows, then their index", |b| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut conn = Connection::open(dir.path().join("floor.db")).expect("a database");
        b.iter(|| bare_commit(&mut conn, dir.path(), &rules));
    });
    group.finish();
    let mut group = c.benchmark_group("commit 1,000 rules on 50,000");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1_000));
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    store.commit_rules(&rules, (SyncType::Clean, NOW)).expect("committed");
    let mut from = PAGE * 100;
    group.bench_function("added", |b| {
        b.iter_batched(
            || {
                from += 1_000;
                made(from..from + 1_000, 1_000)
            },
            |rules| store.commit_rules(&rules, (SyncType::Normal, NOW)).expect("committed"),
            BatchSize::LargeInput,
        );
    });
    let spread: RuleSet =
        set((0..PAGE * 5).step_by(50).map(|n| rule_of(n, Policy::Blocklist)).collect());
    group.bench_function("replaced, all over", |b| {
        b.iter(|| store.commit_rules(&spread, (SyncType::Normal, NOW)).expect("committed"));
    });
    group.bench_function("none", |b| {
        let nothing = RuleSet::default();
        b.iter(|| store.commit_rules(&nothing, (SyncType::Normal, NOW)).expect("committed"));
    });
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    store.commit_rules(&made(0..100_000, 10_000), (SyncType::Clean, NOW)).expect("committed");
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    let bare = Connection::open(dir.path().join("rules.db")).expect("open");
    let mut group = c.benchmark_group("look up among 100,000 rules");
    let mut n = 0;
    group.bench_function("a file with five identifiers", |b| {
        b.iter(|| {
            n += 7;
            let executable = Executable::default()
                .with(rule_of(n % 200_000, Policy::Allowlist).identifier)
                .with(Identifier::SigningId(format!("ABCDEFGHIJ:com.example.{n}").into()))
                .with(Identifier::TeamId(*b"ABCDEFGHIJ"))
                .with(Identifier::Cdhash([7; 20]))
                .with(Identifier::Certificate([7; 32]));
            reader.find_rule(black_box(&executable)).expect("looked up")
        });
    });
    group.bench_function("floor: one identifier, one prepared statement", |b| {
        let mut find = bare
            .prepare("SELECT state FROM execution_rules WHERE identifier = ?1 AND type = 1000")
            .expect("prepared");
        b.iter(|| {
            n += 7;
            let identifier = rule_of(n % 200_000, Policy::Allowlist).identifier.to_string();
            let mut rows = find.query([identifier]).expect("asked");
            rows.next().expect("read").map(|row| row.get::<_, i32>(0))
        });
    });
    group.finish();
}

criterion_group!(benches, decode, pack, commit, lookup);
criterion_main!(benches);
