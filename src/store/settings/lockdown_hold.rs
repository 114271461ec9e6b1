//! Holds LOCKDOWN back while the rules are incomplete: it would block what the
//! server allows, including the host's way to recover (STATE-5).

use crate::model::{CleanSyncReason, ClientMode};
use crate::store::{Store, StoreError};

/// Why LOCKDOWN is not in effect although it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeHeldBack {
    /// No rule download has been completed since the store was created.
    NoRuleDownload,
    /// The rule store was rebuilt, and the clean sync that refills it has not
    /// succeeded yet.
    RulesRecreated,
}

impl ModeHeldBack {
    /// Returns the reason as text.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRuleDownload => {
                "LOCKDOWN waits for the first complete rule download into this store"
            }
            Self::RulesRecreated => {
                "LOCKDOWN waits for a clean sync, because the rule store was recreated"
            }
        }
    }
}

impl Store {
    /// Returns what would hold LOCKDOWN back.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn lockdown_held_back(&self) -> Result<Option<ModeHeldBack>, StoreError> {
        if !self.rules_complete()? {
            return Ok(Some(ModeHeldBack::NoRuleDownload));
        }
        let recreated = self
            .clean_sync_requests()?
            .iter()
            .any(|request| request.reason == CleanSyncReason::RulesRecreated);
        Ok(recreated.then_some(ModeHeldBack::RulesRecreated))
    }

    /// Returns the mode in effect: the server's, else `configured`, else
    /// MONITOR. LOCKDOWN is replaced by MONITOR while it is held back.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn client_mode(&self, configured: Option<ClientMode>) -> Result<ClientMode, StoreError> {
        match self.applied_settings()?.client_mode.or(configured) {
            Some(ClientMode::Lockdown) if self.lockdown_held_back()?.is_some() => {
                Ok(ClientMode::Monitor)
            }
            Some(mode) => Ok(mode),
            None => Ok(ClientMode::Monitor),
        }
    }
}
