//! The store against a model of it: any sequence of downloads leaves what a
//! list would hold.

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::model::{
    Identifier, Policy, Rule, RuleCounts, RuleDetails, RuleSet, RuleState, SyncType, Timestamp,
};
use crate::store::Store;

/// The rules in stored order, by identifier text, type number, state number
/// and expression.
#[derive(Clone, Debug, Default)]
struct RowList(Vec<(String, i32, i32, String)>);

impl RowList {
    fn apply(&mut self, rules: &[Rule], sync_type: SyncType) {
        let local = [RuleState::AllowLocalBinary.number(), RuleState::AllowLocalSigningId.number()];
        let transitive = RuleState::AllowTransitive.number();
        self.0.retain(|(.., state, _)| match sync_type {
            SyncType::Normal | SyncType::CleanFileAccessRules => true,
            SyncType::CleanAll => false,
            SyncType::Clean | SyncType::CleanRules => *state == transitive,
            SyncType::CleanStandalone => !local.contains(state),
        });
        for rule in rules {
            let identifier = rule.identifier.to_string();
            let rule_type = rule.identifier.rule_type().number();
            self.0.retain(|(i, t, ..)| (i, *t) != (&identifier, rule_type));
            if let Some(state) = rule.policy.state() {
                let expression = rule.details.as_ref().map(|d| d.cel_expr.clone());
                let expression = expression.unwrap_or_default();
                self.0.push((identifier, rule_type, state.number(), expression));
            }
        }
    }

    fn digest(&self) -> (String, RuleCounts) {
        let mut bytes = Vec::new();
        let mut counts = RuleCounts::default();
        for (identifier, rule_type, state, expression) in &self.0 {
            counts.adjust(*state, *rule_type, 1);
            if *state != RuleState::AllowTransitive.number() {
                bytes.extend_from_slice(identifier.as_bytes());
                bytes.extend_from_slice(expression.as_bytes());
                bytes.extend_from_slice(&state.to_le_bytes());
                bytes.extend_from_slice(&rule_type.to_le_bytes());
            }
        }
        (format!("{:032x}", xxh3_128(&bytes)), counts)
    }
}

/// One thing that happens to a store.
#[derive(Clone, Debug)]
enum StoreStep {
    Download(SyncType, Vec<Rule>),
    /// The authorizer adds a rule of its own.
    Local(u8, RuleState),
    Reopen,
}

/// Few identifiers, so that they meet.
fn any_rule() -> impl Strategy<Value = Rule> {
    let identifier = (0..6_u8, 0..40_u8).prop_map(|(kind, n)| match kind {
        0 => Identifier::Cdhash([n; 20]),
        1 | 2 => Identifier::Binary([n; 32]),
        3 => Identifier::Certificate([n; 32]),
        4 => Identifier::TeamId([b'A' + n % 20; 10]),
        _ => Identifier::SigningId(format!("platform:{n}").into()),
    });
    (identifier, prop::sample::select(Policy::ALL.to_vec())).prop_map(|(identifier, policy)| {
        let details = (policy == Policy::Cel).then(|| {
            Box::new(RuleDetails { cel_expr: "true".to_owned(), ..RuleDetails::default() })
        });
        Rule { identifier, policy, details }
    })
}

fn any_step() -> impl Strategy<Value = StoreStep> {
    let sync_type = prop::sample::select(vec![
        SyncType::Normal,
        SyncType::Normal,
        SyncType::Normal,
        SyncType::Clean,
        SyncType::CleanAll,
        SyncType::CleanStandalone,
        SyncType::CleanRules,
        SyncType::CleanFileAccessRules,
    ]);
    let local = prop::sample::select(vec![
        RuleState::AllowTransitive,
        RuleState::AllowLocalBinary,
        RuleState::AllowLocalSigningId,
    ]);
    prop_oneof![
        6 => (sync_type, prop::collection::vec(any_rule(), 0..30))
            .prop_map(|(sync_type, rules)| StoreStep::Download(sync_type, rules)),
        2 => (0..40_u8, local).prop_map(|(n, state)| StoreStep::Local(n, state)),
        1 => Just(StoreStep::Reopen),
    ]
}

fn open(dir: &std::path::Path) -> Store {
    Store::open(dir, Timestamp::from_secs(0)).expect("a store").0
}

/// Runs the steps and compares after each; `bulk` rules go before every
/// download, so that the other way of committing is taken.
fn compare(steps: Vec<StoreStep>, bulk: usize) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let mut list = RowList::default();
    for step in steps {
        match step {
            StoreStep::Download(sync_type, rules) => {
                let filler = |n: usize| Rule {
                    identifier: Identifier::SigningId(format!("platform:filler-{n}").into()),
                    policy: Policy::Allowlist,
                    details: None,
                };
                let rules: Vec<Rule> = (0..bulk).map(filler).chain(rules).collect();
                let mut set = RuleSet::default();
                set.push_page(rules.clone(), Vec::new());
                let before = list.0.len() as u64;
                list.apply(&rules, sync_type);
                let preview = store.preview_rules(&set, sync_type, 0).expect("told");
                let done = store
                    .commit_rules(&set, (sync_type, Timestamp::from_secs(0)))
                    .expect("committed");
                let after = before + done.added - done.removed_by_rule - done.removed_by_cleanup;
                prop_assert_eq!(after, list.0.len() as u64);
                let sent_again = preview.replaced + preview.unchanged;
                prop_assert_eq!(before + preview.added - preview.removed, after, "{}", sent_again);
            }
            StoreStep::Local(n, state) => {
                let identifier = Identifier::Binary([n; 32]).to_string();
                list.0.retain(|(i, t, ..)| (i, *t) != (&identifier, 1000));
                list.0.push((identifier.clone(), 1000, state.number(), String::new()));
                let other = rusqlite::Connection::open(dir.path().join("rules.db")).expect("open");
                other
                    .execute(
                        "INSERT OR REPLACE INTO execution_rules (identifier, state, type) \
                         VALUES (?1, ?2, 1000)",
                        (identifier, state.number()),
                    )
                    .expect("inserted");
            }
            StoreStep::Reopen => {
                drop(store);
                store = open(dir.path());
            }
        }
        let (hash, counts) = list.digest();
        prop_assert_eq!(store.rules_hash().expect("a hash"), hash);
        prop_assert_eq!(store.rule_counts().expect("counts"), counts);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// RULE-3, RULE-8, PRE-2: adds, replacements, removes and clean syncs, a
    /// few rules at a time.
    #[test]
    fn rule_8_any_sequence_equals_a_list(steps in prop::collection::vec(any_step(), 1..12)) {
        compare(steps, 0)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// RULE-8: the same where every download is worth making the index again.
    #[test]
    fn rule_8_any_sequence_of_large_downloads_equals_a_list(
        steps in prop::collection::vec(any_step(), 1..6)
    ) {
        compare(steps, 1_000)?;
    }
}
