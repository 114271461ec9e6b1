//! RELAY-10: what the upstream server hears of the authorizer.

use std::time::Duration;

use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::harness::{FakeServer, Fault, every, fixtures};
use santa_sync::host::AuthorizerReport;
use santa_sync::model::{ClientMode, Stage, Timestamp};
use santa_sync::protocol::wire;
use serde_json::Value;

use crate::agent::{Agent, Synced};

const RELAY: [&str; 4] = ["--set", "RelayListen=127.0.0.1:917", "--set", "RelayStale=259200"];

fn server() -> FakeServer {
    let settings = wire::PreflightResponse {
        client_mode: wire::ClientMode::Lockdown.into(),
        ..Default::default()
    };
    FakeServer::builder()
        .rules(fixtures::rules(10, 1))
        .batch_size(10)
        .settings(settings)
        .start()
        .expect("a server")
}

/// The authorizer asked for its settings so long ago.
fn heard(agent: &Agent, ago: Duration) -> AuthorizerReport {
    let now = SystemClock::new().now().wall;
    let ago = i64::try_from(ago.as_millis()).expect("a time");
    let report = AuthorizerReport {
        at: Timestamp::from_millis(now.as_millis() - ago),
        client_mode: Some(ClientMode::Standalone),
        transitive: 7,
        santa_version: "2026.7.9".to_owned(),
        sip_status: Some(5),
        primary_user: "kim".to_owned(),
        primary_user_groups: vec!["devs".to_owned()],
        authenticated: true,
    };
    report.keep(&agent.state_dir).expect("kept");
    report
}

fn sync(agent: &Agent) -> Synced {
    agent.sync(&RELAY)
}

/// The preflight request that came last.
fn last_preflight(server: &FakeServer) -> Value {
    server.requests(Stage::Preflight).pop().expect("a preflight").body
}

fn day() -> Duration {
    Duration::from_hours(24)
}

/// RELAY-10, PRE-1: mode and transitive rules are the authorizer's; facts only if it
/// was authenticated; hash and the other counts are those of the store.
#[test]
fn relay_10_upstream_hears_of_the_authorizer_while_it_has_news() {
    let server = server();
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.sync(&[]).code, Some(0));
    let before = last_preflight(&server);
    assert_eq!(before["client_mode"], "LOCKDOWN");
    let binary = before["binary_rule_count"].as_u64().expect("a count");

    assert_eq!(sync(&agent).code, Some(0));
    let never = last_preflight(&server);
    assert_eq!(never["client_mode"], "MONITOR", "no authorizer has come yet");
    for same in ["rulesHash", "santa_version", "primary_user", "sipStatus", "binary_rule_count"] {
        assert_eq!(never[same], before[same], "{same}");
    }

    let report = heard(&agent, Duration::from_mins(5));
    assert_eq!(sync(&agent).code, Some(0));
    let heard_body = last_preflight(&server);
    assert_eq!(heard_body["client_mode"], "STANDALONE");
    assert_eq!(heard_body["transitive_rule_count"], 7);
    assert_eq!(heard_body["binary_rule_count"], binary + 7);
    assert_eq!(heard_body["santa_version"], "2026.7.9");
    assert_eq!(heard_body["sipStatus"], 5);
    assert_eq!(
        (&heard_body["primary_user"], heard_body["primary_user_groups"][0].as_str()),
        (&Value::from("kim"), Some("devs"))
    );
    assert_eq!(heard_body["rulesHash"], before["rulesHash"]);
    assert_eq!(heard_body["teamid_rule_count"], before["teamid_rule_count"]);
    let user_agent = &server.requests(Stage::Preflight).pop().expect("one").headers["user-agent"];
    assert!(user_agent.starts_with("santactl-sync/2026.7.9 "), "{user_agent}");
    let whoami = agent.run(&[&["whoami"][..], &RELAY].concat());
    let whoami = String::from_utf8_lossy(&whoami.stdout).into_owned();
    assert!(whoami.contains("the authorizer's last preflight"), "{whoami}");

    AuthorizerReport { authenticated: false, ..report }.keep(&agent.state_dir).expect("kept");
    assert_eq!(sync(&agent).code, Some(0));
    let stranger = last_preflight(&server);
    assert_eq!(
        (&stranger["client_mode"], &stranger["santa_version"]),
        (&Value::from("STANDALONE"), &before["santa_version"])
    );
    assert_eq!(stranger["primary_user"], before["primary_user"]);

    // Without a relay the file is of no account.
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(last_preflight(&server)["client_mode"], "LOCKDOWN");
}

/// RELAY-10: after a day of silence the honest mode is the weakest.
#[test]
fn relay_10_upstream_hears_monitor_after_a_day_of_silence() {
    let server = server();
    let agent = Agent::of(&server);
    assert_eq!(sync(&agent).code, Some(0));
    heard(&agent, day() + Duration::from_mins(1));
    assert_eq!(sync(&agent).code, Some(0));
    let body = last_preflight(&server);
    assert_eq!(
        (&body["client_mode"], &body["transitive_rule_count"]),
        (&Value::from("MONITOR"), &Value::from(0))
    );
    let status = status(&agent);
    assert_eq!(status["authorizer"]["state"], "silent");
    assert!(status["authorizer"]["message"].as_str().expect("words").contains("MONITOR"));
}

fn status(agent: &Agent) -> Value {
    let shown = agent.run(&[&["status", "--json"][..], &RELAY].concat());
    serde_json::from_slice(&shown.stdout).expect("JSON")
}

/// RELAY-10, EXIT 1: a host whose authorizer has been silent for longer than
/// `RelayStale` grows old at its server, but loses no event; record, `status` and a sync
/// by hand say so.
#[test]
fn relay_10_a_stale_host_only_uploads_events_until_its_authorizer_is_back() {
    let server = server();
    let agent = Agent::of(&server);
    let first = sync(&agent);
    assert_eq!(first.code, Some(0));
    heard(&agent, 3 * day() + Duration::from_mins(1));
    agent.queue(fixtures::events(25, 3).map(|event| event.to_json()));
    server.set_rules(fixtures::rules(11, 2));
    let requests = |stage| server.requests(stage).len();
    let before = [Stage::Preflight, Stage::RuleDownload, Stage::Postflight].map(requests);

    let synced = sync(&agent);
    assert_eq!((synced.code, synced.result()), (Some(1), "authorizer_stale"), "{}", synced.stderr);
    assert_eq!(synced.kind(), "authorizer_stale");
    assert_eq!((agent.pending(), server.events_received()), (0, 25));
    assert_eq!(requests(Stage::EventUpload), 3, "in batches of the last sync's size");
    let after = [Stage::Preflight, Stage::RuleDownload, Stage::Postflight].map(requests);
    assert_eq!(after, before);
    assert_eq!(agent.rules(), 10);
    assert_eq!(agent.store().client_mode(None).expect("read"), ClientMode::Lockdown);

    let shown = agent.run(&[&["sync"][..], &RELAY].concat());
    assert_eq!(shown.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("authorizer_stale") && shown.contains("only events"), "{shown}");
    assert!(shown.contains("uploaded 0, pending 0"), "{shown}");
    let told = status(&agent);
    assert_eq!(told["authorizer"]["state"], "stale");
    assert_eq!(told["last_attempt"]["result"], "authorizer_stale");
    let since = first.json["started_at"].as_str().expect("a time");
    assert!(told["last_success"]["at"].as_str().expect("a time") >= since);
    let text = agent.run(&[&["status"][..], &RELAY].concat());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("(stale)") && text.contains("syncs only upload events"), "{text}");

    // A dry run makes no request at all; RelayStale may be switched off.
    let total = server.transcript().len();
    assert_eq!(agent.sync(&[&["--dry-run"][..], &RELAY].concat()).result(), "authorizer_stale");
    assert_eq!(server.transcript().len(), total);
    let never = ["--set", "RelayListen=127.0.0.1:917", "--set", "RelayStale=0"];
    assert_eq!(agent.sync(&never).code, Some(0));
    assert_eq!(last_preflight(&server)["client_mode"], "MONITOR");

    server.set_rules(fixtures::rules(12, 3));
    heard(&agent, Duration::ZERO);
    assert_eq!(sync(&agent).code, Some(0));
    assert_eq!(agent.rules(), 12);
    assert_eq!(status(&agent)["authorizer"]["message"], Value::Null);
}

/// RELAY-10, EV-2: events that cannot be uploaded stay, and the sync says that.
#[test]
fn relay_10_a_stale_host_keeps_events_that_its_server_does_not_take() {
    let server = server();
    let agent = Agent::of(&server);
    assert_eq!(sync(&agent).code, Some(0));
    heard(&agent, 4 * day());
    agent.queue(fixtures::events(5, 3).map(|event| event.to_json()));
    server.fault(Stage::EventUpload, every(), Fault::status(404));
    let synced = sync(&agent);
    assert_eq!((synced.code, synced.result()), (Some(2), "event_upload_failed"));
    assert_eq!(agent.pending(), 5);
    // A clean sync that is requested meanwhile is requested still.
    let synced = agent.sync(&[&["--clean"][..], &RELAY].concat());
    assert_eq!(synced.code, Some(2));
    server.clear_faults();
    heard(&agent, Duration::ZERO);
    let synced = sync(&agent);
    assert_eq!(
        (synced.code, synced.json["requested_sync_type"].as_str()),
        (Some(0), Some("CLEAN"))
    );
}
