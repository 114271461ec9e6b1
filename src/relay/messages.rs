//! What the authorizer says in its requests, and what it is told. Pure.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_128;

use super::core::BATCH_SIZE;
use super::plan::{Authorizer, Plan, Why};
use super::release::Release;
use super::sessions::Report;
use crate::model::{ClientMode, RuleCounts, RuleState, Settings, SyncType};
use crate::protocol::{preflight, wire};

/// The authorizer by its preflight.
pub(super) fn authorizer(request: &wire::PreflightRequest, has_v2_state: bool) -> Authorizer {
    Authorizer {
        release: Release::parse(&request.santa_version),
        rules_hash: Some(request.rules_hash.clone()).filter(|hash| !hash.is_empty()),
        counts: RuleCounts {
            binary: request.binary_rule_count,
            certificate: request.certificate_rule_count,
            compiler: request.compiler_rule_count,
            transitive: request.transitive_rule_count,
            teamid: request.teamid_rule_count,
            signingid: request.signingid_rule_count,
            cdhash: request.cdhash_rule_count,
        },
        mode: ClientMode::from_number(request.client_mode),
        wants_clean: request.request_clean_sync,
        has_v2_state,
    }
}

/// What a postflight reports.
pub(super) fn report(request: &wire::PostflightRequest) -> Report {
    let sync_type = match request.sync_type() {
        wire::SyncType::Unspecified => None,
        wire::SyncType::Normal => Some(SyncType::Normal),
        wire::SyncType::Clean => Some(SyncType::Clean),
        wire::SyncType::CleanAll => Some(SyncType::CleanAll),
        wire::SyncType::CleanStandalone => Some(SyncType::CleanStandalone),
        wire::SyncType::CleanRules => Some(SyncType::CleanRules),
        wire::SyncType::CleanFileAccessRules => Some(SyncType::CleanFileAccessRules),
    };
    Report {
        rules_received: request.rules_received.into(),
        rules_processed: request.rules_processed.into(),
        sync_type,
        rules_hash: Some(request.rules_hash.clone()).filter(|hash| !hash.is_empty()),
    }
}

/// Whether the authorizer holds rules of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// It has never acknowledged any.
    Never,
    /// It may have lost those that it acknowledged.
    Unknown,
    /// It is known to hold a set of ours.
    Known,
}

/// The settings that go with a delivery. The mode is left out if the authorizer may have no
/// rules of ours and this delivery has none either: in LOCKDOWN, it would block everything
/// until the next delivery. MONITOR is left out only if it has never acknowledged any.
pub(super) fn settings_to_send(settings: &Settings, plan: Plan, holding: Holding) -> Settings {
    let brings_none = matches!(plan.why, Why::EventsFirst | Why::Guarded);
    let is_given = |mode: &ClientMode| match holding {
        Holding::Never => !brings_none,
        Holding::Unknown => !brings_none || *mode == ClientMode::Monitor,
        Holding::Known => true,
    };
    let client_mode = settings.client_mode.filter(is_given);
    Settings { client_mode, ..settings.clone() }
}

/// The names of the settings that are handed out. Those of push messages are not,
/// and the interval is the relay's own.
pub(super) fn setting_names(settings: &Settings) -> BTreeSet<String> {
    let own = |name: &str| {
        matches!(
            name,
            "full_sync_interval"
                | "push_notification_full_sync_interval"
                | "push_notification_global_rule_sync_deadline"
                | "push_token_chain"
        )
    };
    let given = settings.shown().into_iter().filter(|(name, value)| value.is_some() && !own(name));
    given.map(|(name, _)| name.to_owned()).collect()
}

/// A digest of the settings that are handed out.
pub(super) fn settings_digest(settings: &Settings) -> String {
    let response = preflight::response(settings, SyncType::Normal, 0, 0);
    let bytes = prost::Message::encode_to_vec(&response);
    format!("{:032x}", xxh3_128(&bytes))
}

/// What pedro reads (RELAY-13): a value it does not know fails its whole sync.
pub(super) fn preflight_for_pedro(settings: &Settings, interval: u32) -> wire::PreflightResponse {
    let client_mode = settings.client_mode.map(|mode| match mode {
        ClientMode::Standalone | ClientMode::Lockdown => ClientMode::Lockdown,
        ClientMode::Monitor => ClientMode::Monitor,
    });
    let settings = Settings { client_mode, ..Settings::default() };
    preflight::response(&settings, SyncType::Normal, BATCH_SIZE, interval)
}

/// What a release cannot do, in words.
pub(super) fn limits(authorizer: &Authorizer) -> Vec<String> {
    let mut limits = Vec::new();
    if authorizer.rules_hash.is_none() {
        limits.push("report which rules it holds: only their number is checked".to_owned());
    }
    if !Release::clears_settings(authorizer.release) {
        limits.push("drop settings that the server no longer gives (before 2026.4)".to_owned());
    }
    let knows = |state| Release::sendable(authorizer.release, state) == Some(state);
    if !knows(RuleState::Cel) {
        limits.push("take CEL rules (before 2025.6)".to_owned());
    }
    if !knows(RuleState::SilentBlockGui) {
        limits.push("block silently in one place only (before 2026.6)".to_owned());
    }
    limits
}

/// Why a delivery is what it is, in words.
pub(super) const fn reason(why: Why) -> &'static str {
    match why {
        Why::InStep => "it has the newest rules",
        Why::Changed => "rules have changed",
        Why::CleanAll => "the server or the operator wanted all rules replaced",
        Why::Asked => "it asks for a clean sync",
        Why::NoBase => "its rules are not known to be a set of ours",
        Why::OtherForm => "its new release takes some rules in another form",
        Why::ChangesNotKept => "the changes since its rules are no longer kept",
        Why::ServerReplaced => "the server replaced its rules",
        Why::FilledSince => "it may have rules from elsewhere",
        Why::SettingWithdrawn => "a setting is no longer given",
        Why::LeftOfV2 => "it still has state of version 2 of the protocol",
        Why::NotFilled => "no clean sync with the server has succeeded yet",
        Why::EventsFirst => "it has to upload its events before a clean sync",
        Why::Guarded => "the guard holds rules back (GuardRemovedPercent)",
        Why::WholeSets => "it takes whole sets",
    }
}
