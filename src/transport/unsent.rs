//! How much of what this process wrote to its connections the kernel still
//! holds, because the other end has not taken it yet. The HTTP client has the
//! sockets to itself, so the system's own list of connections is read: on
//! Linux, where it is a file.

/// Bytes that were written to connections of this process to that remote port
/// and are not acknowledged; `None` if the system does not say.
#[cfg(target_os = "linux")]
pub(super) fn to_port(port: u16) -> Option<u64> {
    let mine = linux::sockets()?;
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .filter_map(|table| linux::queued(&table, port, &mine))
        .reduce(|one, other| one + other)
}

/// `None`: this system does not say.
#[cfg(not(target_os = "linux"))]
pub(super) const fn to_port(_: u16) -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;

    /// The inodes of this process's sockets.
    pub(super) fn sockets() -> Option<BTreeSet<u64>> {
        let descriptors = std::fs::read_dir("/proc/self/fd").ok()?;
        let inode = |entry: std::io::Result<std::fs::DirEntry>| {
            let target = std::fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        Some(descriptors.filter_map(inode).collect())
    }

    /// The sum of the send queues in a table as of proc(5), `/proc/net/tcp`;
    /// `None` if no connection is among them.
    pub(super) fn queued(table: &str, port: u16, mine: &BTreeSet<u64>) -> Option<u64> {
        table.lines().filter_map(|line| queue(line, port, mine)).reduce(|one, other| one + other)
    }

    fn queue(line: &str, port: u16, mine: &BTreeSet<u64>) -> Option<u64> {
        // sl local remote st tx_queue:rx_queue tr:when retransmits uid timeout inode
        let mut fields = line.split_whitespace().skip(2);
        let (_, remote) = fields.next()?.rsplit_once(':')?;
        let (queued, _) = fields.nth(1)?.split_once(':')?;
        let inode = fields.nth(4)?.parse().ok()?;
        let fits = u16::from_str_radix(remote, 16) == Ok(port) && mine.contains(&inode);
        fits.then(|| u64::from_str_radix(queued, 16).ok()).flatten()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn http_9_the_send_queues_of_our_connections_to_the_port_are_added() {
            let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A1B2 0100007F:01BB 01 00001000:00000000 01:00000014 00000000  1000        0 11 2 0 20 4
   1: 0100007F:A1B3 0100007F:01BB 01 00000010:00000000 00:00000000 00000000  1000        0 12 1 0 20 4
   2: 0100007F:A1B4 0100007F:01BB 01 00000001:00000000 00:00000000 00000000  1000        0 99 1 0 20 4
   3: 0100007F:A1B5 0100007F:01BC 01 00000002:00000000 00:00000000 00000000  1000        0 11 1 0 20 4
   4: short
";
            let mine = BTreeSet::from([11, 12]);
            assert_eq!(queued(table, 443, &mine), Some(0x1010));
            assert_eq!(queued(table, 80, &mine), None);
            assert_eq!(queued("", 443, &mine), None);
        }

        #[test]
        fn http_9_the_kernel_says_what_it_has_not_delivered() {
            use std::io::Write as _;
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let mut stream = std::net::TcpStream::connect(address).expect("connected");
            let accepted = listener.accept().expect("accepted");
            stream.set_nonblocking(true).expect("nonblocking");
            // Nobody reads: the buffers of both ends fill.
            while stream.write(&[0; 8192]).is_ok() {}
            let queued = super::super::to_port(address.port());
            assert!(queued.is_some_and(|queued| queued > 0), "{queued:?}");
            drop(accepted);
        }
    }
}
