//! Object graphs as `NSKeyedArchiver` leaves them in a property list, read
//! within bounds.
//!
//! An archive is a flat table of objects that refer to each other by number.
//! Nothing is followed unless a caller asks for it by key, so a cycle is only
//! dangerous to a caller that walks, and what all walking may come to is
//! bounded. A value that is not of the kind asked for is an error that names class and
//! key; an absent one is `None`. This module must not know any class of Santa's.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "plist::Value may grow, and every accessor takes one kind and refuses the others"
)]

#[cfg(test)]
pub(crate) mod archiver;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;

use plist::{Dictionary, Value};
use thiserror::Error;

use crate::model::text::escaped_start;
use crate::plist_bounded::{PlistError, read_small_plist};

/// The largest archive read, in bytes. An execution with its certificates and
/// entitlements takes 5 to 50 KB.
pub const MAX_ARCHIVE_BYTES: usize = 1 << 20;

/// The most plist values in an archive, see [`read_small_plist`]. An execution
/// takes 300, and as many again for each 20 KB of certificates.
const MAX_VALUES: u32 = 100_000;

/// The most bytes that reading an archive's values may come to. Objects may be
/// shared, so that a small archive can unfold into a large event.
const MAX_UNFOLDED_BYTES: usize = 4 << 20;

/// What a value counts besides its text or data.
const VALUE_COST_BYTES: usize = 32;

/// Seconds from 1970 to 2001, where the archive's dates count from.
const APPLE_EPOCH_SECS: f64 = 978_307_200.0;

/// What the table holds at number 0 for "no object".
const NULL_OBJECT: &str = "$null";

/// Why bytes are not a valid archive of the expected objects.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// More bytes than an event can need.
    #[error("the archive has {0} bytes, more than {MAX_ARCHIVE_BYTES}")]
    TooLarge(usize),
    /// Not a property list, or one past the bounds.
    #[error(transparent)]
    PropertyList(#[from] PlistError),
    /// Shared objects add up to more than an event can need.
    #[error("the archive unfolds to more than {MAX_UNFOLDED_BYTES} bytes")]
    Unfolds,
    /// A property list without the archive's parts.
    #[error("a property list, but no keyed archive: {0} is missing or of another kind")]
    NotAnArchive(&'static str),
    /// A reference leads nowhere.
    #[error("object {0} is referred to, but the archive does not hold it")]
    Dangling(u64),
    /// An object without a class that can be read.
    #[error("object {0} has no class")]
    Classless(u64),
    /// The value of a key is of another kind.
    #[error("{class}.{key} is {found}, not {expected}")]
    Kind {
        /// The class of the object that has the key.
        class: Name,
        /// The key.
        key: &'static str,
        /// What was found.
        found: Name,
        /// What was expected.
        expected: &'static str,
    },
    /// A chain of objects that does not end where it should.
    #[error("more than {0} processes, each the parent of the one before")]
    TooManyParents(usize),
    /// An object lacks a key it cannot do without.
    #[error("{class}.{key} is missing")]
    Missing {
        /// The class of the object.
        class: Name,
        /// The key.
        key: &'static str,
    },
}

/// A name from an archive, made fit to show: at most 64 characters, control
/// characters escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Takes a name as it came.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(escaped_start(name, 64))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An archive in memory.
#[derive(Debug)]
pub struct Archive {
    objects: Vec<Value>,
    root: u64,
    unfolded: Cell<usize>,
}

/// A value of an archive.
#[derive(Clone, Copy, Debug)]
pub enum ArchivedValue<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// True or false.
    Flag(bool),
    /// A whole number.
    Whole(i128),
    /// A number with a fraction.
    Real(f64),
    /// Seconds since 1970.
    Date(f64),
    /// An array or a set.
    List(ArchivedList<'a>),
    /// A dictionary.
    Dictionary(ArchivedPairs<'a>),
    /// An instance of any other class.
    Object(ArchivedObject<'a>),
}

/// An instance of a class with its keys.
#[derive(Clone, Copy)]
pub struct ArchivedObject<'a> {
    archive: &'a Archive,
    class: &'a str,
    fields: &'a Dictionary,
}

/// The elements of an array or a set.
#[derive(Clone, Copy)]
pub struct ArchivedList<'a> {
    archive: &'a Archive,
    elements: &'a [Value],
}

/// The entries of a dictionary.
#[derive(Clone, Copy)]
pub struct ArchivedPairs<'a> {
    archive: &'a Archive,
    keys: &'a [Value],
    values: &'a [Value],
}

impl Archive {
    /// Reads an archive from a binary or XML property list.
    ///
    /// # Errors
    /// If there are too many bytes, or they are not a keyed archive in a property list.
    pub fn read(bytes: &[u8]) -> Result<Self, ArchiveError> {
        if bytes.len() > MAX_ARCHIVE_BYTES {
            return Err(ArchiveError::TooLarge(bytes.len()));
        }
        let Value::Dictionary(mut parts) = read_small_plist::<MAX_VALUES>(bytes)? else {
            return Err(ArchiveError::NotAnArchive("the outermost dictionary"));
        };
        let root = parts
            .get("$top")
            .and_then(Value::as_dictionary)
            .and_then(|top| top.get("root"))
            .and_then(reference)
            .ok_or(ArchiveError::NotAnArchive("$top.root"))?;
        let Some(Value::Array(objects)) = parts.remove("$objects") else {
            return Err(ArchiveError::NotAnArchive("$objects"));
        };
        Ok(Self { objects, root, unfolded: Cell::new(0) })
    }

    /// The object the archive was made of.
    ///
    /// # Errors
    /// If it is missing or has no class.
    pub fn root(&self) -> Result<ArchivedValue<'_>, ArchiveError> {
        self.resolve(self.root)?.ok_or(ArchiveError::Dangling(self.root))
    }

    /// The object of this number; `None` for the null object.
    fn resolve(&self, number: u64) -> Result<Option<ArchivedValue<'_>>, ArchiveError> {
        let object = usize::try_from(number).ok().and_then(|n| self.objects.get(n));
        match object {
            None => Err(ArchiveError::Dangling(number)),
            Some(Value::String(text)) if number == 0 && text == NULL_OBJECT => Ok(None),
            Some(Value::Dictionary(fields)) => self.instance(number, fields).map(Some),
            Some(plain) => scalar(plain).map(Some).ok_or(ArchiveError::Classless(number)),
        }
    }

    /// The value of a field: a reference or, for some kinds, the value itself.
    fn value<'a>(&'a self, field: &'a Value) -> Result<Option<ArchivedValue<'a>>, ArchiveError> {
        let node = match (reference(field), scalar(field)) {
            (Some(number), _) => self.resolve(number)?,
            (None, Some(node)) => Some(node),
            (None, None) => return Err(ArchiveError::NotAnArchive("a reference")),
        };
        let length = match node {
            Some(ArchivedValue::Text(text)) => text.len(),
            Some(ArchivedValue::Bytes(bytes)) => bytes.len(),
            _ => 0,
        };
        self.unfolded.set(self.unfolded.get().saturating_add(VALUE_COST_BYTES + length));
        if self.unfolded.get() > MAX_UNFOLDED_BYTES {
            return Err(ArchiveError::Unfolds);
        }
        Ok(node)
    }

    fn instance<'a>(
        &'a self,
        number: u64,
        fields: &'a Dictionary,
    ) -> Result<ArchivedValue<'a>, ArchiveError> {
        let class = fields
            .get("$class")
            .and_then(reference)
            .and_then(|class| self.objects.get(usize::try_from(class).ok()?))
            .and_then(Value::as_dictionary)
            .and_then(|class| class.get("$classname"))
            .and_then(Value::as_string)
            .ok_or(ArchiveError::Classless(number))?;
        let object = ArchivedObject { archive: self, class, fields };
        match class {
            "NSString" | "NSMutableString" => object.inline("NS.string", "text"),
            "NSData" | "NSMutableData" => object.inline("NS.data", "data"),
            "NSDate" => {
                // A whole number of seconds may come as an integer.
                let time = object.fields.get("NS.time").and_then(|time| match time {
                    Value::Real(seconds) => Some(*seconds),
                    #[expect(clippy::cast_precision_loss, reason = "dates are doubles")]
                    Value::Integer(seconds) => seconds.as_signed().map(|s| s as f64),
                    _ => None,
                });
                let time = time.ok_or_else(|| object.missing("NS.time"))?;
                Ok(ArchivedValue::Date(time + APPLE_EPOCH_SECS))
            }
            "NSArray" | "NSMutableArray" | "NSSet" | "NSMutableSet" | "NSOrderedSet" => {
                let elements = object.references("NS.objects")?;
                Ok(ArchivedValue::List(ArchivedList { archive: self, elements }))
            }
            "NSDictionary" | "NSMutableDictionary" => {
                let keys = object.references("NS.keys")?;
                let values = object.references("NS.objects")?;
                if keys.len() != values.len() {
                    return Err(object.missing("NS.objects"));
                }
                Ok(ArchivedValue::Dictionary(ArchivedPairs { archive: self, keys, values }))
            }
            _ => Ok(ArchivedValue::Object(object)),
        }
    }
}

/// The object number a value refers to. Binary lists have a kind of value for
/// it, read as an integer; XML ones a dictionary with one entry.
fn reference(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => number.as_unsigned(),
        Value::Uid(uid) => Some(uid.get()),
        Value::Dictionary(entry) => entry.get("CF$UID").and_then(Value::as_unsigned_integer),
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<ArchivedValue<'_>> {
    match value {
        Value::String(text) => Some(ArchivedValue::Text(text)),
        Value::Data(bytes) => Some(ArchivedValue::Bytes(bytes)),
        Value::Boolean(flag) => Some(ArchivedValue::Flag(*flag)),
        Value::Real(number) => Some(ArchivedValue::Real(*number)),
        Value::Integer(number) => number
            .as_signed()
            .map(i128::from)
            .or_else(|| number.as_unsigned().map(i128::from))
            .map(ArchivedValue::Whole),
        _ => None,
    }
}

impl ArchivedValue<'_> {
    /// What the value is, to name it in an error.
    #[must_use]
    pub fn kind(&self) -> Name {
        match self {
            Self::Text(_) => Name::new("text"),
            Self::Bytes(_) => Name::new("data"),
            Self::Flag(_) => Name::new("a flag"),
            Self::Whole(_) => Name::new("a whole number"),
            Self::Real(_) => Name::new("a number with a fraction"),
            Self::Date(_) => Name::new("a date"),
            Self::List(_) => Name::new("a list"),
            Self::Dictionary(_) => Name::new("a dictionary"),
            Self::Object(object) => Name::new(object.class),
        }
    }
}

impl fmt::Debug for ArchivedObject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchivedObject({})", Name::new(self.class))
    }
}

impl fmt::Debug for ArchivedList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchivedList({})", self.elements.len())
    }
}

impl fmt::Debug for ArchivedPairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchivedPairs({})", self.keys.len())
    }
}

impl<'a> ArchivedObject<'a> {
    /// The name of its class.
    #[must_use]
    pub fn class(&self) -> &'a str {
        self.class
    }

    /// The value of a key, `None` if it is absent or null.
    ///
    /// # Errors
    /// If the value cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<ArchivedValue<'a>>, ArchiveError> {
        self.fields.get(key).map_or(Ok(None), |field| self.archive.value(field))
    }

    /// Text; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.kind(key, &other, "text")),
        }
    }

    /// Text that is there and not empty.
    ///
    /// # Errors
    /// If it is absent, empty, or of another kind.
    pub fn required_text(&self, key: &'static str) -> Result<&'a str, ArchiveError> {
        self.text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| self.missing(key))
    }

    /// Bytes; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn bytes(&self, key: &'static str) -> Result<Option<&'a [u8]>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Bytes(bytes)) => Ok(Some(bytes)),
            Some(other) => Err(self.kind(key, &other, "data")),
        }
    }

    /// A flag, false if absent.
    ///
    /// # Errors
    /// If the value is neither a flag nor 0 or 1.
    pub fn flag(&self, key: &'static str) -> Result<bool, ArchiveError> {
        match self.get(key)? {
            None | Some(ArchivedValue::Whole(0)) => Ok(false),
            Some(ArchivedValue::Flag(flag)) => Ok(flag),
            Some(ArchivedValue::Whole(1)) => Ok(true),
            Some(other) => Err(self.kind(key, &other, "a flag")),
        }
    }

    /// A whole number that the type can hold; `None` if absent.
    ///
    /// # Errors
    /// If the value is not a whole number or is too large.
    pub fn whole<T: TryFrom<i128>>(&self, key: &'static str) -> Result<Option<T>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Whole(number)) => match T::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ArchiveError::Kind {
                    class: Name::new(self.class),
                    key,
                    found: Name::new(&number.to_string()),
                    expected: "a number in range",
                }),
            },
            Some(ArchivedValue::Flag(flag)) => Ok(T::try_from(i128::from(flag)).ok()),
            Some(other) => Err(self.kind(key, &other, "a whole number")),
        }
    }

    /// A date in seconds since 1970; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn date(&self, key: &'static str) -> Result<Option<f64>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Date(seconds)) => Ok(Some(seconds)),
            Some(other) => Err(self.kind(key, &other, "a date")),
        }
    }

    /// A list; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn list(&self, key: &'static str) -> Result<Option<ArchivedList<'a>>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::List(list)) => Ok(Some(list)),
            Some(other) => Err(self.kind(key, &other, "a list")),
        }
    }

    /// The texts of a list, none if it is absent.
    ///
    /// # Errors
    /// If the value is not a list, or holds something other than text.
    pub fn texts(&self, key: &'static str) -> Result<Vec<String>, ArchiveError> {
        let Some(list) = self.list(key)? else { return Ok(Vec::new()) };
        list.iter()
            .map(|element| match element? {
                ArchivedValue::Text(text) => Ok(text.to_owned()),
                other => Err(self.kind(key, &other, "a list of texts")),
            })
            .collect()
    }

    /// A dictionary; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn dictionary(&self, key: &'static str) -> Result<Option<ArchivedPairs<'a>>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Dictionary(pairs)) => Ok(Some(pairs)),
            Some(other) => Err(self.kind(key, &other, "a dictionary")),
        }
    }

    /// An instance of one of these classes; `None` if absent.
    ///
    /// # Errors
    /// If the value is of another kind or class.
    pub fn object(
        &self,
        key: &'static str,
        classes: &[&'static str],
    ) -> Result<Option<ArchivedObject<'a>>, ArchiveError> {
        match self.get(key)? {
            None => Ok(None),
            Some(ArchivedValue::Object(object)) if classes.contains(&object.class) => {
                Ok(Some(object))
            }
            Some(other) => {
                Err(self.kind(key, &other, classes.first().copied().unwrap_or("an object")))
            }
        }
    }

    /// The error for a key this object cannot do without.
    #[must_use]
    pub fn missing(&self, key: &'static str) -> ArchiveError {
        ArchiveError::Missing { class: Name::new(self.class), key }
    }

    /// The error for a value that is not of the kind expected.
    #[must_use]
    pub fn kind(
        &self,
        key: &'static str,
        found: &ArchivedValue<'_>,
        expected: &'static str,
    ) -> ArchiveError {
        ArchiveError::Kind { class: Name::new(self.class), key, found: found.kind(), expected }
    }

    /// The content of a text or data object, which is in the object itself.
    fn inline(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<ArchivedValue<'a>, ArchiveError> {
        let node = self.fields.get(key).and_then(scalar).ok_or_else(|| self.missing(key))?;
        match node {
            ArchivedValue::Text(_) | ArchivedValue::Bytes(_) => Ok(node),
            other => Err(self.kind(key, &other, expected)),
        }
    }

    fn references(&self, key: &'static str) -> Result<&'a [Value], ArchiveError> {
        match self.fields.get(key) {
            Some(Value::Array(elements)) => Ok(elements),
            _ => Err(self.missing(key)),
        }
    }
}

impl<'a> ArchivedList<'a> {
    /// The elements that are not null.
    pub fn iter(self) -> impl Iterator<Item = Result<ArchivedValue<'a>, ArchiveError>> {
        self.elements.iter().filter_map(move |element| self.archive.value(element).transpose())
    }
}

impl<'a> ArchivedPairs<'a> {
    /// The entries whose key and value are not null, in the archive's order.
    pub fn iter(
        self,
    ) -> impl Iterator<Item = Result<(ArchivedValue<'a>, ArchivedValue<'a>), ArchiveError>> {
        let pair = move |(key, value): (&'a Value, &'a Value)| {
            let key = self.archive.value(key)?;
            let value = self.archive.value(value)?;
            Ok(key.zip(value))
        };
        self.keys.iter().zip(self.values).map(pair).filter_map(Result::transpose)
    }
}
