//! JSON that is safe to show: every character that must not reach a log, a
//! terminal or a record is an escape in it. JSON itself asks for that only for
//! the control characters below U+0020.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::is_unsafe_to_show;

/// One line of compact JSON.
///
/// # Errors
/// If the value has no JSON form.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let mut json = Vec::new();
    write_json(&mut json, value)?;
    // The serializer writes UTF-8.
    Ok(String::from_utf8(json).unwrap_or_default())
}

/// Writes one line of compact JSON, without a line end.
///
/// # Errors
/// If the value has no JSON form or cannot be written.
pub fn write_json<T: Serialize + ?Sized>(to: impl io::Write, value: &T) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(to, Escaping(CompactFormatter)))
}

/// Writes indented JSON, without a line end.
///
/// # Errors
/// If the value has no JSON form or cannot be written.
pub fn write_json_pretty<T: Serialize + ?Sized>(
    to: impl io::Write,
    value: &T,
) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(to, Escaping(PrettyFormatter::new())))
}

/// JSON that another program or library wrote, made safe to show.
///
/// Outside of strings JSON is ASCII, and line ends are the only control
/// characters in it; so what is escaped stands in a string.
#[must_use]
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    let unsafe_in_json = |c: char| c >= '\u{7f}' && is_unsafe_to_show(c);
    if !json.contains(unsafe_in_json) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if unsafe_in_json(c) {
            push_escape(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn push_escape(to: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(to, "\\u{unit:04x}");
    }
}

/// A formatter whose strings are safe to show.
struct Escaping<F>(F);

impl<F: Formatter> Formatter for Escaping<F> {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        to.write_all(escaped_json(fragment).as_bytes())
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn end_object_key<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_key(to)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::HOSTILE;
    use super::*;

    #[test]
    fn json_of_any_text_is_safe_to_show_and_means_the_same() {
        let json = to_json(HOSTILE).expect("JSON");
        assert!(!json.contains(is_unsafe_to_show), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), HOSTILE);
        let mut pretty = Vec::new();
        write_json_pretty(&mut pretty, &[(HOSTILE, HOSTILE)]).expect("JSON");
        let pretty = String::from_utf8(pretty).expect("UTF-8");
        assert!(!pretty.contains(|c| c != '\n' && is_unsafe_to_show(c)), "{pretty:?}");
        let read: Vec<(String, String)> = serde_json::from_str(&pretty).expect("JSON");
        assert_eq!(read, [(HOSTILE.to_owned(), HOSTILE.to_owned())]);
    }

    #[test]
    fn json_of_another_writer_is_escaped_as_well() {
        let json = serde_json::to_string(HOSTILE).expect("JSON");
        let escaped = escaped_json(&json);
        assert!(!escaped.contains(is_unsafe_to_show), "{escaped:?}");
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("JSON"), HOSTILE);
        assert!(matches!(escaped_json("{\"a\":\"ä\\n\"}\n"), Cow::Borrowed(_)));
    }
}
