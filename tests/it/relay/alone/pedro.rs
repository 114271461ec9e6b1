//! Pedro against the fake server.

use santa_sync::harness::{FakeServer, Spelling, SyncTypePolicy, fixtures};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;

use super::{OTHER, SHA, rule, team};
use crate::relay::pedro::{Mode, Pedro};

/// Pedro takes all binaries of one page, passes other types over, and fails on words
/// that it does not know.
#[test]
fn pedro_takes_one_page_of_binaries() {
    use wire::{Policy, RuleType};
    let binary = |identifier: &str, policy| rule(identifier, RuleType::Binary, policy);
    let server = FakeServer::builder()
        .rules([
            binary(SHA, Policy::Blocklist),
            binary(OTHER, Policy::Allowlist),
            team("ABCDEFGHIJ", Policy::Blocklist),
        ])
        .client_mode(wire::ClientMode::Lockdown)
        .sync_type(SyncTypePolicy::Always(wire::SyncType::Clean))
        .style(|style| style.spelling = Spelling::Snake)
        .start()
        .unwrap();
    let mut pedro = Pedro::new(&server.url());
    pedro.sync().unwrap();
    assert_eq!((pedro.map.len(), pedro.mode), (2, Mode::Lockdown));
    assert!(pedro.denies(SHA) && !pedro.denies(OTHER));
    let sent = server.requests(Stage::Postflight).pop().unwrap();
    assert_eq!(sent.text, r#"{"rules_processed":0,"rules_received":0,"sync_type":"NORMAL"}"#);
    assert_eq!(sent.headers["content-encoding"], "deflate");

    server.queue_changes(vec![binary(SHA, Policy::Remove)]);
    pedro.sync().unwrap();
    assert!(!pedro.denies(SHA), "each sync replaces the map");

    server.set_rules([binary(SHA, Policy::SilentGuiBlocklist)]);
    assert!(pedro.sync().unwrap_err().contains("SILENT_GUI_BLOCKLIST"));
    server.set_rules([rule("aa", RuleType::Cdhash, Policy::Blocklist)]);
    assert!(pedro.sync().unwrap_err().contains("CDHASH"));
    server.set_rules([]);
    server.change_settings(|settings| settings.set_client_mode(wire::ClientMode::Standalone));
    assert!(pedro.sync().unwrap_err().contains("STANDALONE"));
}

/// It follows no cursor, and asks for it in the next sync.
#[test]
fn pedro_follows_no_cursor() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(200, 1).filter(|rule| {
            rule.rule_type() == wire::RuleType::Binary && rule.policy() == wire::Policy::Allowlist
        }))
        .page_size(3)
        .style(|style| style.spelling = Spelling::Snake)
        .start()
        .unwrap();
    let mut pedro = Pedro::new(&server.url());
    pedro.sync().unwrap();
    assert_eq!((pedro.map.len(), server.count(Stage::RuleDownload)), (3, 1));
    let first = pedro.map.clone();
    // The server knows no cursor of another sync.
    assert!(pedro.sync().is_err());
    assert_eq!(pedro.map, first);
}
