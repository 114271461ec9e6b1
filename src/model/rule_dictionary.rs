//! Rules as dictionaries of text, the form of `StaticRules` and of rule files.

use strum::VariantNames as _;
use thiserror::Error;

use super::{
    Identifier, IdentifierError, MAX_BUTTON_LABEL_CHARS, Policy, Rule, RuleDetails, RuleType,
};

/// Why a dictionary is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleDictionaryError {
    /// Neither `identifier` nor `sha256`, or an empty one.
    #[error("`identifier` is missing")]
    IdentifierMissing,
    /// No `policy`.
    #[error("`policy` is missing")]
    PolicyMissing,
    /// An unknown `policy`.
    #[error("{0:?} is not a policy; known ones are {known}", known = Policy::VARIANTS.join(", "))]
    PolicyUnknown(String),
    /// No `rule_type`.
    #[error("`rule_type` is missing")]
    TypeMissing,
    /// An unknown `rule_type`.
    #[error("{0:?} is not a rule type; known ones are {known}", known = RuleType::VARIANTS.join(", "))]
    TypeUnknown(String),
    /// The identifier is not one of its type.
    #[error(transparent)]
    Identifier(#[from] IdentifierError),
    /// A CEL rule without an expression.
    #[error("the policy is CEL and `cel_expr` is missing")]
    ExpressionMissing,
}

/// Reads a rule from the entries of a dictionary. Keys, policies and types are
/// known in any case; other keys are passed over. Whether a CEL expression
/// parses is not looked at.
///
/// # Errors
/// If the entries do not make a rule.
pub fn parse_rule<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Rule, RuleDictionaryError> {
    use RuleDictionaryError as Error;
    let (mut identifier, mut sha256, mut policy, mut rule_type) = ("", "", "", "");
    let mut details = RuleDetails::default();
    for (key, value) in entries {
        match key.to_ascii_lowercase().as_str() {
            "identifier" => identifier = value,
            "sha256" => sha256 = value,
            "policy" => policy = value,
            "rule_type" => rule_type = value,
            "custom_msg" => value.clone_into(&mut details.custom_msg),
            "custom_url" => value.clone_into(&mut details.custom_url),
            "cel_expr" => value.clone_into(&mut details.cel_expr),
            "comment" => value.clone_into(&mut details.comment),
            "event_detail_button_label" => {
                details.event_detail_button_label =
                    value.chars().take(MAX_BUTTON_LABEL_CHARS).collect();
            }
            "notification_app_name" => value.clone_into(&mut details.notification_app_name),
            _ => {}
        }
    }
    let identifier = if identifier.is_empty() { sha256 } else { identifier };
    if identifier.is_empty() {
        return Err(Error::IdentifierMissing);
    }
    if policy.is_empty() {
        return Err(Error::PolicyMissing);
    }
    let policy = policy_named(policy).ok_or_else(|| Error::PolicyUnknown(cut(policy)))?;
    if rule_type.is_empty() {
        return Err(Error::TypeMissing);
    }
    let rule_type = rule_type.parse().map_err(|_| Error::TypeUnknown(cut(rule_type)))?;
    let identifier = Identifier::parse(rule_type, identifier)?;
    if policy != Policy::Cel {
        // An expression means nothing beside another policy, and would count in
        // the rules hash.
        details.cel_expr.clear();
    } else if details.cel_expr.trim().is_empty() {
        return Err(Error::ExpressionMissing);
    }
    let details = (details != RuleDetails::default()).then(|| Box::new(details));
    Ok(Rule { identifier, policy, details })
}

/// The policy of that name in any case, the names of old included.
fn policy_named(name: &str) -> Option<Policy> {
    let name = name.to_ascii_uppercase();
    let name = name.replace("WHITELIST", "ALLOWLIST").replace("BLACKLIST", "BLOCKLIST");
    name.parse().ok()
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "84DE9C61777CA36B13228E2446D53E966096E78DB7A72C632B5C185B2FFE68A6";

    fn rule(entries: &[(&str, &str)]) -> Result<Rule, RuleDictionaryError> {
        parse_rule(entries.iter().copied())
    }

    /// Cases 117 to 123, 128.
    #[test]
    fn rule_4_a_dictionary_is_read_in_any_case_and_normalised() {
        let read = rule(&[
            ("SHA256", SHA),
            ("Policy", "silent_blacklist"),
            ("RULE_TYPE", "certificate"),
            ("Comment", "ThIs iS Only A Comment!"),
            ("unknown", "x"),
        ])
        .expect("a rule");
        assert_eq!(read.identifier.rule_type(), RuleType::Certificate);
        assert_eq!(read.identifier.to_string(), SHA.to_ascii_lowercase());
        assert_eq!(read.policy, Policy::SilentBlocklist);
        assert_eq!(read.details.expect("details").comment, "ThIs iS Only A Comment!");

        let read = rule(&[
            ("identifier", "abcdefghij"),
            ("policy", "REMOVE"),
            ("rule_type", "TEAMID"),
            ("cel_expr", "true"),
        ])
        .expect("a rule");
        assert_eq!(read.identifier.to_string(), "ABCDEFGHIJ");
        assert_eq!((read.policy, read.details), (Policy::Remove, None));
    }

    /// Case 129.
    #[test]
    fn rule_4_what_is_missing_or_wrong_is_named() {
        let message = |entries: &[(&str, &str)]| rule(entries).expect_err("no rule").to_string();
        assert_eq!(message(&[]), "`identifier` is missing");
        assert_eq!(message(&[("identifier", "x")]), "`policy` is missing");
        assert!(
            message(&[("identifier", "x"), ("policy", "OTHER")]).starts_with("\"OTHER\" is no")
        );
        let both = [("identifier", "x"), ("policy", "ALLOWLIST")];
        assert_eq!(message(&both), "`rule_type` is missing");
        let typed = |t| [both[0], both[1], ("rule_type", t)];
        assert!(
            message(&typed("OTHER")).contains("is not a rule type; known ones are CDHASH, BINARY")
        );
        assert_eq!(message(&typed("BINARY")), "a BINARY identifier is 64 hex digits");
        let cel = [("identifier", "ABCDEFGHIJ"), ("policy", "CEL"), ("rule_type", "TEAMID")];
        assert_eq!(message(&cel), "the policy is CEL and `cel_expr` is missing");
    }

    #[test]
    fn rule_4_a_label_is_cut_to_48_characters() {
        let long = "ä".repeat(60);
        let read = rule(&[
            ("identifier", "ABCDEFGHIJ"),
            ("policy", "BLOCKLIST"),
            ("rule_type", "TEAMID"),
            ("event_detail_button_label", &long),
        ])
        .expect("a rule");
        let label = read.details.expect("details").event_detail_button_label;
        assert_eq!(label.chars().count(), 48);
    }
}
