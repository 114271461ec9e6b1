//! Reading a rule file, one rule after another.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use serde::de::{
    self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, Serialize};

use crate::cli::Error;
use crate::model::text::{self, BYTE_ORDER_MARK};
use crate::model::{Rule, RuleSet, parse_rule};
use crate::protocol::cel;

/// How many faults, and how many refused rules, are named.
const MAX_ERRORS_NAMED: usize = 20;
/// Rules of a file that are packed at once.
const RULES_PER_PAGE: usize = 10_000;

/// Reads a rule file; `-` is standard input. A CEL rule whose expression cannot
/// be used is refused by itself; if the reading is `strict`, it is a fault.
///
/// # Errors
/// If the file cannot be read or has faults. Then none of it counts.
pub(super) fn read(file: &Path, strict: bool) -> Result<Reading, Error> {
    let name = file.display();
    let input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(file);
        Box::new(file.map_err(|error| Error::usage(format!("cannot read {name}: {error}")))?)
    };
    let mut reading = Reading { strict, ..Reading::default() };
    let mut input = BufReader::new(input);
    if input.fill_buf().is_ok_and(|bytes| bytes.starts_with(BYTE_ORDER_MARK)) {
        input.consume(BYTE_ORDER_MARK.len());
    }
    let mut json = serde_json::Deserializer::from_reader(input);
    let read = json.deserialize_map(FileVisitor(&mut reading)).and_then(|()| json.end());
    read.map_err(|error| {
        Error::usage(format!(
            "{name} is not a rule file ({{\"rules\":[{{...}}]}}): {error}; nothing was imported"
        ))
    })?;
    if !reading.found {
        return Err(Error::usage(format!("{name} has no \"rules\"; nothing was imported")));
    }
    reading.pack();
    if reading.faults_total > 0 {
        let shown = reading.faults.iter().chain(&reading.refused).take(MAX_ERRORS_NAMED);
        let mut shown: Vec<String> = shown.map(ToString::to_string).collect();
        let more = reading.faults_total + reading.refused_total - shown.len();
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        let shown = shown.join("\n  ");
        return Err(Error::usage(format!("{name} has errors; nothing was imported:\n  {shown}")));
    }
    Ok(reading)
}

/// A rule of a file that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refused {
    /// Its index in the file, from 0.
    index: usize,
    /// The start of its identifier, as written there.
    identifier: String,
    /// Why it cannot be stored.
    reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, identifier, reason } = self;
        write!(f, "rule {index} \"{}\": {}", text::escaped(identifier), text::escaped(reason))
    }
}

/// The rules of a file, and what is wrong with it.
#[derive(Default)]
pub(super) struct Reading {
    strict: bool,
    found: bool,
    /// The rules that can be stored.
    pub(super) rules: RuleSet,
    page: Vec<Rule>,
    faults: Vec<Refused>,
    faults_total: usize,
    /// The first CEL rules whose expression cannot be used.
    pub(super) refused: Vec<Refused>,
    /// How many there are.
    pub(super) refused_total: usize,
}

impl Reading {
    fn take(&mut self, index: usize, entries: &Entries) {
        let pairs = entries.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        match parse_rule(pairs) {
            Ok(rule) => match check_expression(&rule) {
                Ok(()) => self.page.push(rule),
                Err(error) => {
                    let reason = format!("the CEL expression {error}");
                    self.refuse(index, entries, reason, !self.strict);
                }
            },
            Err(error) => self.refuse(index, entries, error.to_string(), false),
        }
        if self.page.len() == RULES_PER_PAGE {
            self.pack();
        }
    }

    /// Notes a rule that cannot be stored; it alone is refused, or it is a fault
    /// of the file.
    fn refuse(&mut self, index: usize, entries: &Entries, reason: String, alone: bool) {
        let (list, total) = if alone {
            (&mut self.refused, &mut self.refused_total)
        } else {
            (&mut self.faults, &mut self.faults_total)
        };
        *total += 1;
        if list.len() < MAX_ERRORS_NAMED {
            let named = entries.0.iter().find(|(key, _)| key.eq_ignore_ascii_case("identifier"));
            let identifier = named.map(|(_, value)| value.chars().take(80).collect());
            list.push(Refused { index, identifier: identifier.unwrap_or_default(), reason });
        }
    }

    fn pack(&mut self) {
        self.rules.push_page(std::mem::take(&mut self.page), Vec::new());
    }
}

fn check_expression(rule: &Rule) -> Result<(), cel::CelError> {
    let expression = rule.details.as_ref().map_or("", |details| &details.cel_expr);
    if expression.is_empty() { Ok(()) } else { cel::check(expression) }
}

/// A dictionary of text. `null` counts as absent.
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rule, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    match map.next_value::<serde_json::Value>()? {
                        serde_json::Value::String(text) => entries.push((key, text)),
                        // Keys this program does not know may hold anything.
                        serde_json::Value::Null
                        | serde_json::Value::Bool(_)
                        | serde_json::Value::Number(_)
                        | serde_json::Value::Array(_)
                        | serde_json::Value::Object(_) => {}
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Takes the rules in one by one, so that the file is never in memory.
struct FileVisitor<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for FileVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key != "rules" {
                map.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut self.0.found, true) {
                return Err(de::Error::duplicate_field("rules"));
            } else {
                map.next_value_seed(FileRulesSeed(&mut *self.0))?;
            }
        }
        Ok(())
    }
}

struct FileRulesSeed<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for FileRulesSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FileRulesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(entries) = seq.next_element::<Entries>()? {
            self.0.take(index, &entries);
            index += 1;
        }
        Ok(())
    }
}
