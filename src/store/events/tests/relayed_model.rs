//! Uploads of the authorizer against a simple model of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::relayed::{bundle, event, member, payloads, plain};
use super::*;
use crate::model::{RelayedEvent, RelayedKind};

#[derive(Clone, Copy, Debug)]
enum Sent {
    Plain(u8),
    OfBundle(u8, u8),
    Member(u8, u8),
    TooLarge(u8),
}

#[derive(Clone, Debug)]
enum RelayStep {
    Upload(Vec<Sent>),
    /// The last upload comes once more: its response was lost.
    Repeat,
    /// Deliver so many; the response requests these bundles.
    Settle(usize, Vec<u8>),
    Wait(u64),
    Reopen,
    /// The next sync begins.
    Horizon,
}

/// How many executables bundle `b` has.
fn executables(b: u8) -> u32 {
    u32::from(b) + 1
}

fn hash(b: u8) -> String {
    format!("bundle {b}")
}

fn name(sent: Sent) -> String {
    match sent {
        Sent::Plain(n) => format!("plain {n}"),
        Sent::OfBundle(n, b) => format!("start {n} of {b}"),
        Sent::Member(n, b) => format!("member {n} of {b}"),
        Sent::TooLarge(n) => format!("large {n}"),
    }
}

fn relayed(sent: Sent) -> RelayedEvent {
    let name = name(sent);
    match sent {
        Sent::Plain(_) => plain(&name),
        Sent::OfBundle(_, b) => {
            event(&name, RelayedKind::OfBundle(bundle(&hash(b), executables(b))))
        }
        Sent::Member(_, b) => member(&name, &hash(b), executables(b)),
        Sent::TooLarge(_) => event(&name, RelayedKind::TooLarge { reason: "large".to_owned() }),
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        4 => (0..30_u8).prop_map(Sent::Plain),
        2 => (0..6_u8, 0..3_u8).prop_map(|(n, b)| Sent::OfBundle(n, b)),
        4 => (0..3_u8, 0..3_u8).prop_map(|(n, b)| Sent::Member(n % (b + 1), b)),
        1 => (0..4_u8).prop_map(Sent::TooLarge),
    ]
}

fn step() -> impl Strategy<Value = RelayStep> {
    prop_oneof![
        5 => proptest::collection::vec(sent(), 1..10).prop_map(RelayStep::Upload),
        3 => Just(RelayStep::Repeat),
        4 => (0..8_usize, proptest::collection::vec(0..3_u8, 0..2))
            .prop_map(|(n, asked)| RelayStep::Settle(n, asked)),
        2 => (1..90_u64).prop_map(RelayStep::Wait),
        1 => Just(RelayStep::Reopen),
        1 => Just(RelayStep::Horizon),
    ]
}

const BOUND: usize = 14;
const LIMITS: Limits = Limits { events: BOUND as u64, bytes: u64::MAX };

/// A member as the model knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Member {
    Held,
    /// Queued for the request of that time, at that minute.
    Queued(u64, u64),
}

#[derive(Clone, Default)]
struct Model {
    minute: u64,
    queue: Vec<Sent>,
    taken: BTreeMap<String, u64>,
    aside: BTreeSet<String>,
    /// In the order in which they were held.
    members: BTreeMap<u8, Vec<(String, Sent, Member)>>,
    /// When it was requested, and how many were delivered.
    requests: BTreeMap<u8, (u64, u32)>,
}

impl Model {
    fn is_queued(&self, wanted: &str) -> bool {
        self.queue.iter().any(|sent| name(*sent) == wanted)
    }

    fn knows(&self, wanted: &str) -> bool {
        self.taken.get(wanted).is_some_and(|at| self.minute - at < 60)
    }

    /// Queues what is held of a requested bundle.
    fn serve(&mut self, b: u8) {
        let Some((requested, _)) = self.requests.get(&b).copied() else { return };
        let Some(members) = self.members.get_mut(&b) else { return };
        let mut moved = Vec::new();
        for (name, sent, member) in members {
            if *member == Member::Held {
                *member = Member::Queued(requested, self.minute);
                moved.push((name.clone(), *sent));
            }
        }
        for (name, sent) in moved {
            if !self.is_queued(&name) {
                self.queue.push(sent);
            }
        }
    }

    fn serve_if_fits(&mut self, b: u8) {
        let held = self.members.get(&b).map_or(0, |members| {
            members.iter().filter(|(.., member)| *member == Member::Held).count()
        });
        if self.queue.is_empty() || self.queue.len() + held <= BOUND {
            self.serve(b);
        }
    }

    fn take_member(&mut self, sent: Sent, b: u8) {
        let open = self.requests.get(&b).map(|(requested, _)| *requested);
        let members = self.members.entry(b).or_default();
        let wanted = name(sent);
        match members.iter().position(|(known, ..)| *known == wanted) {
            None => members.push((wanted, sent, Member::Held)),
            Some(at) => match members[at].2 {
                Member::Held => {}
                Member::Queued(requested, at_minute)
                    if open == Some(requested) && self.minute - at_minute < 60 => {}
                Member::Queued(..) => members[at].2 = Member::Held,
            },
        }
    }

    /// The model after the upload, unless it does not fit.
    fn upload(&self, events: &[Sent]) -> Option<Self> {
        let mut after = self.clone();
        let mut bundles = BTreeSet::new();
        for sent in events {
            let wanted = name(*sent);
            match *sent {
                Sent::Plain(_) | Sent::OfBundle(..) => {
                    if !after.knows(&wanted) && !after.is_queued(&wanted) {
                        after.queue.push(*sent);
                        after.taken.insert(wanted, after.minute);
                    }
                }
                Sent::TooLarge(_) => {
                    if !after.knows(&wanted) {
                        after.aside.insert(wanted.clone());
                        after.taken.insert(wanted, after.minute);
                    }
                }
                Sent::Member(_, b) => {
                    after.take_member(*sent, b);
                    bundles.insert(b);
                }
            }
        }
        let grown = after.queue.len() > self.queue.len();
        if grown && !self.queue.is_empty() && after.queue.len() > BOUND {
            return None;
        }
        for b in bundles {
            after.serve_if_fits(b);
        }
        Some(after)
    }

    fn wants(&self, b: u8) -> bool {
        let members = self.members.get(&b).cloned().unwrap_or_default();
        let there = match self.requests.get(&b) {
            None => members.len(),
            Some((requested, delivered)) => {
                let is_there = |(name, _, member): &&(String, Sent, Member)| match member {
                    Member::Held => true,
                    Member::Queued(at, _) => at == requested && self.is_queued(name),
                };
                members.iter().filter(is_there).count() + *delivered as usize
            }
        };
        there < executables(b) as usize
    }

    fn settle(&mut self, count: usize, asked: &[u8]) -> Vec<(String, u32)> {
        let mut bundles = Vec::new();
        for sent in self.queue.drain(..count.min(self.queue.len())) {
            let Sent::Member(_, b) = sent else { continue };
            bundles.push((hash(b), executables(b)));
            if let Some((_, delivered)) = self.requests.get_mut(&b) {
                *delivered += 1;
                if *delivered >= executables(b) {
                    self.requests.remove(&b);
                }
            }
        }
        for b in asked {
            self.requests.entry(*b).or_insert((self.minute, 0));
        }
        for b in asked {
            self.serve_if_fits(*b);
        }
        bundles
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    /// RELAY-8, for any sequence of uploads, repeats, restarts, deliveries and
    /// bundle requests: nothing is lost, nothing is there twice.
    #[test]
    fn relay_8_any_sequence_of_uploads_leaves_what_the_model_says(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(dir.path());
        store.set_limits(LIMITS);
        let mut model = Model::default();
        let mut last = Vec::new();
        for step in steps {
            let now = at(model.minute * 60);
            match step {
                RelayStep::Upload(_) | RelayStep::Repeat => {
                    if let RelayStep::Upload(events) = step {
                        last = events;
                    }
                    let upload: Vec<_> = last.iter().copied().map(relayed).collect();
                    match (store.take_relayed(&upload, now, LIMITS), model.upload(&last)) {
                        (Ok(taken), Some(after)) => {
                            model = after;
                            let mut wanted = Vec::new();
                            for sent in &last {
                                if let Sent::OfBundle(_, b) = sent
                                    && model.wants(*b)
                                    && !wanted.contains(&hash(*b))
                                {
                                    wanted.push(hash(*b));
                                }
                            }
                            prop_assert_eq!(taken.wanted, wanted);
                        }
                        (Err(TakeError::Full), None) => {}
                        (taken, after) => {
                            prop_assert!(false, "{:?}, the model: {}", taken, after.is_some());
                        }
                    }
                }
                RelayStep::Settle(count, asked) => {
                    let rows: Vec<_> = read(&mut store, count);
                    let settled = SettledEvents {
                        bundles_delivered: model.settle(count, &asked),
                        bundle_requests: asked.iter().copied().map(hash).collect(),
                        ..delivered(&rows)
                    };
                    store.settle(&settled, now.wall).expect("settled");
                }
                RelayStep::Wait(minutes) => model.minute += minutes,
                RelayStep::Reopen => {
                    drop(store);
                    store = open(dir.path());
                    store.set_limits(LIMITS);
                }
                RelayStep::Horizon => {
                    store.horizon(now.wall).expect("a horizon");
                    // Bundles are served in the order in which they came.
                    let mut sql =
                        store.conn.prepare("SELECT hash FROM agent_bundles ORDER BY id").expect("sql");
                    let hashes = sql.query_map([], |row| row.get::<_, String>(0)).expect("rows");
                    for known in hashes.map(|hash| hash.expect("a hash")) {
                        let b = (0..3).find(|b| hash(*b) == known).expect("a bundle");
                        model.serve_if_fits(b);
                    }
                }
            }
            let queued: Vec<_> = model.queue.iter().copied().map(name).collect();
            prop_assert_eq!(payloads(&mut store), queued);
            prop_assert_eq!(store.rejected_count().expect("a count"), model.aside.len() as u64);
            prop_assert_eq!(store.drops().expect("counts"), Drops::default());
            let members = model.members.values().flatten();
            let held = members.clone().filter(|(.., member)| *member == Member::Held).count() as u64;
            let sums = "SELECT sum(members) || ' ' || sum(held) FROM agent_bundles";
            let rows = "SELECT count(*) || ' ' || count(eventdata) FROM agent_bundle_members";
            let text = |sql| -> Option<String> {
                store.conn.query_row(sql, [], |row| row.get(0)).expect("a text")
            };
            let counted = format!("{} {held}", members.count());
            prop_assert_eq!(text(sums).unwrap_or_else(|| "0 0".to_owned()), &*counted);
            prop_assert_eq!(text(rows), Some(counted));
            let bytes = "SELECT (SELECT coalesce(sum(bytes), 0) FROM agent_bundles) = \
                         (SELECT coalesce(sum(length(eventdata)), 0) FROM agent_bundle_members)";
            prop_assert_eq!(number(&store, bytes), 1);
        }
    }
}
