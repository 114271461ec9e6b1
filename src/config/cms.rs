//! The content of a signed profile: the walk through a CMS `SignedData` to the
//! octets that were signed.
//!
//! The signature is not checked. macOS did that when the profile was installed;
//! a file named on the command line is trusted as an unsigned one is. Signing
//! tools write BER with indefinite lengths and octets in pieces, so both are
//! read here; nothing else of ASN.1 is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The message in a PEM armour, as `openssl cms -outform PEM` and `security cms`
/// write it; `None` if there is no such armour.
pub(super) fn unarmoured(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?.trim_start_matches('\u{feff}').trim_start();
    let (label, body) = text.strip_prefix("-----BEGIN ")?.split_once("-----")?;
    if !["PKCS7", "PKCS #7 SIGNED DATA", "CMS"].contains(&label) {
        return None;
    }
    let (body, _) = body.split_once("-----END ")?;
    let mut body = body.to_owned();
    body.retain(|c| !c.is_ascii_whitespace());
    STANDARD.decode(body).ok()
}

/// Whether the bytes may be a signed profile: a `SEQUENCE`, which no property
/// list begins with.
pub(super) fn looks_signed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&SEQUENCE_TAG)
}

/// The signed content; `None` if the bytes are no `SignedData` with its content
/// inside.
pub(super) fn content(bytes: &[u8]) -> Option<Vec<u8>> {
    let content_info = Element::read(bytes)?.0.of(SEQUENCE_TAG)?;
    let (kind, rest) = Element::read(content_info.inner)?;
    if kind.of(OBJECT_ID)?.inner != SIGNED_DATA {
        return None;
    }
    let explicit = Element::read(rest)?.0.of(CONTEXT_0)?;
    let signed_data = Element::read(explicit.inner)?.0.of(SEQUENCE_TAG)?;
    let (_version, rest) = Element::read(signed_data.inner)?;
    let (_digest_algorithms, rest) = Element::read(rest)?;
    let encapsulated = Element::read(rest)?.0.of(SEQUENCE_TAG)?;
    let (_content_type, rest) = Element::read(encapsulated.inner)?;
    let explicit = Element::read(rest)?.0.of(CONTEXT_0)?;
    let mut octets = Vec::new();
    collect(&Element::read(explicit.inner)?.0, &mut octets, 0)?;
    Some(octets)
}

const OBJECT_ID: u8 = 0x06;
const OCTET_STRING_TAG: u8 = 0x04;
const OCTETS_IN_PIECES: u8 = 0x24;
const SEQUENCE_TAG: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONSTRUCTED: u8 = 0x20;
const INDEFINITE: u8 = 0x80;

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// Deeper nesting than any signer's; certificates nest about 10 deep.
const MAX_DEPTH: u32 = 32;

struct Element<'a> {
    tag: u8,
    inner: &'a [u8],
}

impl<'a> Element<'a> {
    /// The element at the start of `bytes`, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        Self::read_at(bytes, 0)
    }

    fn read_at(bytes: &'a [u8], depth: u32) -> Option<(Self, &'a [u8])> {
        let (&[tag, first], rest) = bytes.split_first_chunk()?;
        if depth > MAX_DEPTH || tag & 0x1f == 0x1f {
            // Tags of several bytes do not occur in a SignedData.
            return None;
        }
        if first == INDEFINITE {
            if tag & CONSTRUCTED == 0 {
                return None;
            }
            let mut after = rest;
            while !after.starts_with(&[0, 0]) {
                (_, after) = Self::read_at(after, depth + 1)?;
            }
            let inner = rest.get(..rest.len() - after.len())?;
            return Some((Self { tag, inner }, after.get(2..)?));
        }
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        };
        let (inner, after) = rest.split_at_checked(length)?;
        Some((Self { tag, inner }, after))
    }

    fn of(self, tag: u8) -> Option<Self> {
        (self.tag == tag).then_some(self)
    }
}

fn collect(element: &Element<'_>, into: &mut Vec<u8>, depth: u32) -> Option<()> {
    match element.tag {
        OCTET_STRING_TAG => into.extend_from_slice(element.inner),
        OCTETS_IN_PIECES if depth < MAX_DEPTH => {
            let mut rest = element.inner;
            while !rest.is_empty() {
                let (piece, after) = Element::read(rest)?;
                collect(&piece, into, depth + 1)?;
                rest = after;
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let inner = parts.concat();
        let length = u16::try_from(inner.len()).expect("a short element").to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], &inner[..]].concat()
    }

    fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[tag, 0x80], &parts.concat()[..], &[0, 0]].concat()
    }

    fn signed(content: &[u8], make: fn(u8, &[&[u8]]) -> Vec<u8>) -> Vec<u8> {
        let data = [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01][..]].concat();
        let explicit = make(CONTEXT_0, &[content]);
        let encapsulated = make(SEQUENCE_TAG, &[&der(OBJECT_ID, &[&data]), &explicit]);
        let signed_data = make(SEQUENCE_TAG, &[&[2, 1, 1], &der(0x31, &[]), &encapsulated]);
        let explicit = make(CONTEXT_0, &[&signed_data]);
        make(SEQUENCE_TAG, &[&der(OBJECT_ID, &[SIGNED_DATA]), &explicit])
    }

    #[test]
    fn conf_1_signed_content_is_found_in_der_and_in_ber() {
        let whole = der(OCTET_STRING_TAG, &[b"hello"]);
        let pieces = ber(
            OCTETS_IN_PIECES,
            &[&der(OCTET_STRING_TAG, &[b"hel"]), &der(OCTET_STRING_TAG, &[b"lo"])],
        );
        for (octets, make) in
            [(&whole, der as fn(u8, &[&[u8]]) -> Vec<u8>), (&whole, ber), (&pieces, ber)]
        {
            let bytes = signed(octets, make);
            assert!(looks_signed(&bytes));
            assert_eq!(content(&bytes).as_deref(), Some(&b"hello"[..]));
        }
    }

    #[test]
    fn conf_1_a_signed_profile_in_a_pem_armour_is_unpacked() {
        let bytes = signed(&der(OCTET_STRING_TAG, &[b"hello"]), der);
        for label in ["PKCS7", "CMS"] {
            let body = STANDARD.encode(&bytes).replace('A', "A\r\n");
            let text = format!("\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            assert_eq!(unarmoured(text.as_bytes()).as_deref(), Some(&*bytes), "{label}");
        }
        for other in ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "", "\u{ff}"]
        {
            assert_eq!(unarmoured(other.as_bytes()), None);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_ends_in_an_answer() {
        let bytes = signed(&ber(OCTETS_IN_PIECES, &[&der(OCTET_STRING_TAG, &[b"hello"])]), ber);
        for end in 0..bytes.len() - 1 {
            let cut = content(&bytes[..end]);
            assert!(cut.is_none() || cut.as_deref() == Some(b"hello"), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for value in [0x00, 0x7f, 0x80, 0x84, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // Whatever comes out, it is no longer than what went in.
                assert!(content(&bytes).is_none_or(|octets| octets.len() < bytes.len()));
            }
        }
        assert_eq!(content(&[0x30, 0x80].repeat(10_000)), None);
        assert_eq!(content(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
