//! `sync-state.plist`: the settings in effect under the reference's keys, for
//! other programs to read. Derived from the database and never read back.

use std::borrow::Cow;
use std::io;
use std::time::{Duration, SystemTime};

use plist::{Dictionary, Value};

use crate::files::{self, Obstacle, Replacement};
use crate::model::{
    CleanSyncRequest, ClientMode, FileAccessAction, MediaPolicy, Settings, SyncType, Timestamp,
    text,
};
use crate::store::{Store, StoreError};

/// The file in the state directory.
pub const SYNC_STATE_FILE: &str = "sync-state.plist";

impl Store {
    /// Rewrites the file if it differs from the database. Readers see the whole
    /// old or the whole new file.
    ///
    /// # Errors
    /// If the database cannot be read or the file not be written.
    pub fn write_sync_state(&self) -> Result<(), StoreError> {
        let settings = self.applied_settings()?;
        let requests = self.clean_sync_requests()?;
        let mode = settings.client_mode.map(|given| self.client_mode(Some(given))).transpose()?;
        let mut state = to_plist(
            &settings,
            mode,
            &requests,
            self.full_sync_last_success()?,
            self.rule_sync_last_success()?,
        );
        let shortened = fit_for_xml(&mut state);
        let path = self.dir.join(SYNC_STATE_FILE);
        let mut text = Vec::new();
        let failed = |source: io::Error| StoreError::File { path: path.clone(), source };
        plist::to_writer_xml(&mut text, &state).map_err(|e| failed(io::Error::other(e)))?;
        let obstacle = |found| StoreError::from_obstacle(&path, found);
        match files::read_own(&path, text.len() as u64) {
            Ok(Some(old)) if old == text => return Ok(()),
            Ok(_) | Err(Obstacle::TooLarge(_)) => {}
            Err(found) => return Err(obstacle(found)),
        }
        for key in shortened {
            tracing::warn!(
                key,
                "a setting of the server has characters that XML cannot hold; \
                 sync-state.plist has it without them"
            );
        }
        files::replace(&path, &text, Replacement { mode: 0o600, durable: true }).map_err(obstacle)
    }
}

fn to_plist(
    settings: &Settings,
    client_mode: Option<ClientMode>,
    requests: &[CleanSyncRequest],
    full_sync: Option<Timestamp>,
    rule_sync: Option<Timestamp>,
) -> Value {
    let mut state = Dictionary::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            state.insert(key.to_owned(), value);
        }
    };
    let flag = |v: Option<bool>| v.map(Value::Boolean);
    let text = |v: &Option<String>| v.clone().map(Value::String);
    let number = |v: Option<u32>| v.map(|v| Value::Integer(v.into()));
    put("ClientMode", client_mode.map(|mode| Value::Integer(mode.number().into())));
    put("SyncTypeRequired", Some(Value::Integer(required(requests).into())));
    put("FullSyncLastSuccess", full_sync.and_then(date));
    put("RuleSyncLastSuccess", rule_sync.and_then(date));
    put("AllowedPathRegex", text(&settings.allowed_path_regex));
    put("BlockedPathRegex", text(&settings.blocked_path_regex));
    put("EnableBundles", flag(settings.enable_bundles));
    put("EnableTransitiveRules", flag(settings.enable_transitive_rules));
    put("EnableAllEventUpload", flag(settings.enable_all_event_upload));
    put("DisableUnknownEventUpload", flag(settings.disable_unknown_event_upload));
    for (prefix, policy) in [
        ("RemovableMedia", &settings.removable_media),
        ("EncryptedRemovableMedia", &settings.encrypted_removable_media),
    ] {
        let Some(policy) = policy else { continue };
        let (action, flags) = media(policy);
        put(&format!("{prefix}Action"), Some(Value::String(action.to_owned())));
        put(&format!("{prefix}RemountFlags"), flags);
    }
    put(
        "OverrideFileAccessAction",
        settings.override_file_access_action.map(|action| {
            let name = match action {
                FileAccessAction::None => "None",
                FileAccessAction::AuditOnly => "AuditOnly",
                FileAccessAction::Disable => "Disable",
            };
            Value::String(name.to_owned())
        }),
    );
    put("EventDetailURL", text(&settings.event_detail_url));
    put("EventDetailText", text(&settings.event_detail_text));
    put(
        "PushTokenChain",
        settings
            .push_token_chain
            .clone()
            .map(|chain| Value::Array(chain.into_iter().map(Value::String).collect())),
    );
    put("full_sync_interval", number(settings.full_sync_interval));
    put("fcm_full_sync_interval", number(settings.push_notification_full_sync_interval));
    Value::Dictionary(state)
}

/// Removes characters that XML cannot represent, and returns the keys they were
/// removed from. A file with such characters could not be read at all.
fn fit_for_xml(state: &mut Value) -> Vec<String> {
    let Some(state) = state.as_dictionary_mut() else { return Vec::new() };
    let mut shortened = Vec::new();
    for (key, value) in state.iter_mut() {
        let mut changed = false;
        let mut fit = |value: &mut Value| {
            if let Value::String(text) = value
                && let Cow::Owned(fit) = text::fit_for_xml(text)
            {
                *text = fit;
                changed = true;
            }
        };
        fit(value);
        value.as_array_mut().into_iter().flatten().for_each(&mut fit);
        if changed {
            shortened.push(key.clone());
        }
    }
    shortened
}

/// Returns the reference's number for the requested clean sync.
fn required(requests: &[CleanSyncRequest]) -> i32 {
    match requests.first().map(|request| request.sync_type) {
        Some(SyncType::CleanAll) => 2,
        Some(SyncType::Clean) => 1,
        Some(
            SyncType::Normal
            | SyncType::CleanStandalone
            | SyncType::CleanRules
            | SyncType::CleanFileAccessRules,
        )
        | None => 0,
    }
}

fn media(policy: &MediaPolicy) -> (&'static str, Option<Value>) {
    match policy {
        MediaPolicy::Allow => ("Allow", None),
        MediaPolicy::Block => ("Block", None),
        MediaPolicy::Remount(flags) => {
            let flags = flags.iter().cloned().map(Value::String).collect();
            ("Remount", Some(Value::Array(flags)))
        }
    }
}

fn date(at: Timestamp) -> Option<Value> {
    let since = Duration::from_secs(u64::try_from(at.as_secs()).ok()?);
    Some(Value::Date((SystemTime::UNIX_EPOCH + since).into()))
}
