//! A client-side sync agent for Santa, the macOS binary-authorization system:
//! it runs the four stages of sync protocol v1 against a server, keeps the
//! rules in SQLite, uploads queued events, and applies the server's settings.
//! The binary `santa-sync` is a thin shell around this library.
//!
//! # An authorizer looks rules up
//!
//! Lookups run beside syncs, which never block them.
//!
//! ```
//! use santa_sync::{Executable, Identifier, StaticRules, Store};
//! # use santa_sync::Timestamp;
//!
//! # let dir = tempfile::tempdir()?;
//! # let state_dir = dir.path();
//! # drop(Store::open(state_dir, Timestamp::from_secs(0))?);
//! let store = Store::open_read_only(state_dir)?;
//! let static_rules = StaticRules::default();
//! // For single files: each lookup sees the newest rules.
//! let mut lookups = store.lookups()?;
//! let file = Executable::default()
//!     .with(Identifier::Binary([0x5a; 32]))
//!     .with(Identifier::TeamId(*b"ABCDE12345"));
//! let decided = lookups.lookup(&file, &static_rules, false)?;
//! assert!(decided.is_none(), "no rule matches it");
//! // For many at once: cheaper, and all by the rules of one moment.
//! let mut snapshot = store.snapshot()?;
//! for file in [&file] {
//!     snapshot.lookup(file, &static_rules, false)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A program runs one sync and reads the record
//!
//! ```
//! # #[cfg(feature = "harness")] {
//! use santa_sync::agent::LocalAgent;
//! use santa_sync::harness::FakeServer;
//! use santa_sync::{Config, Sources, SyncOptions, SyncResult, Trigger, Unobserved, stop_channel};
//!
//! // In place of your server.
//! let server = FakeServer::builder().start()?;
//! # let dir = tempfile::tempdir()?;
//! # let state_dir = dir.path().join("state");
//! let sources = Sources {
//!     sets: vec![format!("SyncBaseURL={}", server.url()), "MachineID=host-1".to_owned()],
//!     ..Sources::default()
//! };
//! let agent = LocalAgent::new(state_dir, Config::load(&sources)?.config);
//! let (_stopper, stop) = stop_channel();
//! let record = agent.sync(SyncOptions::of(Trigger::Manual), &mut Unobserved, stop);
//! if let Some(error) = &record.error {
//!     eprintln!("{} failed: {error}", error.stage);
//! }
//! assert_eq!(record.result, SyncResult::Success);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`agent::Agent::connect_or_local`] uses the daemon of the state directory where
//! one runs.
//!
//! # A server author tests a server
//!
//! The same call against the server under test, then what it did with the rules
//! and events:
//!
//! ```no_run
//! use santa_sync::agent::LocalAgent;
//! use santa_sync::{Config, Sources, Store, SyncOptions, Trigger, Unobserved, stop_channel};
//!
//! # fn test(state_dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let sources = Sources {
//!     sets: vec!["SyncBaseURL=http://127.0.0.1:8080/santa/".to_owned(), "MachineID=t1".to_owned()],
//!     ..Sources::default()
//! };
//! let agent = LocalAgent::new(state_dir, Config::load(&sources)?.config);
//! let (_stopper, stop) = stop_channel();
//! let record = agent.sync(SyncOptions::of(Trigger::Manual), &mut Unobserved, stop);
//! assert!(record.error.is_none() && record.warnings.is_empty(), "{record:?}");
//! assert_eq!(record.rules_rejected_total, 0);
//! let by_type = Store::open_read_only(state_dir)?.rule_counts()?;
//! assert_eq!(by_type.teamid, 3, "the rules that the server was given");
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! - [`agent`]: everything that can be asked of an agent on this host;
//! - [`control`]: the messages and the client of the daemon's socket;
//! - `harness` (feature of that name): a server for tests, with faults on demand;
//! - below them, private: the configuration, the stores, the transport, and the
//!   state machine of a sync. ARCHITECTURE.md draws the layers.
//!
//! What is exported here changes with a minor version until 1.0. The feature
//! `internals` makes every module public for this package's own tests, benches and
//! fuzz targets, without any promise.

#![cfg_attr(
    not(feature = "internals"),
    allow(
        unused_imports,
        unfulfilled_lint_expectations,
        reason = "what modules re-export for the tests; the build with `internals` checks these"
    )
)]

pub mod agent;
#[doc(hidden)]
pub mod cli;
pub mod control;
#[cfg(feature = "harness")]
pub mod harness;

#[cfg(not(feature = "internals"))]
mod clock;
#[cfg(not(feature = "internals"))]
mod config;
#[cfg(not(feature = "internals"))]
mod daemon;
#[cfg(not(feature = "internals"))]
mod failure;
#[cfg(not(feature = "internals"))]
mod files;
#[cfg(not(feature = "internals"))]
mod host;
#[cfg(not(feature = "internals"))]
mod ingest;
#[cfg(not(feature = "internals"))]
mod mapped_buffer;
#[cfg(not(feature = "internals"))]
mod model;
#[cfg(not(feature = "internals"))]
mod plist_bounded;
#[cfg(not(feature = "internals"))]
mod protocol;
#[cfg(not(feature = "internals"))]
mod relay;
#[cfg(not(feature = "internals"))]
mod serve;
#[cfg(not(feature = "internals"))]
mod store;
#[cfg(not(feature = "internals"))]
mod sync;
#[cfg(not(feature = "internals"))]
mod transport;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod clock;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod daemon;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod failure;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod files;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod host;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod ingest;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod mapped_buffer;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod model;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod plist_bounded;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod protocol;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod relay;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod serve;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod store;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod sync;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod transport;

pub use config::{Config, ConfigError, Finding, Loaded, Sources};
pub use failure::{ErrorText, Failure, FailureKind, Remedy};
pub use ingest::{IngestOutcome, IngestedEvent};
pub use model::{
    ErrorRecord, Executable, Identifier, IdentifierError, Policy, Rule, RuleType, SettingChange,
    Stage, StageRecord, StaticRules, SyncRecord, SyncResult, SyncType, SyncWarning, Timestamp,
    Trigger,
};
pub use store::{ReadStore, Store, StoreError};
pub use sync::progress::{Observer, SyncProgress, SyncStep, Unobserved};
pub use sync::run::SyncOptions;
pub use sync::{Stop, stop_channel};
