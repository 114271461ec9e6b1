//! Who may ask what on the control socket (DAEMON-4).

use crate::control::message::{ControlRequest, SyncRequest};
use crate::sync::schedule::Requester;

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAccess {
    /// Everything.
    Owner,
    /// Status, and syncs that are not clean. Nobody else than the group gets
    /// past the socket's mode.
    Group,
}

impl ClientAccess {
    pub(super) const fn of(peer: u32, owner: u32) -> Self {
        if peer == 0 || peer == owner { Self::Owner } else { Self::Group }
    }

    pub(super) const fn allows(self, request: &ControlRequest) -> bool {
        match (self, request) {
            (Self::Owner, _)
            | (
                Self::Group,
                ControlRequest::Status | ControlRequest::Sync(SyncRequest { clean: None, .. }),
            ) => true,
            (
                Self::Group,
                ControlRequest::Sync(SyncRequest { clean: Some(_), .. })
                | ControlRequest::EventsAdd { .. }
                | ControlRequest::UploadEvents
                | ControlRequest::RulesLookup(_)
                | ControlRequest::BundleRequests
                | ControlRequest::Subscribe
                | ControlRequest::Metrics
                | ControlRequest::LogLevel { .. },
            ) => false,
        }
    }

    pub(super) const fn asker(self) -> Requester {
        match self {
            Self::Owner => Requester::Owner,
            Self::Group => Requester::Group,
        }
    }
}
