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

use rusqlite::{Connection, params};
use santa_sync::model::{Executable, Identifier, Policy, RuleSet, SyncType, Timestamp};
use santa_sync::store::Store;
use support::{Watch, made, rule_of, set};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn main() {
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

fn measure(size: u64) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, cell: String| rows.push((name.to_owned(), cell));
    let rules = made(0..size, 10_000);

    let dir = tempfile::tempdir().expect("a directory");
    let watch = Watch::start();
    floor(dir.path(), &rules);
    let bare = watch.stop();
    row("floor: the rows and their index, bare", bare.shown());

    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    let mut commit = |rules: &RuleSet, sync_type| {
        let watch = Watch::start();
        let done = store.commit_rules(rules, sync_type, NOW).expect("committed");
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
    let reader = Store::open_read_only(dir.path()).expect("a reader");
    let mut took: Vec<f64> = known
        .iter()
        .cycle()
        .take(50_000)
        .map(|executable| {
            let watch = Watch::start();
            black_box(reader.find_rule(executable).expect("looked up"));
            watch.wall_only() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    row(
        "lookup p50, p99 in us",
        format!("{:.1}, {:.1}", took[took.len() / 2], took[took.len() / 100 * 99]),
    );
    rows
}

/// What any program would have to do: the same rows with the same pragmas in
/// one transaction, the index last.
fn floor(dir: &Path, rules: &RuleSet) {
    let mut conn = Connection::open(dir.join("floor.db")).expect("a database");
    conn.execute_batch(&format!(
        "PRAGMA temp_store_directory = '{}'; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE execution_rules (identifier TEXT NOT NULL, state INTEGER NOT NULL, \
         type INTEGER NOT NULL, custommsg TEXT, timestamp INTEGER, customurl TEXT, comment TEXT, \
         cel_expr TEXT, rule_id INTEGER DEFAULT 0, seatbelt_policy TEXT, \
         event_detail_button_text TEXT)",
        dir.display()
    ))
    .expect("a table");
    let tx = conn.transaction().expect("begun");
    {
        let mut insert = tx
            .prepare(
                "INSERT INTO execution_rules VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, 0, NULL, ?8)",
            )
            .expect("prepared");
        for rule in rules.iter() {
            let none: Option<&str> = None;
            insert
                .execute(params![
                    rule.identifier.to_string(),
                    1,
                    rule.identifier.rule_type().number(),
                    none,
                    none,
                    none,
                    none,
                    none
                ])
                .expect("inserted");
        }
    }
    tx.execute_batch("CREATE UNIQUE INDEX x ON execution_rules (identifier, type)").expect("index");
    tx.commit().expect("committed");
}
