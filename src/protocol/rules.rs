//! Rule download: pages of wire rules to checked, normalised ones.
//!
//! A rule that cannot be used is rejected alone and named; it never costs the
//! page. What a set of rules does to the store is not known here.

mod binary;
mod json;
#[cfg(test)]
mod tests;
mod write;

use std::mem::take;

use thiserror::Error;

pub use write::{OutgoingRule, PageWriter};

use super::body::{self, BodyError, DecodedBody, ResponseBody};
use super::cel::{CelBudget, CelError};
use super::lenient::Notes;
use super::wire;
use crate::model::{
    Cursor, Identifier, IdentifierError, MAX_BUTTON_LABEL_CHARS, MachineId, Policy, RejectedRule,
    Rule, RuleDetails, RulePage, RuleSet, RuleType, Transfer,
};

/// The most rules of one sync.
pub const MAX_RULES_PER_SYNC: u64 = 5_000_000;
/// The most bytes of one rule, as sent.
pub const MAX_RULE_BYTES: usize = 256 << 10;
/// How much of a rejected rule's identifier is kept, in characters.
const MAX_IDENTIFIER_CHARS: usize = 128;

/// One page of a rule download.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The rules that passed the checks, in the order received.
    pub rules: RulePage,
    /// The first [`RuleSet::MAX_REJECTED_LISTED`] of the rules that did not.
    pub rejected: Vec<RejectedRule>,
    /// How many more of them there were.
    pub rejected_unlisted: u64,
    /// Where the next page begins; `None` after the last.
    pub cursor: Option<Cursor>,
    /// The response had no body at all, and nothing else says that this stands
    /// for a page: it says nothing about rules.
    pub without_body: bool,
}

/// Why a rule is rejected.
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
    /// It is longer than [`MAX_RULE_BYTES`] as a whole.
    #[error("it is longer than {MAX_RULE_BYTES} bytes")]
    TooLarge,
    /// A CEL rule without an expression.
    #[error("the policy is CEL and the expression is missing")]
    ExpressionMissing,
    /// A CEL rule whose expression is refused.
    #[error("the CEL expression {0}")]
    Expression(#[from] CelError),
}

/// The request for a page.
#[must_use]
pub fn request(machine_id: &MachineId, cursor: Option<&Cursor>) -> wire::RuleDownloadRequest {
    wire::RuleDownloadRequest {
        cursor: cursor.map(|c| c.as_str().to_owned()).unwrap_or_default(),
        machine_id: machine_id.as_str().to_owned(),
    }
}

/// Reads the body of a page; `number` is its place in the download, from 1, and
/// `expressions` spans the pages of a sync. `give_up` is asked every
/// [`RULES_PER_CANCEL_CHECK`] rules whether to end the reading there.
///
/// # Errors
/// If the body is not a page of rules. An object that has keys, but neither
/// `rules` nor `cursor`, is not: servers report errors that way, and taken for
/// an empty page it would delete every rule in a clean sync.
pub fn read_page(
    received: ResponseBody<'_>,
    number: u32,
    expressions: &mut CelBudget,
    give_up: &dyn Fn() -> bool,
) -> Result<DecodedBody<Page>, BodyError> {
    let mut reader = PageReader {
        number,
        seen: 0,
        page: Page::default(),
        notes: Notes::response(false),
        expressions,
        give_up,
    };
    match received.transfer() {
        Transfer::Json => json::read(&mut reader, received)?,
        Transfer::Protobuf => binary::read(&mut reader, &received)?,
    }
    Ok(DecodedBody { message: reader.page, warnings: reader.notes.into_warnings() })
}

#[cfg(any(test, feature = "internals"))]
/// [`read_page`] for tests and tools: no warnings, no limit of time.
///
/// # Errors
/// As [`read_page`].
pub fn page_of(transfer: Transfer, body: &[u8]) -> Result<Page, BodyError> {
    let received = ResponseBody::new(transfer, body);
    read_page(received, 1, &mut CelBudget::default(), &|| false).map(|decoded| decoded.message)
}

/// How many rules are read between two questions whether to give up: with the
/// longest expressions they take some tens of milliseconds.
pub const RULES_PER_CANCEL_CHECK: u64 = 64;

/// Takes a page in rule by rule: nothing is held that is not kept, so that a
/// page of empty rules costs no more than its bytes.
struct PageReader<'a> {
    number: u32,
    seen: u64,
    page: Page,
    notes: Notes,
    expressions: &'a mut CelBudget,
    give_up: &'a dyn Fn() -> bool,
}

impl PageReader<'_> {
    /// Counts a rule.
    ///
    /// # Errors
    /// If the page has more of them than a sync may bring, or its reading is to
    /// end.
    fn count(&mut self) -> Result<(), BodyError> {
        self.seen += 1;
        if self.seen > MAX_RULES_PER_SYNC {
            return Err(BodyError::TooManyRules(MAX_RULES_PER_SYNC));
        }
        if self.seen.is_multiple_of(RULES_PER_CANCEL_CHECK) && (self.give_up)() {
            return Err(BodyError::GivenUp);
        }
        Ok(())
    }

    /// Takes a rule that was read with these notes.
    fn take(&mut self, mut rule: wire::Rule, mut notes: Notes) {
        let checked = match notes.take_refusal() {
            Some(reason) => Err(reason),
            None => check(&mut rule, self.expressions).map_err(|error| error.to_string()),
        };
        match checked {
            Ok(rule) => {
                self.page.rules.push(rule);
                self.notes.extend_from_element("rules", self.seen - 1, notes);
            }
            Err(reason) => {
                let wrong = notes.into_warnings();
                let wrong = wrong.iter().find(|w| ["policy", "rule_type"].contains(&&*w.field));
                let reason = match wrong {
                    Some(super::lenient::Warning { field, value, .. }) => {
                        format!("{reason} ({field} {value:?})")
                    }
                    None => reason,
                };
                self.reject(named_identifier(&rule), reason);
            }
        }
    }

    fn reject(&mut self, identifier: &str, reason: String) {
        if self.page.rejected.len() == RuleSet::MAX_REJECTED_LISTED {
            self.page.rejected_unlisted += 1;
            return;
        }
        let index = u32::try_from(self.seen - 1).unwrap_or(u32::MAX);
        let identifier = identifier.chars().take(MAX_IDENTIFIER_CHARS).collect();
        self.page.rejected.push(RejectedRule { page: self.number, index, identifier, reason });
    }

    fn reject_shape(&mut self, identifier: &str, reason: &str) {
        self.reject(identifier, format!("not of a rule's shape: {}", body::shown(reason)));
    }
}

#[expect(deprecated, reason = "servers of old send sha256 for the identifier")]
fn named_identifier(rule: &wire::Rule) -> &str {
    if rule.identifier.is_empty() { &rule.deprecated_sha256 } else { &rule.identifier }
}

/// Checks a wire rule and normalises it. Takes the texts of a rule that passes;
/// a rejected rule keeps its identifier.
fn check(rule: &mut wire::Rule, expressions: &mut CelBudget) -> Result<Rule, RuleError> {
    let rule_type = rule_type(rule.rule_type()).ok_or(RuleError::Type)?;
    let policy = policy(rule.policy()).ok_or(RuleError::Policy)?;
    let identifier = Identifier::parse(rule_type, named_identifier(rule))?;
    if policy == Policy::Cel && rule.cel_expr.trim().is_empty() {
        return Err(RuleError::ExpressionMissing);
    }
    if policy == Policy::Cel {
        expressions.check(&rule.cel_expr)?;
    }
    let mut label = take(&mut rule.event_detail_button_label);
    if let Some((cut, _)) = label.char_indices().nth(MAX_BUTTON_LABEL_CHARS) {
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
