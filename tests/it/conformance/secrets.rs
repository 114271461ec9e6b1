//! Credentials are sent to the server, and are in nothing that a run writes, whatever the server
//! makes of them.

use std::fs;
use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::by_hand::{Request, header, listen, respond};
use super::command::{run, server, stderr, stdout};

const TOKEN: &str = "Bearer conformance-s3cret";

#[test]
fn a_credential_is_sent_and_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.jsonl");
    let server = server()
        .style(|style| style.header = Some(("Authorization".to_owned(), TOKEN.to_owned())))
        .start()
        .unwrap();
    let set = format!(r#"SyncExtraHeaders={{"Authorization":"{TOKEN}"}}"#);
    for form in [&["--verbose"][..], &["--json"]] {
        let transcript = ["--transcript", file.to_str().unwrap(), "--set", &set];
        let output =
            run(&server.url(), &[&["--only", "ERR-03,HTTP-01"], form, &transcript].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
        let written = fs::read_to_string(&file).unwrap();
        for text in [&stdout(&output), &stderr(&output), &written] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        assert!(written.contains("(secret)"), "the header is there, masked");
    }
    let seen = server.transcript();
    let with_token = |e: &&santa_sync::harness::Exchange| {
        e.headers.get("authorization").is_some_and(|value| value == TOKEN)
    };
    assert!(seen.iter().any(|exchange| with_token(&exchange)));
    assert!(seen.iter().any(|exchange| !with_token(&exchange) && exchange.status == Some(401)));
}

/// Responds to every request with what this makes of its head, and with a header of it as a
/// cookie.
fn echo(listener: &TcpListener, body_of: impl Fn(&str) -> Vec<u8>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let Some(Request { head, .. }) = Request::read(&stream) else { continue };
        let cookie = format!("Set-Cookie: s={}", header(&head, "x-key").unwrap_or_default());
        respond(&stream, "200 OK", &[&cookie, "Connection: close"], &body_of(&head));
    }
}

#[test]
fn a_server_that_echoes_credentials_makes_no_report_show_them() {
    let (listener, url) = listen();
    std::thread::spawn(move || {
        echo(&listener, |head| serde_json::json!({ "echo": head }).to_string().into_bytes());
    });
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (html, junit, transcript) = (path("r.html"), path("r.xml"), path("r.jsonl"));
    let set = r#"SyncExtraHeaders={"X-Key":"s3cr3t-HEADER/val+ue==","Authorization":"Bearer TOKENabc123"}"#;
    let only = ["--only", "ERR-03,HTTP-01,HTTP-06", "--verbose", "--set", set];
    let files = ["--html", &html, "--junit", &junit, "--transcript", &transcript];
    let output = run(&url, &[&only[..], &files].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let texts = [html, junit, transcript].map(|path| fs::read_to_string(path).unwrap());
    assert!(texts[2].contains("(secret)"), "{}", texts[2]);
    for text in [&stdout(&output), &stderr(&output)].into_iter().chain(&texts) {
        // The altered ones of ERR-03 begin like the true ones.
        for secret in ["TOKENabc12", "s3cr3t-HEADER"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// What servers, proxies and logs make of a header: every form at once, in a body that is not
/// text.
fn mirrored(head: &str) -> Vec<u8> {
    let key = header(head, "x-key").unwrap_or_default();
    let pair = header(head, "authorization").unwrap_or_default();
    let pair = pair.strip_prefix("Basic ").unwrap_or_default().to_owned();
    let pair = STANDARD.decode(&pair).map(|pair| String::from_utf8(pair).unwrap());
    let pair = pair.unwrap_or_default();
    let mut body = b"\x0a\x80\xff".to_vec();
    for secret in std::iter::once(key).chain(pair.split(':')).chain([pair.as_str()]) {
        let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        for form in [
            secret.to_owned(),
            secret.to_uppercase(),
            secret.replace('/', "%2f"),
            percent.clone(),
            percent.replace("%2F", "%2f"),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            utf8_percent_encode(&STANDARD.encode(secret), NON_ALPHANUMERIC).to_string(),
            secret.replace('/', "\\/"),
            secret.replace('/', "&#x2F;"),
        ] {
            body.extend_from_slice(b"\x12\x81");
            body.extend_from_slice(form.as_bytes());
        }
    }
    body
}

#[test]
fn no_form_of_a_secret_is_left_in_bodies_that_are_not_text() {
    let (listener, url) = listen();
    std::thread::spawn(move || echo(&listener, mirrored));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (html, junit, transcript) = (path("r.html"), path("r.xml"), path("r.jsonl"));
    let url = url.replace("http://", "http://someone:pa55%2Fw0rd+x@");
    let set = r#"SyncExtraHeaders={"X-Key":"s3cr3t/HEADER+val"}"#;
    let files = ["--html", &html, "--junit", &junit, "--transcript", &transcript];
    let only = ["--form", "protobuf-gzip", "--only", "HTTP-01,ERR-03", "--verbose", "--set", set];
    let output = run(&url, &[&only[..], &files].concat());
    let [html, junit, transcript] = [html, junit, transcript].map(|path| fs::read(path).unwrap());
    let mut written = vec![output.stdout, output.stderr, html, junit, transcript.clone()];
    let mut masks = 0;
    for line in String::from_utf8(transcript).unwrap().lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let body = entry["response_body"]["base64"].as_str().expect("it is not text");
        let body = STANDARD.decode(body).unwrap();
        masks += body.windows(8).filter(|part| part == b"(secret)").count();
        written.push(body);
    }
    assert!(masks >= 40, "{masks}");
    for bytes in &written {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        for secret in ["s3cr3t", "pa55", "w0rd", "c29tzw9uz", "czmcncm", "cge1ns", "yTU1l"] {
            assert!(!text.contains(&secret.to_lowercase()), "{secret} in {text}");
        }
    }
}

/// A token of letters alone does not look like one.
#[test]
fn a_token_in_the_path_is_a_credential_where_it_is_said_to_be() {
    let token = "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUiOpAsDf";
    let server = server().base_path(&format!("sync/{token}")).start().unwrap();
    let only = ["--only", "ERR-03,HTTP-01", "--json"];
    let unsaid = run(&server.url(), &only);
    assert!(stdout(&unsaid).contains(token));
    let report: Value = serde_json::from_slice(&unsaid.stdout).unwrap();
    assert_eq!(report["results"][1]["verdict"], "not_applicable");

    for short in ["", "sync"] {
        let refused = run(&server.url(), &["--secret", short]);
        assert_eq!(refused.status.code(), Some(64));
        assert!(stderr(&refused).contains("at least 5 bytes"), "{}", stderr(&refused));
    }
    let misspelt = run(&server.url(), &["--only", "HTTP-01", "--secret", "QwErTyUiXXX"]);
    assert!(stderr(&misspelt).contains("1 text of --secret not in the URL"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.jsonl");
    let more = ["--secret", token, "--transcript", file.to_str().unwrap()];
    let said = run(&server.url(), &[&only[..], &more].concat());
    assert_eq!(said.status.code(), Some(0), "{}", stdout(&said));
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["results"][1]["verdict"], "pass", "404 without it: {report}");
    for text in [stdout(&said), stderr(&said), fs::read_to_string(&file).unwrap()] {
        assert!(!text.contains(token), "{text}");
    }
}
