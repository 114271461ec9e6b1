//! launchd's side.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::io::{FdFlags, fcntl_setfd};

// SAFETY: the declaration is that of launch.h, in libSystem since macOS 10.10.
unsafe extern "C" {
    fn launch_activate_socket(
        name: *const c_char,
        fds: *mut *mut c_int,
        count: *mut libc::size_t,
    ) -> c_int;
}

/// Takes the sockets of a key of `Sockets`.
pub(super) fn take(name: &str) -> io::Result<Vec<OwnedFd>> {
    let name = CString::new(name)?;
    let mut fds: *mut c_int = ptr::null_mut();
    let mut count: libc::size_t = 0;
    // SAFETY: the name ends in a zero, and both places are ours to be written to.
    let error = unsafe { launch_activate_socket(name.as_ptr(), &raw mut fds, &raw mut count) };
    match error {
        0 => {}
        // No such key; not started by launchd; taken before.
        libc::ENOENT | libc::ESRCH | libc::EALREADY => return Ok(Vec::new()),
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut sockets = Vec::with_capacity(count);
    for place in 0..count {
        // SAFETY: launchd stored an array of `count` numbers there.
        let number = unsafe { *fds.wrapping_add(place) };
        // SAFETY: each is open, and the caller of the function owns it.
        sockets.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    if !fds.is_null() {
        // SAFETY: the array is to be freed by the caller, with `free`; it is not used
        // below.
        unsafe { libc::free(fds.cast::<c_void>()) };
    }
    for socket in &sockets {
        fcntl_setfd(socket, FdFlags::CLOEXEC)?;
    }
    Ok(sockets)
}
