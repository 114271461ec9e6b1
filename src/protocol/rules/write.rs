//! Writing a page of rules, one rule at a time.

use prost::Message as _;
use prost::encoding::{WireType, encode_key};

use crate::mapped_buffer::MappedBuffer;
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

/// The names of a rule's members in JSON.
#[derive(Debug)]
struct Names {
    rule_type: &'static str,
    custom_msg: &'static str,
    custom_url: &'static str,
    cel_expr: Option<&'static str>,
    event_detail_button_label: Option<&'static str>,
}

/// The JSON names, which the generated form of [`wire::Rule`] has, too.
const JSON_NAMES: Names = Names {
    rule_type: "ruleType",
    custom_msg: "customMsg",
    custom_url: "customUrl",
    cel_expr: Some("celExpr"),
    event_detail_button_label: Some("eventDetailButtonLabel"),
};

/// The names of the schema, for clients that know only those, and not all members.
const SCHEMA_NAMES: Names = Names {
    rule_type: "rule_type",
    custom_msg: "custom_msg",
    custom_url: "custom_url",
    cel_expr: None,
    event_detail_button_label: None,
};

/// A page that is being written.
#[derive(Debug)]
pub struct PageWriter {
    transfer: Transfer,
    names: &'static Names,
    body: MappedBuffer,
    rules: u64,
    /// The members of policy and type in JSON, by [`place`].
    policies_and_types: Vec<String>,
    /// Its texts are used again, so that a rule needs no allocation.
    rule: wire::Rule,
    /// The rule in binary form, likewise.
    encoded: Vec<u8>,
}

impl PageWriter {
    /// An empty page, written into `body` in place of what it holds.
    #[must_use]
    pub fn new(transfer: Transfer, body: MappedBuffer) -> Self {
        Self::with_names(&JSON_NAMES, transfer, body)
    }

    /// An empty page for a client that knows the names of the schema
    /// (`rule_type`), but not its JSON names (`ruleType`): a message, a link, and
    /// what a rule cannot be without.
    #[must_use]
    pub fn plain(transfer: Transfer, body: MappedBuffer) -> Self {
        Self::with_names(&SCHEMA_NAMES, transfer, body)
    }

    fn with_names(names: &'static Names, transfer: Transfer, mut body: MappedBuffer) -> Self {
        body.truncate(0);
        match transfer {
            Transfer::Json => body.push_bytes(b"{\"rules\":["),
            Transfer::Protobuf => {}
        }
        let rule = wire::Rule::default();
        Self {
            transfer,
            names,
            body,
            rules: 0,
            policies_and_types: policies_and_types(names),
            rule,
            encoded: Vec::new(),
        }
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

    /// Writes the members one by one: it takes half of the time that a derived
    /// serializer takes.
    fn write_json(&mut self, rule: OutgoingRule<'_>) {
        let Self { body, names, policies_and_types, .. } = self;
        let start: &[u8] = if self.rules > 0 { b",{\"identifier\":" } else { b"{\"identifier\":" };
        let known = policies_and_types.get(place(rule.policy, rule.rule_type));
        let policy_and_type = known.map(String::as_bytes).unwrap_or_default();
        if must_be_escaped(rule.identifier) {
            body.push_bytes(start);
            push_text(body, rule.identifier);
            body.push_bytes(policy_and_type);
        } else {
            body.push_parts([start, b"\"", rule.identifier.as_bytes(), b"\"", policy_and_type]);
        }
        for (name, text) in [
            (Some(names.custom_msg), rule.custom_msg),
            (Some(names.custom_url), rule.custom_url),
            (names.cel_expr, rule.cel_expr),
            (names.event_detail_button_label, rule.event_detail_button_label),
        ] {
            if let Some(name) = name.filter(|_| !text.is_empty()) {
                body.push_bytes(b",\"");
                body.push_bytes(name.as_bytes());
                body.push_bytes(b"\":");
                push_text(body, text);
            }
        }
        body.push_bytes(b"}");
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
        wire.set_rule_type(wire_rule_type(rule.rule_type));
        wire.set_policy(wire_policy(rule.policy));
        self.encoded.clear();
        encode_key(RULES_FIELD, WireType::LengthDelimited, &mut self.encoded);
        // A vector has room for everything.
        let _ = self.rule.encode_length_delimited(&mut self.encoded);
        self.body.push_bytes(&self.encoded);
    }

    /// The body, with the cursor of the next page if there is one.
    #[must_use]
    pub fn finish(mut self, cursor: Option<&str>) -> MappedBuffer {
        match self.transfer {
            Transfer::Json => {
                self.body.push_bytes(b"]");
                if let Some(cursor) = cursor {
                    self.body.push_bytes(b",\"cursor\":");
                    push_text(&mut self.body, cursor);
                }
                self.body.push_bytes(b"}");
            }
            Transfer::Protobuf => {
                let rest = wire::RuleDownloadResponse {
                    rules: Vec::new(),
                    cursor: cursor.unwrap_or_default().to_owned(),
                };
                self.body.push_bytes(&rest.encode_to_vec());
            }
        }
        self.body
    }
}

/// The members of policy and type, for each pair of them.
fn policies_and_types(names: &Names) -> Vec<String> {
    let member = |policy: &Policy, rule_type: &RuleType| {
        format!(
            ",\"policy\":\"{}\",\"{}\":\"{}\"",
            wire_policy(*policy).as_str_name(),
            names.rule_type,
            wire_rule_type(*rule_type).as_str_name()
        )
    };
    let all = Policy::ALL.iter();
    all.flat_map(|policy| RuleType::ALL.iter().map(move |rule_type| member(policy, rule_type)))
        .collect()
}

/// Where [`policies_and_types`] has a pair.
const fn place(policy: Policy, rule_type: RuleType) -> usize {
    policy as usize * RuleType::ALL.len() + rule_type as usize
}

fn must_be_escaped(text: &str) -> bool {
    // To the end in any case, because then the compiler compares many bytes at once.
    let is_special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    text.bytes().fold(0, |found, byte| found | u8::from(is_special(byte))) != 0
}

/// Writes a text as JSON.
fn push_text(body: &mut MappedBuffer, text: &str) {
    if must_be_escaped(text) {
        // Neither memory nor a text can fail.
        let _ = serde_json::to_writer(body, text);
    } else {
        body.push_parts([b"\"", text.as_bytes(), b"\""]);
    }
}

const fn wire_rule_type(rule_type: RuleType) -> wire::RuleType {
    match rule_type {
        RuleType::Cdhash => wire::RuleType::Cdhash,
        RuleType::Binary => wire::RuleType::Binary,
        RuleType::SigningId => wire::RuleType::Signingid,
        RuleType::Certificate => wire::RuleType::Certificate,
        RuleType::TeamId => wire::RuleType::Teamid,
    }
}

const fn wire_policy(policy: Policy) -> wire::Policy {
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
        let texts = ["", "x", "a \"quoted\" \u{1}\u{e9}"];
        let pairs =
            Policy::ALL.iter().flat_map(|policy| RuleType::ALL.iter().map(move |t| (policy, t)));
        let cases = pairs.flat_map(|pair| texts.map(|text| (pair, text)));
        for ((&policy, &rule_type), text) in cases {
            let identifier = format!("platform:com.example{text}");
            let outgoing = OutgoingRule {
                identifier: &identifier,
                rule_type,
                policy,
                custom_msg: text,
                custom_url: text,
                cel_expr: text,
                event_detail_button_label: text,
            };
            let [mut json, mut protobuf] = [Transfer::Json, Transfer::Protobuf]
                .map(|transfer| PageWriter::new(transfer, MappedBuffer::new(4096)));
            assert!(json.push(outgoing, 4096) && protobuf.push(outgoing, 4096));
            let generated = wire::RuleDownloadResponse::decode(&*protobuf.finish(Some("next")));
            let generated = serde_json::to_string(&generated.expect("a page")).expect("JSON");
            let written = String::from_utf8(json.finish(Some("next")).to_vec()).expect("UTF-8");
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
            let mut used = MappedBuffer::new(4096);
            used.push_bytes(b"an earlier page");
            let mut page = PageWriter::new(transfer, used);
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
            let empty = PageWriter::new(transfer, MappedBuffer::new(4096)).finish(None);
            let read = page_of(transfer, &empty).expect("a page without rules");
            assert_eq!((read.cursor, read.without_body), (None, empty.is_empty()));
        }
    }
}
