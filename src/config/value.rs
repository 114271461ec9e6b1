//! Values of keys: from text, and checked against the kind of their key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plist::Value;

use super::finding::FindingKind;
use super::keys::{Key, Kind};
use crate::plist_bounded::read_plist;

/// A property list type's name in messages, with its article.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "an array",
        Value::Dictionary(_) => "a dictionary",
        Value::Boolean(_) => "a boolean",
        Value::Data(_) => "data",
        Value::Date(_) => "a date",
        Value::Real(_) => "a real number",
        Value::Integer(_) => "an integer",
        Value::String(_) => "a string",
        Value::Uid(_) | _ => "of an unknown type",
    }
}

/// Whether the value is of the key's type; its content is not looked at.
pub(super) fn has_type(kind: Kind, value: &Value) -> bool {
    match kind {
        // Tools that build profiles write booleans as 1 and 0.
        Kind::Bool => {
            value.as_boolean().is_some() || matches!(value.as_signed_integer(), Some(0 | 1))
        }
        Kind::Integer(..) => matches!(value, Value::Integer(_)),
        Kind::Text | Kind::Choice(_) | Kind::Path => value.as_string().is_some(),
        // Form builders of management systems write text.
        Kind::Data => value.as_data().is_some() || value.as_string().is_some(),
        Kind::Texts => {
            value.as_array().is_some_and(|array| array.iter().all(|v| v.as_string().is_some()))
        }
        Kind::Command => value.as_string().is_some() || has_type(Kind::Texts, value),
        // The members are judged one by one, so that one bad header or rule
        // costs no other.
        Kind::Headers | Kind::Proxy => value.as_dictionary().is_some(),
        Kind::Rules => value.as_array().is_some(),
    }
}

/// Returns the value that a text means. Scalars are written plainly; arrays and
/// dictionaries as JSON or as an XML property list; bytes as PEM or base64.
///
/// # Errors
/// If the text is not a value of the key's kind; the message says what is wanted
/// and never repeats the text.
pub(super) fn from_text(key: &Key, text: &str) -> Result<Value, String> {
    match key.kind {
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Ok(Value::Boolean(true)),
            "false" | "no" | "0" => Ok(Value::Boolean(false)),
            _ => Err("write true or false".to_owned()),
        },
        Kind::Integer(..) => text
            .trim()
            .parse::<i64>()
            .map(|n| Value::Integer(n.into()))
            .map_err(|_| "write a whole number".to_owned()),
        Kind::Text | Kind::Choice(_) | Kind::Path => Ok(Value::String(text.to_owned())),
        Kind::Command if !text.trim_start().starts_with(['[', '<']) => {
            Ok(Value::String(text.to_owned()))
        }
        // As people write lists; no name in one has a comma.
        Kind::Texts if !text.trim_start().starts_with(['[', '<', '{']) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(Value::Array(parts.map(Value::from).collect()))
        }
        Kind::Data => bytes(&Value::String(text.to_owned()))
            .map(Value::Data)
            .ok_or_else(|| "write PEM text or base64".to_owned()),
        Kind::Proxy if text.eq_ignore_ascii_case("none") => {
            Ok(Value::Dictionary(plist::Dictionary::new()))
        }
        Kind::Texts | Kind::Command | Kind::Headers | Kind::Proxy | Kind::Rules => structured(text)
            .ok_or_else(|| format!("write {} as JSON or an XML property list", key.kind.phrase())),
    }
}

/// The bytes of a value of [`Kind::Data`]: data, PEM text, or text in base64.
pub(super) fn bytes(value: &Value) -> Option<Vec<u8>> {
    if let Some(data) = value.as_data() {
        return Some(data.to_vec());
    }
    let text = value.as_string()?;
    if text.contains("-----BEGIN") {
        return Some(text.as_bytes().to_vec());
    }
    STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok()
}

fn structured(text: &str) -> Option<Value> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with('<') {
        return read_plist(text.as_bytes()).ok();
    }
    from_json(serde_json::from_str(text).ok()?)
}

fn from_json(json: serde_json::Value) -> Option<Value> {
    Some(match json {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(b) => Value::Boolean(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => Value::Integer(n.into()),
            (None, Some(n), _) => Value::Integer(n.into()),
            (None, None, n) => Value::Real(n?),
        },
        serde_json::Value::String(s) => Value::String(s),
        serde_json::Value::Array(array) => {
            Value::Array(array.into_iter().map(from_json).collect::<Option<_>>()?)
        }
        serde_json::Value::Object(object) => {
            let mut dictionary = plist::Dictionary::new();
            for (key, value) in object {
                dictionary.insert(key, from_json(value)?);
            }
            Value::Dictionary(dictionary)
        }
    })
}

/// The JSON form of a value, to show it.
pub(super) fn to_json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Array(array) => Json::Array(array.iter().map(to_json).collect()),
        Value::Dictionary(dictionary) => {
            Json::Object(dictionary.iter().map(|(k, v)| (k.clone(), to_json(v))).collect())
        }
        Value::Boolean(b) => Json::Bool(*b),
        Value::Data(data) => match std::str::from_utf8(data) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => Json::String(STANDARD.encode(data)),
        },
        Value::Real(n) => (*n).into(),
        Value::Integer(n) => match (n.as_signed(), n.as_unsigned()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            (None, None) => Json::Null,
        },
        Value::String(s) => Json::String(s.clone()),
        Value::Date(_) | Value::Uid(_) | _ => Json::Null,
    }
}

/// Why a key does not accept a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) kind: FindingKind,
    pub(super) message: String,
    pub(super) fix: String,
}

/// Checks a value against the kind of its key: its type, bounds and choices.
/// `from_file` is whether a file sets it: paths there must be absolute.
pub(super) fn check(key: &Key, value: &Value, from_file: bool) -> Result<(), Complaint> {
    if !has_type(key.kind, value) {
        let is_list = matches!(key.kind, Kind::Texts | Kind::Command);
        let found = if is_list && value.as_array().is_some() {
            "an array with other members"
        } else {
            type_name(value)
        };
        return Err(Complaint {
            kind: FindingKind::WrongType,
            message: format!("is {found}, not {}", key.kind.phrase()),
            fix: format!("write it as {}", key.kind.phrase()),
        });
    }
    let bad_value = |message: &str, fix: String| {
        Err(Complaint { kind: FindingKind::BadValue, message: message.to_owned(), fix })
    };
    match (key.kind, value) {
        (Kind::Integer(low, high), value) => match value.as_signed_integer() {
            Some(n) if (low..=high).contains(&n) => Ok(()),
            n => Err(Complaint {
                kind: FindingKind::OutOfRange,
                message: n.map_or("is too large".to_owned(), |n| format!("{n} is out of range")),
                fix: format!("write a number from {low} to {high}"),
            }),
        },
        (Kind::Choice(choices), Value::String(text)) => {
            if choices.iter().any(|choice| choice.eq_ignore_ascii_case(text)) {
                Ok(())
            } else {
                let shown: String = text.chars().take(64).collect();
                bad_value(
                    &format!("{shown:?} is not one of its values"),
                    format!("write one of {}", choices.join(", ")),
                )
            }
        }
        (Kind::Path, Value::String(text)) if text.is_empty() && key.strict => {
            bad_value("is empty", "name a file or remove the key".to_owned())
        }
        (Kind::Path, Value::String(text))
            if from_file && !text.is_empty() && !text.starts_with('/') =>
        {
            bad_value("is a relative path", "write the path from the root, with a /".to_owned())
        }
        (Kind::Data, value) => match bytes(value) {
            None => bad_value(
                "is a string that is neither PEM nor base64",
                "write the certificates as PEM, or as data".to_owned(),
            ),
            Some(data) if data.is_empty() => {
                bad_value("is empty", "put PEM certificates in or remove the key".to_owned())
            }
            Some(_) => Ok(()),
        },
        _ => Ok(()),
    }
}
