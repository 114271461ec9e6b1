//! What one sync is to do: the type of sync, the size of batches, whether
//! events go up. Pure decisions over what the host requests and what the server
//! responds.

use crate::model::SyncType;
use crate::protocol::preflight::PreflightResult;

/// What a preflight response decides for the rest of the sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The type of sync to do.
    pub sync_type: SyncType,
    /// Events a request may carry, at least 1.
    pub batch_size: usize,
    /// Whether queued events go up in this sync.
    pub upload_events: bool,
}

/// The type to do: the server's `sync_type` decides, without it `clean_sync`;
/// CLEAN becomes `CLEAN_ALL` if that is what the client requested.
#[must_use]
pub const fn negotiate(requested: SyncType, answer: &PreflightResult) -> SyncType {
    let clean = match requested {
        SyncType::CleanAll => SyncType::CleanAll,
        SyncType::Normal
        | SyncType::Clean
        | SyncType::CleanStandalone
        | SyncType::CleanRules
        | SyncType::CleanFileAccessRules => SyncType::Clean,
    };
    match answer.sync_type {
        Some(SyncType::Clean) => clean,
        Some(other) => other,
        None if answer.clean_sync => clean,
        None => SyncType::Normal,
    }
}

/// What the rest of the sync is to do. `hold_back_in_clean` is an explicit
/// `SyncEnableCleanSyncEventUpload = false`.
#[must_use]
pub fn plan(requested: SyncType, answer: &PreflightResult, hold_back_in_clean: bool) -> Plan {
    let sync_type = negotiate(requested, answer);
    let batch_size = answer.batch_size.max(1);
    Plan { sync_type, batch_size, upload_events: !(hold_back_in_clean && sync_type.is_clean()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PRE-4, cases 31 to 55: every row of the table.
    #[test]
    fn pre_4_the_type_of_sync_is_negotiated_as_the_table_says() {
        use SyncType::{
            Clean, CleanAll, CleanFileAccessRules, CleanRules, CleanStandalone, Normal,
        };
        let rows = [
            (Normal, None, false, Normal),
            (Normal, Some(Normal), false, Normal),
            (Normal, Some(Clean), false, Clean),
            (Normal, Some(CleanAll), false, CleanAll),
            (Normal, None, true, Clean),
            (Clean, None, false, Normal),
            (Clean, Some(Normal), false, Normal),
            (Clean, Some(Clean), false, Clean),
            (Clean, Some(CleanAll), false, CleanAll),
            (Clean, None, true, Clean),
            (CleanAll, None, false, Normal),
            (CleanAll, Some(Normal), false, Normal),
            (CleanAll, Some(Clean), false, CleanAll),
            (CleanAll, Some(CleanAll), false, CleanAll),
            (CleanAll, None, true, CleanAll),
            (Normal, Some(Normal), true, Normal),
            (CleanAll, Some(CleanStandalone), false, CleanStandalone),
            (CleanAll, Some(CleanRules), false, CleanRules),
            (Clean, Some(CleanFileAccessRules), false, CleanFileAccessRules),
        ];
        for (requested, sync_type, clean_sync, expected) in rows {
            let answer = PreflightResult { sync_type, clean_sync, ..PreflightResult::default() };
            assert_eq!(
                negotiate(requested, &answer),
                expected,
                "{requested:?} {sync_type:?} {clean_sync}"
            );
        }
    }

    /// EV-3: what holds events back.
    #[test]
    fn ev_3_only_an_explicit_no_holds_events_back_in_a_clean_sync() {
        let answer = |sync_type| PreflightResult {
            sync_type: Some(sync_type),
            ..PreflightResult::default()
        };
        let uploads = |t, hold| plan(SyncType::Normal, &answer(t), hold).upload_events;
        assert!(uploads(SyncType::Clean, false) && uploads(SyncType::Normal, true));
        assert!(!uploads(SyncType::Clean, true) && !uploads(SyncType::CleanAll, true));
    }
}
