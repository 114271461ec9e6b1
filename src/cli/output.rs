//! Writing to standard output. A closed pipe ends the output, not the command.

use std::fmt::Display;
use std::io::{BufWriter, IsTerminal, Write as _};

use serde::Serialize;

/// Writes one line.
pub fn line(text: impl Display) {
    // Whoever reads may have gone away (`| head`); that is not our failure.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes a value as one pretty-printed JSON document.
pub fn json<T: Serialize>(value: &T) {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match serde_json::to_writer_pretty(&mut out, value) {
        Err(error) if !error.is_io() => tracing::error!(%error, "the output has no JSON form"),
        Ok(()) | Err(_) => {
            let _ = writeln!(out);
            let _ = out.flush();
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
        writeln!(self.out, "{text}").is_ok()
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
        } else {
            shown.push(c);
        }
    }
    shown
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
