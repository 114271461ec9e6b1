//! Settings in force and staged, wishes for a clean sync, and whose they are.
//!
//! The database is what counts; `sync-state.plist` is written after it, for
//! other programs to read, and made good at the next start if a crash came
//! between.

mod sync_state;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use sync_state::SYNC_STATE_FILE;

use super::{Store, StoreError};
use crate::model::{
    BaseUrl, ClientMode, MachineId, SettingChange, Settings, SyncType, Timestamp, Wish, WishReason,
};

const SERVER: &str = "server_url";
const MACHINE: &str = "machine_id";
const FULL_SYNC: &str = "full_sync_last_success";
const RULE_SYNC: &str = "rule_sync_last_success";

impl Store {
    /// Tells the store whose settings and rules it holds. The first server and
    /// machine id make a wish for a clean sync, and so does every other one,
    /// which also clears the settings of the one before. Its rules stay until
    /// the new ones are committed.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn identify(
        &mut self,
        server: &BaseUrl,
        machine_id: &MachineId,
        now: Timestamp,
    ) -> Result<Option<WishReason>, StoreError> {
        let failed = self.failed("note the server");
        let recreated = self.dir.join(SYNC_STATE_FILE).exists();
        let reason = identify(&mut self.rules, server, machine_id.as_str(), recreated, now)
            .map_err(failed)?;
        if reason.is_some() {
            self.write_sync_state()?;
        }
        Ok(reason)
    }

    /// The server ([`BaseUrl::identity`]) and machine id that the store belongs
    /// to.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn identity(&self) -> Result<Option<(String, String)>, StoreError> {
        let read = || Ok(get_meta(&self.rules, SERVER)?.zip(get_meta(&self.rules, MACHINE)?));
        read().map_err(self.failed("read the server's name"))
    }

    /// The settings in force, as the server gave them.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn applied_settings(&self) -> Result<Settings, StoreError> {
        let read = read_slot(&self.rules, "applied");
        Ok(read.map_err(self.failed("read the settings"))?.unwrap_or_default())
    }

    /// The mode in force: the server's, else `configured`, else MONITOR. It is
    /// never LOCKDOWN before the first complete set of rules.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn client_mode(&self, configured: Option<ClientMode>) -> Result<ClientMode, StoreError> {
        let given = self.applied_settings()?.client_mode.or(configured);
        Ok(mode_in_force(given, self.rules_complete()?))
    }

    /// Puts settings on disk without putting them in force, and notes the type
    /// of sync the server answered on every wish held.
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
            write_slot(&tx, "staged", settings)?;
            for mut wish in read_wishes(&tx)? {
                wish.last_answer = Some(answered);
                write_wish(&tx, &wish)?;
            }
            tx.commit()
        };
        stage(&mut self.rules).map_err(failed)
    }

    /// What applying these settings would change.
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

    /// Throws staged settings away. `None` if there were none, else what they
    /// would have changed.
    ///
    /// # Errors
    /// If the database cannot be written; then they are still there, and the
    /// next start throws them away.
    pub fn drop_staged(&mut self) -> Result<Option<Vec<SettingChange>>, StoreError> {
        let failed = self.failed("drop the staged settings");
        let drop_staged = |conn: &mut Connection| {
            let Some(staged) = read_slot(conn, "staged")? else { return Ok(None) };
            let before = read_slot(conn, "applied")?.unwrap_or_default();
            conn.execute("DELETE FROM agent_settings WHERE slot = 'staged'", [])?;
            Ok(Some(before.overlaid(&staged).changes_from(&before)))
        };
        drop_staged(&mut self.rules).map_err(failed)
    }

    /// Puts the staged settings in force, and answers what that changed.
    /// `clear` forgets what the server gave before in the same step.
    /// `succeeded` is the type of a sync that was a success: it ends the wishes
    /// it fulfils.
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
        // The settings are in force; the next start writes the file anew.
        if let Err(error) = self.write_sync_state() {
            tracing::warn!(%error, "other programs do not see the new settings yet");
        }
        Ok(changes)
    }

    /// The wishes for a clean sync, strongest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn wishes(&self) -> Result<Vec<Wish>, StoreError> {
        read_wishes(&self.rules).map_err(self.failed("read the wishes"))
    }

    /// Adds a wish for a clean sync. One of the same reason is replaced, unless
    /// it is stronger.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn add_wish(
        &mut self,
        sync_type: SyncType,
        reason: WishReason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = self.failed("note the wish for a clean sync");
        add_wish(&self.rules, sync_type, reason, now).map_err(failed)?;
        self.write_sync_state()
    }

    /// When the last full sync succeeded.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn full_sync_last_success(&self) -> Result<Option<Timestamp>, StoreError> {
        let read =
            get_meta(&self.rules, FULL_SYNC).map_err(self.failed("read the last success"))?;
        Ok(read.as_deref().and_then(Timestamp::parse))
    }

    /// When rules were last committed.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rule_sync_last_success(&self) -> Result<Option<Timestamp>, StoreError> {
        let read =
            get_meta(&self.rules, RULE_SYNC).map_err(self.failed("read the last success"))?;
        Ok(read.as_deref().and_then(Timestamp::parse))
    }
}

/// STATE-5's gate: without a complete set of rules LOCKDOWN would block the
/// host's way out.
const fn mode_in_force(given: Option<ClientMode>, rules_complete: bool) -> ClientMode {
    match given {
        Some(ClientMode::Lockdown) if !rules_complete => ClientMode::Monitor,
        Some(mode) => mode,
        None => ClientMode::Monitor,
    }
}

fn identify(
    conn: &mut Connection,
    server: &BaseUrl,
    machine_id: &str,
    recreated: bool,
    now: Timestamp,
) -> rusqlite::Result<Option<WishReason>> {
    let known_server = get_meta(conn, SERVER)?;
    let known_machine = get_meta(conn, MACHINE)?;
    let identity = server.identity();
    let same_server = known_server.as_deref().is_some_and(|known| server.is_named_by(known));
    let reason = match (known_server.as_deref(), known_machine.as_deref()) {
        (Some(known), Some(m)) if same_server && m == machine_id => {
            if known != identity {
                // What an older version kept, or one that shows URLs otherwise.
                put_meta(conn, SERVER, &identity)?;
            }
            return Ok(None);
        }
        (Some(_), Some(_)) if same_server => WishReason::MachineIdChanged,
        (Some(_), Some(_)) => WishReason::ServerChanged,
        (_, _) if recreated => WishReason::RulesRecreated,
        (_, _) => WishReason::NewState,
    };
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    put_meta(&tx, SERVER, &identity)?;
    put_meta(&tx, MACHINE, machine_id)?;
    tx.execute("DELETE FROM agent_settings", [])?;
    add_wish(&tx, SyncType::CleanAll, reason, now)?;
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
    write_slot(&tx, "applied", &after)?;
    tx.execute("DELETE FROM agent_settings WHERE slot = 'staged'", [])?;
    put_meta(&tx, RULE_SYNC, &now.to_string())?;
    if let Some(done) = succeeded {
        put_meta(&tx, FULL_SYNC, &now.to_string())?;
        for wish in read_wishes(&tx)?.into_iter().filter(|wish| wish.is_ended_by(done)) {
            tx.execute("DELETE FROM agent_wishes WHERE reason = ?1", [key_of(wish.reason)?])?;
        }
    }
    tx.commit()?;
    Ok(after.changes_from(&before))
}

fn add_wish(
    conn: &Connection,
    sync_type: SyncType,
    reason: WishReason,
    since: Timestamp,
) -> rusqlite::Result<()> {
    let held = read_wishes(conn)?.into_iter().find(|wish| wish.reason == reason);
    if held.is_some_and(|wish| strength(wish.sync_type) >= strength(sync_type)) {
        return Ok(());
    }
    write_wish(conn, &Wish { sync_type, reason, since, last_answer: None })
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

fn read_wishes(conn: &Connection) -> rusqlite::Result<Vec<Wish>> {
    let mut statement = conn.prepare_cached("SELECT wish FROM agent_wishes ORDER BY reason")?;
    let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut wishes = texts.map(|text| from_json(&text?)).collect::<Result<Vec<Wish>, _>>()?;
    wishes.sort_by_key(|wish| (std::cmp::Reverse(strength(wish.sync_type)), wish.since));
    Ok(wishes)
}

fn write_wish(conn: &Connection, wish: &Wish) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR REPLACE INTO agent_wishes (reason, wish) VALUES (?1, ?2)",
        params![key_of(wish.reason)?, to_json(wish)?],
    )
    .map(|_| ())
}

fn key_of(reason: WishReason) -> rusqlite::Result<String> {
    to_json(&reason)
}

fn read_slot(conn: &Connection, slot: &str) -> rusqlite::Result<Option<Settings>> {
    let text: Option<String> = conn
        .prepare_cached("SELECT settings FROM agent_settings WHERE slot = ?1")?
        .query_row([slot], |row| row.get(0))
        .optional()?;
    text.as_deref().map(from_json).transpose()
}

fn write_slot(tx: &Transaction<'_>, slot: &str, settings: &Settings) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO agent_settings (slot, settings) VALUES (?1, ?2)",
        params![slot, to_json(settings)?],
    )
    .map(|_| ())
}

fn get_meta(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM agent_meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn put_meta(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO agent_meta (key, value) VALUES (?1, ?2)")?
        .execute([key, value])
        .map(|_| ())
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
