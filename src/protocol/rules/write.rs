//! Writing a page of rules, one rule at a time.

use prost::Message as _;
use prost::encoding::{WireType, encode_key};
use serde::Serialize;

use crate::model::{Policy, RuleType, Transfer};
use crate::protocol::wire;

/// The field number of `rules` in a page.
const RULES_FIELD: u32 = 1;

/// A rule to be written.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingRule<'a> {
    /// Its identifier, as text.
    pub identifier: &'a str,
    /// What the identifier names.
    pub rule_type: RuleType,
    /// What it does. Those of a user of a host have no form on the wire.
    pub policy: Policy,
    /// Text of the dialogue.
    pub custom_msg: &'a str,
    /// Link of the dialogue.
    pub custom_url: &'a str,
    /// The expression.
    pub cel_expr: &'a str,
    /// Label of the link.
    pub event_detail_button_label: &'a str,
}

/// A rule in JSON for clients that know the names of the schema only.
#[derive(Serialize)]
struct PlainRule<'a> {
    identifier: &'a str,
    policy: &'static str,
    rule_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_url: &'a str,
}

/// A rule in JSON. The generated form of [`wire::Rule`] is the same; this one needs no
/// copy of the texts, and a set of a million rules a third less time.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule<'a> {
    identifier: &'a str,
    policy: &'static str,
    rule_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cel_expr: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    event_detail_button_label: &'a str,
}

/// A page that is being written.
#[derive(Debug)]
pub struct PageWriter {
    transfer: Transfer,
    /// Whether JSON has the names of the schema, not its JSON names.
    plain: bool,
    body: Vec<u8>,
    rules: u64,
    /// Its texts are used again, so that a rule needs no allocation.
    rule: wire::Rule,
}

impl PageWriter {
    /// An empty page.
    #[must_use]
    pub fn new(transfer: Transfer) -> Self {
        let body = match transfer {
            Transfer::Json => b"{\"rules\":[".to_vec(),
            Transfer::Protobuf => Vec::new(),
        };
        Self { transfer, plain: false, body, rules: 0, rule: wire::Rule::default() }
    }

    /// An empty page for a client that knows the names of the schema
    /// (`rule_type`), but not its JSON names (`ruleType`): a message, a link, and
    /// what a rule cannot be without.
    #[must_use]
    pub fn plain(transfer: Transfer) -> Self {
        Self { plain: true, ..Self::new(transfer) }
    }

    /// How many rules it has.
    #[must_use]
    pub const fn rules(&self) -> u64 {
        self.rules
    }

    /// Adds a rule, unless the page already has one and would then have more
    /// than `max_bytes`. Returns whether it was added.
    pub fn push(&mut self, rule: OutgoingRule<'_>, max_bytes: usize) -> bool {
        let before = self.body.len();
        self.write(rule);
        if self.rules > 0 && self.body.len() > max_bytes {
            self.body.truncate(before);
            return false;
        }
        self.rules += 1;
        true
    }

    fn write(&mut self, rule: OutgoingRule<'_>) {
        match self.transfer {
            Transfer::Json => self.write_json(rule),
            Transfer::Protobuf => self.write_protobuf(rule),
        }
    }

    fn write_json(&mut self, rule: OutgoingRule<'_>) {
        if self.rules > 0 {
            self.body.push(b',');
        }
        let (policy, rule_type) = (policy(rule.policy), rule_type(rule.rule_type));
        let (policy, rule_type) = (policy.as_str_name(), rule_type.as_str_name());
        // Neither memory nor these texts can fail.
        let _ = if self.plain {
            let plain = PlainRule {
                identifier: rule.identifier,
                policy,
                rule_type,
                custom_msg: rule.custom_msg,
                custom_url: rule.custom_url,
            };
            serde_json::to_writer(&mut self.body, &plain)
        } else {
            let rule = JsonRule {
                identifier: rule.identifier,
                policy,
                rule_type,
                custom_msg: rule.custom_msg,
                custom_url: rule.custom_url,
                cel_expr: rule.cel_expr,
                event_detail_button_label: rule.event_detail_button_label,
            };
            serde_json::to_writer(&mut self.body, &rule)
        };
    }

    fn write_protobuf(&mut self, rule: OutgoingRule<'_>) {
        let wire = &mut self.rule;
        for (text, given) in [
            (&mut wire.identifier, rule.identifier),
            (&mut wire.custom_msg, rule.custom_msg),
            (&mut wire.custom_url, rule.custom_url),
            (&mut wire.cel_expr, rule.cel_expr),
            (&mut wire.event_detail_button_label, rule.event_detail_button_label),
        ] {
            text.clear();
            text.push_str(given);
        }
        wire.set_rule_type(rule_type(rule.rule_type));
        wire.set_policy(policy(rule.policy));
        encode_key(RULES_FIELD, WireType::LengthDelimited, &mut self.body);
        let _ = self.rule.encode_length_delimited(&mut self.body);
    }

    /// The body, with the cursor of the next page if there is one.
    #[must_use]
    pub fn finish(mut self, cursor: Option<&str>) -> Vec<u8> {
        match self.transfer {
            Transfer::Json => {
                self.body.push(b']');
                if let Some(cursor) = cursor {
                    self.body.extend_from_slice(b",\"cursor\":");
                    let _ = serde_json::to_writer(&mut self.body, cursor);
                }
                self.body.push(b'}');
            }
            Transfer::Protobuf => {
                let rest = wire::RuleDownloadResponse {
                    rules: Vec::new(),
                    cursor: cursor.unwrap_or_default().to_owned(),
                };
                let _ = rest.encode(&mut self.body);
            }
        }
        self.body
    }
}

const fn rule_type(rule_type: RuleType) -> wire::RuleType {
    match rule_type {
        RuleType::Cdhash => wire::RuleType::Cdhash,
        RuleType::Binary => wire::RuleType::Binary,
        RuleType::SigningId => wire::RuleType::Signingid,
        RuleType::Certificate => wire::RuleType::Certificate,
        RuleType::TeamId => wire::RuleType::Teamid,
    }
}

const fn policy(policy: Policy) -> wire::Policy {
    match policy {
        Policy::Allowlist | Policy::AllowlistLocalBinary | Policy::AllowlistLocalSigningId => {
            wire::Policy::Allowlist
        }
        Policy::AllowlistCompiler => wire::Policy::AllowlistCompiler,
        Policy::Blocklist => wire::Policy::Blocklist,
        Policy::SilentBlocklist => wire::Policy::SilentBlocklist,
        Policy::SilentGuiBlocklist => wire::Policy::SilentGuiBlocklist,
        Policy::SilentTtyBlocklist => wire::Policy::SilentTtyBlocklist,
        Policy::Cel => wire::Policy::Cel,
        Policy::Remove => wire::Policy::Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cursor, RuleSet};
    use crate::protocol::rules::page_of;

    /// The JSON form is the one that the descriptors give.
    #[test]
    fn relay_5_the_short_way_to_json_is_the_generated_one() {
        for (policy, rule_type, text) in [
            (Policy::Blocklist, RuleType::Binary, ""),
            (Policy::SilentTtyBlocklist, RuleType::SigningId, "a \"quoted\" \u{1}\u{e9}"),
            (Policy::Cel, RuleType::TeamId, "x"),
            (Policy::Remove, RuleType::Certificate, ""),
            (Policy::AllowlistCompiler, RuleType::Cdhash, "y"),
        ] {
            let outgoing = OutgoingRule {
                identifier: "platform:com.example",
                rule_type,
                policy,
                custom_msg: text,
                custom_url: text,
                cel_expr: text,
                event_detail_button_label: text,
            };
            let (mut json, mut protobuf) =
                (PageWriter::new(Transfer::Json), PageWriter::new(Transfer::Protobuf));
            assert!(json.push(outgoing, 4096) && protobuf.push(outgoing, 4096));
            let generated = wire::RuleDownloadResponse::decode(&*protobuf.finish(Some("next")));
            let generated = serde_json::to_string(&generated.expect("a page")).expect("JSON");
            let written = String::from_utf8(json.finish(Some("next"))).expect("UTF-8");
            assert_eq!(written, generated);
        }
    }

    /// RELAY-5: a page reads as the rules that were written, in either form.
    #[test]
    fn relay_5_a_page_reads_as_what_was_written() {
        let hash = "a1".repeat(32);
        let rules = [
            (RuleType::Binary, hash.as_str(), Policy::Blocklist, ""),
            (RuleType::TeamId, "ABCDE12345", Policy::Allowlist, ""),
            (RuleType::SigningId, "platform:com.example \"q\"\u{e9}", Policy::Cel, "true"),
            (RuleType::Cdhash, &hash[..40], Policy::Remove, ""),
        ];
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let mut page = PageWriter::new(transfer);
            for (rule_type, identifier, policy, cel_expr) in rules {
                let rule = OutgoingRule {
                    identifier,
                    rule_type,
                    policy,
                    custom_msg: "why\n\"so\"",
                    custom_url: "https://host/",
                    cel_expr,
                    event_detail_button_label: "Open",
                };
                assert!(page.push(rule, 4096));
                assert!(!page.push(rule, 10), "a page has a bound");
            }
            assert_eq!(page.rules(), 4);
            let read = page_of(transfer, &page.finish(Some("next"))).expect("a page");
            assert_eq!(read.rejected, []);
            assert_eq!(read.cursor.as_ref().map(Cursor::as_str), Some("next"));
            let mut set = RuleSet::default();
            set.push_page(read.rules, Vec::new());
            let found: Vec<_> = set
                .iter()
                .map(|rule| {
                    assert_eq!(rule.details.event_detail_button_label, "Open");
                    (rule.identifier.rule_type(), rule.identifier.to_string(), rule.policy)
                })
                .collect();
            let given = rules.map(|(rule_type, identifier, policy, _)| {
                (rule_type, identifier.to_owned(), policy)
            });
            assert_eq!(found, given);
            let empty = PageWriter::new(transfer).finish(None);
            let read = page_of(transfer, &empty).expect("a page without rules");
            assert_eq!((read.cursor, read.without_body), (None, empty.is_empty()));
        }
    }
}
