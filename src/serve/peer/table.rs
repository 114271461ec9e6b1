//! `/proc/net/tcp` and `tcp6`: one line for each socket of the host, with its own
//! address, the one it is connected to, its state, its user and its inode.

use std::io::{self, BufRead, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Entry;

/// The longest line that is read; the kernel's have about 150 bytes.
const LINE_BYTES: u64 = 1024;
/// The most that is read of a table: about 400,000 sockets.
const TABLE_BYTES: u64 = 64 << 20;

/// Looks a socket up in the tables of this host.
pub(super) fn look_up(theirs: SocketAddr, ours: SocketAddr) -> Option<Entry> {
    // A socket of IPv6 can be connected to an address of IPv4.
    let tables: &[&str] =
        if ours.is_ipv4() { &["/proc/net/tcp", "/proc/net/tcp6"] } else { &["/proc/net/tcp6"] };
    tables.iter().find_map(|table| {
        let table = std::fs::File::open(table).ok()?;
        find(io::BufReader::with_capacity(64 * 1024, table), theirs, ours)
    })
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
        if let Some(entry) = entry.filter(|entry| entry.joins(theirs, ours)) {
            return Some(entry);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
        retrnsmt   uid  timeout inode\n";

    fn socket(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// The words of a little-endian machine, made this machine's.
    fn words(address: &str) -> String {
        let (host, port) = address.split_once(':').unwrap();
        let ours = |word: &[u8]| {
            let number = u32::from_str_radix(std::str::from_utf8(word).unwrap(), 16).unwrap();
            format!("{:08X}", u32::from_ne_bytes(number.to_le_bytes()))
        };
        host.as_bytes().chunks(8).map(ours).collect::<String>() + ":" + port
    }

    /// `127.0.0.1:40000` connected to `127.0.0.1:8080`.
    const THEIRS: &str = "0100007F:9C40";
    const OURS: &str = "0100007F:1F90";

    fn line(local: &str, remote: &str, state: &str, user: &str, inode: &str) -> String {
        format!(
            "  12: {} {} {state} 00000000:00000000 00:00000000 00000000 {user:>5}        0 {inode} \
             1 0000000000000000 20 4 30 10 -1\n",
            words(local),
            words(remote)
        )
    }

    fn found(table: &str) -> Option<u32> {
        let (theirs, ours) = (socket("127.0.0.1:40000"), socket("127.0.0.1:8080"));
        find(table.as_bytes(), theirs, ours).filter(Entry::is_alive).map(|entry| entry.user)
    }

    #[test]
    fn relay_12_both_ends_must_match() {
        let others = [
            line("00000000:1F90", "00000000:0000", "0A", "0", "1"),
            // The server's end of the same connection.
            line(OURS, THEIRS, "01", "0", "2"),
            line("0100007F:9C41", OURS, "01", "1", "3"),
            line(THEIRS, "0100007F:1F91", "01", "2", "4"),
            line("0200007F:9C40", OURS, "01", "3", "5"),
        ];
        let table = HEADING.to_owned() + &others.concat();
        assert_eq!(found(&table), None);
        let table = table + &line(THEIRS, OURS, "01", "501", "12345");
        assert_eq!(found(&table), Some(501));
        assert_eq!(found(&(table + &line(THEIRS, OURS, "01", "0", "6"))), Some(501));
    }

    /// The kernel shows what a program has closed as root's.
    #[test]
    fn relay_12_a_closed_socket_is_nobodys() {
        for state in ["02", "03", "04", "05", "06", "07", "08", "09", "0A", "0B", "0C"] {
            assert_eq!(found(&line(THEIRS, OURS, state, "0", "77")), None);
        }
        assert_eq!(found(&line(THEIRS, OURS, "01", "0", "0")), None);
        assert_eq!(found(&line(THEIRS, OURS, "01", "0", "77")), Some(0));
    }

    #[test]
    fn relay_12_addresses_of_ipv6_and_of_ipv4_in_its_form_are_read() {
        let read = |word: &str| address(&words(word));
        let loopback = read("00000000000000000000000001000000:1F90");
        assert_eq!(loopback, Some(socket("[::1]:8080")));
        assert_eq!(read("0000000000000000FFFF00000100007F:9C40"), Some(socket("127.0.0.1:40000")));
        assert_eq!(read("B80D0120000000000000000001000000:0050"), Some(socket("[2001:db8::1]:80")));
        let mapped = "0000000000000000FFFF00000100007F";
        let in_tcp6 = line(&format!("{mapped}:9C40"), &format!("{mapped}:1F90"), "01", "501", "7");
        assert_eq!(found(&in_tcp6), Some(501));
    }

    #[test]
    fn relay_12_odd_and_cut_tables_name_nobody() {
        let good = line(THEIRS, OURS, "01", "501", "7");
        // Wherever it is cut, the line is not there.
        for end in 0..good.len() {
            assert_eq!(found(&good[..end]), None, "cut at {end}");
            let with_end = good[..end].to_owned() + "\n";
            let user = found(&with_end);
            assert!(user.is_none() || user == Some(501), "cut at {end}: {user:?}");
        }
        for odd in [
            good.replace("501", "-1"),
            good.replace("501", "4294967296"),
            good.replace("501", "root"),
            good.replace("12:", "12"),
            good.replace(" 01 ", " 101 "),
            good.replace(":1F90", ":+F90"),
            good.replace(":1F90", ":11F90"),
            good.replace(":1F90", ""),
            good.replace("7F:", "7:").replace("00:", "0:"),
            good.replace("7F:", "é:"),
        ] {
            assert_eq!(found(&odd), None, "{odd}");
        }
        // What cannot be read costs its own line, unless it has no end.
        let table = ["\n", "\0\u{1}\n", HEADING, "1: 2: 3:\n", &good].concat();
        assert_eq!(found(&table), Some(501));
        assert_eq!(found(&("x".repeat(2000) + "\n" + &good)), None);
        let mut bytes = b"\xff\xfe\n".to_vec();
        bytes.extend_from_slice(good.as_bytes());
        let (theirs, ours) = (socket("127.0.0.1:40000"), socket("127.0.0.1:8080"));
        assert!(find(&bytes[..], theirs, ours).is_some());
    }
}
