//! Content codings of request bodies, decoded piece by piece, without I/O.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;
use thiserror::Error;

use crate::mapped_buffer::MappedBuffer;

/// Bytes decoded at a time.
const PIECE: usize = 16 * 1024;

/// A content coding that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 1950, or RFC 1951 without the frame of it, as some clients send.
    Deflate,
    /// RFC 1952, in one or more members.
    Gzip,
}

impl Coding {
    /// Returns the coding of a `Content-Encoding` value; `None` if it is not one of
    /// ours, or several.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let known = [
            ("", Self::Identity),
            ("identity", Self::Identity),
            ("deflate", Self::Deflate),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
        ];
        let name = name.trim();
        known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, coding)| *coding)
    }

    /// Returns the coding of a message with these headers.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Some(Self::Identity) };
        let single = values.next().is_none();
        value.to_str().ok().filter(|_| single).and_then(Self::from_name)
    }
}

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodingError {
    /// The stream is damaged or not of this coding.
    #[error("the body is not what its Content-Encoding says")]
    Corrupt,
    /// The stream ends before its end.
    #[error("the compressed body is cut short")]
    Truncated,
    /// Bytes follow the end of the stream.
    #[error("bytes follow the end of the compressed body")]
    Trailing,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    piece: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Identity,
    /// A deflate body whose first two bytes are not there yet.
    Undecided(Option<u8>),
    Deflate(Decompress),
    Gzip(Box<Gzip>),
    /// The stream has ended.
    Done,
}

impl Decoder {
    /// Returns a decoder at the beginning of a body.
    #[must_use]
    pub fn new(coding: Coding) -> Self {
        let (state, piece) = match coding {
            Coding::Identity => (State::Identity, 0),
            Coding::Deflate => (State::Undecided(None), PIECE),
            Coding::Gzip => (State::Gzip(Box::new(Gzip::new())), PIECE),
        };
        Self { state, piece: vec![0; piece] }
    }

    /// Takes bytes from the front of `input` and appends at most `most` decoded bytes
    /// to `out`. Returns whether the same input may yield more; otherwise it has
    /// been used up.
    ///
    /// # Errors
    /// If the stream is damaged, or goes on after its end.
    pub fn decode(
        &mut self,
        input: &mut &[u8],
        out: &mut MappedBuffer,
        most: usize,
    ) -> Result<bool, CodingError> {
        let end = out.len().saturating_add(most);
        while out.len() < end {
            match &mut self.state {
                State::Identity => {
                    let (now, rest) = input.split_at((end - out.len()).min(input.len()));
                    out.push_bytes(now);
                    *input = rest;
                    return Ok(!input.is_empty());
                }
                State::Undecided(first) => {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
                    *input = rest;
                    let Some(first) = *first else {
                        *first = Some(byte);
                        continue;
                    };
                    let mut inflate = Decompress::new(is_zlib(first, byte));
                    // Two bytes hold one byte of content at most.
                    let mut both = &[first, byte][..];
                    let made = inflate_piece(&mut inflate, &mut both, &mut self.piece)?;
                    out.push_bytes(&self.piece[..made.bytes]);
                    self.state = if made.is_end { State::Done } else { State::Deflate(inflate) };
                }
                State::Deflate(inflate) => {
                    let room = self.piece.len().min(end - out.len());
                    let made = inflate_piece(inflate, input, &mut self.piece[..room])?;
                    out.push_bytes(&self.piece[..made.bytes]);
                    if made.is_end {
                        self.state = State::Done;
                    } else if made.bytes == 0 {
                        return Ok(false);
                    }
                }
                State::Gzip(gzip) => {
                    let room = self.piece.len().min(end - out.len());
                    let Some(bytes) = gzip.decode(input, &mut self.piece[..room])? else {
                        return Ok(false);
                    };
                    out.push_bytes(&self.piece[..bytes]);
                }
                State::Done if input.is_empty() => return Ok(false),
                State::Done => return Err(CodingError::Trailing),
            }
        }
        Ok(true)
    }

    /// Checks at the end of the body that its stream has ended, too. A body without
    /// any byte is an empty one in every coding.
    ///
    /// # Errors
    /// If the stream has not ended.
    pub fn finish(&self) -> Result<(), CodingError> {
        let is_complete = match &self.state {
            State::Identity | State::Done | State::Undecided(None) => true,
            State::Undecided(Some(_)) | State::Deflate(_) => false,
            State::Gzip(gzip) => gzip.is_between_members(),
        };
        if is_complete { Ok(()) } else { Err(CodingError::Truncated) }
    }
}

/// Whether these are the first bytes of RFC 1950. Those of RFC 1951 could be only if
/// a stored block had garbage where zeros belong.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

struct Inflated {
    bytes: usize,
    is_end: bool,
}

/// Inflates into `piece` until that is full, the input used up, or the stream ended.
fn inflate_piece(
    inflate: &mut Decompress,
    input: &mut &[u8],
    piece: &mut [u8],
) -> Result<Inflated, CodingError> {
    let mut bytes = 0;
    while bytes < piece.len() {
        let (taken, made) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(input, &mut piece[bytes..], FlushDecompress::None)
            .map_err(|_| CodingError::Corrupt)?;
        let taken = usize::try_from(inflate.total_in() - taken).unwrap_or(usize::MAX);
        let made = usize::try_from(inflate.total_out() - made).unwrap_or(usize::MAX);
        *input = input.get(taken..).unwrap_or_default();
        bytes += made;
        match status {
            Status::StreamEnd => return Ok(Inflated { bytes, is_end: true }),
            Status::Ok | Status::BufError if taken == 0 && made == 0 => break,
            Status::Ok | Status::BufError => {}
        }
    }
    Ok(Inflated { bytes, is_end: false })
}

/// The members of RFC 1952.
#[derive(Debug)]
struct Gzip {
    part: GzipPart,
    flags: u8,
    inflate: Decompress,
    check: Crc,
    members: u64,
}

/// Where in a member the input is.
#[derive(Clone, Copy, Debug)]
enum GzipPart {
    /// So many bytes of the fixed header have been read.
    Header(usize),
    /// The length of the extra field, and its first byte if that was read.
    ExtraLength(Option<u8>),
    Extra(u16),
    Name,
    Comment,
    /// The checksum of the header, which nobody writes.
    HeaderCheck(u8),
    Data,
    /// So many bytes of the trailer have been read.
    Trailer(usize),
}

const HEADER_CHECK: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
/// The fixed header of RFC 1952.
const HEADER_BYTES: usize = 10;
/// Checksum and length.
const TRAILER_BYTES: usize = 8;

impl Gzip {
    fn new() -> Self {
        Self {
            part: GzipPart::Header(0),
            flags: 0,
            inflate: Decompress::new(false),
            check: Crc::new(),
            members: 0,
        }
    }

    fn is_between_members(&self) -> bool {
        matches!(self.part, GzipPart::Header(0))
    }

    /// Decodes into `piece`, which has room; `None` once the input is used up.
    fn decode(
        &mut self,
        input: &mut &[u8],
        piece: &mut [u8],
    ) -> Result<Option<usize>, CodingError> {
        loop {
            if matches!(self.part, GzipPart::Data) {
                let made = inflate_piece(&mut self.inflate, input, piece)?;
                self.check.update(&piece[..made.bytes]);
                if made.is_end {
                    self.part = GzipPart::Trailer(0);
                } else if made.bytes == 0 {
                    return Ok(None);
                }
                if made.bytes > 0 {
                    return Ok(Some(made.bytes));
                }
            } else {
                let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                self.part = self.frame(byte)?;
            }
        }
    }

    /// The part after one byte of the frame.
    fn frame(&mut self, byte: u8) -> Result<GzipPart, CodingError> {
        let expected =
            |is_right: bool, part| if is_right { Ok(part) } else { Err(CodingError::Corrupt) };
        match self.part {
            GzipPart::Header(at) => {
                let is_right = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => {
                        self.flags = byte;
                        byte & RESERVED == 0
                    }
                    _ => true,
                };
                let next =
                    if at + 1 < HEADER_BYTES { GzipPart::Header(at + 1) } else { self.after(0) };
                if at == 0 && self.members > 0 && !is_right {
                    return Err(CodingError::Trailing);
                }
                expected(is_right, next)
            }
            GzipPart::ExtraLength(None) => Ok(GzipPart::ExtraLength(Some(byte))),
            GzipPart::ExtraLength(Some(low)) => Ok(match u16::from_le_bytes([low, byte]) {
                0 => self.after(EXTRA),
                length => GzipPart::Extra(length),
            }),
            GzipPart::Extra(1) => Ok(self.after(EXTRA)),
            GzipPart::Extra(left) => Ok(GzipPart::Extra(left.saturating_sub(1))),
            GzipPart::Name if byte == 0 => Ok(self.after(NAME)),
            GzipPart::Comment if byte == 0 => Ok(self.after(COMMENT)),
            GzipPart::HeaderCheck(0) => Ok(GzipPart::HeaderCheck(1)),
            GzipPart::HeaderCheck(_) => Ok(self.data()),
            GzipPart::Trailer(at) => {
                let [c0, c1, c2, c3] = self.check.sum().to_le_bytes();
                let [l0, l1, l2, l3] = self.check.amount().to_le_bytes();
                let trailer: [u8; TRAILER_BYTES] = [c0, c1, c2, c3, l0, l1, l2, l3];
                if at + 1 == TRAILER_BYTES {
                    self.members += 1;
                    expected(trailer[at] == byte, GzipPart::Header(0))
                } else {
                    expected(trailer.get(at) == Some(&byte), GzipPart::Trailer(at + 1))
                }
            }
            same @ (GzipPart::Name | GzipPart::Comment | GzipPart::Data) => Ok(same),
        }
    }

    /// The first part that the flags announce behind the one of that flag.
    fn after(&mut self, flag: u8) -> GzipPart {
        let announced = |later: u8| flag < later && self.flags & later != 0;
        if announced(EXTRA) {
            GzipPart::ExtraLength(None)
        } else if announced(NAME) {
            GzipPart::Name
        } else if announced(COMMENT) {
            GzipPart::Comment
        } else if self.flags & HEADER_CHECK != 0 {
            GzipPart::HeaderCheck(0)
        } else {
            self.data()
        }
    }

    fn data(&mut self) -> GzipPart {
        self.inflate.reset(false);
        self.check.reset();
        GzipPart::Data
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    /// Decodes a body that arrives in pieces of that size, so many bytes at a time.
    fn decoded(
        coding: Coding,
        body: &[u8],
        piece: usize,
        most: usize,
    ) -> Result<Vec<u8>, CodingError> {
        let mut decoder = Decoder::new(coding);
        let mut out = MappedBuffer::new(0);
        for mut input in body.chunks(piece) {
            loop {
                let before = out.len();
                let has_more = decoder.decode(&mut input, &mut out, most)?;
                assert!(out.len() - before <= most);
                if !has_more {
                    assert_eq!(input, b"");
                    break;
                }
            }
        }
        decoder.finish()?;
        Ok(out.to_vec())
    }

    fn encoded(coding: Coding, body: &[u8]) -> Vec<u8> {
        let level = Compression::new(6);
        match coding {
            Coding::Identity => body.to_vec(),
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn raw(body: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::none());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn relay_2_headers_of_gzip_may_have_every_field() {
        let body = b"what is in it".repeat(50);
        let mut encoder = GzBuilder::new()
            .filename("events.json")
            .comment("a comment")
            .extra(vec![7; 300])
            .mtime(1)
            .write(Vec::new(), Compression::fast());
        encoder.write_all(&body).unwrap();
        let mut stream = encoder.finish().unwrap();
        // A checksum of the header behind its fields, which nobody reads.
        let end = 10 + 2 + 300 + "events.json\0".len() + "a comment\0".len();
        let mut checked = stream.clone();
        checked[3] |= HEADER_CHECK;
        checked.splice(end..end, [1, 2]);
        let empty_extra = {
            let mut stream = encoded(Coding::Gzip, &body);
            stream[3] |= EXTRA;
            stream.splice(10..10, [0, 0]);
            stream
        };
        for stream in [&stream, &checked, &empty_extra, &[&checked[..], &stream].concat()] {
            let once = decoded(Coding::Gzip, stream, 1, 7).unwrap();
            assert!(once == body || once == body.repeat(2));
        }
        stream[3] |= 0x20;
        assert_eq!(decoded(Coding::Gzip, &stream, 1, 7), Err(CodingError::Corrupt));
    }

    #[test]
    fn relay_2_streams_of_a_few_bytes_are_read() {
        // An empty block, and one byte in the first two of a stream.
        assert_eq!(decoded(Coding::Deflate, &[3, 0], 1, 9), Ok(Vec::new()));
        assert_eq!(decoded(Coding::Deflate, &[0x4b, 4, 0], 1, 9), Ok(b"a".to_vec()));
        assert_eq!(decoded(Coding::Deflate, &[3], 1, 9), Err(CodingError::Truncated));
        assert_eq!(decoded(Coding::Deflate, &[3, 0, 0], 1, 9), Err(CodingError::Trailing));
        for coding in [Coding::Identity, Coding::Deflate, Coding::Gzip] {
            assert_eq!(decoded(coding, b"", 1, 9), Ok(Vec::new()));
        }
    }

    proptest! {
        #[test]
        fn relay_2_a_body_is_the_same_in_any_pieces(
            body in proptest::collection::vec(0..4_u8, 0..3000),
            piece in 1..500_usize,
            most in 1..500_usize,
        ) {
            for coding in [Coding::Identity, Coding::Deflate, Coding::Gzip] {
                let stream = encoded(coding, &body);
                prop_assert_eq!(decoded(coding, &stream, piece, most), Ok(body.clone()));
                let cut = &stream[..stream.len().saturating_sub(1)];
                if coding != Coding::Identity {
                    prop_assert!(decoded(coding, cut, piece, most).is_err());
                }
            }
            prop_assert_eq!(decoded(Coding::Deflate, &raw(&body), piece, most), Ok(body));
        }

        #[test]
        fn relay_12_any_bytes_end_in_a_body_or_an_error(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            frame in prop_oneof![Just(&b""[..]), Just(&[0x1f, 0x8b, 8][..]), Just(&[0x78, 0x9c][..])],
        ) {
            let body = [frame, &body].concat();
            for coding in [Coding::Deflate, Coding::Gzip] {
                let at_once = decoded(coding, &body, body.len().max(1), 1 << 20);
                prop_assert_eq!(decoded(coding, &body, 1, 3), at_once);
            }
        }
    }
}
