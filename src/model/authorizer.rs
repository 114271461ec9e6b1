//! The authorizer of this host as syncs with the upstream server see it: the Santa
//! or pedro that the relay serves.

use super::{ClientMode, RuleCounts, Timestamp};

/// What is known of the authorizer when a sync begins (RELAY-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizerState {
    /// This agent serves none.
    NotServed,
    /// None has asked for its settings yet.
    NeverSeen,
    /// It asked for its settings less than 24 h ago.
    Heard {
        /// The mode that is in effect there; MONITOR if it named none.
        client_mode: ClientMode,
        /// Its transitive rules.
        transitive: u32,
    },
    /// Its last request is 24 h old or older.
    Silent {
        /// When that was.
        since: Timestamp,
    },
    /// Its last request is older than `RelayStale` allows.
    Stale {
        /// When that was.
        since: Timestamp,
    },
}

impl AuthorizerState {
    /// The name in `--json`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotServed => "not_served",
            Self::NeverSeen => "never_seen",
            Self::Heard { .. } => "heard",
            Self::Silent { .. } => "silent",
            Self::Stale { .. } => "stale",
        }
    }

    /// The client mode that preflight reports, where this agent's own is `own`:
    /// without news the weakest one.
    #[must_use]
    pub const fn client_mode(&self, own: ClientMode) -> ClientMode {
        match self {
            Self::NotServed => own,
            Self::Heard { client_mode, .. } => *client_mode,
            Self::NeverSeen | Self::Silent { .. } | Self::Stale { .. } => ClientMode::Monitor,
        }
    }

    /// The rule counts that preflight reports, where those of this agent's store are
    /// `own`: with the authorizer's transitive rules, which are binary rules, too.
    #[must_use]
    pub const fn rule_counts(&self, own: RuleCounts) -> RuleCounts {
        match self {
            Self::Heard { transitive, .. } => RuleCounts {
                binary: own.binary.saturating_add(*transitive),
                transitive: own.transitive.saturating_add(*transitive),
                ..own
            },
            Self::NotServed | Self::NeverSeen | Self::Silent { .. } | Self::Stale { .. } => own,
        }
    }
}
