//! Names in files and on the command line: read from text, with errors that list
//! what is allowed.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::exchange::Route;
use super::style::{CursorStyle, Preset, SyncTypePolicy};
use crate::protocol::json::Enumeration;
use crate::protocol::wire;

/// A value that a text names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

/// The value of that name.
fn named<T: Clone>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is not known; give one of {}", names.join(", "))
    })
}

/// The number of an enum's name; 0, its default, has none.
pub(super) fn enum_named<E: Enumeration>(text: &str) -> Result<i32, String> {
    let known: Vec<_> = E::NAMES.iter().copied().filter(|(_, number)| *number != 0).collect();
    named(text, &known)
}

/// The name of a preset.
pub(super) type PresetName = Parsed<Preset>;

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(text, &Self::NAMES)
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(|route| (route.name(), route));
        let segments = Self::ALL.iter().find(|route| route.segment() == text);
        segments.copied().map_or_else(|| named(text, &known), Ok)
    }
}

impl FromStr for CursorStyle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(
            text,
            &[
                ("opaque", Self::Opaque),
                ("fresh", Self::Fresh),
                ("json-text", Self::JsonText),
                ("number", Self::Number),
            ],
        )
    }
}

impl FromStr for SyncTypePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(
            text,
            &[
                ("as-needed", Self::AsNeeded),
                ("as-requested", Self::AsRequested),
                ("clean-when-empty", Self::CleanWhenEmpty),
                ("legacy-flag", Self::LegacyFlag),
                ("silent", Self::Silent),
                ("normal", Self::Always(wire::SyncType::Normal)),
                ("clean", Self::Always(wire::SyncType::Clean)),
                ("clean-all", Self::Always(wire::SyncType::CleanAll)),
            ],
        )
    }
}

/// Whether a text has this form; `*` stands for any text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("A1", "A1", true),
            ("A1", "A12", false),
            ("*", "", true),
            ("lab-*", "lab-7", true),
            ("lab-*", "la", false),
            ("*-7", "lab-7", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "cursed".parse::<CursorStyle>().unwrap_err();
        assert_eq!(error, r#""cursed" is not known; give one of opaque, fresh, json-text, number"#);
        assert_eq!(enum_named::<wire::Policy>("whitelist"), Ok(1));
        assert!(enum_named::<wire::Policy>("POLICY_UNKNOWN").unwrap_err().contains("ALLOWLIST, "));
    }
}
