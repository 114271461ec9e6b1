//! Whole syncs against servers as they are in the field.

use santa_sync::harness::{Encoding, FakeServer, Preset, ResponseEncoding, Xsrf, fixtures};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;
use serde_json::json;

use crate::agent::Agent;

const UUID: &str = "50C7E1EB-2EF5-42D4-A084-A7966FC45A95";

fn events(n: usize) -> Vec<serde_json::Value> {
    fixtures::events(n, 3).map(|event| event.to_json()).collect()
}

/// HTTP-5, JSON-1, JSON-2: a first sync, a change, and a clean sync, against
/// each kind of server with the configuration it needs.
#[test]
fn every_kind_of_server_gets_its_syncs() {
    for (preset, encoding, clean_type) in [
        (Preset::Plain, "gzip", "CLEAN_ALL"),
        (Preset::Moroz, "deflate", "CLEAN_ALL"),
        (Preset::Rudolph, "none", "CLEAN_ALL"),
        (Preset::Zentral, "deflate", "CLEAN_ALL"),
    ] {
        let server = FakeServer::builder()
            .rules(fixtures::rules(45, 1))
            .page_size(10)
            .preset(preset)
            .start()
            .expect("a server");
        let mut agent = Agent::of(&server);
        agent.machine_id = UUID.to_owned();
        agent.queue(events(7));
        let encoding = format!("SyncClientContentEncoding={encoding}");
        let more = ["--set", encoding.as_str()];
        let first = agent.sync(&more);
        assert_eq!(first.code, Some(0), "{preset:?}: {}", first.stderr);
        assert_eq!((agent.rules(), server.events_received()), (45, 7), "{preset:?}");

        server.queue_changes(fixtures::changes(&server.rules(), (3, 2, 4), 9));
        assert_eq!(agent.sync(&more).code, Some(0), "{preset:?}");
        assert_eq!(agent.rules(), 47, "{preset:?}");

        server.set_rules([]);
        let clean = agent.sync(&[more[0], more[1], "--clean-all"]);
        assert_eq!(
            (clean.code, &clean.json["sync_type"]),
            (Some(0), &json!(clean_type)),
            "{preset:?}"
        );
        assert_eq!((agent.rules(), agent.pending()), (0, 0), "{preset:?}");
    }
}

/// HTTP-4, HTTP-10, HTTP-6: tokens, cookies, headers, an XSSI prefix and gzip
/// answers nobody asked for; and a token that has gone stale between syncs.
#[test]
fn http_4_http_10_a_guarded_server_is_satisfied() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(20, 1))
        .page_size(5)
        .style(|style| {
            style.xsrf = Xsrf::Demanded("X-Client-Xsrf".to_owned());
            style.cookie = Some("session".to_owned());
            style.header = Some(("Zentral-Authorization".to_owned(), "Bearer abc".to_owned()));
            style.xssi_prefix = ")]}'\n";
            style.response_encoding = ResponseEncoding::Always(Encoding::Gzip);
        })
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    let header = r#"SyncExtraHeaders={"Zentral-Authorization":"Bearer abc","Content-Type":"x/y"}"#;
    for round in 1..=2 {
        let synced = agent.sync(&["--set", header]);
        assert_eq!(synced.code, Some(0), "{}", synced.stderr);
        assert_eq!(server.requests(Stage::Preflight).len(), 2 * round, "a 403, then with a token");
        server.rotate_xsrf();
    }
    assert_eq!(agent.rules(), 20);
    for exchange in server.transcript() {
        let header = |name: &str| {
            exchange
                .headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.as_str())
        };
        assert!(
            header("user-agent").is_some_and(|v| v.starts_with("santactl-sync/")),
            "{exchange:?}"
        );
        assert_ne!(header("content-type"), Some("x/y"));
    }
    let refused = agent.sync(&[]);
    assert_eq!((refused.code, refused.kind()), (Some(1), "unauthorized"));
}

/// NEVER: secrets are in no log line, error, record or output, whatever the
/// level and however the sync ends.
#[test]
fn secrets_are_never_written() {
    const SECRETS: [&str; 5] =
        ["MARKED-header", "MARKED-issuer", "MARKED-user", "MARKED-proxy", "MARKED-certificate"];
    let server = FakeServer::builder()
        .rules(fixtures::rules(20, 1))
        .settings(wire::PreflightResponse {
            push_issuer_token: SECRETS[1].to_owned(),
            push_token: SECRETS[2].to_owned(),
            ..Default::default()
        })
        .style(|style| {
            style.xsrf = Xsrf::Demanded("X-XSRF-TOKEN".to_owned());
            style.cookie = Some("session".to_owned());
            style.header = Some(("Authorization".to_owned(), SECRETS[0].to_owned()));
        })
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    let header = format!(r#"SyncExtraHeaders={{"Authorization":"{}"}}"#, SECRETS[0]);
    let certificate = format!("ClientAuthCertificatePassword={}", SECRETS[4]);
    let proxy = format!(
        r#"SyncProxyConfiguration={{"HTTPSEnable":1,"HTTPSProxy":"127.0.0.1","HTTPSPort":1,"HTTPSUser":"u","HTTPSPassword":"{}"}}"#,
        SECRETS[3]
    );
    let sets = ["--set", &header, "--set", &certificate, "--set", &proxy];
    let trace = ["--log-level", "trace"];
    let with = |command: &[&str]| {
        let args = [command, &sets[..], &trace[..]].concat();
        agent.run(&args)
    };
    let mut outputs = vec![with(&["sync", "--json"]), with(&["sync", "--clean"])];
    assert_eq!(
        outputs[0].status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&outputs[0].stderr)
    );
    server.change_style(|style| {
        style.header = Some(("Authorization".to_owned(), "another".to_owned()));
    });
    outputs.push(with(&["sync", "--json"]));
    assert_eq!(outputs[2].status.code(), Some(1));
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["history", "--json"],
        &["config", "show", "--origin"],
        &["config", "show", "--json"],
        &["config", "check"],
        &["whoami", "--json"],
        &["sync", "--dry-run"],
    ] {
        outputs.push(with(command));
    }
    // Tokens and cookies that the server gave are secrets too.
    let mut secrets: Vec<String> = SECRETS.iter().map(|s| (*s).to_owned()).collect();
    for exchange in server.transcript() {
        for (name, value) in &exchange.headers {
            if name.eq_ignore_ascii_case("x-xsrf-token") {
                secrets.push(value.clone());
            } else if name.eq_ignore_ascii_case("cookie") {
                secrets.extend(value.split_once('=').map(|(_, value)| value.to_owned()));
            }
        }
    }
    assert!(secrets.len() > SECRETS.len(), "the server saw neither token nor cookie");
    for output in &outputs {
        let written = [&output.stdout[..], &output.stderr[..]].concat();
        let written = String::from_utf8_lossy(&written);
        for secret in &secrets {
            assert!(!written.contains(secret.as_str()), "{secret} in {written}");
        }
    }
    // The record that lies on disk holds none either; the settings do, for
    // whoever sends push messages, and in files of mode 0600.
    for record in agent.store().history(50).expect("read") {
        let record = serde_json::to_string(&record).expect("JSON");
        assert!(secrets.iter().all(|secret| !record.contains(secret.as_str())), "{record}");
    }
}
