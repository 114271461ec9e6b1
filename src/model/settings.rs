//! What a preflight response sets, and the clean-sync request.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::Timestamp;

/// Seconds between syncs if neither the server nor anybody else set them (PRE-5).
pub const DEFAULT_SYNC_INTERVAL_SECS: u32 = 10 * 60;
/// The fewest seconds between syncs that a server can set (PRE-5).
pub const MIN_SYNC_INTERVAL_SECS: u32 = 60;
/// The most seconds between syncs that a server can set: a week (PRE-5).
pub const MAX_SYNC_INTERVAL_SECS: u32 = 7 * 24 * 60 * 60;
/// The fewest seconds within which hosts follow a push message.
pub const MIN_PUSH_DEADLINE_SECS: u32 = 10 * 60;

/// How strictly the host decides about executables that no rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientMode {
    /// Unknown executables run and are recorded.
    Monitor,
    /// Unknown executables are blocked.
    Lockdown,
    /// Unknown executables are held until the user decides.
    Standalone,
}

impl ClientMode {
    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The number on the wire, in `sync-state.plist` and in configuration.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Monitor => 1,
            Self::Lockdown => 2,
            Self::Standalone => 3,
        }
    }

    /// The mode of that number.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Monitor),
            2 => Some(Self::Lockdown),
            3 => Some(Self::Standalone),
            _ => None,
        }
    }
}

/// Which rules a sync deletes before it applies the downloaded ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum SyncType {
    /// None.
    Normal,
    /// All but transitive ones.
    Clean,
    /// All.
    CleanAll,
    /// Those a user of the host made.
    CleanStandalone,
    /// The execution rules but transitive ones.
    CleanRules,
    /// The file-access rules.
    CleanFileAccessRules,
}

impl SyncType {
    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it replaces what the server gave before: such a sync clears
    /// settings too, and fulfils a clean-sync request of its strength.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        matches!(self, Self::Clean | Self::CleanAll)
    }

    /// Whether it deletes any execution rule.
    #[must_use]
    pub const fn deletes_execution_rules(self) -> bool {
        match self {
            Self::Normal | Self::CleanFileAccessRules => false,
            Self::Clean | Self::CleanAll | Self::CleanStandalone | Self::CleanRules => true,
        }
    }
}

/// Overrides the action of every file-access rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum FileAccessAction {
    /// No override: each rule decides.
    None,
    /// Rules record but never deny.
    AuditOnly,
    /// Rules neither record nor deny.
    Disable,
}

impl FileAccessAction {
    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How removable volumes are handled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaPolicy {
    /// Mounted as they are.
    Allow,
    /// Not mounted.
    Block,
    /// Mounted again with these flags.
    Remount(Vec<String>),
}

/// What a preflight response sets, for this host's agent and its authorizer.
/// `None` means that the server did not set it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// See [`ClientMode`].
    pub client_mode: Option<ClientMode>,
    /// Whether all executables of a blocked bundle are reported.
    pub enable_bundles: Option<bool>,
    /// Whether what a compiler writes may run.
    pub enable_transitive_rules: Option<bool>,
    /// Whether allowed executions are recorded too.
    pub enable_all_event_upload: Option<bool>,
    /// Whether executions allowed because no rule covers them go unrecorded.
    pub disable_unknown_event_upload: Option<bool>,
    /// Seconds between syncs, 60 to 604800.
    pub full_sync_interval: Option<u32>,
    /// Seconds between syncs while push messages arrive, 60 to 604800.
    pub push_notification_full_sync_interval: Option<u32>,
    /// Seconds within which every host follows a push message, at least 600.
    pub push_notification_global_rule_sync_deadline: Option<u32>,
    /// ICU pattern, as the server gave it.
    pub allowed_path_regex: Option<String>,
    /// ICU pattern, as the server gave it.
    pub blocked_path_regex: Option<String>,
    /// For volumes that are not encrypted, and for encrypted ones without a
    /// policy of their own.
    pub removable_media: Option<MediaPolicy>,
    /// For encrypted volumes.
    pub encrypted_removable_media: Option<MediaPolicy>,
    /// See [`FileAccessAction`].
    pub override_file_access_action: Option<FileAccessAction>,
    /// Link of the block dialogue.
    pub event_detail_url: Option<String>,
    /// Label of that link.
    pub event_detail_text: Option<String>,
    /// Issuer and user token of the push service. Secrets.
    pub push_token_chain: Option<[String; 2]>,
}

/// One setting that differs between two [`Settings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// The setting's protocol name.
    pub setting: String,
    /// Its value before, as text; `None` if unset.
    pub before: Option<String>,
    /// Its value after, as text; `None` if unset.
    pub after: Option<String>,
}

impl Settings {
    /// Every setting by its protocol name, as text to show; `None` if unset.
    /// Tokens are masked.
    #[must_use]
    pub fn shown(&self) -> Vec<(&'static str, Option<String>)> {
        // Destructured, so that a new field cannot be forgotten.
        let Self {
            client_mode,
            enable_bundles,
            enable_transitive_rules,
            enable_all_event_upload,
            disable_unknown_event_upload,
            full_sync_interval,
            push_notification_full_sync_interval,
            push_notification_global_rule_sync_deadline,
            allowed_path_regex,
            blocked_path_regex,
            removable_media,
            encrypted_removable_media,
            override_file_access_action,
            event_detail_url,
            event_detail_text,
            push_token_chain,
        } = self;
        let text = |v: &Option<String>| v.clone();
        let flag = |v: &Option<bool>| v.map(|v| v.to_string());
        let secs = |v: &Option<u32>| v.map(|v| v.to_string());
        let media = |v: &Option<MediaPolicy>| {
            v.as_ref().map(|policy| match policy {
                MediaPolicy::Allow => "allow".to_owned(),
                MediaPolicy::Block => "block".to_owned(),
                MediaPolicy::Remount(flags) => format!("remount ({})", flags.join(", ")),
            })
        };
        vec![
            ("client_mode", client_mode.map(|v| v.name().to_owned())),
            ("enable_bundles", flag(enable_bundles)),
            ("enable_transitive_rules", flag(enable_transitive_rules)),
            ("enable_all_event_upload", flag(enable_all_event_upload)),
            ("disable_unknown_event_upload", flag(disable_unknown_event_upload)),
            ("full_sync_interval", secs(full_sync_interval)),
            ("push_notification_full_sync_interval", secs(push_notification_full_sync_interval)),
            (
                "push_notification_global_rule_sync_deadline",
                secs(push_notification_global_rule_sync_deadline),
            ),
            ("allowed_path_regex", text(allowed_path_regex)),
            ("blocked_path_regex", text(blocked_path_regex)),
            ("removable_media_policy", media(removable_media)),
            ("encrypted_removable_media_policy", media(encrypted_removable_media)),
            (
                "override_file_access_action",
                override_file_access_action.map(|v| v.name().to_owned()),
            ),
            ("event_detail_url", text(event_detail_url)),
            ("event_detail_text", text(event_detail_text)),
            ("push_token_chain", push_token_chain.as_ref().map(|_| "(secret)".to_owned())),
        ]
    }

    /// These settings with what `newer` sets put over them.
    #[must_use]
    pub fn overlaid(&self, newer: &Self) -> Self {
        let base = self.clone();
        let newer = newer.clone();
        Self {
            client_mode: newer.client_mode.or(base.client_mode),
            enable_bundles: newer.enable_bundles.or(base.enable_bundles),
            enable_transitive_rules: newer.enable_transitive_rules.or(base.enable_transitive_rules),
            enable_all_event_upload: newer.enable_all_event_upload.or(base.enable_all_event_upload),
            disable_unknown_event_upload: newer
                .disable_unknown_event_upload
                .or(base.disable_unknown_event_upload),
            full_sync_interval: newer.full_sync_interval.or(base.full_sync_interval),
            push_notification_full_sync_interval: newer
                .push_notification_full_sync_interval
                .or(base.push_notification_full_sync_interval),
            push_notification_global_rule_sync_deadline: newer
                .push_notification_global_rule_sync_deadline
                .or(base.push_notification_global_rule_sync_deadline),
            allowed_path_regex: newer.allowed_path_regex.or(base.allowed_path_regex),
            blocked_path_regex: newer.blocked_path_regex.or(base.blocked_path_regex),
            removable_media: newer.removable_media.or(base.removable_media),
            encrypted_removable_media: newer
                .encrypted_removable_media
                .or(base.encrypted_removable_media),
            override_file_access_action: newer
                .override_file_access_action
                .or(base.override_file_access_action),
            event_detail_url: newer.event_detail_url.or(base.event_detail_url),
            event_detail_text: newer.event_detail_text.or(base.event_detail_text),
            push_token_chain: newer.push_token_chain.or(base.push_token_chain),
        }
    }

    /// What turns `before` into `self`. Changed tokens show as changed, never
    /// their text.
    #[must_use]
    pub fn changes_from(&self, before: &Self) -> Vec<SettingChange> {
        let mut changes: Vec<_> = before
            .shown()
            .into_iter()
            .zip(self.shown())
            .filter(|((_, before), (_, after))| before != after)
            .map(|((setting, before), (_, after))| SettingChange {
                setting: setting.to_owned(),
                before,
                after,
            })
            .collect();
        if let (Some(old), Some(new)) = (&before.push_token_chain, &self.push_token_chain)
            && old != new
        {
            changes.push(SettingChange {
                setting: "push_token_chain".to_owned(),
                before: Some("(secret)".to_owned()),
                after: Some("(another secret)".to_owned()),
            });
        }
        changes
    }
}

/// Shows what is set; tokens are masked.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.shown().into_iter().filter(|(_, value)| value.is_some()))
            .finish()
    }
}

/// Why a clean sync is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CleanSyncReason {
    /// The state directory is new.
    NewState,
    /// The rule store was recreated.
    RulesRecreated,
    /// The server's URL changed.
    ServerChanged,
    /// The machine id changed.
    MachineIdChanged,
    /// The operator asked for it.
    Operator,
    /// The stored settings in effect could not be read.
    SettingsUnreadable,
    /// A reason that this version does not know; another one stored it.
    Other,
}

impl CleanSyncReason {
    /// The reason in words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NewState => "new state",
            Self::RulesRecreated => "rule store recreated",
            Self::ServerChanged => "server changed",
            Self::MachineIdChanged => "machine id changed",
            Self::Operator => "asked for",
            Self::SettingsUnreadable => "stored settings unreadable",
            Self::Other => "requested by another version",
        }
    }
}

/// A clean-sync request, kept until one of at least its strength succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanSyncRequest {
    /// [`SyncType::Clean`] or [`SyncType::CleanAll`].
    pub sync_type: SyncType,
    /// Why.
    pub reason: CleanSyncReason,
    /// Since when.
    pub since: Timestamp,
    /// The type the server last returned while the request was pending.
    pub last_answer: Option<SyncType>,
}

impl CleanSyncRequest {
    /// Whether a successful sync of that type ends the request. Only that of
    /// a new state also ends with a sync of any type.
    #[must_use]
    pub fn is_ended_by(&self, done: SyncType) -> bool {
        match (self.reason, self.sync_type) {
            (CleanSyncReason::NewState, _) => true,
            (_, SyncType::CleanAll) => done == SyncType::CleanAll,
            (_, _) => done.is_clean(),
        }
    }
}
