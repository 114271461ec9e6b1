//! An ordered set of rules, kept as the bytes of a rule page in protobuf, so
//! that a million of them are small and a page is a slice.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::Spelling;
use super::reply::{Form, page_end, respelled};
use crate::protocol::wire;

/// Rules in the order they are sent.
#[derive(Debug, Default)]
pub(super) struct RuleList {
    /// Each rule as the field `rules` of a `RuleDownloadResponse`.
    bytes: Vec<u8>,
    /// The offset at which each ends.
    ends: Vec<usize>,
    /// Pages encoded ahead, by spelling and page size.
    ahead: HashMap<(Spelling, usize), Vec<PageAhead>>,
}

/// A page encoded ahead, with its most likely cursor. Responses share it: copies would fragment
/// the heap, because the small values that the server keeps for each host would be allocated
/// between them.
#[derive(Debug)]
struct PageAhead {
    cursor: String,
    as_number: bool,
    json: Bytes,
    /// The length of the JSON up to the end of the rules.
    json_rules: usize,
    protobuf: Bytes,
}

impl PageAhead {
    fn has_end_of(&self, page: &PageSpec<'_>) -> bool {
        (self.cursor.as_str(), self.as_number) == (page.cursor, page.as_number)
    }
}

/// Which rules a page has, and what follows them.
#[derive(Clone, Debug)]
pub(super) struct PageSpec<'a> {
    /// The indexes of its rules in the list.
    pub(super) range: Range<usize>,
    /// The number of rules on a full page.
    pub(super) size: usize,
    pub(super) spelling: Spelling,
    /// The cursor of the next page; empty on the last page.
    pub(super) cursor: &'a str,
    /// Whether the cursor is a number in JSON.
    pub(super) as_number: bool,
}

impl FromIterator<wire::Rule> for RuleList {
    fn from_iter<I: IntoIterator<Item = wire::Rule>>(rules: I) -> Self {
        let mut list = Self::default();
        rules.into_iter().for_each(|rule| list.push(&rule));
        list
    }
}

impl RuleList {
    fn push(&mut self, rule: &wire::Rule) {
        encode_key(1, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(rule.encoded_len() as u64, &mut self.bytes);
        rule.encode_raw(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        let at = |index: usize| index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[at(range.start)..at(range.end)]
    }

    /// The rules of a range, typed.
    pub(super) fn decoded(&self, range: Range<usize>) -> Vec<wire::Rule> {
        // These bytes are our own encoding.
        wire::RuleDownloadResponse::decode(self.slice(range)).unwrap_or_default().rules
    }

    /// All rules, typed, one at a time.
    pub(super) fn iter(&self) -> impl Iterator<Item = wire::Rule> + '_ {
        (0..self.len()).flat_map(|index| self.decoded(index..index + 1))
    }

    /// The page encoded ahead that has these rules; its cursor may differ.
    fn ready(&self, page: &PageSpec<'_>) -> Option<&PageAhead> {
        let pages = self.ahead.get(&(page.spelling, page.size))?;
        let ready = pages.get(page.range.start.checked_div(page.size)?)?;
        let is_whole = page.range.start.is_multiple_of(page.size)
            && page.range.end == self.len().min(page.range.start + page.size);
        is_whole.then_some(ready)
    }

    /// A page in protobuf.
    pub(super) fn protobuf(&self, page: &PageSpec<'_>) -> Bytes {
        match self.ready(page) {
            Some(ready) if ready.has_end_of(page) => ready.protobuf.clone(),
            Some(_) | None => self.encoded_protobuf(page),
        }
    }

    fn encoded_protobuf(&self, page: &PageSpec<'_>) -> Bytes {
        let rules = self.slice(page.range.clone()).to_vec();
        page_end(Form::Protobuf, rules, page.cursor, page.as_number).into()
    }

    /// A page in JSON.
    pub(super) fn json(&self, page: &PageSpec<'_>) -> Bytes {
        let rules = match self.ready(page) {
            Some(ready) if ready.has_end_of(page) => return ready.json.clone(),
            Some(ready) => ready.json[..ready.json_rules].to_vec(),
            None => self.json_rules(page),
        };
        page_end(Form::Json, rules, page.cursor, page.as_number).into()
    }

    /// A page in JSON up to the end of its rules.
    fn json_rules(&self, page: &PageSpec<'_>) -> Vec<u8> {
        let mut text = b"{\"rules\":".to_vec();
        text.extend(json_array(&self.decoded(page.range.clone()), page.spelling));
        text
    }

    /// Encodes every page of that size now, so that it need not be encoded when it is sent.
    /// `cursor_to` returns the cursor of the page that begins at a rule. A page that is sent with
    /// another cursor is copied.
    pub(super) fn encode_ahead(
        &mut self,
        size: usize,
        spelling: Spelling,
        as_number: bool,
        cursor_to: impl Fn(usize) -> String,
    ) {
        let size = size.max(1);
        let pages = (0..self.len()).step_by(size).map(|start| {
            let end = self.len().min(start + size);
            let cursor = if end < self.len() { cursor_to(end) } else { String::new() };
            let as_number = as_number && !cursor.is_empty();
            let page = PageSpec { range: start..end, size, spelling, cursor: &cursor, as_number };
            let (rules, protobuf) = (self.json_rules(&page), self.encoded_protobuf(&page));
            let json_rules = rules.len();
            let json = page_end(Form::Json, rules, &cursor, as_number).into();
            PageAhead { cursor, as_number, json, json_rules, protobuf }
        });
        let pages = pages.collect();
        self.ahead.insert((spelling, size), pages);
    }

    /// The list after these changes: a rule that is replaced moves to the end,
    /// as it does in the client's store.
    pub(super) fn changed(&self, changes: &[wire::Rule]) -> Self {
        let key = |rule: &wire::Rule| (rule.rule_type, rule.identifier.clone());
        let named: HashSet<_> = changes.iter().map(key).collect();
        let mut list: Self = self.iter().filter(|rule| !named.contains(&key(rule))).collect();
        latest(changes)
            .iter()
            .filter(|rule| rule.policy() != wire::Policy::Remove)
            .for_each(|rule| list.push(rule));
        list
    }

    /// The changes that lead from this list to another.
    pub(super) fn changes_to(&self, other: &Self) -> Vec<wire::Rule> {
        let key = |rule: &wire::Rule| (rule.rule_type, rule.identifier.clone());
        let old: HashMap<_, _> = self.iter().map(|rule| (key(&rule), rule)).collect();
        let kept: HashSet<_> = other.iter().map(|rule| key(&rule)).collect();
        let removed =
            self.iter().filter(|rule| !kept.contains(&key(rule))).map(|rule| wire::Rule {
                identifier: rule.identifier,
                rule_type: rule.rule_type,
                policy: wire::Policy::Remove.into(),
                ..wire::Rule::default()
            });
        let new = other.iter().filter(|rule| old.get(&key(rule)) != Some(rule));
        removed.chain(new).collect()
    }
}

/// Of several changes to one rule the last.
pub(super) fn latest(changes: &[wire::Rule]) -> Vec<wire::Rule> {
    let mut seen = HashSet::new();
    let mut latest: Vec<_> = changes
        .iter()
        .rev()
        .filter(|rule| seen.insert((rule.rule_type, rule.identifier.as_str())))
        .cloned()
        .collect();
    latest.reverse();
    latest
}

fn json_array(rules: &[wire::Rule], spelling: Spelling) -> Vec<u8> {
    match spelling {
        // Our messages always have a JSON form.
        Spelling::Schema => serde_json::to_vec(rules).unwrap_or_default(),
        Spelling::Snake => {
            let value = serde_json::to_value(rules).unwrap_or_default();
            serde_json::to_vec(&respelled(value)).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::fixtures;

    #[test]
    fn a_list_gives_back_what_it_was_made_of() {
        let rules: Vec<_> = fixtures::rules(50, 1).collect();
        let list: RuleList = rules.iter().cloned().collect();
        assert_eq!(list.decoded(0..50), rules);
        assert_eq!(list.decoded(20..23), rules[20..23]);
        assert_eq!(list.iter().collect::<Vec<_>>(), rules);
    }

    #[test]
    fn pages_encoded_ahead_are_the_pages_encoded_on_demand() {
        let mut list: RuleList = fixtures::rules(25, 2).collect();
        for spelling in [Spelling::Schema, Spelling::Snake] {
            let page =
                |range, cursor| PageSpec { range, size: 10, spelling, cursor, as_number: false };
            let pages = [page(0..10, "to 10"), page(10..20, "to 20"), page(20..25, "")];
            // Pages of a fault, with another cursor, and with a numeric cursor.
            let others = [
                page(3..10, "to 10"),
                page(0..0, "to 10"),
                page(0..10, "other"),
                page(20..25, "to 25"),
                PageSpec { as_number: true, ..page(0..10, "10") },
            ];
            let encoded = |list: &RuleList| -> Vec<_> {
                let all = pages.iter().chain(&others);
                all.map(|page| (list.json(page), list.protobuf(page))).collect()
            };
            let before = encoded(&list);
            list.encode_ahead(10, spelling, false, |to| format!("to {to}"));
            assert_eq!(before, encoded(&list));
            for page in &pages {
                let (one, other) = (list.json(page), list.json(page));
                assert_eq!(one.as_ptr(), other.as_ptr(), "responses share a page");
                assert_eq!(list.protobuf(page).as_ptr(), list.protobuf(page).as_ptr());
            }
            let numbers = PageSpec { as_number: true, ..page(0..10, "10") };
            list.encode_ahead(10, spelling, true, |to| to.to_string());
            assert_eq!(list.json(&numbers).as_ptr(), list.json(&numbers).as_ptr());
            assert!(list.json(&numbers).ends_with(b"],\"cursor\":10}"));
        }
    }

    #[test]
    fn changes_lead_from_one_list_to_the_other() {
        let old: RuleList = fixtures::rules(40, 3).collect();
        let changes = fixtures::changes(&old.decoded(0..40), (5, 4, 3), 4);
        let new = old.changed(&changes);
        assert_eq!(new.len(), 39);

        let found = old.changes_to(&new);
        assert_eq!(found.len(), 12);
        let mut again: Vec<_> = old.changed(&found).iter().map(|r| r.identifier).collect();
        let mut wanted: Vec<_> = new.iter().map(|r| r.identifier).collect();
        again.sort();
        wanted.sort();
        assert_eq!(again, wanted);
    }
}
