//! Made rules and a stopwatch, for the benches of rules.

use std::ops::Range;
use std::time::Instant;

use santa_sync::model::{Identifier, Policy, Rule, RuleSet};

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
        rules.push_page((rest.start..end).map(|n| rule_of(n, Policy::Allowlist)).collect(), vec![]);
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
