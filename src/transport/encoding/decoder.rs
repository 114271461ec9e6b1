//! Decodes responses so that a limit of memory holds whatever the server sends,
//! and in steps so short that the time limits are kept.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

use crate::transport::response_budget::BudgetShare;

/// Why a response cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(in crate::transport) enum DecodeError {
    /// More bytes than the limit, decoded or as received.
    #[error("more than the limit")]
    TooLarge,
    /// More bytes than other responses have left of the memory they share.
    #[error("more than the shared memory has left")]
    BudgetExhausted,
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

/// Decodes one response. Memory stays within the limit and a small constant.
pub(in crate::transport) struct Decoder {
    coding: Coding,
    decoded: Output,
    piece: Vec<u8>,
    /// The first bytes off the wire, at most two.
    first: Vec<u8>,
    received: u64,
}

enum Coding {
    ClientIdentity,
    Gzip(Gzip),
    Deflate(Deflate),
}

/// Decoded bytes are written in pieces of this size.
const PIECE_BYTES: usize = 32 * 1024;
/// A step ends after this much: a millisecond, or some in a debug build.
const STEP_BYTES: usize = 256 << 10;
/// Compressed data may be longer by this much than the limit for what it
/// decodes to.
const MAX_OVERHEAD_BYTES: usize = 64 * 1024;

impl Decoder {
    /// A decoder for the values of a response's `Content-Encoding` headers,
    /// which takes at most `limit` bytes. `length` is the `Content-Length`.
    pub(in crate::transport) fn new<'a>(
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
            [] => Coding::ClientIdentity,
            [one] if matches!(one.as_str(), "gzip" | "x-gzip") => Coding::Gzip(Gzip::default()),
            [one] if matches!(one.as_str(), "deflate" | "zlib") => {
                Coding::Deflate(Deflate::default())
            }
            other => return Err(DecodeError::Unknown(other.join(", "))),
        };
        let mut decoded = Output { bytes: Vec::new(), limit, share: BudgetShare::default() };
        if let (Coding::ClientIdentity, Some(length)) = (&coding, length) {
            let length = usize::try_from(length).map_err(|_| DecodeError::TooLarge)?;
            if length > limit {
                return Err(DecodeError::TooLarge);
            }
            // A server may announce much and send little, so a large response's
            // memory is taken as it comes.
            decoded.bytes.reserve_exact(length.min(8 * 1024 * 1024));
        }
        let piece = if matches!(coding, Coding::ClientIdentity) {
            Vec::new()
        } else {
            vec![0; PIECE_BYTES]
        };
        Ok(Self { coding, decoded, piece, first: Vec::new(), received: 0 })
    }

    /// Takes the memory for what it decodes from a budget.
    pub(in crate::transport) fn within(mut self, share: BudgetShare) -> Self {
        self.decoded.share = share;
        self
    }

    /// Takes the next bytes off the wire. Compressed ones wait for [`Self::step`].
    pub(in crate::transport) fn push(&mut self, wire: &[u8]) -> Result<(), DecodeError> {
        self.received += wire.len() as u64;
        self.first.extend(wire.iter().take(2 - self.first.len()));
        // Compressed data can be long without end and decode to nothing.
        if self.received > (self.decoded.limit + MAX_OVERHEAD_BYTES) as u64 {
            return Err(DecodeError::TooLarge);
        }
        match &mut self.coding {
            Coding::ClientIdentity => self.decoded.append(wire),
            Coding::Gzip(gzip) => {
                gzip.push(wire);
                Ok(())
            }
            Coding::Deflate(deflate) => {
                deflate.waiting.push(wire);
                Ok(())
            }
        }
    }

    /// Decodes some of what was pushed, 256 KiB or a little more; `true` while
    /// there is more to do.
    pub(in crate::transport) fn step(&mut self) -> Result<bool, DecodeError> {
        let more = match &mut self.coding {
            Coding::ClientIdentity => Ok(false),
            Coding::Gzip(gzip) => gzip.step(&mut self.piece, &mut self.decoded),
            Coding::Deflate(deflate) => deflate.step(&mut self.piece, &mut self.decoded),
        };
        more.map_err(|error| self.explained(error))
    }

    /// What an error means once the first bytes are looked at: servers and
    /// proxies announce encodings that they do not apply.
    fn explained(&self, error: DecodeError) -> DecodeError {
        if !matches!(error, DecodeError::Truncated | DecodeError::Corrupt(_)) {
            return error;
        }
        let first = self.first.as_slice();
        match &self.coding {
            Coding::Gzip(_) if !GZIP_MAGIC[..2].starts_with(first) => {
                DecodeError::NotEncoded("gzip")
            }
            // Deflate data may begin with any byte, but hardly with these two.
            Coding::Deflate(_)
                if matches!(first, [b'{', b'"' | b'}' | b' ' | b'\r' | b'\n'] | [b'<', _]) =>
            {
                DecodeError::NotEncoded("deflate")
            }
            Coding::ClientIdentity | Coding::Gzip(_) | Coding::Deflate(_) => error,
        }
    }

    /// What was decoded so far.
    pub(in crate::transport) fn so_far(&self) -> &[u8] {
        &self.decoded.bytes
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.decoded.bytes.capacity()
    }

    /// The decoded response, once all bytes were pushed and all steps made.
    pub(in crate::transport) fn finish(mut self) -> Result<Vec<u8>, DecodeError> {
        // A body of no bytes is no body, whatever encoding is announced for it.
        if self.received > 0 {
            let ended = match &mut self.coding {
                Coding::Gzip(gzip) => gzip.finish(&mut self.piece, &mut self.decoded),
                Coding::ClientIdentity | Coding::Deflate(Deflate { ended: true, .. }) => Ok(()),
                Coding::Deflate(_) => Err(DecodeError::Truncated),
            };
            ended.map_err(|error| self.explained(error))?;
        }
        Ok(self.decoded.bytes)
    }
}

/// What was decoded, up to the limit.
struct Output {
    bytes: Vec<u8>,
    limit: usize,
    share: BudgetShare,
}

impl Output {
    fn append(&mut self, piece: &[u8]) -> Result<(), DecodeError> {
        let bytes = &mut self.bytes;
        let needed = bytes.len() + piece.len();
        if needed > self.limit {
            return Err(DecodeError::TooLarge);
        }
        self.share.grow(piece.len()).map_err(|_| DecodeError::BudgetExhausted)?;
        if needed > bytes.capacity() {
            // Doubling, but never past the limit.
            let capacity = needed.max(bytes.capacity().saturating_mul(2)).min(self.limit);
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// The bytes received and not yet decoded. Reading blocks while more may come.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Input {
    fn push(&mut self, wire: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(wire);
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.taken = (self.taken + amount).min(self.bytes.len());
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// What every gzip member begins with (RFC 1952): its mark, and deflate.
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// gzip members, one after another. Some servers write a line end or padding
/// behind the last one, which is ignored as other programs do.
enum Gzip {
    /// Within a member.
    Member(Box<GzDecoder<Input>>),
    /// Behind a complete member: the next bytes are another one, or are not.
    Between(Input),
    /// Behind the last member.
    UploadEnded,
}

impl Default for Gzip {
    fn default() -> Self {
        Self::Member(Box::new(GzDecoder::new(Input::default())))
    }
}

impl Gzip {
    fn push(&mut self, wire: &[u8]) {
        match self {
            Self::Member(decoder) => decoder.get_mut().push(wire),
            Self::Between(waiting) => waiting.push(wire),
            Self::UploadEnded => {}
        }
    }

    /// A step ends with a member at the latest: each costs time, and may hold
    /// nothing.
    fn step(&mut self, piece: &mut [u8], decoded: &mut Output) -> Result<bool, DecodeError> {
        match std::mem::replace(self, Self::UploadEnded) {
            Self::UploadEnded => Ok(false),
            Self::Between(waiting) => {
                let begins = waiting.rest().get(..GZIP_MAGIC.len());
                let more = begins == Some(&GZIP_MAGIC[..]);
                if more {
                    *self = Self::Member(Box::new(GzDecoder::new(waiting)));
                } else if GZIP_MAGIC.starts_with(waiting.rest()) {
                    *self = Self::Between(waiting);
                }
                Ok(more)
            }
            Self::Member(mut member) => {
                let start = decoded.bytes.len();
                while decoded.bytes.len() - start < STEP_BYTES {
                    match member.read(piece) {
                        Ok(0) => {
                            *self = Self::Between(member.into_inner());
                            return Ok(true);
                        }
                        Ok(length) => decoded.append(piece.get(..length).unwrap_or_default())?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            *self = Self::Member(member);
                            return Ok(false);
                        }
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            return Err(DecodeError::Truncated);
                        }
                        Err(_) => return Err(DecodeError::Corrupt("gzip")),
                    }
                }
                *self = Self::Member(member);
                Ok(true)
            }
        }
    }

    fn finish(&mut self, piece: &mut [u8], decoded: &mut Output) -> Result<(), DecodeError> {
        if let Self::Member(decoder) = self {
            decoder.get_mut().ended = true;
        }
        while self.step(piece, decoded)? {}
        match self {
            // One or two bytes of another member.
            Self::Between(waiting) if !waiting.rest().is_empty() => Err(DecodeError::Truncated),
            Self::Member(_) => Err(DecodeError::Truncated),
            Self::Between(_) | Self::UploadEnded => Ok(()),
        }
    }
}

/// `deflate`, which some servers send in its zlib wrapper and some without.
/// What follows its end is ignored.
#[derive(Default)]
struct Deflate {
    waiting: Input,
    inflate: Option<Decompress>,
    ended: bool,
}

impl Deflate {
    fn step(&mut self, piece: &mut [u8], decoded: &mut Output) -> Result<bool, DecodeError> {
        if self.ended {
            self.waiting = Input::default();
            return Ok(false);
        }
        let inflate = match (&mut self.inflate, self.waiting.rest()) {
            (Some(inflate), _) => inflate,
            (none, [one, two, ..]) => {
                // RFC 1950: method 8, and the two bytes a multiple of 31.
                let zlib = one & 0x0f == 8 && u16::from_be_bytes([*one, *two]) % 31 == 0;
                none.insert(Decompress::new(zlib))
            }
            (None, _) => return Ok(false),
        };
        let start = decoded.bytes.len();
        while decoded.bytes.len() - start < STEP_BYTES {
            let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(self.waiting.rest(), piece, FlushDecompress::None)
                .map_err(|_| DecodeError::Corrupt("deflate"))?;
            let read = usize::try_from(inflate.total_in() - before_in).unwrap_or(usize::MAX);
            let made = usize::try_from(inflate.total_out() - before_out).unwrap_or(PIECE_BYTES);
            self.waiting.consume(read);
            decoded.append(piece.get(..made).unwrap_or_default())?;
            self.ended = status == Status::StreamEnd;
            if self.ended || read == 0 && made == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
