//! Answers.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status; one that HTTP does not know is sent as 500.
    pub status: u16,
    /// The headers. `Content-Length` and `Transfer-Encoding` are the server's and
    /// are left out; `Connection: close` ends the connection.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, sent as it is. It is held until the client has taken it: an owner
    /// of its bytes ([`Bytes::from_owner`]) is dropped then.
    pub body: Bytes,
}

impl Response {
    /// Returns an answer without headers of its own.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Returns an answer of one line for people.
    #[must_use]
    pub fn text(status: u16, line: &str) -> Self {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        Self::new(status, format!("{line}\n")).with(header::CONTENT_TYPE, plain)
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Ends the connection after this answer.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// The head for hyper, and the body.
    pub(super) fn into_parts(self) -> (hyper::http::response::Parts, Bytes) {
        let (mut parts, ()) = hyper::Response::new(()).into_parts();
        parts.status =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if parts.status.is_informational() {
            parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        for (name, value) in self.headers {
            if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
                parts.headers.append(name, value);
            }
        }
        (parts, self.body)
    }
}
