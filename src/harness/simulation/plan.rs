//! What a simulation does, as plain values: the command line fills them in, and
//! every report repeats them, so that shards can be told to belong together.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::groups::{HostGroup, MAX_BUNDLE_BINARIES};
use crate::harness::fixtures::Random;
use crate::model::text::counted;
use crate::sync::schedule::{FIRST_SYNC_DELAY, MAX_SPLAY};

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
    /// Groups of hosts that differ from the plan's values. If there are any, every host belongs
    /// to one.
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

/// Values and how often each occurs: `2026.4=70,2025.7=30`, or one value alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix<T>(Vec<Share<T>>);

/// A value of a [`Mix`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Share<T> {
    value: T,
    weight: u32,
}

impl<T> Mix<T> {
    /// Always that value.
    #[must_use]
    pub fn only(value: T) -> Self {
        Self(vec![Share { value, weight: 1 }])
    }

    /// Each of these values as often as the others.
    pub(super) fn evenly(values: Vec<T>) -> Self {
        Self(values.into_iter().map(|value| Share { value, weight: 1 }).collect())
    }

    /// The same weights for what each value leads to.
    pub(super) fn map<U>(self, other: impl Fn(T) -> U) -> Mix<U> {
        let shares = self.0.into_iter();
        let shares = shares.map(|Share { value, weight }| Share { value: other(value), weight });
        Mix(shares.collect())
    }

    /// Its values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|share| &share.value)
    }

    /// One of the values, by weight; `None` only if there are none.
    pub(super) fn pick(&self, random: &mut Random) -> Option<&T> {
        let total = self.0.iter().fold(0_u32, |sum, share| sum.saturating_add(share.weight));
        let mut left = random.below(total);
        for share in &self.0 {
            if left < share.weight {
                return Some(&share.value);
            }
            left -= share.weight;
        }
        None
    }
}

impl<T: fmt::Display> fmt::Display for Mix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{}", only.value),
            shares => shares.iter().enumerate().try_for_each(|(place, share)| {
                let comma = if place == 0 { "" } else { "," };
                write!(f, "{comma}{}={}", share.value, share.weight)
            }),
        }
    }
}

impl<T: FromStr> FromStr for Mix<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shares = text.split(',').map(|share| {
            let (value, weight) = share.split_once('=').unwrap_or((share, "1"));
            match (value.trim().parse(), weight.trim().parse()) {
                (Ok(value), Ok(weight @ 1..=1_000_000)) if !share.trim().is_empty() => {
                    Ok(Share { value, weight })
                }
                _ => Err(format!(
                    "{share:?} is not VALUE=WEIGHT with a weight of 1 to 1000000; separate \
                     several by commas"
                )),
            }
        });
        shares.collect::<Result<_, _>>().map(Self)
    }
}

/// What many hosts do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// What they do.
    pub kind: StormKind,
    /// When, from the start.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// The percentage of the hosts that have started.
    pub percent: u8,
}

/// What the hosts of a [`Storm`] do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StormKind {
    /// They request a clean sync, at their next sync.
    Clean,
    /// They sync at once, as if an operator had told all of them to.
    Sync,
    /// They reboot: a running sync breaks off, and the first one comes 15 to 30 s
    /// after the start, as the agent's does.
    Reboot,
}

impl StormKind {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Sync => "sync",
            Self::Reboot => "reboot",
        }
    }
}

/// `clean@10m`, `reboot@20m:50%`.
impl FromStr for Storm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "write KIND@TIME or KIND@TIME:SHARE%, for example clean@10m or \
                                reboot@20m:50%; the kinds are clean, sync and reboot";
        let (kind, when) = text.split_once('@').ok_or(EXPECTED)?;
        let kind = [StormKind::Clean, StormKind::Sync, StormKind::Reboot]
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or(EXPECTED)?;
        let (at, percent) = when.split_once(':').unwrap_or((when, "100%"));
        let percent = parse_percent(percent).filter(|percent| *percent > 0).ok_or(EXPECTED)?;
        Ok(Self { kind, at: parse_duration(at).ok_or(EXPECTED)?, percent })
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name(), Shown(self.at))?;
        if self.percent < 100 { write!(f, ":{}%", self.percent) } else { Ok(()) }
    }
}

/// A time in which the simulator refuses every connection of its hosts and cuts
/// those there are, as if the server were gone. The server itself sees silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it begins, from the start.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// How long it lasts.
    #[serde(rename = "lasting_ms", with = "millis")]
    pub lasting: Duration,
}

/// `20m:5m`.
impl FromStr for Outage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "write TIME:LENGTH, for example 20m:5m";
        let (at, lasting) = text.split_once(':').ok_or(EXPECTED)?;
        let at = parse_duration(at).ok_or(EXPECTED)?;
        let lasting = parse_duration(lasting).filter(|length| !length.is_zero());
        Ok(Self { at, lasting: lasting.ok_or(EXPECTED)? })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Shown(self.at), Shown(self.lasting))
    }
}

/// Reads a time such as `90s`, `10m`, `1h`, `250ms` or `2d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Reads a share such as `20%` or `20`.
#[must_use]
pub fn parse_percent(text: &str) -> Option<u8> {
    text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent <= 100)
}

/// A time as [`parse_duration`] reads it, in the largest unit that is exact.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (number, unit) = match millis {
            0 => (0, "s"),
            n if n % 86_400_000 == 0 => (n / 86_400_000, "d"),
            n if n % 3_600_000 == 0 => (n / 3_600_000, "h"),
            n if n % 60_000 == 0 => (n / 60_000, "m"),
            n if n % 1000 == 0 => (n / 1000, "s"),
            n => (n, "ms"),
        };
        write!(f, "{number}{unit}")
    }
}

/// A time as the JSON of a report keeps it, so that a report read again says the same.
pub(super) fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Durations as whole milliseconds.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::harness::simulation) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(in crate::harness::simulation) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests;
