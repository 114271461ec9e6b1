//! Postflight: what a sync did, as the server wants to hear it.

use super::{preflight, wire};
use crate::model::{MachineId, SyncType};

/// The request that reports a sync.
#[must_use]
pub fn request(
    machine_id: &MachineId,
    sync_type: SyncType,
    rules_received: u64,
    rules_processed: u64,
    rules_hash: &str,
) -> wire::PostflightRequest {
    wire::PostflightRequest {
        rules_received: u32::try_from(rules_received).unwrap_or(u32::MAX),
        rules_processed: u32::try_from(rules_processed).unwrap_or(u32::MAX),
        machine_id: machine_id.as_str().to_owned(),
        sync_type: preflight::sync_type_number(sync_type),
        rules_hash: rules_hash.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Transfer;
    use crate::protocol::body::encode;

    /// JSON-2: servers take a clean sync for done only if the type is written.
    #[test]
    fn json_2_counts_and_type_are_always_written() {
        let id = MachineId::new("id").expect("an id");
        let body =
            encode(Transfer::Json, &request(&id, SyncType::CleanAll, 0, 0, "")).expect("encodes");
        assert_eq!(
            String::from_utf8(body).expect("UTF-8"),
            r#"{"rules_received":0,"rules_processed":0,"machine_id":"id","syncType":"CLEAN_ALL"}"#
        );
    }
}
