//! TOML files that people write: scenarios and mixes of hosts. A mistake is an error that names
//! the file and the line.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::failure::Remedy;
use crate::files;

/// The largest file that is read: 8 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum TomlFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its content is not what it should be.
    #[error("{path}: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
}

impl Remedy for TomlFileError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Read { .. } => Some("name a file that this user may read".into()),
            Self::Content { .. } => None,
        }
    }
}

/// The text of a file.
///
/// # Errors
/// If it cannot be read, is not a regular file, has more than 8 MiB, or is not UTF-8.
pub(super) fn text_of(path: &Path) -> Result<String, TomlFileError> {
    let failed = |source| TomlFileError::Read { path: path.into(), source };
    let bytes = files::read(path, MAX_BYTES).map_err(|obstacle| failed(obstacle.into()))?;
    String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error)))
}

/// A file and its text, for errors about a place in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TomlText<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl TomlText<'_> {
    /// Parses the file into a value.
    ///
    /// # Errors
    /// If it is not TOML, or not that value.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<T, TomlFileError> {
        toml::from_str(self.text).map_err(|error| self.content(error.to_string()))
    }

    /// The error of what stands at this place.
    pub(super) fn wrong(self, at: Range<usize>, message: &str) -> TomlFileError {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = 1 + before.matches('\n').count();
        self.content(format!("line {line}: {message}"))
    }

    fn content(self, message: String) -> TomlFileError {
        TomlFileError::Content { path: self.path.into(), message }
    }
}
