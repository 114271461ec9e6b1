//! The sync protocol's messages, between the wire and the domain: no I/O.
//!
//! [`wire`] holds the generated types, [`json`] how their fields are read and
//! written, [`body`] whole bodies in either transfer form; one module a stage
//! turns messages into the words of [`crate::model`] and back.

pub mod archive;
mod binary;
pub mod body;
pub mod cel;
pub mod events;
pub mod json;
pub mod lenient;
pub mod postflight;
pub mod preflight;
pub mod requests;
pub mod rules;
pub mod stored;
mod upload;
pub mod wire;
