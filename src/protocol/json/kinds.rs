//! How a value of each kind of field is read and written.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed as _, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::read::MessageSeed;
use super::{Enumeration, Message, enum_name, find_number};
use crate::protocol::lenient::Notes;

/// The most bytes of the JSON of a number, a bool or an enum value.
const MAX_SCALAR_BYTES: usize = 1 << 10;
/// Bytes of JSON that one byte of text may take: `\u0041`.
const MAX_ESCAPE_BYTES: usize = 6;

/// Why a JSON string is not a text within a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextError {
    /// It has this many bytes, or its JSON has.
    TooLong(usize),
    /// It holds half a character.
    NotUnicode,
}

/// Decodes a JSON string of at most `limit` bytes.
///
/// # Errors
/// If it is longer or not Unicode.
pub(crate) fn text_within(raw: &str, limit: usize) -> Result<String, TextError> {
    if raw.len() > limit.saturating_mul(MAX_ESCAPE_BYTES).saturating_add(2) {
        return Err(TextError::TooLong(raw.len()));
    }
    match serde_json::from_str::<String>(raw) {
        Ok(text) if text.len() > limit => Err(TextError::TooLong(text.len())),
        Ok(text) => Ok(text),
        Err(_) => Err(TextError::NotUnicode),
    }
}

/// What becomes of an enum value that is not one of the enum's.
pub(crate) const UNKNOWN_ENUM_VALUE: &str = "unknown value; treated as unspecified";

/// How values of one kind of field are read and written.
pub trait FieldKind {
    /// The Rust type prost gives the field.
    type Value;

    /// Reads a value; `None` for null.
    ///
    /// # Errors
    /// If the value is not of this kind.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self::Value>, D::Error>;

    /// Reads one value of a response, not null. `None`, with a warning, if it
    /// cannot be read.
    fn read_raw(raw: &str, notes: &mut Notes) -> Option<Self::Value> {
        let short = raw.len() <= MAX_SCALAR_BYTES;
        let read = short.then(|| Self::read(&mut serde_json::Deserializer::from_str(raw)).ok());
        let value = read.flatten().flatten();
        if value.is_none() {
            notes.unreadable(raw);
        }
        value
    }

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

    fn read_raw(raw: &str, notes: &mut Notes) -> Option<String> {
        if !raw.starts_with('"') {
            notes.unreadable(raw);
            return None;
        }
        if notes.is_marked(raw) {
            notes.refuse_text(raw, "is not UTF-8");
            return None;
        }
        let limit = notes.text_limit();
        match text_within(raw, limit) {
            Ok(text) => return Some(text),
            Err(TextError::NotUnicode) => notes.refuse_text(raw, "is not Unicode"),
            Err(TextError::TooLong(_)) => {
                notes.refuse_text(raw, &format!("is longer than {limit} bytes"));
            }
        }
        None
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

/// What the value of an enum field stands for.
enum Found {
    Null,
    Known(i32),
    Unknown,
}

impl From<Option<i32>> for Found {
    fn from(number: Option<i32>) -> Self {
        number.map_or(Self::Unknown, Self::Known)
    }
}

impl<E: Enumeration> Enum<E> {
    fn find<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Found, D::Error> {
        struct EnumVisitor<E>(PhantomData<E>);
        impl<E: Enumeration> EnumVisitor<E> {
            fn known(number: i64) -> Option<i32> {
                i32::try_from(number).ok().filter(|number| enum_name::<E>(*number).is_some())
            }
        }
        impl<E: Enumeration> Visitor<'_> for EnumVisitor<E> {
            type Value = Found;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or number of an enum value, or null")
            }
            fn visit_str<F: de::Error>(self, v: &str) -> Result<Self::Value, F> {
                let number = v.parse().map_or_else(|_| find_number::<E>(v), Self::known);
                Ok(number.into())
            }
            fn visit_u64<F: de::Error>(self, v: u64) -> Result<Self::Value, F> {
                Ok(i64::try_from(v).ok().and_then(Self::known).into())
            }
            fn visit_i64<F: de::Error>(self, v: i64) -> Result<Self::Value, F> {
                Ok(Self::known(v).into())
            }
            fn visit_f64<F: de::Error>(self, v: f64) -> Result<Self::Value, F> {
                Ok(Number::Fraction(v).whole().and_then(Self::known).into())
            }
            fn visit_unit<F: de::Error>(self) -> Result<Self::Value, F> {
                Ok(Found::Null)
            }
        }
        deserializer.deserialize_any(EnumVisitor::<E>(PhantomData))
    }
}

impl<E: Enumeration> FieldKind for Enum<E> {
    type Value = i32;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
        Ok(match Self::find(deserializer)? {
            Found::Null => None,
            Found::Known(number) => Some(number),
            Found::Unknown => Some(0),
        })
    }

    fn read_raw(raw: &str, notes: &mut Notes) -> Option<i32> {
        let found = if raw.len() <= MAX_SCALAR_BYTES {
            Self::find(&mut serde_json::Deserializer::from_str(raw)).unwrap_or(Found::Null)
        } else if raw.starts_with('"') {
            Found::Unknown
        } else {
            Found::Null
        };
        match found {
            Found::Known(number) => Some(number),
            Found::Unknown => {
                notes.warn(raw, UNKNOWN_ENUM_VALUE);
                Some(0)
            }
            Found::Null => {
                notes.unreadable(raw);
                None
            }
        }
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

    fn read_raw(raw: &str, notes: &mut Notes) -> Option<M> {
        let mut object = serde_json::Deserializer::from_str(raw);
        let read = raw
            .starts_with('{')
            .then(|| MessageSeed::new(notes, None).deserialize(&mut object).ok())
            .flatten();
        if read.is_none() {
            notes.unreadable(raw);
        }
        read
    }

    fn write<S: Serializer>(value: &M, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    fn is_default(value: &M) -> bool {
        *value == M::default()
    }
}
