//! The layers between the host and its server, but for TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, SystemTime};

use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::harness::{AcceptedForms, Encoding, FakeServer, Fault, Preset, Route, every};
use santa_sync::model::Stage;

use super::{Cases, Host};

/// Where nobody listens: no program is given this port by chance.
const NOBODY: &str = "127.0.0.1:1";

/// Answers whatever comes with the same bytes, once a connection; its address.
pub(super) fn answering(answer: impl Into<Vec<u8>>) -> String {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer) = (stream, answer.clone()) else { return };
            thread::spawn(move || {
                let mut request = vec![0; 65536];
                if stream.read(&mut request).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(&answer);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    // Until the other side closes: a close with bytes unread
                    // would take the answer back.
                    let _ = stream.read_to_end(&mut request);
                }
            });
        }
    });
    address
}

fn proxy(at: &str) -> String {
    let (host, port) = at.rsplit_once(':').expect("a port");
    format!(
        r#"SyncProxyConfiguration={{"HTTPSEnable":1,"HTTPSProxy":"{host}","HTTPSPort":{port}}}"#
    )
}

/// HTTP-13: the server, its name, and the proxy on the way to it.
#[test]
fn http_13_who_is_not_reached_is_told_at_its_layer() {
    let mut cases = Cases::default();
    cases.add("nobody listens", &Host::of(&format!("http://{NOBODY}/")), &[]);
    // A label of 64 letters is none, which the resolver knows without asking.
    let host = Host::of(&format!("https://{}.invalid/", "a".repeat(64)));
    cases.add("no such name", &host, &[]);
    let server = "https://sync.example.com/";
    let host = Host::of(server).set(proxy(NOBODY));
    cases.add("a proxy that is not there", &host, &[]);
    for (name, status) in [
        ("a proxy that refuses", "403 Forbidden"),
        ("a proxy that wants credentials", "407 Proxy Authentication Required"),
    ] {
        let at = answering(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        cases.add(name, &Host::of(server).set(proxy(&at)), &[]);
    }
    let at = answering("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    let with_user = proxy(&at).replace('}', r#","HTTPSUser":"me","HTTPSPassword":"wrong"}"#);
    cases.add("a proxy that knows better", &Host::of(server).set(with_user), &[]);
    cases.pin("connection");
}

/// HTTP-2 to HTTP-7: every kind of answer that is none.
#[test]
fn http_2_what_the_server_answers_is_told() {
    let mut cases = Cases::default();
    let status = |code, text: &str| Fault::Status(code, Vec::new(), text.to_owned());
    for (name, fault) in [
        ("401", status(401, "token expired")),
        ("403", status(403, "who are you")),
        ("404", status(404, "")),
        ("413", status(413, "")),
        ("415", status(415, "")),
        ("429", Fault::retry_after(429, "60")),
        ("500", status(500, "zlib: invalid header")),
        ("501", status(501, "")),
        ("503", status(503, "")),
        ("204", status(204, "")),
        ("a redirect", Fault::Redirect("https://elsewhere.example.com/".to_owned())),
        ("a body that breaks off", Fault::Truncate),
        ("a close without an answer", Fault::CloseBeforeResponse),
        ("another protocol", Fault::NotHttp),
        ("an endless header", Fault::EndlessHeader),
        ("corrupt gzip", Fault::CorruptGzip),
        ("an encoding nobody knows", Fault::UnknownEncoding),
        ("an HTML page", Fault::Html),
        ("no JSON", Fault::NotJson),
        ("JSON of another shape", Fault::WrongShape(serde_json::json!({"batch_size": {}}))),
        ("an empty body", Fault::EmptyBody),
    ] {
        let route = Route::from(Stage::Preflight);
        let server = FakeServer::builder().fault(route, every(), fault).start().expect("a server");
        cases.add(name, &Host::of(&server.url()), &[]);
    }
    let plain = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}";
    cases.add("plain text called gzip", &Host::of(&format!("http://{}/", answering(plain))), &[]);
    let server = FakeServer::builder().start().expect("a server");
    let host = Host::of(&server.url()).set("SyncEnableProtoTransfer=true");
    cases.add("protobuf, which it takes", &host, &[]);
    cases.pin("answers");
}

/// Tokens and certificates fail where clocks differ.
#[test]
fn a_clock_that_is_wrong_is_told() {
    let mut cases = Cases::default();
    let now = SystemClock::new().now().wall.as_secs();
    for (name, skew) in [("a little slow", 120), ("far ahead", -4_000), ("far behind", 90_000)] {
        let secs = u64::try_from(now + skew).expect("after 1970");
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        let answer = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 2\r\n\r\n{{}}");
        cases.add(name, &Host::of(&format!("http://{}/", answering(answer))), &[]);
    }
    cases.pin("clock");
}

/// HTTP-5: a server that takes one encoding only, and another configured.
#[test]
fn http_5_the_encoding_the_server_takes_is_found() {
    let mut cases = Cases::default();
    let args = &["--encodings"];
    let server = FakeServer::builder().start().expect("a server");
    cases.add("all are taken", &Host::of(&server.url()), args);
    let server = FakeServer::builder().preset(Preset::Moroz).start().expect("a server");
    let host = Host::of(&server.url()).set("SyncClientContentEncoding=none");
    cases.add("not the one that is configured", &host, args);
    let fault = Fault::Status(503, Vec::new(), String::new());
    let route = Route::from(Stage::Preflight);
    let server = FakeServer::builder().fault(route, every(), fault).start().expect("a server");
    cases.add("none is taken", &Host::of(&server.url()), args);
    // As two real servers are: protobuf with gzip, and nothing else.
    let server = FakeServer::builder()
        .style(|style| {
            style.transfer = AcceptedForms::Protobuf;
            style.request_encodings = vec![Encoding::Gzip];
        })
        .start()
        .expect("a server");
    cases.add("protobuf with gzip alone", &Host::of(&server.url()), args);
    assert_eq!(server.count(Stage::Preflight), 2 * 6, "as many as announced, in both forms");
    cases.pin("encodings");
}
