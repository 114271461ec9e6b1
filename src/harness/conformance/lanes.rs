//! Schedules the checks that wait: which run in parallel, and which run in sequence because they
//! share a machine.

use std::time::Duration;

use super::options::Options;

/// The checks that mostly wait.
pub(super) const WAITING: [&str; 5] = ["HTTP-05", "PAGE-05", "RULE-07", "RULE-08", "EVENT-11"];

/// The maximum number of given machines that a run uses: one for each lane.
pub(super) const MAX_MACHINES: usize = WAITING.len();

/// How long a check of [`WAITING`] waits in a run with these options.
fn wait(id: &str, options: &Options) -> Duration {
    if !options.slow || !options.chooses(id) || (id == "EVENT-11" && !options.events) {
        return Duration::ZERO;
    }
    match id {
        "HTTP-05" => options.waits.idle,
        "PAGE-05" => options.waits.between_pages,
        "RULE-07" | "RULE-08" | "EVENT-11" => options.waits.in_sync,
        _ => Duration::ZERO,
    }
}

/// One lane: checks that run one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) checks: Vec<&'static str>,
    /// The sum of their waits.
    pub(super) waits: Duration,
}

/// Lanes that run in parallel; some may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes([Lane; WAITING.len()]);

impl Lanes {
    /// Lanes for made-up machines: each check has its own machines, and so its own lane.
    pub(super) fn apart(options: &Options) -> Self {
        Self(WAITING.map(|id| Lane { checks: vec![id], waits: wait(id, options) }))
    }

    /// Lanes for this many machines, one for each. Checks are assigned in order of their waits,
    /// longest first, each to the lane with the shortest total so far. Checks that do not wait in
    /// this run share the first machine.
    pub(super) fn of_machines(options: &Options, machines: usize) -> Self {
        let mut checks = WAITING.map(|id| (id, wait(id, options)));
        checks.sort_by_key(|(_, wait)| std::cmp::Reverse(*wait));
        let mut lanes = Self::default();
        for (id, wait) in checks {
            let usable = if wait.is_zero() { 1 } else { machines.max(1) };
            // On a tie, the first.
            let lane = lanes.0.iter_mut().take(usable).min_by_key(|lane| lane.waits);
            if let Some(lane) = lane {
                lane.checks.push(id);
                lane.waits += wait;
            }
        }
        lanes
    }

    /// Each check with the index of its machine.
    pub(super) fn places(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let of_lane = |(place, lane): (usize, &Lane)| {
            lane.checks.iter().map(move |id| (*id, place)).collect::<Vec<_>>()
        };
        self.0.iter().enumerate().flat_map(of_lane)
    }

    /// How long the checks wait if all lanes begin at once: as long as the longest lane.
    pub(super) fn waits(&self) -> Duration {
        self.0.iter().map(|lane| lane.waits).max().unwrap_or_default()
    }

    /// The checks of each lane.
    pub(super) fn checks(&self) -> [&[&'static str]; WAITING.len()] {
        self.0.each_ref().map(|lane| lane.checks.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::conformance::options::Waits;

    #[test]
    fn with_three_machines_a_run_waits_little_longer_than_its_longest_check() {
        let all = Options::default();
        let waits = [1, 2, 3, 4, 5, 6].map(|n| Lanes::of_machines(&all, n).waits().as_secs());
        assert_eq!(waits, [225, 140, 80, 70, 70, 70]);
        assert_eq!(Lanes::apart(&all).waits().as_secs(), 70);
        let places: Vec<_> = Lanes::of_machines(&all, 3).places().collect();
        let expected =
            [("RULE-07", 0), ("PAGE-05", 0), ("RULE-08", 1), ("HTTP-05", 1), ("EVENT-11", 2)];
        assert_eq!(places, expected);
    }

    #[test]
    fn checks_that_do_not_wait_share_the_first_machine() {
        let of = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            let lanes = Lanes::of_machines(&options, 3);
            let machines = lanes.places().map(|(_, place)| place).max();
            (machines, lanes.waits().as_secs())
        };
        assert_eq!(of(|options| options.slow = false), (Some(0), 0));
        assert_eq!(of(|options| options.waits = Waits::none()), (Some(0), 0));
        assert_eq!(of(|options| options.events = false), (Some(2), 70));
        assert_eq!(of(|options| options.only = vec!["RULE-07".to_owned()]), (Some(0), 70));
        assert_eq!(of(|options| options.only = vec!["CLEAN".to_owned()]), (Some(0), 0));
    }
}
