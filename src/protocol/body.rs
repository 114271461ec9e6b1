//! Bodies: messages to bytes and back, in either transfer form.
//!
//! Whether a body may be empty, and what a rule page needs beyond its message,
//! is for the stage modules beside this one.

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::json;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Transfer {
    /// JSON, the default.
    #[default]
    Json,
    /// Binary protobuf.
    Protobuf,
}

/// Why a complete body is not the message it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The JSON ends in its middle, so the body was not complete after all.
    #[error("the JSON breaks off after {0} bytes")]
    CutShort(usize),
    /// Most often a captive portal, a login page or a wrong URL.
    #[error(
        "the answer is HTML, not JSON (a captive portal, a login page or a wrong SyncBaseURL?); \
         it begins {0:?}"
    )]
    Html(String),
    /// Something else than JSON.
    #[error("the answer is not JSON ({reason}); it begins {start:?}")]
    NotJson {
        /// What the parser says, with line and column.
        reason: String,
        /// The first bytes.
        start: String,
    },
    /// JSON, but not of the message's shape.
    #[error("the answer is not a {message}: at {path}: {reason}")]
    WrongShape {
        /// The message's name in the schema.
        message: &'static str,
        /// Where in the answer.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// More rules than one sync may bring.
    #[error("the server sent more than {0} rules; it must send fewer")]
    TooManyRules(u64),
    /// Not the binary form of the message.
    #[error(
        "the answer is not a {message} in binary protobuf ({reason}); \
         does the server support SyncEnableProtoTransfer?"
    )]
    NotProtobuf {
        /// The message's name in the schema.
        message: &'static str,
        /// What the parser says.
        reason: String,
    },
}

/// The prefixes servers put before JSON so that a script tag cannot load it.
const XSSI_PREFIXES: [&[u8]; 2] = [b")]}'\n", b"])}"];

/// The longest binary message but rule pages, which are read rule by rule:
/// two bytes may make an element of 24 in memory.
const MAX_BINARY: usize = 16 << 20;

/// What some servers put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How many characters of a body an error shows.
const SHOWN: usize = 200;

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
pub fn decode<M>(transfer: Transfer, body: &[u8]) -> Result<M, BodyError>
where
    M: prost::Message + json::Message + DeserializeOwned,
{
    match transfer {
        Transfer::Protobuf if body.len() > MAX_BINARY => Err(BodyError::NotProtobuf {
            message: M::NAME,
            reason: format!("it is longer than {MAX_BINARY} bytes"),
        }),
        Transfer::Protobuf => M::decode(body).map_err(|error| BodyError::NotProtobuf {
            message: M::NAME,
            reason: shown(&error.to_string()),
        }),
        Transfer::Json => {
            let text = without_xssi_prefix(body);
            if text.iter().all(u8::is_ascii_whitespace) {
                return Ok(M::default());
            }
            serde_json::from_slice(text).map_err(|error| json_error::<M>(text, &error))
        }
    }
}

/// The body without a byte order mark and the first XSSI prefix it begins with.
#[must_use]
pub fn without_xssi_prefix(body: &[u8]) -> &[u8] {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    XSSI_PREFIXES.iter().find_map(|prefix| body.strip_prefix(*prefix)).unwrap_or(body)
}

/// Says what is wrong with a body that the JSON reader did not take.
pub(super) fn json_error<M>(text: &[u8], error: &serde_json::Error) -> BodyError
where
    M: json::Message + DeserializeOwned,
{
    use serde_json::error::Category;
    if looks_like_html(text) {
        return BodyError::Html(start_of(text));
    }
    match error.classify() {
        Category::Eof => BodyError::CutShort(text.len()),
        Category::Syntax | Category::Io => {
            BodyError::NotJson { reason: shown(&error.to_string()), start: start_of(text) }
        }
        Category::Data => wrong_shape::<M>(text, error),
    }
}

/// Reads the body once more, this time keeping track of the path.
fn wrong_shape<M>(text: &[u8], error: &serde_json::Error) -> BodyError
where
    M: json::Message + DeserializeOwned,
{
    let mut reader = serde_json::Deserializer::from_slice(text);
    let (path, reason) = match serde_path_to_error::deserialize::<_, M>(&mut reader) {
        Ok(_) => (".".to_owned(), error.to_string()),
        Err(error) => (error.path().to_string(), error.inner().to_string()),
    };
    BodyError::WrongShape { message: M::NAME, path: shown(&path), reason: shown(&reason) }
}

/// A text in which the server may have had a say, for an error: cut, and
/// without anything that a log or a terminal could take for more than text.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .flat_map(|c| {
            let control = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            control.into_iter().flatten().chain(plain)
        })
        .collect()
}

fn looks_like_html(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let head = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    head.first() == Some(&b'<')
}

/// The first characters of a body, for an error.
fn start_of(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(4 * SHOWN)]).chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire;

    fn preflight(body: &str) -> Result<wire::PreflightResponse, BodyError> {
        decode(Transfer::Json, body.as_bytes())
    }

    /// HTTP-6; cases 1 to 5.
    #[test]
    fn http_6_an_xssi_prefix_is_stripped_once() {
        assert_eq!(without_xssi_prefix(b")]}'\n\"a\""), b"\"a\"");
        assert_eq!(without_xssi_prefix(b"])}\"a\""), b"\"a\"");
        assert_eq!(without_xssi_prefix(b"])}"), b"");
        assert_eq!(without_xssi_prefix(b"\"a\""), b"\"a\"");
        assert_eq!(without_xssi_prefix(b"])}])}1"), b"])}1");
        assert_eq!(without_xssi_prefix(b"\xef\xbb\xbf)]}'\n{}"), b"{}");
        assert_eq!(preflight(")]}'\n{\"batch_size\":7}").map(|p| p.batch_size), Ok(7));
    }

    /// HTTP-7.
    #[test]
    fn http_7_an_empty_body_is_every_field_absent() {
        for empty in ["", "  \n", ")]}'\n", "])}"] {
            assert_eq!(preflight(empty), Ok(wire::PreflightResponse::default()), "{empty:?}");
        }
    }

    /// HTTP-6.
    #[test]
    fn http_6_html_is_called_html_and_its_start_is_shown_escaped() {
        let error = preflight("\n<html>\u{1b}[31m<title>Sign in</title>").expect_err("HTML");
        assert!(matches!(error, BodyError::Html(_)));
        let shown = error.to_string();
        assert!(shown.contains("captive portal") && shown.contains("\\u{1b}"), "{shown}");
    }

    #[test]
    fn a_body_of_another_shape_is_named_with_its_path() {
        let body = r#"{"removable_media_policy":{"remount":{"flags":[1]}}}"#;
        let error = preflight(body).expect_err("a number for a flag").to_string();
        assert!(error.contains("at removable_media_policy.remount.flags[0]: "), "{error}");
        assert!(matches!(preflight("[1]"), Err(BodyError::WrongShape { .. })));
        assert!(matches!(preflight("Service Unavailable"), Err(BodyError::NotJson { .. })));
        assert!(matches!(preflight("{\"batch_size\":"), Err(BodyError::CutShort(_))));
        let long = "x".repeat(10_000);
        assert!(preflight(&long).expect_err("not JSON").to_string().len() < 400);
    }

    /// JSON-3.
    #[test]
    fn json_3_binary_protobuf_goes_both_ways() {
        let sent = wire::PreflightResponse { batch_size: 7, ..Default::default() };
        let body = encode(Transfer::Protobuf, &sent).expect("encodes");
        assert_eq!(decode(Transfer::Protobuf, &body), Ok(sent));
        let error = decode::<wire::PreflightResponse>(Transfer::Protobuf, b"{\"a\":1}");
        assert!(matches!(error, Err(BodyError::NotProtobuf { .. })));
    }
}
