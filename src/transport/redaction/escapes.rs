//! Undoes the escapes in which a server may repeat what it was sent, and remembers where each
//! byte came from.

use std::ops::Range;

/// How many layers of nested escapes are undone.
pub(super) const MAX_LAYERS: usize = 3;

/// Bytes, each with the place in the original that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) bytes: Vec<u8>,
    /// As long as `bytes`.
    places: Vec<(usize, usize)>,
}

impl Layer {
    fn with_capacity(length: usize) -> Self {
        Self { bytes: Vec::with_capacity(length), places: Vec::with_capacity(length) }
    }

    fn push(&mut self, bytes: &[u8], place: (usize, usize)) {
        self.bytes.extend_from_slice(bytes);
        self.places.extend(std::iter::repeat_n(place, bytes.len()));
    }

    /// The part of the original that a part of the bytes stands for.
    pub(super) fn original(&self, part: Range<usize>) -> Range<usize> {
        let start = self.places.get(part.start).map_or(0, |place| place.0);
        let end = part.end.checked_sub(1).and_then(|last| self.places.get(last));
        start..end.map_or(start, |place| place.1)
    }
}

/// The bytes without one layer of escapes, and without the next, until there are none.
pub(super) fn layers(original: &[u8]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for _ in 0..MAX_LAYERS {
        let below = layers.last();
        let bytes = below.map_or(original, |layer| layer.bytes.as_slice());
        if !bytes.iter().any(|byte| matches!(byte, b'%' | b'\\' | b'&' | b'+')) {
            break;
        }
        let layer = undone(bytes, below);
        if layer.bytes == bytes {
            break;
        }
        layers.push(layer);
    }
    layers
}

fn undone(bytes: &[u8], below: Option<&Layer>) -> Layer {
    let mut layer = Layer::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(first) = bytes.get(at) {
        let rest = &bytes[at..];
        let (stands_for, length) = match first {
            b'%' => percent(rest),
            b'\\' => backslash(rest),
            b'&' => entity(rest),
            // A blank in a form.
            b'+' => Some((vec![b' '], 1)),
            _ => None,
        }
        .unwrap_or_else(|| (vec![*first], 1));
        let place = match below {
            Some(below) => {
                let original = below.original(at..at + length);
                (original.start, original.end)
            }
            None => (at, at + length),
        };
        layer.push(&stands_for, place);
        at += length;
    }
    layer
}

/// Where the escape begins that the end of the text cuts off, if there is one.
pub(super) fn cut(text: &[u8]) -> Option<usize> {
    const LONGEST: usize = 9;
    (1..=LONGEST.min(text.len())).map(|length| text.len() - length).find(|at| {
        let all = |rest: &[u8], is: fn(&u8) -> bool| rest.iter().all(is);
        match &text[*at..] {
            [b'\\', b'u', rest @ ..] => rest.len() < 4 && all(rest, u8::is_ascii_hexdigit),
            [b'%', rest @ ..] | [b'\\', b'x', rest @ ..] => {
                rest.len() < 2 && all(rest, u8::is_ascii_hexdigit)
            }
            [b'\\'] => true,
            [b'&', rest @ ..] => all(rest, |byte| *byte == b'#' || byte.is_ascii_alphanumeric()),
            _ => false,
        }
    })
}

/// `%2f`, in either case.
fn percent(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let byte = u8::try_from(number(rest.get(1..3)?, 16)?).ok()?;
    Some((vec![byte], 3))
}

/// `\/`, `\"` and `\u002f`, as JSON and logs have them, and `\x2f`.
fn backslash(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    match rest.get(1)? {
        byte @ (b'/' | b'"' | b'\'' | b'\\') => Some((vec![*byte], 2)),
        b'u' => Some((utf8(number(rest.get(2..6)?, 16)?)?, 6)),
        b'x' => Some((vec![u8::try_from(number(rest.get(2..4)?, 16)?).ok()?], 4)),
        _ => None,
    }
}

/// `&amp;`, `&#47;` and `&#x2f;`, as in HTML and XML.
fn entity(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    const LONGEST: usize = 10;
    let end = rest.iter().take(LONGEST).position(|byte| *byte == b';')?;
    let stands_for = match rest.get(1..end)? {
        b"amp" => vec![b'&'],
        b"lt" => vec![b'<'],
        b"gt" => vec![b'>'],
        b"quot" => vec![b'"'],
        b"apos" => vec![b'\''],
        [b'#', b'x' | b'X', digits @ ..] => utf8(number(digits, 16)?)?,
        [b'#', digits @ ..] => utf8(number(digits, 10)?)?,
        _ => return None,
    };
    Some((stands_for, end + 1))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let text = str::from_utf8(digits).ok()?;
    // A sign is not a digit.
    text.bytes().next()?.is_ascii_hexdigit().then_some(())?;
    u32::from_str_radix(text, radix).ok()
}

fn utf8(code: u32) -> Option<Vec<u8>> {
    Some(char::from_u32(code)?.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let layers = layers(text.as_bytes());
        layers.into_iter().map(|layer| String::from_utf8(layer.bytes).unwrap()).collect()
    }

    #[test]
    fn each_layer_of_escapes_is_undone() {
        assert_eq!(all("plain"), [""; 0]);
        assert_eq!(all("a%2fb%2Fc\\/d\\u002fe\\x2ff&#47;g&#x2F;h&amp;i"), ["a/b/c/d/e/f/g/h&i"]);
        assert_eq!(all("%252F"), ["%2F", "/"]);
        assert_eq!(all("%2 \\q &nosuch; %"), [""; 0]);
        assert_eq!(all("&#xfc;"), ["ü"]);
    }

    #[test]
    fn an_escape_that_is_cut_is_found_at_the_end_alone() {
        for (text, at) in
            [("ab%", Some(2)), ("ab%2", Some(2)), ("ab\\u00", Some(2)), ("a&#x2", Some(1))]
        {
            assert_eq!(cut(text.as_bytes()), at, "{text}");
        }
        for whole in ["ab", "ab%2f", "ab%!", "a\\u002f", "a&amp;", "a & b", ""] {
            assert_eq!(cut(whole.as_bytes()), None, "{whole}");
        }
    }

    #[test]
    fn a_byte_knows_where_it_came_from() {
        let layers = layers(b"ab%252Fcd");
        assert_eq!(layers[1].bytes, b"ab/cd");
        assert_eq!(layers[1].original(2..3), 2..7);
        assert_eq!(layers[1].original(1..4), 1..8);
    }
}
