//! The daemon's control socket, as its clients see it: the messages, a client,
//! and the daemon's status. The server is in the daemon.

pub mod client;
pub mod configuration;
pub mod message;
pub mod moment;
pub mod relay;
pub mod status;

use std::path::Path;

use crate::files;

/// The file in the state directory whose lock says that a daemon runs.
pub const INSTANCE_LOCK_FILE: &str = "daemon.lock";

/// Returns whether a daemon runs on the state directory. A directory that cannot
/// be read counts as one without a daemon.
#[must_use]
pub fn is_daemon_running(state_dir: &Path) -> bool {
    files::is_locked(&state_dir.join(INSTANCE_LOCK_FILE))
}

/// The name of the socket in the state directory.
pub const SOCKET_FILE: &str = "agent.sock";
