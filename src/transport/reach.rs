//! Checks whether anything listens at the server's address, for tools that would otherwise run
//! into the same error thousands of times.

use std::io;

use super::Transport;
use super::attempt::DEFAULT_SOCKS_PORT;
use crate::failure::{Failure, FailureKind};

impl Transport {
    /// Opens a connection to the server, or to the proxy on the way to it, and closes it.
    /// Sends nothing, not even a TLS handshake.
    ///
    /// # Errors
    /// If the name has no address, or nothing listens there, within the connect timeout.
    pub async fn try_connect(&self) -> Result<(), Failure> {
        let server = self.options.base_url.as_url();
        let peer = self.route.as_ref().map_or(server, |route| &route.url);
        let role = if self.route.is_some() { "the proxy " } else { "" };
        let host = peer.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = peer.port_or_known_default().unwrap_or(DEFAULT_SOCKS_PORT);
        let limit = self.options.timeouts.connect;
        let reached = async {
            let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| {
                let what = format!("{role}{host} has no address ({error})");
                Failure::new(FailureKind::NameNotResolved, what).fixed_by("check the host name")
            })?;
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in addresses {
                match tokio::net::TcpStream::connect(address).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            let is_refused = last.kind() == io::ErrorKind::ConnectionRefused;
            let kind = if is_refused { FailureKind::Refused } else { FailureKind::Unreachable };
            let what = format!("{role}{host}:{port} does not accept connections ({last})");
            Err(Failure::new(kind, what)
                .fixed_by("start the server, or check the host and the port"))
        };
        tokio::time::timeout(limit, reached).await.unwrap_or_else(|_| {
            let secs = limit.as_secs();
            let what = format!("{role}{host}:{port} accepted no connection within {secs} s");
            let fix = "check the host, the port and firewalls";
            Err(Failure::new(FailureKind::ConnectTimeout, what).fixed_by(fix))
        })
    }
}
