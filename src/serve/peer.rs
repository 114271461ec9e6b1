//! Which user a loopback connection comes from, by what the kernel says of the socket
//! at its other end. Only Linux says it.
//!
//! A socket that its program has closed is known to the kernel for a while, without
//! an inode and as root's. So only an established one with an inode counts, and only
//! if a second look finds the same: a program that closes its socket during a look
//! can mix both, but not twice.

#[cfg(target_os = "linux")]
mod diag;
mod process;
#[cfg(target_os = "linux")]
mod table;

use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::sync::Arc;

#[cfg(target_os = "linux")]
use tokio::sync::Semaphore;

pub use process::Process;

/// Readings of a table at once.
#[cfg(target_os = "linux")]
const READERS: usize = 2;

/// A socket, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(target_os = "linux")]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    user: u32,
    inode: u64,
}

#[cfg(target_os = "linux")]
impl Entry {
    /// Whether it is connected from `theirs` to `ours`.
    fn joins(&self, theirs: SocketAddr, ours: SocketAddr) -> bool {
        self.local == theirs && self.remote == ours
    }

    /// Whether a program has it, and it is connected.
    fn is_alive(&self) -> bool {
        const ESTABLISHED: u8 = 1;
        self.state == ESTABLISHED && self.inode != 0
    }
}

/// Looks up users.
#[derive(Clone, Debug)]
pub(super) struct Users {
    /// Asks for one socket.
    #[cfg(target_os = "linux")]
    diag: Option<Arc<diag::Diag>>,
    /// Reading all of them takes a while.
    #[cfg(target_os = "linux")]
    readers: Arc<Semaphore>,
}

impl Users {
    /// Finds out what this kernel offers.
    pub(super) fn open() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            diag: diag::Diag::open().map(Arc::new),
            #[cfg(target_os = "linux")]
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Returns the user whose socket has the address `theirs` and is connected to
    /// `ours`, and the socket's inode; `None` if that is not certain.
    #[cfg(target_os = "linux")]
    pub(super) async fn owner(&self, theirs: SocketAddr, ours: SocketAddr) -> Option<(u32, u64)> {
        let owner = |entry: Entry| (entry.user, entry.inode);
        if let Some(diag) = &self.diag {
            return certain(|| diag.look_up(theirs, ours)).map(owner);
        }
        let turn = Arc::clone(&self.readers).acquire_owned().await.ok()?;
        let look = move || {
            // A connection that ends meanwhile does not end its lookup.
            let _turn = turn;
            certain(|| table::look_up(theirs, ours)).map(owner)
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }

    /// Returns nothing: no way is known.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "it is one elsewhere")]
    pub(super) async fn owner(&self, _theirs: SocketAddr, _ours: SocketAddr) -> Option<(u32, u64)> {
        None
    }
}

/// The living socket that two looks agree on.
#[cfg(target_os = "linux")]
fn certain(mut look: impl FnMut() -> Option<Entry>) -> Option<Entry> {
    let first = look().filter(Entry::is_alive)?;
    (look()? == first).then_some(first)
}

/// The user that two looks agree on.
#[cfg(target_os = "linux")]
fn twice(look: impl FnMut() -> Option<Entry>) -> Option<u32> {
    certain(look).map(|entry| entry.user)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn entry(state: u8, user: u32, inode: u64) -> Entry {
        let local = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let remote = SocketAddr::from(([127, 0, 0, 1], 8080));
        Entry { local, remote, state, user, inode }
    }

    #[test]
    fn relay_12_two_looks_must_find_the_same_living_socket() {
        let looks = |first: Entry, second: Entry| {
            let mut found = [first, second].into_iter();
            twice(|| found.next())
        };
        let twice_the = |entry: Entry| looks(entry, entry);
        assert_eq!(twice_the(entry(1, 501, 7)), Some(501));
        assert_eq!(twice_the(entry(1, 0, 7)), Some(0));
        assert_eq!(looks(entry(1, 0, 7), entry(1, 501, 7)), None);
        assert_eq!(looks(entry(1, 501, 7), entry(1, 501, 8)), None);
        assert_eq!(looks(entry(1, 0, 7), entry(4, 0, 0)), None);
        assert_eq!(twice_the(entry(1, 0, 0)), None);
        for state in (0..=12).filter(|state| *state != 1) {
            assert_eq!(twice_the(entry(state, 0, 7)), None);
        }
        let mut only = Some(entry(1, 0, 7));
        assert_eq!(twice(|| only.take()), None);
        assert_eq!(twice(|| None), None);
    }

    /// Closed, a socket is nobody's, although the kernel says that it is root's.
    #[test]
    fn relay_12_this_host_names_our_own_user_until_the_socket_is_closed() {
        let ours = Some(rustix::process::getuid().as_raw());
        let diag = diag::Diag::open();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server_end, theirs) = listener.accept().unwrap();
            let end = server_end.local_addr().unwrap();
            assert_eq!(twice(|| table::look_up(theirs, end)), ours);
            if let Some(diag) = &diag {
                assert_eq!(diag.look_up(theirs, end), table::look_up(theirs, end));
                assert_eq!(diag.look_up(end, end), None);
            }
            drop(stream);
            assert_eq!(twice(|| table::look_up(theirs, end)), None);
            if let Some(diag) = &diag {
                assert_eq!(twice(|| diag.look_up(theirs, end)), None);
            }
        }
    }
}
