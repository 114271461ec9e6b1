//! The queue against a simple model of it.

use proptest::prelude::*;

use super::*;
use crate::model::SettledEvents;

#[derive(Clone, Debug)]
enum QueueStep {
    Queue(Vec<(u8, bool)>),
    /// Read this many, settle those whose turn it is.
    Settle {
        limit: usize,
        keep_every: usize,
    },
    Reject {
        limit: usize,
    },
    Requeue,
    Reopen,
}

fn step() -> impl Strategy<Value = QueueStep> {
    prop_oneof![
        4 => proptest::collection::vec((0..40_u8, any::<bool>()), 1..12).prop_map(QueueStep::Queue),
        3 => (1..12_usize, 2..6_usize)
            .prop_map(|(limit, keep_every)| QueueStep::Settle { limit, keep_every }),
        1 => (1..4_usize).prop_map(|limit| QueueStep::Reject { limit }),
        1 => Just(QueueStep::Requeue),
        1 => Just(QueueStep::Reopen),
    ]
}

const LIMIT: usize = 25;

/// What the queue should hold: unique ids with whether they are droppable.
#[derive(Default)]
struct Model {
    queued: Vec<(String, bool)>,
    rejected: Vec<(String, bool)>,
    dropped: u64,
}

impl Model {
    fn add(&mut self, name: &str, droppable: bool) -> bool {
        let new = !self.queued.iter().any(|(queued, _)| queued == name);
        if new {
            self.queued.push((name.to_owned(), droppable));
        }
        new
    }

    fn keep_within(&mut self) {
        while self.queued.len() > LIMIT {
            let oldest = self.queued.iter().position(|(_, droppable)| *droppable).unwrap_or(0);
            self.queued.remove(oldest);
            self.dropped += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// EV-1, EV-2, EV-5, EV-7 and EV-8 for any sequence of steps.
    #[test]
    fn any_sequence_of_steps_leaves_what_the_model_says(
        steps in proptest::collection::vec(step(), 1..25)
    ) {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(dir.path());
        let mut model = Model::default();
        let mut clock = 0;
        for step in steps {
            // Far enough apart that nothing is backed off.
            clock += 5 * 3600;
            match step {
                QueueStep::Queue(events) => {
                    let mut seen = std::collections::BTreeSet::new();
                    let events: Vec<_> = events
                        .into_iter()
                        .filter(|(n, _)| seen.insert(*n))
                        .map(|(n, droppable)| (format!("e{n}"), droppable))
                        .collect();
                    let new: Vec<_> = events
                        .iter()
                        .map(|(name, droppable)| if *droppable { allowed(name) } else { blocked(name) })
                        .collect();
                    let limits = Limits { events: LIMIT as u64, ..Limits::default() };
                    let answers = store.queue_events(&new, at(clock), limits).expect("queued");
                    for ((name, droppable), answer) in events.iter().zip(answers) {
                        let added = model.add(name, *droppable);
                        prop_assert_eq!(answer == Queued::Added, added);
                    }
                    model.keep_within();
                }
                QueueStep::Settle { limit, keep_every } => {
                    let batch = read(&mut store, limit);
                    let head: Vec<_> =
                        model.queued.iter().take(limit).map(|(name, _)| name.as_str()).collect();
                    prop_assert_eq!(names(&batch), head);
                    if let Some(last) = batch.last() {
                        let next = store.read_on(limit, last.id).expect("a batch").unwrap_or_default();
                        let after = model.queued.iter().skip(limit).take(limit);
                        let after: Vec<_> = after.map(|(name, _)| name.as_str()).collect();
                        prop_assert_eq!(names(&next), after);
                    }
                    let mut n = 0;
                    let sent: Vec<_> = batch
                        .into_iter()
                        .filter(|_| { n += 1; n % keep_every != 0 })
                        .collect();
                    settle(&mut store, &sent);
                    model.queued.retain(|(name, _)| !sent.iter().any(|row| row.unique_id == *name));
                }
                QueueStep::Reject { limit } => {
                    let rejected: Vec<_> =
                        read(&mut store, limit).iter().map(|row| (row.id, "why".to_owned())).collect();
                    let count = rejected.len();
                    let settled = SettledEvents { rejected, ..SettledEvents::default() };
                    store.settle(&settled, at(clock).wall).expect("settled");
                    // Equal events that were set aside are there once.
                    for event in model.queued.drain(..count) {
                        if !model.rejected.iter().any(|(name, _)| *name == event.0) {
                            model.rejected.push(event);
                        }
                    }
                }
                QueueStep::Requeue => {
                    let ids: Vec<_> =
                        store.rejected(1000).expect("a list").iter().map(|event| event.id).collect();
                    store.requeue(&ids, at(clock).wall).expect("requeued");
                    for (name, droppable) in std::mem::take(&mut model.rejected) {
                        if !model.add(&name, droppable) {
                            model.rejected.push((name, droppable));
                        }
                    }
                }
                QueueStep::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
            let queued: Vec<_> = model.queued.iter().map(|(name, _)| name.as_str()).collect();
            let rows = read(&mut store, 1000);
            prop_assert_eq!(names(&rows), queued);
            prop_assert_eq!(store.pending().expect("a count"), model.queued.len() as u64);
            prop_assert_eq!(store.rejected_count().expect("a count"), model.rejected.len() as u64);
            prop_assert_eq!(store.drops().expect("counts").queue_full, model.dropped);
        }
    }
}
