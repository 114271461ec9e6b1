//! For people who write sync servers and agents: a fake sync server with
//! scripted faults.
//!
//! [`FakeServer`] runs on a loopback port in a thread of its own. It keeps
//! state as real servers do (rules, changes since a host's last sync, received
//! events), speaks in the manner of several of them ([`Style`], [`Preset`]),
//! breaks where it is told to ([`Fault`]), and remembers what it was asked
//! ([`Exchange`]). The tests, the demo, the benches and `harness serve` all
//! use this one server.
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
//! What to answer is decided by plain code without I/O; one small file accepts
//! connections and writes the answers. Nothing here may be used by the agent
//! itself, and a build without the `harness` feature has none of it.

mod coding;
mod exchange;
mod fault;
pub mod fixtures;
mod reply;
mod rules;
mod script;
mod server;
mod state;
mod style;

pub use exchange::{Exchange, Route};
pub use fault::{Fault, FaultSyntaxError, Scripted, When, every, first, from, nth, when};
pub use server::{Builder, FakeServer, HarnessError};
pub use state::HostState;
pub use style::{
    AnswerEncoding, CursorStyle, Encoding, ErrorStyle, Preset, Spelling, Style, SyncTypePolicy,
    Transfer, Xsrf,
};
