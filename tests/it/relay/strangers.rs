//! What the relay answers to anybody but its authorizer (RELAY-2, RELAY-12), and what
//! that changes: nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::model::Secret;

use super::chain::{Chain, MACHINE_ID, wait};
use super::santa::{Age, Santa, Status};

/// A host whose Santa is in step.
fn in_step(change: impl FnOnce(&mut santa_sync::relay::core::RelayOptions)) -> (Chain, Santa) {
    let rules: Vec<_> = fixtures::rules(40, 3).collect();
    let upstream = FakeServer::builder().rules(rules).start().expect("a server");
    let chain = Chain::with(upstream, change);
    let santa = Santa::new(Age::Y2026M7, &chain.url());
    (chain, santa)
}

/// What comes back to bytes sent over a connection of their own: status and text.
fn answer(chain: &Chain, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(chain.options.config.listen).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream.write_all(request).expect("sent");
    let mut text = Vec::new();
    // A refused connection may be reset after its answer.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), text)
}

/// A request with these headers besides `Content-Length` and `Connection`.
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (headers, length) = (headers.concat(), body.len());
    format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\
         \r\n{body}"
    )
    .into_bytes()
}

/// RELAY-2: what is not a request of the authorizer is refused, by the status that
/// makes Santa do the least; nothing redirects or asks for a password.
#[test]
fn relay_2_everything_but_the_four_stages_is_refused() {
    let (chain, _) = in_step(|_| {});
    chain.sync_as(None);
    let host = chain.options.config.listen.to_string();
    let json = ("Content-Type", "application/json");
    let of = |path: &str| path.replace("ID", MACHINE_ID);
    let with = |method: &str, path: &str, more: &[(&str, &str)]| {
        let headers = [&[("Host", host.as_str())], more].concat();
        answer(&chain, &request(method, &of(path), &headers, "{}"))
    };
    for (method, path, more, status) in [
        ("POST", "/preflight/ID", vec![json], 200),
        ("POST", "/preflight/%74est-host", vec![json], 200),
        ("POST", "/preflight/ID", vec![("Content-Type", "application/JSON; charset=utf-8")], 200),
        ("POST", "/xsrf/ID", vec![json], 404),
        ("POST", "/metrics/ID", vec![json], 404),
        ("GET", "/preflight/ID", vec![json], 404),
        ("POST", "/Preflight/ID", vec![json], 404),
        ("POST", "/preflight/ID/", vec![json], 404),
        ("POST", "/preflight", vec![json], 404),
        ("POST", "//preflight/ID", vec![json], 404),
        ("POST", "/preflight/ID?x", vec![json], 404),
        ("POST", "/preflight/another", vec![json], 404),
        ("POST", "/preflight/TEST-HOST", vec![json], 404),
        ("POST", "/preflight/santactl-doctor-test", vec![json], 400),
        ("POST", "/preflight/ID", vec![], 415),
        ("POST", "/preflight/ID", vec![("Content-Type", "text/plain")], 415),
        ("POST", "/preflight/ID", vec![json, ("Content-Encoding", "br")], 415),
        ("POST", "/preflight/ID", vec![json, ("Origin", "https://example.com")], 400),
    ] {
        let (got, text) = with(method, path, &more);
        assert_eq!(got, status, "{method} {path} {more:?}: {text}");
        let head = text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        for never in ["location:", "www-authenticate:", "transfer-encoding:", "content-encoding:"] {
            assert!(!head.contains(never), "{text}");
        }
        assert!(head.contains("content-length:"), "{text}");
    }
    let (_, text) = with("POST", "/preflight/another", &[json]);
    assert!(text.contains(MACHINE_ID) && text.contains("another"), "both are named: {text}");
    for wrong in ["localhost", "127.0.0.1", "example.com:80", ""] {
        let headers = [("Host", wrong), json];
        let (status, text) = answer(&chain, &request("POST", &of("/preflight/ID"), &headers, "{}"));
        assert_eq!(status, 400, "Host {wrong:?}: {text}");
        let says = text.contains("the relay of santa-sync") && text.contains(&host);
        assert!(says, "an agent that is led here by another name hears where it is: {text}");
    }
    let twice = [("Host", host.as_str()), ("Host", host.as_str()), json];
    let (status, text) = answer(&chain, &request("POST", &of("/preflight/ID"), &twice, "{}"));
    assert_eq!(status, 400, "two Host headers: {text}");
    for named in [host.as_str(), "example.com"] {
        let (status, text) = with("POST", &format!("http://{named}/preflight/ID"), &[json]);
        assert_eq!(status, 400, "the target names {named}: {text}");
    }
    let (status, _) = with("POST", "/eventupload/ID", &[json]);
    assert_eq!(status, 200, "an upload without events");
    let bad = answer(
        &chain,
        &request("POST", &of("/postflight/ID"), &[("Host", &host), json], "{\"rules_received\":"),
    );
    assert_eq!(bad.0, 400, "{}", bad.1);
    let status = chain.status();
    assert_eq!(status.other_machine_id.as_deref(), Some("another"));
    assert!(status.refused.len() >= 5, "{:?}", status.refused);
}

/// RELAY-12: without the secret nothing is served, and nothing of it is shown.
#[test]
fn relay_12_a_wrong_secret_is_told_from_the_right_one() {
    let (chain, santa) = in_step(|options| {
        options.config.secret = Some(Secret::new("the-relays-secret".to_owned()));
    });
    chain.sync_as(None);
    let host = chain.options.config.listen.to_string();
    let path = format!("/preflight/{MACHINE_ID}");
    for secret in ["", "the-relays-secre", "the-relays-secret2", "THE-RELAYS-SECRET"] {
        let headers = [
            ("Host", host.as_str()),
            ("Content-Type", "application/json"),
            ("Santa-Sync-Relay-Secret", secret),
        ];
        let (status, text) = answer(&chain, &request("POST", &path, &headers, "{}"));
        assert_eq!(status, 401, "{secret}: {text}");
        assert!(!text.contains("the-relays"), "{text}");
    }
    assert_eq!(santa.sync().http_status, Some(401));
    let santa = santa.with(|profile| {
        let header = "santa-sync-relay-secret".to_owned();
        profile.headers = vec![(header, "the-relays-secret".to_owned())];
    });
    assert_eq!(santa.sync().status, Status::Success);
    assert_eq!(chain.status().refused.get("secret").copied(), Some(5));
}

/// RELAY-12: where the user of a connection is checked, others are not served: they
/// alter neither acknowledgements nor what is said upstream, and take no events.
#[cfg(target_os = "linux")]
#[test]
fn relay_12_connections_of_other_users_change_nothing() {
    let (mut chain, santa) = in_step(|_| {});
    chain.sync_as(None);
    santa.sync();
    santa.sync();
    assert!(wait(|| chain.status().in_step));
    let before = std::fs::read(chain.state_dir().join("relay.json")).expect("kept");
    // This process is another user's now.
    chain.options.config.peer_users = vec!["4294967290".to_owned()];
    chain.restart(std::sync::Arc::new(|_, _| {}));
    let host = chain.options.config.listen.to_string();
    let event = r#"{"events":[{"file_sha256":"aa","decision":"BLOCK_UNKNOWN"}]}"#;
    for (stage, body) in [
        ("preflight", r#"{"client_mode":"MONITOR","santa_version":"2020.1"}"#),
        ("eventupload", event),
        ("ruledownload", "{}"),
        ("postflight", r#"{"rules_received":40,"rulesHash":"forged"}"#),
    ] {
        let headers = [("Host", host.as_str()), ("Content-Type", "application/json")];
        let path = format!("/{stage}/{MACHINE_ID}");
        let (status, text) = answer(&chain, &request("POST", &path, &headers, body));
        assert_eq!(status, 401, "{stage}: {text}");
    }
    let status = chain.status();
    assert_eq!(status.authorizer.expect("known").version, Age::Y2026M7.version());
    assert_eq!(status.events, 0);
    let after = std::fs::read(chain.state_dir().join("relay.json")).expect("kept");
    assert_eq!(before, after);
}

/// RELAY-7: what is forged where nobody is checked acknowledges no delivery that was
/// not fetched, and ends none.
#[test]
fn relay_7_a_forged_postflight_acknowledges_nothing() {
    let (chain, santa) = in_step(|_| {});
    chain.sync_as(None);
    let host = chain.options.config.listen.to_string();
    let post = |stage: &str, body: &str| {
        let headers = [("Host", host.as_str()), ("Content-Type", "application/json")];
        let path = format!("/{stage}/{MACHINE_ID}");
        answer(&chain, &request("POST", &path, &headers, body)).0
    };
    assert_eq!(post("postflight", r#"{"rules_received":40,"rulesHash":"forged"}"#), 200);
    assert_eq!(post("preflight", "{}"), 200);
    assert_eq!(post("postflight", r#"{"rules_received":40,"syncType":"CLEAN"}"#), 200);
    assert!(chain.status().acknowledged.is_none());
    // Pages that somebody made up lead nowhere.
    assert_eq!(post("ruledownload", r#"{"cursor":"0000000000000001-a5"}"#), 409);
    let mut asked = 0;
    let done = santa.sync_with(&mut |_| {
        asked += 1;
        if asked < 12 {
            assert_eq!(post("preflight", "{}"), 200);
        }
        super::santa::Act::Go
    });
    assert_eq!(done.status, Status::Success);
    assert_eq!(santa.sync().status, Status::Success);
    assert_eq!(santa.rows().len(), 40);
    assert!(wait(|| chain.status().in_step), "{:?}", chain.status());
}

/// RELAY-11: what stands in the status.
#[test]
fn relay_11_the_status_tells_how_the_authorizer_stands() {
    let (chain, santa) = in_step(|_| {});
    assert!(wait(|| chain.status().not_ready.is_some()));
    assert_eq!(chain.status().authorizer, None);
    chain.sync_as(None);
    santa.sync();
    assert!(wait(|| chain.status().behind_since.is_some()), "{:?}", chain.status());
    let status = chain.status();
    assert_eq!((status.in_step, status.not_ready, status.acknowledged), (false, None, None));
    assert!(status.last_delivery.expect("one").why.contains("upload its events"));
    santa.sync();
    assert!(wait(|| chain.status().in_step));
    let status = chain.status();
    assert_eq!(status.acknowledged.expect("one").generation, 1);
    assert_eq!(status.newest_generation, Some(1));
    let authorizer = status.authorizer.expect("it came");
    assert_eq!(authorizer.version, Age::Y2026M7.version());
    assert_eq!(authorizer.authenticated, cfg!(target_os = "linux"));
    assert_eq!(status.release_cannot, [""; 0]);

    chain.upstream.queue_changes(fixtures::changes(&chain.upstream.rules(), (1, 1, 1), 4));
    chain.sync_as(None);
    assert!(wait(|| !chain.status().in_step && chain.status().newest_generation == Some(2)));
    let old = Santa::new(Age::Y2024M12, &chain.url());
    old.sync();
    let cannot = chain.status().release_cannot.join("; ");
    assert!(cannot.contains("CEL") && cannot.contains("settings"), "{cannot}");
}
