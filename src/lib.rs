//! A client-side sync agent for Santa, the macOS binary-authorization system:
//! it runs the four stages of sync protocol v1 against a server, keeps the
//! rules in SQLite, uploads queued events, and applies the server's settings.
//!
//! The binary `santa-sync` is a thin shell around this library. Where to look:
//!
//! - [`model`] the words of the domain, [`protocol`] their form on the wire;
//! - [`sync`] the state machine that decides, and the driver that acts;
//! - [`store`] rules and settings on disk;
//! - [`config`] what is configured, and where each value comes from;
//! - [`host`] who and what this host is;
//! - [`clock`] the only reader of time;
//! - [`daemon`] syncs by the clock and on request, for as long as the host runs;
//! - `harness` a fake server, for tests and for people who write servers.
//! - [`transport`] one HTTP exchange with the server;
//! - [`clock`] the only reader of time.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
#[cfg(feature = "harness")]
pub mod harness;
pub mod host;
pub mod model;
pub mod protocol;
pub mod store;
pub mod sync;
pub mod transport;
