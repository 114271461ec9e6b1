//! The report of a simulation: written as JSON, merged from shards, shown as text
//! or as a page.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::text::{ShownLatency, shown_bytes};
use super::measure::Measurements;
use super::page;
use super::plan::{Shard, Shown, SimulationPlan, millis};
use super::recovery::Recovery;
use super::series::as_float;
use crate::failure::{FailureKind, Remedy};
use crate::model::text::counted;
use crate::model::{Stage, Timestamp};

pub(super) mod text;

/// The version of the JSON form.
pub const SCHEMA_VERSION: u32 = 1;

/// What a simulation, or several shards of one, found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulationReport {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was to be done; its shard is that of one process that plays all hosts.
    pub plan: SimulationPlan,
    /// The processes that did it.
    pub shards: Vec<ShardRun>,
    /// What they measured, added up.
    pub measured: Measurements,
    /// The load before and after each simulated outage whose return was seen.
    pub recoveries: Vec<Recovery>,
}

/// A process that played some of the hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRun {
    /// Which hosts it played.
    pub shard: Shard,
    /// How many those are.
    pub hosts: u64,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it ran, without the time that the last syncs took to end.
    #[serde(rename = "lasted_ms", with = "millis")]
    pub lasted: Duration,
    /// It was stopped before the end.
    pub is_stopped: bool,
    /// CPU time that it took.
    #[serde(rename = "cpu_ms", with = "millis")]
    pub cpu: Duration,
    /// Memory of the process before it made its hosts, in bytes; `None` if the system
    /// does not say.
    pub memory_before: Option<u64>,
    /// The most memory of the process, in bytes.
    pub memory_peak: Option<u64>,
}

impl ShardRun {
    /// Bytes of memory for each host at the peak: rules, running syncs and what was
    /// measured included.
    #[must_use]
    pub fn memory_per_host(&self) -> Option<u64> {
        let grown = self.memory_peak?.checked_sub(self.memory_before?)?;
        grown.checked_div(self.hosts)
    }
}

/// Why reports cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MergeError {
    /// No report was given.
    #[error("there is no report to merge")]
    Nothing,
    /// Another version of the program wrote a report.
    #[error("the report of shard {shard} has schema version {found}, not {SCHEMA_VERSION}")]
    Version {
        /// The shard.
        shard: Shard,
        /// Its version.
        found: u32,
    },
    /// The reports are of different simulations.
    #[error("the reports of shards {0} and {1} are of simulations with different options")]
    OtherPlan(Shard, Shard),
    /// Two reports are of the same shard.
    #[error("two reports are of shard {0}")]
    Twice(Shard),
}

impl Remedy for MergeError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Nothing => "name at least one file".into(),
            Self::Version { .. } => "use one version of santa-sync for all shards".into(),
            Self::OtherPlan(..) => {
                "give every shard the same options, --seed included, and only --shard another"
                    .into()
            }
            Self::Twice(_) => "name the report of each shard once".into(),
        })
    }
}

impl SimulationReport {
    /// The report of one process.
    pub(super) fn of(mut plan: SimulationPlan, run: ShardRun, measured: Measurements) -> Self {
        plan.shard = Shard::default();
        let recoveries = Recovery::all(&plan, &measured.series, run.lasted);
        Self { schema_version: SCHEMA_VERSION, plan, shards: vec![run], measured, recoveries }
    }

    /// Merges the reports of the shards of one simulation.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn merged(reports: impl IntoIterator<Item = Self>) -> Result<Self, MergeError> {
        let mut reports = reports.into_iter();
        let mut all = reports.next().ok_or(MergeError::Nothing)?;
        all.check_version()?;
        for report in reports {
            report.check_version()?;
            let (first, other) = (all.first_shard(), report.first_shard());
            if report.plan != all.plan {
                return Err(MergeError::OtherPlan(first, other));
            }
            let known = |run: &&ShardRun| all.shards.iter().any(|k| k.shard == run.shard);
            if let Some(run) = report.shards.iter().find(known) {
                return Err(MergeError::Twice(run.shard));
            }
            // Parts of eight and of nine do not make a whole.
            if first.of != other.of {
                return Err(MergeError::OtherPlan(first, other));
            }
            all.measured.add(&report.measured);
            all.shards.extend(report.shards);
        }
        all.shards.sort_by_key(|run| run.shard);
        all.recoveries = Recovery::all(&all.plan, &all.measured.series, all.lasted());
        Ok(all)
    }

    fn check_version(&self) -> Result<(), MergeError> {
        if self.schema_version == SCHEMA_VERSION {
            return Ok(());
        }
        Err(MergeError::Version { shard: self.first_shard(), found: self.schema_version })
    }

    fn first_shard(&self) -> Shard {
        self.shards.first().map(|run| run.shard).unwrap_or_default()
    }

    /// The shards whose reports are missing.
    #[must_use]
    pub fn missing_shards(&self) -> Vec<Shard> {
        let of = self.first_shard().of;
        let all = (1..=of).map(|index| Shard { index, of });
        all.filter(|shard| self.shards.iter().all(|run| run.shard != *shard)).collect()
    }

    /// How long the simulation ran: as long as the shortest of its shards.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.shards.iter().map(|run| run.lasted).min().unwrap_or_default()
    }

    /// How far apart its shards started.
    #[must_use]
    pub fn started_apart(&self) -> Duration {
        let starts = || self.shards.iter().map(|run| run.started_at);
        starts().max().zip(starts().min()).map_or(Duration::ZERO, |(last, first)| last.since(first))
    }

    /// Hosts of all its shards.
    #[must_use]
    pub fn hosts(&self) -> u64 {
        self.shards.iter().map(|run| run.hosts).sum()
    }

    /// A count per second, over the whole time.
    #[must_use]
    pub fn per_second(&self, count: u64) -> f64 {
        let lasted = self.lasted().as_secs_f64();
        if lasted > 0.0 { as_float(count) / lasted } else { 0.0 }
    }

    /// The memory for each host of the shard that needs the most, in bytes.
    #[must_use]
    pub fn memory_per_host(&self) -> Option<u64> {
        self.shards.iter().filter_map(ShardRun::memory_per_host).max()
    }

    /// What a reader must know before the figures, in whole sentences.
    #[must_use]
    pub fn cautions(&self) -> Vec<String> {
        let mut cautions = Vec::new();
        let missing = self.missing_shards();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(Shard::to_string).collect();
            let names = names.join(", ");
            cautions.push(format!("The figures do not cover all hosts; missing shards: {names}."));
        }
        if self.measured.groups.len() != self.plan.groups.len() {
            cautions.push(
                "There are no figures by group: an earlier version of santa-sync wrote one of the \
                 reports."
                    .to_owned(),
            );
        }
        if self.shards.iter().any(|run| run.is_stopped) {
            let lasted = Shown(Duration::from_secs(self.lasted().as_secs()));
            cautions.push(format!("The simulation was stopped after {lasted}."));
        }
        if self.started_apart() > Duration::from_secs(10) {
            let apart = self.started_apart().as_secs();
            cautions.push(format!(
                "The shards started up to {apart} s apart; the times of each shard count from its \
                 own start."
            ));
        }
        if self.plan.speed > 1 {
            let speed = self.plan.speed;
            cautions.push(format!(
                "The hosts' clocks ran {speed} times as fast: the server saw {speed} times the \
                 load of that many hosts."
            ));
        }
        let begun = self.measured.syncs.begun;
        if begun < self.hosts() && missing.is_empty() {
            let why = self.plan.too_short().map_or_else(String::new, |why| format!("; {why}"));
            cautions.push(format!(
                "Not every host has synced: there were {} of {}{why}.",
                counted(begun, "sync"),
                counted(self.hosts(), "host")
            ));
        }
        let refused: u64 = self
            .failures()
            .into_iter()
            .filter(|(_, kind, _)| *kind == FailureKind::SimulatorMemory.name())
            .map(|(_, _, count)| count)
            .sum();
        if refused > 0 {
            let limit = shown_bytes(self.plan.response_memory);
            cautions.push(format!(
                "{refused} of the failed attempts are the simulator's fault: the responses to all \
                 hosts together took more than {limit}. Use more shards, or a larger \
                 --response-memory."
            ));
        }
        let late = self.measured.lateness.quantile(0.99).unwrap_or_default();
        if late > Duration::from_millis(500) {
            cautions.push(format!(
                "The simulator was short of CPU: one sync in a hundred began more than {} late. \
                 Part of each latency is the simulator's own; use more shards.",
                ShownLatency(late)
            ));
        }
        cautions
    }

    /// The kinds of failed attempts, the most frequent first.
    #[must_use]
    pub fn failures(&self) -> Vec<(Stage, &str, u64)> {
        self.measured.figures().failures()
    }

    /// The report as a page that needs no other file and no network.
    #[must_use]
    pub fn to_html(&self) -> String {
        page::page(self).to_string()
    }
}
