//! The wire types of the sync protocol, as prost makes them from `proto/`, and
//! their JSON form, as `build.rs` makes it from the same descriptors.
//!
//! Field and type names are the protocol's. The reading and writing that the
//! generated code calls is in [`super::json`].

#![allow(
    deprecated,
    missing_docs,
    unreachable_code,
    unused_variables,
    clippy::all,
    clippy::pedantic,
    reason = "generated: what is missing or unidiomatic here is not ours to write by hand"
)]

use super::json;

include!(concat!(env!("OUT_DIR"), "/santa.sync.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/json.rs"));

/// The compiled schema as an encoded `FileDescriptorSet`, for tools and tests
/// that work on descriptors.
#[cfg(any(test, feature = "internals"))]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
