//! Santa's sync state: what servers set, on disk.

use std::collections::BTreeMap;

use santa_sync::model::{ClientMode, SyncType};
use santa_sync::protocol::wire::{self, removable_media_policy::Action};

use super::age::Age;

/// The keys of `sync-state.plist` that a server of protocol v1 sets, and Santa's own.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct SyncState {
    /// Which clean sync the next preflight asks for.
    pub(crate) required: Option<SyncType>,
    /// Tokens of a server of sync v2, under which Santa speaks v2 to any server.
    pub(crate) token_chain: bool,
    pub(crate) given: Given,
}

/// Settings as stored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Given {
    pub(crate) client_mode: Option<ClientMode>,
    pub(crate) enable_bundles: Option<bool>,
    pub(crate) enable_transitive_rules: Option<bool>,
    pub(crate) enable_all_event_upload: Option<bool>,
    pub(crate) disable_unknown_event_upload: Option<bool>,
    pub(crate) allowed_path_regex: Option<String>,
    pub(crate) blocked_path_regex: Option<String>,
    pub(crate) media_action: Option<&'static str>,
    pub(crate) media_flags: Option<Vec<String>>,
    pub(crate) encrypted_media_action: Option<&'static str>,
    pub(crate) encrypted_media_flags: Option<Vec<String>>,
    pub(crate) override_file_access_action: Option<&'static str>,
    pub(crate) event_detail_url: Option<String>,
    pub(crate) event_detail_text: Option<String>,
    pub(crate) full_sync_interval: Option<u32>,
    pub(crate) push_sync_interval: Option<u32>,
}

impl SyncState {
    /// The clean sync to ask for: an empty state asks for everything anew.
    pub(crate) fn required(&self) -> SyncType {
        if *self == Self::default() {
            return SyncType::CleanAll;
        }
        self.required.unwrap_or(SyncType::Normal)
    }

    /// What happens at the end of a sync: one write.
    pub(crate) fn finish(&mut self, new: &Given, done: SyncType, age: Age) {
        if done != SyncType::Normal {
            if age.clears_settings() {
                *self = Self::default();
            }
            self.required = Some(SyncType::Normal);
        }
        self.given.take(new);
    }

    /// What a restart of santad loses: its loader does not know that key.
    pub(crate) fn reload(&mut self) {
        self.given.disable_unknown_event_upload = None;
    }
}

impl Given {
    /// Reads a preflight response.
    #[expect(deprecated, reason = "Santa reads what servers of old send")]
    pub(crate) fn read(response: &wire::PreflightResponse, age: Age) -> Self {
        let text = |new: Option<&String>, old: Option<&String>| new.or(old).cloned();
        let (media_action, media_flags) = match &response.removable_media_policy {
            Some(policy) if age.knows_media_policies() => media(policy),
            _ => old_media(response),
        };
        let (encrypted_media_action, encrypted_media_flags) =
            match &response.encrypted_removable_media_policy {
                Some(policy) if age.knows_media_policies() => media(policy),
                _ => (None, None),
            };
        Self {
            client_mode: ClientMode::from_number(response.client_mode),
            enable_bundles: response.enable_bundles.or(response.deprecated_bundles_enabled),
            enable_transitive_rules: response
                .enable_transitive_rules
                .or(response.deprecated_enabled_transitive_whitelisting)
                .or(response.deprecated_transitive_whitelisting_enabled),
            enable_all_event_upload: response.enable_all_event_upload,
            disable_unknown_event_upload: response.disable_unknown_event_upload,
            allowed_path_regex: text(
                response.allowed_path_regex.as_ref(),
                response.deprecated_whitelist_regex.as_ref(),
            ),
            blocked_path_regex: text(
                response.blocked_path_regex.as_ref(),
                response.deprecated_blacklist_regex.as_ref(),
            ),
            media_action,
            media_flags,
            encrypted_media_action,
            encrypted_media_flags,
            // Its own setter refuses AUDIT_ONLY.
            override_file_access_action: match response.override_file_access_action() {
                wire::FileAccessAction::None => Some("NONE"),
                wire::FileAccessAction::Disable => Some("DISABLE"),
                wire::FileAccessAction::AuditOnly | wire::FileAccessAction::Unspecified => None,
            },
            event_detail_url: response.event_detail_url.clone(),
            event_detail_text: response.event_detail_text.clone(),
            full_sync_interval: interval(response.full_sync_interval_seconds),
            push_sync_interval: interval(response.push_notification_full_sync_interval_seconds)
                .or_else(|| interval(response.deprecated_fcm_full_sync_interval_seconds())),
        }
    }

    /// Takes what is set over the values there are.
    fn take(&mut self, new: &Self) {
        fn over<T: Clone>(old: &mut Option<T>, new: Option<&T>) {
            if let Some(new) = new {
                *old = Some(new.clone());
            }
        }
        over(&mut self.client_mode, new.client_mode.as_ref());
        over(&mut self.enable_bundles, new.enable_bundles.as_ref());
        over(&mut self.enable_transitive_rules, new.enable_transitive_rules.as_ref());
        over(&mut self.enable_all_event_upload, new.enable_all_event_upload.as_ref());
        over(&mut self.disable_unknown_event_upload, new.disable_unknown_event_upload.as_ref());
        over(&mut self.allowed_path_regex, new.allowed_path_regex.as_ref());
        over(&mut self.blocked_path_regex, new.blocked_path_regex.as_ref());
        over(&mut self.media_action, new.media_action.as_ref());
        over(&mut self.media_flags, new.media_flags.as_ref());
        over(&mut self.encrypted_media_action, new.encrypted_media_action.as_ref());
        over(&mut self.encrypted_media_flags, new.encrypted_media_flags.as_ref());
        over(&mut self.override_file_access_action, new.override_file_access_action.as_ref());
        over(&mut self.event_detail_url, new.event_detail_url.as_ref());
        over(&mut self.event_detail_text, new.event_detail_text.as_ref());
        over(&mut self.full_sync_interval, new.full_sync_interval.as_ref());
        over(&mut self.push_sync_interval, new.push_sync_interval.as_ref());
    }

    /// What is set and in effect, as text: media flags count beside Remount only.
    pub(crate) fn shown(&self) -> BTreeMap<&'static str, String> {
        let media = |action: Option<&str>, flags: Option<&Vec<String>>| match (action, flags) {
            (Some("Remount"), Some(flags)) => Some(format!("Remount {}", flags.join(","))),
            (action, _) => action.map(str::to_owned),
        };
        let flag = |value: Option<bool>| value.map(|value| value.to_string());
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        [
            ("client_mode", self.client_mode.map(|mode| mode.name().to_owned())),
            ("enable_bundles", flag(self.enable_bundles)),
            ("enable_transitive_rules", flag(self.enable_transitive_rules)),
            ("enable_all_event_upload", flag(self.enable_all_event_upload)),
            ("disable_unknown_event_upload", flag(self.disable_unknown_event_upload)),
            ("allowed_path_regex", self.allowed_path_regex.clone()),
            ("blocked_path_regex", self.blocked_path_regex.clone()),
            ("media", media(self.media_action, self.media_flags.as_ref())),
            (
                "encrypted_media",
                media(self.encrypted_media_action, self.encrypted_media_flags.as_ref()),
            ),
            ("override_file_access_action", self.override_file_access_action.map(str::to_owned)),
            ("event_detail_url", self.event_detail_url.clone()),
            ("event_detail_text", self.event_detail_text.clone()),
            ("full_sync_interval", number(self.full_sync_interval)),
            ("push_sync_interval", number(self.push_sync_interval)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

fn interval(seconds: u32) -> Option<u32> {
    (seconds > 0).then(|| seconds.max(60))
}

fn media(policy: &wire::RemovableMediaPolicy) -> (Option<&'static str>, Option<Vec<String>>) {
    match &policy.action {
        None => (None, None),
        Some(Action::Allow(_)) => (Some("Allow"), None),
        Some(Action::Block(_)) => (Some("Block"), None),
        Some(Action::Remount(remount)) => (Some("Remount"), Some(remount.flags.clone())),
    }
}

#[expect(deprecated, reason = "what Santa of old reads")]
fn old_media(response: &wire::PreflightResponse) -> (Option<&'static str>, Option<Vec<String>>) {
    match (response.block_usb_mount, &response.remount_usb_mode) {
        (None, _) => (None, None),
        (Some(false), _) => (Some("Allow"), None),
        (Some(true), flags) if flags.is_empty() => (Some("Block"), None),
        (Some(true), flags) => (Some("Remount"), Some(flags.clone())),
    }
}
