//! The command `santa-sync`: see [`santa_sync::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever this process creates is for its user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    santa_sync::cli::main(std::env::args_os())
}
