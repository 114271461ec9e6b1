//! One exchange with the server under test, recorded in full.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::form::Form;
use crate::harness::Encoding;
use crate::model::{Stage, Transfer};
use crate::protocol::{body, wire};

/// Why a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// A request as a client makes it: the server has no reason to refuse it.
    WellFormed,
    /// A request that a server may refuse; the check is about how it does that.
    Provoking,
    /// A request without a valid credential, or one on a connection that may be closed:
    /// how it ends says nothing about other requests.
    Aside,
}

/// Why there is no complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakKind {
    /// No connection could be opened: the address or the port is wrong, or nothing listens.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection ended before a response began.
    Closed,
    /// The response was cut off.
    Cut,
    /// No complete response in time.
    Timeout,
    /// The response is not HTTP.
    NotHttp,
    /// The response is too large to be kept.
    TooLarge,
}

/// An exchange without a complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// What happened.
    pub kind: BreakKind,
    /// The cause in words.
    pub what: String,
    /// The status, if a response began.
    pub status: Option<u16>,
}

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers with names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub wire: Bytes,
    /// The body after its content encoding was undone, or why that failed.
    pub body: Result<Bytes, String>,
}

impl Answer {
    /// The value of a header; the first one if the header is repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Undoes the content encodings that clients know.
    pub(super) fn decoded(named: &str, wire: &Bytes) -> Result<Bytes, String> {
        let encoding = Encoding::from_header(named)
            .ok_or_else(|| format!("Content-Encoding {named:?} is not known"))?;
        if encoding == Encoding::Identity {
            return Ok(wire.clone());
        }
        let decoded = encoding.decode(wire);
        decoded.map(Bytes::from).map_err(|error| format!("it is not {named}: {error}"))
    }
}

/// One request and its outcome.
#[derive(Clone, Debug)]
pub struct ProbeExchange {
    /// Its number in the run, from 1.
    pub number: u64,
    /// The requirement it was made for.
    pub requirement: &'static str,
    /// The stage; `None` for other paths.
    pub stage: Option<Stage>,
    /// Why it was made.
    pub intent: Intent,
    /// The form of its body.
    pub form: Form,
    /// The id of the machine that made it.
    pub machine_id: String,
    /// The method.
    pub method: String,
    /// The path and query, secrets redacted.
    pub path: String,
    /// The headers, secrets redacted.
    pub request_headers: Vec<(String, String)>,
    /// The body before compression.
    pub request_plain: Vec<u8>,
    /// The body as sent.
    pub request_wire: Bytes,
    /// The response, or why there is none.
    pub outcome: Result<Answer, Break>,
    /// From the beginning of the request to the end of the response.
    pub elapsed: Duration,
    /// When the request began, since the start of the run's clock.
    pub(super) began: Duration,
}

impl ProbeExchange {
    /// The status, if a response began.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.outcome {
            Ok(answer) => Some(answer.status),
            Err(broken) => broken.status,
        }
    }

    /// The status, or why there is none, in a few words.
    #[must_use]
    pub fn ended(&self) -> String {
        match &self.outcome {
            Ok(answer) => answer.status.to_string(),
            Err(broken) => broken.what.clone(),
        }
    }

    /// Whether a complete response with this status came.
    #[must_use]
    pub fn is(&self, status: u16) -> bool {
        self.outcome.as_ref().is_ok_and(|answer| answer.status == status)
    }

    /// Whether the request failed on the server's side: a 5xx or no response. A response that
    /// was cut is another matter (HTTP-03).
    #[must_use]
    pub fn is_server_error(&self) -> bool {
        match &self.outcome {
            Ok(answer) => answer.status >= 500,
            Err(broken) => broken.kind != BreakKind::Cut,
        }
    }

    /// Whether the server did not respond at all, or not in time. A response that was cut off, or
    /// is not HTTP, counts as a response.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.outcome.as_ref().is_err_and(|broken| match broken.kind {
            BreakKind::Connect | BreakKind::Tls | BreakKind::Closed | BreakKind::Timeout => true,
            BreakKind::Cut | BreakKind::NotHttp | BreakKind::TooLarge => false,
        })
    }

    /// Whether a response came, of use or not. One that was cut off does not count: its server
    /// may have been killed while it wrote.
    pub(super) fn has_response(&self) -> bool {
        match &self.outcome {
            Ok(_) => true,
            Err(broken) => matches!(broken.kind, BreakKind::NotHttp | BreakKind::TooLarge),
        }
    }

    /// When the request ended, since the start of the run's clock.
    pub(super) const fn ended_at(&self) -> Duration {
        self.began.saturating_add(self.elapsed)
    }

    /// Whether a complete response refused the request.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|answer| (400..500).contains(&answer.status))
    }

    /// The complete response.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.outcome.as_ref().ok()
    }

    /// The response's message as JSON, whatever its form; an empty body is an empty object.
    ///
    /// # Errors
    /// Why the body is not a message of the request's form.
    pub fn message(&self) -> Result<Value, String> {
        let answer = self.outcome.as_ref().map_err(|broken| broken.what.clone())?;
        let bytes = answer.body.as_ref().map_err(Clone::clone)?;
        if bytes.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        match self.form.transfer {
            Transfer::Protobuf => self.protobuf(bytes),
            Transfer::Json => {
                let text = body::without_xssi_prefix(bytes);
                let value: Value = serde_json::from_slice(text).map_err(|error| {
                    format!("the body is not JSON ({error}) and begins with {}", beginning(bytes))
                })?;
                if value.is_object() {
                    return Ok(value);
                }
                Err(format!("the body is not a JSON object and begins with {}", beginning(bytes)))
            }
        }
    }

    fn protobuf(&self, bytes: &[u8]) -> Result<Value, String> {
        match self.stage {
            Some(Stage::Preflight) => shown::<wire::PreflightResponse>(bytes),
            Some(Stage::EventUpload) => shown::<wire::EventUploadResponse>(bytes),
            Some(Stage::RuleDownload) => shown::<wire::RuleDownloadResponse>(bytes),
            Some(Stage::Postflight) => shown::<wire::PostflightResponse>(bytes),
            None => Err("it belongs to no stage".to_owned()),
        }
    }
}

fn shown<M>(bytes: &[u8]) -> Result<Value, String>
where
    M: prost::Message + Default + Serialize,
{
    let wrong = |why: String| {
        let begins = beginning(bytes);
        if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
            return format!("the body is JSON instead of protobuf and begins with {begins}");
        }
        format!("the body is not protobuf ({why}) and begins with {begins}")
    };
    let message = M::decode(bytes).map_err(|error| wrong(error.to_string()))?;
    serde_json::to_value(message).map_err(|error| wrong(error.to_string()))
}

/// How much of a value or a body a reason shows, in characters.
pub(super) const MAX_SHOWN_CHARS: usize = 80;

/// The first characters of a body. They are not quoted: most bodies have quotation marks.
pub(super) fn beginning(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(4 * MAX_SHOWN_CHARS)];
    let text = String::from_utf8_lossy(start);
    crate::model::text::on_one_line(&text, MAX_SHOWN_CHARS)
}
