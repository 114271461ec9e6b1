//! Sets of rules: one for all machines, and those of groups that have their own.

use std::sync::Arc;

use super::State;
use crate::harness::change::SettingsSpec;
use crate::harness::parsed::matches;
use crate::harness::rules::RuleList;
use crate::harness::style::SyncTypePolicy;
use crate::protocol::wire;

/// Rules, and how they came to be.
#[derive(Debug, Default)]
pub(in crate::harness) struct RuleSet {
    pub(super) rules: Arc<RuleList>,
    /// Every change since the start, oldest first.
    pub(super) log: Vec<wire::Rule>,
}

impl RuleSet {
    pub(in crate::harness) fn new(rules: impl IntoIterator<Item = wire::Rule>) -> Self {
        Self { rules: Arc::new(rules.into_iter().collect()), log: Vec::new() }
    }

    fn replace(&mut self, rules: impl IntoIterator<Item = wire::Rule>) {
        let rules: RuleList = rules.into_iter().collect();
        self.log.extend(self.rules.changes_to(&rules));
        self.rules = Arc::new(rules);
    }

    fn change(&mut self, changes: Vec<wire::Rule>) {
        self.rules = Arc::new(self.rules.changed(&changes));
        self.log.extend(changes);
    }
}

/// Machines that get something else than the others.
#[derive(Debug)]
pub(in crate::harness) struct Group {
    pub(in crate::harness) name: String,
    pub(in crate::harness) patterns: Vec<String>,
    /// Rules of its own.
    pub(in crate::harness) set: Option<RuleSet>,
    /// Settings in place of those of all.
    pub(in crate::harness) settings: SettingsSpec,
    pub(in crate::harness) sync_type: Option<SyncTypePolicy>,
}

impl State {
    fn place_of(&self, machine_id: &str) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.patterns.iter().any(|pattern| matches(pattern, machine_id)))
    }

    /// The first group that a machine is in.
    pub(super) fn group_of(&self, machine_id: &str) -> Option<&Group> {
        self.place_of(machine_id).and_then(|place| self.groups.get(place))
    }

    /// The rules of a machine.
    pub(super) fn set_of(&self, machine_id: &str) -> &RuleSet {
        self.group_of(machine_id).and_then(|group| group.set.as_ref()).unwrap_or(&self.main)
    }

    fn set_mut(&mut self, group: Option<usize>) -> &mut RuleSet {
        match group.and_then(|place| self.groups.get_mut(place)) {
            // A group without rules gets those of all to begin with, and its own
            // changes; the log must agree with what its machines have seen.
            Some(group) => group.set.get_or_insert_with(|| RuleSet {
                rules: Arc::clone(&self.main.rules),
                log: self.main.log.clone(),
            }),
            None => &mut self.main,
        }
    }

    /// Replaces the rules of a group, or of all machines without their own; NORMAL
    /// syncs send hosts the difference.
    pub(in crate::harness) fn set_rules_of(
        &mut self,
        group: Option<usize>,
        rules: impl IntoIterator<Item = wire::Rule>,
    ) {
        self.set_mut(group).replace(rules);
        self.encode_pages();
    }

    /// Changes some rules likewise.
    pub(in crate::harness) fn queue_changes_of(
        &mut self,
        group: Option<usize>,
        changes: Vec<wire::Rule>,
    ) {
        self.set_mut(group).change(changes);
        self.encode_pages();
    }

    /// Changes settings of a group, or of all machines.
    pub(in crate::harness) fn change_settings_of(
        &mut self,
        group: Option<usize>,
        settings: &SettingsSpec,
    ) {
        match group.and_then(|place| self.groups.get_mut(place)) {
            Some(group) => group.settings.0.extend(settings.0.clone()),
            None => self.settings = settings.over(&self.settings),
        }
    }

    /// Replaces the groups. The rules of one that stays become the new ones by
    /// changes; machines that get another set are sent all of it.
    pub(in crate::harness) fn replace_groups(&mut self, groups: Vec<Group>) {
        let ids: Vec<_> = self.hosts.keys().cloned().collect();
        let name_of = |state: &Self, id: &str| {
            state.group_of(id).filter(|group| group.set.is_some()).map(|group| group.name.clone())
        };
        let before: Vec<_> = ids.iter().map(|id| name_of(self, id)).collect();
        let former = std::mem::replace(&mut self.groups, groups);
        for old in former {
            let new = self.groups.iter_mut().find(|group| group.name == old.name);
            if let Some(Group { set: Some(new), .. }) = new
                && let Some(mut set) = old.set
            {
                set.replace(new.rules.iter().collect::<Vec<_>>());
                *new = set;
            }
        }
        for (id, before) in ids.iter().zip(before) {
            if name_of(self, id) != before
                && let Some(host) = self.hosts.get_mut(id)
            {
                host.seen = None;
            }
        }
    }
}
