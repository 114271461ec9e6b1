//! The rules that a client would hold: what came, in the order of arrival, later ones in the
//! place of earlier ones.

use std::collections::{BTreeMap, HashMap};

use crate::model::text::counted;
use crate::model::{Identifier, Policy, Rule, RuleCounts, RuleDetails};
use crate::store;

/// How many missing or extra rules a description names.
const MAX_NAMED: usize = 3;

/// The rule table of one machine.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleTable {
    rules: BTreeMap<u64, Rule>,
    places: HashMap<Identifier, u64>,
    next: u64,
}

impl RuleTable {
    /// Applies the rules of one sync; a clean one empties the table first.
    pub(super) fn apply(&mut self, clean: bool, rules: &[Rule]) {
        if clean {
            *self = Self::default();
        }
        for rule in rules {
            if let Some(place) = self.places.remove(&rule.identifier) {
                self.rules.remove(&place);
            }
            if rule.policy != Policy::Remove {
                self.places.insert(rule.identifier.clone(), self.next);
                self.rules.insert(self.next, rule.clone());
                self.next += 1;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The hash and the counts that the client reports.
    pub(super) fn hash_and_counts(&self) -> (String, RuleCounts) {
        let held = self.rules.values().filter_map(|rule| {
            let details = rule.details.as_ref();
            let cel_expr = details.map_or("", |details| details.cel_expr.as_str());
            Some((&rule.identifier, rule.policy.state()?, cel_expr))
        });
        let (hash, counts) = store::hash_and_counts(held);
        (format!("{hash:032x}"), counts)
    }

    /// How this table differs from what is expected; `None` if both decide alike. The order of
    /// the rules does not count.
    pub(super) fn difference(&self, expected: &Self) -> Option<String> {
        let missing = expected.rules.values().filter(|rule| self.get(rule).is_none());
        let extra = self.rules.values().filter(|rule| expected.get(rule).is_none());
        let other = self
            .rules
            .values()
            .filter(|rule| expected.get(rule).is_some_and(|known| content(known) != content(rule)));
        let parts: Vec<_> = [
            named("missing", &missing.collect::<Vec<_>>()),
            named("not in the set", &extra.collect::<Vec<_>>()),
            named("with other contents", &other.collect::<Vec<_>>()),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| {
            let rules = counted(self.len() as u64, "rule");
            format!("{rules} instead of {}: {}", expected.len(), parts.join(", "))
        })
    }

    /// Whether rules of the set are missing, all of which fit, and nothing else differs.
    pub(super) fn lacks_only(&self, set: &Self, fits: impl Fn(&Rule) -> bool) -> bool {
        let missing = set.rules.values().filter(|rule| self.get(rule).is_none());
        !self.has_others_than(set)
            && missing.clone().next().is_some()
            && missing.into_iter().all(fits)
    }

    /// Whether it has a rule that the set does not have, or has with other contents.
    pub(super) fn has_others_than(&self, set: &Self) -> bool {
        !self
            .rules
            .values()
            .all(|rule| set.get(rule).is_some_and(|known| content(known) == content(rule)))
    }

    fn get(&self, rule: &Rule) -> Option<&Rule> {
        self.rules.get(self.places.get(&rule.identifier)?)
    }
}

/// What a rule does and shows. The application to notify is used once and not kept.
fn content(rule: &Rule) -> (Policy, RuleDetails) {
    let mut details = rule.details.as_deref().cloned().unwrap_or_default();
    details.notification_app_name.clear();
    (rule.policy, details)
}

fn named(what: &str, rules: &[&Rule]) -> Option<String> {
    let names: Vec<_> = rules
        .iter()
        .take(MAX_NAMED)
        .map(|rule| format!("{} {}", rule.identifier.rule_type(), rule.identifier))
        .collect();
    let more = if rules.len() > MAX_NAMED { ", …" } else { "" };
    (!rules.is_empty()).then(|| format!("{} {what} ({}{more})", rules.len(), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(digit: u8, policy: Policy) -> Rule {
        Rule { identifier: Identifier::Binary([digit; 32]), policy, details: None }
    }

    #[test]
    fn a_clean_sync_empties_the_table_and_remove_deletes() {
        let mut table = RuleTable::default();
        table.apply(true, &[rule(1, Policy::Allowlist), rule(2, Policy::Allowlist)]);
        table.apply(false, &[rule(1, Policy::Remove), rule(3, Policy::AllowlistCompiler)]);
        assert_eq!(table.len(), 2);
        let (_, counts) = table.hash_and_counts();
        assert_eq!((counts.binary, counts.compiler), (2, 1));
        table.apply(true, &[]);
        assert!(table.is_empty());
    }

    #[test]
    fn the_hash_depends_on_the_rules_in_their_order_of_arrival() {
        let hash = |rules: &[Rule]| {
            let mut table = RuleTable::default();
            table.apply(false, rules);
            table.hash_and_counts().0
        };
        let (one, two) = (rule(1, Policy::Allowlist), rule(2, Policy::Blocklist));
        assert_eq!(
            hash(&[one.clone(), two.clone()]),
            hash(&[two.clone(), one.clone(), two.clone()])
        );
        assert_ne!(hash(&[one.clone(), two.clone()]), hash(&[two, one]));
    }

    #[test]
    fn a_difference_names_the_rules() {
        let table = |rules: &[Rule]| {
            let mut table = RuleTable::default();
            table.apply(false, rules);
            table
        };
        let expected = table(&[rule(1, Policy::Allowlist), rule(2, Policy::Allowlist)]);
        let reordered = table(&[rule(2, Policy::Allowlist), rule(1, Policy::Allowlist)]);
        assert_eq!(expected.difference(&reordered), None);
        let other = table(&[rule(2, Policy::Blocklist), rule(3, Policy::Allowlist)]);
        let said = other.difference(&expected).unwrap();
        assert!(said.starts_with("2 rules instead of 2: 1 missing (BINARY 0101"), "{said}");
        assert!(said.contains("1 not in the set") && said.contains("1 with other contents"));
    }
}
