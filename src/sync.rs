//! A sync: the machine that decides and the driver that acts.

pub mod machine;
pub mod plan;
pub mod retry;
