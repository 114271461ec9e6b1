//! Settings in effect and staged, clean-sync requests, and whose they are.
//!
//! The database is authoritative. `sync-state.plist` is written after it, for
//! other programs to read, and repaired at the next start if a crash came in
//! between.

mod batch_size;
mod former_server;
mod lenient;
mod lockdown_hold;
mod sync_state;

use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;

use lenient::{end_requests, note_answer, read_slot, write_request, write_slot};

pub(super) use former_server::{former_rules, former_settings, rules_replaced};
pub(super) use lenient::read_requests;
pub use lockdown_hold::ModeHeldBack;
pub use sync_state::SYNC_STATE_FILE;

use super::{Notice, Store, StoreError, agent_meta};
use crate::model::{
    BaseUrl, CleanSyncReason, CleanSyncRequest, MachineId, SettingChange, Settings, SyncType,
    Timestamp,
};

const SERVER_URL_KEY: &str = "server_url";
const MACHINE_ID_KEY: &str = "machine_id";
const FULL_SYNC: &str = "full_sync_last_success";
const RULE_SYNC: &str = "rule_sync_last_success";

impl Store {
    /// Stores the configured server and machine id. The first ones, and every
    /// change, request a `CLEAN_ALL` sync. On a change the settings and rules
    /// of the former server stay in effect: the settings until a sync with the
    /// new one has succeeded, the rules until a clean one has (PRE-7). Returns
    /// why a clean sync is requested, if this is a change.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn identify(
        &mut self,
        server: &BaseUrl,
        machine_id: &MachineId,
        now: Timestamp,
    ) -> Result<Option<CleanSyncReason>, StoreError> {
        let failed = self.failed("note the server");
        let recreated = self.dir.join(SYNC_STATE_FILE).exists()
            || self
                .clean_sync_requests()?
                .iter()
                .any(|request| request.reason == CleanSyncReason::RulesRecreated);
        let reason = identify(&mut self.rules, server, machine_id.as_str(), recreated, now)
            .map_err(failed)?;
        Ok(reason)
    }

    /// Returns the server ([`BaseUrl::identity`]) and machine id that the store
    /// belongs to.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn identity(&self) -> Result<Option<(String, String)>, StoreError> {
        let read = || {
            Ok(agent_meta::get(&self.rules, SERVER_URL_KEY)?
                .zip(agent_meta::get(&self.rules, MACHINE_ID_KEY)?))
        };
        read().map_err(self.failed("read the server's name"))
    }

    /// Returns the settings in effect, as the server sent them.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn applied_settings(&self) -> Result<Settings, StoreError> {
        let read = read_slot(&self.rules, "applied");
        Ok(read.map_err(self.failed("read the settings"))?.unwrap_or_default())
    }

    /// Stores settings without putting them in effect, and notes the server's
    /// sync type on every pending clean-sync request.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn stage_settings(
        &mut self,
        settings: &Settings,
        answered: SyncType,
    ) -> Result<(), StoreError> {
        let failed = self.failed("stage the settings");
        let stage = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            write_slot(&tx, "staged", settings, true)?;
            note_answer(&tx, answered)?;
            tx.commit()
        };
        stage(&mut self.rules).map_err(failed)
    }

    /// Returns what applying these settings would change.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn preview_settings(
        &self,
        settings: &Settings,
        clear: bool,
    ) -> Result<Vec<SettingChange>, StoreError> {
        let before = self.applied_settings()?;
        let base = if clear { Settings::default() } else { before.clone() };
        Ok(base.overlaid(settings).changes_from(&before))
    }

    /// Deletes staged settings, readable or not. Returns what they would have
    /// changed; `None` if there were none.
    ///
    /// # Errors
    /// If the database cannot be written; then they are still staged, and the
    /// next start deletes them.
    pub fn drop_staged(&mut self) -> Result<Option<Vec<SettingChange>>, StoreError> {
        let failed = self.failed("drop the staged settings");
        let drop_staged = |conn: &mut Connection| {
            if !lenient::is_filled(conn, "staged")? {
                return Ok(None);
            }
            let staged = read_slot(conn, "staged")?.unwrap_or_default();
            let before = read_slot(conn, "applied")?.unwrap_or_default();
            conn.execute("DELETE FROM agent_settings WHERE slot = 'staged'", [])?;
            Ok(Some(before.overlaid(&staged).changes_from(&before)))
        };
        drop_staged(&mut self.rules).map_err(failed)
    }

    /// Puts the staged settings in effect and returns what that changed. `clear`
    /// deletes what the server sent before in the same transaction. `succeeded`
    /// is the type of a sync that was a success: it ends the clean-sync
    /// requests it fulfils.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn apply_staged(
        &mut self,
        clear: bool,
        succeeded: Option<SyncType>,
        now: Timestamp,
    ) -> Result<Vec<SettingChange>, StoreError> {
        let failed = self.failed("apply the settings");
        let changes = apply(&mut self.rules, clear, succeeded, now).map_err(failed)?;
        // The settings are in effect; the next start rewrites the file.
        if let Err(error) = self.write_sync_state() {
            tracing::warn!(%error, "other programs do not see the new settings yet");
        }
        Ok(changes)
    }

    /// Returns the clean-sync requests, strongest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn clean_sync_requests(&self) -> Result<Vec<CleanSyncRequest>, StoreError> {
        read_requests(&self.rules).map_err(self.failed("read the clean-sync requests"))
    }

    /// Adds a clean-sync request. One of the same reason is replaced, unless
    /// it is stronger.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn request_clean_sync(
        &mut self,
        sync_type: SyncType,
        reason: CleanSyncReason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = self.failed("note the clean-sync request");
        request_clean_sync(&self.rules, sync_type, reason, now).map_err(failed)
    }

    /// Withdraws the operator's clean-sync request. Returns whether there was
    /// one.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn forget_clean_sync(&mut self) -> Result<bool, StoreError> {
        let failed = self.failed("withdraw the clean-sync request");
        lenient::delete_request(&self.rules, CleanSyncReason::Operator).map_err(failed)
    }

    /// Requests a `CLEAN_ALL` sync if the database was recreated or its
    /// settings cannot be read. Returns a notice in the latter case.
    pub(super) fn check_settings(
        &mut self,
        recreated: bool,
        now: Timestamp,
    ) -> Result<Option<Notice>, StoreError> {
        let failed = self.failed("check the settings");
        let check = |conn: &Connection| {
            let unreadable = lenient::is_unreadable(conn, "applied")?;
            for (due, reason) in [
                (recreated, CleanSyncReason::RulesRecreated),
                (unreadable, CleanSyncReason::SettingsUnreadable),
            ] {
                if due {
                    request_clean_sync(conn, SyncType::CleanAll, reason, now)?;
                }
            }
            Ok(unreadable)
        };
        let path = self.dir.join(super::rules::DATABASE.file);
        let unreadable = check(&self.rules).map_err(failed)?;
        Ok(unreadable.then_some(Notice::SettingsUnreadable { path }))
    }

    /// Returns when the last full sync succeeded.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn full_sync_last_success(&self) -> Result<Option<Timestamp>, StoreError> {
        self.time_of(FULL_SYNC)
    }

    /// Returns when rules were last committed.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rule_sync_last_success(&self) -> Result<Option<Timestamp>, StoreError> {
        self.time_of(RULE_SYNC)
    }

    fn time_of(&self, key: &str) -> Result<Option<Timestamp>, StoreError> {
        let read: Option<String> =
            agent_meta::get(&self.rules, key).map_err(self.failed("read the last success"))?;
        Ok(read.as_deref().and_then(Timestamp::parse))
    }
}

fn identify(
    conn: &mut Connection,
    server: &BaseUrl,
    machine_id: &str,
    recreated: bool,
    now: Timestamp,
) -> rusqlite::Result<Option<CleanSyncReason>> {
    let known_server: Option<String> = agent_meta::get(conn, SERVER_URL_KEY)?;
    let known_machine: Option<String> = agent_meta::get(conn, MACHINE_ID_KEY)?;
    let identity = server.identity();
    let same_server = known_server.as_deref().is_some_and(|known| server.is_named_by(known));
    let reason = match (known_server.as_deref(), known_machine.as_deref()) {
        (Some(known), Some(m)) if same_server && m == machine_id => {
            if known != identity {
                // An older version stored the URL in another form.
                agent_meta::put(conn, SERVER_URL_KEY, &identity)?;
            }
            return Ok(None);
        }
        (Some(_), Some(_)) if same_server => CleanSyncReason::MachineIdChanged,
        (Some(_), Some(_)) => CleanSyncReason::ServerChanged,
        (_, _) if recreated => CleanSyncReason::RulesRecreated,
        (_, _) => CleanSyncReason::NewState,
    };
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    agent_meta::put(&tx, SERVER_URL_KEY, &identity)?;
    agent_meta::put(&tx, MACHINE_ID_KEY, &machine_id)?;
    tx.execute("DELETE FROM agent_settings WHERE slot = 'staged'", [])?;
    if let (Some(server), Some(machine)) = (known_server, known_machine) {
        former_server::changed(&tx, &(server, machine), &(identity, machine_id.to_owned()))?;
    }
    request_clean_sync(&tx, SyncType::CleanAll, reason, now)?;
    tx.commit()?;
    Ok(Some(reason))
}

fn apply(
    conn: &mut Connection,
    clear: bool,
    succeeded: Option<SyncType>,
    now: Timestamp,
) -> rusqlite::Result<Vec<SettingChange>> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before: Settings = read_slot(&tx, "applied")?.unwrap_or_default();
    let staged = read_slot(&tx, "staged")?.unwrap_or_default();
    let base = if clear { Settings::default() } else { before.clone() };
    let after = base.overlaid(&staged);
    write_slot(&tx, "applied", &after, clear)?;
    tx.execute("DELETE FROM agent_settings WHERE slot = 'staged'", [])?;
    agent_meta::put(&tx, RULE_SYNC, &now.to_string())?;
    if let Some(done) = succeeded {
        former_server::settings_replaced(&tx)?;
        agent_meta::put(&tx, FULL_SYNC, &now.to_string())?;
        end_requests(&tx, done)?;
    }
    tx.commit()?;
    Ok(after.changes_from(&before))
}

fn request_clean_sync(
    conn: &Connection,
    sync_type: SyncType,
    reason: CleanSyncReason,
    since: Timestamp,
) -> rusqlite::Result<()> {
    let held = read_requests(conn)?.into_iter().find(|request| request.reason == reason);
    if held.is_some_and(|request| strength(request.sync_type) >= strength(sync_type)) {
        return Ok(());
    }
    write_request(conn, &CleanSyncRequest { sync_type, reason, since, last_answer: None })
}

const fn strength(sync_type: SyncType) -> u8 {
    match sync_type {
        SyncType::CleanAll => 2,
        SyncType::Clean => 1,
        SyncType::Normal
        | SyncType::CleanStandalone
        | SyncType::CleanRules
        | SyncType::CleanFileAccessRules => 0,
    }
}

pub(super) fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests;
