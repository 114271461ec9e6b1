//! The rules of simulated hosts, with their true hash and counts.
//!
//! Hosts with the same rules share one copy, and what a download makes of a rule set
//! is worked out once: so hosts that all have the server's rules cost a pointer each.
//! Where every host has rules of its own, each rule takes about 64 bytes a host, more
//! if it has an expression or a signing id.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};

use xxhash_rust::xxh3::Xxh3Default;

use crate::model::{
    Identifier, RuleCounts, RuleRef, RuleSet, RuleState, SyncType, write_hashed_rule,
};
use crate::store;

/// The rules of a host, in the order in which a real one stores them.
#[derive(Clone, PartialEq, Eq)]
pub struct SimulatedRules {
    rules: Vec<SimulatedRule>,
    counts: RuleCounts,
    hash: u128,
}

impl fmt::Debug for SimulatedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedRules").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq)]
struct SimulatedRule {
    identifier: Identifier,
    state: RuleState,
    cel_expr: Box<str>,
}

impl Default for SimulatedRules {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl SimulatedRules {
    fn of(rules: Vec<SimulatedRule>) -> Self {
        let held = rules.iter().map(|rule| (&rule.identifier, rule.state, &*rule.cel_expr));
        let (hash, counts) = store::hash_and_counts(held);
        Self { rules, counts, hash }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many there are by type, as preflight reports them.
    #[must_use]
    pub const fn counts(&self) -> RuleCounts {
        self.counts
    }

    /// Their hash, as preflight and postflight report it.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:032x}", self.hash)
    }

    /// What a download makes of them: a clean sync's replaces them, then each rule
    /// takes the place of an older one of its identifier, behind all others.
    fn after(&self, download: &RuleSet, sync_type: SyncType) -> Self {
        let kept: &[SimulatedRule] = if replaces(sync_type) { &[] } else { &self.rules };
        let mut rules: Vec<_> = kept.iter().cloned().map(Some).collect();
        let mut places: HashMap<Identifier, usize> =
            kept.iter().enumerate().map(|(place, rule)| (rule.identifier.clone(), place)).collect();
        for RuleRef { identifier, policy, details } in download.iter() {
            let former = places.remove(&identifier);
            if let Some(slot) = former.and_then(|place| rules.get_mut(place)) {
                *slot = None;
            }
            if let Some(state) = policy.state() {
                places.insert(identifier.clone(), rules.len());
                rules.push(Some(SimulatedRule {
                    identifier,
                    state,
                    cel_expr: details.cel_expr.into(),
                }));
            }
        }
        Self::of(rules.into_iter().flatten().collect())
    }
}

/// Whether a sync of that type deletes the execution rules first. Simulated hosts have
/// none that a clean sync would keep.
const fn replaces(sync_type: SyncType) -> bool {
    match sync_type {
        SyncType::Clean | SyncType::CleanAll | SyncType::CleanRules => true,
        // These delete what a user of the host made, and no simulated host has a user.
        SyncType::Normal | SyncType::CleanStandalone | SyncType::CleanFileAccessRules => false,
    }
}

/// From which rules a download leads to which.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Transition {
    from: u128,
    replaces: bool,
    download: u128,
}

/// The rule sets that hosts share.
#[derive(Debug, Default)]
pub struct RuleBook {
    known: RefCell<HashMap<Transition, Weak<SimulatedRules>>>,
}

impl fmt::Debug for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}+{:032x}", self.from, self.download)
    }
}

impl RuleBook {
    /// So many transitions are looked through for those nobody needs any more.
    const MANY: usize = 1024;

    /// What a download makes of the rules of a host.
    pub fn commit(
        &self,
        rules: &Rc<SimulatedRules>,
        download: &RuleSet,
        sync_type: SyncType,
    ) -> Rc<SimulatedRules> {
        let replaces = replaces(sync_type);
        if download.is_empty() && (!replaces || rules.is_empty()) {
            return Rc::clone(rules);
        }
        let from = if replaces { 0 } else { rules.hash };
        let transition = Transition { from, replaces, download: fingerprint(download) };
        let mut known = self.known.borrow_mut();
        if let Some(after) = known.get(&transition).and_then(Weak::upgrade) {
            return after;
        }
        if known.len() >= Self::MANY {
            known.retain(|_, rules| rules.strong_count() > 0);
        }
        let after = Rc::new(rules.after(download, sync_type));
        known.insert(transition, Rc::downgrade(&after));
        after
    }
}

/// A hash of everything in a download that decides what it leads to.
fn fingerprint(download: &RuleSet) -> u128 {
    let mut hash = Xxh3Default::new();
    let (mut identifier, mut bytes) = (String::new(), Vec::new());
    for rule in download.iter() {
        identifier.clear();
        rule.identifier.push_to(&mut identifier);
        let expression = rule.details.cel_expr.as_bytes();
        let state = rule.policy.state().map_or(0, RuleState::number);
        let rule_type = rule.identifier.rule_type().number();
        hash.update(&identifier.len().to_le_bytes());
        hash.update(&expression.len().to_le_bytes());
        write_hashed_rule([identifier.as_bytes(), expression, &[]], state, rule_type, &mut bytes);
        hash.update(&bytes);
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::fixtures;
    use crate::model::Timestamp;
    use crate::model::Transfer;
    use crate::protocol::body::{ResponseBody, encode};
    use crate::protocol::cel::CelBudget;
    use crate::protocol::{rules, wire};
    use crate::store::Store;

    fn downloaded(rules: Vec<wire::Rule>) -> RuleSet {
        let message = wire::RuleDownloadResponse { rules, cursor: String::new() };
        let body = encode(Transfer::Protobuf, &message).expect("encodes");
        let received = ResponseBody::new(Transfer::Protobuf, body);
        let mut budget = CelBudget::new(std::time::Duration::default);
        let page = rules::read_page(received, 1, &mut budget, &|| false).expect("a page").message;
        let mut set = RuleSet::default();
        set.push_page(page.rules, page.rejected);
        set
    }

    /// RULE-8: the store of a real host, after the same downloads.
    #[test]
    fn rule_8_hash_and_counts_are_those_of_a_real_store() {
        let dir = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_secs(0);
        let (mut store, _) = Store::open(dir.path(), now).expect("a store");
        let book = RuleBook::default();
        let mut simulated = Rc::new(SimulatedRules::default());
        let all: Vec<_> = fixtures::rules(400, 3).collect();
        let doubled = [&all[..50], &all[20..80], &all[..10]].concat();
        let steps = [
            (all.clone(), SyncType::CleanAll),
            (fixtures::changes(&all, (30, 20, 25), 4), SyncType::Normal),
            (Vec::new(), SyncType::Normal),
            (doubled, SyncType::Clean),
            (all[5..9].to_vec(), SyncType::Normal),
            (Vec::new(), SyncType::CleanStandalone),
            (all[..3].to_vec(), SyncType::CleanRules),
            (Vec::new(), SyncType::Clean),
        ];
        for (step, (rules, sync_type)) in steps.into_iter().enumerate() {
            let download = downloaded(rules);
            let committed = store.commit_rules(&download, (sync_type, now)).expect("committed");
            simulated = book.commit(&simulated, &download, sync_type);
            assert_eq!(simulated.hash(), committed.hash, "step {step}");
            assert_eq!(simulated.counts(), committed.counts, "step {step}");
        }
        assert!(simulated.is_empty());
    }

    #[test]
    fn hosts_with_the_same_rules_share_them() {
        let book = RuleBook::default();
        let nothing = Rc::new(SimulatedRules::default());
        let download = downloaded(fixtures::rules(10, 1).collect());
        let one = book.commit(&nothing, &download, SyncType::CleanAll);
        let other = book.commit(&nothing, &download, SyncType::Clean);
        assert!(Rc::ptr_eq(&one, &other));
        let few = downloaded(fixtures::rules(3, 2).collect());
        let changed = book.commit(&one, &few, SyncType::Normal);
        assert_eq!((one.len(), changed.len()), (10, 13));
        let from_nothing = book.commit(&nothing, &few, SyncType::Normal);
        assert_eq!(from_nothing.len(), 3, "another start is another transition");
    }
}
