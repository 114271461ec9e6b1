//! Writing to standard output. A closed pipe ends the output, not the command.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Something was not written that somebody wanted. Standard output is the
/// process's, and so is this.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether output was lost for another reason than that nobody reads it any
/// more: a full disk, for example.
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

/// Writes one line.
pub fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    note_written(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    note_written(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Writes a value as one pretty-printed JSON document.
pub fn json<T: Serialize>(value: &T) {
    let mut out = BufWriter::new(io::stdout().lock());
    match serde_json::to_writer_pretty(&mut out, value) {
        Err(error) if !error.is_io() => tracing::error!(%error, "the output has no JSON form"),
        written => {
            let written = written.map_err(io::Error::from);
            note_written(written.and_then(|()| writeln!(out)).and_then(|()| out.flush()));
        }
    }
}

/// Writes many lines at little cost. Stops taking them once nobody reads.
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

    /// Writes one line. Answers false once the reader has gone away.
    pub fn line(&mut self, text: impl Display) -> bool {
        note_written(writeln!(self.out, "{text}"))
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

/// A text from elsewhere as a terminal may get it: control characters, which
/// could be commands to the terminal, as escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else if rearranges(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a character changes the order or the look of others without being
/// seen itself: marks and overrides of direction, and those of no width.
const fn rearranges(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A text from elsewhere in at most some 300 characters, for a line that people
/// read. `--json` has all of it.
#[must_use]
pub fn brief(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        None => printable(text),
        Some((cut, _)) => format!("{}... ({} bytes)", printable(&text[..cut]), text.len()),
    }
}

/// Writes why a command failed, on standard error.
pub fn error(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// Writes what a user should know besides the result, on standard error.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

/// Whether standard output is a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
