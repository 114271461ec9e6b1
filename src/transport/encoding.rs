//! Content encodings: request bodies are compressed whole, responses decoded piece
//! by piece.

mod decoder;

use std::fmt;

use bytes::Bytes;
use libdeflater::{CompressionLvl, Compressor};

use crate::model::ContentEncoding;
use crate::protocol::body::EncodedBody;
pub(super) use decoder::{DecodeError, Decoder};

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
        Self::new(self.encoding)
    }
}

/// The lowest level that compresses. A batch of events comes to a fifth at a
/// quarter of the work of zlib's level 6, whose output is a seventh smaller.
const COMPRESSION_LEVEL: i32 = 1;

impl Packer {
    pub(super) const fn new(encoding: ContentEncoding) -> Self {
        Self { encoding, compressor: None, room: Vec::new() }
    }

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

#[cfg(test)]
mod tests;
