//! x
pub mod json;
pub mod wire;
