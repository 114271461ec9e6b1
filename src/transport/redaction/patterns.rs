//! Searches for many texts at once, in upper and lower case.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::escapes;
use crate::model::text::hex;

/// The length of the prefix by which texts are indexed, in bytes.
const KEY_BYTES: usize = 4;

/// Large texts are searched in pieces of this size in bytes, because undoing their escapes takes
/// a multiple of it.
const PIECE_BYTES: usize = 256 << 10;
/// How many bytes consecutive pieces share, so that a secret at a border is whole in one of them.
const PIECE_OVERLAP: usize = 32 << 10;

/// A form of a secret, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pattern {
    bytes: Vec<u8>,
    /// It is the middle of base64 data: the data around it belongs to the secret as well.
    is_base64: bool,
}

/// Every form of some secrets.
#[derive(Clone, Default)]
pub(super) struct Patterns {
    all: Vec<Pattern>,
    known: HashSet<Pattern>,
    /// By their first bytes.
    starts: HashMap<[u8; KEY_BYTES], Vec<usize>>,
}

impl Patterns {
    /// Adds the forms in which a secret may be found: as it is, without its escapes, in hex, and
    /// as a part of base64 data.
    pub(super) fn add(&mut self, secret: &str, min_bytes: usize) {
        let bytes = secret.as_bytes();
        self.insert(bytes, false, min_bytes);
        for layer in escapes::layers(bytes) {
            self.insert(&layer.bytes, false, min_bytes);
        }
        if bytes.len() < min_bytes {
            return;
        }
        self.insert(hex(bytes).as_bytes(), false, min_bytes);
        for before in 0..3 {
            let core = base64_core(bytes, before);
            self.insert(&core, true, min_bytes);
            // As a form that is not escaped is read.
            let blanks: Vec<u8> =
                core.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            self.insert(&blanks, true, min_bytes);
            let url_safe: Vec<u8> = core
                .iter()
                .map(|byte| match byte {
                    b'+' => b'-',
                    b'/' => b'_',
                    byte => *byte,
                })
                .collect();
            self.insert(&url_safe, true, min_bytes);
        }
    }

    fn insert(&mut self, bytes: &[u8], is_base64: bool, min_bytes: usize) {
        let pattern = Pattern { bytes: bytes.to_ascii_lowercase(), is_base64 };
        let Some(key) = key(&pattern.bytes) else { return };
        if bytes.len() < min_bytes || !self.known.insert(pattern.clone()) {
            return;
        }
        self.starts.entry(key).or_default().push(self.all.len());
        self.all.push(pattern);
    }

    /// Every place in the original where one of them occurs, in any case and under any escapes.
    pub(super) fn find(&self, original: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.all.is_empty() {
            return found;
        }
        let mut start = 0;
        loop {
            let end = original.len().min(start + PIECE_BYTES);
            let piece = &original[start..end];
            self.find_in(piece, |part| found.push(start + part.start..start + part.end));
            for layer in escapes::layers(piece) {
                self.find_in(&layer.bytes, |part| {
                    let part = layer.original(part);
                    found.push(start + part.start..start + part.end);
                });
            }
            if end == original.len() {
                return found;
            }
            start = end - PIECE_OVERLAP;
        }
    }

    fn find_in(&self, bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
        let lower = bytes.to_ascii_lowercase();
        // Where the last part ends. What lies within it is not looked at again: a long run of
        // base64 data may have a secret many times.
        let mut covered = 0;
        for at in 0..lower.len() {
            let rest = &lower[at..];
            let Some(starts) = key(rest).and_then(|key| self.starts.get(&key)) else { continue };
            for pattern in starts.iter().filter_map(|index| self.all.get(*index)) {
                let part = at..at + pattern.bytes.len();
                if part.end <= covered || !rest.starts_with(&pattern.bytes) {
                    continue;
                }
                let part = if pattern.is_base64 { whole_base64(bytes, part) } else { part };
                covered = part.end;
                found(part);
            }
        }
    }

    /// Where the beginning of one of them starts that the end of the text cuts off.
    pub(super) fn cut(&self, text: &[u8], min_bytes: usize) -> Option<usize> {
        // The cut may be in the middle of an escape.
        [Some(text.len()), escapes::cut(text)]
            .into_iter()
            .flatten()
            .filter_map(|end| self.cut_at(text.get(..end)?, min_bytes))
            .min()
    }

    fn cut_at(&self, text: &[u8], min_bytes: usize) -> Option<usize> {
        let plain = self.cut_in(text, min_bytes).map(|(at, is_base64)| {
            if is_base64 { whole_base64(text, at..text.len()).start } else { at }
        });
        let layers = escapes::layers(text);
        let escaped = layers.iter().filter_map(|layer| {
            let (at, _) = self.cut_in(&layer.bytes, min_bytes)?;
            Some(layer.original(at..layer.bytes.len()).start)
        });
        plain.into_iter().chain(escaped).min()
    }

    fn cut_in(&self, text: &[u8], min_bytes: usize) -> Option<(usize, bool)> {
        let longest = self.all.iter().map(|pattern| pattern.bytes.len()).max()?;
        let from = text.len().saturating_sub(longest);
        let lower = text.get(from..)?.to_ascii_lowercase();
        // The longest first.
        (0..lower.len().saturating_sub(min_bytes - 1)).find_map(|at| {
            let end = &lower[at..];
            let starts = self.starts.get(&key(end)?)?;
            let fits = |pattern: &&Pattern| pattern.bytes.starts_with(end);
            let mut patterns = starts.iter().filter_map(|index| self.all.get(*index));
            patterns.find(fits).map(|pattern| (from + at, pattern.is_base64))
        })
    }
}

fn key(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    bytes.first_chunk().copied()
}

/// The characters of base64 data that depend on these bytes alone, if `before` bytes (modulo 3)
/// precede them.
fn base64_core(bytes: &[u8], before: usize) -> Vec<u8> {
    let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
    let mut text = STANDARD_NO_PAD.encode(&padded).into_bytes();
    if !padded.len().is_multiple_of(3) {
        // It has bits of what follows.
        text.pop();
    }
    // These have bits of what is before.
    let uncertain = [0, 2, 3][before];
    text.split_off(uncertain.min(text.len()))
}

/// The base64 data around a part of it.
fn whole_base64(text: &[u8], part: Range<usize>) -> Range<usize> {
    let is_data =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    let before = text[..part.start].iter().rev().take_while(|byte| is_data(byte)).count();
    let behind = text[part.end..].iter().take_while(|byte| is_data(byte) || **byte == b'=').count();
    part.start - before..part.end + behind
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever a secret is in a large text, and however often, it is found, and in a time
    /// that grows with the text.
    #[test]
    fn large_texts_are_looked_through_in_pieces() {
        let mut patterns = Patterns::default();
        patterns.add("s3cret-of-host", 5);
        let mut text = vec![b'.'; 2 * PIECE_BYTES];
        let places: Vec<usize> =
            (0..9).map(|n| PIECE_BYTES - 20 + 5 * n).chain([0, text.len() - 14]).collect();
        for place in places {
            text.fill(b'.');
            text[place..place + 14].copy_from_slice(b"s3crEt-of-host");
            let mut found = patterns.find(&text);
            found.dedup();
            assert_eq!((found.len(), &found[0]), (1, &(place..place + 14)));
        }
        let run = STANDARD_NO_PAD.encode(b"s3cret-of-host ".repeat(50_000)).into_bytes();
        let mut found = patterns.find(&run);
        found.sort_unstable_by_key(|part| part.start);
        assert!(found.len() < 100, "{}", found.len());
        let covered = found.iter().fold(0, |end, part| {
            assert!(part.start <= end);
            end.max(part.end)
        });
        assert_eq!(covered, run.len());
    }

    #[test]
    fn base64_data_has_the_core_wherever_the_secret_is_in_it() {
        for before in 0..7 {
            for behind in 0..4 {
                let data = [&b"xyzxyzx"[..before], b"s3cret", &b"1234"[..behind]].concat();
                let core = base64_core(b"s3cret", before % 3);
                let text = STANDARD_NO_PAD.encode(&data).into_bytes();
                assert!(core.len() >= 6, "{core:?}");
                assert!(text.windows(core.len()).any(|part| part == core), "{before} {behind}");
            }
        }
    }
}
