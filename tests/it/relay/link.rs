//! The HTTP client of the fake authorizers: one connection at a time, blocking, and
//! nothing of the agent in it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::read::{GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::model::ContentEncoding;
use url::Url;

/// What goes wrong with one attempt, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing.
    Nothing,
    /// The server never sees the request.
    Request,
    /// The server does its work, and its response is lost.
    Response,
    /// The connection breaks in the middle of the response's body.
    HalfOfBody,
}

/// A response, as far as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// With names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Decoded; empty if it did not arrive whole.
    pub(crate) body: Vec<u8>,
    /// Whether the body arrived whole.
    pub(crate) is_whole: bool,
}

/// Numbers of connections without a network.
static DIRECT: AtomicU64 = AtomicU64::new(1);

enum Stream {
    /// Without a network, by its number.
    Direct(u64),
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
            Self::Direct(_) => unreachable!("it has no socket"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Direct(_) => unreachable!("it has no socket"),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
            Self::Direct(_) => unreachable!("it has no socket"),
        }
    }
}

/// A server without a network.
pub(crate) trait Direct: Send + Sync {
    /// Answers a request with a status and a body; `None` if nobody listens, or the
    /// server dies of it.
    fn answer(&self, connection: u64, post: &Post<'_>) -> Option<(u16, Vec<u8>)>;
}

/// The way to one server. The connection is kept between requests.
pub(crate) struct Link {
    base: Url,
    direct: Option<Arc<dyn Direct>>,
    tls: Option<Arc<ClientConfig>>,
    stream: Option<Stream>,
    /// Read, but not used.
    buffer: Vec<u8>,
    cookies: BTreeMap<String, String>,
    /// How many connections were made.
    pub(crate) connections: u32,
}

/// A `POST` request.
pub(crate) struct Post<'a> {
    /// Below the base URL.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) content_type: &'a str,
    pub(crate) encoding: ContentEncoding,
    pub(crate) body: &'a [u8],
}

impl Link {
    pub(crate) fn new(base: &str, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            base: Url::parse(base).expect("a URL"),
            direct: None,
            tls,
            stream: None,
            buffer: Vec::new(),
            cookies: BTreeMap::new(),
            connections: 0,
        }
    }

    /// The same without a network, if there is such a server.
    pub(crate) fn directly(mut self, direct: Option<Arc<dyn Direct>>) -> Self {
        self.direct = direct;
        self
    }

    /// Makes one attempt, which may last so long to the last byte.
    ///
    /// # Errors
    /// If no response arrived.
    pub(crate) fn post(
        &mut self,
        post: &Post<'_>,
        within: Duration,
        loss: Loss,
    ) -> io::Result<Answer> {
        if loss == Loss::Request {
            self.close();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let answer = self.attempt(post, &Deadline::after(within), loss);
        match &answer {
            Ok(answer) if answer.is_whole && loss == Loss::Nothing => {}
            _ => self.close(),
        }
        if loss == Loss::Response {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        answer
    }

    fn close(&mut self) {
        self.stream = None;
        self.buffer.clear();
    }

    fn attempt(&mut self, post: &Post<'_>, deadline: &Deadline, loss: Loss) -> io::Result<Answer> {
        if let Some(direct) = self.direct.clone() {
            return self.attempt_directly(&*direct, post, loss);
        }
        let url = self.base.join(post.path).expect("a path");
        let body = encoded(post.encoding, post.body);
        let host = url.host_str().expect("a host");
        let of_port = url.port().map(|number| format!(":{number}")).unwrap_or_default();
        let mut head = vec![
            format!("POST {} HTTP/1.1", url.path()),
            format!("Host: {host}{of_port}"),
            "User-Agent: santactl-sync/1".to_owned(),
            "Accept: */*".to_owned(),
            "Accept-Encoding: gzip, deflate".to_owned(),
        ];
        if !post.content_type.is_empty() {
            head.push(format!("Content-Type: {}", post.content_type));
        }
        // Nothing is compressed to nothing: an empty body goes without an encoding.
        if post.encoding != ContentEncoding::None && !post.body.is_empty() {
            head.push(format!("Content-Encoding: {}", post.encoding.name()));
        }
        head.extend(post.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            head.push(format!("Cookie: {}", pairs.join("; ")));
        }
        head.push(format!("Content-Length: {}\r\n\r\n", body.len()));
        let head = head.join("\r\n");

        self.connect(&url, deadline)?;
        let stream = self.stream.as_mut().expect("connected");
        stream.socket().set_write_timeout(Some(deadline.left()?))?;
        stream.write(&[head.as_bytes(), &body].concat())?;
        self.answer(deadline, loss)
    }

    fn attempt_directly(
        &mut self,
        direct: &dyn Direct,
        post: &Post<'_>,
        loss: Loss,
    ) -> io::Result<Answer> {
        let number = match self.stream {
            Some(Stream::Direct(number)) => number,
            Some(Stream::Plain(_) | Stream::Tls(_)) | None => {
                self.connections += 1;
                DIRECT.fetch_add(1, Ordering::Relaxed)
            }
        };
        self.stream = Some(Stream::Direct(number));
        let Some((status, body)) = direct.answer(number, post) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let is_whole = loss != Loss::HalfOfBody || body.is_empty();
        let body = if is_whole { body } else { Vec::new() };
        Ok(Answer { status, headers: BTreeMap::new(), body, is_whole })
    }

    fn connect(&mut self, url: &Url, deadline: &Deadline) -> io::Result<()> {
        if self.stream.is_some() {
            return Ok(());
        }
        let addresses = url.socket_addrs(|| None)?;
        let socket = TcpStream::connect_timeout(&addresses[0], deadline.left()?)?;
        socket.set_nodelay(true)?;
        self.connections += 1;
        self.stream = Some(match (&self.tls, url.scheme()) {
            (Some(config), "https") => {
                socket.set_read_timeout(Some(deadline.left()?))?;
                let host = url.host_str().expect("a host").trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                let connection =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
            (None, "https") => panic!("no certificates were given for {url}"),
            _ => Stream::Plain(socket),
        });
        Ok(())
    }

    fn answer(&mut self, deadline: &Deadline, loss: Loss) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                break String::from_utf8(head).map_err(io::Error::other)?;
            }
            self.fill(deadline)?;
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not HTTP: {head}")))?;
        let headers: BTreeMap<_, _> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        if let Some((name, value)) = headers
            .get("set-cookie")
            .and_then(|set| set.split(';').next().and_then(|pair| pair.split_once('=')))
        {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let mut body = Vec::new();
        let arrived = self.body(&headers, &mut body, deadline);
        if headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.close();
        }
        let is_whole = match arrived {
            Ok(()) => loss != Loss::HalfOfBody || body.is_empty(),
            // The client's own timer ends an attempt without a response.
            Err(error) if is_timeout(&error) => return Err(error),
            Err(_) => false,
        };
        let body = if is_whole { decoded(&headers, body)? } else { Vec::new() };
        Ok(Answer { status, headers, body, is_whole })
    }

    fn body(
        &mut self,
        headers: &BTreeMap<String, String>,
        body: &mut Vec<u8>,
        deadline: &Deadline,
    ) -> io::Result<()> {
        if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let line = self.line(deadline)?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                self.take(size, body, deadline)?;
                self.line(deadline)?;
                if size == 0 {
                    return Ok(());
                }
            }
        }
        if let Some(length) = headers.get("content-length") {
            return self.take(length.parse().map_err(io::Error::other)?, body, deadline);
        }
        loop {
            body.append(&mut self.buffer);
            match self.fill(deadline) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn line(&mut self, deadline: &Deadline) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill(deadline)?;
        }
    }

    fn take(&mut self, size: usize, body: &mut Vec<u8>, deadline: &Deadline) -> io::Result<()> {
        while self.buffer.len() < size {
            self.fill(deadline)?;
        }
        body.extend(self.buffer.drain(..size));
        Ok(())
    }

    /// Reads more.
    fn fill(&mut self, deadline: &Deadline) -> io::Result<()> {
        let stream = self.stream.as_mut().expect("connected");
        stream.socket().set_read_timeout(Some(deadline.left()?))?;
        let mut part = [0; 16 << 10];
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&part[..read]);
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// When an attempt ends.
struct Deadline {
    clock: SystemClock,
    end: Duration,
}

impl Deadline {
    fn after(time: Duration) -> Self {
        let clock = SystemClock::new();
        let end = clock.now().elapsed.saturating_add(time);
        Self { clock, end }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_sub(self.clock.now().elapsed);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// Waits.
pub(crate) fn pause(time: Duration) {
    let nothing = Mutex::new(());
    let held = nothing.lock().expect("unpoisoned");
    drop(Condvar::new().wait_timeout_while(held, time, |()| true).expect("unpoisoned"));
}

fn encoded(encoding: ContentEncoding, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let level = Compression::fast();
    match encoding {
        _ if body.is_empty() => return out,
        ContentEncoding::None => return body.to_vec(),
        ContentEncoding::Deflate => ZlibEncoder::new(body, level).read_to_end(&mut out),
        ContentEncoding::Gzip => GzEncoder::new(body, level).read_to_end(&mut out),
    }
    .expect("compressed in memory");
    out
}

fn decoded(headers: &BTreeMap<String, String>, body: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    match headers.get("content-encoding").map(String::as_str) {
        _ if body.is_empty() => return Ok(body),
        Some("gzip") => MultiGzDecoder::new(&*body).read_to_end(&mut out)?,
        Some("deflate") => ZlibDecoder::new(&*body).read_to_end(&mut out)?,
        _ => return Ok(body),
    };
    Ok(out)
}
