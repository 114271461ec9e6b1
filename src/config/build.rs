//! From effective values to the typed configuration.

use std::time::Duration;

use plist::Value;

use super::effective::Effective;
use super::finding::{Finding, FindingKind, Severity};
use super::shown::header_name;
use super::value::type_name;
use super::{Config, proxy, relay};
use crate::model::{
    BaseUrl, ClientMode, FileAccessAction, HeaderProblem, MediaPolicy, Policy, Proxy, Rule, Secret,
    Transfer, parse_rule,
};

/// The value of a key with a few choices, which are the names of an enum.
pub(super) fn chosen<T: Default + std::str::FromStr>(values: &Effective, name: &str) -> T {
    values.choice(name).and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Builds the configuration; what cannot be followed is added to the findings.
pub(super) fn build(values: &Effective, findings: &mut Vec<Finding>) -> Config {
    let mut builder = ConfigBuilder { values, findings };
    let remount = builder.values.texts("RemountUSBMode").filter(|flags| !flags.is_empty());
    let usb = builder.values.flag("BlockUSBMount").map(|block| match (block, remount) {
        (false, _) => MediaPolicy::Allow,
        (true, None) => MediaPolicy::Block,
        (true, Some(flags)) => MediaPolicy::Remount(flags),
    });
    let config = Config {
        sync_base_url: builder.base_url(),
        transfer: match values.flag("SyncEnableProtoTransfer") {
            Some(true) => Transfer::Protobuf,
            Some(false) | None => Transfer::Json,
        },
        content_encoding: chosen(values, "SyncClientContentEncoding"),
        extra_headers: builder.extra_headers(),
        disable_http2: values.flag("SyncDisableHTTP2").unwrap_or_default(),
        proxy: builder.proxy(),
        enable_clean_sync_event_upload: values.flag("SyncEnableCleanSyncEventUpload"),
        server_auth_roots_file: values.path("ServerAuthRootsFile"),
        server_auth_roots_data: values.data("ServerAuthRootsData"),
        client_auth_certificate_file: values.path("ClientAuthCertificateFile"),
        client_auth_certificate_password: values.secret("ClientAuthCertificatePassword"),
        machine_id: values.filled_text("MachineID"),
        machine_id_plist: values.path("MachineIDPlist"),
        machine_id_key: values.filled_text("MachineIDKey"),
        machine_owner: values.filled_text("MachineOwner"),
        machine_owner_plist: values.path("MachineOwnerPlist"),
        machine_owner_key: values.filled_text("MachineOwnerKey"),
        machine_owner_groups: values.texts("MachineOwnerGroups").unwrap_or_default(),
        machine_owner_groups_key: values.filled_text("MachineOwnerGroupsKey"),
        client_mode: values
            .integer("ClientMode")
            .and_then(|n| ClientMode::from_number(i32::try_from(n).ok()?)),
        enable_transitive_rules: values
            .flag("EnableTransitiveRules")
            .or_else(|| values.flag("EnableTransitiveWhitelisting")),
        enable_all_event_upload: values.flag("EnableAllEventUpload"),
        disable_unknown_event_upload: values.flag("DisableUnknownEventUpload"),
        allowed_path_regex: values
            .filled_text("AllowedPathRegex")
            .or_else(|| values.filled_text("WhitelistRegex")),
        blocked_path_regex: values
            .filled_text("BlockedPathRegex")
            .or_else(|| values.filled_text("BlacklistRegex")),
        removable_media: builder
            .media_policy("RemovableMediaAction", "RemovableMediaRemountFlags")
            .or(usb),
        encrypted_removable_media: builder
            .media_policy("EncryptedRemovableMediaAction", "EncryptedRemovableMediaRemountFlags"),
        override_file_access_action: values.choice("OverrideFileAccessAction").map(
            |text| match text.as_str() {
                "audit_only" | "auditonly" => FileAccessAction::AuditOnly,
                "disable" => FileAccessAction::Disable,
                _ => FileAccessAction::None,
            },
        ),
        event_detail_url: values.filled_text("EventDetailURL"),
        event_detail_text: values.filled_text("EventDetailText"),
        static_rules: builder.static_rules(),
        state_directory: values.path("StateDirectory"),
        sync_deadline: Duration::from_secs(builder.unsigned("SyncDeadline", 3600)),
        events_database: values.path("EventsDatabase"),
        event_queue_limit: builder.unsigned("EventQueueLimit", 1_000_000),
        prompt_event_upload: values.flag("PromptEventUpload").unwrap_or(true),
        guard_removed_percent: values
            .integer("GuardRemovedPercent")
            .and_then(|percent| u8::try_from(percent).ok()),
        notification_hook: values.path("NotificationHook"),
        socket_group: values.filled_text("SocketGroup"),
        metrics_file: values.path("MetricsFile"),
        log_level: chosen(values, "LogLevel"),
        log_json: values.choice("LogFormat").as_deref() == Some("json"),
        relay: relay::build(&mut builder),
        santa_profile: None,
    };
    relay::report_loop(&mut builder, &config);
    builder.report_pairs();
    builder.report_patterns();
    config
}

pub(super) struct ConfigBuilder<'a> {
    pub(super) values: &'a Effective,
    findings: &'a mut Vec<Finding>,
}

impl ConfigBuilder<'_> {
    pub(super) fn warn(
        &mut self,
        kind: FindingKind,
        key: &str,
        message: String,
        fix: impl Into<String>,
    ) {
        self.report(Severity::Warning, kind, key, message, fix);
    }

    pub(super) fn report(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        key: &str,
        message: String,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            kind,
            key: Some(key.to_owned()),
            source: self.values.source(key),
            message,
            fix: fix.into(),
        });
    }

    fn unsigned(&self, name: &str, default: u64) -> u64 {
        self.values.integer(name).and_then(|n| u64::try_from(n).ok()).unwrap_or(default)
    }

    fn base_url(&mut self) -> Option<BaseUrl> {
        let key = "SyncBaseURL";
        let text = self.values.filled_text(key)?;
        let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if STAGE_SEGMENTS.contains(&last) {
            let message = format!("ends in {last:?}, which every request adds itself");
            let fix = "remove the last part: the base URL is what precedes it";
            self.warn(FindingKind::BadValue, key, message, fix);
        }
        BaseUrl::parse(&text)
            .map_err(|error| {
                let kind = FindingKind::RejectedUrl;
                self.report(Severity::Error, kind, key, error.what(), error.fix());
            })
            .ok()
    }

    fn extra_headers(&mut self) -> Vec<(String, Secret)> {
        let key = "SyncExtraHeaders";
        let values = self.values;
        let mut headers = Vec::new();
        for (name, value) in values.dictionary(key).into_iter().flatten() {
            let shown = header_name(name);
            let Some(text) = value.as_string() else {
                let message = format!("the header {shown:?} is {}", type_name(value));
                self.warn(FindingKind::WrongType, key, message, "write its value as a string");
                continue;
            };
            if let Some(problem) = HeaderProblem::of(name, text) {
                let kind = match problem {
                    HeaderProblem::Restricted | HeaderProblem::Framing => {
                        FindingKind::RestrictedHeader
                    }
                    HeaderProblem::Name | HeaderProblem::Value => FindingKind::BadValue,
                };
                let message = format!("the header {shown:?} {} and is dropped", problem.what());
                self.warn(kind, key, message, problem.fix());
            } else {
                headers.push((name.clone(), Secret::new(text.trim().to_owned())));
            }
        }
        headers
    }

    fn proxy(&mut self) -> Proxy {
        let key = "SyncProxyConfiguration";
        let Some(dictionary) = self.values.dictionary(key) else { return Proxy::Environment };
        let mut problems = Vec::new();
        let proxy = proxy::read(dictionary, &mut problems);
        let https = self.values.filled_text("SyncBaseURL").is_some_and(|u| u.starts_with("https:"));
        if https && proxy.http.is_some() && proxy.https.is_none() && proxy.socks.is_none() {
            problems.push(proxy::ProxyProblem {
                message: "no proxy is used: SyncBaseURL is https, and only HTTP keys are set"
                    .to_owned(),
                fix: "set HTTPSEnable, HTTPSProxy and HTTPSPort as well",
            });
        }
        for problem in problems {
            self.warn(FindingKind::BadValue, key, problem.message, problem.fix);
        }
        Proxy::Configured(Box::new(proxy))
    }

    fn media_policy(&mut self, action: &str, flags: &str) -> Option<MediaPolicy> {
        let remount = self.values.texts(flags).filter(|flags| !flags.is_empty());
        let policy = match self.values.choice(action).as_deref() {
            Some("block") => MediaPolicy::Block,
            Some("remount") => {
                let Some(remount) = remount else {
                    // Without flags there is nothing to mount it with.
                    let message = "is Remount without any flags and counts as Block".to_owned();
                    self.warn(FindingKind::NoEffect, action, message, format!("set {flags}"));
                    return Some(MediaPolicy::Block);
                };
                return Some(MediaPolicy::Remount(remount));
            }
            Some(_) => MediaPolicy::Allow,
            None => {
                if remount.is_some() {
                    let message = format!("has no effect without {action}");
                    self.warn(FindingKind::NoEffect, flags, message, format!("set {action}"));
                }
                return None;
            }
        };
        Some(policy)
    }

    fn static_rules(&mut self) -> Vec<Rule> {
        let key = "StaticRules";
        let values = self.values;
        let mut rules: Vec<Rule> = Vec::new();
        for (index, value) in values.array(key).into_iter().flatten().enumerate() {
            let Some(dictionary) = value.as_dictionary() else {
                let message = format!("rule {index} is {}", type_name(value));
                self.warn(FindingKind::BadRule, key, message, "write it as a dictionary");
                continue;
            };
            let texts = dictionary.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_string()?)));
            match parse_rule(texts) {
                Ok(rule) if rule.policy == Policy::Remove => {
                    let message = format!("rule {index} is skipped: there is nothing to REMOVE");
                    self.warn(FindingKind::BadRule, key, message, "remove the rule");
                }
                Ok(rule) => {
                    let before = rules.iter().position(|r| r.identifier == rule.identifier);
                    if let Some(before) = before {
                        let kind = rule.identifier.rule_type();
                        let message = format!("rule {index} replaces another of the same {kind}");
                        self.warn(FindingKind::BadRule, key, message, "keep one of the two");
                        rules.remove(before);
                    }
                    rules.push(rule);
                }
                Err(error) => {
                    let message = format!("rule {index} is skipped: {error}");
                    self.warn(FindingKind::BadRule, key, message, "fix the rule or remove it");
                }
            }
        }
        rules
    }

    /// Keys that do nothing alone, or beside another one.
    fn report_pairs(&mut self) {
        for (key, needs) in [
            ("ClientAuthCertificatePassword", "ClientAuthCertificateFile"),
            ("MachineIDPlist", "MachineIDKey"),
            ("MachineIDKey", "MachineIDPlist"),
            ("MachineOwnerKey", "MachineOwnerPlist"),
            ("MachineOwnerGroupsKey", "MachineOwnerPlist"),
        ] {
            if self.is_set(key) && !self.is_set(needs) {
                let message = format!("has no effect without {needs}");
                self.warn(
                    FindingKind::NoEffect,
                    key,
                    message,
                    format!("set {needs}, or remove it"),
                );
            }
        }
        for (key, beaten_by) in [
            ("ServerAuthRootsData", "ServerAuthRootsFile"),
            ("EnableTransitiveWhitelisting", "EnableTransitiveRules"),
            ("WhitelistRegex", "AllowedPathRegex"),
            ("BlacklistRegex", "BlockedPathRegex"),
            ("BlockUSBMount", "RemovableMediaAction"),
        ] {
            if self.is_set(key) && self.is_set(beaten_by) {
                let message = format!("has no effect beside {beaten_by}");
                let kind = FindingKind::NoEffect;
                self.report(Severity::Note, kind, key, message, "remove one of the two");
            }
        }
    }

    /// Patterns are ICU's and given to Santa as they are; what no dialect takes
    /// would count as unset there.
    fn report_patterns(&mut self) {
        for key in ["AllowedPathRegex", "BlockedPathRegex", "WhitelistRegex", "BlacklistRegex"] {
            let Some(text) = self.values.filled_text(key) else { continue };
            if let Some(unbalanced) = unbalanced(&text) {
                let message = format!("has an unbalanced {unbalanced:?}, so Santa ignores it");
                self.warn(FindingKind::BadValue, key, message, "balance it, or escape it with \\");
            }
        }
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        match self.values.get(name).map(|chosen| &chosen.value) {
            None => self.values.is_template(name),
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        }
    }
}

/// The URL segments that requests add to the base URL.
const STAGE_SEGMENTS: [&str; 5] =
    ["preflight", "eventupload", "ruledownload", "postflight", "xsrf"];

/// The first bracket of a pattern without its partner.
fn unbalanced(pattern: &str) -> Option<char> {
    let mut groups = 0_u32;
    // How many sets are open, and whether the next character is a set's first,
    // where a closing bracket stands for itself.
    let (mut sets, mut first) = (0_u32, false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let at_first = std::mem::take(&mut first);
        match c {
            '\\' => match chars.next() {
                None => return Some('\\'),
                Some('Q') if sets == 0 => {
                    let (_, after) = chars.as_str().split_once("\\E").unwrap_or_default();
                    chars = after.chars();
                }
                Some(_) => {}
            },
            '[' => (sets, first) = (sets + 1, true),
            '^' if at_first => first = true,
            ']' if sets > 0 && !at_first => sets -= 1,
            '(' if sets == 0 => groups += 1,
            ')' if sets == 0 => match groups.checked_sub(1) {
                Some(open) => groups = open,
                None => return Some(')'),
            },
            _ => {}
        }
    }
    match (sets, groups) {
        (0, 0) => None,
        (0, _) => Some('('),
        (_, _) => Some('['),
    }
}
