//! The body of a response as it came, and as text.

use std::borrow::Cow;

use super::{BodyError, shown, without_xssi_prefix};
use crate::model::{Transfer, text};

/// The body of a response, and what must be known to read it.
#[derive(Clone, Debug)]
pub struct ResponseBody<'a> {
    transfer: Transfer,
    content_type: Option<&'a str>,
    body: Cow<'a, [u8]>,
}

impl<'a> ResponseBody<'a> {
    /// A body without a `Content-Type`.
    #[must_use]
    pub fn new(transfer: Transfer, body: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { transfer, content_type: None, body: body.into() }
    }

    /// The same body with its `Content-Type`, which counts for binary protobuf
    /// only (JSON-3).
    #[must_use]
    pub fn under(self, content_type: Option<&'a str>) -> Self {
        Self { content_type, ..self }
    }

    pub(in crate::protocol) const fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// The bytes of a binary message.
    ///
    /// # Errors
    /// If the server calls them text.
    pub(in crate::protocol) fn binary(&self, message: &'static str) -> Result<&[u8], BodyError> {
        let named = self.content_type.unwrap_or_default().trim_ascii();
        let is_text = named.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
        if is_text && !self.body.is_empty() {
            let named = text::escaped_start(named, 64);
            let reason = format!("its Content-Type is {named}");
            return Err(BodyError::NotProtobuf { message, reason });
        }
        Ok(&self.body)
    }

    /// Whether the server calls the body binary protobuf.
    pub(in crate::protocol) fn is_named_protobuf(&self) -> bool {
        const NAMES: [&str; 4] = [
            "application/x-protobuf",
            "application/protobuf",
            "application/vnd.google.protobuf",
            "application/x-google-protobuf",
        ];
        let named = self.content_type.unwrap_or_default();
        let essence = named.split(';').next().unwrap_or_default().trim_ascii();
        NAMES.iter().any(|name| essence.eq_ignore_ascii_case(name))
    }

    /// The body as JSON text.
    ///
    /// # Errors
    /// If it is nested so deeply that skipping over it would take too much
    /// memory.
    pub(in crate::protocol) fn into_json(self) -> Result<JsonText<'a>, BodyError> {
        let start = self.body.len() - without_xssi_prefix(&self.body).len();
        let (text, marked) = match self.body {
            Cow::Borrowed(bytes) => match str::from_utf8(bytes) {
                Ok(text) => (Cow::Borrowed(text), false),
                Err(_) => (Cow::Owned(mark(bytes.to_vec())), true),
            },
            Cow::Owned(bytes) => match String::from_utf8(bytes) {
                Ok(text) => (Cow::Owned(text), false),
                Err(error) => (Cow::Owned(mark(error.into_bytes())), true),
            },
        };
        let text = JsonText { text, start, marked };
        if has_many_brackets(text.as_str()) && is_nested_too_deeply(text.as_str()) {
            return Err(BodyError::NotJson {
                reason: format!("it is nested more than {MAX_DEPTH} levels deep"),
                start: shown(text.as_str()),
            });
        }
        Ok(text)
    }
}

/// A body as JSON text.
#[derive(Debug)]
pub(in crate::protocol) struct JsonText<'a> {
    text: Cow<'a, str>,
    start: usize,
    marked: bool,
}

impl JsonText<'_> {
    /// The text without prefix and the white space around it.
    pub(in crate::protocol) fn as_str(&self) -> &str {
        self.text.get(self.start..).unwrap_or_default().trim_ascii()
    }

    /// Whether bytes that were not UTF-8 have been replaced by [`INVALID_BYTE_MARK`].
    pub(in crate::protocol) const fn is_marked(&self) -> bool {
        self.marked
    }
}

/// What stands for a byte that is not UTF-8: a character of one byte, so that
/// nothing moves, which JSON allows in strings, and which no text of a rule or
/// setting has. In a body with such a byte, DEL itself passes for one, too.
pub(in crate::protocol) const INVALID_BYTE_MARK: char = '\u{7f}';

/// The bytes as text, with [`INVALID_BYTE_MARK`] for each byte that is not UTF-8.
fn mark(mut bytes: Vec<u8>) -> String {
    let mut from = 0;
    while let Err(error) = str::from_utf8(&bytes[from..]) {
        let at = from + error.valid_up_to();
        let end = error.error_len().map_or(bytes.len(), |length| at + length);
        bytes[at..end].fill(b'\x7f');
        from = end;
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Levels of nesting in a body that has very many brackets.
const MAX_DEPTH: usize = 10_000;
/// With fewer opening brackets than this, depth is no concern: the parser holds
/// a byte for each level.
const MANY_BRACKETS: usize = 16 << 20;

fn has_many_brackets(text: &str) -> bool {
    let brackets = || text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    text.len() >= MANY_BRACKETS && brackets() >= MANY_BRACKETS
}

fn is_nested_too_deeply(text: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    text.bytes().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HTTP-8: nesting costs a byte a level in the parser, so that it is bounded.
    #[test]
    fn http_8_very_deep_nesting_is_found() {
        let open = |count: usize| "[{\"\\\"]\":".repeat(count / 2);
        assert!(is_nested_too_deeply(&open(MAX_DEPTH + 2)));
        assert!(!is_nested_too_deeply(&open(MAX_DEPTH)));
        assert!(!is_nested_too_deeply(&"[],{}".repeat(MAX_DEPTH)));
        assert!(!is_nested_too_deeply(&format!("\"{}\"", "[".repeat(MAX_DEPTH + 1))));
    }

    /// JSON-3: a byte that is not UTF-8 leaves the others where they are.
    #[test]
    fn json_3_each_bad_byte_is_marked_in_its_place() {
        assert_eq!(mark(b"a\xff\xc3\xa4\xc3b\xe2\x82".to_vec()), "a\u{7f}ä\u{7f}b\u{7f}\u{7f}");
    }
}
