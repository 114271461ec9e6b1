//! Content encodings, in both directions.

use std::io::{self, Read as _, Write as _};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compress, Compression, Crc, FlushCompress};

use super::style::Encoding;

/// The largest request body accepted, before and after decoding: 64 MiB.
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

    /// Value of the `Content-Encoding` header; `None` for identity, which has no header.
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

    /// Encodes a response, favouring speed over size.
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
/// legal before and between the tokens of JSON. Only one mebibyte is really
/// compressed: its blocks stand alone, so they may be repeated.
pub(super) fn bomb(decoded: u64) -> io::Result<Vec<u8>> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    const LAST_BLOCK: [u8; 2] = [3, 0];
    const PART: u64 = 1 << 20;
    let mut stream = HEADER.to_vec();
    let mut check = Crc::new();
    for (length, times) in [(PART, decoded / PART), (decoded % PART, 1)] {
        let blanks = vec![b' '; usize::try_from(length).unwrap_or_default()];
        let mut part = Crc::new();
        part.update(&blanks);
        let mut deflated = Vec::with_capacity(blanks.len() / 16 + 1024);
        Compress::new(Compression::best(), false)
            .compress_vec(&blanks, &mut deflated, FlushCompress::Full)
            .map_err(io::Error::other)?;
        for _ in 0..times {
            stream.extend_from_slice(&deflated);
            check.combine(&part);
        }
    }
    stream.extend_from_slice(&LAST_BLOCK);
    stream.extend_from_slice(&check.sum().to_le_bytes());
    stream.extend_from_slice(&check.amount().to_le_bytes());
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_decodes_to_as_many_blanks_as_it_was_asked_for() {
        for size in [0, 1, 1 << 20, (3 << 20) + 5] {
            let stream = bomb(size).unwrap();
            assert!((stream.len() as u64) < 1024 + size / 500, "{} for {size}", stream.len());
            let mut out = Vec::new();
            MultiGzDecoder::new(&*stream).read_to_end(&mut out).unwrap();
            assert_eq!(out.len() as u64, size);
            assert!(out.iter().all(|byte| *byte == b' '));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let body = b"{\"events\":[]}".repeat(100);
        for encoding in [Encoding::Identity, Encoding::Deflate, Encoding::Gzip] {
            let encoded = encoding.encode(body.clone()).unwrap();
            assert_eq!(encoding.decode(&encoded).unwrap(), body);
            assert_eq!(Encoding::from_header(encoding.header().unwrap_or("")), Some(encoding));
        }
        assert!(Encoding::Gzip.decode(b"{}").is_err());
    }
}
