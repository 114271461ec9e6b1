//! The types of the domain: what a rule, an event, a setting, a host and a sync
//! are. Plain values without I/O; every other module uses them.

mod authorizer;
mod event;
mod header;
mod host;
mod log_level;
mod lookup;
mod proxy;
mod record;
mod relay;
mod relayed;
mod rule;
mod rule_dictionary;
mod rule_set;
mod secret;
mod settings;
mod stage;
pub mod text;
mod time;
mod transfer;
mod url;

pub use authorizer::AuthorizerState;
pub use event::{EventRow, EventSummary, SettledEvents, UploadMemory};
pub use header::HeaderProblem;
pub use host::{HostFacts, MachineId, MachineIdError, is_placeholder};
pub use log_level::LogLevel;
pub use lookup::{Executable, Match, RuleOrigin, StaticRules, StoredRule};
pub use proxy::{Proxy, ProxyServer, ProxySettings};
pub use record::{
    ErrorRecord, MAX_RECORD_BYTES, MAX_RECORD_TEXT_BYTES, RejectedRule, SCHEMA_VERSION,
    StageRecord, SyncReason, SyncRecord, SyncResult, SyncWarning, Trigger,
};
pub use relay::RelayManner;
pub use relayed::{EventBundle, EventDigest, RelayedEvent, RelayedKind};
pub use rule::{
    Identifier, IdentifierError, MAX_BUTTON_LABEL_CHARS, Policy, Rule, RuleCounts, RuleDetails,
    RuleSide, RuleState, RuleType, write_hashed_rule,
};
pub use rule_dictionary::{RuleDictionaryError, parse_rule};
pub use rule_set::{DetailsRef, RulePage, RuleRef, RuleSet};
pub use secret::Secret;
pub use settings::{
    CleanSyncReason, CleanSyncRequest, ClientMode, DEFAULT_SYNC_INTERVAL_SECS, FileAccessAction,
    MAX_SYNC_INTERVAL_SECS, MIN_PUSH_DEADLINE_SECS, MIN_SYNC_INTERVAL_SECS, MediaPolicy,
    SettingChange, Settings, SyncType,
};
pub use stage::{Cursor, Stage};
pub use time::{Now, Timestamp};
pub use transfer::{ContentEncoding, Transfer};
pub(crate) use url::is_loopback;
pub use url::{BaseUrl, BaseUrlError, shown, shown_identity, start_of_secret};
