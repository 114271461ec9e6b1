//! What the simulating process costs.

use std::io;

/// The memory of this process in bytes; `None` where the system has no `/proc`.
pub(super) fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The most files that macOS grants a process whose hard limit is "unlimited".
const APPLE_OPEN_MAX: u64 = 10_240;

/// Lets this process open as many files as the system grants it: each sync that runs
/// has a connection. Returns how many that are; `None` for any number.
///
/// # Errors
/// If the system refuses.
pub fn open_many_files() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raise = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum });
    // macOS refuses its own hard limit where that is unlimited.
    raise(maximum).or_else(|_| raise(Some(APPLE_OPEN_MAX)))?;
    Ok(getrlimit(Resource::Nofile).current)
}
