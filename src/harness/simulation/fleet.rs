//! Carries out a plan: starts hosts, begins their syncs when the agent's own schedule
//! says so, and plays storms and outages.
//!
//! Everything runs on one thread. A host between two syncs is a value and an entry in
//! a queue of times; only a sync that runs is a task with a connection.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::uploads::EndedUpload;
use super::host::{SharedWorld, SimulatedHost};
use super::measure::SimulatedEnd;
use super::plan::SimulationPlan;
use super::profile::{HostProfile, host_seed};
use super::{SimulationError, SimulationProgress, process};
use crate::clock::Clock as _;
use crate::harness::fixtures::Random;
use crate::model::Now;
use crate::sync::Stop;
use crate::sync::schedule::{PromptSchedule, Schedule, SyncEnd, splay_number};

mod storms;
mod uploads;

/// How long running syncs may take to end once the simulation is over.
const GRACE: Duration = Duration::from_secs(10);
/// The time between two reports of progress, and two measurements of the process.
const TICK: Duration = Duration::from_millis(500);

/// A host and when it syncs.
struct Slot {
    /// Taken while it syncs.
    host: Option<Box<SimulatedHost>>,
    /// `None` before it has started.
    schedule: Option<Schedule>,
    random: Random,
    /// The seed of its splay.
    splay: u64,
    /// A clean sync is to be requested once the one that runs has ended.
    clean_wanted: bool,
    /// How often it has been planned anew: older entries of the queue are ignored.
    plans: u32,
    /// When it uploads between syncs.
    prompt: PromptSchedule,
    /// The time of the oldest denial that the server does not know of yet.
    denied_at: Option<Duration>,
    /// As `plans`, for [`Due::Wake`].
    wakes: u32,
}

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Start {
        slot: usize,
    },
    Sync {
        slot: usize,
        plans: u32,
    },
    /// Something is denied, or an upload between syncs is due.
    Wake {
        slot: usize,
        wakes: u32,
    },
    Storm {
        number: usize,
    },
    OutageBegins,
    OutageEnds,
}

/// A sync that has ended; `end` is `None` if a reboot broke it off.
struct Ended {
    slot: usize,
    host: Box<SimulatedHost>,
    end: Option<SimulatedEnd>,
    began: Now,
}

/// The hosts of one process and what happens to them.
pub(super) struct Fleet<'a> {
    plan: &'a SimulationPlan,
    world: Rc<SharedWorld>,
    slots: Vec<Slot>,
    /// What is due when, in real time since the start.
    queue: BinaryHeap<Reverse<(Duration, Due)>>,
    syncing: JoinSet<Ended>,
    uploading: JoinSet<EndedUpload>,
    /// Breaks the sync or the upload of a slot off.
    reboots: HashMap<usize, oneshot::Sender<()>>,
    down: watch::Sender<bool>,
    outages: u32,
    started: u32,
    peak_memory: Option<u64>,
}

impl<'a> Fleet<'a> {
    /// The hosts of this plan's shard, none of which has started.
    pub(super) fn new(
        plan: &'a SimulationPlan,
        world: Rc<SharedWorld>,
        down: watch::Sender<bool>,
    ) -> Result<Self, SimulationError> {
        let mut queue = BinaryHeap::new();
        let mut slots = Vec::new();
        let now = world.clock.now().wall;
        for number in plan.own_hosts() {
            let profile = HostProfile::of(plan, number).map_err(SimulationError::MachineId)?;
            world.measured.borrow_mut().host_takes_part(profile.group);
            let seed = host_seed(plan, number);
            let splay = splay_number(&profile.machine_id);
            let share = f64::from(number) / f64::from(plan.hosts);
            queue.push(Reverse((plan.ramp.mul_f64(share), Due::Start { slot: slots.len() })));
            slots.push(Slot {
                host: Some(Box::new(SimulatedHost::new(profile, seed, now))),
                schedule: None,
                random: Random::new(!seed),
                splay,
                clean_wanted: false,
                plans: 0,
                prompt: PromptSchedule::default(),
                denied_at: None,
                wakes: 0,
            });
        }
        for (number, storm) in plan.storms.iter().enumerate() {
            queue.push(Reverse((storm.at, Due::Storm { number })));
        }
        for outage in &plan.outages {
            queue.push(Reverse((outage.at, Due::OutageBegins)));
            queue.push(Reverse((outage.at + outage.lasting, Due::OutageEnds)));
        }
        Ok(Self {
            plan,
            world,
            slots,
            queue,
            syncing: JoinSet::new(),
            uploading: JoinSet::new(),
            reboots: HashMap::new(),
            down,
            outages: 0,
            started: 0,
            peak_memory: None,
        })
    }

    /// Runs until the plan's end or a stop. Returns whether it was stopped.
    pub(super) async fn run(
        &mut self,
        mut stop: Stop,
        on_progress: &mut dyn FnMut(&SimulationProgress),
    ) -> bool {
        let mut tick = TICK;
        let is_stopped = loop {
            let at = self.world.clock.real_elapsed();
            self.begin_what_is_due(at);
            if at >= self.plan.lasting {
                break false;
            }
            if at >= tick {
                tick = at + TICK;
                self.note(at, on_progress);
            }
            let next = self.queue.peek().map_or(tick, |Reverse((due, _))| *due);
            let wait = next.min(tick).min(self.plan.lasting).saturating_sub(at);
            tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => break true,
                Some(ended) = self.syncing.join_next() => self.sync_ended(ended.ok()),
                Some(ended) = self.uploading.join_next() => self.upload_ended(ended.ok()),
                () = tokio::time::sleep(wait) => {}
            }
        };
        let finishing = async {
            while let Some(ended) = self.syncing.join_next().await {
                self.sync_ended(ended.ok());
            }
            while let Some(ended) = self.uploading.join_next().await {
                self.upload_ended(ended.ok());
            }
        };
        // What does not end in time is counted as unfinished.
        let _ = tokio::time::timeout(GRACE, finishing).await;
        self.world.measured.borrow_mut().syncs_left(self.syncing.len() as u64);
        self.syncing.shutdown().await;
        self.uploading.shutdown().await;
        self.note(self.world.clock.real_elapsed(), on_progress);
        is_stopped
    }

    /// How many hosts there are.
    pub(super) fn hosts(&self) -> usize {
        self.slots.len()
    }

    /// The most memory that the process had, in bytes, if it can be read.
    pub(super) const fn peak_memory(&self) -> Option<u64> {
        self.peak_memory
    }

    fn begin_what_is_due(&mut self, at: Duration) {
        while let Some(Reverse((due, what))) = self.queue.peek().copied() {
            if due > at {
                return;
            }
            self.queue.pop();
            match what {
                Due::Start { slot } => {
                    self.started += 1;
                    self.start(slot);
                }
                Due::Sync { slot, plans } => self.begin_sync(slot, plans, at.saturating_sub(due)),
                Due::Wake { slot, wakes } => self.wake(slot, wakes),
                Due::Storm { number } => self.storm(number),
                Due::OutageBegins => self.count_outages(self.outages + 1),
                Due::OutageEnds => self.count_outages(self.outages.saturating_sub(1)),
            }
        }
    }

    fn count_outages(&mut self, outages: u32) {
        self.outages = outages;
        self.down.send_replace(outages > 0);
    }

    /// The agent of a host starts.
    fn start(&mut self, slot: usize) {
        let now = self.world.clock.now();
        self.schedule(slot, |state| {
            state.schedule = Some(Schedule::new(now, state.splay));
            // What was denied before goes up with the first sync.
            (state.prompt, state.denied_at) = (PromptSchedule::default(), None);
        });
        self.events_happen(slot);
        self.plan_wake(slot);
    }

    /// A host is between two syncs again.
    fn is_back(&mut self, slot: usize, mut host: Box<SimulatedHost>) {
        let now = self.world.clock.now();
        let Some(state) = self.slots.get_mut(slot) else { return };
        if std::mem::take(&mut state.clean_wanted) {
            host.request_clean_sync(now.wall);
        }
        state.host = Some(host);
        self.events_happen(slot);
    }

    /// Changes when a host syncs.
    fn schedule(&mut self, slot: usize, change: impl FnOnce(&mut Slot)) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        change(state);
        let Some(due) = state.schedule.as_ref().and_then(Schedule::due) else { return };
        state.plans += 1;
        let at = self.world.clock.real_elapsed() + self.world.clock.until(due);
        self.queue.push(Reverse((at, Due::Sync { slot, plans: state.plans })));
    }

    fn begin_sync(&mut self, slot: usize, plans: u32, lateness: Duration) {
        self.events_happen(slot);
        let now = self.world.clock.now();
        let Some(state) = self.slots.get_mut(slot).filter(|state| state.plans == plans) else {
            return;
        };
        if state.host.is_none() {
            // The end of what it does plans again.
            return;
        }
        let Some(schedule) = &mut state.schedule else { return };
        let begun = state.host.is_some().then(|| schedule.begin(now)).flatten();
        let (Some(why), Some(mut host)) = (begun, state.host.take()) else {
            // The clocks differ by a rounding, or the last sync has not ended.
            self.schedule(slot, |_| {});
            return;
        };
        let at = self.world.clock.real_elapsed();
        let group = host.profile().group;
        self.world.measured.borrow_mut().sync_begins(group, at, lateness);
        let (reboot, rebooted) = oneshot::channel();
        self.reboots.insert(slot, reboot);
        let world = Rc::clone(&self.world);
        self.syncing.spawn_local(async move {
            let end = tokio::select! {
                end = host.sync(&world, why.trigger()) => Some(end),
                Ok(()) = rebooted => None,
            };
            Ended { slot, host, end, began: now }
        });
        self.world.measured.borrow_mut().note_running(at, self.syncing.len() as u64);
    }

    /// A sync has ended, or its task died, and then its host with it.
    fn sync_ended(&mut self, ended: Option<Ended>) {
        let Some(Ended { slot, host, end, began }) = ended else { return };
        self.reboots.remove(&slot);
        let now = self.world.clock.now();
        let at = self.world.clock.real_elapsed();
        let took = now.elapsed.saturating_sub(began.elapsed);
        let interval = host.profile().interval_secs.or_else(|| host.interval_secs());
        let counted = end.unwrap_or(SimulatedEnd::BrokenOff);
        {
            let mut measured = self.world.measured.borrow_mut();
            // Up to here one more ran.
            measured.note_running(at, self.syncing.len() as u64 + 1);
            measured.note_running(at, self.syncing.len() as u64);
            measured.sync_ends(host.profile().group, at, took, counted);
        }
        self.is_back(slot, host);
        let end = match end {
            Some(SimulatedEnd::Succeeded { .. }) => Some(SyncEnd::Success),
            Some(SimulatedEnd::Failed) => Some(SyncEnd::Failure),
            // Its schedule began anew when it rebooted.
            Some(SimulatedEnd::BrokenOff) | None => None,
        };
        self.schedule(slot, |state| {
            let Some(end) = end else { return };
            let random = f64::from(state.random.below(u32::MAX)) / f64::from(u32::MAX);
            if let Some(schedule) = &mut state.schedule {
                schedule.end(now, end, interval, random);
            }
            let left = state.host.as_ref().map(|host| host.events_pending());
            state.prompt.sync_ended(began.elapsed, left);
            if state.prompt.due().is_none() {
                state.denied_at = None;
            }
        });
        self.plan_wake(slot);
    }

    fn note(&mut self, at: Duration, on_progress: &mut dyn FnMut(&SimulationProgress)) {
        self.peak_memory = self.peak_memory.max(process::memory());
        let running = self.syncing.len() as u64;
        let mut measured = self.world.measured.borrow_mut();
        measured.note_running(at, running);
        on_progress(&SimulationProgress {
            elapsed: at,
            lasting: self.plan.lasting,
            hosts: self.slots.len(),
            started: self.started,
            running,
            syncs: measured.syncs,
            requests: measured.requests(),
            is_down: *self.down.borrow(),
        });
    }
}
