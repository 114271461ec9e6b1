//! The relay in front of pedro.

use santa_sync::harness::FakeServer;
use santa_sync::model::{RelayManner, SyncType};
use santa_sync::protocol::wire::{self, Policy, RuleType};

use super::chain::{Chain, MACHINE_ID, wait};
use super::pedro::{self, Mode, Pedro};

fn rule(number: u32, rule_type: RuleType, policy: Policy) -> wire::Rule {
    let identifier = match rule_type {
        RuleType::Teamid => format!("{number:010}"),
        RuleType::Signingid => format!("platform:com.example.{number}"),
        RuleType::Cdhash => format!("{number:040x}"),
        RuleType::Binary | RuleType::Certificate | RuleType::RuletypeUnknown => {
            format!("{number:064x}")
        }
    };
    wire::Rule {
        identifier,
        rule_type: rule_type.into(),
        policy: policy.into(),
        custom_msg: if number.is_multiple_of(2) { "why".to_owned() } else { String::new() },
        ..wire::Rule::default()
    }
}

fn chain(rules: Vec<wire::Rule>) -> (Chain, Pedro) {
    let server = FakeServer::builder().rules(rules).start().expect("a server");
    let chain = Chain::with(server, |options| options.config.manner = RelayManner::Pedro);
    let mut pedro = Pedro::new(&chain.url());
    MACHINE_ID.clone_into(&mut pedro.machine_id);
    (chain, pedro)
}

/// RELAY-13: pedro, which fails on any word it does not know, gets every binary rule
/// of ours in words that it knows, in every sync; what allows, compilers too, is
/// allowed, and what blocks is denied.
#[test]
fn relay_13_pedro_enforces_every_binary_rule() {
    let mut cel = rule(8, RuleType::Binary, Policy::Cel);
    "true".clone_into(&mut cel.cel_expr);
    let policies = [
        Policy::Allowlist,
        Policy::AllowlistCompiler,
        Policy::Blocklist,
        Policy::SilentBlocklist,
        Policy::SilentGuiBlocklist,
        Policy::SilentTtyBlocklist,
    ];
    let mut rules: Vec<_> = (0_u32..)
        .zip(policies)
        .map(|(number, policy)| rule(number, RuleType::Binary, policy))
        .collect();
    rules.push(cel);
    for rule_type in
        [RuleType::Teamid, RuleType::Signingid, RuleType::Cdhash, RuleType::Certificate]
    {
        rules.push(rule(20, rule_type, Policy::Blocklist));
    }
    let (chain, mut pedro) = chain(rules);
    assert!(pedro.sync().expect_err("nothing to hand out").contains("503"));
    for mode in
        [wire::ClientMode::Standalone, wire::ClientMode::Monitor, wire::ClientMode::Lockdown]
    {
        chain.upstream.change_settings(|settings| settings.set_client_mode(mode));
        chain.sync();
        pedro.sync().expect("every word is known");
        let strict = mode != wire::ClientMode::Monitor;
        assert_eq!(pedro.mode, if strict { Mode::Lockdown } else { Mode::Monitor });
        assert_eq!(pedro.map.len(), policies.len());
        let denied: Vec<_> = (0..9).filter(|n| pedro.denies(&format!("{n:064x}"))).collect();
        assert_eq!(denied, [2, 3, 4, 5]);
        assert!(wait(|| chain.status().in_step), "{:?}", chain.status());
    }
    let status = chain.status();
    assert_eq!((status.rules_left_out, status.rules_altered), (5, 3));
    assert_eq!(status.release_cannot, [""; 0], "it has no release of Santa's");
    let words = status.unlike_words().expect("some are not sent as they are");
    assert!(words.contains("4 left out (pedro enforces BINARY rules only)"), "{words}");
    assert!(words.contains("1 left out (pedro has no policy like theirs)"), "{words}");
    assert!(words.contains("3 sent with the nearest policy"), "{words}");
    assert!(!words.contains("release"), "{words}");
    let policy = pedro.map[&format!("{:064x}", 1)];
    assert_eq!(policy, pedro::Policy::Allowlist, "a compiler would be denied");

    chain.upstream.queue_changes(vec![
        rule(2, RuleType::Binary, Policy::Remove),
        rule(9, RuleType::Binary, Policy::Blocklist),
    ]);
    chain.sync();
    assert!(wait(|| !chain.status().in_step), "a new generation is to be fetched");
    pedro.sync().expect("synced");
    assert!(!pedro.denies(&format!("{:064x}", 2)) && pedro.denies(&format!("{:064x}", 9)));
    assert!(wait(|| chain.status().in_step));
    chain.upstream.set_rules([]);
    chain.sync_as(Some(SyncType::Clean));
    pedro.sync().expect("synced");
    assert!(pedro.map.is_empty());
}

/// RELAY-13: more binaries than its map has places for: it gets what fits, blocks
/// first, and the status says how many do not.
#[test]
fn relay_13_blocks_come_first_where_not_all_fit() {
    let allowed = (0..65_000).map(|number| rule(number, RuleType::Binary, Policy::Allowlist));
    let blocked =
        (70_000..70_300).map(|number| rule(number, RuleType::Binary, Policy::SilentTtyBlocklist));
    let (chain, mut pedro) = chain(allowed.chain(blocked).collect());
    chain.sync();
    pedro.sync().expect("it fits");
    assert_eq!(pedro.map.len(), 65_000);
    assert!((70_000..70_300).all(|number| pedro.denies(&format!("{number:064x}"))));
    let status = chain.status();
    assert_eq!(status.rules_left_out_why, [("limit".to_owned(), 300)].into());
    assert_eq!((status.rules_left_out, status.rules_altered), (300, 300));
}
