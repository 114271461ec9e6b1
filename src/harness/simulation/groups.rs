//! Groups of hosts that differ from the others, and which host belongs to which.

use serde::{Deserialize, Serialize};

use super::plan::{Mix, PlanError, SimulationPlan};
use crate::model::{MAX_SYNC_INTERVAL_SECS, MIN_SYNC_INTERVAL_SECS};

/// The content encodings of requests.
pub(super) const ENCODINGS: [&str; 3] = ["deflate", "gzip", "none"];
/// The forms of messages.
pub(super) const TRANSFERS: [&str; 2] = ["json", "protobuf"];
/// The maximum number of groups: each has its own figures in memory and in reports.
pub const MAX_GROUPS: usize = 100;
/// The most executables of a bundle.
pub(super) const MAX_BUNDLE_BINARIES: u32 = 10_000;

/// Some of the hosts of a simulation, and how they differ. Where a field is `None`, the value
/// of the whole plan applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostGroup {
    /// What reports call it.
    pub name: String,
    /// How many hosts of all shards together belong to it.
    pub hosts: u32,
    /// Versions of Santa.
    pub versions: Option<Mix<String>>,
    /// Versions and builds of the operating system, as `15.6.1/24G90`.
    pub systems: Option<Mix<String>>,
    /// Model identifiers.
    pub models: Option<Mix<String>>,
    /// See [`SimulationPlan::encodings`].
    pub encodings: Option<Mix<String>>,
    /// `json` or `protobuf`.
    pub transfers: Option<Mix<String>>,
    /// See [`SimulationPlan::interval_secs`].
    pub interval_secs: Option<u32>,
    /// See [`SimulationPlan::events_per_hour`].
    pub events_per_hour: Option<Mix<u32>>,
    /// See [`SimulationPlan::event_bytes`].
    pub event_bytes: Option<Mix<u32>>,
    /// See [`SimulationPlan::denied_percent`].
    pub denied_percent: Option<u8>,
    /// See [`SimulationPlan::prompt_percent`].
    pub prompt_percent: Option<u8>,
    /// See [`SimulationPlan::bundle_binaries`].
    pub bundle_binaries: Option<Mix<u32>>,
}

impl HostGroup {
    /// A group of this many hosts that do not differ from others.
    #[must_use]
    pub const fn new(name: String, hosts: u32) -> Self {
        Self {
            name,
            hosts,
            versions: None,
            systems: None,
            models: None,
            encodings: None,
            transfers: None,
            interval_secs: None,
            events_per_hour: None,
            event_bytes: None,
            denied_percent: None,
            prompt_percent: None,
            bundle_binaries: None,
        }
    }

    /// How it differs, in the words of a file of groups.
    pub(super) fn differences(&self) -> String {
        let percent = |share: &Option<u8>| share.map(|share| format!("{share}%"));
        let text = |mix: &Option<Mix<String>>| mix.as_ref().map(ToString::to_string);
        let number = |mix: &Option<Mix<u32>>| mix.as_ref().map(ToString::to_string);
        let all = [
            ("Santa", text(&self.versions)),
            ("system", text(&self.systems)),
            ("model", text(&self.models)),
            ("encoding", text(&self.encodings)),
            ("transfer", text(&self.transfers)),
            ("interval", self.interval_secs.map(|secs| format!("{secs}s"))),
            ("events per hour", number(&self.events_per_hour)),
            ("bytes of an event", number(&self.event_bytes)),
            ("denied", percent(&self.denied_percent)),
            ("prompt uploads", percent(&self.prompt_percent)),
            ("executables of a bundle", number(&self.bundle_binaries)),
        ];
        let given: Vec<_> = all
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name} {value}")))
            .collect();
        if given.is_empty() { "none".to_owned() } else { given.join("; ") }
    }
}

impl SimulationPlan {
    /// The group of the host of that number; `None` if there are no groups. Every group
    /// has exactly its hosts, and they are spread over all numbers.
    pub(super) fn group_of(&self, number: u32) -> Option<usize> {
        if self.groups.is_empty() {
            return None;
        }
        let mut place = shuffled(number, self.hosts);
        for (index, group) in self.groups.iter().enumerate() {
            match place.checked_sub(group.hosts) {
                None => return Some(index),
                Some(behind) => place = behind,
            }
        }
        None
    }

    /// Checks what holds for all hosts and for each group.
    pub(super) fn check_hosts(&self) -> Result<(), PlanError> {
        if self.groups.len() > MAX_GROUPS {
            return Err(PlanError::TooManyGroups(self.groups.len()));
        }
        let of_groups: u64 = self.groups.iter().map(|group| u64::from(group.hosts)).sum();
        if !self.groups.is_empty() && of_groups != u64::from(self.hosts) {
            return Err(PlanError::Groups { groups: of_groups, hosts: self.hosts });
        }
        let groups = || self.groups.iter();
        let known = |name: &&String, known: &[&str]| !known.contains(&name.as_str());
        let encodings = groups().filter_map(|group| group.encodings.as_ref());
        let mut encodings = encodings.chain([&self.encodings]).flat_map(Mix::values);
        if let Some(name) = encodings.find(|name| known(name, &ENCODINGS)) {
            return Err(PlanError::Encoding(name.clone()));
        }
        let mut transfers =
            groups().filter_map(|group| group.transfers.as_ref()).flat_map(Mix::values);
        if let Some(name) = transfers.find(|name| known(name, &TRANSFERS)) {
            return Err(PlanError::Transfer(name.clone()));
        }
        let allowed = MIN_SYNC_INTERVAL_SECS..=MAX_SYNC_INTERVAL_SECS;
        let intervals = groups().filter_map(|group| group.interval_secs);
        if let Some(secs) = intervals.chain(self.interval_secs).find(|secs| !allowed.contains(secs))
        {
            return Err(PlanError::Interval(secs));
        }
        let bundles = groups().filter_map(|group| group.bundle_binaries.as_ref());
        let mut bundles = bundles.chain([&self.bundle_binaries]).flat_map(Mix::values);
        if let Some(size) = bundles.find(|size| **size > MAX_BUNDLE_BINARIES) {
            return Err(PlanError::Bundle(*size));
        }
        Ok(())
    }
}

/// The place of a number in a fixed shuffle of all numbers below `bound`.
fn shuffled(number: u32, bound: u32) -> u32 {
    let size = u64::from(bound.max(2)).next_power_of_two();
    let half = size.trailing_zeros().div_ceil(2);
    let mut place = u64::from(number);
    loop {
        // Each step maps the numbers below `size` to one another, one to one.
        for factor in [0x9e37_79b9, 0x85eb_ca6b, 0xc2b2_ae35_u64] {
            place = place.wrapping_mul(factor).wrapping_add(factor >> 7) & (size - 1);
            place ^= place >> half;
        }
        if let Some(place) = u32::try_from(place).ok().filter(|place| *place < bound.max(1)) {
            return place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hosts: &[u32]) -> SimulationPlan {
        let mut plan = SimulationPlan::new(String::new());
        plan.hosts = hosts.iter().sum();
        plan.groups = hosts.iter().map(|hosts| HostGroup::new(hosts.to_string(), *hosts)).collect();
        plan
    }

    #[test]
    fn every_group_has_exactly_its_hosts_spread_over_the_ramp() {
        for hosts in [&[1_u32][..], &[7, 3], &[1, 1, 1], &[900, 90, 10], &[0, 5], &[500, 500]] {
            let plan = plan(hosts);
            let groups: Vec<_> = (0..plan.hosts).filter_map(|n| plan.group_of(n)).collect();
            for (index, hosts) in hosts.iter().enumerate() {
                let found = groups.iter().filter(|group| **group == index).count();
                assert_eq!(found, *hosts as usize, "{hosts} of {:?}", plan.groups);
            }
        }
        let plan = plan(&[900, 90, 10]);
        let mut rare = Vec::new();
        for start in (0..1000).step_by(100) {
            let groups: Vec<_> = (start..start + 100).filter_map(|n| plan.group_of(n)).collect();
            let of = |index| groups.iter().filter(|group| **group == index).count();
            assert!((80..=98).contains(&of(0)), "{groups:?}");
            rare.push(of(2));
        }
        let some = rare.iter().filter(|hosts| **hosts > 0).count();
        assert!(some >= 4 && rare.iter().all(|hosts| *hosts <= 4), "{rare:?}");
    }

    #[test]
    fn groups_that_do_not_make_up_the_hosts_are_refused() {
        let mut plan = plan(&[7, 3]);
        plan.hosts = 11;
        let refused = plan.check_hosts().expect_err("refused").to_string();
        assert!(refused.contains("10 hosts") && refused.contains("11"), "{refused}");
    }
}
