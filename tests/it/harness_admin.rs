//! The administrator's port, and recordings, of `harness serve` as a process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::harness_serve::{Serve, post, refused};
use crate::wrong_input::mkfifo;

/// An administrator of a server.
struct Admin {
    address: String,
    token: String,
}

impl Admin {
    fn of(started: &Value) -> Self {
        let url = started["admin"]["url"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { address, token: started["admin"]["token"].as_str().unwrap().to_owned() }
    }

    fn raw(&self, request: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    fn ask(&self, request: &str, body: &Value) -> (u16, Value) {
        let headers = format!("Host: {}\r\nAuthorization: Bearer {}\r\n", self.address, self.token);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(request, &headers, &body)
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(&format!("GET {path}"), &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn post(&self, path: &str, body: &Value) {
        let (status, answer) = self.ask(&format!("POST {path}"), body);
        assert_eq!((status, &answer), (200, &json!({})), "{path}");
    }
}

fn start(more: &[&str]) -> (Serve, String, Admin) {
    let args = [&["--json", "--quiet", "--admin", "127.0.0.1:0"], more].concat();
    let mut serve = Serve::start(&args);
    let started = serve.json();
    (serve, started["url"].as_str().unwrap().to_owned(), Admin::of(&started))
}

#[test]
fn the_administrator_sees_what_has_happened() {
    let (serve, url, admin) = start(&["--rules", "3"]);
    let agent = Agent::at(&url);
    agent.queue([json!({"file_sha256": "ab".repeat(32), "decision": "BLOCK_UNKNOWN",
        "execution_time": 1.5, "file_path": "/opt/tool"})]);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let state = admin.get("/state");
    assert_eq!((&state["rules"], &state["events"]), (&json!(3), &json!(1)));
    let host = &state["hosts"][0];
    assert_eq!((&host["machine_id"], &host["synced"]), (&json!("test-host"), &json!(true)));
    assert_eq!(host["last_postflight"]["rules_processed"], 3);
    let events = admin.get("/events");
    assert_eq!(
        (&events["next"], &events["events"][0]["file_path"]),
        (&json!(1), &json!("/opt/tool"))
    );
    assert_eq!(admin.get("/events?after=1")["events"], json!([]));
    let exchanges = admin.get("/exchanges?after=1")["exchanges"].clone();
    assert_eq!(exchanges[0]["route"], "event_upload");
    assert_eq!(admin.get("/expectations"), json!({"met": true, "expectations": []}));
    assert_eq!(serve.ended().1, Some(0));
}

#[test]
fn the_administrator_changes_what_is_served() {
    let (serve, url, admin) = start(&["--rules", "3"]);
    let agent = Agent::at(&url);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let team = json!({"identifier": "ABCDE12345", "policy": "BLOCKLIST", "rule_type": "TEAMID"});
    admin
        .post("/change", &json!({"update_rules": [team], "settings": {"client_mode": "LOCKDOWN"}}));
    assert_eq!(agent.sync(&[]).json["rules_received"], 1);
    admin.post("/rules", &json!({"rules": [team]}));
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.rules(), 1);
    admin.post("/clean-sync/test-host", &Value::Null);
    assert_eq!(agent.sync(&[]).json["sync_type"], "CLEAN");
    admin.post("/settings", &json!({"batch_size": 7}));
    assert_eq!(post(&url, "preflight/B", &json!({}))["batchSize"], 7);
    admin.post("/faults", &json!([{"at": "preflight", "fault": "status:404"}]));
    assert_eq!(agent.sync(&[]).code, Some(1));
    admin.post(
        "/change",
        &json!({"clear_faults": true, "misbehave": ["CLEAN-04"], "restart": true}),
    );
    assert_eq!(agent.sync(&[]).json["sync_type"], "CLEAN");
    admin.post("/change", &json!({"behave": true}));
    assert_eq!(agent.sync(&[]).json["sync_type"], "NORMAL");

    let refused = |path: &str, body: Value| admin.ask(&format!("POST {path}"), &body);
    assert_eq!(refused("/clean-sync/nobody", Value::Null).0, 404);
    let (status, answer) = refused("/change", json!({"setings": {}}));
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("expected one of `group`, `rules`"));
    assert_eq!(refused("/nothing", json!({})).0, 404);
    admin.post("/finish", &Value::Null);
    assert_eq!(serve.rest().1, Some(0), "it ends without a signal");
}

#[test]
fn strangers_and_web_pages_are_turned_away() {
    let (serve, _, admin) = start(&["--admin-token", "s3cret-of-16-chars"]);
    assert_eq!(admin.token, "s3cret-of-16-chars");
    let host = format!("Host: {}\r\n", admin.address);
    let bearer = "Authorization: Bearer s3cret-of-16-chars\r\n";
    let ask = |headers: &[&str]| admin.raw("GET /state", &headers.concat(), "").0;
    assert_eq!(ask(&[&host, bearer]), 200);
    assert_eq!(ask(&[&host]), 401);
    assert_eq!(ask(&[&host, "Authorization: Bearer s3cre\r\n"]), 401);
    let why = |headers: &[&str]| {
        let (status, answer) = admin.raw("GET /state", &headers.concat(), "");
        (status, answer["error"].as_str().unwrap().to_owned())
    };
    let (status, words) = why(&[&host, bearer, "Origin: http://127.0.0.1:1\r\n"]);
    assert_eq!(status, 403);
    assert!(words.contains("the header Origin") && words.contains("leave it out"), "{words}");
    let (status, words) = why(&["Host: rebound.example\r\n", bearer]);
    assert_eq!(status, 403);
    let call = format!("call this server http://{}/ or http://localhost:", admin.address);
    assert!(words.contains("Host is \"rebound.example\"") && words.contains(&call), "{words}");
    drop(serve);

    let out = refused(&["--admin", "0.0.0.0:0"]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("0.0.0.0:0 is not a loopback address; use 127.0.0.1 or [::1]"), "{err}");
    let out = refused(&["--admin", "127.0.0.1:0", "--admin-token", ""]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("a token has at least 16 characters"), "{err}");
    let (_, _, other) = start(&[]);
    assert_eq!(other.token.len(), 32);
}

#[test]
fn a_recording_is_replayed_to_another_agent() {
    let dir = tempfile::tempdir().unwrap();
    let tape = dir.path().join("tape");
    let tape = tape.to_str().unwrap();
    let mut serve = Serve::start(&["--rules", "25", "--page-size", "10", "--record", tape]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    let secret = r#"SyncExtraHeaders={"Authorization":"Bearer abc"}"#;
    assert_eq!(Agent::at(&url).sync(&["--set", secret]).code, Some(0));
    serve.stop();
    let mut files: Vec<_> =
        fs::read_dir(tape).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 5);
    let first: Value = serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap();
    assert_eq!(first["request"]["message"]["machine_id"], "test-host");
    assert!(first["request"]["body"]["base64"].is_string(), "as received, compressed");
    assert!(first["request"]["headers"].to_string().contains("Bearer abc"));

    let mut serve = Serve::start(&["--json", "--quiet", "--replay", tape]);
    let url = serve.json()["url"].as_str().unwrap().to_owned();
    let mut agent = Agent::at(&url);
    "another".clone_into(&mut agent.machine_id);
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.rules(), 25);
    let again = agent.sync(&[]);
    assert_eq!(again.result(), "preflight_failed");
    let message = again.json["error"]["message"].to_string();
    assert!(message.contains("the recording has 1 of preflight for test-host"), "{message}");
    let (printed, code) = serve.ended();
    let last: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &last["replay_misses"]), (Some(1), &json!(1)));

    let err = String::from_utf8(refused(&["--record", tape]).stderr).unwrap();
    assert!(err.contains("is not empty; name a directory that does not exist"), "{err}");
}

/// A recording may have been edited: what HTTP forbids is found when it is loaded, not
/// when it is to be sent.
#[test]
fn a_recording_that_cannot_be_sent_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let tape = dir.path().join("tape");
    let mut serve = Serve::start(&["--record", tape.to_str().unwrap()]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    post(&url, "preflight/A", &json!({"machine_id": "A"}));
    serve.stop();
    let file = fs::read_dir(&tape).unwrap().next().unwrap().unwrap().path();
    let sound: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let replay = |name: &str| {
        let out = refused(&["--replay", tape.to_str().unwrap()]);
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(err.contains(name), "{err}");
        err
    };
    let name = file.file_name().unwrap().to_str().unwrap();
    for (place, value, words) in [
        ("status", json!(0), "no response has status 0; give 200 to 599"),
        ("status", json!(101), "no response has status 101"),
        ("status", json!(600), "no response has status 600"),
        ("status", json!(70_000), "expected u16"),
        ("headers", json!([["X-A", "a\r\nX-B: b"]]), r#"forbids the header "X-A" with the value"#),
        ("headers", json!([["X A", "a"]]), r#"forbids the header "X A" with the value"#),
    ] {
        let mut edited = sound.clone();
        edited["response"][place] = value;
        fs::write(&file, edited.to_string()).unwrap();
        let err = replay(name);
        assert!(err.contains(words), "{err}");
    }
    fs::write(&file, sound.to_string()).unwrap();
    mkfifo(&tape.join("a.json"));
    assert!(replay("a.json").contains("a FIFO"), "nobody waits for it");
}

#[test]
fn a_masked_recording_has_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let tape = dir.path().join("tape");
    let settings = dir.path().join("settings.json");
    fs::write(&settings, r#"{"push_token": "tok-secret-1"}"#).unwrap();
    let mut serve = Serve::start(&[
        "--record",
        tape.to_str().unwrap(),
        "--mask",
        "--gzip",
        "--base-path",
        "path-secret-2",
        "--settings",
        settings.to_str().unwrap(),
    ]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    let secret = r#"SyncExtraHeaders={"X-Key":"header-secret-3"}"#;
    assert_eq!(Agent::at(&url).sync(&["--set", secret]).code, Some(0));
    let protobuf = "SyncEnableProtoTransfer=true";
    assert_eq!(Agent::at(&url).sync(&["--set", secret, "--set", protobuf]).code, Some(0));
    post(&url, "nothing/path-secret-2", &json!({}));
    serve.stop();
    let all: String = fs::read_dir(&tape)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(all.contains("preflight") && all.contains("(masked)"));
    // In base64, a text has one of three forms.
    let shifted = ["tok-secret-1", "ok-secret-1", "k-secret-1"].map(|text| {
        use base64::Engine as _;
        let whole = text.len() / 3 * 3;
        base64::engine::general_purpose::STANDARD.encode(&text[..whole])
    });
    let secrets = ["tok-secret-1", "path-secret-2", "header-secret-3"].map(str::to_owned);
    for secret in secrets.into_iter().chain(shifted) {
        assert!(!all.contains(&secret), "{secret}");
    }
}
