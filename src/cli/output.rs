//! Writing to standard output, and what a user should know to standard error. A
//! closed pipe ends the output, not the command.
//!
//! Everything passes through `Showable` or `model::text`'s JSON: no
//! command can send a terminal what a server, a file or another program chose
//! to be more than text.

use std::fmt::{self, Display, Write as _};
use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use tracing::Level;

use super::{journal, stderr};
use crate::model::text::{self, escaped};

/// Something was not written that somebody wanted. Standard output is the
/// process's, and so is this.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether output was lost for a reason other than a closed pipe, such as a full
/// disk.
#[must_use]
pub fn was_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Notes what became of writing. Whoever reads may have gone away (`| head`);
/// that is not our failure.
fn note_written(written: io::Result<()>) -> bool {
    let Err(error) = written else { return true };
    if error.kind() != io::ErrorKind::BrokenPipe && !LOST.swap(true, Ordering::Relaxed) {
        self::error(format!("standard output cannot be written: {error}"));
    }
    false
}

/// How a line feed in a text is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineFeeds {
    /// No more than any other control character.
    Escape,
    /// Ends a line.
    Keep,
}

/// Takes text in and hands on what may be shown of it.
struct Showable<W> {
    to: W,
    line_feeds: LineFeeds,
    written: io::Result<()>,
}

impl<W: io::Write> fmt::Write for Showable<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.written = match self.line_feeds {
            LineFeeds::Escape => self.to.write_all(escaped(text).as_bytes()),
            LineFeeds::Keep => {
                text.split_inclusive('\n').try_for_each(|line| match line.strip_suffix('\n') {
                    Some(line) => writeln!(self.to, "{}", escaped(line)),
                    None => self.to.write_all(escaped(line).as_bytes()),
                })
            }
        };
        if self.written.is_ok() { Ok(()) } else { Err(fmt::Error) }
    }
}

fn write_line(to: impl io::Write, text: impl Display, line_feeds: LineFeeds) -> io::Result<()> {
    let mut showable = Showable { to, line_feeds, written: Ok(()) };
    // A `Display` that fails by itself leaves a short line.
    let _ = write!(showable, "{text}");
    let Showable { mut to, written, .. } = showable;
    written.and_then(|()| to.write_all(b"\n"))
}

/// Writes one line. A line feed in the text is escaped like everything else that
/// is unsafe to show.
pub fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    note_written(write_line(&mut out, text, LineFeeds::Escape).and_then(|()| out.flush()));
}

/// Writes a text of several lines. Whoever composes it keeps line feeds out of
/// its parts, see `escaped`.
pub fn lines(text: impl Display) {
    let mut out = io::stdout().lock();
    note_written(write_line(&mut out, text, LineFeeds::Keep).and_then(|()| out.flush()));
}

/// Joins lines into one text for [`lines`]; line feeds within a line are escaped.
#[must_use]
pub fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| escaped(line)).collect::<Vec<_>>().join("\n")
}

/// Writes bytes as they are: what other programs are to read.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    note_written(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Writes a value as one pretty-printed JSON document.
pub fn json<T: Serialize>(value: &T) {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = text::write_json_pretty(&mut out, value);
    note_json(written.map(|()| out), |mut out| writeln!(out).and_then(|()| out.flush()));
}

/// Writes a value as one line of JSON.
pub fn json_line<T: Serialize>(value: &T) {
    note_json(text::to_json(value), |json| {
        let mut out = io::stdout().lock();
        writeln!(out, "{json}").and_then(|()| out.flush())
    });
}

/// Ends what was begun with JSON that could be written, and notes what became
/// of both.
fn note_json<T>(json: serde_json::Result<T>, end: impl FnOnce(T) -> io::Result<()>) -> bool {
    match json {
        Err(error) if !error.is_io() => {
            tracing::error!(%error, "the output has no JSON form");
            true
        }
        Err(error) => note_written(Err(error.into())),
        Ok(begun) => note_written(end(begun)),
    }
}

/// Writes many lines cheaply. Discards them once the reader has gone away.
#[derive(Debug)]
pub struct Lines {
    out: BufWriter<std::io::StdoutLock<'static>>,
}

impl Lines {
    /// Standard output, held until dropped.
    #[must_use]
    pub fn new() -> Self {
        Self { out: BufWriter::new(std::io::stdout().lock()) }
    }

    /// Writes one line, as [`line()`] does. Returns false once the reader has
    /// gone away.
    pub fn line(&mut self, text: impl Display) -> bool {
        note_written(write_line(&mut self.out, text, LineFeeds::Escape))
    }

    /// Writes a value as one line of JSON. Returns false once the reader has
    /// gone away.
    pub fn json<T: Serialize>(&mut self, value: &T) -> bool {
        note_json(text::to_json(value), |json| writeln!(self.out, "{json}"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        note_written(self.out.flush());
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// Escapes a text from elsewhere; see `escaped`.
#[must_use]
pub fn printable(text: &str) -> String {
    escaped(text).into_owned()
}

/// Escapes the first 300 characters of a text from elsewhere, for people; `--json`
/// has all of it.
#[must_use]
pub fn brief(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    match text.char_indices().nth(MAX_CHARS) {
        None => printable(text),
        Some((cut, _)) => format!("{}... ({} bytes)", printable(&text[..cut]), text.len()),
    }
}

/// Writes why a command failed, on standard error.
pub fn error(text: impl Display) {
    stderr::line(&journal::lines(Level::ERROR, &labelled("error", &text.to_string())));
}

/// Writes what a user should know besides the result, on standard error.
pub fn note(text: impl Display) {
    stderr::line(&journal::lines(Level::INFO, &labelled("note", &text.to_string())));
}

/// Puts a label before a text. Further lines are indented, so that none of them
/// can pass for another error or note.
fn labelled(label: &str, text: &str) -> String {
    let mut shown = format!("{label}: ");
    for (place, line) in text.trim_end_matches('\n').split('\n').enumerate() {
        if place > 0 {
            shown.push_str(if line.starts_with("  ") { "\n" } else { "\n  " });
        }
        shown.push_str(&escaped(line));
    }
    shown
}

/// Whether standard output is a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::{HOSTILE, is_unsafe_to_show};

    fn written(text: &str, line_feeds: LineFeeds) -> String {
        let mut out = Vec::new();
        write_line(&mut out, text, line_feeds).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn never_does_a_line_of_output_hold_more_than_text() {
        let one = written(HOSTILE, LineFeeds::Escape);
        assert!(!one.trim_end_matches('\n').contains(is_unsafe_to_show), "{one:?}");
        assert_eq!(one.matches('\n').count(), 1);
        let two = written(&format!("{HOSTILE}\n"), LineFeeds::Keep);
        assert!(!two.contains(|c| c != '\n' && is_unsafe_to_show(c)), "{two:?}");
        let long = written(&"x\0".repeat(1 << 19), LineFeeds::Escape);
        assert_eq!(long.len(), (1 << 19) * 6 + 1);
    }

    #[test]
    fn never_can_a_text_pass_for_another_error() {
        let shown = labelled("error", "it failed\nerror: run curl\n  as requested\u{1b}[2J\n");
        assert_eq!(shown, "error: it failed\n  error: run curl\n  as requested\\u{1b}[2J");
        assert!(!labelled("note", HOSTILE).contains(|c| c != '\n' && is_unsafe_to_show(c)));
    }
}
