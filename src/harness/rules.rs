//! An ordered set of rules, kept as the bytes of a rule page in protobuf, so
//! that a million of them are small and a page is a slice.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::Spelling;
use super::reply::respelled;
use crate::protocol::wire;

/// Rules in the order they are sent.
#[derive(Debug, Default)]
pub(super) struct RuleList {
    /// Each rule as the field `rules` of a `RuleDownloadResponse`.
    bytes: Vec<u8>,
    /// The offset at which each ends.
    ends: Vec<usize>,
    /// The `rules` arrays of JSON pages, encoded ahead, by spelling and page
    /// size.
    ahead: HashMap<(Spelling, usize), Vec<Bytes>>,
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

    /// The rules of a range as the beginning of a protobuf page.
    pub(super) fn protobuf(&self, range: Range<usize>) -> Vec<u8> {
        self.slice(range).to_vec()
    }

    /// The rules of a range as a JSON array.
    pub(super) fn json(&self, range: Range<usize>, size: usize, spelling: Spelling) -> Bytes {
        let page = range.start.checked_div(size).unwrap_or(0);
        match self.ahead.get(&(spelling, size)).and_then(|pages| pages.get(page)) {
            Some(ready) => ready.clone(),
            None => json_array(&self.decoded(range), spelling).into(),
        }
    }

    /// Encodes every JSON page of that size now, so that sending one costs
    /// nothing later.
    pub(super) fn encode_ahead(&mut self, size: usize, spelling: Spelling) {
        let size = size.max(1);
        let pages = (0..self.len())
            .step_by(size)
            .map(|start| self.decoded(start..self.len().min(start + size)))
            .map(|rules| json_array(&rules, spelling).into())
            .collect();
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
            let before: Vec<_> =
                [0..10, 10..20, 20..25].map(|range| list.json(range, 10, spelling)).into();
            list.encode_ahead(10, spelling);
            let after: Vec<_> =
                [0..10, 10..20, 20..25].map(|range| list.json(range, 10, spelling)).into();
            assert_eq!(before, after);
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
