//! The event queue of a simulated host: what is queued is a number, from which the
//! event itself is made when it is sent.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::fixtures::{self, AnyEvent, Random};
use crate::model::{EventRow, SettledEvents, Timestamp};
use crate::protocol::stored::{self, QueuedEvent};
use crate::protocol::wire;
use crate::store::{Refused, judge_refusal};

/// The most events that a host queues; then the oldest is dropped.
const MAX_QUEUED: usize = 100_000;
/// The largest total payload of a batch in bytes, as of the agent's own queue.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// The events of one host.
#[derive(Debug)]
pub(super) struct EventQueue {
    pending: VecDeque<PendingEvent>,
    numbers: i64,
    random: Random,
    /// When the next event happens, on the host's clock.
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
    Generated { seed: u64, at: Timestamp, bytes: u32 },
    /// As stored.
    Given(Rc<[u8]>),
}

impl EventQueue {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            pending: VecDeque::new(),
            numbers: 0,
            random: Random::new(seed ^ 0x6576_656e_7473),
            next_at: None,
        }
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

    /// Queues what has happened until now: independent events, so many an hour on
    /// average. `elapsed` is the host's clock.
    pub(super) fn happen(
        &mut self,
        (elapsed, wall): (Duration, Timestamp),
        per_hour: u32,
        bytes: impl Fn(&mut Random) -> u32,
    ) {
        if per_hour == 0 {
            return;
        }
        let gap = |random: &mut Random| {
            // Never 0, whose logarithm is infinite.
            let share = f64::from(random.below(u32::MAX - 1) + 1) / f64::from(u32::MAX);
            Duration::from_secs_f64(-share.ln() * 3600.0 / f64::from(per_hour))
        };
        let mut next = match self.next_at {
            Some(next) => next,
            None => elapsed + gap(&mut self.random),
        };
        while next <= elapsed {
            let seed = self.random.next();
            let bytes = bytes(&mut self.random);
            let ago = i64::try_from(elapsed.saturating_sub(next).as_millis()).unwrap_or(i64::MAX);
            let at = Timestamp::from_millis(wall.as_millis().saturating_sub(ago));
            self.add(Payload::Generated { seed, at, bytes });
            next += gap(&mut self.random);
        }
        self.next_at = Some(next);
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

    /// Has the events of a batch leave the queue.
    pub(super) fn settle(&mut self, settled: &SettledEvents) {
        let gone: Vec<i64> = settled.ids().collect();
        let Some(last) = gone.iter().max() else { return };
        let first_kept = self.pending.partition_point(|event| event.id <= *last);
        let mut kept: Vec<_> =
            self.pending.drain(..first_kept).filter(|event| !gone.contains(&event.id)).collect();
        while let Some(event) = kept.pop() {
            self.pending.push_front(event);
        }
    }

    /// The server refused these. Returns whether the one event of the batch has been
    /// set aside, as the agent's queue does after three syncs.
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
            Self::Generated { seed, at, bytes } => stored::encode(&generated(*seed, *at, *bytes)),
        }
    }
}

/// The event of that seed, of about so many bytes or more.
fn generated(seed: u64, at: Timestamp, bytes: u32) -> QueuedEvent {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our era are exact")]
    let at = at.as_millis() as f64 / 1000.0;
    match fixtures::events(1, seed).next() {
        Some(AnyEvent::FileAccess(mut event)) => {
            event.access_time = at;
            QueuedEvent::FileAccess(Box::new(event))
        }
        Some(AnyEvent::Execution(mut event)) => {
            event.execution_time = at;
            grow(&mut event, bytes as usize, seed);
            QueuedEvent::Execution(event)
        }
        None => QueuedEvent::Execution(Box::default()),
    }
}

/// Adds entitlements, which are what makes real events large.
fn grow(event: &mut wire::Event, bytes: usize, seed: u64) {
    use prost::Message as _;
    let mut random = Random::new(seed);
    let mut left = bytes.saturating_sub(event.encoded_len());
    let mut entitlements = Vec::new();
    while left > 0 {
        let entitlement = wire::Entitlement {
            key: Some(format!("com.example.security.entitlement-{}", entitlements.len())),
            value: Some(random.hex(24)),
        };
        left = left.saturating_sub(entitlement.encoded_len() + 2);
        entitlements.push(entitlement);
    }
    if !entitlements.is_empty() {
        event.entitlement_info =
            Some(wire::EntitlementInfo { entitlements_filtered: None, entitlements });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn happened(queue: &mut EventQueue, hours: u64, per_hour: u32) -> usize {
        queue.happen((Duration::from_hours(hours), WALL), per_hour, |_| 0);
        queue.len()
    }

    #[test]
    fn events_happen_as_often_as_they_should() {
        let mut queue = EventQueue::new(1);
        assert_eq!(happened(&mut queue, 1, 60), 0, "the queue begins with the host");
        let after = happened(&mut queue, 101, 60);
        assert!((5_700..6_300).contains(&after), "{after}");
        assert_eq!(happened(&mut queue, 101, 60), after, "nothing happens twice");
        assert_eq!(happened(&mut EventQueue::new(1), 1000, 0), 0);
    }

    #[test]
    fn an_event_is_the_same_each_time_it_is_sent() {
        let mut queue = EventQueue::new(3);
        happened(&mut queue, 0, 100);
        happened(&mut queue, 1, 100);
        assert_eq!(queue.batch(10, queue.last()), queue.batch(10, queue.last()));
    }

    #[test]
    fn events_are_as_large_as_they_should_be() {
        for bytes in [4_000, 40_000] {
            let sizes = (0..50).map(|seed| stored::encode(&generated(seed, WALL, bytes)).len());
            let large = sizes.filter(|size| *size >= bytes as usize).collect::<Vec<_>>();
            assert!(large.len() > 30, "executions are, file accesses are not");
            assert!(large.iter().all(|size| *size < bytes as usize + 500), "{large:?}");
        }
    }

    #[test]
    fn what_the_server_accepted_leaves_the_queue_and_what_came_later_stays() {
        let mut queue = EventQueue::new(5);
        happened(&mut queue, 0, 60);
        happened(&mut queue, 1, 60);
        let horizon = queue.last();
        let before = queue.len();
        happened(&mut queue, 2, 60);
        let batch = queue.batch(before + 100, horizon);
        assert!(batch.len() > before, "a batch that has begun may hold later ones");
        let delivered = queue.batch(10, horizon).iter().map(|row| row.id).collect();
        let count = queue.len();
        queue.settle(&SettledEvents { delivered, ..SettledEvents::default() });
        assert_eq!(queue.len(), count - 10);
        assert_eq!(queue.batch(1, horizon)[0].id, 11);
        assert!(queue.batch(10, 10).is_empty(), "none of those is left");
    }

    /// EV-6: halved, then alone, then set aside after three syncs.
    #[test]
    fn ev_6_a_refused_event_is_isolated_and_set_aside() {
        let mut queue = EventQueue::new(5);
        happened(&mut queue, 0, 60);
        happened(&mut queue, 1, 60);
        let ids = |queue: &EventQueue| {
            queue.batch(4, queue.last()).iter().map(|row| row.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&queue), [1, 2, 3, 4]);
        assert!(!queue.refuse(&[1, 2, 3, 4], false));
        assert_eq!(ids(&queue), [1, 2]);
        assert!(!queue.refuse(&[1, 2], false));
        for _ in 0..2 {
            assert_eq!(ids(&queue), [1]);
            assert!(!queue.refuse(&[1], false));
        }
        assert!(queue.refuse(&[1], false));
        assert_eq!(ids(&queue), [2]);
        assert!(queue.refuse(&[2], true), "one that is too large is set aside at once");
    }
}
