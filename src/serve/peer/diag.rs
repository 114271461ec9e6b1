//! `sock_diag(7)`: asks the kernel for one socket by its addresses. A host with many
//! connections answers as fast as one with few, so strangers who open many cannot
//! make lookups slow, as they could those of `/proc/net/tcp`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::{Entry, twice};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`, for requests and replies.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// Address families of `linux/socket.h`.
const INET: u8 = 2;
const INET6: u8 = 10;
/// A message's header.
const HEADER_BYTES: usize = 16;
/// With `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// With `struct inet_diag_msg`.
const REPLY_BYTES: usize = HEADER_BYTES + 72;

/// A socket for questions.
#[derive(Debug)]
pub(super) struct Diag {
    socket: Mutex<OwnedFd>,
}

impl Diag {
    /// Opens a socket; `None` where the kernel does not answer, or wrongly: it must
    /// find a connection that we make.
    pub(super) fn open() -> Option<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
        let socket =
            socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG)).ok()?;
        let diag = Self { socket: Mutex::new(socket) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let ours = listener.local_addr().ok()?;
        let stream = TcpStream::connect(ours).ok()?;
        let theirs = stream.local_addr().ok()?;
        let user = twice(|| diag.look_up(theirs, ours));
        (user == Some(rustix::process::geteuid().as_raw())).then_some(diag)
    }

    /// Looks up the socket of `theirs` that is connected to `ours`.
    pub(super) fn look_up(&self, theirs: SocketAddr, ours: SocketAddr) -> Option<Entry> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, &request(theirs, ours), SendFlags::empty()).ok()?;
        let mut answer = [0; 512];
        // The kernel answers before `send` returns.
        let (length, _) = recv(&*socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
        reply(answer.get(..length)?).filter(|entry| entry.joins(theirs, ours))
    }
}

/// `struct inet_diag_sockid`: ports and addresses in network order, no interface, and
/// the cookie that stands for any.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> [u8; 48] {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (at, host) in [(4, local.ip()), (20, remote.ip())] {
        match host {
            IpAddr::V4(host) => id[at..at + 4].copy_from_slice(&host.octets()),
            IpAddr::V6(host) => id[at..at + 16].copy_from_slice(&host.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

fn request(local: SocketAddr, remote: SocketAddr) -> [u8; REQUEST_BYTES] {
    let mut message = [0; REQUEST_BYTES];
    let length = u32::try_from(REQUEST_BYTES).unwrap_or_default();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    message[16] = if local.is_ipv4() { INET } else { INET6 };
    message[17] = TCP;
    // All states.
    message[20..24].fill(0xff);
    message[24..].copy_from_slice(&socket_id(local, remote));
    message
}

/// The socket of a reply; `None` for errors and anything else.
fn reply(message: &[u8]) -> Option<Entry> {
    let message: &[u8; REPLY_BYTES] = message.get(..REPLY_BYTES)?.try_into().ok()?;
    let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
    let word = |at: usize| {
        u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
    };
    let is_whole = usize::try_from(word(0)).is_ok_and(|length| length >= REPLY_BYTES);
    if half(4) != BY_FAMILY || !is_whole {
        return None;
    }
    let family = message[16];
    let end = |port: usize, host: usize| {
        let bytes: [u8; 16] = message[host..host + 16].try_into().ok()?;
        let host = match family {
            INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            INET6 => IpAddr::V6(Ipv6Addr::from(bytes)),
            _ => return None,
        };
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        Some(SocketAddr::new(host.to_canonical(), port))
    };
    Some(Entry {
        local: end(20, 24)?,
        remote: end(22, 40)?,
        state: message[17],
        user: word(80),
        inode: u64::from(word(84)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_12_requests_name_both_ends() {
        let message =
            request("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(message[16..18], [INET, TCP]);
        assert_eq!(message[24..28], [0x9c, 0x40, 0x1f, 0x90]);
        assert_eq!(
            (&message[28..32], &message[44..48]),
            (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..])
        );
        let message = request("[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!((message[16], message[43], message[59]), (INET6, 1, 1));
    }

    #[test]
    fn relay_12_only_whole_replies_of_the_right_type_are_read() {
        let (local, remote) =
            ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        let mut message = vec![0; REPLY_BYTES];
        message[..4].copy_from_slice(&88_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        message[16..18].copy_from_slice(&[INET, 1]);
        message[20..68].copy_from_slice(&socket_id(local, remote));
        message[80..84].copy_from_slice(&501_u32.to_ne_bytes());
        message[84..88].copy_from_slice(&7_u32.to_ne_bytes());
        let expected = Entry { local, remote, state: 1, user: 501, inode: 7 };
        assert_eq!(reply(&message), Some(expected));
        // More may follow.
        assert_eq!(reply(&[&message[..], &[0; 40]].concat()), Some(expected));
        for end in 0..message.len() {
            assert_eq!(reply(&message[..end]), None);
        }
        for (at, byte) in [(0, 87), (4, 2), (16, 1)] {
            let mut wrong = message.clone();
            wrong[at] = byte;
            assert_eq!(reply(&wrong), None, "byte {at}");
        }
        // A socket of IPv6 that is connected to an address of IPv4.
        let mapped = |host: &str, port: u16| SocketAddr::new(host.parse().unwrap(), port);
        message[16] = INET6;
        message[20..68].copy_from_slice(&socket_id(
            mapped("::ffff:127.0.0.1", 40_000),
            mapped("::ffff:127.0.0.1", 8080),
        ));
        assert_eq!(reply(&message), Some(expected));
    }
}
