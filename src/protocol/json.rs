//! The JSON form of the wire types: strict in what it writes, tolerant in what
//! it reads.
//!
//! The reader takes what servers of the field send, which is more than the
//! proto3 JSON mapping allows: `null` for any absent value, numbers as text,
//! `20.0` for 20, enum names in any case, names it does not know (which count
//! as 0 for that field alone). The generated code in [`super::wire`] says which
//! fields there are; this module says how a value of each kind is read and
//! written. It must not know any message.

mod kinds;
mod transcode;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

pub use transcode::{Field, Shape};
pub(super) use transcode::{transcode, varint_field};

pub use kinds::{Bool, Enum, F64, FieldKind, I32, Nested, Text, TextOrNumber, U32};

/// A message of the schema. Implemented by the generated code only.
pub trait Message: Default {
    /// The message's name in the schema.
    const NAME: &'static str;
    /// Its fields by number.
    const FIELDS: &'static [Field];

    /// Reads the value of the field of this name, in either spelling. Answers
    /// false, having read nothing, if the message has no such field.
    ///
    /// # Errors
    /// The value's own error, if it is not of the field's kind.
    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<bool, A::Error>;

    /// Writes the fields in the order of their numbers.
    ///
    /// # Errors
    /// What the serializer reports.
    fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// An enum of the schema. Implemented by the generated code only.
pub trait Enumeration {
    /// Every spelling with its number; the first of a number is the one to
    /// write.
    const NAMES: &'static [(&'static str, i32)];
}

/// The number an enum name stands for in any case, 0 if it is none of the
/// enum's names.
#[must_use]
pub fn enum_number<E: Enumeration>(name: &str) -> i32 {
    let find = |same: fn(&str, &str) -> bool| {
        E::NAMES.iter().find(|(known, _)| same(known, name)).map(|(_, number)| *number)
    };
    find(str::eq).or_else(|| find(str::eq_ignore_ascii_case)).unwrap_or(0)
}

/// The name to write for an enum number, if the number is one of the enum's.
#[must_use]
pub fn enum_name<E: Enumeration>(number: i32) -> Option<&'static str> {
    E::NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// Whether a value is the one an absent field stands for.
pub fn is_default<K: FieldKind>(value: &K::Value) -> bool {
    K::is_default(value)
}

struct ValueSeed<K>(PhantomData<K>);

impl<'de, K: FieldKind> DeserializeSeed<'de> for ValueSeed<K> {
    type Value = Option<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        K::read(deserializer)
    }
}

/// Reads the value of an entry; `None` for null.
///
/// # Errors
/// If the value is not of the field's kind.
pub fn read_value<'de, K: FieldKind, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<Option<K::Value>, A::Error> {
    map.next_value_seed(ValueSeed::<K>(PhantomData))
}

/// Elements of an array at the most. Rule pages, which may have more, are read
/// rule by rule.
const MAX_ELEMENTS: usize = 1_000_000;

/// Reads an array (or null) into `into`; null elements are left out.
///
/// # Errors
/// If the value is not an array, or an element not of the field's kind.
pub fn read_repeated<'de, K: FieldKind, A: MapAccess<'de>>(
    into: &mut Vec<K::Value>,
    map: &mut A,
) -> Result<(), A::Error> {
    struct Elements<'a, K: FieldKind>(&'a mut Vec<K::Value>);

    impl<'de, K: FieldKind> Visitor<'de> for Elements<'_, K> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array or null")
        }
        fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
            while let Some(element) = seq.next_element_seed(ValueSeed::<K>(PhantomData))? {
                if self.0.len() == MAX_ELEMENTS {
                    return Err(de::Error::custom("more elements than are taken"));
                }
                self.0.extend(element);
            }
            Ok(())
        }
        fn visit_unit<E: de::Error>(self) -> Result<(), E> {
            Ok(())
        }
    }
    impl<'de, K: FieldKind> DeserializeSeed<'de> for Elements<'_, K> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_any(self)
        }
    }
    into.clear();
    map.next_value_seed(Elements::<K>(into))
}

/// Reads an object of strings (or null) into `into`.
///
/// # Errors
/// If the value is not an object of strings.
pub fn read_map<'de, A: MapAccess<'de>>(
    into: &mut BTreeMap<String, String>,
    map: &mut A,
) -> Result<(), A::Error> {
    if let Some(read) = map.next_value::<Option<BTreeMap<String, Option<String>>>>()? {
        *into = read.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    }
    Ok(())
}

/// A key of an object, borrowed from the input where it can be.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(v)))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

/// Reads a message from an object. Unknown fields are passed over; of a field
/// given twice the last one counts.
///
/// # Errors
/// If the value is not an object, or a field's value is not of its kind.
pub fn read_message<'de, M: Message, D: Deserializer<'de>>(deserializer: D) -> Result<M, D::Error> {
    struct MessageVisitor<M>(PhantomData<M>);
    impl<'de, M: Message> Visitor<'de> for MessageVisitor<M> {
        type Value = M;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object ({})", M::NAME)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<M, A::Error> {
            let mut message = M::default();
            while let Some(Key(name)) = map.next_key()? {
                if !message.read_field(&name, &mut map)? {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(message)
        }
    }
    deserializer.deserialize_map(MessageVisitor(PhantomData))
}

/// Writes a message as an object.
///
/// # Errors
/// What the serializer reports.
pub fn write_message<M: Message, S: Serializer>(
    message: &M,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    message.write_fields(&mut map)?;
    map.end()
}

/// A value to write as its kind says.
#[expect(missing_debug_implementations, reason = "lives for one call of a serializer")]
pub struct Write<'a, K: FieldKind>(pub &'a K::Value);

impl<K: FieldKind> Serialize for Write<'_, K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        K::write(self.0, serializer)
    }
}

/// An array of values to write as their kind says.
#[expect(missing_debug_implementations, reason = "lives for one call of a serializer")]
pub struct WriteAll<'a, K: FieldKind>(pub &'a [K::Value]);

impl<K: FieldKind> Serialize for WriteAll<'_, K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Write::<K>))
    }
}
