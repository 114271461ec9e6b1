//! How the relay stands, as the daemon reports it (RELAY-11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{ClientMode, SyncType, Timestamp};

/// How the relay stands.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayStatus {
    /// Where it listens, as a URL.
    pub url: String,
    /// Why it does not listen; `None` if it does.
    pub error: Option<String>,
    /// The user of the authorizer's connections is checked, or its certificate.
    pub checks_peers: bool,
    /// The machine id that the authorizer must use.
    pub machine_id: String,
    /// Another id that a request named last.
    pub other_machine_id: Option<String>,
    /// Seconds between the authorizer's syncs, as it is told.
    pub interval: u32,
    /// What its last preflight said.
    pub authorizer: Option<AuthorizerStatus>,
    /// Our newest generation of rules; `None` if there is nothing to hand out.
    pub newest_generation: Option<i64>,
    /// What the authorizer last acknowledged.
    pub acknowledged: Option<AcknowledgedStatus>,
    /// Whether the authorizer has all rules and settings.
    pub in_step: bool,
    /// Since when it does not.
    pub behind_since: Option<Timestamp>,
    /// Why a preflight is answered with 503, if it is.
    pub not_ready: Option<String>,
    /// What the last delivery was, and why.
    pub last_delivery: Option<DeliveryStatus>,
    /// The last delivery that was not acknowledged.
    pub not_acknowledged: Option<NotAcknowledged>,
    /// Settings that are no longer given, which only a clean sync can take back.
    pub withdrawn_settings: Vec<String>,
    /// Rules that the authorizer cannot take, of the last whole set.
    pub rules_left_out: u64,
    /// Rules sent with another policy, of the last whole set.
    pub rules_altered: u64,
    /// What its release cannot do.
    pub release_cannot: Vec<String>,
    /// Requests that were refused, by reason, since the daemon started.
    pub refused: BTreeMap<String, u64>,
    /// Events taken since the daemon started.
    pub events: u64,
    /// The last nudge.
    pub nudge: Option<NudgeStatus>,
}

/// What the authorizer said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizerStatus {
    /// When.
    pub at: Timestamp,
    /// Its version.
    pub version: String,
    /// The mode in force.
    pub client_mode: Option<ClientMode>,
    /// Whether its connection was authenticated (RELAY-12).
    pub authenticated: bool,
}

/// What the authorizer acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedStatus {
    /// The generation.
    pub generation: i64,
    /// When.
    pub at: Timestamp,
    /// Whether its rules differ from ours all the same.
    pub drift: bool,
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    /// When it began.
    pub at: Timestamp,
    /// Its type.
    pub sync_type: SyncType,
    /// Why it is what it is, in words.
    pub why: String,
}

/// A delivery that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotAcknowledged {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// How often in a row.
    pub times: u64,
}

/// A nudge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NudgeStatus {
    /// When it began.
    pub at: Timestamp,
    /// What came of it; `None` while it runs.
    pub result: Option<String>,
    /// Failures in a row.
    pub failures: u32,
}
