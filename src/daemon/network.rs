//! Watches for network changes: a link, an address or a route.
//!
//! The kernel reports it on a socket; which change it was does not matter, since
//! a sync tries the network anyway. The socket is open only while a change
//! would make a difference, so that a healthy daemon is not woken by it. Whoever
//! could forge a change would gain a sync a minute, see
//! [`crate::sync::schedule::Schedule::network_changed`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tracing::debug;

/// Messages read in one go; more than that are left for the next one.
const MAX_MESSAGES_PER_READ: usize = 64;

/// Opens the socket on which the system reports changes.
pub type Source = Box<dyn Fn() -> io::Result<OwnedFd> + Send>;

/// The system's own source.
///
/// # Errors
/// If the system has no such socket, or denies it to this process.
#[cfg(target_os = "linux")]
pub fn source() -> io::Result<OwnedFd> {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    /// `RTMGRP_LINK`, `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE` of
    /// linux/rtnetlink.h. Every address brings routes with it, and these are
    /// not reported again whenever a lease is renewed.
    const GROUPS: u32 = 0x1 | 0x40 | 0x400;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// The system's own source.
///
/// # Errors
/// If the system has no such socket, or denies it to this process.
#[cfg(not(target_os = "linux"))]
pub fn source() -> io::Result<OwnedFd> {
    use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
    use rustix::net::{AddressFamily, SocketType, socket};
    let socket = socket(AddressFamily::ROUTE, SocketType::RAW, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// The addresses by which this host reaches others.
type Addresses = BTreeSet<(String, IpAddr)>;

/// Returns the addresses of this host; `None` where every message that
/// [counts](is_of_interface) is a change. On Linux only what was subscribed to is
/// reported. On macOS interfaces of the system's own come and go without end while
/// there is no network.
fn addresses() -> Option<Addresses> {
    #[cfg(target_os = "macos")]
    return if_addrs::get_if_addrs().ok().map(|found| {
        let found = found.into_iter().map(|interface| (interface.name.clone(), interface.ip()));
        found.filter(|(name, ip)| reaches_others(name, *ip)).collect()
    });
    #[cfg(not(target_os = "macos"))]
    None
}

/// Whether an address can reach a server: it is no loopback or link-local one, and
/// its interface is not one that Apple's devices use among each other.
#[cfg(any(target_os = "macos", test))]
fn reaches_others(interface: &str, ip: IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    let among_devices = ["awdl", "llw", "anpi", "ap"];
    let kind = interface.trim_end_matches(|c: char| c.is_ascii_digit());
    !is_local && !among_devices.contains(&kind)
}

/// Whether the network has changed: the addresses differ, and there are any. Without
/// one no sync can succeed.
fn has_changed(before: Option<&Addresses>, now: Option<&Addresses>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before != now && !now.is_empty(),
        (None, _) | (_, None) => true,
    }
}

/// Whether a message may report a change.
fn counts(message: &[u8]) -> bool {
    // Linux reports only what was subscribed to.
    cfg!(target_os = "linux") || is_of_interface(message)
}

/// Whether a message of a routing socket is about an interface or an address:
/// most others are neighbours that come and go. The type is its fourth byte, see
/// net/route.h: `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_IFINFO`.
fn is_of_interface(message: &[u8]) -> bool {
    matches!(message.get(3), Some(0xc..=0xe))
}

/// Listens to a source, or does not.
pub(super) struct Network {
    source: Source,
    open: Option<AsyncFd<OwnedFd>>,
    /// Returns the addresses of this host, where they tell whether it has changed.
    addresses: fn() -> Option<Addresses>,
    /// What they were when it was last looked at.
    known: Option<Addresses>,
    /// The source cannot be opened, which has been logged.
    out_of_reach: bool,
}

impl Network {
    pub(super) fn new(source: Source) -> Self {
        Self { source, open: None, addresses, known: None, out_of_reach: false }
    }

    /// Listens from here on, or no longer.
    pub(super) fn listen(&mut self, listen: bool) {
        if !listen {
            self.open = None;
        } else if self.open.is_none() && !self.out_of_reach {
            match (self.source)().and_then(registered) {
                Ok(open) => {
                    self.open = Some(open);
                    self.known = (self.addresses)();
                }
                Err(error) => {
                    debug!(%error, "changes of the network cannot be heard; syncs go by the clock");
                    self.out_of_reach = true;
                }
            }
        }
    }

    /// Whether the network is another one than when it was last looked at, as far as the
    /// addresses tell.
    fn is_another(&mut self) -> bool {
        let now = (self.addresses)();
        let changed = has_changed(self.known.as_ref(), now.as_ref());
        self.known = now;
        changed
    }

    /// Completes when the network has changed; never while nobody listens.
    /// Nothing is lost if it is dropped before.
    pub(super) async fn changed(&mut self) {
        while let Some(open) = &self.open {
            let heard = match open.readable().await {
                Ok(mut ready) => drain(|buffer| {
                    match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), buffer)?)) {
                        Ok(read) => read.map(Some),
                        Err(_would_block) => Ok(None),
                    }
                }),
                Err(error) => Err(error),
            };
            match heard {
                Ok(true) if self.is_another() => return,
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "changes of the network are not heard until the next sync");
                    self.open = None;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(deprecated, reason = "an owned descriptor keeps what its successor, unsafe, asks for")]
    AsyncFd::new(fd)
}

/// Reads all pending messages and returns whether one of them counts.
fn drain(mut read: impl FnMut(&mut [u8]) -> io::Result<Option<usize>>) -> io::Result<bool> {
    // A longer message is cut off; its beginning says enough.
    let mut buffer = [0; 4096];
    let mut changed = false;
    for _ in 0..MAX_MESSAGES_PER_READ {
        match read(&mut buffer) {
            Ok(Some(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Some(length)) => changed |= counts(buffer.get(..length).unwrap_or_default()),
            Ok(None) => break,
            // More changed than the socket could hold.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                changed = true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future as _;
    use std::os::unix::net::UnixDatagram;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Of an interface, as macOS reports it; on Linux any message will do.
    const CHANGE: [u8; 4] = [4, 0, 5, 0xe];

    /// A network whose changes are ours to tell.
    fn fake() -> (Network, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("it can");
        let source = move || Ok(theirs.try_clone()?.into());
        (Network::new(Box::new(source)), ours)
    }

    fn has_changed_now(network: &mut Network) -> bool {
        let changed = pin!(network.changed());
        changed.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// DAEMON-2: a burst is one change, and after it there is silence.
    #[tokio::test]
    async fn daemon_2_changes_at_hand_are_one_change() {
        let (mut network, kernel) = fake();
        network.listen(true);
        for _ in 0..10 {
            kernel.send(&CHANGE).expect("told");
        }
        network.changed().await;
        assert!(!has_changed_now(&mut network));
        kernel.send(&CHANGE).expect("told");
        network.changed().await;
    }

    /// DAEMON-2: nobody listens, nobody is woken.
    #[tokio::test]
    async fn daemon_2_a_network_nobody_listens_to_never_changes() {
        let (mut network, kernel) = fake();
        kernel.send(&CHANGE).expect("told");
        assert!(!has_changed_now(&mut network));
        network.listen(true);
        network.changed().await;
        network.listen(false);
        kernel.send(&CHANGE).expect("told");
        assert!(!has_changed_now(&mut network));
    }

    /// DAEMON-2: without a source the daemon goes by the clock.
    #[tokio::test]
    async fn daemon_2_a_source_out_of_reach_is_asked_for_once() {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let asks = std::sync::Arc::clone(&asked);
        let mut network = Network::new(Box::new(move || {
            asks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(io::ErrorKind::PermissionDenied.into())
        }));
        for listen in [true, false, true] {
            network.listen(listen);
            assert!(!has_changed_now(&mut network));
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    /// DAEMON-2: interfaces that come and go while this host has no address, or the
    /// same ones as before, do not shorten the back-off.
    #[tokio::test]
    async fn daemon_2_only_other_addresses_are_a_change_where_they_are_known() {
        thread_local! {
            static NOW: Cell<&'static [&'static str]> = const { Cell::new(&[]) };
        }
        let (mut network, kernel) = fake();
        network.addresses = || {
            let parsed = |ip: &&str| ("en0".to_owned(), ip.parse().expect("an address"));
            Some(NOW.get().iter().map(parsed).collect())
        };
        network.listen(true);
        for (addresses, changed, what) in [
            (&[][..], false, "offline"),
            (&["192.0.2.7"], true, "online"),
            (&["192.0.2.7"], false, "the same"),
            (&["192.0.2.7", "10.8.0.2"], true, "a VPN"),
            (&["192.0.2.7"], true, "without it"),
            (&[], false, "offline"),
            (&["192.0.2.7"], true, "back"),
        ] {
            NOW.set(addresses);
            assert_eq!(network.is_another(), changed, "{what}");
        }
        // A message that is no change is read, and waited past.
        kernel.send(&CHANGE).expect("told");
        assert!(!has_changed_now(&mut network));
        NOW.set(&["192.0.2.8"]);
        kernel.send(&CHANGE).expect("told");
        network.changed().await;
    }

    #[test]
    fn addresses_that_reach_no_server_do_not_count() {
        for (interface, ip, counts) in [
            ("en0", "192.0.2.7", true),
            ("en0", "2001:db8::7", true),
            ("utun4", "10.8.0.2", true),
            ("utun3", "fe80::1", false),
            ("en0", "169.254.7.7", false),
            ("lo0", "127.0.0.1", false),
            ("lo0", "::1", false),
            ("awdl0", "2001:db8::7", false),
            ("llw0", "192.0.2.7", false),
            ("ap1", "192.0.2.7", false),
            ("apple0", "192.0.2.7", true),
        ] {
            let ip = ip.parse().expect("an address");
            assert_eq!(reaches_others(interface, ip), counts, "{interface} {ip}");
        }
    }

    #[test]
    fn overflow_is_a_change_and_an_end_is_none() {
        let mut messages = [Err(Errno::NOBUFS.into()), Ok(None)].into_iter();
        assert!(drain(|_| messages.next().expect("no more")).expect("read"));
        assert!(!drain(|_| Ok(None)).expect("read"));
        assert!(drain(|_| Ok(Some(0))).is_err());
        let mut endless = 0;
        let more = drain(|buffer| {
            endless += 1;
            buffer[..4].copy_from_slice(&CHANGE);
            Ok(Some(4))
        });
        assert!(more.expect("read") && endless == MAX_MESSAGES_PER_READ);
    }

    #[test]
    fn a_routing_socket_tells_more_than_counts() {
        for (kind, of_interface) in
            [(0x1, false), (0x7, false), (0xb, false), (0xc, true), (0xd, true), (0xe, true)]
        {
            assert_eq!(is_of_interface(&[200, 0, 5, kind, 0]), of_interface, "{kind}");
        }
        assert!(!is_of_interface(&[]));
    }
}
