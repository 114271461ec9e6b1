//! Rule download: pages of wire rules to checked, normalised ones.
//!
//! A rule that cannot be taken is rejected alone and named; it never costs the
//! page. What a set of rules does to the store is not known here.

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::body::{self, BodyError, Transfer};
use super::{cel, wire};
use crate::model::{
    BUTTON_LABEL_MAX, Cursor, Identifier, IdentifierError, MachineId, Policy, RejectedRule, Rule,
    RuleDetails, RuleType,
};

/// How much of a rejected rule's identifier is kept, in characters.
const IDENTIFIER_SHOWN: usize = 128;

/// One page of a rule download.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The rules that passed the checks, in the order received.
    pub rules: Vec<Rule>,
    /// The rules that did not.
    pub rejected: Vec<RejectedRule>,
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
    let whole = body::decode::<wire::RuleDownloadResponse>(transfer, body);
    let mut page = match (whole, transfer) {
        (Ok(response), _) => convert(response, number),
        (Err(BodyError::WrongShape { .. }), Transfer::Json) => one_by_one(body, number)?,
        (Err(error), _) => return Err(error),
    };
    if transfer == Transfer::Json {
        let text = body::without_xssi_prefix(body).trim_ascii();
        page.without_body = text.is_empty();
        let says_nothing =
            page.rules.is_empty() && page.rejected.is_empty() && page.cursor.is_none();
        if says_nothing && !page.without_body {
            expect_rules_or_cursor(text)?;
        }
    }
    Ok(page)
}

fn convert(response: wire::RuleDownloadResponse, number: u32) -> Page {
    let mut page = Page { cursor: Cursor::new(response.cursor), ..Page::default() };
    page.rules.reserve_exact(response.rules.len());
    let mut expressions = cel::Checked::default();
    for (index, rule) in (0..).zip(response.rules) {
        take(&mut page, &mut expressions, number, index, rule);
    }
    page
}

fn take(
    page: &mut Page,
    expressions: &mut cel::Checked,
    number: u32,
    index: u32,
    rule: wire::Rule,
) {
    let named = named_identifier(&rule).chars().take(IDENTIFIER_SHOWN).collect();
    match check_with(rule, expressions) {
        Ok(rule) => page.rules.push(rule),
        Err(error) => page.rejected.push(RejectedRule {
            page: number,
            index,
            identifier: named,
            reason: error.to_string(),
        }),
    }
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow, default)]
    rules: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    cursor: Option<&'a RawValue>,
}

/// Reads a page in which something is of the wrong shape rule by rule, so that
/// only the rules at fault are lost.
fn one_by_one(body: &[u8], number: u32) -> Result<Page, BodyError> {
    let text = body::without_xssi_prefix(body);
    let error = |e: serde_json::Error| body::json_error::<wire::RuleDownloadResponse>(text, &e);
    let raw: RawPage<'_> = serde_json::from_slice(text).map_err(error)?;
    let mut page = Page::default();
    if let Some(cursor) = raw.cursor {
        let alone = format!("{{\"cursor\":{}}}", cursor.get());
        let read: wire::RuleDownloadResponse = serde_json::from_str(&alone).map_err(error)?;
        page.cursor = Cursor::new(read.cursor);
    }
    let mut expressions = cel::Checked::default();
    for (index, raw) in (0..).zip(raw.rules.unwrap_or_default()) {
        match serde_json::from_str::<Option<wire::Rule>>(raw.get()) {
            Ok(Some(rule)) => take(&mut page, &mut expressions, number, index, rule),
            Ok(None) => {}
            Err(error) => page.rejected.push(RejectedRule {
                page: number,
                index,
                identifier: identifier_of(raw),
                reason: format!("the rule is not of a rule's shape: {error}"),
            }),
        }
    }
    Ok(page)
}

/// The identifier of a rule whose other fields cannot be read.
fn identifier_of(raw: &RawValue) -> String {
    let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let named = value.get("identifier").or_else(|| value.get("sha256"));
    let text = named.and_then(serde_json::Value::as_str).unwrap_or_default();
    text.chars().take(IDENTIFIER_SHOWN).collect()
}

fn expect_rules_or_cursor(text: &[u8]) -> Result<(), BodyError> {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).unwrap_or_default();
    if object.is_empty() || object.contains_key("rules") || object.contains_key("cursor") {
        return Ok(());
    }
    let names: Vec<String> = object.keys().take(5).map(|k| k.chars().take(40).collect()).collect();
    Err(BodyError::WrongShape {
        message: "RuleDownloadResponse",
        path: ".".to_owned(),
        reason: format!(
            "neither `rules` nor `cursor` is there, but {} (an error report?)",
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        ),
    })
}

#[expect(deprecated, reason = "servers of old send sha256 for the identifier")]
fn named_identifier(rule: &wire::Rule) -> &str {
    if rule.identifier.is_empty() { &rule.deprecated_sha256 } else { &rule.identifier }
}

/// Checks a wire rule and normalises it.
///
/// # Errors
/// If the rule cannot be taken.
pub fn check(rule: wire::Rule) -> Result<Rule, RuleError> {
    check_with(rule, &mut cel::Checked::default())
}

fn check_with(rule: wire::Rule, expressions: &mut cel::Checked) -> Result<Rule, RuleError> {
    let rule_type = rule_type(rule.rule_type()).ok_or(RuleError::Type)?;
    let policy = policy(rule.policy()).ok_or(RuleError::Policy)?;
    let identifier = Identifier::parse(rule_type, named_identifier(&rule))?;
    if policy == Policy::Cel && rule.cel_expr.trim().is_empty() {
        return Err(RuleError::ExpressionMissing);
    }
    if policy == Policy::Cel {
        expressions.check(&rule.cel_expr).map_err(RuleError::Expression)?;
    }
    let mut label = rule.event_detail_button_label;
    if let Some((cut, _)) = label.char_indices().nth(BUTTON_LABEL_MAX) {
        label.truncate(cut);
    }
    let details = RuleDetails {
        custom_msg: rule.custom_msg,
        custom_url: rule.custom_url,
        // An expression means nothing beside another policy, and would count
        // in the rules hash.
        cel_expr: if policy == Policy::Cel { rule.cel_expr } else { String::new() },
        event_detail_button_label: label,
        comment: String::new(),
        notification_app_name: rule.notification_app_name,
    };
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
