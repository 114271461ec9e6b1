//! What goes over the wire: a complete response, or the bytes of a damaged one.

use std::time::Duration;

use bytes::Bytes;

use super::coding;
use super::fault::Fault;
use super::reply::{Refusal, Reply, page};
use super::style::Encoding;

/// What to do with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// A complete HTTP response.
    Whole(Reply),
    /// These steps on the bare connection, then a close.
    Bare(Vec<ConnectionStep>),
}

/// A step on the bare connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConnectionStep {
    /// Send these bytes.
    Send(Bytes),
    /// Send these bytes one at a time, this far apart.
    Drip(Bytes, Duration),
    /// Send these bytes repeatedly until the peer disconnects.
    Repeat(Bytes),
    /// Send nothing until the peer disconnects.
    Silence,
}

/// What a response waits for before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    For(Duration),
    Release,
}

impl Fault {
    /// What the response waits for, if this fault delays it.
    pub(super) fn wait(&self) -> Option<Wait> {
        if let Self::Delay(duration) = self {
            return Some(Wait::For(*duration));
        }
        matches!(self, Self::Hold).then_some(Wait::Release)
    }

    /// The response that replaces the server's work; `None` if the fault lets the
    /// server work first.
    pub(super) fn instead(&self) -> Option<Result<Script, Refusal>> {
        const JSON: &str = "application/json";
        let whole = |reply| Some(Ok(Script::Whole(reply)));
        match self {
            Self::Status(code, headers, body) => {
                let mut reply = Reply::new(*code, "text/plain; charset=utf-8", body.clone());
                for (name, value) in headers {
                    reply.set(name, value);
                }
                whole(reply)
            }
            Self::Redirect(location) => {
                let mut reply = Reply::new(302, "", "");
                reply.set("Location", location);
                whole(reply)
            }
            Self::Html => whole(Reply::new(200, "text/html; charset=utf-8", page("Sign in"))),
            Self::NotJson => whole(Reply::new(200, JSON, "rules: none\n")),
            Self::EmptyBody => whole(Reply::new(200, JSON, "")),
            Self::WrongShape(value) => whole(Reply::new(200, JSON, value.to_string())),
            Self::GzipBomb(bytes) => Some(
                coding::bomb(*bytes)
                    .map(|body| {
                        let mut reply = Reply::new(200, JSON, body);
                        reply.set("Content-Encoding", "gzip");
                        Script::Whole(reply)
                    })
                    .map_err(|e| Refusal::new(500, e.to_string())),
            ),
            Self::EndlessHeader => Some(Ok(Script::Bare(vec![
                ConnectionStep::Send(Bytes::from_static(b"HTTP/1.1 200 OK\r\n")),
                ConnectionStep::Repeat(Bytes::from_static(
                    b"X-Filler: and one more line of the header\r\n",
                )),
            ]))),
            Self::EndlessBody => {
                let rule =
                    br#"{"identifier":"EQHXZ8M8AV","policy":"ALLOWLIST","ruleType":"TEAMID"},"#;
                Some(Ok(Script::Bare(vec![
                    ConnectionStep::Send(Bytes::from_static(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                          Transfer-Encoding: chunked\r\n\r\na\r\n{\"rules\":[\r\n",
                    )),
                    ConnectionStep::Repeat(chunk(&rule.repeat(1000))),
                ])))
            }
            Self::NotHttp => Some(Ok(Script::Bare(vec![ConnectionStep::Send(
                Bytes::from_static(b"220 ready\r\n"),
            )]))),
            Self::Stall => Some(Ok(Script::Bare(vec![ConnectionStep::Silence]))),
            Self::Truncate
            | Self::TruncateChunked
            | Self::TruncateWithoutLength
            | Self::CloseBeforeResponse
            | Self::CloseWithoutLength
            | Self::SlowBytes(_)
            | Self::CorruptGzip
            | Self::UnknownEncoding
            | Self::RepeatCursor
            | Self::EndlessCursor
            | Self::BrokenRule(_)
            | Self::UnknownEnum
            | Self::Delay(_)
            | Self::Hold => None,
        }
    }

    /// Applies the fault to a complete response.
    pub(super) fn damaged(&self, reply: Reply) -> Result<Script, Refusal> {
        let half = first_half(&reply);
        let length = |length: usize| format!("Content-Length: {length}\r\n");
        let bare = |head: String, body: Bytes| {
            Ok(Script::Bare(vec![ConnectionStep::Send(head.into()), ConnectionStep::Send(body)]))
        };
        match self {
            Self::Truncate => Ok(cut_short(&reply)),
            Self::TruncateChunked => {
                let chunk = chunk(if reply.body.is_empty() { b"?" } else { &reply.body });
                let framed = chunk.slice(..chunk.len() / 2);
                bare(head(&reply, "Transfer-Encoding: chunked\r\n"), framed)
            }
            Self::TruncateWithoutLength => bare(head(&reply, ""), half),
            Self::CloseBeforeResponse => Ok(Script::Bare(Vec::new())),
            Self::CloseWithoutLength => bare(head(&reply, ""), reply.body),
            Self::SlowBytes(apart) => {
                let head = head(&reply, &length(reply.body.len()));
                Ok(Script::Bare(vec![
                    ConnectionStep::Send(head.into()),
                    ConnectionStep::Drip(reply.body, *apart),
                ]))
            }
            Self::CorruptGzip => {
                let mut reply = reply;
                if !reply.headers.iter().any(|(name, _)| name == "Content-Encoding") {
                    let body = Encoding::Gzip.encode(reply.body.to_vec());
                    reply.body = body.map_err(|e| Refusal::new(500, e.to_string()))?.into();
                    reply.set("Content-Encoding", "gzip");
                }
                let mut body = reply.body.to_vec();
                let middle = body.len() / 2;
                if let Some(byte) = body.get_mut(middle) {
                    *byte ^= 0x10;
                }
                reply.body = body.into();
                Ok(Script::Whole(reply))
            }
            Self::UnknownEncoding => {
                let mut reply = reply;
                reply.set("Content-Encoding", "br");
                Ok(Script::Whole(reply))
            }
            Self::Status(..)
            | Self::Redirect(_)
            | Self::Html
            | Self::NotJson
            | Self::EmptyBody
            | Self::WrongShape(_)
            | Self::GzipBomb(_)
            | Self::EndlessHeader
            | Self::EndlessBody
            | Self::NotHttp
            | Self::Stall
            | Self::RepeatCursor
            | Self::EndlessCursor
            | Self::BrokenRule(_)
            | Self::UnknownEnum
            | Self::Delay(_)
            | Self::Hold => Ok(Script::Whole(reply)),
        }
    }
}

fn first_half(reply: &Reply) -> Bytes {
    reply.body.slice(..reply.body.len() / 2)
}

/// The response with half of the body that its `Content-Length` announces.
pub(super) fn cut_short(reply: &Reply) -> Script {
    // One byte more than nothing is promised even if the body is empty.
    let framing = format!("Content-Length: {}\r\n", reply.body.len().max(1));
    Script::Bare(vec![
        ConnectionStep::Send(head(reply, &framing).into()),
        ConnectionStep::Send(first_half(reply)),
    ])
}

fn head(reply: &Reply, framing: &str) -> String {
    let mut head =
        vec![format!("HTTP/1.1 {} Scripted", reply.status), "Connection: close".to_owned()];
    head.extend(reply.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    head.join("\r\n") + "\r\n" + framing + "\r\n"
}

fn chunk(body: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
    chunk.extend_from_slice(body);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}
