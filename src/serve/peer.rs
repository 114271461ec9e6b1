//! Which user a loopback connection comes from, by the kernel's table of sockets.
//!
//! `/proc/net/tcp` has one line for each socket of the host: its own address, the
//! one it is connected to, its state, its user and its inode. A socket whose
//! program has closed it stays in the table for a while, without an inode and as
//! root's. So only an established one with an inode counts, and only if a second
//! reading says the same: a program that closes its socket while a line is written
//! can mix both, but not twice.

use std::io::{self, BufRead, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line that is read; the kernel's have about 150 bytes.
const LINE_BYTES: u64 = 1024;
/// The most that is read of a table: about 400,000 sockets.
const TABLE_BYTES: u64 = 64 << 20;
/// The state of an established connection.
const ESTABLISHED: u8 = 1;

/// A socket of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    user: u32,
    inode: u64,
}

/// Returns the user whose socket has the address `theirs` and is connected to
/// `ours`; `None` if there is none, or more than one could be meant.
#[cfg(target_os = "linux")]
pub(super) fn user(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    twice(|| {
        // A socket of IPv6 can be connected to an address of IPv4.
        let tables: &[&str] =
            if ours.is_ipv4() { &["/proc/net/tcp", "/proc/net/tcp6"] } else { &["/proc/net/tcp6"] };
        tables.iter().find_map(|table| {
            let table = std::fs::File::open(table).ok()?;
            find(io::BufReader::with_capacity(64 * 1024, table), theirs, ours)
        })
    })
}

/// No table says it.
#[cfg(not(target_os = "linux"))]
pub(super) fn user(_theirs: SocketAddr, _ours: SocketAddr) -> Option<u32> {
    None
}

/// The user that two readings agree on.
fn twice(mut read: impl FnMut() -> Option<Entry>) -> Option<u32> {
    let first = read()?;
    (read()? == first).then_some(first.user)
}

/// The socket that an existing program has connected from `theirs` to `ours`.
fn find(table: impl BufRead, theirs: SocketAddr, ours: SocketAddr) -> Option<Entry> {
    let mut table = table.take(TABLE_BYTES);
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        let read =
            io::Read::by_ref(&mut table).take(LINE_BYTES).read_until(b'\n', &mut line).ok()?;
        // The end, or a line without one.
        if read == 0 || line.last() != Some(&b'\n') {
            return None;
        }
        let entry = std::str::from_utf8(&line).ok().and_then(entry);
        if let Some(entry) = entry.filter(|entry| entry.local == theirs && entry.remote == ours) {
            return Some(entry).filter(|entry| entry.state == ESTABLISHED && entry.inode != 0);
        }
    }
}

/// A line of the table; `None` for its heading and for anything else.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.strip_suffix(':')?;
    number.parse::<u64>().ok()?;
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    // Queues, timer, retransmissions.
    let mut words = words.skip(3);
    let user = words.next()?.parse().ok()?;
    // Timeout.
    let inode = words.nth(1)?.parse().ok()?;
    Some(Entry { local, remote, state, user, inode })
}

/// `0100007F:1F90`: each four bytes of the address as one number of this machine,
/// and the port. An IPv4 address in IPv6 form is the IPv4 address.
fn address(word: &str) -> Option<SocketAddr> {
    let (host, port) = word.split_once(':')?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(host) || !is_hex(port) || port.len() != 4 {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let bytes = bytes.get_mut(..host.len() / 2)?;
    for (place, digits) in bytes.chunks_exact_mut(4).zip(host.as_bytes().chunks_exact(8)) {
        let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        place.copy_from_slice(&number.to_ne_bytes());
    }
    let host = match (host.len(), &*bytes) {
        (8, &[a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        (32, bytes) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(host.to_canonical(), port))
}
