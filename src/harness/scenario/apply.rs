//! A scenario as the state of a server: at its start, and when the file is read
//! again.

use super::{GroupSpec, RulesSpec, Scenario, StyleSpec};
use crate::harness::Xsrf;
use crate::harness::expectation::Expectations;
use crate::harness::fixtures;
use crate::harness::parsed::matches;
use crate::harness::state::{Group, PendingChange, RuleSet, State};
use crate::harness::style::Style;
use crate::protocol::wire;

impl Scenario {
    /// Sets up a state in which nothing has happened yet.
    pub(in crate::harness) fn set_up(self, state: &mut State) {
        if let Some(preset) = &self.preset {
            state.style = preset.0.style();
        }
        if let Some(path) = &self.base_path {
            path.trim_matches('/').clone_into(&mut state.base_path);
        }
        if let Some(seed) = self.seed {
            state.reseed(seed);
        }
        state.hosts_up_to_date |= self.style.hosts_up_to_date;
        state.start_with(self.rules.rules(self.seed()));
        state.expectations = Expectations::new(self.expectations.clone());
        // Expectations look at what is remembered.
        state.transcript_limit = state.transcript_limit.max(1);
        self.set_live(state);
    }

    /// Sets what may change while the server runs.
    fn set_live(self, state: &mut State) {
        let seed = self.seed();
        state.groups = self.groups.into_iter().map(|group| group.group(seed)).collect();
        state.settings = self.settings.over(&state.settings);
        self.style.apply(&mut state.style, &mut state.page_size);
        state.misbehaviours.clear();
        self.misbehave.iter().for_each(|one| state.misbehaviours.add(one.0));
        state.script = self.faults.into_iter().map(Into::into).collect();
        state.bundles = self.request_bundles;
        state.pending = self
            .changes
            .into_iter()
            .map(|spec| PendingChange {
                after_syncs: spec.after_syncs,
                machine: spec.machine,
                change: spec.change.into_inner(),
            })
            .collect();
    }

    /// Takes the scenario over into a state in which things have happened: rules
    /// that differ become changes, counts of expectations stay, and changes whose
    /// point has passed do not happen again.
    pub(in crate::harness) fn read_again(mut self, state: &mut State) {
        let seed = self.seed();
        if self.rules.is_given() {
            state.set_rules(self.rules.rules(seed));
        }
        state.expectations.replace(std::mem::take(&mut self.expectations));
        let groups = std::mem::take(&mut self.groups);
        state.replace_groups(groups.into_iter().map(|group| group.group(seed)).collect());
        let former = std::mem::take(&mut state.groups);
        self.set_live(state);
        state.groups = former;
        state.forget_past_changes();
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }
}

impl RulesSpec {
    fn is_given(&self) -> bool {
        !self.list.is_empty() || self.generate > 0
    }

    fn rules(&self, seed: u64) -> Vec<wire::Rule> {
        let list = self.list.iter().cloned().map(Into::into);
        list.chain(fixtures::rules(self.generate, seed)).collect()
    }
}

impl GroupSpec {
    fn group(self, seed: u64) -> Group {
        Group {
            name: self.name,
            patterns: self.patterns,
            set: self.rules.map(|rules| RuleSet::new(rules.rules(seed))),
            settings: self.settings,
            sync_type: self.sync_type.map(|policy| policy.0),
        }
    }
}

impl StyleSpec {
    fn apply(self, style: &mut Style, page_size: &mut usize) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(page_size, self.page_size);
        set(&mut style.one_page, self.one_page);
        set(&mut style.cursor, self.cursor.map(|cursor| cursor.0));
        set(&mut style.cursor_after_last_page, self.cursor_after_last_page);
        set(&mut style.sync_type, self.sync_type.map(|policy| policy.0));
        set(&mut style.cookie, self.cookie.map(Some));
        set(&mut style.header, self.header.map(|header| Some((header.name, header.value))));
        set(&mut style.xsrf, self.xsrf_header.map(Xsrf::Demanded));
        set(&mut style.requests_bundles, self.request_bundles);
        set(&mut style.removes_from_empty_set, self.remove_from_empty_set);
        set(&mut style.enrolled, self.enrolled.map(Some));
        set(&mut style.lost_session_status, self.lost_session_status.map(Some));
    }
}

impl PendingChange {
    /// Whether the point of this change has come.
    pub(in crate::harness) fn is_due(&self, syncs: impl Iterator<Item = (String, u64)>) -> bool {
        let of_these = |id: &str| self.machine.as_ref().is_none_or(|pattern| matches(pattern, id));
        let count: u64 = syncs.filter(|(id, _)| of_these(id)).map(|(_, count)| count).sum();
        count >= self.after_syncs
    }
}
