//! A sync in a process of its own. [`parent`] starts and supervises it,
//! [`order`] is what the two tell each other, [`child`] runs in the process.

pub mod child;
pub mod order;
pub(in crate::daemon) mod parent;
pub mod summary;
