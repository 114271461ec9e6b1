//! RULE-11: what the guard stops, and what it lets through.

use crate::model::{Identifier, Policy, Rule, RuleSet, RuleState, SyncType, Timestamp};
use crate::store::{CommitError, RuleCommit, RuleGuard, RulesGuarded, Store};

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn rule(n: u16, policy: Policy) -> Rule {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Rule { identifier: Identifier::Binary(bytes), policy, details: None }
}

fn set(rules: impl IntoIterator<Item = Rule>) -> RuleSet {
    let mut set = RuleSet::default();
    set.push_page(rules.into_iter().collect::<Vec<_>>(), Vec::new());
    set
}

/// A store with that many rules, of which every second blocks.
fn store_of(rules: u16) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    store.commit_rules(&stored(0..rules), (SyncType::CleanAll, NOW)).expect("committed");
    (dir, store)
}

fn stored(numbers: std::ops::Range<u16>) -> RuleSet {
    let policy = |n| if n % 2 == 0 { Policy::Allowlist } else { Policy::Blocklist };
    set(numbers.map(|n| rule(n, policy(n))))
}

/// Commits under a guard of 10 percent. `None` if it let the download through;
/// else what it found, and the store is as it was.
fn guarded(store: &mut Store, rules: &RuleSet, sync_type: SyncType) -> Option<RulesGuarded> {
    let before = store.rules_hash().expect("a hash");
    let guard = Some(RuleGuard::new(10));
    match store.commit_rules(rules, RuleCommit { guard, ..(sync_type, NOW).into() }) {
        Err(CommitError::Store(error)) => panic!("{error}"),
        Ok(done) => {
            assert_eq!(done.hash, store.rules_hash().expect("a hash"));
            None
        }
        Err(CommitError::Guarded(found)) => {
            assert_eq!(store.rules_hash().expect("a hash"), before, "nothing has changed");
            assert_eq!(store.verify_rules().expect("verified").problems, [""; 0]);
            Some(found)
        }
    }
}

#[test]
fn rule_11_a_clean_download_that_would_remove_too_much_is_not_committed() {
    // 2,000 rules are committed in bulk, 200 one by one.
    for size in [200, 2_000] {
        let (_dir, mut store) = store_of(size);
        let most = size / 10;
        for sync_type in [SyncType::Clean, SyncType::CleanAll, SyncType::CleanRules] {
            let found = guarded(&mut store, &stored(most + 1..size), sync_type).expect("guarded");
            let numbers = (found.stored, found.removed, found.reversed);
            assert_eq!(numbers, (u64::from(size), u64::from(most) + 1, 0));
            let found = guarded(&mut store, &RuleSet::default(), sync_type).expect("guarded");
            assert_eq!(found.removed, u64::from(size));
        }
        assert_eq!(guarded(&mut store, &stored(most..size), SyncType::Clean), None);
        assert_eq!(store.rule_counts().expect("counts").binary, u32::from(size - most));
    }
}

#[test]
fn rule_11_a_normal_download_that_removes_or_reverses_too_much_is_not_committed() {
    for size in [200_u16, 2_000] {
        let (_dir, mut store) = store_of(size);
        let most = size / 10;
        let remove = |n: u16| set((0..n).map(|n| rule(n, Policy::Remove)));
        let found = guarded(&mut store, &remove(most + 1), SyncType::Normal).expect("guarded");
        assert_eq!((found.removed, found.reversed), (u64::from(most) + 1, 0));

        // Half of them block already.
        let block = |n: u16| set((0..n).map(|n| rule(n, Policy::SilentBlocklist)));
        let found = guarded(&mut store, &block(2 * most + 2), SyncType::Normal).expect("guarded");
        assert_eq!((found.removed, found.reversed), (0, u64::from(most) + 1));
        assert_eq!(guarded(&mut store, &block(2 * most), SyncType::Normal), None);

        let mixed = (0..most).map(|n| rule(1 + 2 * n, Policy::Remove));
        let mixed = set(mixed.chain([rule(0, Policy::AllowlistCompiler)]));
        let found = guarded(&mut store, &mixed, SyncType::Normal).expect("guarded");
        assert_eq!((found.removed, found.reversed), (u64::from(most), 1));
    }
}

#[test]
fn rule_11_the_last_word_on_a_rule_counts() {
    let (_dir, mut store) = store_of(200);
    let removed = (0..200).map(|n| rule(n, Policy::Remove));
    let again = stored(0..200);
    let both = set(removed.chain(again.iter().map(Rule::from)));
    assert_eq!(guarded(&mut store, &both, SyncType::Normal), None);
    let then_removed = again.iter().map(Rule::from).chain((0..50).map(|n| rule(n, Policy::Remove)));
    let found = guarded(&mut store, &set(then_removed), SyncType::Clean).expect("guarded");
    assert_eq!(found.removed, 50);
}

/// An expression and a plain rule are not each other's reverse, small stores
/// change all at once, and transitive rules come and go by themselves.
#[test]
fn rule_11_what_takes_no_policy_away_is_let_through() {
    let (_dir, mut store) = store_of(99);
    assert_eq!(guarded(&mut store, &RuleSet::default(), SyncType::CleanAll), None);

    let (dir, mut store) = store_of(100);
    let other = rusqlite::Connection::open(dir.path().join("rules.db")).expect("open");
    for n in 0..300 {
        other
            .execute(
                "INSERT INTO execution_rules (identifier, state, type) VALUES (?1, ?2, 1000)",
                (format!("{n:064x}"), RuleState::AllowTransitive.number()),
            )
            .expect("inserted");
    }
    let cel = set((0..100).map(|n| rule(n, Policy::Cel)));
    assert_eq!(guarded(&mut store, &cel, SyncType::CleanAll), None);
    let silent = set((0..100).map(|n| rule(n, Policy::SilentGuiBlocklist)));
    assert_eq!(guarded(&mut store, &silent, SyncType::Normal), None);
}

#[test]
fn rule_11_without_a_guard_everything_goes_through() {
    for guard in [None, Some(RuleGuard::new(100))] {
        let (_dir, mut store) = store_of(200);
        let empty = RuleSet::default();
        let commit = RuleCommit { guard, ..(SyncType::Clean, NOW).into() };
        let done = store.commit_rules(&empty, commit);
        let Ok(done) = done else { panic!("the guard was off") };
        assert_eq!(done.removed_by_cleanup, 200);
    }
}

#[test]
fn rule_11_the_message_says_what_would_have_gone() {
    let (_dir, mut store) = store_of(100);
    let sent: Vec<_> =
        stored(30..100).iter().map(Rule::from).chain([rule(1, Policy::Allowlist)]).collect();
    let mut download = RuleSet::default();
    download.push_page(sent, Vec::new());
    let found = guarded(&mut store, &download, SyncType::Clean).expect("guarded");
    let message = found.to_string();
    let start = "the download would remove 29 of 100 rules and turn 1 from allowing to blocking \
                 or back, which is more than the 10 % that GuardRemovedPercent allows; for example \
                 BINARY 0000070707";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains(" (ALLOWLIST -> removed), BINARY 00010707"), "{message}");
    assert!(message.contains(" (BLOCKLIST -> ALLOWLIST), BINARY 00020707"), "{message}");
    assert_eq!(found.examples.len(), 5);
}
