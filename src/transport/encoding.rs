//! Content encodings: request bodies are compressed whole, answers decoded piece
//! by piece.

mod decoder;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use thiserror::Error;

use crate::protocol::body::EncodedBody;
pub(super) use decoder::{DecodeError, Decoder};

/// How request bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ContentEncoding {
    /// `deflate`: deflate data in a zlib wrapper (RFC 1950).
    #[default]
    Deflate,
    /// `gzip` (RFC 1952).
    Gzip,
    /// As they are.
    None,
}

impl ContentEncoding {
    /// Every encoding, the default first.
    pub const ALL: [Self; 3] = [Self::Deflate, Self::Gzip, Self::None];

    /// The word in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }

    /// What packs bodies this way.
    pub(super) const fn packer(self) -> Packer {
        Packer { encoding: self, compressor: None, room: Vec::new() }
    }
}

/// Compresses bodies one after another, in memory that is taken once.
#[derive(Default)]
pub struct Packer {
    encoding: ContentEncoding,
    compressor: Option<Compressor>,
    room: Vec<u8>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl Clone for Packer {
    /// One for the same encoding, with memory of its own.
    fn clone(&self) -> Self {
        self.encoding.packer()
    }
}

/// The lowest level that compresses. A batch of events comes to a fifth at a
/// quarter of the work of zlib's level 6, whose output is a seventh smaller.
const COMPRESSION_LEVEL: i32 = 1;

impl Packer {
    /// Packs a body. An empty one is never compressed.
    #[must_use]
    pub fn pack(&mut self, body: Vec<u8>) -> EncodedBody {
        if body.is_empty() || self.encoding == ContentEncoding::None {
            return EncodedBody::plain(body);
        }
        let compressor = self.compressor.get_or_insert_with(|| {
            Compressor::new(CompressionLvl::new(COMPRESSION_LEVEL).unwrap_or_default())
        });
        let gzip = self.encoding == ContentEncoding::Gzip;
        let most = if gzip {
            compressor.gzip_compress_bound(body.len())
        } else {
            compressor.zlib_compress_bound(body.len())
        };
        self.room.resize(most.max(self.room.len()), 0);
        let done = if gzip {
            compressor.gzip_compress(&body, &mut self.room)
        } else {
            compressor.zlib_compress(&body, &mut self.room)
        };
        // There is room for the worst case; if not, servers take it as it is.
        match done.ok().and_then(|length| self.room.get(..length)) {
            Some(wire) => {
                let bytes = Bytes::copy_from_slice(wire);
                EncodedBody { bytes, encoding: Some(self.encoding.name()) }
            }
            None => EncodedBody::plain(body),
        }
    }
}

impl fmt::Display for ContentEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no [`ContentEncoding`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no content encoding; use deflate, gzip or none")]
pub struct UnknownEncoding(pub String);

impl FromStr for ContentEncoding {
    type Err = UnknownEncoding;

    /// Reads the word in any case.
    fn from_str(word: &str) -> Result<Self, UnknownEncoding> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.name().eq_ignore_ascii_case(word.trim()))
            .ok_or_else(|| UnknownEncoding(word.to_owned()))
    }
}

#[cfg(test)]
mod tests;
