//! Preflight: the settings, and what the sync will bring.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::host::{HostDownload, OpenSync};
use super::stages::Call;
use super::{Host, RuleSet, State};
use crate::harness::fault::Fault;
use crate::harness::misbehaviour::{BUSY, Contents, Misbehaviour, SyncPlan, Wishes};
use crate::harness::reply::{self, Form, Refusal};
use crate::harness::rules::{RuleList, latest};
use crate::harness::style::SyncTypePolicy;
use crate::protocol::wire::{self, SyncType};

impl State {
    pub(super) fn preflight(&mut self, call: Call<'_>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request: wire::PreflightRequest = reply::read(call.form, body)?;
        self.compared(call.machine_id, &request.machine_id)?;
        if self.style.refuses_standalone && request.client_mode() == wire::ClientMode::Standalone {
            return Err(Refusal::new(500, "client mode STANDALONE is not known here"));
        }
        if self.style.demands_host_facts {
            host_facts_told(&request)?;
        }
        self.misbehaviours.takes_preflight(&request)?;
        self.is_free(call)?;

        let group = self.group_of(call.machine_id);
        let mut settings = group
            .map_or_else(|| self.settings.clone(), |group| group.settings.over(&self.settings));
        let sync_type = self.begin(call, &request, &mut settings);
        if self.misbehaviours.doubles_rules(call.form, body)
            && let Some(host) = self.hosts.get_mut(call.machine_id)
            && let Some(download) = &mut host.download
        {
            let twice = download.rules.iter().flat_map(|rule| [rule.clone(), rule]);
            download.rules = Arc::new(twice.collect());
        }
        if let Some(host) = self.hosts.get_mut(call.machine_id) {
            host.shown.preflights += 1;
            host.shown.last_preflight = Some(request);
        }
        Ok(self.written_settings(call, settings, sync_type))
    }

    /// Checks that no other machine's preflight is being answered, as far as a
    /// misbehaviour cares.
    fn is_free(&mut self, call: Call<'_>) -> Result<(), Refusal> {
        if !self.misbehaviours.does(Misbehaviour::Iso03Busy) {
            return Ok(());
        }
        let this = (call.machine_id.to_owned(), call.at.elapsed);
        let former = self.busy_with.replace(this);
        if former.is_some_and(|(machine_id, since)| {
            machine_id != call.machine_id && call.at.elapsed.saturating_sub(since) < BUSY
        }) {
            return Err(Refusal::new(500, "another machine is being served"));
        }
        Ok(())
    }

    /// Begins a sync: announces its type in the settings, unless they have one, and
    /// fixes the rules that it sends. Returns the type the client will derive.
    fn begin(
        &mut self,
        call: Call<'_>,
        request: &wire::PreflightRequest,
        settings: &mut wire::PreflightResponse,
    ) -> SyncType {
        let wishes = Wishes {
            clean: request.request_clean_sync,
            rules: rules_reported(request),
            is_twin: self.is_twin(call.machine_id, request),
        };
        let Some(host) = self.hosts.get(call.machine_id) else { return SyncType::Normal };
        let own_type = own_type(settings);
        let policy = self.policy_of(call.machine_id);
        let decided = own_type.unwrap_or_else(|| self.decided(policy, host, wishes, request));
        let contents = if decided == SyncType::Normal && host.seen.is_some() {
            Contents::Changes
        } else {
            Contents::Whole
        };
        let behaved = SyncPlan { sync_type: decided, contents };
        let plan = self.misbehaviours.plan(&host.facts(), wishes, behaved);
        if own_type.is_none() || plan.sync_type != decided {
            announce(policy, plan.sync_type, settings);
        }

        let set = self.set_of(call.machine_id);
        let rules = self.rules_of(set, host, plan);
        let download = HostDownload {
            sync_type: plan.sync_type,
            rules,
            seen: set.log.len(),
            total: set.rules.len(),
            cursors: HashMap::new(),
            sent: HashSet::new(),
            is_sent_whole: false,
            is_void: false,
        };
        if self.misbehaviours.does(Misbehaviour::Iso01OneDownload) {
            let others = self.hosts.iter_mut().filter(|(id, _)| *id != call.machine_id);
            let downloads = others.filter_map(|(_, host)| host.download.as_mut());
            downloads.for_each(|download| download.is_void = true);
        }
        let Some(host) = self.hosts.get_mut(call.machine_id) else { return plan.sync_type };
        host.shown.sync_type = plan.sync_type;
        host.shown.acknowledged.clear();
        let is_eaten = self.misbehaviours.does(Misbehaviour::Ops04Eaten)
            && std::mem::take(&mut host.shown.clean_requested);
        if plan.sync_type != SyncType::Normal && !wishes.clean && !is_eaten {
            // Until its postflight nobody knows what the host has left. A wish of its
            // own the client repeats.
            host.seen = None;
        }
        host.owes_clean = plan.sync_type != SyncType::Normal && !is_eaten;
        host.is_session_lost = false;
        host.had_last_page = false;
        host.download = Some(download);
        host.open = Some(OpenSync {
            announced: plan.sync_type,
            wished: wishes.clean,
            connection: call.connection,
            began: call.at.elapsed,
            requests: 0,
            pages: 0,
        });
        plan.sync_type
    }

    /// What decides the type of a machine's syncs.
    fn policy_of(&self, machine_id: &str) -> SyncTypePolicy {
        let of_group = self.group_of(machine_id).and_then(|group| group.sync_type);
        of_group.unwrap_or(self.style.sync_type)
    }

    /// The type of a sync by that policy.
    fn decided(
        &self,
        policy: SyncTypePolicy,
        host: &Host,
        wishes: Wishes,
        request: &wire::PreflightRequest,
    ) -> SyncType {
        let is_requested = wishes.clean || host.shown.clean_requested;
        // Of a clean sync that broke off, the host may have kept nothing.
        let is_lost = wishes.rules == 0
            && (host.owes_clean
                || (host.holds.is_some_and(|rules| rules > 0)
                    && !self.misbehaviours.does(Misbehaviour::Clean07Unnoticed)));
        let is_empty = request.binary_rule_count
            + request.certificate_rule_count
            + request.compiler_rule_count
            + request.transitive_rule_count
            == 0;
        let is_clean = match policy {
            SyncTypePolicy::AsNeeded => is_requested || is_lost || host.seen.is_none(),
            SyncTypePolicy::AsRequested | SyncTypePolicy::LegacyFlag => is_requested,
            SyncTypePolicy::CleanWhenEmpty => is_requested || is_empty,
            SyncTypePolicy::Always(sync_type) => return sync_type,
            SyncTypePolicy::Silent => false,
        };
        if is_clean { SyncType::Clean } else { SyncType::Normal }
    }

    /// The rules of a sync.
    pub(super) fn rules_of(&self, set: &RuleSet, host: &Host, plan: SyncPlan) -> Arc<RuleList> {
        let changes = host.seen.and_then(|seen| set.log.get(seen..));
        let rules = match (plan.contents, changes) {
            (Contents::Nothing, _) => Arc::default(),
            (Contents::Changes, Some(changes)) => Arc::new(latest(changes).into_iter().collect()),
            (Contents::Whole | Contents::Changes, _) => Arc::clone(&set.rules),
        };
        let is_clean = plan.sync_type != SyncType::Normal;
        if is_clean && rules.len() == 0 && self.style.removes_from_empty_set {
            let sentinel = wire::Rule {
                identifier: "0".repeat(64),
                policy: wire::Policy::Remove.into(),
                rule_type: wire::RuleType::Binary.into(),
                ..wire::Rule::default()
            };
            return Arc::new([sentinel].into_iter().collect());
        }
        self.misbehaviours.rules(&host.facts(), plan, rules, &set.rules, self.page_size)
    }

    /// Whether another host has reported the rules that this one reports, as far as
    /// a misbehaviour cares.
    fn is_twin(&self, machine_id: &str, request: &wire::PreflightRequest) -> bool {
        let rules = rules_reported(request);
        self.misbehaviours.does(Misbehaviour::Iso02Counts)
            && rules > 0
            && self.hosts.iter().filter(|(id, _)| *id != machine_id).any(|(_, host)| {
                let hash = host.shown.last_postflight.as_ref().map(|told| &told.rules_hash);
                host.holds.is_some_and(|holds| holds as u64 == rules)
                    || hash.is_some_and(|hash| !hash.is_empty() && *hash == request.rules_hash)
            })
    }

    fn written_settings(
        &self,
        call: Call<'_>,
        mut settings: wire::PreflightResponse,
        sync_type: SyncType,
    ) -> Vec<u8> {
        let unknown_enum = matches!(call.fault, Some(Fault::UnknownEnum));
        let mut object = json!(settings);
        if unknown_enum {
            object["clientMode"] = json!("SOME_LATER_MODE");
        }
        if self.style.lower_case_sync_type
            && let Some(Value::String(name)) = object.get_mut("syncType")
        {
            name.make_ascii_lowercase();
        }
        let is_changed = self.misbehaviours.settings(&mut object, sync_type == SyncType::Normal);
        if call.answer_form == Form::Json {
            return reply::json_text(&self.style, object, &self.style.preflight_extra);
        }
        if is_changed {
            // What protobuf cannot say is left as it was.
            settings = serde_json::from_value(object).unwrap_or(settings);
        }
        if unknown_enum {
            settings.client_mode = 99;
        }
        reply::written(&self.style, Form::Protobuf, &settings, &Value::Null)
    }
}

/// Puts the type of a sync into the settings.
#[expect(deprecated, reason = "servers without sync_type say clean_sync")]
fn announce(policy: SyncTypePolicy, sync_type: SyncType, settings: &mut wire::PreflightResponse) {
    match policy {
        SyncTypePolicy::AsNeeded
        | SyncTypePolicy::AsRequested
        | SyncTypePolicy::CleanWhenEmpty
        | SyncTypePolicy::Always(_) => settings.set_sync_type(sync_type),
        SyncTypePolicy::LegacyFlag => {
            settings.deprecated_clean_sync = Some(sync_type != SyncType::Normal);
        }
        SyncTypePolicy::Silent => {}
    }
}

/// The type that these settings give.
#[expect(deprecated, reason = "servers without sync_type say clean_sync")]
fn own_type(settings: &wire::PreflightResponse) -> Option<SyncType> {
    if settings.sync_type() != SyncType::Unspecified {
        return Some(settings.sync_type());
    }
    let legacy = settings.deprecated_clean_sync;
    let clean_if = |clean| if clean { SyncType::Clean } else { SyncType::Normal };
    // A type that is said to be unspecified leaves the client with NORMAL.
    legacy.map(clean_if).or(settings.sync_type.is_some().then_some(SyncType::Normal))
}

/// The rules a host says it has; transitive and compiler rules are counted by type
/// as well.
fn rules_reported(request: &wire::PreflightRequest) -> u64 {
    [
        request.binary_rule_count,
        request.certificate_rule_count,
        request.teamid_rule_count,
        request.signingid_rule_count,
        request.cdhash_rule_count,
    ]
    .into_iter()
    .map(u64::from)
    .sum()
}

/// Checks that the host facts are complete.
fn host_facts_told(request: &wire::PreflightRequest) -> Result<(), Refusal> {
    let told = [
        ("serial_num", !request.serial_number.is_empty()),
        ("hostname", !request.hostname.is_empty()),
        ("os_version", dotted(&request.os_version)),
        ("os_build", !request.os_build.is_empty()),
        ("santa_version", dotted(&request.santa_version)),
    ];
    match told.into_iter().find(|(_, good)| !good) {
        Some((name, _)) => Err(Refusal::new(400, format!("{name} is empty or malformed"))),
        None => Ok(()),
    }
}

fn dotted(version: &str) -> bool {
    version.split('.').all(|part| part.parse::<u32>().is_ok())
}
