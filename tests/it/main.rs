//! The integration tests, one program so that they link once. Each module is a
//! part of the agent; the modules' tests name the rules of `tests/CONTRACT.md`
//! that they pin.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod rules;

mod json;
mod layers;
