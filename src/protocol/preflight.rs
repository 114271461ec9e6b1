//! Preflight: the host's facts to the request, the response to settings.
//!
//! Which type of sync follows, and when settings take effect, is decided in
//! [`crate::sync`].

use super::wire;
use crate::model::{
    ClientMode, FileAccessAction, HostFacts, MAX_SYNC_INTERVAL_SECS, MIN_PUSH_DEADLINE_SECS,
    MIN_SYNC_INTERVAL_SECS, MachineId, MediaPolicy, RuleCounts, Settings, SyncType,
};

/// Events a request may carry if the server does not say.
pub const DEFAULT_BATCH_SIZE: u32 = 50;

/// What the request reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightFacts {
    /// The host.
    pub host: HostFacts,
    /// The mode in effect.
    pub client_mode: ClientMode,
    /// Rules in the store.
    pub rule_counts: RuleCounts,
    /// Hash of the store.
    pub rules_hash: String,
}

/// What the response contains.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PreflightResult {
    /// The settings it carries.
    pub settings: Settings,
    /// Its `sync_type`; unspecified and unknown ones read as NORMAL.
    pub sync_type: Option<SyncType>,
    /// Its `clean_sync`, the older way to say CLEAN.
    pub clean_sync: bool,
    /// Events a request may carry, at least 1.
    pub batch_size: usize,
}

/// The request for these facts; `clean` asks for a clean sync.
#[must_use]
pub fn request(
    machine_id: &MachineId,
    facts: &PreflightFacts,
    clean: bool,
) -> wire::PreflightRequest {
    let PreflightFacts { host, client_mode, rule_counts, rules_hash } = facts;
    let host = host.clone();
    wire::PreflightRequest {
        serial_number: host.serial_number,
        hostname: host.hostname,
        os_version: host.os_version,
        os_build: host.os_build,
        model_identifier: host.model_identifier,
        santa_version: host.santa_version,
        primary_user: host.primary_user,
        primary_user_groups: host.primary_user_groups,
        // No push service is connected, and so no message ever starts a sync.
        push_notification_token: String::new(),
        push_notification_sync: false,
        client_mode: client_mode.number(),
        request_clean_sync: clean,
        binary_rule_count: rule_counts.binary,
        certificate_rule_count: rule_counts.certificate,
        compiler_rule_count: rule_counts.compiler,
        transitive_rule_count: rule_counts.transitive,
        teamid_rule_count: rule_counts.teamid,
        signingid_rule_count: rule_counts.signingid,
        cdhash_rule_count: rule_counts.cdhash,
        machine_id: machine_id.as_str().to_owned(),
        sip_status: host.sip_status,
        rules_hash: rules_hash.clone(),
    }
}

/// Reads the response. Where a deprecated twin and its successor are both
/// given, the successor counts.
#[must_use]
#[expect(deprecated, reason = "servers of the field still send the deprecated fields")]
pub fn read(response: wire::PreflightResponse) -> PreflightResult {
    let client_mode = ClientMode::from_number(response.client_mode);
    let file_access =
        response.override_file_access_action.map(|_| response.override_file_access_action());
    let sync_type = response.sync_type.map(|_| sync_type(response.sync_type()));
    let r = response;
    let settings = Settings {
        client_mode,
        enable_bundles: r.enable_bundles.or(r.deprecated_bundles_enabled),
        enable_transitive_rules: r
            .enable_transitive_rules
            .or(r.deprecated_enabled_transitive_whitelisting)
            .or(r.deprecated_transitive_whitelisting_enabled),
        enable_all_event_upload: r.enable_all_event_upload,
        disable_unknown_event_upload: r.disable_unknown_event_upload,
        full_sync_interval: interval(r.full_sync_interval_seconds),
        push_notification_full_sync_interval: interval(
            r.push_notification_full_sync_interval_seconds,
        )
        .or(r.deprecated_fcm_full_sync_interval_seconds.and_then(interval)),
        push_notification_global_rule_sync_deadline: push_deadline(
            r.push_notification_global_rule_sync_deadline_seconds,
        )
        .or(r.deprecated_fcm_global_rule_sync_deadline_seconds.and_then(push_deadline)),
        allowed_path_regex: r.allowed_path_regex.or(r.deprecated_whitelist_regex),
        blocked_path_regex: r.blocked_path_regex.or(r.deprecated_blacklist_regex),
        removable_media: r
            .removable_media_policy
            .and_then(media_policy)
            .or_else(|| r.block_usb_mount.map(|block| old_media_policy(block, r.remount_usb_mode))),
        encrypted_removable_media: r.encrypted_removable_media_policy.and_then(media_policy),
        override_file_access_action: file_access.and_then(file_access_action),
        event_detail_url: r.event_detail_url,
        event_detail_text: r.event_detail_text,
        push_token_chain: (!r.push_issuer_token.is_empty() && !r.push_token.is_empty())
            .then_some([r.push_issuer_token, r.push_token]),
    };
    let batch_size = if r.batch_size == 0 { DEFAULT_BATCH_SIZE } else { r.batch_size };
    PreflightResult {
        settings,
        sync_type,
        clean_sync: r.deprecated_clean_sync.unwrap_or(false),
        batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
    }
}

const fn sync_type(wire: wire::SyncType) -> SyncType {
    match wire {
        wire::SyncType::Unspecified | wire::SyncType::Normal => SyncType::Normal,
        wire::SyncType::Clean => SyncType::Clean,
        wire::SyncType::CleanAll => SyncType::CleanAll,
        wire::SyncType::CleanStandalone => SyncType::CleanStandalone,
        wire::SyncType::CleanRules => SyncType::CleanRules,
        wire::SyncType::CleanFileAccessRules => SyncType::CleanFileAccessRules,
    }
}

/// The wire number of a sync type.
#[must_use]
pub fn sync_type_number(sync_type: SyncType) -> i32 {
    match sync_type {
        SyncType::Normal => wire::SyncType::Normal,
        SyncType::Clean => wire::SyncType::Clean,
        SyncType::CleanAll => wire::SyncType::CleanAll,
        SyncType::CleanStandalone => wire::SyncType::CleanStandalone,
        SyncType::CleanRules => wire::SyncType::CleanRules,
        SyncType::CleanFileAccessRules => wire::SyncType::CleanFileAccessRules,
    }
    .into()
}

const fn file_access_action(wire: wire::FileAccessAction) -> Option<FileAccessAction> {
    match wire {
        wire::FileAccessAction::Unspecified => None,
        wire::FileAccessAction::None => Some(FileAccessAction::None),
        wire::FileAccessAction::AuditOnly => Some(FileAccessAction::AuditOnly),
        wire::FileAccessAction::Disable => Some(FileAccessAction::Disable),
    }
}

fn interval(seconds: u32) -> Option<u32> {
    (seconds != 0).then(|| seconds.clamp(MIN_SYNC_INTERVAL_SECS, MAX_SYNC_INTERVAL_SECS))
}

fn push_deadline(seconds: u32) -> Option<u32> {
    (seconds != 0).then(|| seconds.max(MIN_PUSH_DEADLINE_SECS))
}

/// A `false` says nothing: it is how some encoders fill an unset member.
fn media_policy(wire: wire::RemovableMediaPolicy) -> Option<MediaPolicy> {
    use wire::removable_media_policy::Action;
    match wire.action? {
        Action::Allow(true) => Some(MediaPolicy::Allow),
        Action::Block(true) => Some(MediaPolicy::Block),
        Action::Allow(false) | Action::Block(false) => None,
        Action::Remount(policy) => Some(MediaPolicy::Remount(policy.flags)),
    }
}

fn old_media_policy(block: bool, remount_flags: Vec<String>) -> MediaPolicy {
    match (block, remount_flags.is_empty()) {
        (false, _) => MediaPolicy::Allow,
        (true, true) => MediaPolicy::Block,
        (true, false) => MediaPolicy::Remount(remount_flags),
    }
}

/// The response that gives a client these settings, under their names and their
/// deprecated twins: what [`read`] reads, but for push tokens and the intervals
/// of push messages, which only the server that gave them can use.
#[must_use]
#[expect(deprecated, reason = "older releases of Santa know only the deprecated fields")]
pub fn response(
    settings: &Settings,
    sync_type: SyncType,
    batch_size: u32,
    full_sync_interval: u32,
) -> wire::PreflightResponse {
    let s = settings.clone();
    let media = |policy: MediaPolicy| {
        use wire::removable_media_policy::Action;
        wire::RemovableMediaPolicy {
            action: Some(match policy {
                MediaPolicy::Allow => Action::Allow(true),
                MediaPolicy::Block => Action::Block(true),
                MediaPolicy::Remount(flags) => Action::Remount(wire::RemountPolicy { flags }),
            }),
        }
    };
    let remount_flags = match &s.removable_media {
        Some(MediaPolicy::Remount(flags)) => flags.clone(),
        Some(MediaPolicy::Allow | MediaPolicy::Block) | None => Vec::new(),
    };
    let action = |action| match action {
        FileAccessAction::None => wire::FileAccessAction::None,
        FileAccessAction::AuditOnly => wire::FileAccessAction::AuditOnly,
        FileAccessAction::Disable => wire::FileAccessAction::Disable,
    };
    wire::PreflightResponse {
        client_mode: s.client_mode.map_or(0, ClientMode::number),
        sync_type: Some(sync_type_number(sync_type)),
        batch_size,
        enable_bundles: s.enable_bundles,
        deprecated_bundles_enabled: s.enable_bundles,
        enable_transitive_rules: s.enable_transitive_rules,
        deprecated_enabled_transitive_whitelisting: s.enable_transitive_rules,
        deprecated_transitive_whitelisting_enabled: s.enable_transitive_rules,
        enable_all_event_upload: s.enable_all_event_upload,
        disable_unknown_event_upload: s.disable_unknown_event_upload,
        full_sync_interval_seconds: full_sync_interval,
        deprecated_whitelist_regex: s.allowed_path_regex.clone(),
        allowed_path_regex: s.allowed_path_regex,
        deprecated_blacklist_regex: s.blocked_path_regex.clone(),
        blocked_path_regex: s.blocked_path_regex,
        block_usb_mount: s.removable_media.as_ref().map(|policy| *policy != MediaPolicy::Allow),
        remount_usb_mode: remount_flags,
        removable_media_policy: s.removable_media.map(media),
        encrypted_removable_media_policy: s.encrypted_removable_media.map(media),
        override_file_access_action: s
            .override_file_access_action
            .map(|given| action(given).into()),
        event_detail_url: s.event_detail_url,
        event_detail_text: s.event_detail_text,
        ..wire::PreflightResponse::default()
    }
}

/// A response in JSON for clients that know the names of the schema (`client_mode`),
/// but not its JSON names (`clientMode`): the mode, the type and the bounds.
#[must_use]
pub fn plain_json(response: &wire::PreflightResponse) -> Vec<u8> {
    let mut object = serde_json::json!({
        "sync_type": response.sync_type().as_str_name(),
        "batch_size": response.batch_size,
        "full_sync_interval": response.full_sync_interval_seconds,
    });
    if response.client_mode() != wire::ClientMode::UnknownClientMode {
        object["client_mode"] = response.client_mode().as_str_name().into();
    }
    object.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Transfer;
    use crate::protocol::body::{self, ResponseBody};

    fn answer(body: &str) -> PreflightResult {
        let received = ResponseBody::new(Transfer::Json, body.as_bytes());
        read(body::decode(received).expect(body).message)
    }

    /// JSON-2, PRE-1: case 11's request, with the keys that are always written.
    #[test]
    fn json_2_the_request_is_written_to_the_letter() {
        let facts = PreflightFacts {
            host: HostFacts {
                serial_number: "QYGF4QM373".into(),
                hostname: "full-hostname.example.com".into(),
                os_version: "14.5".into(),
                os_build: "23F79".into(),
                model_identifier: "MacBookPro18,3".into(),
                santa_version: "2024.6.655965194".into(),
                primary_user: "username1".into(),
                primary_user_groups: Vec::new(),
                sip_status: 111,
            },
            client_mode: ClientMode::Monitor,
            rule_counts: RuleCounts::default(),
            rules_hash: "the-hash".into(),
        };
        let id = MachineId::new("50C7E1EB-2EF5-42D4-A084-A7966FC45A95").expect("an id");
        let body = body::encode(Transfer::Json, &request(&id, &facts, false)).expect("encodes");
        assert_eq!(
            String::from_utf8(body).expect("UTF-8"),
            concat!(
                r#"{"serial_num":"QYGF4QM373","hostname":"full-hostname.example.com","#,
                r#""os_version":"14.5","os_build":"23F79","model_identifier":"MacBookPro18,3","#,
                r#""santa_version":"2024.6.655965194","primary_user":"username1","#,
                r#""client_mode":"MONITOR","request_clean_sync":false,"binary_rule_count":0,"#,
                r#""certificate_rule_count":0,"compiler_rule_count":0,"transitive_rule_count":0,"#,
                r#""teamid_rule_count":0,"signingid_rule_count":0,"cdhash_rule_count":0,"#,
                r#""machine_id":"50C7E1EB-2EF5-42D4-A084-A7966FC45A95","sipStatus":111,"#,
                r#""rulesHash":"the-hash"}"#
            )
        );
    }

    /// RELAY-4: what is handed out is what was given, in the new names as in the
    /// deprecated ones; nothing of push messages.
    #[test]
    fn relay_4_what_is_handed_out_reads_as_what_was_given() {
        let given = Settings {
            client_mode: Some(ClientMode::Lockdown),
            enable_bundles: Some(false),
            enable_transitive_rules: Some(true),
            enable_all_event_upload: Some(false),
            disable_unknown_event_upload: Some(true),
            full_sync_interval: Some(600),
            push_notification_full_sync_interval: Some(14_400),
            push_notification_global_rule_sync_deadline: Some(600),
            allowed_path_regex: Some(String::new()),
            blocked_path_regex: Some("^/tmp/".to_owned()),
            removable_media: Some(MediaPolicy::Remount(vec!["rdonly".to_owned()])),
            encrypted_removable_media: Some(MediaPolicy::Block),
            override_file_access_action: Some(FileAccessAction::AuditOnly),
            event_detail_url: Some("https://host/%file_sha%".to_owned()),
            event_detail_text: Some("More".to_owned()),
            push_token_chain: Some(["issuer".to_owned(), "token".to_owned()]),
        };
        let kept = Settings {
            push_notification_full_sync_interval: None,
            push_notification_global_rule_sync_deadline: None,
            push_token_chain: None,
            full_sync_interval: Some(60),
            ..given.clone()
        };
        let sent = response(&given, SyncType::Clean, 100, 60);
        let text = String::from_utf8(body::encode(Transfer::Json, &sent).expect("encodes"));
        let text = text.expect("UTF-8");
        for twin in [
            "\"bundles_enabled\":false",
            "\"enabled_transitive_whitelisting\":true",
            "\"transitive_whitelisting_enabled\":true",
            "\"whitelist_regex\":\"\"",
            "\"blacklist_regex\":\"^/tmp/\"",
            "\"blockUsbMount\":true",
        ] {
            assert!(text.contains(twin), "{twin} in {text}");
        }
        assert!(!text.contains("issuer"), "{text}");
        let read = read(sent);
        assert_eq!((read.settings, read.batch_size), (kept, 100));
        assert_eq!(read.sync_type, Some(SyncType::Clean));
        let nothing = super::read(response(&Settings::default(), SyncType::Normal, 100, 0));
        assert_eq!(nothing.settings, Settings::default());
    }

    /// PRE-5, PRE-6, cases 11 to 17: null is absent, patterns are kept as given.
    #[test]
    fn pre_5_absent_and_null_fields_set_nothing() {
        for nothing in ["{}", r#"{"allowed_path_regex":null,"client_mode":null,"batch_size":0}"#] {
            let answer = answer(nothing);
            assert_eq!(answer.settings, Settings::default());
            assert_eq!((answer.batch_size, answer.sync_type), (50, None));
        }
        let settings =
            answer(r#"{"allowed_path_regex":"^/(?<x>[[:odd:]","blocked_path_regex":""}"#).settings;
        assert_eq!(settings.allowed_path_regex.as_deref(), Some("^/(?<x>[[:odd:]"));
        assert_eq!(settings.blocked_path_regex.as_deref(), Some(""));
    }

    /// PRE-5: the newer field wins over its deprecated twin.
    #[test]
    fn pre_5_deprecated_twins_count_only_without_their_successors() {
        let old = answer(
            r#"{"bundles_enabled":true,"enabled_transitive_whitelisting":true,"whitelist_regex":"a",
                "blacklist_regex":"b","fcm_full_sync_interval":900,"fcm_global_rule_sync_deadline":1}"#,
        )
        .settings;
        assert_eq!((old.enable_bundles, old.enable_transitive_rules), (Some(true), Some(true)));
        assert_eq!(old.allowed_path_regex.as_deref(), Some("a"));
        assert_eq!(old.blocked_path_regex.as_deref(), Some("b"));
        assert_eq!(old.push_notification_full_sync_interval, Some(900));
        assert_eq!(old.push_notification_global_rule_sync_deadline, Some(600));
        let both = answer(
            r#"{"bundles_enabled":true,"enable_bundles":false,"whitelist_regex":"a",
                "allowed_path_regex":"c","transitive_whitelisting_enabled":true,
                "enableTransitiveRules":false}"#,
        )
        .settings;
        assert_eq!((both.enable_bundles, both.enable_transitive_rules), (Some(false), Some(false)));
        assert_eq!(both.allowed_path_regex.as_deref(), Some("c"));
    }

    /// PRE-5: bounds of the intervals.
    #[test]
    fn pre_5_intervals_are_kept_within_a_minute_and_a_week() {
        for (given, kept) in [
            (0, None),
            (1, Some(60)),
            (59, Some(60)),
            (60, Some(60)),
            (604_800, Some(604_800)),
            (604_801, Some(604_800)),
        ] {
            let body = format!(r#"{{"full_sync_interval":{given}}}"#);
            assert_eq!(answer(&body).settings.full_sync_interval, kept, "{given}");
        }
    }

    /// PRE-5, case 13 and after.
    #[test]
    fn pre_5_media_policies_come_from_either_generation() {
        let media = |body: &str| answer(body).settings.removable_media;
        let flags = || vec!["rdonly".to_owned(), "noexec".to_owned()];
        assert_eq!(
            media(r#"{"block_usb_mount":true,"remount_usb_mode":["rdonly","noexec"]}"#),
            Some(MediaPolicy::Remount(flags()))
        );
        assert_eq!(media(r#"{"block_usb_mount":true}"#), Some(MediaPolicy::Block));
        assert_eq!(media(r#"{"block_usb_mount":false}"#), Some(MediaPolicy::Allow));
        assert_eq!(
            media(r#"{"removable_media_policy":{"allow":true},"block_usb_mount":true}"#),
            Some(MediaPolicy::Allow)
        );
        let encrypted = r#"{"encryptedRemovableMediaPolicy":{"remount":{"flags":["rdonly"]}}}"#;
        let settings = answer(encrypted).settings;
        assert_eq!(settings.removable_media, None);
        assert_eq!(
            settings.encrypted_removable_media,
            Some(MediaPolicy::Remount(vec!["rdonly".to_owned()]))
        );
    }

    /// JSON-1, case 16: aliases, any case, numbers, unknown names.
    #[test]
    fn json_1_enums_are_read_by_any_name_or_number() {
        let action = |v: &str| {
            answer(&format!(r#"{{"override_file_access_action":{v}}}"#))
                .settings
                .override_file_access_action
        };
        for audit in [r#""AuditOnly""#, r#""AUDIT_ONLY""#, r#""audit_only""#, "2", r#""2""#, "2.0"]
        {
            assert_eq!(action(audit), Some(FileAccessAction::AuditOnly), "{audit}");
        }
        for none in [r#""SOMETHING_NEW""#, "99", "-1", "null", r#""""#] {
            assert_eq!(action(none), None, "{none}");
        }
        let unknown =
            answer(r#"{"client_mode":"PARANOID","batch_size":"20","sync_type":"CLEAN_SLATE"}"#);
        assert_eq!((unknown.settings.client_mode, unknown.batch_size), (None, 20));
        assert_eq!(unknown.sync_type, Some(SyncType::Normal));
    }
}
