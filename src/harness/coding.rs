//! Content encodings, in both directions.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::style::Encoding;

/// The largest request body taken, before and after decoding: 64 MiB.
pub(super) const REQUEST_MAX: usize = 64 << 20;

impl Encoding {
    /// The encoding that a `Content-Encoding` header names.
    pub(super) fn from_header(value: &str) -> Option<Self> {
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "deflate" | "zlib" => Some(Self::Deflate),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            _ => None,
        }
    }

    /// What the header says of it; `None` for identity, which has no header.
    pub(super) const fn header(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Deflate => Some("deflate"),
            Self::Gzip => Some("gzip"),
        }
    }

    /// Decodes a request body.
    pub(super) fn decode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(body.len().saturating_mul(4).min(REQUEST_MAX));
        let limit = REQUEST_MAX as u64 + 1;
        match self {
            Self::Identity => out.extend_from_slice(body),
            Self::Deflate => {
                ZlibDecoder::new(body).take(limit).read_to_end(&mut out)?;
            }
            Self::Gzip => {
                MultiGzDecoder::new(body).take(limit).read_to_end(&mut out)?;
            }
        }
        if out.len() > REQUEST_MAX {
            return Err(io::Error::other("more than 64 MiB after decoding"));
        }
        Ok(out)
    }

    /// Encodes an answer, fast rather than small.
    pub(super) fn encode(self, body: Vec<u8>) -> io::Result<Vec<u8>> {
        let level = Compression::fast();
        match self {
            Self::Identity => Ok(body),
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(&body)?;
                encoder.finish()
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(&body)?;
                encoder.finish()
            }
        }
    }
}

/// A gzip stream of about a thousandth of that many bytes of blanks, which are
/// legal before and between the tokens of JSON.
pub(super) fn bomb(decoded: u64) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut io::repeat(b' ').take(decoded), &mut encoder)?;
    encoder.finish()
}
