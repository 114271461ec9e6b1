//! A server that answers each request with the next reply of its script and
//! keeps what it was sent. The last reply is repeated.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use santa_sync::failure::Failure;
use santa_sync::model::{BaseUrl, MachineId, Proxy, Stage, Timestamp};
use santa_sync::transport::{Response, Transport, TransportOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends these bytes and reads the next request.
    Keep(Vec<u8>),
    /// Sends these bytes and closes the connection in good order.
    Close(Vec<u8>),
    /// Sends these bytes and drops the connection: TLS sees no `close_notify`.
    Cut(Vec<u8>),
    /// Sends these bytes and then nothing, but keeps the connection.
    Stall(Vec<u8>),
    /// Sends the first bytes at once and the others one at a time.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Sends the first bytes once and the others for as long as they are taken.
    Endless(Vec<u8>, Vec<u8>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The value of that header; `None` if it is missing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<usize>>,
}

impl Script {
    pub(crate) fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self {
            replies: Arc::new(Mutex::new(replies.into_iter().collect())),
            requests: Arc::default(),
            connections: Arc::default(),
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("unpoisoned").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("unpoisoned")
    }

    fn next(&self) -> Reply {
        let mut replies = self.replies.lock().expect("unpoisoned");
        if replies.len() > 1 {
            replies.pop_front().expect("more than one")
        } else {
            replies.front().expect("a reply").clone()
        }
    }

    /// Serves one connection by the script.
    pub(crate) async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        *self.connections.lock().expect("unpoisoned") += 1;
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            self.requests.lock().expect("unpoisoned").push(request);
            match self.next() {
                Reply::Keep(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                    let _ = stream.flush().await;
                }
                Reply::Close(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                    return;
                }
                Reply::Cut(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.flush().await;
                    return;
                }
                Reply::Stall(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.flush().await;
                    std::future::pending::<()>().await;
                }
                Reply::Drip(head, bytes, every) => {
                    let _ = stream.write_all(&head).await;
                    for byte in bytes {
                        let sent = stream.write_all(&[byte]).await;
                        if sent.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                        tokio::time::sleep(every).await;
                    }
                }
                Reply::Endless(head, piece) => {
                    let _ = stream.write_all(&head).await;
                    while stream.write_all(&piece).await.is_ok() {}
                    return;
                }
            }
        }
    }

    /// Listens on a loopback port and serves every connection by the script.
    pub(crate) async fn listen(&self) -> u16 {
        let (listener, port) = listener().await;
        let script = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                tokio::spawn(async move { script.serve(stream).await });
            }
        });
        port
    }
}

pub(crate) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<Request> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut request = Request { head, body: Vec::new() };
    let length: usize = request.header("content-length").map_or(0, |v| v.parse().expect("length"));
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(request)
}

/// A whole answer with its `Content-Length`.
pub(crate) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head =
        format!("HTTP/1.1 {status} Reason\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An answer of status 200 with that body, on a connection that is kept.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Reply {
    Reply::Keep(answer(200, "", body))
}

/// Options for `http://localhost:<port>/santa/`, short of patience.
pub(crate) fn options(port: u16) -> TransportOptions {
    options_for(&format!("http://localhost:{port}/santa/"))
}

pub(crate) fn options_for(url: &str) -> TransportOptions {
    let mut options = TransportOptions::new(
        BaseUrl::parse(url).expect("a base URL"),
        MachineId::new("HOST 1").expect("a machine id"),
    );
    options.proxy = Proxy::Direct;
    options
}

pub(crate) fn transport(options: TransportOptions) -> Transport {
    Transport::new(options).expect("a transport")
}

/// A preflight with these options.
pub(crate) async fn post(options: TransportOptions) -> Result<Response, Failure> {
    Transport::new(options)?.post(Stage::Preflight, b"{}", None, NOW).await.outcome
}

/// A free port of the loopback interface, listened to.
pub(crate) async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// What an encoder of flate2 makes of its input.
pub(crate) fn compressed(mut encoder: impl std::io::Read) -> Vec<u8> {
    let mut wire = Vec::new();
    encoder.read_to_end(&mut wire).expect("compressed");
    wire
}

/// So many bytes of white space, as gzip.
pub(crate) fn bomb(bytes: u64) -> Vec<u8> {
    let spaces = std::io::Read::take(std::io::repeat(b' '), bytes);
    compressed(flate2::read::GzEncoder::new(spaces, flate2::Compression::fast()))
}

/// A script, listening, and a transport to it.
pub(crate) async fn scripted(replies: impl IntoIterator<Item = Reply>) -> (Script, Transport) {
    let script = Script::new(replies);
    let port = script.listen().await;
    (script, transport(options(port)))
}
