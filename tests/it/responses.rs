//! Responses that are odd or report an error, against a whole sync.

use santa_sync::harness::{FakeServer, Fault, every, fixtures};
use santa_sync::model::Stage;
use serde_json::{Value, json};

use crate::agent::Agent;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server")
}

fn event(n: u32) -> Value {
    json!({
        "file_sha256": format!("{n:064x}"),
        "file_path": "/usr/bin",
        "file_name": "yes",
        "execution_time": 1_700_000_000,
        "decision": "BLOCK_UNKNOWN",
    })
}

/// EV-11, HTTP-15: a batch that is answered by an error stays queued, and the
/// request is repeated like one that got a 500.
#[test]
fn ev_11_http_15_a_batch_answered_by_an_error_stays_queued() {
    for error in [
        json!({"errorMessage": "the function ran out of time"}),
        json!({"errors": [{"message": "x"}]}),
        json!({"error": "not now"}),
    ] {
        let server = server();
        let agent = Agent::of(&server);
        agent.sync(&[]);
        agent.queue((0..3).map(event));
        server.fault(Stage::EventUpload, every(), Fault::WrongShape(error.clone()));
        let synced = agent.sync(&[]);
        assert_eq!((synced.kind(), synced.code), ("error_in_response", Some(2)), "{error}");
        assert_eq!((agent.pending(), &synced.json["stages"][1]["attempts"]), (3, &json!(6)));
        server.clear_faults();
        let synced = agent.sync(&[]);
        assert_eq!((synced.code, &synced.json["events_uploaded"]), (Some(0), &json!(3)));
    }
}

/// EV-11: what else a server may write is success.
#[test]
fn ev_11_an_answer_without_an_error_takes_the_batch() {
    for success in [
        json!({}),
        json!({"Err": null}),
        json!({"error": null}),
        json!({"errors": []}),
        json!({"event_upload_bundle_binaries": []}),
        json!({"status": "ok"}),
    ] {
        let server = server();
        let agent = Agent::of(&server);
        agent.sync(&[]);
        agent.queue([event(1)]);
        server.fault(Stage::EventUpload, every(), Fault::WrongShape(success.clone()));
        assert_eq!((agent.sync(&[]).code, agent.pending()), (Some(0), 0), "{success}");
    }
}

/// HTTP-15: an error in a preflight fails it; one in a postflight is a warning.
#[test]
fn http_15_an_error_in_a_preflight_fails_it_and_in_a_postflight_warns() {
    let server = server();
    let agent = Agent::of(&server);
    let error = Fault::WrongShape(json!({"Error": "out of\u{1b}[31m order"}));
    server.fault(Stage::Preflight, every(), error.clone());
    let synced = agent.sync(&[]);
    assert_eq!((synced.kind(), synced.code), ("error_in_response", Some(1)));
    let message = synced.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains(r"out of\u{1b}[31m order"), "{message}");
    server.clear_faults();

    server.fault(Stage::Postflight, every(), error);
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(0), "success"));
    let warnings = &synced.json["warnings"];
    assert_eq!(
        (&warnings[0]["stage"], &warnings[0]["field"]),
        (&json!("postflight"), &json!("error"))
    );
}

/// JSON-1: a setting that cannot be read is a warning in the record, in the log
/// and in what `sync` and `status` print; it costs nothing else.
#[test]
fn json_1_a_setting_that_cannot_be_read_is_a_warning_wherever_one_looks() {
    let server = server();
    let agent = Agent::of(&server);
    let odd = json!({"client_mode": "Monitr", "batch_size": "many", "enable_bundles": true});
    server.fault(Stage::Preflight, every(), Fault::WrongShape(odd));
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    assert_eq!(
        synced.json["warnings"],
        json!([
            {"stage": "preflight", "field": "batch_size", "value": "many",
             "action": "cannot be read; treated as absent"},
            {"stage": "preflight", "field": "client_mode", "value": "Monitr",
             "action": "unknown value; treated as unspecified"},
        ])
    );
    assert_eq!(synced.json["settings_applied"][0]["setting"], "enable_bundles");
    let printed = |args: &[&str]| {
        let output = agent.run(args);
        let (out, err) = (output.stdout, output.stderr);
        (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
    };
    let (text, log) = printed(&["sync"]);
    assert!(text.contains("preflight: client_mode = Monitr: unknown value"), "{text}");
    assert_eq!(log.matches("not read as sent").count(), 2, "{log}");
    let (text, _) = printed(&["status"]);
    assert!(text.contains("preflight: batch_size = many: cannot be read"), "{text}");
    assert!(text.contains("Last Warning") && text.contains("(and 1 more)"), "{text}");
    let (text, _) = printed(&["status", "--json"]);
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["last_attempt"]["warnings"][1]["field"], "client_mode");
}
