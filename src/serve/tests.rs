//! The server from outside: bytes on raw connections.

mod bodies;
mod connections;
mod heads;
mod tls;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::{Notify, watch};

use super::*;

/// Nothing in these tests takes that long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// A limit that a test runs into.
const SHORT: Duration = Duration::from_millis(150);

/// A service whose paths say what it does.
#[derive(Debug)]
struct Paths {
    bodies: BodyLimits,
    /// How many connections are known, from the first on.
    known: Option<u16>,
    peers: Mutex<Vec<SocketAddr>>,
    seen: Mutex<Vec<String>>,
    news: Condvar,
    release: Notify,
    /// Bodies of work that goes on without its client.
    kept: Mutex<Vec<Bytes>>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bodies: BodyLimits::both(4 << 20),
            known: None,
            peers: Mutex::default(),
            seen: Mutex::default(),
            news: Condvar::new(),
            release: Notify::new(),
            kept: Mutex::default(),
        }
    }
}

impl Paths {
    fn note(&self, what: &str) {
        self.seen.lock().unwrap().push(what.to_owned());
        self.news.notify_all();
    }

    fn wait_for(&self, what: &str) {
        let seen = self.seen.lock().unwrap();
        let (_seen, waited) = self
            .news
            .wait_timeout_while(seen, PATIENCE, |seen| !seen.iter().any(|seen| seen == what))
            .unwrap();
        assert!(!waited.timed_out(), "{what} did not come");
    }
}

impl Service for Paths {
    fn admit(&self, head: &Head, _: &Connection) -> Result<BodyLimits, Response> {
        self.note(&format!("head {}", head.path));
        match head.path.as_str() {
            "/refused" => Err(Response::text(404, "no such path")),
            "/panic-early" => panic!("as the test wants"),
            "/as-sent" => Ok(BodyLimits::as_sent(self.bodies.encoded)),
            _ => Ok(self.bodies),
        }
    }

    async fn respond(&self, request: Request, connection: Arc<Connection>) -> Response {
        let path = request.head.path.clone();
        self.note(&format!("body {path}"));
        match path.as_str() {
            "/trust" => connection.trust(),
            "/panic" => panic!("as the test wants"),
            "/hold" => self.release.notified().await,
            "/keep" => {
                self.kept.lock().unwrap().push(request.body.clone());
                self.note("kept");
                std::future::pending::<()>().await;
            }
            "/user" => return Response::new(200, format!("{:?}", connection.peer)),
            "/large" => return Response::new(200, vec![b'x'; 32 << 20]),
            "/empty" => return Response::new(200, ""),
            "/length" => return Response::new(200, request.body.len().to_string()),
            _ => {}
        }
        Response::new(200, request.body)
    }

    fn knows(&self, peer: &Peer) -> bool {
        let mut peers = self.peers.lock().unwrap();
        peers.push(peer.address);
        self.known.is_some_and(|first| peers.len() <= usize::from(first))
    }
}

/// A running server.
struct Server {
    address: SocketAddr,
    paths: Arc<Paths>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::with(limits, Paths::default(), None)
    }

    fn with(limits: Limits, paths: Paths, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.address();
        let paths = Arc::new(paths);
        let (stop, stopped) = watch::channel(false);
        let service = Arc::clone(&paths);
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(run(listener, tls, limits, service, stopped)).unwrap();
        });
        Self { address, paths, stop, thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    /// How many connections it holds, as the kernel says. A look takes a while: what
    /// changes meanwhile may count twice.
    #[cfg(target_os = "linux")]
    fn connections(&self) -> usize {
        let ours = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_held = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[1].ends_with(&ours) && words[3] != "0A" && words[9] != "0"
        };
        table.lines().skip(1).filter(is_held).count()
    }

    /// Stops the server, and returns once it has ended.
    fn stop(&mut self) {
        self.stop.send_replace(true);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the server panicked");
        }
    }
}

/// What Linux says of this process's memory; 0 where other tests use it as well.
#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let is_alone = std::env::var_os("NEXTEST").is_some();
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.filter(|_| is_alone).unwrap_or(0) * 1024
}

/// An answer as received.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn closes(&self) -> bool {
        self.headers.get("connection").is_some_and(|value| value == "close")
    }
}

/// The other end of a connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
        self
    }

    fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}");
        self.send(format!("{head}Content-Length: {}\r\n\r\n", body.len())).send(body);
        self.answer()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads one answer. It has a length, as every answer must.
    fn answer(&mut self) -> Answer {
        let first = self.line();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {first:?}"));
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        assert!(
            !headers.contains_key("transfer-encoding") && !headers.contains_key("content-encoding")
        );
        let length = headers.get("content-length").expect("a Content-Length");
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Answer { status, headers, body }
    }

    /// Waits until the server ends the connection, and expects nothing before.
    fn ends(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
