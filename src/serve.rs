//! The server side of HTTP/1.1 exchanges on loopback: accepting within bounds,
//! TLS, reading and decoding request bodies, writing answers.
//!
//! It knows nothing of Santa. A [`Service`] decides what is answered; [`run`] does
//! the rest. Everything that a stranger could make large or slow has a limit in
//! [`Limits`]: connections, handshakes, heads, bodies, idle time, answers that are
//! not taken. A service's answer always has a `Content-Length` and is sent as it is.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method};

mod answer;
mod body;
mod budget;
mod coding;
mod connection;
mod exchange;
mod listener;
mod peer;
mod phase;
mod server;

pub use answer::Response;
pub use coding::{Coding, CodingError, Decoder};
pub use connection::{Connection, Peer};
pub use listener::{BindError, Listener};
pub use peer::Process;
pub use server::run;

#[cfg(feature = "harness")]
pub use connection::BareStream;

/// What a server answers.
pub trait Service: Send + Sync + 'static {
    /// Decides by its head whether a request's body is read, and how much of it.
    /// With an answer instead, the body is not read.
    ///
    /// # Errors
    /// The answer to a request that is refused.
    fn admit(&self, head: &Head, connection: &Connection) -> Result<BodyLimits, Response>;

    /// Answers a request whose body has been read.
    ///
    /// The future is dropped if the client goes away or its connection is ended.
    /// Work that must not be left half done belongs into a task of its own. A panic
    /// is answered with 500 and ends the connection.
    fn respond(
        &self,
        request: Request,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response> + Send;

    /// Whether the peer alone, without any request, is one that the service trusts.
    /// Such a connection is the last to be ended when there are too many.
    fn knows(&self, _peer: &Peer) -> bool {
        false
    }

    /// Whether [`Peer::user`] is looked up, which costs each connection the reading
    /// of a table of all connections.
    fn needs_user(&self) -> bool {
        true
    }
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The host that the target names before the path (`http://host/path`), as sent
    /// to proxies; `None` if it is the path alone.
    pub authority: Option<String>,
    /// The path as sent, percent-encoded, without the query.
    pub path: String,
    /// The query as sent, without the question mark.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
}

impl Head {
    /// Returns the value of a header that is there once; `None` if it is absent,
    /// repeated or not ASCII.
    #[must_use]
    pub fn only_header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// Returns a header's value; empty if it is absent or not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// The body after decoding. A large one holds its share of
    /// [`Limits::large_bodies`] for as long as these bytes live.
    pub body: Bytes,
}

/// How much of a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes as sent.
    pub encoded: u64,
    /// Bytes after decoding.
    pub decoded: u64,
    /// Whether the body is decoded by its `Content-Encoding`. Otherwise it is handed
    /// over as sent, whatever that header says.
    pub decode: bool,
}

impl BodyLimits {
    /// Returns the same limit for a body as sent and decoded.
    #[must_use]
    pub const fn both(bytes: u64) -> Self {
        Self { encoded: bytes, decoded: bytes, decode: true }
    }

    /// Returns a limit for a body that is not decoded.
    #[cfg(any(test, feature = "harness"))]
    #[must_use]
    pub const fn as_sent(bytes: u64) -> Self {
        Self { encoded: bytes, decoded: bytes, decode: false }
    }
}

/// What a server grants its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; at least one.
    pub connections: usize,
    /// Time for the TLS handshake, and for looking up the peer's user.
    pub handshake: Duration,
    /// Time for a head: from its first byte, the first one from the handshake on.
    pub head: Duration,
    /// Time for a body: from its head to its last byte.
    pub body: Duration,
    /// Time without a byte between an answer and the next request.
    pub idle: Duration,
    /// Time for an answer to be taken, from the moment it is there.
    pub respond: Duration,
    /// Time for answers that have been begun when the server is stopped.
    pub stop: Duration,
    /// Bodies up to this many bytes are read without waiting for others.
    pub small_body: usize,
    /// How many longer ones may be in memory at once: so many of trusted
    /// connections ([`Connection::trust`], [`Service::knows`]), and as many of
    /// all others together. Further ones wait, for [`Self::body`] at most.
    pub large_bodies: usize,
}

impl Default for Limits {
    /// The limits of the relay: at most 32 MiB of small bodies, and two large ones.
    fn default() -> Self {
        Self {
            connections: 32,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_mins(1),
            respond: Duration::from_secs(30),
            stop: Duration::from_secs(10),
            small_body: 1 << 20,
            large_bodies: 1,
        }
    }
}

#[cfg(test)]
mod tests;
