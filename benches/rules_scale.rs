//! What the rule store costs by its size and by what changes: one table, on
//! both axes, with the floor of a clean commit beside it.
//!
//! `cargo bench --bench rules_scale -- [RULES...]`; sizes default to 1,000,
//! 100,000 and 1,000,000.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that measures"
)]

#[path = "support/rules.rs"]
mod support;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rusqlite::Connection;
use santa_sync::model::{Executable, Identifier, Policy, RuleSet, RuleType, SyncType, Timestamp};
use santa_sync::store::{ReadStore, Store};
use support::{Watch, bare_commit, made, rule_of, set};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, dir, size] = args.as_slice()
        && mode == "churn"
    {
        return churn(Path::new(dir), size.parse().expect("a number"));
    }
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 100_000, 1_000_000] } else { sizes };
    println!("times in ms of wall clock (of CPU)");
    println!("{:<44}{}", "", sizes.iter().map(|n| format!("{n:>20}")).collect::<Vec<_>>().concat());
    let columns: Vec<Vec<(String, String)>> = sizes.iter().map(|n| measure(*n)).collect();
    for (row, (name, _)) in columns[0].iter().enumerate() {
        let cells = columns.iter().map(|column| format!("{:>20}", column[row].1));
        println!("{name:<44}{}", cells.collect::<Vec<_>>().concat());
    }
}

/// Commits everything anew, for whoever reads meanwhile.
fn churn(dir: &Path, size: u64) {
    let (mut store, _) = Store::open(dir, NOW).expect("a store");
    let rules = made(0..size, 10_000);
    store.commit_rules(&rules, (SyncType::CleanAll, NOW)).expect("committed");
}

/// What a lookup asks at the least: the state of the first rule there is.
fn bare_lookup() -> String {
    let probes = (1..).zip(RuleType::ALL.iter().copied()).map(|(parameter, rule_type)| {
        let number = rule_type.number();
        format!(
            "SELECT state FROM execution_rules WHERE identifier = ?{parameter} AND type = {number}"
        )
    });
    probes.collect::<Vec<_>>().join(" UNION ALL ")
}

fn measure(size: u64) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, cell: String| rows.push((name.to_owned(), cell));
    let rules = made(0..size, 10_000);

    let dir = tempfile::tempdir().expect("a directory");
    let watch = Watch::start();
    let mut conn = Connection::open(dir.path().join("floor.db")).expect("a database");
    bare_commit(&mut conn, dir.path(), &rules);
    let bare = watch.stop();
    row("floor: the rows and their index, bare", bare.shown());

    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    let mut commit = |rules: &RuleSet, sync_type| {
        let watch = Watch::start();
        let done = store.commit_rules(rules, (sync_type, NOW)).expect("committed");
        (watch.stop(), done)
    };
    let (first, _) = commit(&rules, SyncType::Clean);
    row("clean commit into an empty store", first.shown());
    row("  times the floor", format!("{:.2}", first.wall / bare.wall));
    let (again, _) = commit(&rules, SyncType::Clean);
    row("clean commit over the same rules", again.shown());
    let (nothing, _) = commit(&RuleSet::default(), SyncType::Normal);
    row("nothing new", nothing.shown());
    let fresh = size * 10;
    for asked in [1, 100, 1_000, 10_000] {
        let count = asked.min(size);
        let from = fresh + count * 100;
        let (added, _) = commit(&made(from..from + count, 10_000), SyncType::Normal);
        row(&format!("{asked} rules added"), added.shown());
        let (removed, _) = commit(
            &set((from..from + count).map(|n| rule_of(n, Policy::Remove)).collect()),
            SyncType::Normal,
        );
        row(&format!("{asked} newest removed"), removed.shown());
        let spread = |policy| {
            let step = (size / count) as usize;
            set((0..size).step_by(step).take(count as usize).map(|n| rule_of(n, policy)).collect())
        };
        let (replaced, _) = commit(&spread(Policy::Blocklist), SyncType::Normal);
        row(&format!("{asked} replaced all over"), replaced.shown());
    }
    // An authorizer's reader is there before the commit whose rules it reads.
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    commit(&made(fresh..fresh + 1, 1), SyncType::Normal);
    drop(store);
    lookups(&reader, dir.path(), size, &mut row);
    rows
}

fn lookups(reader: &ReadStore, dir: &Path, size: u64, row: &mut dyn FnMut(&str, String)) {
    let known: Vec<Executable> = (0..10_000)
        .map(|n| {
            // Half of the files have a rule; the other identifiers have none.
            let Identifier::Binary(other) = rule_of(n + size * 1_000, Policy::Allowlist).identifier
            else {
                return Executable::default();
            };
            Executable::default()
                .with(rule_of(n * 7 % (size * 2), Policy::Allowlist).identifier)
                .with(Identifier::Certificate(other))
                .with(Identifier::SigningId(format!("ABCDEFGHIJ:com.example.{n}").into()))
                .with(Identifier::TeamId(*b"ABCDEFGHIJ"))
        })
        .collect();
    let mut lookups = reader.lookups().expect("prepared");
    let mut single = |executable: &Executable| {
        timed(|| drop(black_box(lookups.find_rule(executable).expect("looked up"))))
    };
    // What one of a burst takes, the snapshot's beginning and end included.
    let burst = |executables: &[Executable]| {
        let all = timed(|| {
            let mut snapshot = reader.snapshot().expect("begun");
            for executable in executables {
                drop(black_box(snapshot.find_rule(executable).expect("looked up")));
            }
        });
        all / executables.len() as f64
    };
    let shown = |mut took: Vec<f64>| {
        took.sort_by(f64::total_cmp);
        format!("{:.1}, {:.1}", took[took.len() / 2], took[took.len() * 99 / 100])
    };
    {
        let bare = Connection::open(dir.join("rules.db")).expect("a database");
        bare.pragma_update(None, "mmap_size", 1_i64 << 30).expect("mapped");
        let mut bare = bare.prepare(&bare_lookup()).expect("a statement");
        let mut floor = |executable: &Executable| {
            let of = |rule_type| executable.identifier(rule_type).map(ToString::to_string);
            let texts = RuleType::ALL.iter().copied().map(of).collect::<Vec<_>>();
            timed(|| {
                let mut found = bare.query(rusqlite::params_from_iter(&texts)).expect("asked");
                let found = found.next().expect("read").map(|row| row.get::<_, i64>(0));
                black_box(found.transpose().expect("a state"));
            })
        };
        let took = (0..5).flat_map(|_| &known).map(&mut floor).collect();
        row("bare statement: p50, p99 in us", shown(took));
    }
    row("lookup", shown((0..5).flat_map(|_| &known).map(&mut single).collect()));
    for size in [10, 100] {
        let took = (0..5).flat_map(|_| known.chunks(size)).map(burst).collect();
        row(&format!("  one of {size} in a snapshot"), shown(took));
    }
    let mut writer = Command::new(std::env::current_exe().expect("this program"))
        .args(["churn", &dir.display().to_string(), &size.to_string()])
        .spawn()
        .expect("a writer");
    let (mut busy, mut busy_bursts) = (Vec::new(), Vec::new());
    let mut turns = known.chunks(10).cycle();
    while writer.try_wait().expect("asked").is_none() {
        busy.extend(turns.next().into_iter().flatten().map(&mut single));
        busy_bursts.extend(turns.next().map(burst));
    }
    row("lookup while a clean commit runs", shown(busy));
    row("  one of 10 in a snapshot", shown(busy_bursts));
}

/// Microseconds. Nothing else happens between two lookups: asking for the CPU's
/// time is a call of the system.
#[allow(clippy::disallowed_methods, reason = "a stopwatch")]
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6
}
