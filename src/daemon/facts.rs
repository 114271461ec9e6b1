//! How the stores stand, read by the process of a sync at its end, so that the
//! daemon tells it without opening them.

use std::path::Path;

use super::message::Facts;
use crate::config::Config;
use crate::store::{EventStore, Store, StoreError};
use crate::transport::{ClientCertificate, inspect_client_certificate};

impl Facts {
    /// Reads the stores and the client certificate.
    ///
    /// # Errors
    /// If a store is not there or cannot be read.
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
