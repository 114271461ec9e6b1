use std::io::Read as _;

use super::*;

const TEXT: &[u8] = b"{\"rules\":[{\"identifier\":\"ABCDEFGHIJ\",\"policy\":\"ALLOWLIST\"}]}";

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let level = flate2::Compression::default();
    flate2::bufread::GzEncoder::new(body, level).read_to_end(&mut wire).expect("gzip");
    wire
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let level = flate2::Compression::default();
    flate2::bufread::ZlibEncoder::new(body, level).read_to_end(&mut wire).expect("zlib");
    wire
}

fn raw(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    flate2::bufread::DeflateEncoder::new(body, flate2::Compression::default())
        .read_to_end(&mut wire)
        .expect("raw deflate");
    wire
}

fn decode(encoding: &str, wire: &[u8], step: usize, limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new([encoding].into_iter(), None, limit)?;
    for piece in wire.chunks(step) {
        decoder.push(piece)?;
        while decoder.step()? {}
    }
    decoder.finish()
}

#[test]
fn http_5_the_encoding_is_read_in_any_case() {
    assert_eq!("GZip".parse(), Ok(ContentEncoding::Gzip));
    assert_eq!("NONE".parse(), Ok(ContentEncoding::None));
    assert_eq!("Deflate".parse(), Ok(ContentEncoding::Deflate));
    assert!("br".parse::<ContentEncoding>().is_err());
}

/// HTTP-5: `deflate` is the zlib wrapper, and an empty body has no encoding.
#[test]
fn http_5_bodies_are_encoded_as_asked() {
    let packed = |encoding: ContentEncoding| Packer::new(encoding).pack(TEXT.to_owned());
    let deflate = packed(ContentEncoding::Deflate);
    assert_eq!((deflate.bytes[0], deflate.encoding), (0x78, Some("deflate")));
    let gzip = packed(ContentEncoding::Gzip);
    assert_eq!((&gzip.bytes[..2], gzip.encoding), (&[0x1f, 0x8b][..], Some("gzip")));
    assert_eq!(packed(ContentEncoding::None), EncodedBody::plain(TEXT.to_owned()));
    for encoding in [ContentEncoding::Deflate, ContentEncoding::Gzip, ContentEncoding::None] {
        assert_eq!(Packer::new(encoding).pack(Vec::new()), EncodedBody::default());
    }
}

/// HTTP-5: whatever a packer has packed before, a body comes out as it went in.
#[test]
fn http_5_what_is_packed_is_unpacked_by_another_implementation() {
    for encoding in [ContentEncoding::Deflate, ContentEncoding::Gzip] {
        let mut one = Packer::new(encoding);
        for length in [100_000_u32, 1, 2, 7_000, 300_000, 3] {
            for step in [1_u32, 2_654_435_761] {
                let noise = (0..length).map(|i| i.wrapping_mul(step).to_be_bytes()[0]);
                let body: Vec<u8> = noise.collect();
                let packed = one.pack(body.clone());
                assert_eq!(packed.encoding, Some(encoding.name()));
                let plain = step == 1 && length >= 7_000;
                assert!(!plain || packed.bytes.len() < body.len() / 50, "{}", packed.bytes.len());
                let unpacked = decode(encoding.name(), &packed.bytes, 1_000, body.len());
                assert_eq!(unpacked, Ok(body), "{length} bytes");
            }
        }
    }
}

#[test]
fn http_6_every_encoding_is_decoded_however_it_is_cut_into_pieces() {
    let two = [gzip(&TEXT[..9]), gzip(&TEXT[9..])].concat();
    for (encoding, wire) in [
        ("gzip", gzip(TEXT)),
        ("X-GZIP", gzip(TEXT)),
        ("gzip", two),
        ("deflate", zlib(TEXT)),
        ("deflate", raw(TEXT)),
        ("identity", TEXT.to_vec()),
        ("", TEXT.to_vec()),
        ("identity, gzip", gzip(TEXT)),
    ] {
        for step in 1..=wire.len() {
            assert_eq!(
                decode(encoding, &wire, step, TEXT.len()).as_deref(),
                Ok(TEXT),
                "{encoding} in pieces of {step}"
            );
        }
    }
}

/// HTTP-2: compressed data that breaks off is no complete response, wherever the
/// cut is.
#[test]
fn http_2_compressed_data_cut_anywhere_is_truncated() {
    for (encoding, wire) in [("gzip", gzip(TEXT)), ("deflate", zlib(TEXT)), ("deflate", raw(TEXT))]
    {
        for length in 1..wire.len() {
            assert_eq!(
                decode(encoding, &wire[..length], 7, 1 << 20),
                Err(DecodeError::Truncated),
                "{encoding} cut at {length} of {}",
                wire.len()
            );
        }
    }
}

#[test]
fn http_6_corrupt_or_unknown_encodings_are_refused() {
    let mut wire = gzip(TEXT);
    let crc = wire.len() - 8;
    wire[crc] ^= 1;
    assert_eq!(decode("gzip", &wire, 64, 1 << 20), Err(DecodeError::Corrupt("gzip")));
    let mut wire = zlib(TEXT);
    let adler = wire.len() - 1;
    wire[adler] ^= 1;
    assert_eq!(decode("deflate", &wire, 64, 1 << 20), Err(DecodeError::Corrupt("deflate")));
    // A short body ends before it could be told to be no gzip by its length.
    for text in [TEXT, b"{}", b"<"] {
        for step in [1, 64] {
            let not = |encoding| Err(DecodeError::NotEncoded(encoding));
            assert_eq!(decode("gzip", text, step, 1 << 20), not("gzip"));
            if text.len() > 1 {
                assert_eq!(decode("deflate", text, step, 1 << 20), not("deflate"));
            }
        }
    }
    assert_eq!(decode("br", TEXT, 64, 1 << 20), Err(DecodeError::Unknown("br".to_owned())));
    assert_eq!(
        decode("gzip, deflate", TEXT, 64, 1 << 20),
        Err(DecodeError::Unknown("gzip, deflate".to_owned()))
    );
}

#[test]
fn http_6_no_bytes_are_an_empty_body_in_every_encoding() {
    for encoding in ["gzip", "deflate", "identity"] {
        assert_eq!(decode(encoding, b"", 1, 10), Ok(Vec::new()));
    }
}

/// HTTP-8: the limit holds after decoding, and memory within it.
#[test]
fn http_8_a_bomb_ends_at_the_limit() {
    let zeros = vec![0; 2 << 20];
    let limit = 1 << 20;
    for (encoding, wire) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros))] {
        assert!(wire.len() < 16 << 10);
        let mut decoder = Decoder::new([encoding].into_iter(), None, limit).expect("known");
        assert_eq!(decoder.push(&wire), Ok(()));
        let end = std::iter::repeat_with(|| decoder.step()).find(|step| *step != Ok(true));
        assert_eq!(end, Some(Err(DecodeError::TooLarge)));
        assert!(decoder.capacity() <= limit);
    }
    assert_eq!(decode("identity", &zeros, 1000, limit), Err(DecodeError::TooLarge));
    assert!(matches!(
        Decoder::new([].into_iter(), Some(limit as u64 + 1), limit),
        Err(DecodeError::TooLarge)
    ));
}

/// HTTP-9: however much a few bytes decode to, a step is short, and a response of
/// 128 MiB is one of many steps.
#[test]
fn http_9_what_a_few_bytes_decode_to_comes_in_short_steps() {
    let zeros = vec![0; 3 << 20];
    for (encoding, wire) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros))] {
        let mut decoder = Decoder::new([encoding].into_iter(), None, zeros.len()).expect("known");
        decoder.push(&wire).expect("taken");
        let mut before = 0;
        while decoder.step().expect("decoded") {
            let now = decoder.so_far().len();
            assert!(now - before < 300 << 10, "{encoding}: {} bytes", now - before);
            before = now;
        }
        assert_eq!(decoder.finish().map(|body| body.len()), Ok(zeros.len()));
    }
    // Members that hold nothing cost time as well.
    let nothing: Vec<u8> = std::iter::repeat_n(gzip_of_nothing(), 100).flatten().collect();
    let mut decoder = Decoder::new(["gzip"].into_iter(), None, 1 << 20).expect("known");
    decoder.push(&nothing).expect("taken");
    let steps = std::iter::repeat_with(|| decoder.step()).take_while(|step| *step == Ok(true));
    assert!(steps.count() >= 100);
}

/// HTTP-6: line ends, padding and junk behind a complete gzip member or zlib
/// stream. Another gzip member is data.
#[test]
fn http_6_what_follows_the_end_of_compressed_data_is_ignored() {
    for rest in
        [&b"\n"[..], b"\r\n", b"\0\0\0\0\0\0\0\0", b"-- \x1f\x8b\x08", b"\x1f\x8b\x07 no member"]
    {
        for (encoding, wire) in
            [("gzip", gzip(TEXT)), ("deflate", zlib(TEXT)), ("deflate", raw(TEXT))]
        {
            let wire = [&wire, rest].concat();
            for step in 1..=wire.len() {
                assert_eq!(
                    decode(encoding, &wire, step, TEXT.len()).as_deref(),
                    Ok(TEXT),
                    "{encoding} and {rest:?} in pieces of {step}"
                );
            }
        }
    }
    let junk_between = [&gzip(TEXT)[..], b"\n", &gzip(TEXT)].concat();
    assert_eq!(decode("gzip", &junk_between, 7, 1000).as_deref(), Ok(TEXT));
}

/// HTTP-2: a second gzip member that breaks off is no complete response.
#[test]
fn http_2_a_later_gzip_member_cut_anywhere_is_truncated() {
    let (one, two) = (gzip(&TEXT[..9]), gzip(&TEXT[9..]));
    for length in 1..two.len() {
        let wire = [&one, &two[..length]].concat();
        assert_eq!(decode("gzip", &wire, 7, 1 << 20), Err(DecodeError::Truncated), "{length}");
    }
}

/// HTTP-8: gzip members that hold nothing, without end.
#[test]
fn http_8_endless_compressed_nothing_ends_at_the_limit() {
    let nothing: Vec<u8> = std::iter::repeat_n(gzip_of_nothing(), 10_000).flatten().collect();
    assert_eq!(decode("gzip", &nothing, 10, 1000), Err(DecodeError::TooLarge));
}

fn gzip_of_nothing() -> Vec<u8> {
    let mut wire = Vec::new();
    flate2::bufread::GzEncoder::new(&b""[..], flate2::Compression::default())
        .read_to_end(&mut wire)
        .expect("gzip");
    wire
}
