//! RULE-02: the members of one rule.

use serde_json::Value;

use super::settings::{member, shown, wrong_types};
use crate::harness::conformance::verdict::Judgement;
use crate::protocol::json::{Enumeration as _, Field, Message as _};
use crate::protocol::wire;

pub(super) const IDENTIFIER: [&str; 2] = ["identifier", "sha256"];
pub(super) const RULE_TYPE: [&str; 2] = ["rule_type", "ruleType"];
const CEL_EXPR: [&str; 2] = ["cel_expr", "celExpr"];
/// Members that the schema does not have and the protocol document lists all the same.
const DOCUMENTED: [&str; 2] = ["creation_time", "creationTime"];
/// Names that servers use by mistake, with the name of the schema.
const MISTAKEN: [(&str, &str); 13] = [
    ("hash", "identifier"),
    ("state", "policy"),
    ("type", "rule_type"),
    ("message", "custom_msg"),
    ("custom_message", "custom_msg"),
    ("customMessage", "custom_msg"),
    ("url", "custom_url"),
    ("expression", "cel_expr"),
    ("cel_expression", "cel_expr"),
    ("celExpression", "cel_expr"),
    ("button_label", "event_detail_button_label"),
    ("event_detail_text", "event_detail_button_label"),
    ("notification_app", "notification_app_name"),
];
const DROPPED: &str = "agents drop such a rule without telling the server";
const UNREADABLE: &str = "a value of the wrong type makes the whole page unreadable to Santa";
const UNHEARD: &str = "agents ignore the member, so what it says has no effect";

/// What is wrong with the members of a rule, if anything.
pub(super) fn members_of_rule(rule: &Value) -> Option<Judgement> {
    let fields = wire::Rule::FIELDS;
    let name = member(rule, &IDENTIFIER).map_or_else(|| "a rule".to_owned(), shown);
    let Value::Object(members) = rule else {
        let said = format!("{} is not a rule", shown(rule));
        return Some(Judgement::fail(said).harms(UNREADABLE));
    };
    let mut wrong = Vec::new();
    wrong_types(rule, fields, "", &mut wrong);
    if !wrong.is_empty() {
        let said = format!("{name}: {}", wrong.join(", "));
        return Some(Judgement::fail(said).harms(UNREADABLE));
    }
    if let Some(missing) = missing(rule) {
        return Some(Judgement::fail(format!("{name}: {missing}")).harms(DROPPED));
    }
    let unknown: Vec<_> = members
        .iter()
        .filter(|(name, value)| !value.is_null() && !is_known(fields, name))
        .map(|(name, _)| name.as_str())
        .collect();
    let meant: Vec<_> = unknown.iter().filter_map(|name| meant_by(rule, name)).collect();
    if !meant.is_empty() {
        let said = format!("{name}: {}", meant.join(", "));
        return Some(Judgement::warning(said).harms(UNHEARD));
    }
    // Clients ignore what they do not know, unless they read protobuf's JSON strictly.
    let unknown = unknown.join(", ");
    (!unknown.is_empty()).then(|| {
        Judgement::info(format!("{name}: agents ignore {unknown}, which the schema does not have"))
    })
}

fn is_known(fields: &[Field], name: &str) -> bool {
    let is_named = |field: &Field| field.name == name || field.key.trim_matches([':', '"']) == name;
    DOCUMENTED.contains(&name) || fields.iter().any(is_named)
}

/// What a rule lacks that no rule can be without.
fn missing(rule: &Value) -> Option<String> {
    let cel = wire::Policy::Cel as i32;
    let policy = enum_of(rule, &["policy"], wire::Policy::NAMES);
    let rule_type = enum_of(rule, &RULE_TYPE, wire::RuleType::NAMES);
    let (what, lacks) = if member(rule, &IDENTIFIER).is_none_or(|value| value == "") {
        ("no identifier".to_owned(), "identifier")
    } else if let Err(why) = policy {
        (format!("policy {why}"), "policy")
    } else if let Err(why) = rule_type {
        (format!("rule_type {why}"), "rule_type")
    } else if policy == Ok(cel) && member(rule, &CEL_EXPR).is_none_or(|value| value == "") {
        ("a CEL rule without cel_expr".to_owned(), "cel_expr")
    } else {
        return None;
    };
    let is_there = |(name, meant): &&(&str, &str)| *meant == lacks && rule.get(name).is_some();
    Some(match MISTAKEN.iter().find(is_there) {
        Some((name, _)) => format!("{what} ({name} is not read)"),
        None => what,
    })
}

/// The name under which agents would read this member, if the rule does not have it.
fn meant_by(rule: &Value, name: &str) -> Option<String> {
    let (_, meant) = MISTAKEN.iter().find(|(mistaken, _)| *mistaken == name)?;
    let field = wire::Rule::FIELDS.iter().find(|field| field.name == *meant)?;
    let names = [field.name, field.key.trim_matches([':', '"'])];
    member(rule, &names).is_none().then(|| format!("{name} should be called {meant}"))
}

/// The number of an enum member, or what is wrong with it.
pub(super) fn enum_of(rule: &Value, names: &[&str], known: &[(&str, i32)]) -> Result<i32, String> {
    let number = match member(rule, names) {
        None => return Err("is missing".to_owned()),
        Some(Value::String(text)) => {
            known.iter().find(|(name, _)| name == text).map(|(_, number)| *number)
        }
        Some(Value::Number(number)) => number.as_i64().and_then(|number| {
            known.iter().map(|(_, known)| *known).find(|known| i64::from(*known) == number)
        }),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    match number {
        Some(0) => Err("is unspecified".to_owned()),
        Some(number) => Ok(number),
        None => Err(format!("{} is not known", member(rule, names).map(shown).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::harness::conformance::verdict::Verdict;

    /// A rule with more members, or others.
    fn rule(more: &Value) -> Value {
        let mut rule = json!({"identifier": "5a", "rule_type": "BINARY", "policy": "BLOCKLIST"});
        let (Value::Object(members), Value::Object(more)) = (&mut rule, more) else { return rule };
        members.extend(more.clone());
        members.retain(|_, value| *value != json!("none"));
        rule
    }

    #[test]
    fn members_that_agents_know_or_the_document_lists_are_right() {
        for more in [
            json!({}),
            json!({"creation_time": 1_795_000_000.5}),
            json!({"custom_msg": "m", "customUrl": "https://x.invalid/", "comment": null}),
            json!({"sha256": "5a", "file_bundle_hash": "b", "file_bundle_binary_count": 3}),
        ] {
            assert_eq!(members_of_rule(&rule(&more)), None, "{more}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_level_its_words_and_its_harm() {
        for (more, verdict, said, harm) in [
            (
                json!({"comment": "c", "type": "BINARY"}),
                Verdict::Info,
                "\"5a\": agents ignore comment, type, which the schema does not have",
                None,
            ),
            (
                json!({"custom_message": "m"}),
                Verdict::Warning,
                "\"5a\": custom_message should be called custom_msg",
                Some(UNHEARD),
            ),
            (
                json!({"policy": "none", "state": 2}),
                Verdict::Fail,
                "\"5a\": policy is missing (state is not read)",
                Some(DROPPED),
            ),
            (json!({"identifier": ""}), Verdict::Fail, "\"\": no identifier", Some(DROPPED)),
            (
                json!({"custom_msg": 5}),
                Verdict::Fail,
                "\"5a\": custom_msg is 5, not text",
                Some(UNREADABLE),
            ),
        ] {
            let found = members_of_rule(&rule(&more)).unwrap();
            assert_eq!((found.verdict, &*found.said, found.harm), (verdict, said, harm), "{more}");
        }
    }
}
