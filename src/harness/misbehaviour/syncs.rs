//! What a misbehaving server makes of a sync: its type, its rules, and when they
//! count as delivered.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Misbehaviour, Misbehaviours};
use crate::harness::reply::{self, Form};
use crate::harness::rules::RuleList;
use crate::harness::state::OpenSync;
use crate::protocol::wire::{self, Policy, RuleType, SyncType};

const CURSOR_TIME: Duration = Duration::from_secs(5);
const SYNC_TIME: Duration = Duration::from_mins(1);

/// Which rules a sync sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::harness) enum Contents {
    /// All of them.
    Whole,
    /// What has changed since the host's last sync.
    Changes,
    Nothing,
}

/// What a sync is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::harness) struct SyncPlan {
    pub(in crate::harness) sync_type: SyncType,
    pub(in crate::harness) contents: Contents,
}

impl SyncPlan {
    const fn of(sync_type: SyncType, contents: Contents) -> Self {
        Self { sync_type, contents }
    }

    fn is_clean(self) -> bool {
        matches!(self.sync_type, SyncType::Clean | SyncType::CleanAll)
    }
}

/// What is known of a host when one of its requests arrives.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::harness) struct HostFacts {
    pub(in crate::harness) preflights: u64,
    pub(in crate::harness) postflights: u64,
    /// Clean syncs that were completed.
    pub(in crate::harness) clean_syncs: u64,
    pub(in crate::harness) is_synced: bool,
    /// The sync between preflight and postflight. A preflight ends it.
    pub(in crate::harness) open: Option<OpenSync>,
}

/// What a preflight says.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::harness) struct Wishes {
    pub(in crate::harness) clean: bool,
    /// The rules it has.
    pub(in crate::harness) rules: u64,
    /// Whether another host has reported the same rules.
    pub(in crate::harness) is_twin: bool,
}

impl Misbehaviours {
    /// The plan for a sync, given the one of a server that behaves.
    pub(in crate::harness) fn plan(
        &self,
        host: &HostFacts,
        wishes: Wishes,
        plan: SyncPlan,
    ) -> SyncPlan {
        let nothing = SyncPlan::of(SyncType::Normal, Contents::Nothing);
        let whole = SyncPlan::of(SyncType::Normal, Contents::Whole);
        let is_new = host.preflights == 0 && !wishes.clean;
        let broke_off = host.open.is_some_and(|open| {
            !open.wished && open.announced != SyncType::Normal && open.pages > 0
        }) && !wishes.clean;
        let is_repeated =
            host.open.is_some_and(|open| open.wished && open.requests == 0) && wishes.clean;
        let choices = [
            (Misbehaviour::Clean04NeverEnds, true, SyncPlan::of(SyncType::Clean, Contents::Whole)),
            (Misbehaviour::Pre11UsedUp, is_repeated, nothing),
            (
                Misbehaviour::Clean01Ignored,
                wishes.clean && host.is_synced,
                SyncPlan::of(SyncType::Normal, Contents::Changes),
            ),
            (Misbehaviour::Clean03NoRules, is_new && wishes.rules == 0, nothing),
            (Misbehaviour::Clean03Normal, is_new, whole),
            (Misbehaviour::Clean05Forgotten, broke_off, nothing),
            (Misbehaviour::Clean05Normal, broke_off, whole),
            (Misbehaviour::Iso02Counts, is_new && wishes.is_twin, nothing),
            (Misbehaviour::Clean06All, plan.contents == Contents::Changes, whole),
        ];
        let choice = choices.into_iter().find(|(which, applies, _)| *applies && self.does(*which));
        choice.map_or(plan, |(_, _, plan)| plan)
    }

    /// The rules that a sync sends, given those of a server that behaves and all
    /// rules there are.
    pub(in crate::harness) fn rules(
        &self,
        host: &HostFacts,
        plan: SyncPlan,
        rules: Arc<RuleList>,
        all: &RuleList,
        page_size: usize,
    ) -> Arc<RuleList> {
        const CHANGING: [Misbehaviour; 13] = [
            Misbehaviour::Clean02Partial,
            Misbehaviour::Clean06Removes,
            Misbehaviour::Clean06Some,
            Misbehaviour::Clean08Useless,
            Misbehaviour::Rule02NoIdentifier,
            Misbehaviour::Rule02Policy,
            Misbehaviour::Rule03Short,
            Misbehaviour::Rule04Twice,
            Misbehaviour::Rule04Equal,
            Misbehaviour::Page03Gap,
            Misbehaviour::Page03Double,
            Misbehaviour::Ops01Lost,
            Misbehaviour::Ops02NoRemove,
        ];
        if plan.contents == Contents::Nothing || !self.does_any(&CHANGING) {
            return rules;
        }
        let mut list: Vec<_> = rules.iter().collect();
        if plan.contents == Contents::Changes {
            self.change_changes(&mut list, all);
        } else {
            let had_clean = plan.is_clean() && host.clean_syncs > 0;
            self.change_set(&mut list, plan.is_clean(), had_clean, page_size);
        }
        Arc::new(list.into_iter().collect())
    }

    fn change_changes(&self, list: &mut Vec<wire::Rule>, all: &RuleList) {
        let is_remove = |rule: &wire::Rule| rule.policy() == Policy::Remove;
        if self.does(Misbehaviour::Ops01Lost) {
            list.retain(is_remove);
        }
        if self.does(Misbehaviour::Ops02NoRemove) {
            list.retain(|rule| !is_remove(rule));
        }
        let end = all.len();
        let Some(mut rule) = all.decoded(end.saturating_sub(1)..end).pop() else { return };
        if self.does(Misbehaviour::Clean06Some) {
            list.push(rule);
        } else if self.does(Misbehaviour::Clean06Removes) && list.is_empty() {
            rule.set_policy(Policy::Remove);
            list.push(rule);
        }
    }

    fn change_set(
        &self,
        list: &mut Vec<wire::Rule>,
        is_clean: bool,
        had_clean: bool,
        page_size: usize,
    ) {
        let Some(first) = list.first().cloned() else { return };
        if self.does(Misbehaviour::Clean02Partial) && had_clean {
            list.pop();
        }
        if self.does(Misbehaviour::Page03Gap)
            && had_clean
            && page_size > 0
            && page_size < list.len()
        {
            list.remove(page_size);
        }
        if self.does(Misbehaviour::Page03Double) && page_size > 1 {
            let mut doubled = Vec::with_capacity(list.len() + list.len() / page_size);
            for rule in list.drain(..) {
                let before: Option<wire::Rule> =
                    doubled.last().filter(|_| doubled.len() % page_size == 0).cloned();
                doubled.extend(before);
                doubled.push(rule);
            }
            *list = doubled;
        }
        let named = |identifier: String, policy: Policy| wire::Rule {
            identifier,
            policy: policy.into(),
            rule_type: RuleType::Binary.into(),
            ..wire::Rule::default()
        };
        if self.does(Misbehaviour::Rule04Twice) {
            let other = if first.policy() == Policy::Blocklist {
                Policy::Allowlist
            } else {
                Policy::Blocklist
            };
            let mut twin = named(first.identifier.clone(), other);
            twin.rule_type = first.rule_type;
            list.insert(0, twin);
        }
        if self.does(Misbehaviour::Rule04Equal) {
            list.insert(0, first);
        }
        if self.does(Misbehaviour::Rule02NoIdentifier) {
            list.push(named(String::new(), Policy::Allowlist));
        }
        if self.does(Misbehaviour::Rule02Policy) {
            list.push(wire::Rule { policy: 99, ..named("5a".repeat(32), Policy::Unknown) });
        }
        if self.does(Misbehaviour::Rule03Short) {
            list.push(named("5".repeat(63), Policy::Allowlist));
        }
        if self.does(Misbehaviour::Clean08Useless) && is_clean {
            list.push(named("0".repeat(64), Policy::Remove));
        }
    }

    /// Whether a sync with this preflight message brings every rule twice.
    pub(in crate::harness) fn doubles_rules(&self, form: Form, message: &[u8]) -> bool {
        let has_empty_member = || {
            form == Form::Json
                && serde_json::from_slice::<Value>(message)
                    .is_ok_and(|message| message["primary_user"] == "")
        };
        let has_no_owner = || {
            reply::read::<wire::PreflightRequest>(form, message)
                .is_ok_and(|message| message.primary_user.is_empty())
        };
        (self.does(Misbehaviour::Enc09EmptyMember) && has_empty_member())
            || (self.does(Misbehaviour::Rule04NoOwner) && has_no_owner())
    }

    /// Whether rules of a sync of this type count as delivered once their last
    /// page has been sent.
    pub(in crate::harness) fn delivers_when_sent(&self, sync_type: SyncType) -> bool {
        self.does(Misbehaviour::Rule06WhenSent)
            || (self.does(Misbehaviour::Ops03Once) && sync_type == SyncType::Normal)
    }

    /// Whether a page has no rules because it was requested before.
    pub(in crate::harness) fn withholds(&self, start: usize, was_asked: bool) -> bool {
        let which = if start == 0 { Misbehaviour::Rule05Empty } else { Misbehaviour::Page04Empty };
        was_asked && self.does(which)
    }

    /// Whether a cursor is known on this connection.
    pub(in crate::harness) fn shares_cursor(&self, is_same_connection: bool) -> bool {
        is_same_connection || !self.does(Misbehaviour::Page05Connection)
    }

    /// How long a cursor is known, unless the style says it.
    pub(in crate::harness) fn cursor_time(&self) -> Option<Duration> {
        self.does(Misbehaviour::Page05Expires).then_some(CURSOR_TIME)
    }

    /// How long a sync may go on, unless the style says it.
    pub(in crate::harness) fn sync_time(&self) -> Option<Duration> {
        self.does(Misbehaviour::Rule08Expires).then_some(SYNC_TIME)
    }
}
