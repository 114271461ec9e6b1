//! systemd's side.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::environment;

/// Takes the sockets of a name. Called once in a process.
pub(super) fn take(name: &str) -> io::Result<Vec<OwnedFd>> {
    let variable = |name: &str| std::env::var(name).ok();
    let found = environment::read(variable, std::process::id(), name)?;
    // No program that this one starts gets any, ours or not.
    for number in found.all {
        // SAFETY: it is used for the two calls below, which fail if it is not open, and
        // is not closed meanwhile: systemd opened it for this process, whose number
        // the environment names, so nothing else in it owns it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(fd)?;
        fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    }
    let owned = found.named.into_iter().map(|number| {
        // SAFETY: it is open, as the loop above has seen, and ours as said there. The
        // caller sees to it that this happens once.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    Ok(owned.collect())
}
