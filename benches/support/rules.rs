//! Made rules, the floor of a commit and a stopwatch, for the benches of rules.

#![allow(
    dead_code,
    clippy::cast_precision_loss,
    clippy::expect_used,
    reason = "each bench uses a part of it, and all of them only measure"
)]

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};
use santa_sync::model::{Identifier, Policy, Rule, RulePage, RuleSet};

/// The rule of a number: a file hash that looks random and is always the same.
pub(crate) fn rule_of(number: u64, policy: Policy) -> Rule {
    let mut hash = [0; 32];
    for (part, n) in hash.chunks_exact_mut(8).zip(0..) {
        // splitmix64
        let mut z = (number * 4 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    Rule { identifier: Identifier::Binary(hash), policy, details: None }
}

/// The rules of these numbers in pages of a size.
pub(crate) fn made(numbers: Range<u64>, page: usize) -> RuleSet {
    let mut rules = RuleSet::default();
    let mut rest = numbers;
    while !rest.is_empty() {
        let end = rest.end.min(rest.start + page as u64);
        rules.push_page(
            (rest.start..end).map(|n| rule_of(n, Policy::Allowlist)).collect::<RulePage>(),
            vec![],
        );
        rest.start = end;
    }
    rules
}

/// A set of one page.
pub(crate) fn set(rules: Vec<Rule>) -> RuleSet {
    let mut set = RuleSet::default();
    set.push_page(rules, vec![]);
    set
}

/// What any program would have to do: the same rows with the same pragmas in
/// one transaction, the index last. Replaces what is there.
pub(crate) fn bare_commit(conn: &mut Connection, dir: &Path, rules: &RuleSet) {
    conn.execute_batch(&format!(
        "PRAGMA temp_store_directory = '{}'; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS execution_rules (identifier TEXT NOT NULL, state INTEGER NOT \
         NULL, type INTEGER NOT NULL, custommsg TEXT, timestamp INTEGER, customurl TEXT, comment \
         TEXT, cel_expr TEXT, rule_id INTEGER DEFAULT 0, seatbelt_policy TEXT, \
         event_detail_button_text TEXT)",
        dir.display()
    ))
    .expect("a table");
    let tx = conn.transaction().expect("begun");
    tx.execute_batch("DROP INDEX IF EXISTS x; DELETE FROM execution_rules").expect("emptied");
    {
        let mut insert = tx
            .prepare(
                "INSERT INTO execution_rules VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, 0, NULL, ?8)",
            )
            .expect("prepared");
        let none: Option<&str> = None;
        let mut identifier = String::new();
        for rule in rules.iter() {
            identifier.clear();
            rule.identifier.push_to(&mut identifier);
            let rule_type = rule.identifier.rule_type().number();
            insert
                .execute(params![identifier, 1, rule_type, none, none, none, none, none])
                .expect("inserted");
        }
    }
    tx.execute_batch("CREATE UNIQUE INDEX x ON execution_rules (identifier, type)").expect("index");
    tx.commit().expect("committed");
}

/// Wall clock and CPU since a start.
pub(crate) struct Watch {
    wall: Instant,
    cpu: f64,
}

/// Milliseconds.
pub(crate) struct Took {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

impl Watch {
    #[allow(clippy::disallowed_methods, reason = "a stopwatch")]
    pub(crate) fn start() -> Self {
        Self { cpu: cpu(), wall: Instant::now() }
    }

    pub(crate) fn wall_only(&self) -> f64 {
        self.wall.elapsed().as_secs_f64() * 1e3
    }

    pub(crate) fn stop(&self) -> Took {
        Took { wall: self.wall_only(), cpu: cpu() - self.cpu }
    }
}

impl Took {
    pub(crate) fn shown(&self) -> String {
        format!("{:.1} ({:.1})", self.wall, self.cpu)
    }
}

/// CPU milliseconds of this process so far.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
