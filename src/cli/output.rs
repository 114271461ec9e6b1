//! Writing to standard output. A closed pipe ends the output, not the command.

use std::fmt::Display;
use std::io::{IsTerminal, Write as _};

use serde::Serialize;

/// Writes one line.
pub fn line(text: impl Display) {
    // Whoever reads may have gone away (`| head`); that is not our failure.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes a value as one pretty-printed JSON document.
pub fn json<T: Serialize>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => tracing::error!(%error, "the output has no JSON form"),
    }
}

/// Whether standard output is a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
