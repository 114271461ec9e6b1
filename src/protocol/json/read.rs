//! Reading messages and their fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{FieldKind, Message, text_within};
use crate::protocol::body;
use crate::protocol::lenient::{self, Notes};

/// The most elements of an array of a message that is read strictly.
const MAX_STRICT_ELEMENTS: usize = 1_000_000;

struct ValueSeed<K>(PhantomData<K>);

impl<'de, K: FieldKind> DeserializeSeed<'de> for ValueSeed<K> {
    type Value = Option<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        K::read(deserializer)
    }
}

/// The raw value of an entry; `None` for null.
fn raw_value<'de, A: MapAccess<'de>>(
    map: &mut A,
    notes: &mut Notes,
) -> Result<Option<&'de str>, A::Error> {
    let raw = map.next_value::<&'de RawValue>()?.get();
    if raw == "null" {
        return Ok(None);
    }
    notes.found_field();
    Ok(Some(raw))
}

/// Reads the value of an entry; `None` for null, and for what cannot be read
/// where that is allowed.
///
/// # Errors
/// If the value is not JSON, or in a strict reading, not of the field's kind.
pub fn read_value<'de, K: FieldKind, A: MapAccess<'de>>(
    field: &'static str,
    map: &mut A,
    notes: &mut Notes,
) -> Result<Option<K::Value>, A::Error> {
    if notes.is_strict() {
        return map.next_value_seed(ValueSeed::<K>(PhantomData));
    }
    let Some(raw) = raw_value(map, notes)? else { return Ok(None) };
    notes.enter(field);
    let value = K::read_raw(raw, notes);
    notes.leave();
    Ok(value)
}

/// Reads an array (or null) into `into`; null elements are left out.
///
/// # Errors
/// If the value is not JSON, or in a strict reading, not an array of the
/// field's kind.
pub fn read_repeated<'de, K: FieldKind, A: MapAccess<'de>>(
    field: &'static str,
    into: &mut Vec<K::Value>,
    map: &mut A,
    notes: &mut Notes,
) -> Result<(), A::Error> {
    into.clear();
    if notes.is_strict() {
        return map.next_value_seed(StrictElements::<K>(into));
    }
    let Some(raw) = raw_value(map, notes)? else { return Ok(()) };
    notes.enter(field);
    let mut array = serde_json::Deserializer::from_str(raw);
    if !raw.starts_with('[') || array.deserialize_seq(Elements::<K> { into, notes }).is_err() {
        into.clear();
        notes.unreadable(raw);
    }
    notes.leave();
    Ok(())
}

struct StrictElements<'a, K: FieldKind>(&'a mut Vec<K::Value>);

impl<'de, K: FieldKind> Visitor<'de> for StrictElements<'_, K> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or null")
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while let Some(element) = seq.next_element_seed(ValueSeed::<K>(PhantomData))? {
            if self.0.len() == MAX_STRICT_ELEMENTS {
                return Err(de::Error::custom("more elements than are read"));
            }
            self.0.extend(element);
        }
        Ok(())
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'de, K: FieldKind> DeserializeSeed<'de> for StrictElements<'_, K> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The elements of an array of a response: those that can be read, up to the
/// limits of [`notes`].
struct Elements<'a, K: FieldKind> {
    into: &'a mut Vec<K::Value>,
    notes: &'a mut Notes,
}

impl<'de, K: FieldKind> Visitor<'de> for Elements<'_, K> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        let mut index = 0;
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            let raw = raw.get();
            if !self.notes.count_element(raw.len()) {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(());
            }
            if raw != "null" {
                self.notes.enter_element(index);
                self.into.extend(K::read_raw(raw, self.notes));
                self.notes.leave();
            }
            index += 1;
        }
        Ok(())
    }
}

/// Reads an object of strings (or null) into `into`.
///
/// # Errors
/// If the value is not JSON, or in a strict reading, not an object of strings.
pub fn read_map<'de, A: MapAccess<'de>>(
    field: &'static str,
    into: &mut BTreeMap<String, String>,
    map: &mut A,
    notes: &mut Notes,
) -> Result<(), A::Error> {
    type Entries = BTreeMap<String, Option<String>>;
    let read = if notes.is_strict() {
        map.next_value::<Option<Entries>>()?
    } else {
        let Some(raw) = raw_value(map, notes)? else { return Ok(()) };
        let short = raw.len() <= lenient::MAX_TEXT_BYTES && !notes.is_marked(raw);
        let entries = short.then(|| serde_json::from_str::<Entries>(raw).ok()).flatten();
        if entries.is_none() {
            notes.enter(field);
            notes.unreadable(raw);
            notes.leave();
        }
        entries
    };
    if let Some(read) = read {
        *into = read.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    }
    Ok(())
}

/// A key of an object, borrowed from the input where it can be. No field has a
/// name that is not Unicode, or longer than [`MemberName::MAX_BYTES`]: such keys are cut.
pub(crate) struct MemberName<'de>(pub(crate) Cow<'de, str>);

impl MemberName<'_> {
    const MAX_BYTES: usize = 128;
}

impl<'de> Visitor<'de> for MemberNameVisitor {
    type Value = MemberName<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(MemberName(Cow::Borrowed(v)))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        self.visit_bytes(v.as_bytes())
    }
    fn visit_borrowed_bytes<E: de::Error>(self, v: &'de [u8]) -> Result<Self::Value, E> {
        match str::from_utf8(v) {
            Ok(name) => Ok(MemberName(Cow::Borrowed(name))),
            Err(_) => self.visit_bytes(v),
        }
    }
    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Self::Value, E> {
        let start = v.get(..MemberName::MAX_BYTES).unwrap_or(v);
        Ok(MemberName(Cow::Owned(String::from_utf8_lossy(start).into_owned())))
    }
}

struct MemberNameVisitor;

/// Reads a key of a response as bytes, so that an escape that is half a
/// character passes.
impl<'de> Deserialize<'de> for MemberName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(MemberNameVisitor)
    }
}

/// A key where every one must be Unicode.
struct StrictMemberName<'de>(MemberName<'de>);

impl<'de> Deserialize<'de> for StrictMemberName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(MemberNameVisitor).map(Self)
    }
}

/// Members by which servers report an error in a response of status 200, in
/// lower case.
const ERROR_MEMBERS: [&str; 5] = ["error", "errors", "err", "errormessage", "error_message"];

/// The error that a response reports, if any does.
#[derive(Debug, Default)]
pub(crate) struct ErrorReport(Option<(&'static str, String)>);

impl ErrorReport {
    /// The member of that name whose value could report an error, in any case.
    pub(crate) fn member(name: &str) -> Option<&'static str> {
        ERROR_MEMBERS.into_iter().find(|member| name.eq_ignore_ascii_case(member))
    }

    /// Takes the value of such a member. Servers that report success write
    /// null, an empty value, `false` or 0.
    pub(crate) fn take(&mut self, member: &'static str, raw: &str) {
        let inner = match raw.as_bytes() {
            [b'"', .., b'"'] | [b'[', .., b']'] | [b'{', .., b'}'] => &raw[1..raw.len() - 1],
            _ if matches!(raw, "null" | "false" | "0") => "",
            _ => raw,
        };
        if inner.trim_ascii().is_empty() || self.0.is_some() {
            return;
        }
        let decoded = text_within(raw, lenient::MAX_TEXT_BYTES).ok();
        self.0 = Some((member, body::shown(decoded.as_deref().unwrap_or(raw))));
    }

    pub(crate) fn into_words(self) -> Option<(&'static str, String)> {
        self.0
    }
}

/// Reads a message from an object. Unknown fields are passed over; of a field
/// given twice the last one counts.
pub(crate) struct MessageSeed<'a, M> {
    pub(crate) notes: &'a mut Notes,
    /// Where to keep an error that the object reports.
    pub(crate) report: Option<&'a mut ErrorReport>,
    message: PhantomData<M>,
}

impl<'a, M> MessageSeed<'a, M> {
    pub(crate) const fn new(notes: &'a mut Notes, report: Option<&'a mut ErrorReport>) -> Self {
        Self { notes, report, message: PhantomData }
    }
}

impl<'de, M: Message> DeserializeSeed<'de> for MessageSeed<'_, M> {
    type Value = M;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<M, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, M: Message> Visitor<'de> for MessageSeed<'_, M> {
    type Value = M;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", M::NAME)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<M, A::Error> {
        let Self { notes, mut report, .. } = self;
        let mut message = M::default();
        loop {
            let key = if notes.is_strict() {
                map.next_key::<StrictMemberName<'_>>()?.map(|StrictMemberName(key)| key)
            } else {
                map.next_key::<MemberName<'_>>()?
            };
            let Some(MemberName(name)) = key else { return Ok(message) };
            if message.read_field(&name, &mut map, notes)? {
                continue;
            }
            match (&mut report, ErrorReport::member(&name)) {
                (Some(report), Some(member)) => {
                    report.take(member, map.next_value::<&'de RawValue>()?.get());
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
    }
}

/// Reads a message strictly: every value must be of its field's kind.
///
/// # Errors
/// If the value is not an object, or a field's value is not of its kind.
pub fn read_message<'de, M: Message, D: Deserializer<'de>>(deserializer: D) -> Result<M, D::Error> {
    MessageSeed::new(&mut Notes::strict(), None).deserialize(deserializer)
}
