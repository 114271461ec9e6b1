//! A fake sync server with scripted faults, for people who write sync servers
//! and agents.
//!
//! [`FakeServer`] runs on a loopback port in a thread of its own. It keeps
//! state as real servers do (rules, changes since a host's last sync, received
//! events), imitates several of them ([`Style`], [`Preset`]), fails where it is
//! asked to ([`Fault`]), and records every exchange ([`Exchange`]). The tests, the
//! demo, the benches and `harness serve` all use it. [`Simulation`] plays the other
//! side: many hosts that sync with a server.
//!
//! ```
//! use santa_sync::harness::{FakeServer, Fault, fixtures, nth};
//! use santa_sync::model::Stage;
//!
//! let server = FakeServer::builder()
//!     .rules(fixtures::rules(300, 1))
//!     .page_size(100)
//!     .fault(Stage::RuleDownload, nth(2), Fault::Truncate)
//!     .start()?;
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(server.count(Stage::RuleDownload), 0);
//! # Ok::<(), santa_sync::harness::HarnessError>(())
//! ```
//!
//! Responses are decided by plain code without I/O; one small file accepts
//! connections and writes them. The agent itself uses nothing of this module, and a
//! build without the `harness` feature does not contain it.

mod admin;
mod change;
mod coding;
pub mod conformance;
mod exchange;
mod expectation;
mod fault;
pub mod fixtures;
pub mod html;
mod misbehaviour;
mod parsed;
mod record;
mod reply;
mod rules;
mod scenario;
mod script;
mod server;
pub mod simulation;
mod state;
mod style;
mod tls;
mod toml_file;

pub use change::{Change, ChangeError};
pub use exchange::{Exchange, Route};
pub use expectation::Outcome;
pub use fault::{Fault, FaultSyntaxError, Occurrences, Scripted, every, first, from, nth, when};
pub use misbehaviour::{Misbehaviour, Severity, UnknownMisbehaviour};
pub use record::RecordingError;
pub use scenario::Scenario;
pub use server::{Builder, FakeServer, HarnessError};
pub use simulation::report::{MergeError, SimulationReport};
pub use simulation::{Simulation, SimulationError, SimulationProgress};
pub use state::HostState;
pub use style::{
    AcceptedForms, CursorStyle, Delivery, Encoding, ErrorStyle, Preset, ResponseEncoding, Spelling,
    Style, SyncTypePolicy, Xsrf,
};
pub use toml_file::TomlFileError;
