//! How bodies travel: their form and their compression.

use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// The form of the bodies, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Transfer {
    /// JSON.
    #[default]
    Json,
    /// Binary protobuf.
    Protobuf,
}

impl Transfer {
    /// The value of `Content-Type`, which servers compare to the letter.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

/// How request bodies are compressed. The names are those of the configuration
/// and of `Content-Encoding`; they are read in any case.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Default,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum ContentEncoding {
    /// Deflate data in a zlib wrapper (RFC 1950).
    #[default]
    Deflate,
    /// RFC 1952.
    Gzip,
    /// Not at all.
    None,
}

impl ContentEncoding {
    /// The name in the configuration and in `Content-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}
