//! Content encodings: compressing request bodies whole, decoding answers piece
//! by piece so that a limit holds whatever the server sends.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use hyper::body::Bytes;
use libdeflater::{CompressionLvl, Compressor};
use thiserror::Error;

use crate::model::Packed;

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
const LEVEL: i32 = 1;

impl Packer {
    /// Packs a body. An empty one is never compressed.
    #[must_use]
    pub fn pack(&mut self, body: Vec<u8>) -> Packed {
        if body.is_empty() || self.encoding == ContentEncoding::None {
            return Packed::plain(body);
        }
        let compressor = self
            .compressor
            .get_or_insert_with(|| Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default()));
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
                Packed { bytes, encoding: Some(self.encoding.name()) }
            }
            None => Packed::plain(body),
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

/// Why an answer cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum DecodeError {
    /// More bytes than the limit, decoded or as received.
    #[error("more than the limit")]
    TooLarge,
    /// The compressed data ends before its end mark.
    #[error("cut short")]
    Truncated,
    /// The compressed data is not what its encoding says.
    #[error("corrupt {0} data")]
    Corrupt(&'static str),
    /// The data is text, whatever encoding its header announces.
    #[error("it is not {0} although its header says so")]
    NotEncoded(&'static str),
    /// An encoding that was not asked for and is not known.
    #[error("unknown content encoding {0:?}")]
    Unknown(String),
}

/// Decodes one answer. Memory stays within the limit and a small constant.
pub(super) struct Decoder {
    coding: Coding,
    piece: Vec<u8>,
    decoded: Vec<u8>,
    /// The first bytes off the wire, at most two.
    first: Vec<u8>,
    received: u64,
    limit: usize,
}

enum Coding {
    Identity,
    Gzip(Box<MultiGzDecoder<Feed>>),
    Deflate(Deflate),
}

/// What gzip data begins with (RFC 1952).
const GZIP_BEGINS: [u8; 2] = [0x1f, 0x8b];
/// Decoded bytes are taken in pieces of this size.
const PIECE: usize = 32 * 1024;
/// So much longer than what it decodes to compressed data may be.
const OVERHEAD: usize = 64 * 1024;

impl Decoder {
    /// A decoder for the values of an answer's `Content-Encoding` headers,
    /// which takes at most `limit` bytes. `length` is the `Content-Length`.
    pub(super) fn new<'a>(
        encodings: impl Iterator<Item = &'a str>,
        length: Option<u64>,
        limit: usize,
    ) -> Result<Self, DecodeError> {
        let named: Vec<String> = encodings
            .flat_map(|value| value.split(','))
            .map(|word| word.trim().to_ascii_lowercase())
            .filter(|word| !matches!(word.as_str(), "" | "identity" | "none"))
            .collect();
        let coding = match named.as_slice() {
            [] => Coding::Identity,
            [one] if matches!(one.as_str(), "gzip" | "x-gzip") => {
                Coding::Gzip(Box::new(MultiGzDecoder::new(Feed::default())))
            }
            [one] if matches!(one.as_str(), "deflate" | "zlib") => {
                Coding::Deflate(Deflate::default())
            }
            other => return Err(DecodeError::Unknown(other.join(", "))),
        };
        let mut decoded = Vec::new();
        if let (Coding::Identity, Some(length)) = (&coding, length) {
            let length = usize::try_from(length).map_err(|_| DecodeError::TooLarge)?;
            if length > limit {
                return Err(DecodeError::TooLarge);
            }
            // A server may announce much and send little, so a large answer's
            // memory is taken as it comes.
            decoded.reserve_exact(length.min(8 * 1024 * 1024));
        }
        let piece = if matches!(coding, Coding::Identity) { Vec::new() } else { vec![0; PIECE] };
        Ok(Self { coding, piece, decoded, first: Vec::new(), received: 0, limit })
    }

    /// Takes the next bytes off the wire.
    pub(super) fn push(&mut self, wire: &[u8]) -> Result<(), DecodeError> {
        self.received += wire.len() as u64;
        self.first.extend(wire.iter().take(2 - self.first.len()));
        // Compressed data can be long without end and decode to nothing.
        if self.received > (self.limit + OVERHEAD) as u64 {
            return Err(DecodeError::TooLarge);
        }
        let taken = match &mut self.coding {
            Coding::Identity => append(&mut self.decoded, wire, self.limit),
            Coding::Gzip(decoder) => {
                decoder.get_mut().push(wire);
                drain_gzip(decoder, &mut self.piece, &mut self.decoded, self.limit)
            }
            Coding::Deflate(deflate) => {
                deflate.push(wire, &mut self.piece, &mut self.decoded, self.limit)
            }
        };
        taken.map_err(|error| self.explained(error))
    }

    /// What an error means once the first bytes are looked at: servers and
    /// proxies announce encodings that they do not apply.
    fn explained(&self, error: DecodeError) -> DecodeError {
        if !matches!(error, DecodeError::Truncated | DecodeError::Corrupt(_)) {
            return error;
        }
        let first = self.first.as_slice();
        match &self.coding {
            Coding::Gzip(_) if !GZIP_BEGINS.starts_with(first) => DecodeError::NotEncoded("gzip"),
            // Deflate data may begin with any byte, but hardly with these two.
            Coding::Deflate(_)
                if matches!(first, [b'{', b'"' | b'}' | b' ' | b'\r' | b'\n'] | [b'<', _]) =>
            {
                DecodeError::NotEncoded("deflate")
            }
            Coding::Identity | Coding::Gzip(_) | Coding::Deflate(_) => error,
        }
    }

    /// What was decoded so far.
    pub(super) fn so_far(&self) -> &[u8] {
        &self.decoded
    }

    /// The decoded answer, once all bytes were pushed.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, DecodeError> {
        // A body of no bytes is no body, whatever encoding is announced for it.
        if self.received == 0 {
            return Ok(self.decoded);
        }
        match &mut self.coding {
            Coding::Identity => {}
            Coding::Gzip(decoder) => {
                decoder.get_mut().ended = true;
                drain_gzip(decoder, &mut self.piece, &mut self.decoded, self.limit)
                    .map_err(|error| self.explained(error))?;
            }
            Coding::Deflate(deflate) if deflate.ended => {}
            Coding::Deflate(_) => return Err(self.explained(DecodeError::Truncated)),
        }
        Ok(self.decoded)
    }
}

fn append(decoded: &mut Vec<u8>, piece: &[u8], limit: usize) -> Result<(), DecodeError> {
    let needed = decoded.len() + piece.len();
    if needed > limit {
        return Err(DecodeError::TooLarge);
    }
    if needed > decoded.capacity() {
        // Doubling, but never past the limit.
        let capacity = needed.max(decoded.capacity().saturating_mul(2)).min(limit);
        decoded.reserve_exact(capacity - decoded.len());
    }
    decoded.extend_from_slice(piece);
    Ok(())
}

/// The bytes received and not yet decoded. It blocks while more may come.
#[derive(Default)]
struct Feed {
    bytes: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Feed {
    fn push(&mut self, wire: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(wire);
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        if rest.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(rest)
    }

    fn consume(&mut self, amount: usize) {
        self.taken = (self.taken + amount).min(self.bytes.len());
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

fn drain_gzip(
    gzip: &mut MultiGzDecoder<Feed>,
    piece: &mut [u8],
    decoded: &mut Vec<u8>,
    limit: usize,
) -> Result<(), DecodeError> {
    loop {
        match gzip.read(piece) {
            Ok(0) => return Ok(()),
            Ok(length) => append(decoded, piece.get(..length).unwrap_or_default(), limit)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(DecodeError::Truncated);
            }
            Err(_) => return Err(DecodeError::Corrupt("gzip")),
        }
    }
}

/// `deflate`, which some servers send in its zlib wrapper and some without.
#[derive(Default)]
struct Deflate {
    /// The first byte, until the second one tells the two forms apart.
    first: Vec<u8>,
    inflate: Option<Decompress>,
    ended: bool,
}

impl Deflate {
    fn push(
        &mut self,
        wire: &[u8],
        piece: &mut [u8],
        decoded: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), DecodeError> {
        let Some(inflate) = &mut self.inflate else {
            self.first.extend_from_slice(wire);
            let [one, two, ..] = *self.first.as_slice() else { return Ok(()) };
            // RFC 1950: method 8, and the two bytes a multiple of 31.
            let zlib = one & 0x0f == 8 && u16::from_be_bytes([one, two]) % 31 == 0;
            self.inflate = Some(Decompress::new(zlib));
            let first = std::mem::take(&mut self.first);
            return self.push(&first, piece, decoded, limit);
        };
        let mut rest = wire;
        while !self.ended {
            let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(rest, piece, FlushDecompress::None)
                .map_err(|_| DecodeError::Corrupt("deflate"))?;
            let read = usize::try_from(inflate.total_in() - before_in).unwrap_or(rest.len());
            let made = usize::try_from(inflate.total_out() - before_out).unwrap_or(PIECE);
            rest = rest.get(read..).unwrap_or_default();
            append(decoded, piece.get(..made).unwrap_or_default(), limit)?;
            self.ended = status == Status::StreamEnd;
            if read == 0 && made == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
