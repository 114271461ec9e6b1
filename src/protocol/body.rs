//! Bodies: messages to bytes and back, in either transfer form.
//!
//! Whether a body may be empty, and what a rule page needs beyond its message,
//! is for the stage modules beside this one.

mod received;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeSeed as _;
use thiserror::Error;

use super::binary;
use super::json::{self, ErrorReport, MessageSeed};
use super::lenient::{Notes, Warning};
use crate::failure::Remedy;
use crate::model::{Transfer, text};

pub(super) use received::INVALID_BYTE_MARK;
use received::JsonText;
pub use received::ResponseBody;

/// A request's body as it goes over the wire. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EncodedBody {
    /// The bytes.
    pub bytes: Bytes,
    /// The value of `Content-Encoding`, if they are encoded.
    pub encoding: Option<&'static str>,
}

impl EncodedBody {
    /// A body without a content encoding.
    #[must_use]
    pub fn plain(body: Vec<u8>) -> Self {
        Self { bytes: body.into(), encoding: None }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DecodedBody<M> {
    /// The message.
    pub message: M,
    /// Parts of the body that were read as absent or zero.
    pub warnings: Vec<Warning>,
}

/// Why a complete body is not the message it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The JSON ends in its middle, so the body was not complete after all.
    #[error("the JSON breaks off after {0} bytes")]
    CutShort(usize),
    /// Most often a captive portal, a login page or a wrong URL.
    #[error("the response is HTML, not JSON, and begins \"{0}\"")]
    Html(String),
    /// Something other than JSON.
    #[error("the response is not JSON ({reason}) and begins \"{start}\"")]
    NotJson {
        /// The parser's message, with line and column.
        reason: String,
        /// The first bytes.
        start: String,
    },
    /// JSON, but not of the message's shape.
    #[error("the response is not a valid {message}: at {path}: {reason}")]
    WrongShape {
        /// The message's name in the schema.
        message: &'static str,
        /// Where in the response.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// The object reports an error and holds no field of the message.
    #[error("the server answered 200 with an error instead of a {message}: {words}")]
    ErrorInResponse {
        /// The message's name in the schema.
        message: &'static str,
        /// The member that reports it, in lower case.
        member: &'static str,
        /// What the server says, cut and safe to show.
        words: String,
    },
    /// A cursor that no server needs.
    #[error("the cursor is {0} bytes long, more than {MAX_CURSOR_BYTES}")]
    CursorTooLong(usize),
    /// The caller gave up reading it.
    #[error("reading the response was stopped")]
    GivenUp,
    /// More rules than one sync may bring.
    #[error("the server sent more than {0} rules")]
    TooManyRules(u64),
    /// Not the binary form of the message.
    #[error("the response is not a valid {message} in binary protobuf ({reason})")]
    NotProtobuf {
        /// The message's name in the schema.
        message: &'static str,
        /// The parser's message.
        reason: String,
    },
}

impl Remedy for BodyError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        let fix = match self {
            Self::CutShort(_) => "check the server's log and any proxy in between",
            Self::Html(_) => {
                "check for a captive portal or a login page, and that SyncBaseURL leads to a sync \
                 server"
            }
            Self::NotJson { .. } | Self::WrongShape { .. } => {
                "check that SyncBaseURL leads to a sync server, and the server's version"
            }
            Self::ErrorInResponse { .. } => "check the server's log",
            Self::CursorTooLong(_) => "the server must send shorter cursors",
            Self::GivenUp => return None,
            Self::TooManyRules(_) => "remove rules on the server",
            Self::NotProtobuf { .. } => {
                "check that the server supports protobuf, or unset SyncEnableProtoTransfer"
            }
        };
        Some(fix.into())
    }
}

/// The longest cursor that is accepted, in bytes.
pub const MAX_CURSOR_BYTES: usize = 64 << 10;

/// The prefixes servers put before JSON so that a script tag cannot load it.
const XSSI_PREFIXES: [&[u8]; 2] = [b")]}'\n", b"])}"];

/// How many characters of a server's text an error or a warning shows.
const MAX_SHOWN_CHARS: usize = 200;

/// Encodes a message.
///
/// # Errors
/// If the message has no JSON form, which no message of the schema is without.
pub fn encode<M>(transfer: Transfer, message: &M) -> Result<Vec<u8>, serde_json::Error>
where
    M: prost::Message + serde::Serialize,
{
    match transfer {
        Transfer::Json => serde_json::to_vec(message),
        Transfer::Protobuf => Ok(message.encode_to_vec()),
    }
}

/// Decodes a body; an empty one is the message with every field absent.
///
/// # Errors
/// If the body is not the message.
pub fn decode<M>(received: ResponseBody<'_>) -> Result<DecodedBody<M>, BodyError>
where
    M: prost::Message + json::Message,
{
    match received.transfer() {
        Transfer::Protobuf => binary::decode(received.binary(M::NAME)?),
        Transfer::Json => decode_json(&received.into_json()?),
    }
}

fn decode_json<M: json::Message>(text: &JsonText<'_>) -> Result<DecodedBody<M>, BodyError> {
    let (marked, text) = (text.is_marked(), text.as_str());
    if text.is_empty() {
        return Ok(DecodedBody { message: M::default(), warnings: Vec::new() });
    }
    let mut notes = Notes::response(marked);
    let mut report = ErrorReport::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = MessageSeed::new(&mut notes, Some(&mut report))
        .deserialize(&mut reader)
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| json_error(M::NAME, ".", text, &error))?;
    check_report(M::NAME, report, &mut notes)?;
    Ok(DecodedBody { message, warnings: notes.into_warnings() })
}

/// Decides what becomes of an error that a response reports: beside a usable
/// message it is a warning.
///
/// # Errors
/// If there is no usable message beside it.
pub(super) fn check_report(
    message: &'static str,
    report: ErrorReport,
    notes: &mut Notes,
) -> Result<(), BodyError> {
    let Some((member, words)) = report.into_words() else { return Ok(()) };
    if !notes.has_field() {
        return Err(BodyError::ErrorInResponse { message, member, words });
    }
    notes.enter(member);
    notes.warn(&words, "an error reported beside an answer; the answer counts");
    notes.leave();
    Ok(())
}

/// The body without a byte order mark and the first XSSI prefix it begins with.
pub(crate) fn without_xssi_prefix(body: &[u8]) -> &[u8] {
    let body = body.strip_prefix(text::BYTE_ORDER_MARK).unwrap_or(body);
    XSSI_PREFIXES.iter().find_map(|prefix| body.strip_prefix(*prefix)).unwrap_or(body)
}

/// Describes what is wrong with a body that the JSON reader rejected; `path` is
/// where it was.
pub(super) fn json_error(
    message: &'static str,
    path: &str,
    text: &str,
    error: &serde_json::Error,
) -> BodyError {
    use serde_json::error::Category;
    if looks_like_html(text) {
        return BodyError::Html(shown(text));
    }
    match error.classify() {
        Category::Eof => BodyError::CutShort(text.len()),
        Category::Syntax | Category::Io => {
            BodyError::NotJson { reason: shown(&error.to_string()), start: shown(text) }
        }
        Category::Data => BodyError::WrongShape {
            message,
            path: path.to_owned(),
            reason: shown(&error.to_string()),
        },
    }
}

/// The start of a text that the server wrote or took part in, safe to show.
pub(super) fn shown(text: &str) -> String {
    text::escaped_start(text, MAX_SHOWN_CHARS)
}

fn looks_like_html(text: &str) -> bool {
    text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_ascii_whitespace()).starts_with('<')
}
