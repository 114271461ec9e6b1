//! The server of the control socket.

mod queries;
pub(super) mod server;
