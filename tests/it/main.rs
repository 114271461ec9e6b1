//! The integration tests, one program so that they link once. Each module is a
//! part of the agent; the modules' tests name the rules of `tests/CONTRACT.md`
//! that they pin.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[cfg(feature = "harness")]
mod agent;
mod config;
#[cfg(feature = "harness")]
mod conformance;
#[cfg(all(feature = "harness", any(debug_assertions, feature = "test-hooks")))]
mod crash;
#[cfg(feature = "harness")]
mod daemon;
#[cfg(feature = "harness")]
mod demo;
#[cfg(feature = "harness")]
mod doctor;
#[cfg(feature = "harness")]
mod driver;
mod events;
#[cfg(feature = "harness")]
mod everything;
#[cfg(feature = "harness")]
mod harness;
#[cfg(feature = "harness")]
mod harness_admin;
#[cfg(feature = "harness")]
mod harness_faults;
#[cfg(feature = "harness")]
mod harness_manners;
#[cfg(feature = "harness")]
mod harness_python;
#[cfg(feature = "harness")]
mod harness_scenario;
#[cfg(feature = "harness")]
mod harness_serve;
#[cfg(feature = "harness")]
mod policy;
#[cfg(feature = "harness")]
mod records;
#[cfg(feature = "harness")]
mod refusals;
#[cfg(feature = "harness")]
mod relay;
mod rules;

mod contract;
mod hooks;
mod json;
mod layers;
#[cfg(feature = "harness")]
mod logs;
#[cfg(all(feature = "harness", target_os = "linux"))]
mod memory;
mod program;
#[cfg(feature = "harness")]
mod relay_setup;
#[cfg(feature = "harness")]
mod responses;
#[cfg(feature = "harness")]
mod samples;
#[cfg(feature = "harness")]
mod servers;
mod service;
#[cfg(feature = "harness")]
mod simulation;
#[cfg(feature = "harness")]
mod soak;
#[cfg(feature = "harness")]
mod state;
#[cfg(feature = "harness")]
mod sync;
mod transport;
#[cfg(feature = "harness")]
mod wrong_input;
