//! What a simulation does, as plain values: the command line fills them in, and
//! every report repeats them, so that shards can be told to belong together.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::mix::{Mix, parse_percent};
pub use self::storms::{Outage, Storm, StormKind};
pub use self::times::{Shown, parse_duration};
pub(super) use self::times::{millis, whole_millis};
use super::groups::{HostGroup, MAX_BUNDLE_BINARIES, MAX_GROUPS};
use crate::model::text::counted;
use crate::sync::schedule::{FIRST_SYNC_DELAY, MAX_SPLAY};

mod mix;
mod storms;
mod times;

/// What a simulation does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulationPlan {
    /// The server, with what may be a secret in its URL cut.
    pub url: String,
    /// Hosts of all shards together.
    pub hosts: u32,
    /// Which of them this process plays.
    pub shard: Shard,
    /// Repeats the hosts, their events and who takes part in a storm.
    pub seed: u64,
    /// Over this time the hosts start, one after another.
    #[serde(rename = "ramp_ms", with = "millis")]
    pub ramp: Duration,
    /// How long it lasts, the ramp included.
    #[serde(rename = "lasting_ms", with = "millis")]
    pub lasting: Duration,
    /// The interval between syncs in seconds; `None` for what the server says.
    pub interval_secs: Option<u32>,
    /// How many times as fast as real time the clocks of the hosts run. Their
    /// intervals, waits and events shrink by it; the server and the network do not
    /// know.
    pub speed: u32,
    /// Versions of Santa that the hosts report.
    pub versions: Mix<String>,
    /// Content encodings of requests: `deflate`, `gzip` or `none`.
    pub encodings: Mix<String>,
    /// The percentage of hosts that speak protobuf instead of JSON.
    pub protobuf_percent: u8,
    /// Groups of hosts that differ from the plan's values, at most [`MAX_GROUPS`]. If there are
    /// any, every host belongs to one.
    pub groups: Vec<HostGroup>,
    /// Events per host and hour.
    pub events_per_hour: Mix<u32>,
    /// Bytes of an event as protobuf, before compression. An event is never smaller than about
    /// 700 bytes.
    pub event_bytes: Mix<u32>,
    /// The percentage of events that report something denied.
    pub denied_percent: u8,
    /// The percentage of hosts that upload soon after something was denied, as the agent does
    /// unless `PromptEventUpload` is false.
    pub prompt_percent: u8,
    /// The number of executables in the bundle of a denied execution; 0 for an execution in no
    /// bundle.
    pub bundle_binaries: Mix<u32>,
    /// Bytes that the responses to all hosts of a process, and the rules of running downloads,
    /// may take together.
    pub response_memory: u64,
    /// What many hosts do at once.
    pub storms: Vec<Storm>,
    /// When the simulator itself refuses every connection of its hosts.
    pub outages: Vec<Outage>,
}

impl SimulationPlan {
    /// The most hosts of one simulation.
    pub const MAX_HOSTS: u32 = 1_000_000;
    /// What responses may take by default: 512 MiB.
    pub const RESPONSE_MEMORY: u64 = 512 << 20;
    /// The longest simulation.
    pub const MAX_LASTING: Duration = Duration::from_hours(7 * 24);

    /// A plan for a hundred hosts and five minutes.
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            hosts: 100,
            shard: Shard::default(),
            seed: 1,
            ramp: Duration::from_mins(1),
            lasting: Duration::from_mins(5),
            interval_secs: None,
            speed: 1,
            versions: Mix::only("2026.8".to_owned()),
            encodings: Mix::only("deflate".to_owned()),
            protobuf_percent: 0,
            groups: Vec::new(),
            denied_percent: 10,
            prompt_percent: 100,
            bundle_binaries: Mix::only(0),
            events_per_hour: Mix::only(6),
            event_bytes: Mix::only(0),
            response_memory: Self::RESPONSE_MEMORY,
            storms: Vec::new(),
            outages: Vec::new(),
        }
    }

    /// Checks what the types do not.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        if !(1..=Self::MAX_HOSTS).contains(&self.hosts) {
            return Err(PlanError::Hosts(self.hosts));
        }
        if self.shard.of > self.hosts {
            return Err(PlanError::Shards(self.shard, self.hosts));
        }
        if self.lasting.is_zero() || self.lasting > Self::MAX_LASTING {
            return Err(PlanError::Lasting(self.lasting));
        }
        if self.ramp > self.lasting {
            return Err(PlanError::Ramp { ramp: self.ramp, lasting: self.lasting });
        }
        if self.response_memory == 0 {
            return Err(PlanError::ResponseMemory);
        }
        if self.speed == 0 {
            return Err(PlanError::Speed);
        }
        self.check_hosts()?;
        let starts = self.storms.iter().map(|storm| storm.at);
        let starts = starts.chain(self.outages.iter().map(|outage| outage.at));
        if let Some(at) = starts.into_iter().find(|at| *at >= self.lasting) {
            return Err(PlanError::AfterTheEnd { at, lasting: self.lasting });
        }
        Ok(())
    }

    /// Which hosts will never sync, because the simulation is too short for them; `None`
    /// if it is long enough for all.
    #[must_use]
    pub fn too_short(&self) -> Option<TooShort> {
        let speed = self.speed.max(1);
        let (first, last) = (FIRST_SYNC_DELAY / speed, (FIRST_SYNC_DELAY + MAX_SPLAY) / speed);
        let all_have_synced = self.ramp + last;
        (self.lasting < all_have_synced).then(|| TooShort {
            for_all: self.lasting <= first,
            ramp: self.ramp,
            lasting: self.lasting,
            enough: Duration::from_secs(all_have_synced.as_secs() + 1),
        })
    }

    /// The hosts that this shard plays: every `of`-th one, so that each shard ramps
    /// up as all of them do.
    pub(super) fn own_hosts(&self) -> impl Iterator<Item = u32> + use<> {
        (self.shard.index - 1..self.hosts).step_by(self.shard.of as usize)
    }
}

/// A simulation that ends before every host has synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort {
    /// It is so for every host, not only for those that start last.
    for_all: bool,
    ramp: Duration,
    lasting: Duration,
    enough: Duration,
}

impl TooShort {
    /// Says which hosts will not sync.
    #[must_use]
    pub const fn who(&self) -> &'static str {
        if self.for_all { "no host will sync" } else { "the hosts that start last will not sync" }
    }
}

/// Why, and what to change.
impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a host first syncs 15 to 30 s after its start, by its own clock; the last host starts \
             after {}, and the simulation ends after {}: give --for {} or more",
            Shown(self.ramp),
            Shown(self.lasting),
            Shown(self.enough)
        )
    }
}

/// Why a plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each message says what its variant is")]
pub enum PlanError {
    #[error("{0} hosts cannot be simulated; ask for 1 to {max}", max = SimulationPlan::MAX_HOSTS)]
    Hosts(u32),
    #[error("shard {0} would get none of {hosts}; use fewer shards", hosts = counted((*.1).into(), "host"))]
    Shards(Shard, u32),
    #[error("a simulation cannot last {}; ask for up to 7 days", Shown(*.0))]
    Lasting(Duration),
    #[error("the ramp of {} is longer than the simulation, which ends after {}", Shown(*.ramp), Shown(*.lasting))]
    Ramp { ramp: Duration, lasting: Duration },
    #[error(
        "hosts cannot sync every {0} s, only every 60 to 604800 s; for more load, use more hosts \
         or a higher speed"
    )]
    Interval(u32),
    #[error("without memory for responses no host could sync; grant at least 1 MiB")]
    ResponseMemory,
    #[error("a speed of 0 would stop the hosts' clocks; 1 is real time")]
    Speed,
    #[error("{0:?} is not a content encoding of requests; use deflate, gzip or none")]
    Encoding(String),
    #[error("{0:?} is not a transfer form; use json or protobuf")]
    Transfer(String),
    #[error("a bundle cannot have {0} executables; ask for up to {MAX_BUNDLE_BINARIES}")]
    Bundle(u32),
    #[error("{0} groups of hosts are too many; the maximum is {MAX_GROUPS}")]
    TooManyGroups(usize),
    #[error("the groups have {groups} hosts together, and the simulation {hosts}")]
    Groups { groups: u64, hosts: u32 },
    #[error("nothing can happen at {}: the simulation ends after {}", Shown(*.at), Shown(*.lasting))]
    AfterTheEnd { at: Duration, lasting: Duration },
}

/// Which part of the hosts a process plays: part `index`, from 1, of `of` parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    /// Which part, from 1.
    pub index: u32,
    /// Of how many parts.
    pub of: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 1, of: 1 }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (index, of) = text.split_once('/').ok_or(Self::EXPECTED)?;
        match (index.parse(), of.parse()) {
            (Ok(index), Ok(of)) if 1 <= index && index <= of => Ok(Self { index, of }),
            _ => Err(Self::EXPECTED),
        }
    }
}

impl Shard {
    const EXPECTED: &'static str = "write which part of how many, from 1: 3/8";
}

#[cfg(test)]
mod tests;
