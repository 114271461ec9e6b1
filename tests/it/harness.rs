//! The fake server itself, asked over bare TCP so that nothing of the agent
//! stands between the test and the bytes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use santa_sync::harness::{
    Encoding, FakeServer, Fault, Preset, Route, SyncTypePolicy, Xsrf, fixtures, from, nth, when,
};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;
use serde_json::{Value, json};

/// What came back until the server closed, head and body apart.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

fn send(server: &FakeServer, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").unwrap();
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n").unwrap();
    }
    write!(stream, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = bytes.split_off(end);
    Answer { head: String::from_utf8(bytes).unwrap(), body }
}

fn ask(server: &FakeServer, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    receive(send(server, path, headers, body))
}

fn post(server: &FakeServer, path: &str, body: &Value) -> Answer {
    ask(server, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// All rules a host gets, page by page, as identifiers.
fn download(server: &FakeServer, machine: &str) -> Vec<String> {
    let mut cursor = Value::from("");
    let mut all = Vec::new();
    loop {
        let page = post(server, &format!("ruledownload/{machine}"), &json!({ "cursor": cursor }));
        assert_eq!(page.status(), 200, "{}", String::from_utf8_lossy(&page.body));
        let page = page.json();
        for rule in page["rules"].as_array().unwrap_or(&Vec::new()) {
            all.push(rule["identifier"].as_str().unwrap().to_owned());
        }
        cursor = match page["cursor"].as_number() {
            Some(number) => number.to_string().into(),
            None => page["cursor"].clone(),
        };
        if cursor.is_null() {
            return all;
        }
    }
}

fn identifiers(rules: &[wire::Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule.identifier.clone()).collect()
}

/// A whole sync of a host, and the identifiers of the rules it brought.
fn sync(server: &FakeServer, machine: &str, clean: bool) -> Vec<String> {
    let told = post(
        server,
        &format!("preflight/{machine}"),
        // Any count that says that the host has not lost its rules.
        &json!({"request_clean_sync": clean, "machine_id": machine, "binary_rule_count": 1}),
    );
    assert_eq!(told.status(), 200);
    let rules = download(server, machine);
    let body = json!({"rules_received": rules.len(), "rules_processed": rules.len(),
        "machine_id": machine, "syncType": told.json()["syncType"]});
    assert_eq!(post(server, &format!("postflight/{machine}"), &body).status(), 200);
    rules
}

#[test]
fn a_clean_sync_brings_all_rules_and_a_normal_one_the_changes_since() {
    let rules: Vec<_> = fixtures::rules(25, 7).collect();
    let server = FakeServer::builder().rules(rules.clone()).page_size(10).start().unwrap();
    assert_eq!(sync(&server, "A", true), identifiers(&rules));
    assert_eq!(server.count(Stage::RuleDownload), 3);
    assert_eq!(sync(&server, "A", false), Vec::<String>::new());

    let changes = fixtures::changes(&rules, (2, 1, 1), 8);
    server.queue_changes(changes.clone());
    assert_eq!(sync(&server, "A", false), identifiers(&changes));
    assert_eq!(sync(&server, "A", false), Vec::<String>::new());
    assert_eq!(sync(&server, "B", true).len(), 25);
    assert_eq!(server.rules().len(), 25);
}

#[test]
fn changes_are_sent_again_until_a_postflight_comes() {
    let server = FakeServer::builder().hosts_up_to_date().start().unwrap();
    let news: Vec<_> = fixtures::rules(2, 9).collect();
    assert_eq!(sync(&server, "A", false), Vec::<String>::new());
    server.queue_changes(news.clone());
    for _ in 0..2 {
        post(&server, "preflight/A", &json!({}));
        assert_eq!(download(&server, "A"), identifiers(&news));
    }
    assert_eq!(sync(&server, "A", false), identifiers(&news));
    assert_eq!(sync(&server, "A", false), Vec::<String>::new());
}

#[test]
fn every_style_of_cursor_leads_through_all_pages() {
    use santa_sync::harness::CursorStyle::{Fresh, JsonText, Number, Opaque};
    for style in [Opaque, Fresh, JsonText, Number] {
        for after_last in [false, true] {
            let server = FakeServer::builder()
                .rules(fixtures::rules(20, 1))
                .page_size(10)
                .style(|s| {
                    s.cursor = style;
                    s.cursor_after_last_page = after_last;
                })
                .start()
                .unwrap();
            assert_eq!(sync(&server, "A", true).len(), 20, "{style:?}");
            let pages = if after_last { 3 } else { 2 };
            assert_eq!(server.count(Stage::RuleDownload), pages, "{style:?}");
        }
    }
}

#[test]
fn a_cursor_that_was_never_given_is_refused() {
    let server = FakeServer::builder().rules(fixtures::rules(20, 1)).start().unwrap();
    let answer = post(&server, "ruledownload/A", &json!({"cursor": "made up"}));
    assert_eq!(answer.status(), 400);
    assert!(answer.json()["error"].as_str().unwrap().contains("made up"));
}

#[test]
fn json_and_protobuf_bring_the_same() {
    use prost::Message as _;
    let rules: Vec<_> = fixtures::rules(30, 3).collect();
    let server = FakeServer::builder().rules(rules.clone()).page_size(20).start().unwrap();
    post(&server, "preflight/A", &json!({"request_clean_sync": true}));
    assert_eq!(download(&server, "A"), identifiers(&rules));

    let headers = [("Content-Type", "application/x-protobuf")];
    let mut request = wire::RuleDownloadRequest::default();
    let mut all = Vec::new();
    loop {
        let answer = ask(&server, "ruledownload/A", &headers, &request.encode_to_vec());
        assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
        let page = wire::RuleDownloadResponse::decode(&*answer.body).unwrap();
        all.extend(page.rules);
        if page.cursor.is_empty() {
            break;
        }
        request.cursor = page.cursor;
    }
    assert_eq!(all, rules);
    let last = server.requests(Stage::RuleDownload).pop().unwrap();
    assert_eq!(last.body["cursor"], json!(request.cursor));
}

#[test]
fn events_are_kept_and_counted_for_their_host() {
    let server = FakeServer::builder().start().unwrap();
    let events: Vec<_> = fixtures::events(9, 4).collect();
    let mut body = json!({"machine_id": "A", "events": [], "file_access_events": []});
    for event in &events {
        match event {
            fixtures::AnyEvent::Execution(event) => {
                body["events"].as_array_mut().unwrap().push(json!(event));
            }
            fixtures::AnyEvent::FileAccess(event) => {
                body["file_access_events"].as_array_mut().unwrap().push(json!(event));
            }
        }
    }
    server.request_bundles(vec!["b1".into()]);
    let answer = post(&server, "eventupload/A", &body);
    assert_eq!(answer.json(), json!({"eventUploadBundleBinaries": ["b1"]}));
    assert_eq!(server.events_received(), 9);
    assert_eq!(server.host("A").unwrap().events, 9);
    assert!(events.iter().all(|event| server.events().contains(event)));

    server.refuse_event("/Applications/", 422);
    assert_eq!(post(&server, "eventupload/A", &body).status(), 422);
    server.refuse_no_event();
    assert_eq!(post(&server, "eventupload/A", &body).json(), json!({}));
    assert_eq!(server.events_received(), 18);
}

#[test]
fn counting_only_keeps_neither_events_nor_transcript() {
    let server = FakeServer::builder().count_only().start().unwrap();
    post(&server, "eventupload/A", &json!({"events": [{}, {}], "file_access_events": [{}]}));
    assert_eq!(server.events_received(), 3);
    assert!(server.events().is_empty() && server.transcript().is_empty());
}

#[test]
fn a_fault_strikes_the_request_it_is_scripted_for() {
    let server = FakeServer::builder()
        .fault(Stage::Preflight, nth(2), Fault::retry_after(503, "7"))
        .fault(Stage::Preflight, when("B"), Fault::Redirect("/elsewhere".into()))
        .fault(Stage::Postflight, from(2), Fault::Html)
        .start()
        .unwrap();
    let preflight = |machine: &str| post(&server, &format!("preflight/{machine}"), &json!({}));
    assert_eq!(preflight("A").status(), 200);
    let second = preflight("A");
    assert_eq!((second.status(), second.header("retry-after")), (503, Some("7")));
    assert_eq!(preflight("A").status(), 200);
    let moved = preflight("B");
    assert_eq!((moved.status(), moved.header("location")), (302, Some("/elsewhere")));
    let postflight = || post(&server, "postflight/A", &json!({}));
    assert_eq!(postflight().json(), json!({}));
    assert!(postflight().body.starts_with(b"<!DOCTYPE html>"));
    assert!(postflight().body.starts_with(b"<!DOCTYPE html>"));
    let notes: Vec<_> = server.transcript().into_iter().map(|exchange| exchange.note).collect();
    assert_eq!(notes, ["", "status", "", "redirect", "", "html", "html"]);
}

#[test]
fn answers_break_off_as_scripted() {
    let broken = |fault: Fault| {
        let server = FakeServer::builder()
            .rules(fixtures::rules(10, 1))
            .fault(Stage::RuleDownload, nth(1), fault)
            .start()
            .unwrap();
        post(&server, "preflight/A", &json!({"request_clean_sync": true}));
        let spoilt = post(&server, "ruledownload/A", &json!({}));
        let whole = post(&server, "ruledownload/A", &json!({}));
        assert_eq!(whole.json()["rules"].as_array().unwrap().len(), 10);
        (spoilt, whole)
    };
    let (cut, whole) = broken(Fault::Truncate);
    assert_eq!(cut.header("content-length"), Some(&*whole.body.len().to_string()));
    assert_eq!(cut.body, whole.body[..whole.body.len() / 2]);

    let (cut, _) = broken(Fault::TruncateChunked);
    assert_eq!(cut.header("transfer-encoding"), Some("chunked"));
    assert!(!cut.body.ends_with(b"0\r\n\r\n"));

    let (cut, whole) = broken(Fault::TruncateWithoutLength);
    assert_eq!((cut.header("content-length"), cut.header("transfer-encoding")), (None, None));
    assert_eq!(cut.body, whole.body[..whole.body.len() / 2]);

    let (closed, _) = broken(Fault::CloseBeforeResponse);
    assert_eq!((closed.status(), closed.body.len()), (0, 0));

    let (unframed, whole) = broken(Fault::CloseWithoutLength);
    assert_eq!(unframed.header("content-length"), None);
    assert_eq!(unframed.body, whole.body);

    let (slow, whole) = broken(Fault::SlowBytes(Duration::from_micros(1)));
    assert_eq!(slow.body, whole.body);

    let (words, _) = broken(Fault::NotHttp);
    assert_eq!(words.body, b"220 ready\r\n");

    let (corrupt, whole) = broken(Fault::CorruptGzip);
    let mut out = Vec::new();
    let read = flate2::read::GzDecoder::new(&*corrupt.body).read_to_end(&mut out);
    assert!(read.is_err() || out != whole.body);

    let (bomb, _) = broken(Fault::GzipBomb(1 << 20));
    out.clear();
    flate2::read::GzDecoder::new(&*bomb.body).read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 1 << 20);
}

#[test]
fn endless_answers_do_not_end() {
    for fault in [Fault::EndlessHeader, Fault::EndlessBody] {
        let server =
            FakeServer::builder().fault(Stage::RuleDownload, nth(1), fault).start().unwrap();
        let mut stream = send(&server, "ruledownload/A", &[], b"{}");
        let mut megabytes = vec![0; 8 << 20];
        stream.read_exact(&mut megabytes).unwrap();
    }
}

#[test]
fn cursors_go_astray_as_scripted() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(10, 1))
        .page_size(5)
        .fault(Stage::RuleDownload, nth(2), Fault::RepeatCursor)
        .fault(Stage::RuleDownload, from(3), Fault::EndlessCursor)
        .start()
        .unwrap();
    let page = |cursor: &Value| {
        post(&server, "ruledownload/A", &json!({ "cursor": cursor })).json()["cursor"].clone()
    };
    let first = page(&json!(""));
    assert_eq!(page(&first), first);
    let third = page(&first);
    let fourth = page(&third);
    assert!(third.is_string() && fourth.is_string() && third != fourth);
}

#[test]
fn one_rule_is_broken_and_the_others_are_not() {
    let rules: Vec<_> = fixtures::rules(3, 1).collect();
    let server = FakeServer::builder()
        .rules(rules.clone())
        .fault(Stage::RuleDownload, nth(1), Fault::BrokenRule(1))
        .fault(Stage::RuleDownload, nth(2), Fault::UnknownEnum)
        .fault(Stage::Preflight, nth(1), Fault::UnknownEnum)
        .start()
        .unwrap();
    let broken = download(&server, "A");
    assert_eq!((&broken[0], &broken[2]), (&rules[0].identifier, &rules[2].identifier));
    assert_eq!(broken[1], "not an identifier");
    let page = post(&server, "ruledownload/A", &json!({})).json();
    assert_eq!(page["rules"][0]["policy"], "SOME_LATER_POLICY");
    assert_eq!(page["rules"][1]["identifier"], json!(rules[1].identifier));
    assert_eq!(post(&server, "preflight/A", &json!({})).json()["clientMode"], "SOME_LATER_MODE");
}

#[test]
fn a_held_answer_waits_for_its_release() {
    let server =
        FakeServer::builder().fault(Stage::EventUpload, nth(1), Fault::Hold).start().unwrap();
    let stream = send(&server, "eventupload/A", &[], br#"{"events":[{}]}"#);
    assert!(server.wait_for(Stage::EventUpload, 1, Duration::from_secs(20)));
    assert_eq!(server.events_received(), 1, "the work is done before the answer");
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let nothing = (&stream).read(&mut byte).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    server.release();
    assert_eq!(receive(stream).status(), 200);
}

#[tokio::test]
async fn a_test_may_wait_for_a_request_without_sleeping() {
    let server =
        FakeServer::builder().fault(Stage::Preflight, nth(1), Fault::Stall).start().unwrap();
    let _stalled = send(&server, "preflight/A", &[], b"{}");
    server.reached(Stage::Preflight, 1).await;
    assert_eq!(server.requests(Stage::Preflight)[0].status, None);
    assert!(!server.wait_for(Stage::Preflight, 2, Duration::from_millis(1)));
}

#[test]
fn a_token_is_demanded_given_and_made_stale() {
    let server = FakeServer::builder()
        .style(|style| style.xsrf = Xsrf::Demanded("X-Santa-Token".into()))
        .start()
        .unwrap();
    assert_eq!(post(&server, "preflight/A", &json!({})).status(), 403);
    let fetch = || {
        let answer = ask(&server, "xsrf/A", &[], b"");
        assert_eq!(answer.header("x-xsrf-token-header"), Some("X-Santa-Token"));
        answer.header("x-xsrf-token").unwrap().to_owned()
    };
    let with =
        |token: &str| ask(&server, "preflight/A", &[("X-Santa-Token", token)], b"{}").status();
    let token = fetch();
    assert_eq!(with(&token), 200);
    server.rotate_xsrf();
    assert_eq!(with(&token), 403);
    assert_eq!(with(&fetch()), 200);
    assert_eq!(server.count(Route::Xsrf), 2);
}

#[test]
fn a_cookie_and_a_header_are_demanded() {
    let server = FakeServer::builder()
        .style(|style| {
            style.cookie = Some("session".into());
            style.header = Some(("Authorization".into(), "Bearer t".into()));
        })
        .start()
        .unwrap();
    assert_eq!(post(&server, "preflight/A", &json!({})).status(), 401);
    let key = ("Authorization", "Bearer t");
    let told = ask(&server, "preflight/A", &[key], b"{}");
    let cookie = told.header("set-cookie").unwrap().split(';').next().unwrap();
    assert_eq!(ask(&server, "postflight/A", &[key], b"{}").status(), 401);
    assert_eq!(ask(&server, "postflight/A", &[key, ("Cookie", cookie)], b"{}").status(), 200);
}

fn zlib(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn request_encodings_are_demanded_or_refused() {
    let server = FakeServer::builder()
        .style(|style| style.request_encodings = vec![Encoding::Deflate])
        .start()
        .unwrap();
    let body = zlib(r#"{"request_clean_sync":true}"#);
    assert_eq!(post(&server, "preflight/A", &json!({})).status(), 415);
    let told = ask(&server, "preflight/A", &[("Content-Encoding", "deflate")], &body);
    assert_eq!(told.json()["syncType"], "CLEAN");
    let read = server.requests(Stage::Preflight);
    assert_eq!(read[1].body, json!({"request_clean_sync": true}));
    assert_eq!(read[1].text, r#"{"request_clean_sync":true}"#);
}

#[test]
fn moroz_takes_zlib_only_and_sends_one_page() {
    let server = FakeServer::builder()
        .preset(Preset::Moroz)
        .rules(fixtures::rules(30, 1))
        .page_size(10)
        .base_path("v1/santa")
        .start()
        .unwrap();
    assert!(server.url().ends_with("/v1/santa/"));
    let refused = post(&server, "v1/santa/preflight/A", &json!({}));
    assert_eq!(refused.status(), 500);
    assert_eq!(refused.header("content-type"), Some("text/plain; charset=utf-8"));
    let told = ask(&server, "v1/santa/preflight/A", &[], &zlib(r#"{"request_clean_sync":true}"#));
    let told = told.json();
    assert_eq!((&told["clean_sync"], &told["sync_type"]), (&json!(true), &Value::Null));
    assert_eq!(told["allowed_path_regex"], "");
    let page = ask(&server, "v1/santa/ruledownload/A", &[], b"this is not even read").json();
    assert_eq!(page["rules"].as_array().unwrap().len(), 30);
    assert!(page["rules"][0]["rule_type"].is_string(), "in snake case");
    let answer = ask(&server, "v1/santa/postflight/A", &[], &zlib("{}"));
    assert_eq!(answer.json(), json!({"NoOp": {}}));
    ask(&server, "v1/santa/preflight/A", &[], &zlib("{}"));
    let nothing = ask(&server, "v1/santa/ruledownload/A", &[], b"");
    assert_eq!(nothing.body, br#"{"rules":null}"#);
    assert_eq!(ask(&server, "v1/santa/xsrf/A", &[], b"").status(), 404);
}

#[test]
fn rudolph_wants_the_media_type_to_the_letter_and_ends_on_an_empty_page() {
    const HOST: &str = "5C2F1C8E-6D0A-4B1D-9B39-AAAABBBBCCCC";
    let server = FakeServer::builder()
        .preset(Preset::Rudolph)
        .rules(fixtures::rules(20, 1))
        .page_size(10)
        .start()
        .unwrap();
    let charset = [("Content-Type", "application/json; charset=utf-8")];
    assert_eq!(ask(&server, &format!("preflight/{HOST}"), &charset, b"{}").status(), 415);
    assert_eq!(post(&server, &format!("ruledownload/{HOST}"), &json!({})).status(), 400);
    assert_eq!(post(&server, "preflight/host", &json!({})).status(), 403);
    let told = post(&server, &format!("preflight/{HOST}"), &json!({})).json();
    assert_eq!(told["sync_type"], "clean");
    assert_eq!(download(&server, HOST).len(), 20);
    assert_eq!(server.count(Stage::RuleDownload), 4, "one refused, two pages, one empty");
    let asked = server.requests(Stage::RuleDownload).pop().unwrap();
    let cursor: Value = serde_json::from_str(asked.body["cursor"].as_str().unwrap()).unwrap();
    assert_eq!(cursor["PK"], "Rule#Global");
}

#[test]
fn zentral_checks_the_host_and_commits_only_what_was_processed() {
    const HOST: &str = "5C2F1C8E-6D0A-4B1D-9B39-AAAABBBBCCCC";
    let rules: Vec<_> = fixtures::rules(20, 1).collect();
    let server =
        FakeServer::builder().preset(Preset::Zentral).rules(rules).page_size(10).start().unwrap();
    let facts = json!({"serial_num": "S1", "hostname": "h", "os_version": "15.5",
        "os_build": "24F74", "santa_version": "2025.7", "request_clean_sync": true});
    let refused = post(&server, &format!("preflight/{HOST}"), &json!({}));
    assert_eq!(refused.status(), 400);
    assert!(refused.body.starts_with(b"<!DOCTYPE html>"));
    let told = post(&server, &format!("preflight/{HOST}"), &facts).json();
    assert_eq!(
        (&told["sync_type"], &told["blocked_path_regex"]),
        (&json!("CLEAN"), &json!("(?!)"))
    );
    assert_eq!(download(&server, HOST).len(), 20);
    assert_eq!(server.host(HOST).unwrap().acknowledged.len(), 1);
    let report = |processed: u32, sync_type: &str| {
        let body =
            json!({"rules_received": 20, "rules_processed": processed, "syncType": sync_type});
        post(&server, &format!("preflight/{HOST}"), &facts);
        download(&server, HOST);
        assert_eq!(post(&server, &format!("postflight/{HOST}"), &body).status(), 200);
        server.host(HOST).unwrap().synced
    };
    assert!(!report(19, "CLEAN"));
    assert!(!report(20, "NORMAL"));
    assert!(report(20, "CLEAN_ALL"), "which a client may make of CLEAN");
}

#[test]
fn answers_are_compressed_prefixed_and_named_as_the_style_says() {
    let server = FakeServer::builder()
        .sync_type(SyncTypePolicy::Silent)
        .style(|style| {
            style.response_encoding = santa_sync::harness::ResponseEncoding::Always(Encoding::Gzip);
            style.xssi_prefix = ")]}'\n";
            style.content_type = "text/html".into();
            style.empty_responses = true;
        })
        .start()
        .unwrap();
    let told = post(&server, "preflight/A", &json!({"request_clean_sync": true}));
    assert_eq!(told.header("content-encoding"), Some("gzip"));
    assert_eq!(told.header("content-type"), Some("text/html"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*told.body).read_to_string(&mut text).unwrap();
    let object: Value = serde_json::from_str(text.strip_prefix(")]}'\n").unwrap()).unwrap();
    assert_eq!(object.get("syncType"), None);
    let done = post(&server, "postflight/A", &json!({}));
    assert_eq!((done.status(), done.body.len()), (200, 0));
}

#[test]
fn a_path_that_leads_nowhere_is_a_404_in_the_transcript() {
    let server = FakeServer::builder().base_path("/santa/").start().unwrap();
    for path in ["preflight/A", "santa//preflight/A", "santa/preflight/", "santa/nothing/A"] {
        assert_eq!(post(&server, path, &json!({})).status(), 404, "{path}");
    }
    assert_eq!(post(&server, "santa/preflight/A%2FB?key=1", &json!({})).status(), 200);
    let last = server.transcript().pop().unwrap();
    assert_eq!(last.machine_id, "A/B");
    assert_eq!(last.to_string().split(" B in").next(), Some("preflight A/B 200 2"));
}
