//! A client-side sync agent for Santa, the macOS binary-authorization system:
//! it runs the four stages of sync protocol v1 against a server, keeps the
//! rules in SQLite, uploads queued events, and applies the server's settings.
//!
//! The binary `santa-sync` is a thin shell around this library. Where to look:
//!
//! - [`model`] the words of the domain, [`protocol`] their form on the wire;
//! - [`sync`] the state machine that decides, and the driver that acts;
//! - [`store`] rules and settings on disk;
//! - [`files`] opening and replacing files without being led astray;
//! - [`config`] what is configured, and where each value comes from;
//! - [`host`] who and what this host is;
//! - [`clock`] the only reader of time;
//! - [`ingest`] events that programs hand in;
//! - [`control`] the messages and the client of the daemon's socket;
//! - [`daemon`] syncs by the clock and on request, for as long as the host runs;
//! - `harness` a fake server, for tests and for people who write servers.
//! - [`transport`] one HTTP exchange with the server.
//!
//! An authorizer looks rules up beside the syncs, which never block it:
//!
//! ```
//! use santa_sync::model::{Executable, Identifier, StaticRules};
//! # use santa_sync::model::Timestamp;
//! use santa_sync::store::Store;
//!
//! # let dir = tempfile::tempdir()?;
//! # let state_dir = dir.path();
//! # drop(Store::open(state_dir, Timestamp::from_secs(0))?);
//! let store = Store::open_read_only(state_dir)?;
//! let static_rules = StaticRules::default();
//! // Kept at hand, for single files: each lookup sees the newest rules.
//! let mut lookups = store.lookups()?;
//! let file = Executable::default()
//!     .with(Identifier::Binary([0x5a; 32]))
//!     .with(Identifier::TeamId(*b"ABCDE12345"));
//! let decided = lookups.lookup(&file, &static_rules, false)?;
//! assert!(decided.is_none(), "no rule speaks of it");
//! // For many at once: cheaper, and all by the rules of one moment.
//! let mut snapshot = store.snapshot()?;
//! for file in [&file] {
//!     snapshot.lookup(file, &static_rules, false)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod failure;
pub mod files;
#[cfg(feature = "harness")]
pub mod harness;
pub mod host;
pub mod ingest;
pub mod model;
pub mod plist_bounded;
pub mod protocol;
pub mod store;
pub mod sync;
pub mod transport;
