//! What is wrong with a configuration, in words for whoever has to fix it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::profile::Domain;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong; worth knowing.
    Note,
    /// Something configured has no effect, or not the one meant.
    Warning,
    /// The configuration is refused.
    Error,
}

/// What kind of mistake it is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A file cannot be read.
    Unreadable,
    /// A file is not what its place asks for.
    Malformed,
    /// A `--set` is not `Key=Value`.
    BadSet,
    /// The key is not known.
    UnknownKey,
    /// The key is known, but nothing here follows it.
    UnsupportedKey,
    /// The key has a newer name.
    DeprecatedKey,
    /// The value is of another type than the key's.
    WrongType,
    /// The value is of the right type, but not a possible one.
    BadValue,
    /// The value is outside the key's bounds.
    OutOfRange,
    /// santa-sync does not let the header be set.
    RestrictedHeader,
    /// The base URL may not be used.
    RejectedUrl,
    /// There is no base URL.
    MissingUrl,
    /// A dictionary is not a valid rule.
    BadRule,
    /// A rule's expression is left to Santa to evaluate.
    NotEvaluated,
    /// The key does nothing without another one, or beside it.
    NoEffect,
    /// A certificate is expired, or will be soon.
    Expiry,
    /// A secret is in a file that others can read.
    Exposed,
    /// Two payloads of one domain set the key to different values.
    Conflict,
    /// A key of this agent in Santa's domain.
    Misplaced,
    /// A placeholder, left in a template.
    Placeholder,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `--set` on the command line.
    CommandLine,
    /// A file.
    File(PathBuf),
    /// One of several preference domains in a file.
    Domain(PathBuf, Domain),
    /// No source: the built-in default.
    Default,
}

impl Source {
    /// Whether it is one of Santa's preference domains.
    #[must_use]
    pub const fn is_santas(&self) -> bool {
        match self {
            Self::Domain(_, domain) => domain.is_santas(),
            Self::CommandLine | Self::File(_) | Self::Default => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.pad("--set"),
            Self::File(path) => f.pad(&path.display().to_string()),
            Self::Domain(path, domain) => f.pad(&format!("{} ({})", path.display(), domain.name())),
            Self::Default => f.pad("default"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing to know about a configuration. Never holds a secret's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of mistake it is.
    pub kind: FindingKind,
    /// The key it is about; `None` for a whole source.
    pub key: Option<String>,
    /// Where it was found.
    pub source: Source,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    /// One line without the fix: where, which key, what.
    #[must_use]
    pub fn what(&self) -> String {
        match (&self.key, &self.source) {
            (Some(key), Source::Default) => format!("{key}: {}", self.message),
            (Some(key), source) => format!("{source}: {key}: {}", self.message),
            (None, source) => format!("{source}: {}", self.message),
        }
    }
}

/// One line: where, which key, what, and the fix.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.fix)
    }
}
