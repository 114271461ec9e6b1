//! The socket a server listens on.

use std::borrow::Cow;
use std::io;
use std::net::{SocketAddr, TcpListener};

use thiserror::Error;

use crate::failure::Remedy;

/// How many connections may wait to be accepted. Where more come at once, the system
/// drops some, and their clients try again a second later; the 128 of the standard
/// library would let a few strangers delay everybody else.
const BACKLOG: i32 = 1024;

/// Why a server cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address can be reached from other hosts.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// Another program listens there.
    #[error("port {} of {} is taken by another program", .0.port(), .0.ip())]
    Taken(SocketAddr),
    /// This user may not listen there.
    #[error("this user may not listen on {0}")]
    Denied(SocketAddr),
    /// The socket that was handed over is no listening TCP socket.
    #[error("the socket that was handed over does not listen for TCP connections")]
    NotListening,
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The socket that was handed over cannot be examined or used.
    #[error("cannot use the socket that was handed over: {0}")]
    Inherited(#[source] io::Error),
}

impl Remedy for BindError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotLoopback(_) => Some("use 127.0.0.1 or [::1]".into()),
            Self::Taken(address) => Some(
                format!(
                    "end that program (`lsof -i :{}` names it), or choose another port",
                    address.port()
                )
                .into(),
            ),
            Self::Denied(_) => Some("ports below 1024 are root's: run as root".into()),
            Self::NotListening => Some(
                "make the service manager listen on a stream socket of 127.0.0.1 or ::1".into(),
            ),
            Self::Failed { .. } | Self::Inherited(_) => None,
        }
    }
}

/// A TCP socket that listens on a loopback address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 is a free one.
    ///
    /// The socket has `SO_REUSEADDR`, as all of the standard library's have on Unix:
    /// a restarted daemon need not wait until its former connections are forgotten.
    /// It does not let two sockets listen on one address, unlike `SO_REUSEPORT`,
    /// which is not set.
    ///
    /// # Errors
    /// If the address is not a loopback one, is taken, or cannot be listened on.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::Taken(address)
            } else if source.kind() == io::ErrorKind::PermissionDenied {
                BindError::Denied(address)
            } else {
                BindError::Failed { address, source }
            }
        };
        let socket = TcpListener::bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Takes a socket that a service manager opened.
    ///
    /// # Errors
    /// If it does not listen for TCP connections, or not on a loopback address.
    pub fn inherited(socket: TcpListener) -> Result<Self, BindError> {
        let address = socket.local_addr().map_err(|_| BindError::NotListening)?;
        let kind = rustix::net::sockopt::socket_type(&socket);
        if kind.map_err(|error| BindError::Inherited(error.into()))?
            != rustix::net::SocketType::STREAM
        {
            return Err(BindError::NotListening);
        }
        if !is_listening(&socket) {
            return Err(BindError::NotListening);
        }
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        socket.set_nonblocking(true).map_err(BindError::Inherited)?;
        Ok(Self { socket, address })
    }

    /// Takes a socket that may be reached from other hosts.
    ///
    /// # Errors
    /// If it cannot be used.
    #[cfg(feature = "harness")]
    pub fn public(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// Returns the address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the socket for tokio's reactor.
    pub(super) fn into_tokio(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.socket)
    }
}

/// Whether a stream socket listens.
#[cfg(not(target_os = "macos"))]
fn is_listening(socket: &TcpListener) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// macOS does not say whether a stream socket listens; a connected one has a peer.
#[cfg(target_os = "macos")]
fn is_listening(socket: &TcpListener) -> bool {
    rustix::net::getpeername(socket).is_err()
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn relay_1_only_loopback_addresses_are_listened_on() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "[2001:db8::1]:80"] {
            let address = address.parse().unwrap();
            assert!(matches!(Listener::bind(address), Err(BindError::NotLoopback(_))));
        }
        assert!(Listener::bind(local(0)).unwrap().address().port() != 0);
    }

    #[test]
    fn relay_1_a_taken_port_is_an_error_of_its_own_and_is_not_shared() {
        let first = Listener::bind(local(0)).unwrap();
        assert!(!rustix::net::sockopt::socket_reuseport(&first.socket).unwrap());
        let second = Listener::bind(first.address()).unwrap_err();
        assert!(matches!(second, BindError::Taken(address) if address == first.address()));
        assert!(second.fix().unwrap().contains(&first.address().port().to_string()));
    }

    #[test]
    fn relay_1_a_socket_handed_over_must_listen_on_loopback() {
        let handed_over = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = handed_over.local_addr().unwrap();
        assert_eq!(Listener::inherited(handed_over).unwrap().address(), address);

        let wildcard = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(matches!(Listener::inherited(wildcard), Err(BindError::NotLoopback(_))));

        let of_unix = tempfile::tempdir().unwrap();
        let of_unix = UnixListener::bind(of_unix.path().join("socket")).unwrap();
        let of_unix = TcpListener::from(OwnedFd::from(of_unix));
        assert!(matches!(Listener::inherited(of_unix), Err(BindError::NotListening)));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connected = TcpListener::from(OwnedFd::from(connected));
        assert!(matches!(Listener::inherited(connected), Err(BindError::NotListening)));

        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagrams = TcpListener::from(OwnedFd::from(datagrams));
        assert!(matches!(Listener::inherited(datagrams), Err(BindError::NotListening)));
    }
}
