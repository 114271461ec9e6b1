//! Rule pages in JSON.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_RULE_BYTES, PageReader, RuleError, policy, rule_type};
use crate::model::{Cursor, Identifier, Policy, Rule};
use crate::protocol::body::{self, BodyError, MAX_CURSOR_BYTES, ResponseBody};
use crate::protocol::json::{
    ErrorReport, MemberName, Message as _, MessageSeed, TextError, text_within,
};
use crate::protocol::lenient::{MAX_IDENTIFIER_BYTES, Notes};
use crate::protocol::wire::{self, RuleDownloadResponse};

const MESSAGE: &str = RuleDownloadResponse::NAME;
/// The most bytes of the JSON of a plain rule: one with a longer identifier
/// is read the long way.
const MAX_PLAIN_RULE_BYTES: usize = 2 << 10;

pub(super) fn read(
    reader: &mut PageReader<'_>,
    received: ResponseBody<'_>,
) -> Result<(), BodyError> {
    let json = received.into_json()?;
    let text = json.as_str();
    reader.page.without_body = text.is_empty();
    if text.is_empty() {
        return Ok(());
    }
    reader.notes = Notes::response(json.is_marked());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut object = PageObject {
        reader,
        marked: json.is_marked(),
        known: false,
        others: Vec::new(),
        report: ErrorReport::default(),
        at: ".",
        cursor: Ok(None),
        ended: None,
    };
    let read = deserializer.deserialize_map(&mut object).and_then(|()| deserializer.end());
    let PageObject { known, others, report, at, cursor, ended, .. } = object;
    if let Err(error) = read {
        if let Some(ended) = ended {
            return Err(ended);
        }
        return Err(body::json_error(MESSAGE, at, text, &error));
    }
    reader.page.cursor = cursor?;
    body::check_report(MESSAGE, report, &mut reader.notes)?;
    if known || others.is_empty() {
        return Ok(());
    }
    Err(BodyError::WrongShape {
        message: MESSAGE,
        path: ".".to_owned(),
        reason: format!(
            "neither `rules` nor `cursor` is there, but {} (an error report?)",
            others.join(", ")
        ),
    })
}

/// The object of a page. An array is not one, though it could be empty.
struct PageObject<'a, 'b> {
    reader: &'a mut PageReader<'b>,
    marked: bool,
    /// A field of a page was there.
    known: bool,
    /// Names of the first other fields, to show.
    others: Vec<String>,
    report: ErrorReport,
    /// The field that is being read.
    at: &'static str,
    cursor: Result<Option<Cursor>, BodyError>,
    /// Why the reading ended before the end of the page.
    ended: Option<BodyError>,
}

impl<'de> Visitor<'de> for &mut PageObject<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object (RuleDownloadResponse)")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(MemberName(key)) = map.next_key()? {
            match &*key {
                "rules" => {
                    self.at = "rules";
                    let rules = RulesSeed {
                        reader: &mut *self.reader,
                        marked: self.marked,
                        ended: &mut self.ended,
                    };
                    map.next_value_seed(rules)?;
                }
                "cursor" => {
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    if raw != "null" {
                        self.reader.notes.found_field();
                    }
                    self.cursor = cursor(raw, self.marked);
                }
                other => {
                    if self.others.len() < 5 {
                        self.others.push(format!("\"{}\"", body::shown(other)));
                    }
                    match ErrorReport::member(other) {
                        Some(member) => {
                            self.report.take(member, map.next_value::<&'de RawValue>()?.get());
                        }
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                    continue;
                }
            }
            self.at = ".";
            self.known = true;
        }
        Ok(())
    }
}

/// Reads a cursor: a text, or a number as its decimal text, to the digit. One
/// that cannot be read is an error: without it the page would pass for the
/// last.
fn cursor(raw: &str, marked: bool) -> Result<Option<Cursor>, BodyError> {
    let wrong = |reason: &str| {
        let (path, reason) = ("cursor".to_owned(), reason.to_owned());
        Err(BodyError::WrongShape { message: MESSAGE, path, reason })
    };
    if raw == "null" {
        return Ok(None);
    }
    let is_number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if is_number && raw.len() <= MAX_CURSOR_BYTES {
        return Ok(Cursor::new(raw.to_owned()));
    }
    if !is_number && !raw.starts_with('"') {
        return wrong("neither a text nor a number");
    }
    if is_number {
        return Err(BodyError::CursorTooLong(raw.len()));
    }
    if marked && raw.contains(body::INVALID_BYTE_MARK) {
        return wrong("it is not UTF-8");
    }
    match text_within(raw, MAX_CURSOR_BYTES) {
        Ok(text) => Ok(Cursor::new(text)),
        Err(TextError::TooLong(bytes)) => Err(BodyError::CursorTooLong(bytes)),
        Err(TextError::NotUnicode) => wrong("it is not Unicode"),
    }
}

/// The array of a page's rules, or null.
struct RulesSeed<'a, 'b> {
    reader: &'a mut PageReader<'b>,
    marked: bool,
    ended: &'a mut Option<BodyError>,
}

impl<'de> DeserializeSeed<'de> for RulesSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RulesSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rules or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        let Self { reader, marked, ended } = self;
        reader.notes.found_field();
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if let Err(error) = reader.count() {
                *ended = Some(error);
                return Err(de::Error::custom("the reading ends here"));
            }
            let raw = raw.get();
            match plain(raw, marked) {
                Some(rule) => reader.page.rules.push(rule),
                None => any_rule(reader, raw, marked),
            }
        }
        Ok(())
    }
}

/// A rule as nearly all are: an identifier, a type and a policy by their first
/// names, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainRule<'a> {
    identifier: &'a str,
    policy: &'a str,
    #[serde(alias = "ruleType")]
    rule_type: &'a str,
}

/// The rule, if it is a plain one that can be taken. Pages have up to millions
/// of them, and the whole message costs several times as much to read; whatever
/// is not found here is read that way.
pub(super) fn plain(raw: &str, marked: bool) -> Option<Rule> {
    // A list of the three texts would pass for a rule, too.
    if !raw.starts_with('{')
        || raw.len() > MAX_PLAIN_RULE_BYTES
        || (marked && raw.contains(body::INVALID_BYTE_MARK))
    {
        return None;
    }
    let PlainRule { identifier, policy: policy_name, rule_type: type_name } =
        serde_json::from_str(raw).ok()?;
    let rule_type = rule_type(wire::RuleType::from_str_name(type_name)?)?;
    let policy = policy(wire::Policy::from_str_name(policy_name)?)?;
    if policy == Policy::Cel || identifier.len() > MAX_IDENTIFIER_BYTES {
        return None;
    }
    let identifier = Identifier::parse(rule_type, identifier).ok()?;
    Some(Rule { identifier, policy, details: None })
}

fn any_rule(reader: &mut PageReader<'_>, raw: &str, marked: bool) {
    if raw == "null" {
        return;
    }
    if !raw.starts_with('{') {
        return reader.reject_shape("", "it is not an object");
    }
    if raw.len() > MAX_RULE_BYTES {
        return reader.reject(&named(raw), RuleError::TooLarge.to_string());
    }
    let mut notes = Notes::rule(marked);
    let mut object = serde_json::Deserializer::from_str(raw);
    match MessageSeed::<wire::Rule>::new(&mut notes, None).deserialize(&mut object) {
        Ok(rule) => reader.take(rule, notes),
        Err(error) => reader.reject_shape(&named(raw), &error.to_string()),
    }
}

/// The identifier of a rule that is too large to read.
fn named(raw: &str) -> String {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, default, alias = "sha256")]
        identifier: Option<&'a RawValue>,
    }
    let Ok(Named { identifier: Some(raw) }) = serde_json::from_str(raw) else {
        return String::new();
    };
    let raw = raw.get();
    text_within(raw, MAX_IDENTIFIER_BYTES).unwrap_or_else(|_| body::shown(raw.trim_matches('"')))
}
