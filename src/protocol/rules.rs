//! Rule download: pages of wire rules to checked, normalised ones.
//!
//! A rule that cannot be taken is rejected alone and named; it never costs the
//! page. What a set of rules does to the store is not known here.

use std::borrow::Cow;
use std::fmt;
use std::mem::take;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::body::{self, BodyError, Transfer};
use super::{cel, json, wire};
use crate::model::{
    BUTTON_LABEL_MAX, Cursor, Identifier, IdentifierError, MachineId, Policy, RejectedRule, Rule,
    RuleDetails, RuleSet, RuleType,
};

/// Rules of one sync at the most.
pub const MAX_RULES: u64 = 5_000_000;
/// Bytes of the texts of one rule at the most: a dialogue shows some hundred.
pub const MAX_RULE_TEXT: u64 = 64 << 10;
/// How much of a rejected rule's identifier is kept, in characters.
const IDENTIFIER_SHOWN: usize = 128;

/// One page of a rule download.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The rules that passed the checks, in the order received.
    pub rules: Vec<Rule>,
    /// The first [`RuleSet::REJECTED_KEPT`] of the rules that did not.
    pub rejected: Vec<RejectedRule>,
    /// How many more of them there were.
    pub rejected_unlisted: u64,
    /// Bytes of the texts that the rules carry.
    pub text_bytes: u64,
    /// Where the next page begins; `None` after the last.
    pub cursor: Option<Cursor>,
    /// The answer had no body at all. In JSON that says nothing about rules.
    pub without_body: bool,
}

/// Why a rule is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    /// Its `rule_type` is missing or unknown.
    #[error("the rule type is missing or unknown")]
    Type,
    /// Its `policy` is missing or unknown.
    #[error("the policy is missing or unknown")]
    Policy,
    /// Its identifier is not one of its type.
    #[error(transparent)]
    Identifier(#[from] IdentifierError),
    /// Its texts are longer than [`MAX_RULE_TEXT`].
    #[error("its texts are longer than {MAX_RULE_TEXT} bytes")]
    TooLong,
    /// A CEL rule without an expression.
    #[error("the policy is CEL and the expression is missing")]
    ExpressionMissing,
    /// A CEL rule whose expression does not parse.
    #[error("the CEL expression does not parse: {0}")]
    Expression(String),
}

/// The request for a page.
#[must_use]
pub fn request(machine_id: &MachineId, cursor: Option<&Cursor>) -> wire::RuleDownloadRequest {
    wire::RuleDownloadRequest {
        cursor: cursor.map(|c| c.as_str().to_owned()).unwrap_or_default(),
        machine_id: machine_id.as_str().to_owned(),
    }
}

/// Reads the body of a page; `number` is its place in the download, from 1.
///
/// # Errors
/// If the body is not a page of rules. An object that has keys, but neither
/// `rules` nor `cursor`, is none: servers report errors that way, and taken for
/// an empty page it would delete every rule in a clean sync.
pub fn read_page(transfer: Transfer, body: &[u8], number: u32) -> Result<Page, BodyError> {
    let mut reader = Reader { number, ..Reader::default() };
    match transfer {
        Transfer::Json => {
            let text = body::without_xssi_prefix(body).trim_ascii();
            reader.page.without_body = text.is_empty();
            if !reader.page.without_body {
                json_page(&mut reader, text)?;
            }
        }
        Transfer::Protobuf => protobuf_page(&mut reader, body)?,
    }
    Ok(reader.page)
}

/// Takes a page in rule by rule: nothing is held that is not kept, so that a
/// page of empty rules costs no more than its bytes.
#[derive(Default)]
struct Reader {
    number: u32,
    seen: u64,
    page: Page,
    expressions: cel::Checked,
}

impl Reader {
    /// Counts a rule; false if the page has more of them than a sync may bring.
    fn count(&mut self) -> bool {
        self.seen += 1;
        self.seen <= MAX_RULES
    }

    fn take(&mut self, mut rule: wire::Rule) {
        match check_with(&mut rule, &mut self.expressions) {
            Ok(rule) => {
                self.page.text_bytes += rule.details.as_deref().map_or(0, text_bytes);
                self.page.rules.push(rule);
            }
            Err(error) => self.reject(shortened(named_identifier(&rule)), error.to_string()),
        }
    }

    fn reject(&mut self, identifier: String, reason: String) {
        if self.page.rejected.len() == RuleSet::REJECTED_KEPT {
            self.page.rejected_unlisted += 1;
            return;
        }
        let index = u32::try_from(self.seen - 1).unwrap_or(u32::MAX);
        self.page.rejected.push(RejectedRule { page: self.number, index, identifier, reason });
    }
}

fn json_page(reader: &mut Reader, text: &[u8]) -> Result<(), BodyError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let mut object = PageObject { reader, known: false, others: Vec::new() };
    let read = deserializer.deserialize_map(&mut object).and_then(|()| deserializer.end());
    let (known, others) = (object.known, object.others);
    if let Err(error) = read {
        if reader.seen > MAX_RULES {
            return Err(BodyError::TooManyRules(MAX_RULES));
        }
        return Err(body::json_error::<wire::RuleDownloadResponse>(text, &error));
    }
    if known || others.is_empty() {
        return Ok(());
    }
    Err(BodyError::WrongShape {
        message: "RuleDownloadResponse",
        path: ".".to_owned(),
        reason: format!(
            "neither `rules` nor `cursor` is there, but {} (an error report?)",
            others.join(", ")
        ),
    })
}

/// The object of a page. An array is none, though it could be empty.
struct PageObject<'a> {
    reader: &'a mut Reader,
    /// A field of a page was there.
    known: bool,
    /// Names of the first other fields, to show.
    others: Vec<String>,
}

impl<'de> Visitor<'de> for &mut PageObject<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object (RuleDownloadResponse)")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "rules" => map.next_value_seed(Rules(&mut *self.reader))?,
                "cursor" => {
                    let cursor = json::read_value::<json::TextOrNumber, A>(&mut map)?;
                    self.reader.page.cursor = cursor.and_then(Cursor::new);
                }
                other => {
                    if self.others.len() < 5 {
                        self.others.push(format!("{:?}", shortened(other)));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            }
            self.known = true;
        }
        Ok(())
    }
}

/// The array of a page's rules, or null.
struct Rules<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Rules<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rules<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rules or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if !self.0.count() {
                return Err(de::Error::custom("too many rules"));
            }
            if let Some(rule) = plain(raw) {
                self.0.page.rules.push(rule);
                continue;
            }
            match serde_json::from_str::<Option<wire::Rule>>(raw.get()) {
                Ok(Some(rule)) => self.0.take(rule),
                Ok(None) => self.0.seen -= 1,
                Err(error) => {
                    let reason = body::shown(&error.to_string());
                    self.0.reject(identifier_of(raw), format!("not of a rule's shape: {reason}"));
                }
            }
        }
        Ok(())
    }
}

/// A rule as nearly all are: an identifier, a type and a policy by their first
/// names, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    identifier: &'a str,
    policy: &'a str,
    #[serde(alias = "ruleType")]
    rule_type: &'a str,
}

/// The rule, if it is a plain one that can be taken. Pages have up to millions
/// of them, and the whole message costs several times as much to read; whatever
/// is not found here is read that way.
fn plain(raw: &RawValue) -> Option<Rule> {
    // A list of the three texts would pass for a rule, too.
    if !raw.get().starts_with('{') {
        return None;
    }
    let Plain { identifier, policy: policy_name, rule_type: type_name } =
        serde_json::from_str(raw.get()).ok()?;
    let rule_type = rule_type(wire::RuleType::from_str_name(type_name)?)?;
    let policy = policy(wire::Policy::from_str_name(policy_name)?)?;
    if policy == Policy::Cel {
        return None;
    }
    let identifier = Identifier::parse(rule_type, identifier).ok()?;
    Some(Rule { identifier, policy, details: None })
}

/// Reads the two fields of a page off the binary form, one rule at a time.
fn protobuf_page(reader: &mut Reader, mut body: &[u8]) -> Result<(), BodyError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let wrong = |error: prost::DecodeError| BodyError::NotProtobuf {
        message: "RuleDownloadResponse",
        reason: body::shown(&error.to_string()),
    };
    while !body.is_empty() {
        let (tag, wire_type) = decode_key(&mut body).map_err(wrong)?;
        if wire_type != WireType::LengthDelimited || !matches!(tag, 1 | 2) {
            skip_field(wire_type, tag, &mut body, DecodeContext::default()).map_err(wrong)?;
            continue;
        }
        let length = decode_varint(&mut body).map_err(wrong)?;
        let field = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length));
        let Some((field, rest)) = field else {
            return Err(BodyError::NotProtobuf {
                message: "RuleDownloadResponse",
                reason: "it breaks off".to_owned(),
            });
        };
        body = rest;
        if tag == 2 {
            reader.page.cursor = Cursor::new(String::from_utf8_lossy(field).into_owned());
            continue;
        }
        if !reader.count() {
            return Err(BodyError::TooManyRules(MAX_RULES));
        }
        match <wire::Rule as prost::Message>::decode(field) {
            Ok(rule) => reader.take(rule),
            Err(error) => {
                let reason = body::shown(&error.to_string());
                reader.reject(String::new(), format!("not of a rule's shape: {reason}"));
            }
        }
    }
    Ok(())
}

/// The identifier of a rule whose other fields cannot be read.
fn identifier_of(raw: &RawValue) -> String {
    let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let named = value.get("identifier").or_else(|| value.get("sha256"));
    shortened(named.and_then(serde_json::Value::as_str).unwrap_or_default())
}

fn shortened(text: &str) -> String {
    text.chars().take(IDENTIFIER_SHOWN).collect()
}

fn text_bytes(details: &RuleDetails) -> u64 {
    let RuleDetails {
        custom_msg,
        custom_url,
        cel_expr,
        event_detail_button_label,
        comment,
        notification_app_name,
    } = details;
    [custom_msg, custom_url, cel_expr, event_detail_button_label, comment, notification_app_name]
        .into_iter()
        .map(|text| text.len() as u64)
        .sum()
}

#[expect(deprecated, reason = "servers of old send sha256 for the identifier")]
fn named_identifier(rule: &wire::Rule) -> &str {
    if rule.identifier.is_empty() { &rule.deprecated_sha256 } else { &rule.identifier }
}

/// Checks a wire rule and normalises it.
///
/// # Errors
/// If the rule cannot be taken.
pub fn check(mut rule: wire::Rule) -> Result<Rule, RuleError> {
    check_with(&mut rule, &mut cel::Checked::default())
}

/// Takes the texts of a rule that passes; of another, the identifier stays.
fn check_with(rule: &mut wire::Rule, expressions: &mut cel::Checked) -> Result<Rule, RuleError> {
    let rule_type = rule_type(rule.rule_type()).ok_or(RuleError::Type)?;
    let policy = policy(rule.policy()).ok_or(RuleError::Policy)?;
    let identifier = Identifier::parse(rule_type, named_identifier(rule))?;
    if policy == Policy::Cel && rule.cel_expr.trim().is_empty() {
        return Err(RuleError::ExpressionMissing);
    }
    if policy == Policy::Cel {
        expressions.check(&rule.cel_expr).map_err(RuleError::Expression)?;
    }
    let mut label = take(&mut rule.event_detail_button_label);
    if let Some((cut, _)) = label.char_indices().nth(BUTTON_LABEL_MAX) {
        label.truncate(cut);
    }
    let details = RuleDetails {
        custom_msg: take(&mut rule.custom_msg),
        custom_url: take(&mut rule.custom_url),
        // An expression means nothing beside another policy, and would count
        // in the rules hash.
        cel_expr: if policy == Policy::Cel { take(&mut rule.cel_expr) } else { String::new() },
        event_detail_button_label: label,
        comment: String::new(),
        notification_app_name: take(&mut rule.notification_app_name),
    };
    if text_bytes(&details) > MAX_RULE_TEXT {
        return Err(RuleError::TooLong);
    }
    let details = (details != RuleDetails::default()).then(|| Box::new(details));
    Ok(Rule { identifier, policy, details })
}

const fn rule_type(wire: wire::RuleType) -> Option<RuleType> {
    Some(match wire {
        wire::RuleType::RuletypeUnknown => return None,
        wire::RuleType::Binary => RuleType::Binary,
        wire::RuleType::Certificate => RuleType::Certificate,
        wire::RuleType::Teamid => RuleType::TeamId,
        wire::RuleType::Signingid => RuleType::SigningId,
        wire::RuleType::Cdhash => RuleType::Cdhash,
    })
}

const fn policy(wire: wire::Policy) -> Option<Policy> {
    Some(match wire {
        wire::Policy::Unknown => return None,
        wire::Policy::Allowlist => Policy::Allowlist,
        wire::Policy::AllowlistCompiler => Policy::AllowlistCompiler,
        wire::Policy::Blocklist => Policy::Blocklist,
        wire::Policy::SilentBlocklist => Policy::SilentBlocklist,
        wire::Policy::Remove => Policy::Remove,
        wire::Policy::Cel => Policy::Cel,
        wire::Policy::SilentGuiBlocklist => Policy::SilentGuiBlocklist,
        wire::Policy::SilentTtyBlocklist => Policy::SilentTtyBlocklist,
    })
}

#[cfg(test)]
mod tests;
