//! Sockets that the service manager opened for this process: launchd's
//! `launch_activate_socket(3)`, and systemd's `LISTEN_FDS` (`sd_listen_fds(3)`).
//!
//! The program itself forbids unsafe code. Both protocols hand over numbers of file
//! descriptors, and making sockets of numbers is unsafe, so it is done here and
//! nowhere else.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(any(target_os = "linux", test))]
mod environment;
#[cfg(target_os = "macos")]
mod launchd;
#[cfg(target_os = "linux")]
mod systemd;

/// The variables by which systemd hands sockets over. They name this process, so
/// others ignore them; a child process need not see them.
pub const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the sockets of this name that the service manager opened: those under that
/// key of `Sockets` in the job of launchd, or with that `FileDescriptorName` in a
/// socket unit of systemd. They are closed on exec. They need not listen, nor be of
/// TCP; whoever uses them checks that.
///
/// There are none if no service manager started this process, or none has the name,
/// and from the second call on: each socket has one owner.
///
/// # Errors
/// If the environment is malformed, or a file descriptor not open.
pub fn take(name: &str) -> io::Result<Vec<TcpListener>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let sockets = named(name)?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

#[cfg(target_os = "macos")]
fn named(name: &str) -> io::Result<Vec<OwnedFd>> {
    launchd::take(name)
}

#[cfg(target_os = "linux")]
fn named(name: &str) -> io::Result<Vec<OwnedFd>> {
    systemd::take(name)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn named(_name: &str) -> io::Result<Vec<OwnedFd>> {
    Ok(Vec::new())
}
