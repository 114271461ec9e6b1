//! The program under test.

use std::process::{Command, Stdio};

/// `santa-sync` with nothing of this machine: no environment, no standard
/// input and no configuration of the system.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_santa-sync"));
    command.args(["--system-root", "/nowhere"]).env_clear().stdin(Stdio::null());
    command
}
