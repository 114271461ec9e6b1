//! The event queue of a simulated host. It holds only numbers; an event is made from its number
//! when it is sent.

mod bundle;
mod made;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use self::bundle::{Bundle, BundleState};
use super::plan::Mix;
use crate::harness::fixtures::Random;
use crate::model::{EventRow, Now, SettledEvents, Timestamp};
use crate::protocol::stored::{self, QueuedEvent};
use crate::store::{Refused, judge_refusal};

/// The most events that a host queues; beyond that, the oldest is dropped.
const MAX_QUEUED: usize = 100_000;
/// The largest total payload of a batch in bytes, the same as in the agent's own queue.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// What the events of some hosts are like.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTraits {
    /// Their sizes in bytes as protobuf.
    pub bytes: Mix<u32>,
    /// The percentage of events that report something denied.
    pub denied_percent: u8,
    /// The number of executables in the bundle of a denied execution; 0 for an execution that is
    /// in no bundle.
    pub bundle_binaries: Mix<u32>,
}

/// The events of one host.
#[derive(Debug)]
pub(super) struct EventQueue {
    pending: VecDeque<PendingEvent>,
    numbers: i64,
    /// Executions and accesses that were denied, and others.
    arrivals: [Arrivals; 2],
    /// The bundles that the server knows of.
    bundles: BTreeMap<Bundle, BundleState>,
}

/// Independent events at an average rate per hour.
#[derive(Debug)]
struct Arrivals {
    random: Random,
    /// When the next one happens, on the host's clock.
    next_at: Option<Duration>,
}

#[derive(Debug)]
struct PendingEvent {
    /// The number of its row.
    id: i64,
    payload: Payload,
    /// The largest batch that it may be in, once a server has refused one.
    batch_limit: Option<usize>,
    /// In how many syncs it was refused alone.
    alone: u32,
}

#[derive(Debug)]
enum Payload {
    /// Made when it is sent.
    Generated { seed: u64, at: Timestamp, bytes: u32, denied: bool, bundle: Option<Bundle> },
    /// One of the executables of a bundle that the server has requested.
    Member { bundle: Bundle, index: u32, at: Timestamp },
    /// As stored.
    Given(Rc<[u8]>),
}

impl Arrivals {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), next_at: None }
    }

    /// Begins with the first call.
    fn begin(&mut self, now: Duration, per_hour: f64) {
        if self.next_at.is_none() && per_hour > 0.0 {
            self.next_at = Some(now + self.gap(per_hour));
        }
    }

    fn gap(&mut self, per_hour: f64) -> Duration {
        // Never 0, whose logarithm is infinite.
        let share = f64::from(self.random.below(u32::MAX - 1) + 1) / f64::from(u32::MAX);
        Duration::from_secs_f64(-share.ln() * 3600.0 / per_hour)
    }
}

impl EventQueue {
    /// The places of both kinds in [`Self::arrivals`].
    const DENIED: usize = 0;

    pub(super) fn new(seed: u64) -> Self {
        let arrivals = [0x6465_6e69_6564, 0x6576_656e_7473].map(|kind| Arrivals::new(seed ^ kind));
        Self { pending: VecDeque::new(), numbers: 0, arrivals, bundles: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Queues this event.
    pub(super) fn push(&mut self, event: &QueuedEvent) {
        self.add(Payload::Given(stored::encode(event).into()));
    }

    fn add(&mut self, payload: Payload) {
        if self.pending.len() >= MAX_QUEUED {
            self.pending.pop_front();
        }
        self.numbers += 1;
        self.pending.push_back(PendingEvent {
            id: self.numbers,
            payload,
            batch_limit: None,
            alone: 0,
        });
    }

    /// Queues what has happened until now: `per_hour` events an hour on average, from
    /// the first call on. Returns when the first and the last thing was denied, if
    /// anything was.
    pub(super) fn happen(
        &mut self,
        now: Now,
        per_hour: u32,
        traits: &EventTraits,
    ) -> Option<(Duration, Duration)> {
        let denied_share = f64::from(traits.denied_percent) / 100.0;
        let rates = [denied_share, 1.0 - denied_share].map(|share| share * f64::from(per_hour));
        for (arrivals, rate) in self.arrivals.iter_mut().zip(rates) {
            arrivals.begin(now.elapsed, rate);
        }
        let mut denied: Option<(Duration, Duration)> = None;
        loop {
            let times = self.arrivals.iter().enumerate();
            let next = times.filter_map(|(kind, of)| Some((of.next_at?, kind))).min();
            let Some((at, kind)) = next.filter(|(at, _)| *at <= now.elapsed) else { break };
            let is_denied = kind == Self::DENIED;
            if is_denied {
                denied = Some((denied.map_or(at, |(first, _)| first), at));
            }
            let of = &mut self.arrivals[kind];
            let seed = of.random.next();
            let bytes = traits.bytes.pick(&mut of.random).copied().unwrap_or(0);
            let bundle =
                is_denied.then(|| Bundle::pick(&traits.bundle_binaries, &mut of.random)).flatten();
            of.next_at = Some(at + of.gap(rates[kind]));
            let ago = i64::try_from(now.elapsed.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
            let at = Timestamp::from_millis(now.wall.as_millis().saturating_sub(ago));
            if let Some(bundle) = bundle {
                self.bundles.entry(bundle).or_default();
            }
            self.add(Payload::Generated { seed, at, bytes, denied: is_denied, bundle });
        }
        denied
    }

    /// When something will be denied next, on the host's clock; `None` before the first
    /// call of [`Self::happen`], and if nothing is ever denied.
    pub(super) const fn next_denial(&self) -> Option<Duration> {
        self.arrivals[Self::DENIED].next_at
    }

    /// The oldest events, at most `limit`, up to the one numbered `horizon`.
    pub(super) fn batch(&self, limit: usize, horizon: i64) -> Vec<EventRow> {
        let (mut rows, mut room, mut total) = (Vec::new(), limit, 0);
        for event in &self.pending {
            if rows.is_empty() && event.id > horizon {
                break;
            }
            room = room.min(event.batch_limit.unwrap_or(usize::MAX));
            if !rows.is_empty() && rows.len() >= room {
                break;
            }
            let data = event.payload.stored();
            if !rows.is_empty() && total + data.len() > MAX_BATCH_BYTES {
                break;
            }
            total += data.len();
            rows.push(EventRow { id: event.id, unique_id: String::new(), data, oversize: None });
        }
        rows
    }

    /// The number of the last event so far.
    pub(super) const fn last(&self) -> i64 {
        self.numbers
    }

    /// Has the events of a batch leave the queue, and queues the executables of the
    /// bundles that the server requests.
    pub(super) fn settle(&mut self, settled: &SettledEvents, now: Timestamp) {
        for (hash, _) in &settled.bundles_delivered {
            let Some(bundle) = Bundle::of_hash(hash) else { continue };
            if let Some(state) = self.bundles.get_mut(&bundle) {
                state.delivered(bundle);
            }
        }
        self.take_out(&settled.ids().collect::<Vec<_>>());
        for hash in &settled.bundle_requests {
            let Some(bundle) = Bundle::of_hash(hash) else { continue };
            // Of others this host knows nothing.
            if self.bundles.get_mut(&bundle).is_some_and(BundleState::request) {
                for index in 0..bundle.executables {
                    self.add(Payload::Member { bundle, index, at: now });
                }
            }
        }
    }

    fn take_out(&mut self, gone: &[i64]) {
        let Some(last) = gone.iter().max() else { return };
        let first_kept = self.pending.partition_point(|event| event.id <= *last);
        let mut kept: Vec<_> =
            self.pending.drain(..first_kept).filter(|event| !gone.contains(&event.id)).collect();
        while let Some(event) = kept.pop() {
            self.pending.push_front(event);
        }
    }

    /// Notes that the server refused these events. Returns whether the only event of the batch
    /// was set aside, which the agent's queue does after three syncs.
    pub(super) fn refuse(&mut self, ids: &[i64], at_once: bool) -> bool {
        let Some(first) = self.pending.iter().find(|event| Some(&event.id) == ids.first()) else {
            return false;
        };
        let alone = if at_once { u32::MAX - 1 } else { first.alone };
        let (limit, alone) = match judge_refusal(ids.len(), alone) {
            Refused::Nothing => return false,
            Refused::SetAside => {
                self.pending.retain(|event| !ids.contains(&event.id));
                return true;
            }
            Refused::Smaller { batch_limit } => (batch_limit, 0),
            Refused::Alone { times } => (1, times),
        };
        for event in self.pending.iter_mut().filter(|event| ids.contains(&event.id)) {
            (event.batch_limit, event.alone) = (Some(limit), alone);
        }
        false
    }
}

impl Payload {
    fn stored(&self) -> Vec<u8> {
        match self {
            Self::Given(stored) => stored.to_vec(),
            Self::Generated { seed, at, bytes, denied, bundle } => {
                stored::encode(&made::event(*seed, *at, (*bytes, *denied), *bundle))
            }
            Self::Member { bundle, index, at } => {
                stored::encode(&made::member(*bundle, *index, *at))
            }
        }
    }
}

#[cfg(test)]
mod tests;
