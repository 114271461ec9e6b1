//! Text from elsewhere made fit for where it goes: a log line, a terminal, JSON,
//! XML, the argument of a program. Servers, files and other programs choose this
//! text; it must not be able to move the cursor, reorder what surrounds it, fake
//! another line, or make a file unreadable.
//!
//! This is the one place that knows what each of them can take.

use std::fmt;

mod json;

use std::borrow::Cow;

pub use json::{escaped_json, to_json, write_json, write_json_pretty};

/// What some programs write before a text in UTF-8; it is not part of the text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whether a character must not reach a log, a terminal or a record as it is:
/// control characters (C0, DEL, C1), line and paragraph separators, and the
/// marks that change the direction of text.
#[must_use]
pub fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// The text with every character that is unsafe to show escaped (`\n`,
/// `\u{202e}`). Borrowed if nothing had to be escaped.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(is_unsafe_to_show) {
        Cow::Owned(escape(text.chars()))
    } else {
        Cow::Borrowed(text)
    }
}

/// The first `max_chars` characters of the text, escaped as by [`escaped`]. A
/// text that is cut ends in an ellipsis.
#[must_use]
pub fn escaped_start(text: &str, max_chars: usize) -> String {
    let mut chars = text.chars();
    let mut start = escape(chars.by_ref().take(max_chars));
    if chars.next().is_some() {
        start.push('…');
    }
    start
}

/// The text on one line: each run of white space is one space, and what is
/// unsafe to show is escaped. At most `max_chars` characters, escapes included;
/// a text that is cut ends in an ellipsis.
#[must_use]
pub fn on_one_line(text: &str, max_chars: usize) -> String {
    let words = text.split_whitespace().enumerate();
    let chars = words.flat_map(|(n, word)| (n > 0).then_some(' ').into_iter().chain(word.chars()));
    let (mut line, mut length) = (String::new(), 0);
    for c in chars {
        let piece = escape(std::iter::once(c));
        length += piece.chars().count();
        if length > max_chars {
            line.push('…');
            break;
        }
        line.push_str(&piece);
    }
    line
}

/// The text without the characters that XML 1.0 cannot hold, not even as
/// references. Borrowed if it can hold all of them.
#[must_use]
pub fn fit_for_xml(text: &str) -> Cow<'_, str> {
    let unfit = |c: char| {
        let control = c < ' ' && !matches!(c, '\t' | '\n' | '\r');
        control || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    if text.contains(unfit) { Cow::Owned(text.replace(unfit, "")) } else { Cow::Borrowed(text) }
}

/// The text as an argument of another program: at most `max_chars` characters,
/// without those that are unsafe to show (NUL among them, which no argument can
/// hold), and not to be taken for an option.
#[must_use]
pub fn fit_for_argument(text: &str, max_chars: usize) -> String {
    text.chars()
        .filter(|c| !is_unsafe_to_show(*c))
        .skip_while(|c| *c == '-' || c.is_whitespace())
        .take(max_chars)
        .collect()
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(bytes, &mut text);
    text
}

/// Appends lower-case hex digits to a text.
pub fn push_hex(bytes: &[u8], text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // As many as a hash has: rules are written in one go.
    for block in bytes.chunks(32) {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(block) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        let digits = digits.get(..block.len() * 2).unwrap_or_default();
        // ASCII, so it is text.
        text.push_str(str::from_utf8(digits).unwrap_or_default());
    }
}

/// A number with its noun, which takes an `s` unless there is one: `1 page`, `3 pages`.
#[cfg(any(feature = "harness", test))]
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn escape(chars: impl Iterator<Item = char>) -> String {
    let mut escaped = String::new();
    for c in chars {
        match c {
            '\n' | '\r' | '\t' => escaped.extend(c.escape_default()),
            c if is_unsafe_to_show(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A text with each kind of trouble in it, for tests.
#[cfg(test)]
pub(crate) const HOSTILE: &str = "-a\0b\u{1b}[31mc\u{9b}2Jd\u{85}\u{202e}e\u{2066}f\u{2028}g\
     \u{feff}h\u{200b}\u{7f}\ni\r\tj\u{fffe}\u{ffff}\u{10ffff}k\"<&>'\\";

/// Joins what happened and what to do about it, for people to read.
#[must_use]
pub fn joined(what: &(impl fmt::Display + ?Sized), fix: Option<&str>) -> String {
    match fix {
        Some(fix) => format!("{what}; {fix}"),
        None => what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_could_fake_or_reorder_a_line_is_escaped() {
        assert!(matches!(escaped("Grüße 日本"), Cow::Borrowed(_)));
        assert_eq!(escaped("a\nb\u{1b}[31m\0"), r"a\nb\u{1b}[31m\u{0}");
        assert_eq!(escaped("\u{9b}31m\u{85}x"), r"\u{9b}31m\u{85}x");
        assert_eq!(escaped("\u{202e}gpj.exe\u{2066}\u{2028}"), r"\u{202e}gpj.exe\u{2066}\u{2028}");
    }

    #[test]
    fn one_is_singular_and_everything_else_is_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "page")), ["0 pages", "1 page", "2 pages"]);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_marked() {
        assert_eq!(escaped_start("äöü", 3), "äöü");
        assert_eq!(escaped_start("äöü!", 3), "äöü…");
        assert_eq!(escaped_start("\n\n", 1), r"\n…");
    }

    #[test]
    fn a_text_on_one_line_keeps_its_words_and_loses_its_line_ends() {
        assert_eq!(
            on_one_line("a\u{1b}[31mred\r\n  b\t\u{202e}c", 200),
            r"a\u{1b}[31mred b \u{202e}c"
        );
        assert_eq!(on_one_line(&"y ".repeat(300), 10), "y y y y y …");
        assert_eq!(on_one_line(" \n ", 10), "");
        assert_eq!(on_one_line(&"x".repeat(1 << 20), 200).chars().count(), 201);
    }

    #[test]
    fn what_xml_cannot_hold_is_left_out_of_it() {
        assert!(matches!(fit_for_xml("a\t\n\r<&>\u{85}\u{202e}"), Cow::Borrowed(_)));
        assert_eq!(fit_for_xml("a\0b\u{1b}c\u{fffe}d"), "abcd");
    }

    #[test]
    fn rule_10_an_argument_holds_nothing_but_the_text_itself() {
        assert_eq!(fit_for_argument("Notes 2", 200), "Notes 2");
        assert_eq!(fit_for_argument("--exec=x\0\u{1b}[31m", 200), "exec=x[31m");
        assert_eq!(fit_for_argument("\u{202e}- -x", 200), "x");
        assert_eq!(fit_for_argument(&"ä".repeat(1000), 200).chars().count(), 200);
        assert!(!fit_for_argument(HOSTILE, 200).contains(is_unsafe_to_show));
    }

    #[test]
    fn bytes_are_written_as_lower_case_hex() {
        assert_eq!(hex(&[0x00, 0x7f, 0xab]), "007fab");
        assert_eq!(hex(&[0xf0; 100]), "f0".repeat(100));
    }

    #[test]
    fn a_text_with_every_kind_of_trouble_is_escaped() {
        assert!(!escaped(HOSTILE).contains(is_unsafe_to_show));
        assert!(!escaped_start(HOSTILE, 30).contains(is_unsafe_to_show));
        assert!(!on_one_line(HOSTILE, 30).contains(is_unsafe_to_show));
    }
}
