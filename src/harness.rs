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
