//! HTTP written by hand, for servers that behave as no library's server would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// A listener on loopback, and its URL.
pub(super) fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

/// A request as received.
pub(super) struct Request {
    /// The request line and the headers.
    pub(super) head: String,
    pub(super) body: String,
}

impl Request {
    /// Reads a request whole. `None` at the end of the connection.
    pub(super) fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut request = Self { head: String::new(), body: String::new() };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            request.head.push_str(&line);
        }
        let length = header(&request.head, "content-length").unwrap_or("0");
        let mut body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        request.body = String::from_utf8_lossy(&body).into_owned();
        Some(request)
    }
}

/// The value of a header; its name is compared without regard to case.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Writes a JSON response; `more` has additional header lines.
pub(super) fn respond(mut stream: &TcpStream, status: &str, more: &[&str], body: &[u8]) {
    let more: String = more.iter().flat_map(|line| [line, "\r\n"]).collect();
    let length = body.len();
    // The client may have closed the connection.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         {more}\r\n"
    );
    let _ = stream.write_all(body);
}
