//! The JSON form of the wire types: strict in what it writes, tolerant in what
//! it reads.
//!
//! The reader takes what servers of the field send, which is more than the
//! proto3 JSON mapping allows: `null` for any absent value, numbers as text,
//! `20.0` for 20, enum names in any case, names it does not know (which count
//! as 0 for that field alone). The generated code in [`super::wire`] says which
//! fields there are; this module says how a value of each kind is read and
//! written. It must not know any message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// A message of the schema. Implemented by the generated code only.
pub trait Message: Default {
    /// The message's name in the schema.
    const NAME: &'static str;

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

/// How values of one kind of field are read and written.
pub trait FieldKind {
    /// The Rust type prost gives the field.
    type Value;

    /// Reads a value; `None` for null.
    ///
    /// # Errors
    /// If the value is not of this kind.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self::Value>, D::Error>;

    /// Writes a value.
    ///
    /// # Errors
    /// What the serializer reports.
    fn write<S: Serializer>(value: &Self::Value, serializer: S) -> Result<S::Ok, S::Error>;

    /// Whether the value is the one an absent field stands for.
    fn is_default(value: &Self::Value) -> bool;
}

/// A string field.
#[derive(Debug)]
pub struct Text;
/// A string field for which some servers send a number: read as the number's
/// decimal text, to the digit.
#[derive(Debug)]
pub struct TextOrNumber;
/// A bool field.
#[derive(Debug)]
pub struct Bool;
/// A uint32 field.
#[derive(Debug)]
pub struct U32;
/// An int32 field.
#[derive(Debug)]
pub struct I32;
/// A double field.
#[derive(Debug)]
pub struct F64;
/// An enum field.
#[derive(Debug)]
pub struct Enum<E>(PhantomData<E>);
/// A message field.
#[derive(Debug)]
pub struct Nested<M>(PhantomData<M>);

impl FieldKind for Text {
    type Value = String;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Option<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Some(v.to_owned()))
            }
            fn visit_string<E: de::Error>(self, v: String) -> Result<Self::Value, E> {
                Ok(Some(v))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }

    fn write<S: Serializer>(value: &String, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value)
    }

    fn is_default(value: &String) -> bool {
        value.is_empty()
    }
}

impl FieldKind for TextOrNumber {
    type Value = String;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return Ok(Some(text.to_owned()));
        }
        serde_json::from_str::<Option<String>>(text)
            .map_err(|_| de::Error::custom("invalid type, expected a string, a number or null"))
    }

    fn write<S: Serializer>(value: &String, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value)
    }

    fn is_default(value: &String) -> bool {
        value.is_empty()
    }
}

impl FieldKind for Bool {
    type Value = bool;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
        struct BoolVisitor;
        impl Visitor<'_> for BoolVisitor {
            type Value = Option<bool>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bool or null")
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Some(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
                match v {
                    0 => Ok(Some(false)),
                    1 => Ok(Some(true)),
                    other => Err(E::invalid_value(de::Unexpected::Unsigned(other), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                match v {
                    "true" => Ok(Some(true)),
                    "false" => Ok(Some(false)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }
        deserializer.deserialize_any(BoolVisitor)
    }

    fn write<S: Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*value)
    }

    fn is_default(value: &bool) -> bool {
        !value
    }
}

/// A JSON number in whatever way it was written.
enum Number {
    Whole(i64),
    Fraction(f64),
}

impl Number {
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let fraction = || match text {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        text.parse().map(Self::Whole).ok().or_else(|| fraction().map(Self::Fraction))
    }

    /// The number as a whole one, if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
    fn whole(&self) -> Option<i64> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match *self {
            Self::Whole(n) => Some(n),
            Self::Fraction(f) if f.fract() == 0.0 && f.abs() <= EXACT => Some(f as i64),
            Self::Fraction(_) => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a double is what the field holds")]
    fn double(&self) -> f64 {
        match *self {
            Self::Whole(n) => n as f64,
            Self::Fraction(f) => f,
        }
    }
}

fn read_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Number>, D::Error> {
    struct NumberVisitor;
    impl Visitor<'_> for NumberVisitor {
        type Value = Option<Number>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, a number as text, or null")
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
            #[expect(
                clippy::cast_precision_loss,
                reason = "past i64 it is a double in JSON anyway"
            )]
            Ok(Some(i64::try_from(v).map_or(Number::Fraction(v as f64), Number::Whole)))
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
            Ok(Some(Number::Whole(v)))
        }
        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
            Ok(Some(Number::Fraction(v)))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
            Number::from_text(v)
                .map(Some)
                .ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(NumberVisitor)
}

fn read_whole<'de, T, D>(deserializer: D, kind: &str) -> Result<Option<T>, D::Error>
where
    T: TryFrom<i64>,
    D: Deserializer<'de>,
{
    let Some(number) = read_number(deserializer)? else { return Ok(None) };
    let whole = number.whole().and_then(|n| T::try_from(n).ok());
    whole
        .map(Some)
        .ok_or_else(|| de::Error::custom(format_args!("{} is not a {kind}", number.double())))
}

impl FieldKind for U32 {
    type Value = u32;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        read_whole(deserializer, "whole number from 0 to 4294967295")
    }

    fn write<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(*value)
    }

    fn is_default(value: &u32) -> bool {
        *value == 0
    }
}

impl FieldKind for I32 {
    type Value = i32;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
        read_whole(deserializer, "whole number of 32 bits")
    }

    fn write<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(*value)
    }

    fn is_default(value: &i32) -> bool {
        *value == 0
    }
}

impl FieldKind for F64 {
    type Value = f64;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(read_number(deserializer)?.map(|number| number.double()))
    }

    /// Whole numbers are written without a fraction, as servers know them.
    fn write<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let number = Number::Fraction(*value);
        match number.whole() {
            Some(_) if *value == 0.0 && value.is_sign_negative() => {
                serializer.serialize_f64(*value)
            }
            Some(whole) => serializer.serialize_i64(whole),
            None if value.is_nan() => serializer.serialize_str("NaN"),
            None if value.is_infinite() && *value > 0.0 => serializer.serialize_str("Infinity"),
            None if value.is_infinite() => serializer.serialize_str("-Infinity"),
            None => serializer.serialize_f64(*value),
        }
    }

    fn is_default(value: &f64) -> bool {
        value.to_bits() == 0
    }
}

impl<E: Enumeration> FieldKind for Enum<E> {
    type Value = i32;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
        struct EnumVisitor<E>(PhantomData<E>);
        impl<E: Enumeration> EnumVisitor<E> {
            fn known(number: i64) -> i32 {
                let number = i32::try_from(number).unwrap_or(0);
                enum_name::<E>(number).map_or(0, |_| number)
            }
        }
        impl<E: Enumeration> Visitor<'_> for EnumVisitor<E> {
            type Value = Option<i32>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or number of an enum value, or null")
            }
            fn visit_str<F: de::Error>(self, v: &str) -> Result<Self::Value, F> {
                Ok(Some(match v.parse::<i64>() {
                    Ok(number) => Self::known(number),
                    Err(_) => enum_number::<E>(v),
                }))
            }
            fn visit_u64<F: de::Error>(self, v: u64) -> Result<Self::Value, F> {
                Ok(Some(i64::try_from(v).map_or(0, Self::known)))
            }
            fn visit_i64<F: de::Error>(self, v: i64) -> Result<Self::Value, F> {
                Ok(Some(Self::known(v)))
            }
            fn visit_f64<F: de::Error>(self, v: f64) -> Result<Self::Value, F> {
                Ok(Some(Number::Fraction(v).whole().map_or(0, Self::known)))
            }
            fn visit_unit<F: de::Error>(self) -> Result<Self::Value, F> {
                Ok(None)
            }
        }
        deserializer.deserialize_any(EnumVisitor::<E>(PhantomData))
    }

    /// A number without a name is written as the number.
    fn write<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        match enum_name::<E>(*value) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_i32(*value),
        }
    }

    fn is_default(value: &i32) -> bool {
        *value == 0
    }
}

impl<M> FieldKind for Nested<M>
where
    M: Message + PartialEq + Serialize + for<'de> Deserialize<'de>,
{
    type Value = M;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<M>, D::Error> {
        Option::<M>::deserialize(deserializer)
    }

    fn write<S: Serializer>(value: &M, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    fn is_default(value: &M) -> bool {
        *value == M::default()
    }
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
