//! Property lists read within bounds. Files and command output come from
//! outside: nesting that would exhaust the stack and binary lists that share
//! objects until they unfold into gigabytes are errors here.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::Cursor;

use plist::{Dictionary, Value};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

/// The deepest nesting accepted. Configuration profiles nest 9 levels deep and
/// `ioreg` plists 4.
const MAX_DEPTH: u32 = 64;

/// The most values accepted: 8 MiB of the shortest XML elements.
const MAX_VALUES: u32 = 1_000_000;

/// Text and data count as one more value for each this many bytes, so that a
/// long text that many places share is bounded too.
const BYTES_PER_VALUE: usize = 64;

/// Why bytes cannot be read as a property list.
#[derive(Debug, Error)]
pub enum PlistError {
    /// Neither an XML nor a binary property list.
    #[error("not a property list (XML or binary): {0}")]
    Malformed(#[from] plist::Error),
    /// XML that the parser would read as something else than it says.
    #[error("not a property list (XML or binary): {0}")]
    Text(&'static str),
}

/// Reads an XML, binary or old-style text property list. Dates come out as
/// text.
///
/// # Errors
/// If the bytes are no property list, nest deeper than 64 levels or hold more
/// than a million values.
pub fn read_plist(bytes: &[u8]) -> Result<Value, PlistError> {
    read_small_plist::<MAX_VALUES>(bytes)
}

/// As [`read_plist`], for lists of at most `VALUES` values, each 64 bytes of
/// text or data counted as one more.
///
/// # Errors
/// If the bytes are no property list or pass a bound.
pub fn read_small_plist<const VALUES: u32>(bytes: &[u8]) -> Result<Value, PlistError> {
    let bytes = utf8(bytes)?;
    let bytes = without_cdata(&bytes)?;
    let Tree::<VALUES>(value) = plist::from_reader(Cursor::new(bytes))?;
    Ok(value)
}

/// A text in UTF-8 without a byte order mark; the parser reads no other.
fn utf8(bytes: &[u8]) -> Result<Cow<'_, [u8]>, PlistError> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, []) = bytes.as_chunks() else {
            return Err(PlistError::Text("half a UTF-16 character at its end"));
        };
        char::decode_utf16(pairs.iter().map(|pair| unit(*pair)))
            .collect::<Result<String, _>>()
            .map(|text| Cow::Owned(text.into_bytes()))
            .map_err(|_| PlistError::Text("UTF-16 with a broken character"))
    };
    match bytes {
        [0xef, 0xbb, 0xbf, text @ ..] => Ok(Cow::Borrowed(text)),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0, b'<', ..] => utf16(bytes, u16::from_be_bytes),
        [b'<', 0, ..] => utf16(bytes, u16::from_le_bytes),
        _ => Ok(Cow::Borrowed(bytes)),
    }
}

const CDATA: &[u8] = b"<![CDATA[";

/// XML with its CDATA sections written as escaped text. The parser drops both
/// these and references to entities that XML does not define, and a value would
/// read as another: `a<![CDATA[&b]]>c` as `ac`.
fn without_cdata(text: &[u8]) -> Result<Cow<'_, [u8]>, PlistError> {
    let is_xml = text.trim_ascii_start().starts_with(b"<");
    if !is_xml || !text.contains(&b'&') && !contains(text, CDATA) {
        return Ok(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'&')) {
        let (before, markup) = rest.split_at(at);
        plain.extend_from_slice(before);
        if let Some(section) = markup.strip_prefix(CDATA) {
            let end =
                find(section, b"]]>").ok_or(PlistError::Text("a CDATA section without end"))?;
            for byte in section.get(..end).unwrap_or_default() {
                match byte {
                    b'<' => plain.extend_from_slice(b"&lt;"),
                    b'>' => plain.extend_from_slice(b"&gt;"),
                    b'&' => plain.extend_from_slice(b"&amp;"),
                    _ => plain.push(*byte),
                }
            }
            rest = section.get(end + 3..).unwrap_or_default();
            continue;
        }
        let length = if markup.starts_with(b"<!--") {
            find(markup, b"-->").map_or(markup.len(), |end| end + 3)
        } else if markup.starts_with(b"<?") {
            find(markup, b"?>").map_or(markup.len(), |end| end + 2)
        } else if markup.starts_with(b"&") {
            reference(markup).ok_or(PlistError::Text("an & that begins no entity of XML"))?
        } else {
            1
        };
        let (taken, after) = markup.split_at(length);
        plain.extend_from_slice(taken);
        rest = after;
    }
    plain.extend_from_slice(rest);
    Ok(Cow::Owned(plain))
}

/// The length of the reference to a character or predefined entity at the start
/// of a text.
fn reference(text: &[u8]) -> Option<usize> {
    // `&#x10FFFF;`, and some leading zeros.
    let end = text.iter().take(16).position(|byte| *byte == b';')?;
    let name = text.get(1..end)?;
    let known = [&b"amp"[..], b"lt", b"gt", b"quot", b"apos"].contains(&name);
    (known || name.starts_with(b"#")).then_some(end + 1)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    find(text, wanted).is_some()
}

struct Tree<const VALUES: u32>(Value);

impl<'de, const VALUES: u32> de::Deserialize<'de> for Tree<VALUES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(VALUES);
        PlistSeed { depth: MAX_DEPTH, left: &left }.deserialize(deserializer).map(Self)
    }
}

#[derive(Clone, Copy)]
struct PlistSeed<'a> {
    depth: u32,
    left: &'a Cell<u32>,
}

impl PlistSeed<'_> {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom("more than 64 levels of nesting"))?;
        Ok(Self { depth, ..self })
    }

    /// Takes what a value costs from what is left.
    fn spend<E: de::Error>(self, values: usize) -> Result<(), E> {
        let left = u32::try_from(values).ok().and_then(|cost| self.left.get().checked_sub(cost));
        self.left.set(left.ok_or_else(|| E::custom("more values than the bound allows"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for PlistSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.spend(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PlistSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a property list value")
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Boolean(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Real(v))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.spend(v.len() / BYTES_PER_VALUE)?;
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        self.spend(v.len() / BYTES_PER_VALUE)?;
        Ok(Value::String(v))
    }
    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Value, E> {
        self.spend(v.len() / BYTES_PER_VALUE)?;
        Ok(Value::Data(v.to_vec()))
    }
    fn visit_byte_buf<E: de::Error>(self, v: Vec<u8>) -> Result<Value, E> {
        self.spend(v.len() / BYTES_PER_VALUE)?;
        Ok(Value::Data(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut dictionary = Dictionary::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(key.len() / BYTES_PER_VALUE)?;
            dictionary.insert(key, map.next_value_seed(inner)?);
        }
        Ok(Value::Dictionary(dictionary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(body: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?><plist version=\"1.0\">{body}</plist>").into_bytes()
    }

    #[test]
    fn xml_and_binary_give_the_same_values() {
        let bytes = xml("<dict><key>b</key><true/><key>i</key><integer>-7</integer>\
             <key>r</key><real>1.5</real><key>d</key><data>AQI=</data>\
             <key>a</key><array><string>x</string></array>\
             <key>t</key><date>2026-01-02T03:04:05Z</date></dict>");
        let from_xml = read_plist(&bytes).expect("XML");
        let mut binary = Vec::new();
        Value::from_reader(Cursor::new(&bytes))
            .expect("a value")
            .to_writer_binary(&mut binary)
            .expect("a binary list");
        assert_eq!(read_plist(&binary).expect("binary"), from_xml);
        let dictionary = from_xml.as_dictionary().expect("a dictionary");
        assert_eq!(dictionary.get("i").and_then(Value::as_signed_integer), Some(-7));
        assert_eq!(dictionary.get("d").and_then(Value::as_data), Some(&[1, 2][..]));
        assert_eq!(dictionary.get("t").and_then(Value::as_string), Some("2026-01-02T03:04:05Z"));
    }

    /// CONF-1: what an XML editor or a management system writes instead of
    /// escaped UTF-8.
    #[test]
    fn conf_1_cdata_and_utf_16_are_read_as_what_they_say() {
        let value = |body: &str| read_plist(&xml(body)).expect(body);
        for (body, text) in [
            ("a<![CDATA[&b]]>c", "a&bc"),
            ("<![CDATA[<x> \"y\" ]]]]><![CDATA[>]]>", "<x> \"y\" ]]>"),
            ("a<!-- <![CDATA[ & --><?x <![CDATA[ & ?>b", "ab"),
            ("a&amp;b&#38;&#x26;&lt;&apos;&quot;&gt;", "a&b&&<'\">"),
        ] {
            let read = value(&format!("<string>{body}</string>"));
            assert_eq!(read.as_string(), Some(text));
        }
        assert_eq!(value("<integer><![CDATA[7]]></integer>").as_signed_integer(), Some(7));
        for broken in ["<![CDATA[x", "&nbsp;", "a & b", "?a=1&b=2"] {
            let body = xml(&format!("<string>{broken}</string>"));
            assert!(read_plist(&body).is_err(), "{broken}");
        }
        let text = "<?xml version=\"1.0\" encoding=\"UTF-16\"?><plist version=\"1.0\">\
                    <string>\u{e4}<![CDATA[&\u{1f385}]]></string></plist>";
        let expected = Value::String("\u{e4}&\u{1f385}".to_owned());
        let units = || text.encode_utf16();
        let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
        let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
        for bytes in [
            [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
            [&b"\xfe\xff"[..], &big].concat(),
            [&b"\xff\xfe"[..], &little].concat(),
            big.clone(),
            little.clone(),
        ] {
            assert_eq!(read_plist(&bytes).expect("read"), expected);
        }
        assert!(read_plist(&[&b"\xff\xfe"[..], &little[1..]].concat()).is_err());
        assert!(read_plist(b"\xff\xfe\x00\xd8").is_err());
    }

    #[test]
    fn nesting_is_bounded_before_it_can_exhaust_the_stack() {
        let deep = |n: usize| xml(&format!("{}{}", "<array>".repeat(n), "</array>".repeat(n)));
        assert!(read_plist(&deep(64)).is_ok());
        let error = read_plist(&deep(100_000)).expect_err("too deep").to_string();
        assert!(error.contains("64 levels"), "{error}");
    }

    /// Twenty arrays of ten references each unfold into 10^20 values.
    #[test]
    fn a_binary_list_that_unfolds_without_end_is_refused() {
        let mut bytes = b"bplist00".to_vec();
        let mut offsets = Vec::new();
        for level in 1..=20_u8 {
            offsets.push(u8::try_from(bytes.len()).expect("a short list"));
            bytes.push(0xaa);
            bytes.extend([level; 10]);
        }
        offsets.push(u8::try_from(bytes.len()).expect("a short list"));
        bytes.push(0x09);
        let table = bytes.len() as u64;
        bytes.extend(&offsets);
        bytes.extend([0, 0, 0, 0, 0, 0, 1, 1]);
        for number in [21, 0, table] {
            bytes.extend(number.to_be_bytes());
        }
        let error = read_plist(&bytes).expect_err("a bomb").to_string();
        assert!(error.contains("more values"), "{error}");
    }

    #[test]
    fn a_long_text_that_many_places_share_counts_each_time() {
        let text = format!("<string>{}</string>", "x".repeat(64 * 100));
        let list = |n: usize| xml(&format!("<array>{}</array>", text.repeat(n)));
        assert!(read_small_plist::<1_000>(&list(9)).is_ok());
        assert!(read_small_plist::<1_000>(&list(10)).is_err());
        assert!(read_plist(&list(10)).is_ok());
    }

    #[test]
    fn what_is_no_property_list_is_an_error() {
        for bytes in [&b""[..], b"\x00\x01", b"bplist00", b"<plist><dict><key>a</key></dict>"] {
            assert!(read_plist(bytes).is_err(), "{bytes:?}");
        }
    }
}
