//! The program under test.

use std::path::Path;
use std::process::{Command, Stdio};

/// `santa-sync` with nothing of this machine: no environment, no standard
/// input and no configuration of the system.
pub(crate) fn program() -> Command {
    program_at(Path::new("/nowhere"))
}

/// The same on a system whose configuration is below that directory.
pub(crate) fn program_at(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_santa-sync"));
    command.arg("--system-root").arg(root).env_clear().stdin(Stdio::null());
    command
}
