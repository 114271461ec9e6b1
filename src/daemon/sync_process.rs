//! A sync in a process of its own. [`parent`] starts and supervises it,
//! [`order`] is the protocol between the two, [`child`] runs in the process.

pub mod child;
pub mod order;
pub(in crate::daemon) mod parent;
pub mod summary;
