//! The server of the control socket.

mod access;
mod queries;
pub(super) mod server;
