//! What must not cost a fleet its policy: rules that cannot be used, a mistyped
//! URL, a download that would take most rules away.

use santa_sync::harness::{FakeServer, Fault, SyncTypePolicy, every, fixtures};
use santa_sync::model::{ClientMode, Stage};
use santa_sync::protocol::wire;
use serde_json::{Value, json};

use crate::agent::Agent;

fn lockdown() -> wire::PreflightResponse {
    wire::PreflightResponse {
        client_mode: wire::ClientMode::Lockdown.into(),
        ..wire::PreflightResponse::default()
    }
}

fn server(rules: usize) -> FakeServer {
    FakeServer::builder()
        .rules(fixtures::rules(rules, 1))
        .settings(lockdown())
        .start()
        .expect("a server")
}

fn mode(agent: &Agent) -> ClientMode {
    agent.store().client_mode(None).expect("read")
}

fn json(agent: &Agent, args: &[&str]) -> Value {
    serde_json::from_slice(&agent.run(args).stdout).expect("JSON")
}

/// RULE-2: pages of a clean sync in which no rule can be used, as real servers
/// have sent them.
#[test]
fn rule_2_rules_that_cannot_be_used_neither_empty_the_store_nor_lift_the_hold() {
    let answers = [
        json!({"rules": [
            {"identifier": "5a".repeat(32), "type": "BINARY", "state": "ALLOW"},
            {"identifier": "b4".repeat(32), "type": "BINARY", "state": "BLOCK"}
        ]}),
        json!({"rules": [
            {"identifier": "ABCDE12345:com.example.app", "policy": "SEATBELT",
             "rule_type": "SIGNINGID"}
        ]}),
        json!({"rules": [
            {"identifier": "zz", "policy": "ALLOWLIST", "rule_type": "BINARY"},
            {"identifier": "", "policy": "BLOCKLIST", "rule_type": "TEAMID"}
        ]}),
    ];
    for answer in answers {
        // A store that holds rules and is in MONITOR.
        let server = server(5);
        server.change_settings(|settings| settings.client_mode = wire::ClientMode::Monitor.into());
        let agent = Agent::of(&server);
        assert_eq!(agent.sync(&[]).code, Some(0));
        server.change_settings(|settings| settings.client_mode = wire::ClientMode::Lockdown.into());
        server.fault(Stage::RuleDownload, every(), Fault::WrongShape(answer.clone()));
        server.change_style(|style| {
            style.sync_type = SyncTypePolicy::Always(wire::SyncType::CleanAll);
        });
        let synced = agent.sync(&[]);
        assert_eq!((synced.code, synced.kind()), (Some(3), "no_usable_rules"), "{}", synced.stderr);
        assert_eq!((agent.rules(), mode(&agent)), (5, ClientMode::Monitor));
        assert!(synced.json["rules_rejected_total"].as_u64() > Some(0));

        // A new state, whatever the server calls the sync.
        for sync_type in [wire::SyncType::CleanAll, wire::SyncType::Normal] {
            server.change_style(|style| style.sync_type = SyncTypePolicy::Always(sync_type));
            let fresh = Agent::of(&server);
            assert_eq!(fresh.sync(&[]).kind(), "no_usable_rules");
            assert_eq!(mode(&fresh), ClientMode::Monitor);
        }
    }
}

/// PRE-7: a mistyped path does not lift LOCKDOWN, and everybody says whose
/// settings are in effect.
#[test]
fn pre_7_a_mistyped_url_does_not_lift_lockdown() {
    let server = server(5);
    let mut agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(mode(&agent), ClientMode::Lockdown);
    let good = agent.base_url.clone();
    agent.base_url = format!("{good}typo/");
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(1), "{}", synced.stderr);
    assert_eq!(mode(&agent), ClientMode::Lockdown);
    assert_eq!(agent.rules(), 5);
    let whose = format!("{good} for machine id {}", agent.machine_id);
    assert!(synced.stderr.contains(&whose), "{}", synced.stderr);
    let status = json(&agent, &["status", "--json"]);
    assert_eq!(status["warnings"][0]["kind"], "former_settings");
    assert_eq!(status["warnings"][1]["kind"], "former_rules");
    let doctor = agent.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains(&whose));

    // Put right, all is as it was.
    agent.base_url = good;
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(json(&agent, &["status", "--json"])["warnings"], json!([]));
}

/// PRE-7: a server that never cleans still takes over the settings, and
/// `status` says whose rules remain.
#[test]
fn pre_7_a_new_server_takes_over_with_its_first_success() {
    let old = server(5);
    let mut agent = Agent::of(&old);
    agent.sync(&[]);
    let new = FakeServer::builder().start().expect("a server");
    new.change_style(|style| style.sync_type = SyncTypePolicy::Always(wire::SyncType::Normal));
    agent.base_url = new.url();
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(0));
    let action = synced.json["warnings"][0]["action"].as_str().expect("an action");
    assert!(action.starts_with("nothing was cleaned, the former server's rules stay;"), "{action}");
    let whose = format!("rules of {} for machine id {} are", old.url(), agent.machine_id);
    assert!(synced.stderr.contains(&whose), "{}", synced.stderr);
    let text = |args: &[&str]| String::from_utf8_lossy(&agent.run(args).stdout).into_owned();
    let shown = text(&["sync"]);
    assert!(shown.contains("the former server's rules stay"), "{shown}");
    for args in [&["status"][..], &["doctor"]] {
        let shown = text(args);
        assert!(shown.contains(&whose), "{args:?}: {shown}");
        assert!(shown.contains("have the server answer the next sync with a clean one"), "{shown}");
    }
    assert_eq!((mode(&agent), agent.rules()), (ClientMode::Monitor, 5));
    let warnings = &json(&agent, &["status", "--json"])["warnings"];
    assert_eq!(warnings.as_array().map(Vec::len), Some(1), "{warnings}");
    assert_eq!(warnings[0]["kind"], "former_rules");
    new.change_style(|style| style.sync_type = SyncTypePolicy::Always(wire::SyncType::CleanAll));
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.rules(), 0);
    assert_eq!(json(&agent, &["status", "--json"])["warnings"], json!([]));
}

/// LOCKDOWN without a rule that allows anything is said aloud, whatever led
/// there.
#[test]
fn lockdown_without_an_allowing_rule_is_a_warning_everywhere() {
    let server = server(0);
    let agent = Agent::of(&server);
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, mode(&agent)), (Some(0), ClientMode::Lockdown));
    assert_eq!(synced.stderr.matches("no rule allows anything").count(), 1, "{}", synced.stderr);
    let status = json(&agent, &["status", "--json"]);
    assert_eq!(status["warnings"][0]["kind"], "nothing_allowed");
    let text = |args: &[&str]| String::from_utf8_lossy(&agent.run(args).stdout).into_owned();
    assert!(text(&["status"]).contains("no rule allows anything"));
    assert!(text(&["doctor"]).contains("no rule allows anything"));
    let one = json!([{"identifier": "ABCDE12345", "rule_type": "TEAMID", "policy": "ALLOWLIST"}]);
    let set = format!("StaticRules={one}");
    assert!(!agent.sync(&["--set", &set]).stderr.contains("no rule allows anything"));
}

/// RULE-11: a server that lost its rules takes nothing away behind the guard;
/// an operator who means it gets past.
#[test]
fn rule_11_the_guard_stops_a_download_and_an_operator_gets_past() {
    let server = server(200);
    let agent = Agent::of(&server);
    agent.sync(&[]);
    server.set_rules(fixtures::rules(20, 1));
    let guard = ["--clean", "--set", "GuardRemovedPercent=50"];
    let synced = agent.sync(&guard);
    assert_eq!((synced.code, synced.kind()), (Some(3), "guarded"), "{}", synced.stderr);
    let fix = synced.json["error"]["fix"].as_str().expect("a fix");
    assert!(fix.contains("--past-guard"), "{fix}");
    let message = synced.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains("180 of 200 rules"), "{message}");
    assert_eq!(agent.rules(), 200);
    let synced = agent.sync(&[&guard[..], &["--past-guard"]].concat());
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    assert_eq!(agent.rules(), 20);
}
