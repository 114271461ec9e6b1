//! Making text from elsewhere safe to show: in a log line, on a terminal, in a
//! record. Servers, files and other programs choose this text; it must not be
//! able to move the cursor, reorder what surrounds it, or fake another line.

use std::borrow::Cow;

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
/// `\u{202e}`). Borrowed if there is none.
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
    fn a_long_text_is_cut_at_a_character_and_marked() {
        assert_eq!(escaped_start("äöü", 3), "äöü");
        assert_eq!(escaped_start("äöü!", 3), "äöü…");
        assert_eq!(escaped_start("\n\n", 1), r"\n…");
    }
}
