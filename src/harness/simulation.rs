//! Many simulated hosts in one process, to see what a fleet does to a server.
//!
//! Each host runs the agent's own code: the state machine of a sync, the messages and
//! encodings, the transport, the waits between attempts, and the daemon's schedule
//! with its splay, jitter and back-off. Only its stores are in memory, and rules that
//! hosts share are kept once. Every sync opens connections of its own and drops its
//! cookies and TLS sessions, as the agent's does.
//!
//! ```
//! use std::time::Duration;
//!
//! use santa_sync::harness::{FakeServer, Simulation, fixtures};
//!
//! let server = FakeServer::builder().rules(fixtures::rules(100, 1)).start()?;
//! let report = Simulation::new(&server.url())?
//!     .hosts(20)
//!     .ramp(Duration::from_millis(100))
//!     // The hosts' clocks run 100 times as fast: their first sync comes after 15 s.
//!     .speed(100)
//!     .lasting(Duration::from_secs(2))
//!     .run()?;
//! assert_eq!(report.measured.syncs.failed, 0);
//! assert!(report.measured.syncs.succeeded >= 20);
//! assert!(report.to_html().contains("prefers-color-scheme"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Hosts upload soon after something was denied, and send events for the executables of bundles
//! that the server requests. Only the time that a real host spends on its disk and on hashing a
//! bundle is missing.

pub mod events;
mod fleet;
pub mod groups;
pub mod host;
pub mod latency;
pub mod measure;
pub mod mix_file;
pub mod network;
mod page;
pub mod plan;
mod plot;
pub mod process;
pub mod profile;
mod prompt;
mod recovery;
pub mod report;
pub mod rules;
pub mod series;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use tokio::task::LocalSet;

use self::events::EventTraits;
use self::fleet::Fleet;
use self::host::SharedWorld;
use self::measure::{Measurements, SyncCounts};
use self::network::{HostClock, SimulatedNetwork};
use self::plan::{Mix, Outage, PlanError, Shard, SimulationPlan, Storm};
use self::report::{ShardRun, SimulationReport};
use crate::clock::{self, Clock as _};
use crate::config::Config;
use crate::failure::{Failure, Remedy};
use crate::model::{BaseUrl, BaseUrlError, MachineId, MachineIdError, is_loopback};
use crate::sync::run::transport_options;
use crate::sync::{Stop, stop_channel};
use crate::transport::{ResponseBudget, Transport, TransportOptions};

/// Why a simulation did not begin.
#[derive(Debug, Error)]
pub enum SimulationError {
    /// The URL cannot be a server's.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// The server is on another host, and the caller has not confirmed to own it.
    #[error("{0} is not on this host, and a simulation can overload a server")]
    NotYours(String),
    /// The plan cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Trust roots, client certificate or proxy cannot be used.
    #[error(transparent)]
    Transport(#[from] Failure),
    /// Nothing listens at the server's address.
    #[error("no host could sync: {0}")]
    Unreachable(Failure),
    /// A simulated host has no machine id.
    #[error("a simulated host has no machine id: {0}")]
    MachineId(MachineIdError),
    /// The asynchronous runtime cannot be started.
    #[error("cannot start the asynchronous runtime: {0}")]
    Runtime(io::Error),
}

impl Remedy for SimulationError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            // Its message ends in what to do.
            Self::Url(_) | Self::Plan(_) | Self::MachineId(_) => None,
            Self::NotYours(_) => Some(
                "if it is yours to load, say so with --i-own-this-server (in the library, \
                 Simulation::on_my_own_server)"
                    .into(),
            ),
            Self::Transport(failure) | Self::Unreachable(failure) => failure.fix(),
            Self::Runtime(_) => Some("free some memory or threads of this user".into()),
        }
    }
}

/// The progress of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulationProgress {
    /// Since its start.
    pub elapsed: Duration,
    /// How long it lasts.
    pub lasting: Duration,
    /// Hosts of this process.
    pub hosts: usize,
    /// Of these, how many have started.
    pub started: u32,
    /// Syncs that run.
    pub running: u64,
    /// What became of syncs so far.
    pub syncs: SyncCounts,
    /// Attempts so far that were not cut by a simulated outage.
    pub requests: u64,
    /// Whether a simulated outage is in progress.
    pub is_down: bool,
}

/// A simulation to run. Every setting has a default: a hundred hosts that start over
/// a minute and sync for five, as often as the server says.
#[must_use]
pub struct Simulation {
    base_url: BaseUrl,
    options: TransportOptions,
    plan: SimulationPlan,
    is_owned: bool,
    on_progress: Box<dyn FnMut(&SimulationProgress)>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Simulation {
    /// A simulation against the server with this base URL.
    ///
    /// # Errors
    /// If it cannot be a server's URL.
    pub fn new(url: &str) -> Result<Self, SimulationError> {
        let base_url = BaseUrl::parse(url)?;
        // Each host has an id of its own.
        let any = MachineId::new("simulation").map_err(SimulationError::MachineId)?;
        Ok(Self {
            plan: SimulationPlan::new(base_url.to_string()),
            options: TransportOptions::new(base_url.clone(), any),
            base_url,
            is_owned: false,
            on_progress: Box::new(|_| {}),
        })
    }

    /// Uses a configuration to reach the server: its extra headers, trust roots, client
    /// certificate and proxy.
    pub fn config(mut self, config: &Config) -> Self {
        let machine_id = self.options.machine_id.clone();
        self.options = transport_options(config, self.base_url.clone(), machine_id, "");
        self
    }

    /// Allows a server that is not on this host. The caller is responsible for the load.
    pub const fn on_my_own_server(mut self) -> Self {
        self.is_owned = true;
        self
    }

    /// Replaces the whole plan but its URL.
    pub fn plan(mut self, plan: SimulationPlan) -> Self {
        self.plan = SimulationPlan { url: self.plan.url, ..plan };
        self
    }

    /// The plan so far.
    #[must_use]
    pub const fn current_plan(&self) -> &SimulationPlan {
        &self.plan
    }

    /// Sets the number of hosts of all shards together.
    pub const fn hosts(mut self, hosts: u32) -> Self {
        self.plan.hosts = hosts;
        self
    }

    /// Plays only this part of the hosts.
    pub const fn shard(mut self, shard: Shard) -> Self {
        self.plan.shard = shard;
        self
    }

    /// Sets the seed, which decides the hosts, their events and who takes part in a storm.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.plan.seed = seed;
        self
    }

    /// Sets the time over which the hosts start.
    pub const fn ramp(mut self, ramp: Duration) -> Self {
        self.plan.ramp = ramp;
        self
    }

    /// Sets how long the simulation lasts, the ramp included.
    pub const fn lasting(mut self, lasting: Duration) -> Self {
        self.plan.lasting = lasting;
        self
    }

    /// Sets the interval between syncs in seconds, whatever the server says.
    pub const fn interval_secs(mut self, secs: u32) -> Self {
        self.plan.interval_secs = Some(secs);
        self
    }

    /// Sets how many times as fast as real time the hosts' clocks run.
    pub const fn speed(mut self, speed: u32) -> Self {
        self.plan.speed = speed;
        self
    }

    /// Sets how many events a host queues in an hour.
    pub fn events_per_hour(mut self, events: Mix<u32>) -> Self {
        self.plan.events_per_hour = events;
        self
    }

    /// Sets how many bytes the responses to all hosts, and the rules of running downloads, may
    /// take together. A single response may not exceed that either, nor 128 MiB.
    pub const fn response_memory(mut self, bytes: u64) -> Self {
        self.plan.response_memory = bytes;
        self
    }

    /// Has many hosts do something at once.
    pub fn storm(mut self, storm: Storm) -> Self {
        self.plan.storms.push(storm);
        self
    }

    /// Plays an outage.
    pub fn outage(mut self, outage: Outage) -> Self {
        self.plan.outages.push(outage);
        self
    }

    /// Sets a function that is called about twice a second with the progress.
    pub fn on_progress(mut self, call: impl FnMut(&SimulationProgress) + 'static) -> Self {
        self.on_progress = Box::new(call);
        self
    }

    /// Runs it to its end on this thread.
    ///
    /// # Errors
    /// If it cannot begin.
    pub fn run(self) -> Result<SimulationReport, SimulationError> {
        let (_sender, stop) = stop_channel();
        self.run_until(stop)
    }

    /// Runs it to its end, or until it is stopped, on this thread.
    ///
    /// # Errors
    /// If it cannot begin.
    pub fn run_until(mut self, stop: Stop) -> Result<SimulationReport, SimulationError> {
        self.plan.check()?;
        if !self.is_owned && !is_loopback(self.base_url.as_url()) {
            return Err(SimulationError::NotYours(self.base_url.to_string()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(SimulationError::Runtime)?;
        let memory = usize::try_from(self.plan.response_memory).unwrap_or(usize::MAX);
        let budget = ResponseBudget::new(memory);
        self.options.max_body = self.options.max_body.min(memory);
        self.options.response_budget = Some(budget.clone());
        let transport = self.reachable(&runtime, stop.clone())?;
        let memory_before = process::memory();
        let cpu_before = clock::process_time();
        let (down, network) = SimulatedNetwork::new();
        let clock = HostClock::new(self.plan.speed);
        let started_at = clock.now().wall;
        let world = Rc::new(SharedWorld {
            transport,
            base_url: self.base_url,
            clock,
            network,
            budget,
            rules: rules::RuleBook::default(),
            events: EventTraits::of(&self.plan),
            measured: RefCell::new(Measurements::new(self.plan.lasting, &self.plan.groups)),
        });
        let mut fleet = Fleet::new(&self.plan, Rc::clone(&world), down)?;
        let running = fleet.run(stop, &mut *self.on_progress);
        let is_stopped = LocalSet::new().block_on(&runtime, running);
        let run = ShardRun {
            shard: self.plan.shard,
            hosts: fleet.hosts() as u64,
            started_at,
            lasted: plan::whole_millis(clock.real_elapsed().min(self.plan.lasting)),
            is_stopped,
            cpu: plan::whole_millis(clock::process_time().saturating_sub(cpu_before)),
            memory_before,
            memory_peak: fleet.peak_memory(),
        };
        let measured = world.measured.take();
        // A thread that still waits for DNS must not delay the end.
        runtime.shutdown_background();
        Ok(SimulationReport::of(self.plan, run, measured))
    }

    /// What the hosts' transports are made like, once something listens at the server's
    /// address: a wrong port is to be known before the ramp, not after it.
    fn reachable(
        &self,
        runtime: &tokio::runtime::Runtime,
        mut stop: Stop,
    ) -> Result<Transport, SimulationError> {
        let transport = Transport::new(self.options.clone())?;
        let reached = runtime.block_on(async {
            tokio::select! {
                reached = transport.try_connect() => reached,
                // The simulation ends at once, with its report.
                Ok(_) = stop.wait_for(Option::is_some) => Ok(()),
            }
        });
        reached.map_err(SimulationError::Unreachable)?;
        Ok(transport)
    }
}
