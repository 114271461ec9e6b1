//! The daemon's control socket, as its clients see it: the messages, a client,
//! and the daemon's status. The server is in [`crate::daemon`].

pub mod client;
pub mod configuration;
pub mod message;
pub mod moment;
pub mod status;

/// The name of the socket in the state directory.
pub const SOCKET_FILE: &str = "agent.sock";
