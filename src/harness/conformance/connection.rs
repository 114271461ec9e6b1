//! Connections to the server under test, directly or through an HTTP proxy, with or without TLS;
//! and checks of what the server speaks.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::exchange::{Break, BreakKind};
use crate::model::BaseUrl;
use crate::transport::{DirectAccess, ProxyRoute};

/// The longest time to connect, without the TLS handshake: the agent's own limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the check of what a server speaks may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest head of a proxy's response to CONNECT.
const MAX_PROXY_HEAD_BYTES: usize = 16 << 10;

/// Sends requests over one connection.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// The way to the server.
#[derive(Clone, Debug)]
pub(super) struct Way {
    host: String,
    port: u16,
    proxy: Option<ProxyRoute>,
}

impl Way {
    /// The way to a server, through a proxy if there is one.
    ///
    /// # Errors
    /// If there is a proxy, and it is not an `http` proxy or the server's URL is http. The error
    /// names which.
    pub(super) fn new(url: &BaseUrl, proxy: Option<ProxyRoute>) -> Result<Self, String> {
        let server = url.as_url();
        if let Some(proxy) = &proxy {
            let shown = format!("{} ({})", proxy.shown(), proxy.origin);
            let kind = match (proxy.url.scheme(), server.scheme()) {
                ("http", "https") => None,
                ("http", _) => Some("is for an http:// server"),
                ("https", _) => Some("is an https:// proxy"),
                _ => Some("is a SOCKS proxy"),
            };
            if let Some(kind) = kind {
                return Err(format!(
                    "the proxy {shown} {kind}: agents can use it, but these checks go through \
                     http:// proxies to https:// servers only"
                ));
            }
        }
        let host = server.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = server.port_or_known_default().unwrap_or_default();
        Ok(Self { host, port, proxy })
    }

    /// A connection without TLS.
    async fn open(&self) -> Result<TcpStream, Break> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.open_in_time()).await.unwrap_or_else(|_| {
            Err(self.no_connection(&format_args!("none within {CONNECT_TIMEOUT:?}")))
        })
    }

    async fn open_in_time(&self) -> Result<TcpStream, Break> {
        let Some(proxy) = &self.proxy else {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
            let stream = stream.map_err(|error| self.no_connection(&error))?;
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        };
        let host = proxy.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = proxy.url.port_or_known_default().unwrap_or_default();
        let of_proxy = |why: &dyn Display| {
            let what = format!("the proxy {} ({}): {why}", proxy.shown(), proxy.origin);
            Break { kind: BreakKind::Connect, what, status: None }
        };
        let stream = TcpStream::connect((host, port)).await;
        let mut stream = stream.map_err(|error| of_proxy(&error))?;
        let _ = stream.set_nodelay(true);
        let tunnel = self.tunnel(&mut stream, proxy).await.map_err(|error| of_proxy(&error))?;
        if tunnel == 200 {
            return Ok(stream);
        }
        Err(of_proxy(&format_args!("status {tunnel} to CONNECT {}:{}", self.host, self.port)))
    }

    /// Asks a proxy for a connection, and returns the status.
    async fn tunnel(&self, stream: &mut TcpStream, proxy: &ProxyRoute) -> io::Result<u16> {
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let user = proxy.user.as_ref().map_or_else(String::new, |user| {
            let password = proxy.password.as_ref().map_or("", |password| password.expose());
            let pair = STANDARD.encode(format!("{user}:{password}"));
            format!("Proxy-Authorization: Basic {pair}\r\n")
        });
        let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{user}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_PROXY_HEAD_BYTES {
                return Err(io::Error::other("the head of its response is too large"));
            }
            // One by one: what follows belongs to the server.
            head.push(stream.read_u8().await?);
        }
        let status = head.split(|byte| *byte == b' ').nth(1).and_then(|word| {
            let word = word.get(..3)?;
            str::from_utf8(word).ok()?.parse().ok()
        });
        status.ok_or_else(|| io::Error::other("its response is not HTTP"))
    }

    fn no_connection(&self, why: &dyn Display) -> Break {
        let what = format!("no connection to {}:{}: {why}", self.host, self.port);
        Break { kind: BreakKind::Connect, what, status: None }
    }

    /// A connection that is ready for requests.
    pub(super) async fn connect(
        &self,
        tls: Option<Arc<ClientConfig>>,
        failure: impl FnOnce(&rustls::Error) -> String,
    ) -> Result<Sender, Break> {
        let stream = self.open().await?;
        let Some(tls) = tls else { return handshake(TokioIo::new(stream)).await };
        let no_session = |what: String| Break { kind: BreakKind::Tls, what, status: None };
        let name = self.server_name().map_err(no_session)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            no_session(cause.map_or_else(|| format!("no TLS session: {error}"), failure))
        })?;
        handshake(TokioIo::new(stream)).await
    }

    fn server_name(&self) -> Result<ServerName<'static>, String> {
        ServerName::try_from(self.host.clone()).map_err(|error| format!("{}: {error}", self.host))
    }

    /// Whether the server accepts connections.
    pub(super) async fn is_open(&self) -> bool {
        self.open().await.is_ok()
    }

    /// Whether the server speaks TLS, whatever its certificate.
    pub(super) async fn speaks_tls(&self) -> bool {
        let look = async {
            let (Ok(stream), Ok(name)) = (self.open().await, self.server_name()) else {
                return false;
            };
            let tls = TlsConnector::from(DirectAccess::tls_that_trusts_nobody());
            match tls.connect(name, stream).await {
                Ok(_) => true,
                Err(error) => {
                    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
                    matches!(
                        cause,
                        Some(
                            rustls::Error::InvalidCertificate(_)
                                | rustls::Error::AlertReceived(_)
                                | rustls::Error::PeerIncompatible(_)
                        )
                    )
                }
            }
        };
        tokio::time::timeout(LOOK_TIMEOUT, look).await.unwrap_or(false)
    }

    /// Whether the server speaks HTTP without TLS.
    pub(super) async fn speaks_plain_http(&self) -> bool {
        let look = async {
            let mut stream = self.open().await.ok()?;
            let request =
                format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.host);
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut start = [0; 5];
            stream.read_exact(&mut start).await.ok()?;
            (start == *b"HTTP/").then_some(())
        };
        let seen = tokio::time::timeout(LOOK_TIMEOUT, look).await;
        seen.is_ok_and(|seen| seen.is_some())
    }
}

/// Speaks HTTP/1.1 over a connection.
async fn handshake<T>(io: T) -> Result<Sender, Break>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder.title_case_headers(true).max_buf_size(1 << 20);
    let (sender, connection) = builder.handshake(io).await.map_err(|error| broken(&error, None))?;
    // It ends when the sender is dropped; its errors reach the sender as well.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// What an error of the connection means. `status` is that of the response, if one began.
pub(super) fn broken(error: &hyper::Error, status: Option<u16>) -> Break {
    let kind = if error.is_parse() { BreakKind::NotHttp } else { BreakKind::Closed };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let cause = cause.unwrap_or_default();
    let what = match (kind, status) {
        (BreakKind::NotHttp, _) => format!("the response is not HTTP: {error}{cause}"),
        (_, Some(_)) => format!("the response breaks off: {error}{cause}"),
        (_, None) => format!("the connection ended without a response: {error}{cause}"),
    };
    Break { kind, what, status }
}
