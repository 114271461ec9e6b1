//! Conditions of a store that an operator should know about while they last:
//! whose settings and rules are in effect, and a mode that blocks everything.

use std::fmt;

use rusqlite::Connection;
use serde::Serialize;

use super::rules::any_allowing;
use super::settings::{former_rules, former_settings};
use super::{Store, StoreError};
use crate::model::{ClientMode, shown_identity};

/// A server and the machine id under which it knew this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Former {
    /// The server's URL, without secrets.
    pub server: String,
    /// The machine id.
    pub machine_id: String,
}

/// A condition of a store that deserves a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Standing {
    /// No sync with the configured server has succeeded yet; the settings in
    /// force are those of another server.
    FormerSettings(Former),
    /// No clean sync with the configured server has succeeded yet; rules of
    /// another server are still in effect.
    FormerRules(Former),
    /// The mode in effect is LOCKDOWN and no rule allows anything.
    NothingAllowed,
}

impl Standing {
    /// Returns how to fix it.
    #[must_use]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::FormerSettings(_) => {
                "check SyncBaseURL and MachineID; `santa-sync doctor` shows what keeps the host \
                 from syncing"
            }
            Self::FormerRules(_) => {
                "have the server answer the next sync with a clean one, as this host requests"
            }
            Self::NothingAllowed => {
                "give the host rules that allow what it needs, or another client mode"
            }
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FormerSettings(Former { server, machine_id }) => write!(
                f,
                "the settings in effect are those of {server} for machine id {machine_id}, until a \
                 sync with the configured server succeeds"
            ),
            Self::FormerRules(Former { server, machine_id }) => write!(
                f,
                "rules of {server} for machine id {machine_id} are still in effect, until a clean \
                 sync with the configured server succeeds"
            ),
            Self::NothingAllowed => f.write_str(
                "the client mode is LOCKDOWN and no rule allows anything: whatever the system \
                 itself does not exempt is blocked",
            ),
        }
    }
}

impl Store {
    /// Returns the conditions of the store that deserve a warning. `mode` is
    /// the mode in effect ([`Store::client_mode`]); `static_rules_allow` says
    /// whether a rule of the configuration allows something.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn standing(
        &self,
        mode: ClientMode,
        static_rules_allow: bool,
    ) -> Result<Vec<Standing>, StoreError> {
        let read = |conn: &Connection| {
            let mut standing = Vec::new();
            let former = |(server, machine_id): (String, String)| Former {
                server: shown_identity(&server),
                machine_id,
            };
            standing.extend(former_settings(conn)?.map(former).map(Standing::FormerSettings));
            standing.extend(former_rules(conn)?.map(former).map(Standing::FormerRules));
            let lockdown = mode == ClientMode::Lockdown && !static_rules_allow;
            if lockdown && !any_allowing(conn)? {
                standing.push(Standing::NothingAllowed);
            }
            Ok(standing)
        };
        read(&self.rules).map_err(self.failed("read whose settings are in effect"))
    }

    /// Returns whether the settings in effect belong to another server or
    /// machine id than the configured one.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn has_former_settings(&self) -> Result<bool, StoreError> {
        let read = former_settings(&self.rules);
        Ok(read.map_err(self.failed("read whose settings are in effect"))?.is_some())
    }
}
