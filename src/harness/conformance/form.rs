//! The six forms of a request: JSON or protobuf, with one of three content encodings.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::Serialize;

use crate::harness::Encoding;
use crate::model::{ContentEncoding, Transfer};

/// A form of requests: transfer and content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// JSON or protobuf.
    pub transfer: Transfer,
    /// How bodies are compressed.
    pub encoding: ContentEncoding,
}

impl Form {
    /// The form that an agent uses by default.
    pub const DEFAULT: Self = Self::new(Transfer::Json, ContentEncoding::Deflate);

    /// Every form, in the order in which the one to work with is chosen.
    pub const ALL: [Self; 6] = [
        Self::DEFAULT,
        Self::new(Transfer::Json, ContentEncoding::None),
        Self::new(Transfer::Json, ContentEncoding::Gzip),
        Self::new(Transfer::Protobuf, ContentEncoding::Gzip),
        Self::new(Transfer::Protobuf, ContentEncoding::Deflate),
        Self::new(Transfer::Protobuf, ContentEncoding::None),
    ];

    const fn new(transfer: Transfer, encoding: ContentEncoding) -> Self {
        Self { transfer, encoding }
    }

    /// The name on the command line, such as `json-deflate`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.transfer, self.encoding) {
            (Transfer::Json, ContentEncoding::Deflate) => "json-deflate",
            (Transfer::Json, ContentEncoding::Gzip) => "json-gzip",
            (Transfer::Json, ContentEncoding::None) => "json-none",
            (Transfer::Protobuf, ContentEncoding::Deflate) => "protobuf-deflate",
            (Transfer::Protobuf, ContentEncoding::Gzip) => "protobuf-gzip",
            (Transfer::Protobuf, ContentEncoding::None) => "protobuf-none",
        }
    }

    /// The id of the requirement that this form is accepted.
    pub(super) const fn requirement(self) -> &'static str {
        match (self.transfer, self.encoding) {
            (Transfer::Json, ContentEncoding::Deflate) => "ENC-01",
            (Transfer::Json, ContentEncoding::None) => "ENC-02",
            (Transfer::Json, ContentEncoding::Gzip) => "ENC-03",
            (Transfer::Protobuf, _) => "ENC-04",
        }
    }

    /// Whether bodies are JSON.
    #[must_use]
    pub const fn is_json(self) -> bool {
        matches!(self.transfer, Transfer::Json)
    }

    /// Whether bodies are compressed.
    #[must_use]
    pub const fn is_compressed(self) -> bool {
        !matches!(self.encoding, ContentEncoding::None)
    }

    /// The value of `Content-Encoding`; `None` without compression.
    pub(super) const fn header(self) -> Option<&'static str> {
        self.codec().header()
    }

    /// The body as it goes over the wire.
    pub(super) fn pack(self, body: &[u8]) -> io::Result<Vec<u8>> {
        self.codec().encode(body.to_owned())
    }

    const fn codec(self) -> Encoding {
        match self.encoding {
            ContentEncoding::Deflate => Encoding::Deflate,
            ContentEncoding::Gzip => Encoding::Gzip,
            ContentEncoding::None => Encoding::Identity,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Form {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why a text is not the name of a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a form; known ones are {known}", known = names())]
pub struct UnknownForm(String);

fn names() -> String {
    Form::ALL.map(Form::name).join(", ")
}

impl FromStr for Form {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        let form = Self::ALL.into_iter().find(|form| form.name().eq_ignore_ascii_case(text));
        form.ok_or_else(|| UnknownForm(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_a_name_of_its_own_that_reads_back() {
        for form in Form::ALL {
            assert_eq!(form.name().parse(), Ok(form));
        }
        let error = "json".parse::<Form>().unwrap_err().to_string();
        assert!(error.contains("json-deflate, json-none"), "{error}");
    }
}
