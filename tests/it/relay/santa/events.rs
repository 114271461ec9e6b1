//! Santa's table of events, and what it uploads at once.

use std::collections::{BTreeMap, HashSet};

use santa_sync::harness::fixtures::{AnyEvent, Random};
use santa_sync::protocol::wire;

/// The table, in the order of its random keys.
#[derive(Clone, Debug)]
pub(crate) struct EventTable {
    rows: BTreeMap<u32, AnyEvent>,
    unique: HashSet<String>,
    random: Random,
}

impl EventTable {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rows: BTreeMap::new(), unique: HashSet::new(), random: Random::new(seed) }
    }

    /// Stores an event under a new key; `None` if one of the same unique id waits.
    pub(crate) fn store(&mut self, event: AnyEvent) -> Option<u32> {
        if !self.unique.insert(unique_id(&event)) {
            return None;
        }
        let key = loop {
            let key = self.random.below(u32::MAX);
            if !self.rows.contains_key(&key) {
                break key;
            }
        };
        self.rows.insert(key, event);
        Some(key)
    }

    pub(crate) fn pending(&self) -> Vec<(u32, AnyEvent)> {
        self.rows.iter().map(|(key, event)| (*key, event.clone())).collect()
    }

    pub(crate) fn delete(&mut self, keys: &[u32]) {
        for key in keys {
            if let Some(event) = self.rows.remove(key) {
                self.unique.remove(&unique_id(&event));
            }
        }
    }
}

/// What becomes of an event beyond being stored, held in memory.
#[derive(Debug, Default)]
pub(crate) struct BackOffs {
    /// Allowed executions and audited accesses seen in the last four hours.
    pub(crate) seen: HashSet<String>,
    /// Tried at once in the last ten minutes.
    pub(crate) posted: HashSet<String>,
}

/// What Santa takes two events for one by.
pub(crate) fn unique_id(event: &AnyEvent) -> String {
    match event {
        AnyEvent::Execution(event) => event.file_sha256.clone(),
        AnyEvent::FileAccess(event) => {
            let process = event.process_chain.first();
            let hash = process.map(|process| process.file_sha256.as_str()).unwrap_or_default();
            format!("{}|{}|{hash}", event.rule_name, event.rule_version)
        }
    }
}

/// Whether something was kept from happening.
pub(crate) fn is_blocked(event: &AnyEvent) -> bool {
    match event {
        AnyEvent::Execution(event) => matches!(
            event.decision(),
            wire::Decision::BlockUnknown
                | wire::Decision::BlockBinary
                | wire::Decision::BlockCertificate
                | wire::Decision::BlockScope
                | wire::Decision::BlockTeamid
                | wire::Decision::BlockSigningid
                | wire::Decision::BlockCdhash
        ),
        AnyEvent::FileAccess(event) => matches!(
            event.decision(),
            wire::FileAccessDecision::Denied | wire::FileAccessDecision::DeniedInvalidSignature
        ),
    }
}

/// Whether its repetition within four hours is passed over.
pub(crate) fn is_unactionable(event: &AnyEvent) -> bool {
    match event {
        AnyEvent::Execution(event) => {
            !is_blocked(&AnyEvent::Execution(event.clone()))
                && event.decision() != wire::Decision::BundleBinary
        }
        AnyEvent::FileAccess(event) => event.decision() == wire::FileAccessDecision::AuditOnly,
    }
}
