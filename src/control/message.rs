//! The messages of the control socket: one JSON object per line. `docs/control-socket.md`
//! documents them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::relay::RelayStatus;
use super::status::DaemonStatus;
use crate::failure::{ErrorText, Remedy};
use crate::ingest::IngestedEvent;
use crate::model::{
    Executable, Identifier, IdentifierError, Match, RuleOrigin, RuleType, StoredRule, SyncRecord,
    SyncType, Timestamp,
};
use crate::store::{BundleRequest, RuleSince, Store, StoreError};
use crate::sync::progress::SyncStep;

/// The longest line either side takes, in bytes. An event with its signing
/// chain has about 10 KiB.
pub const MAX_LINE: usize = 256 * 1024;

/// A request of a client. One at a time on a connection; the responses to it end
/// with a line that is not [`ControlResponse::Progress`], [`ControlResponse::Waiting`]
/// or, of a subscription, at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ControlRequest {
    /// The status of the daemon.
    Status,
    /// A sync, now.
    Sync(SyncRequest),
    /// Events for the queue, each in the form that `events add` reads.
    EventsAdd {
        /// The events, as they came. Only [`ControlRequest::read`] reads them.
        #[serde(skip_deserializing)]
        events: Vec<Box<RawValue>>,
    },
    /// Something that was denied has been queued by another process: the daemon
    /// uploads what waits soon (EV-10).
    UploadEvents,
    /// Which rule decides about an executable.
    RulesLookup(RuleLookup),
    /// The bundles whose executables the server waits for.
    BundleRequests,
    /// What happens from here on, until the client closes.
    Subscribe,
    /// The metrics, in the Prometheus text format.
    Metrics,
    /// Another level of the daemon's log lines, until it ends.
    LogLevel {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
    },
}

/// The part of a request that says which it is, and the events, which are passed
/// on as they came.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    request: Cow<'a, str>,
    #[serde(default, borrow)]
    events: Option<Vec<&'a RawValue>>,
}

impl ControlRequest {
    /// Reads a line of the control socket.
    ///
    /// # Errors
    /// If it is not a request.
    pub fn read(line: &[u8]) -> serde_json::Result<Self> {
        let Envelope { request, events } = serde_json::from_slice(line)?;
        if request == "events_add" {
            let events = events.ok_or_else(|| serde::de::Error::missing_field("events"))?;
            let events = events.into_iter().map(ToOwned::to_owned).collect();
            return Ok(Self::EventsAdd { events });
        }
        serde_json::from_slice(line)
    }

    /// A request that hands these events over.
    ///
    /// # Errors
    /// If one has no JSON form.
    pub fn events_add<T: Serialize>(
        events: impl IntoIterator<Item = T>,
    ) -> serde_json::Result<Self> {
        let events = events.into_iter().map(|event| serde_json::value::to_raw_value(&event));
        Ok(Self::EventsAdd { events: events.collect::<Result<_, _>>()? })
    }
}

/// A request for a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncRequest {
    /// The clean sync to request: `CLEAN` or `CLEAN_ALL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<SyncType>,
    /// Whether a person requests it; the record says so.
    pub manual: bool,
    /// Wait for a running sync to end, instead of being refused.
    pub wait: bool,
    /// Attach to a running sync instead of starting another.
    pub attach: bool,
}

impl Default for SyncRequest {
    fn default() -> Self {
        Self { clean: None, manual: false, wait: true, attach: false }
    }
}

/// What is known of an executable; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleLookup {
    /// SHA-256 of the file.
    pub sha256: Option<String>,
    /// Code directory hash.
    pub cdhash: Option<String>,
    /// `TEAMID:name` or `platform:name`.
    pub signing_id: Option<String>,
    /// SHA-256 of the leaf certificate.
    pub cert_sha256: Option<String>,
    /// Developer team.
    pub team_id: Option<String>,
    /// Whether to say since when the rule stands, which takes longer.
    pub since: bool,
}

impl RuleLookup {
    /// Asks for what is known of an executable.
    #[must_use]
    pub fn of(executable: &Executable) -> Self {
        let mut lookup = Self::default();
        for identifier in executable.identifiers() {
            *lookup.field_mut(identifier.rule_type()) = Some(identifier.to_string());
        }
        lookup
    }

    fn field_mut(&mut self, rule_type: RuleType) -> &mut Option<String> {
        match rule_type {
            RuleType::Binary => &mut self.sha256,
            RuleType::Cdhash => &mut self.cdhash,
            RuleType::SigningId => &mut self.signing_id,
            RuleType::Certificate => &mut self.cert_sha256,
            RuleType::TeamId => &mut self.team_id,
        }
    }

    /// Returns the executable that is asked about; it may be empty.
    ///
    /// # Errors
    /// The first identifier that is not one of its type.
    pub fn executable(&self) -> Result<Executable, LookupError> {
        let mut executable = Executable::default();
        for (rule_type, field, text) in [
            (RuleType::Binary, "sha256", &self.sha256),
            (RuleType::Cdhash, "cdhash", &self.cdhash),
            (RuleType::SigningId, "signing_id", &self.signing_id),
            (RuleType::Certificate, "cert_sha256", &self.cert_sha256),
            (RuleType::TeamId, "team_id", &self.team_id),
        ] {
            let Some(text) = text else { continue };
            let identifier = Identifier::parse(rule_type, text).map_err(|error| LookupError {
                field,
                text: text.clone(),
                error,
            })?;
            executable = executable.with(identifier);
        }
        Ok(executable)
    }
}

/// An identifier that cannot be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {text:?}: {error}")]
pub struct LookupError {
    /// Which of [`RuleLookup`]'s fields.
    pub field: &'static str,
    /// What it holds.
    pub text: String,
    /// Why it is not an identifier of that type.
    pub error: IdentifierError,
}

/// A response of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ControlResponse {
    /// The status of the daemon.
    Status(Box<DaemonStatus>),
    /// Another sync is running; the requested one starts after it. Progress follows.
    Waiting,
    /// Something happened in the sync.
    Progress(SyncStep),
    /// The sync has ended; with a result that is not `success`, too.
    Synced {
        /// Its record.
        record: Box<SyncRecord>,
    },
    /// What became of each event, in their order. Those taken in are on disk.
    EventsAdded {
        /// One for each event.
        results: Vec<IngestedEvent>,
    },
    /// Which rule decides.
    Rule(Box<Decision>),
    /// The open requests, oldest first.
    BundleRequests {
        /// The requests.
        bundles: Vec<RequestedBundle>,
    },
    /// What happened will follow, a line for each.
    Subscribed,
    /// Users wait for this rule (RULE-10).
    Notification {
        /// The application's name.
        application: String,
        /// The identifier of the rule.
        identifier: String,
    },
    /// How the relay stands has changed (RELAY-11).
    Relay {
        /// How it stands.
        relay: Box<RelayStatus>,
    },
    /// The client reads too slowly: that many lines were left out.
    Missed {
        /// How many.
        lines: u64,
    },
    /// The metrics.
    Metrics {
        /// In the Prometheus text format.
        text: String,
    },
    /// It is done.
    Done,
    /// It is not done.
    Error {
        /// The cause.
        kind: ControlErrorKind,
        /// What is wrong.
        message: String,
        /// What to do about it, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fix: Option<String>,
    },
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlErrorKind {
    /// Not a request.
    BadRequest,
    /// Not open to this user.
    Forbidden,
    /// Too many connections.
    Busy,
    /// A sync runs and another waits.
    TooManySyncs,
    /// The daemon ends.
    Stopping,
    /// A store cannot be used.
    Store,
    /// A fault of the daemon.
    Internal,
}

impl ControlResponse {
    /// An error without a remedy.
    pub fn error(kind: ControlErrorKind, message: impl Into<String>) -> Self {
        Self::Error { kind, message: message.into(), fix: None }
    }

    /// An error that knows its remedy.
    pub fn of_error(kind: ControlErrorKind, error: &dyn Remedy) -> Self {
        let ErrorText { message, fix } = ErrorText::of(error);
        Self::Error { kind, message, fix }
    }
}

/// A bundle that the server requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedBundle {
    /// Its hash.
    pub hash: String,
    /// When it was first requested.
    pub since: Timestamp,
    /// How many executables it has; 0 while that is not known.
    pub executables: u32,
    /// How many of them the server took.
    pub delivered: u32,
}

impl From<BundleRequest> for RequestedBundle {
    fn from(request: BundleRequest) -> Self {
        Self {
            hash: request.hash,
            since: request.since,
            executables: request.executables,
            delivered: request.delivered,
        }
    }
}

/// A rule as every JSON form shows it; a missing text is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleForm {
    /// What it is about.
    pub identifier: String,
    /// The protocol's name of what it decides.
    pub policy: Cow<'static, str>,
    /// The protocol's name of its type.
    pub rule_type: Cow<'static, str>,
    /// The message shown to the user.
    pub custom_msg: String,
    /// The URL the user is sent to.
    pub custom_url: String,
    /// What the button for that says.
    pub event_detail_button_label: String,
    /// Whatever its author noted.
    pub comment: String,
    /// The CEL expression.
    pub cel_expr: String,
    /// When a transitive rule was made or last used; absent for every other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

impl From<StoredRule> for RuleForm {
    fn from(rule: StoredRule) -> Self {
        Self {
            last_used: rule.last_used(),
            identifier: rule.identifier,
            policy: rule.state.policy_name().into(),
            rule_type: rule.rule_type.name().into(),
            custom_msg: rule.details.custom_msg,
            custom_url: rule.details.custom_url,
            event_detail_button_label: rule.details.event_detail_button_label,
            comment: rule.details.comment,
            cel_expr: rule.details.cel_expr,
        }
    }
}

/// What the rules say about an executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether a rule decides.
    pub matched: bool,
    /// What it decides, in words.
    pub decision: Option<String>,
    /// By which rule, in words.
    pub why: Option<String>,
    /// Where the rule was found: `configuration` or `store`.
    pub origin: Option<Cow<'static, str>>,
    /// The rule.
    pub rule: Option<RuleForm>,
    /// Since when it stands, if that was asked and is known.
    pub since: Option<RuleSince>,
}

impl Decision {
    /// What the rules of a store say, where `found` was looked up.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn new(store: &Store, found: Option<Match>, with_since: bool) -> Result<Self, StoreError> {
        let stored = found.as_ref().filter(|found| found.origin == RuleOrigin::Store && with_since);
        let since = stored.map(|found| store.rule_since(&found.rule)).transpose()?.flatten();
        Ok(Self {
            matched: found.is_some(),
            decision: found.as_ref().map(|found| found.rule.wording()),
            why: found.as_ref().map(ToString::to_string),
            origin: found.as_ref().map(|found| match found.origin {
                RuleOrigin::Configuration => "configuration".into(),
                RuleOrigin::Store => "store".into(),
            }),
            rule: found.map(|found| found.rule.into()),
            since,
        })
    }
}
