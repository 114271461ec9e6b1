//! A connection, as a service sees it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::peer::Process;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The user whose socket it is: on Linux, unless it could not be found out.
    pub user: Option<u32>,
    /// The inode of that socket, by which [`Self::process`] finds its process.
    pub inode: Option<u64>,
    /// Whether it presented a client certificate, which TLS has verified.
    pub certificate: bool,
}

impl Peer {
    /// Looks for the process at the other end; `None` if the system does not tell this
    /// process. Reads `/proc`, so not for every request.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        Process::of_socket(self.user?, self.inode?)
    }
}

/// What a connection has earned, for the decision which one ends when there are
/// too many.
#[derive(Debug, Default)]
pub(super) struct Standing {
    known: AtomicBool,
    trusted: AtomicBool,
}

impl Standing {
    pub(super) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }
}

/// A stream that hyper has given up.
#[cfg(feature = "harness")]
pub trait BareStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

#[cfg(feature = "harness")]
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> BareStream for S {}

/// What takes over a bare stream.
#[cfg(feature = "harness")]
pub(super) type TakeOver = Box<
    dyn FnOnce(Box<dyn BareStream>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send,
>;

/// A connection.
pub struct Connection {
    /// Its number since the server began, from 1.
    pub id: u64,
    /// Who is at the other end.
    pub peer: Peer,
    standing: Arc<Standing>,
    #[cfg(feature = "harness")]
    take_over: std::sync::Mutex<Option<TakeOver>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(id: u64, peer: Peer, standing: Arc<Standing>) -> Self {
        Self {
            id,
            peer,
            standing,
            #[cfg(feature = "harness")]
            take_over: std::sync::Mutex::default(),
        }
    }

    /// Marks that an authenticated request has been completed on it. Such a
    /// connection is never ended for a new one.
    pub fn trust(&self) {
        self.standing.trusted.store(true, Ordering::Relaxed);
    }

    /// Whether its bodies are counted apart from those of strangers.
    pub(super) fn is_favoured(&self) -> bool {
        self.standing.is_trusted() || self.standing.is_known()
    }

    /// Gives the stream to something else in place of an answer: HTTP ends here.
    /// The service then never completes the request.
    #[cfg(feature = "harness")]
    pub fn take_over<F>(&self, act: impl FnOnce(Box<dyn BareStream>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let act: TakeOver = Box::new(|stream| Box::pin(act(stream)));
        *self.take_over.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(act);
    }

    #[cfg(feature = "harness")]
    pub(super) fn taken_over(&self) -> Option<TakeOver> {
        self.take_over.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}
