//! What the rules say about an executable, in the form that the control socket
//! and `rules check --json` give.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::model::{Match, RuleOrigin, StoredRule, Timestamp};

/// A rule as every JSON form shows it; a text that is not there is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleForm {
    /// What it is about.
    pub identifier: String,
    /// The protocol's name of what it decides.
    pub policy: Cow<'static, str>,
    /// The protocol's name of its type.
    pub rule_type: Cow<'static, str>,
    /// What a user is told.
    pub custom_msg: String,
    /// Where a user is sent.
    pub custom_url: String,
    /// What the button for that says.
    pub event_detail_button_label: String,
    /// Whatever its author noted.
    pub comment: String,
    /// The CEL expression.
    pub cel_expr: String,
    /// When a transitive rule was made or last used; absent for every other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

impl From<StoredRule> for RuleForm {
    fn from(rule: StoredRule) -> Self {
        Self {
            last_used: rule.last_used(),
            identifier: rule.identifier,
            policy: rule.state.policy_name().into(),
            rule_type: rule.rule_type.name().into(),
            custom_msg: rule.details.custom_msg,
            custom_url: rule.details.custom_url,
            event_detail_button_label: rule.details.event_detail_button_label,
            comment: rule.details.comment,
            cel_expr: rule.details.cel_expr,
        }
    }
}

/// What the rules say about an executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether a rule decides.
    pub matched: bool,
    /// What it decides, in words.
    pub decision: Option<String>,
    /// By which rule, in words.
    pub why: Option<String>,
    /// Where the rule was found: `configuration` or `store`.
    pub origin: Option<Cow<'static, str>>,
    /// The rule.
    pub rule: Option<RuleForm>,
}

impl From<Option<Match>> for Decision {
    fn from(found: Option<Match>) -> Self {
        Self {
            matched: found.is_some(),
            decision: found.as_ref().map(|found| found.rule.wording()),
            why: found.as_ref().map(ToString::to_string),
            origin: found.as_ref().map(|found| match found.origin {
                RuleOrigin::Configuration => "configuration".into(),
                RuleOrigin::Store => "store".into(),
            }),
            rule: found.map(|found| found.rule.into()),
        }
    }
}
