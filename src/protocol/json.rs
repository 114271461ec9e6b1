//! The JSON form of the wire types: strict in what it writes, tolerant in what
//! it reads.
//!
//! The reader takes what servers of the field send, which is more than the
//! proto3 JSON mapping allows: `null` for any absent value, numbers as text,
//! `20.0` for 20, enum names in any case, names it does not know (which count
//! as 0 for that field alone). In a response, a value of the wrong kind counts
//! as absent, with a warning ([`super::lenient`]). The generated code in
//! [`super::wire`] says which fields there are; this module says how a value of
//! each kind is read and written. It must not know any message.

mod kinds;
mod read;
mod transcode;

use serde::Serialize;
use serde::de::MapAccess;
use serde::ser::{SerializeMap, Serializer};

pub use transcode::{Field, Shape};
pub(super) use transcode::{transcode, varint_field};

pub use super::lenient::Notes;

pub(super) use read::{ErrorReport, MemberName, MessageSeed};
pub use read::{read_map, read_message, read_repeated, read_value};

pub use kinds::{Bool, Enum, F64, FieldKind, I32, Nested, Text, U32};
pub(super) use kinds::{TextError, UNKNOWN_ENUM_VALUE, text_within};

/// A message of the schema. Implemented by the generated code only.
pub trait Message: Default {
    /// The message's name in the schema.
    const NAME: &'static str;
    /// Its fields by number.
    const FIELDS: &'static [Field];

    /// Reads the value of the field of this name, in either spelling. Returns
    /// false, having read nothing, if the message has no such field.
    ///
    /// # Errors
    /// If the value is not JSON, or in a strict reading, not of the field's
    /// kind.
    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        map: &mut A,
        notes: &mut Notes,
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

#[cfg(any(test, feature = "internals"))]
/// The number an enum name stands for in any case, 0 if it is not one of the
/// enum's.
#[must_use]
pub fn enum_number<E: Enumeration>(name: &str) -> i32 {
    find_number::<E>(name).unwrap_or(0)
}

fn find_number<E: Enumeration>(name: &str) -> Option<i32> {
    let find = |same: fn(&str, &str) -> bool| {
        E::NAMES.iter().find(|(known, _)| same(known, name)).map(|(_, number)| *number)
    };
    find(str::eq).or_else(|| find(str::eq_ignore_ascii_case))
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
