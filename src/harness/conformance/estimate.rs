//! The estimate that is printed before a run: how many requests it will make, and how long it
//! will wait, if the server meets every requirement. A test compares it with runs.

use std::time::Duration;

use super::catalogue::{Requirement, SetUp, catalogue};
use super::lanes::{Lanes, MAX_MACHINES};
use super::options::Options;

/// The requests of a requirement's check.
struct Cost {
    /// Those that do not depend on the rules, uploads included.
    fixed: u64,
    /// For each page of a rule download.
    per_page: u64,
    /// How many of the fixed ones a run without events leaves out.
    uploads: u64,
}

/// Its requests, those for each page, and its uploads.
const fn cost(fixed: u64, per_page: u64, uploads: u64) -> Cost {
    Cost { fixed, per_page, uploads }
}

/// Requirements that look at the syncs of one machine, and its requests.
const OF_SERIES: [&str; 6] =
    ["CLEAN-01", "CLEAN-02", "CLEAN-04", "CLEAN-06", "CLEAN-07", "PAGE-03"];
const SERIES: Cost = cost(10, 2, 0);
/// Whatever is chosen, a run tries every form and makes one complete sync.
const ALWAYS: Cost = cost(9, 1, 1);

/// What the check of a requirement costs besides.
#[expect(clippy::match_same_arms, reason = "requirements are in the order of the catalogue")]
fn cost_of(requirement: &Requirement, options: &Options) -> Cost {
    let slow = u64::from(options.slow);
    let operator = |fixed, per_page| cost(fixed, per_page, 0);
    match requirement.id {
        "HTTP-05" => cost(2 + slow, 0, 0),
        "HTTP-06" => cost(2, 1, 1),
        "HTTP-07" | "HTTP-08" | "ID-01" | "PRE-08" | "ERR-04" => cost(1, 0, 0),
        "CLEAN-07" if options.machine_ids.is_empty() => cost(1, 0, 0),
        "CLEAN-07" => cost(3, 1, 0),
        "ID-03" => cost(2, 1, 0),
        "HTTP-09" | "PRE-09" => cost(3, 0, 0),
        "ENC-05" => cost(30, 5, 5),
        "ENC-06" | "ID-02" | "PRE-07" => cost(2, 0, 0),
        "ENC-07" => cost(8, 0, 2),
        "ENC-08" => cost(3, 1, 1),
        "ENC-09" => cost(7, 1, 0),
        "PRE-10" => cost(5, 0, 0),
        "ID-04" if !options.machine_ids.is_empty() => cost(1, 0, 0),
        "ID-05" => cost(3, 0, 1),
        "PRE-11" => cost(3, 1, 0),
        "CLEAN-03" | "RULE-04" | "RULE-05" | "PAGE-04" => cost(2, 1, 0),
        "CLEAN-05" => cost(3, 1, 0),
        "RULE-06" => cost(2, 2, 0),
        "RULE-07" => cost(3 + slow, 1, 0),
        "RULE-08" if options.slow => cost(4, 1, 2),
        "PAGE-05" if options.slow => cost(1, 1, 0),
        "PAGE-06" => cost(2, 0, 0),
        "EVENT-01" | "EVENT-02" | "EVENT-04" | "EVENT-05" => cost(2, 0, 0),
        "EVENT-03" => cost(18, 0, 0),
        "EVENT-06" => cost(12, 0, 0),
        "EVENT-07" => cost(4, 0, 0),
        "EVENT-08" if options.heavy => cost(2, 0, 0),
        "EVENT-09" | "EVENT-13" => cost(3, 0, 0),
        "EVENT-11" => cost(3 + slow, 1, 0),
        "EVENT-12" | "POST-03" => cost(4, 1, 0),
        "POST-02" => cost(9, 3, 0),
        "POST-04" => cost(6, 3, 0),
        "ISO-01" => cost(6, 2, 0),
        "ISO-02" => cost(1, 1, 0),
        "ISO-03" => cost(8, 4, 0),
        "ISO-04" => cost(12, 4, 0),
        "OPS-01" => operator(9, 2),
        "OPS-02" => operator(8, 2),
        "OPS-03" => operator(25, 6),
        "OPS-04" => operator(4, 1),
        "OPS-05" => operator(4, 1),
        "OPS-06" => operator(20, 3),
        _ => cost(0, 0, 0),
    }
}

/// What a run will take if the server meets every requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Requests if all rules come on one page.
    pub requests: u64,
    /// Additional requests if there is a second page.
    second_page: u64,
    /// Additional requests for each further page.
    pub per_page: u64,
    /// How long it waits, in addition to the requests.
    pub waits: Duration,
}

impl Estimate {
    /// The number of requests if the rules come on this many pages.
    #[must_use]
    pub const fn requests_with(&self, pages: u64) -> u64 {
        let second = if pages > 1 { self.second_page } else { 0 };
        self.requests + second + self.per_page * pages.saturating_sub(1)
    }

    /// The estimate for a run with these options; `operated` if there is an operator.
    pub(super) fn of(options: &Options, operated: bool) -> Self {
        let given = options.machine_ids.len();
        let is_possible = |requirement: &&Requirement| {
            let lacks = |set_up| match set_up {
                SetUp::FreshId => given > 0,
                SetUp::TwoIds => given == 1,
                SetUp::Operator => !operated,
                SetUp::Events => !options.events,
                SetUp::Rules | SetUp::Pages | SetUp::Credential | SetUp::Heavy | SetUp::Slow => {
                    false
                }
            };
            options.chooses(requirement.id) && !requirement.set_up.iter().copied().any(lacks)
        };
        let possible: Vec<_> = catalogue().filter(is_possible).collect();
        let has_series = possible.iter().any(|requirement| OF_SERIES.contains(&requirement.id));
        let shared = [Some(ALWAYS), has_series.then_some(SERIES)].into_iter().flatten();
        let lanes = match given {
            0 => Lanes::apart(options),
            _ => Lanes::of_machines(options, given),
        };
        // The run ends with a clean sync of each given machine, and first tries each of those that
        // it uses, except the first.
        let for_given = given + given.min(MAX_MACHINES).saturating_sub(1);
        let mut estimate =
            Self { requests: for_given as u64, second_page: 0, per_page: 0, waits: lanes.waits() };
        for cost in shared {
            estimate.add(&cost, options, false);
        }
        for requirement in &possible {
            let cost = cost_of(requirement, options);
            estimate.add(&cost, options, requirement.needs(SetUp::Pages));
        }
        estimate
    }

    fn add(&mut self, cost: &Cost, options: &Options, needs_pages: bool) {
        let fixed = if options.events { cost.fixed } else { cost.fixed - cost.uploads };
        if needs_pages {
            self.second_page += fixed + cost.per_page;
        } else {
            self.requests += fixed + cost.per_page;
        }
        self.per_page += cost.per_page;
    }
}
