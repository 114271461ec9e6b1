//! Who each simulated host is: the same for the same plan and number.

use std::str::FromStr as _;

use super::events::EventTraits;
use super::groups::HostGroup;
use super::plan::SimulationPlan;
use crate::harness::fixtures::Random;
use crate::model::{ContentEncoding, HostFacts, MachineId, MachineIdError, Transfer};

/// The beginning of the machine id of every simulated host, by which a server's owner finds them.
pub const MACHINE_ID_START: &str = "51A7A51D-";

/// Who a host is and how it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProfile {
    /// A UUID that begins with [`MACHINE_ID_START`] and ends with the host's number
    /// in hex digits.
    pub machine_id: MachineId,
    /// What its preflight reports.
    pub facts: HostFacts,
    /// The form of its messages.
    pub transfer: Transfer,
    /// How it compresses requests.
    pub content_encoding: ContentEncoding,
    /// Its group in [`SimulationPlan::groups`]; `None` if there are no groups.
    pub group: Option<usize>,
    /// The interval between its syncs in seconds, whatever the server says.
    pub interval_secs: Option<u32>,
    /// Events that it queues in an hour.
    pub events_per_hour: u32,
    /// It uploads soon after something was denied.
    pub uploads_promptly: bool,
}

const SYSTEMS: [(&str, &str); 4] =
    [("15.6.1", "24G90"), ("14.7.8", "23H730"), ("26.0.1", "25A362"), ("15.5", "24F74")];
const MODELS: [&str; 4] = ["Mac15,12", "MacBookPro18,3", "Mac14,2", "Mac16,10"];

/// The build of a version of macOS, if it is one of the default versions.
pub(super) fn build_of(os_version: &str) -> Option<&'static str> {
    SYSTEMS.into_iter().find(|(version, _)| *version == os_version).map(|(_, build)| build)
}

/// The number that all choices of a host come from.
pub(super) fn host_seed(plan: &SimulationPlan, number: u32) -> u64 {
    Random::new(plan.seed ^ (u64::from(number) << 32)).next()
}

impl EventTraits {
    /// Those of all hosts without groups, or of each group.
    pub(super) fn of(plan: &SimulationPlan) -> Vec<Self> {
        let of_plan = Self {
            bytes: plan.event_bytes.clone(),
            denied_percent: plan.denied_percent,
            bundle_binaries: plan.bundle_binaries.clone(),
        };
        if plan.groups.is_empty() {
            return vec![of_plan];
        }
        let of_group = |group: &HostGroup| Self {
            bytes: group.event_bytes.clone().unwrap_or_else(|| of_plan.bytes.clone()),
            denied_percent: group.denied_percent.unwrap_or(of_plan.denied_percent),
            bundle_binaries: group
                .bundle_binaries
                .clone()
                .unwrap_or_else(|| of_plan.bundle_binaries.clone()),
        };
        plan.groups.iter().map(of_group).collect()
    }
}

impl HostProfile {
    /// The host of that number.
    ///
    /// # Errors
    /// None: the id is well-formed.
    pub fn of(plan: &SimulationPlan, number: u32) -> Result<Self, MachineIdError> {
        let mut random = Random::new(host_seed(plan, number));
        let of_seed = Random::new(plan.seed).next();
        let text = format!(
            "{MACHINE_ID_START}{:04X}-4{:03X}-8{:03X}-{number:012X}",
            of_seed & 0xffff,
            (of_seed >> 16) & 0xfff,
            (of_seed >> 28) & 0xfff
        );
        let group = plan.group_of(number);
        let own = group.and_then(|group| plan.groups.get(group));
        let pick = |random: &mut Random, of: usize| {
            random.below(u32::try_from(of).unwrap_or(u32::MAX)) as usize
        };
        let (mut os_version, mut os_build) = SYSTEMS[pick(&mut random, SYSTEMS.len())];
        if let Some(systems) = own.and_then(|own| own.systems.as_ref())
            && let Some(system) = systems.pick(&mut random)
        {
            (os_version, os_build) = system.split_once('/').unwrap_or((system, ""));
        }
        let mut model = MODELS[pick(&mut random, MODELS.len())];
        if let Some(models) = own.and_then(|own| own.models.as_ref()) {
            model = models.pick(&mut random).map_or(model, String::as_str);
        }
        let versions = own.and_then(|own| own.versions.as_ref()).unwrap_or(&plan.versions);
        let santa_version = versions.pick(&mut random).cloned().unwrap_or_default();
        let encodings = own.and_then(|own| own.encodings.as_ref()).unwrap_or(&plan.encodings);
        let encoding = encodings.pick(&mut random).map(String::as_str).unwrap_or_default();
        let mut speaks_protobuf = random.below(100) < u32::from(plan.protobuf_percent);
        if let Some(transfers) = own.and_then(|own| own.transfers.as_ref()) {
            speaks_protobuf = transfers.pick(&mut random).is_some_and(|name| name == "protobuf");
        }
        let prompt = own.and_then(|own| own.prompt_percent).unwrap_or(plan.prompt_percent);
        let events = own.and_then(|own| own.events_per_hour.as_ref());
        let events = events.unwrap_or(&plan.events_per_hour);
        let facts = HostFacts {
            serial_number: format!("SIM{number:09}"),
            hostname: format!("sim-{number:06}.example.com"),
            os_version: os_version.to_owned(),
            os_build: os_build.to_owned(),
            model_identifier: model.to_owned(),
            santa_version,
            primary_user: format!("user{number:06}"),
            primary_user_groups: Vec::new(),
            sip_status: 0,
        };
        Ok(Self {
            machine_id: MachineId::new(&text)?,
            facts,
            transfer: if speaks_protobuf { Transfer::Protobuf } else { Transfer::Json },
            content_encoding: ContentEncoding::from_str(encoding).unwrap_or_default(),
            group,
            interval_secs: own.and_then(|own| own.interval_secs).or(plan.interval_secs),
            events_per_hour: events.pick(&mut random).copied().unwrap_or(0),
            uploads_promptly: random.below(100) < u32::from(prompt),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan() -> SimulationPlan {
        let mut plan = SimulationPlan::new(String::new());
        plan.versions = "2026.4=70,2025.7=30".parse().expect("a mix");
        plan.encodings = "deflate=80,gzip=10,none=10".parse().expect("a mix");
        plan.protobuf_percent = 20;
        plan
    }

    #[test]
    fn a_seed_repeats_the_hosts_and_another_one_has_others() {
        let of = |seed, number| {
            HostProfile::of(&SimulationPlan { seed, ..plan() }, number).expect("a host")
        };
        assert_eq!(of(1, 5), of(1, 5));
        assert_ne!(of(1, 5).machine_id, of(2, 5).machine_id);
        let ids: BTreeSet<_> = (0..1000).map(|n| of(1, n).machine_id.as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let groups: Vec<_> = id.split('-').map(str::len).collect();
            assert!(id.starts_with(MACHINE_ID_START) && groups == [8, 4, 4, 4, 12], "{id}");
        }
    }

    #[test]
    fn hosts_are_mixed_as_the_plan_says() {
        let hosts: Vec<_> =
            (0..2000).map(|number| HostProfile::of(&plan(), number).expect("a host")).collect();
        let share = |of: &dyn Fn(&HostProfile) -> bool| {
            hosts.iter().filter(|host| of(host)).count() * 100 / hosts.len()
        };
        assert!((65..75).contains(&share(&|host| host.facts.santa_version == "2026.4")));
        assert!(
            (75..85).contains(&share(&|host| host.content_encoding == ContentEncoding::Deflate))
        );
        assert!((15..25).contains(&share(&|host| host.transfer == Transfer::Protobuf)));
    }
}
