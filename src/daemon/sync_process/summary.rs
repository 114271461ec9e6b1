//! The state of the stores after a sync, read by the process of the sync, so that
//! the daemon can report it without opening them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::{RuleCounts, Timestamp};
use crate::store::{EventStore, Store, StoreError};
use crate::transport::{ClientCertificate, inspect_client_certificate};

/// The state of the stores after a sync.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreSummary {
    /// The interval in effect, in seconds; `None` if the server gave none.
    pub full_sync_interval: Option<u32>,
    /// When a sync last succeeded.
    pub last_success: Option<Timestamp>,
    /// The rules by type.
    pub rules: RuleCounts,
    /// Their hash.
    pub rules_hash: String,
    /// Events waiting to be sent.
    pub events_pending: u64,
    /// When the oldest of them came in.
    pub events_oldest: Option<Timestamp>,
    /// Events dropped because the queue was full.
    pub events_dropped: u64,
    /// Events dropped because the protocol cannot carry them, by kind.
    pub events_unsendable: BTreeMap<String, u64>,
    /// Events set aside.
    pub events_rejected: u64,
    /// When the client certificate expires.
    pub certificate_expires: Option<Timestamp>,
}

impl StoreSummary {
    /// Reads the stores and the client certificate.
    ///
    /// # Errors
    /// If a store does not exist or cannot be read.
    pub fn read(config: &Config, state_dir: &Path) -> Result<Self, StoreError> {
        let store = Store::open_read_only(state_dir)?;
        let events = EventStore::open_read_only(state_dir)?;
        let drops = events.drops()?;
        let certificate = config.client_auth_certificate_file.clone().and_then(|file| {
            let password = config.client_auth_certificate_password.clone();
            inspect_client_certificate(&ClientCertificate { file, password }).ok()
        });
        Ok(Self {
            full_sync_interval: store.applied_settings()?.full_sync_interval,
            last_success: store.full_sync_last_success()?,
            rules: store.rule_counts()?,
            rules_hash: store.rules_hash()?,
            events_pending: events.pending()?,
            events_oldest: events.oldest()?,
            events_dropped: drops.queue_full,
            events_unsendable: drops.unsendable,
            events_rejected: events.rejected_count()?,
            certificate_expires: certificate.map(|certificate| certificate.not_after),
        })
    }
}
