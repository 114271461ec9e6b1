//! The four stages of a sync and the cursor of its rule pages.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// A stage of a sync, in the order they run.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Stage {
    /// Tell the server about the host, get settings.
    Preflight,
    /// Upload queued events in batches.
    EventUpload,
    /// Fetch rules page by page, commit them at once.
    RuleDownload,
    /// Report, then apply the settings.
    Postflight,
}

impl Stage {
    /// Every stage in the order they run.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in records, logs and `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The segment of the URL.
    #[must_use]
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::EventUpload => "eventupload",
            Self::RuleDownload => "ruledownload",
            Self::Postflight => "postflight",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the next page of rules begins, in the server's own words. Echoed to
/// the letter and never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor a response carries; an empty one means that no page follows.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    /// The server's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
