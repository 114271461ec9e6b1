//! What `doctor` tells of certificates, the server's and this host's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use santa_sync::clock::{Clock as _, SystemClock};
use time::{Duration, OffsetDateTime};

use super::{Host, stable};
use crate::transport::pki::{Ca, Clients, Leaf, VERSIONS, server_config};

/// Serves an empty preflight answer over TLS; answers the URL.
fn serve(ca: &Ca, leaf: &Leaf, clients: Clients) -> String {
    let config = Arc::new(server_config(ca, leaf, clients, VERSIONS));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), config) = (stream, Arc::clone(&config)) else { return };
            thread::spawn(move || {
                let mut tls = rustls::ServerConnection::new(config).expect("a session");
                let mut stream = rustls::Stream::new(&mut tls, &mut stream);
                let mut request = vec![0; 65536];
                // The answer does not depend on what is asked.
                if stream.read(&mut request).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
                    );
                    let _ = stream.flush();
                    let _ = stream.read(&mut request);
                }
            });
        }
    });
    format!("https://localhost:{port}/")
}

fn in_days(days: i64) -> OffsetDateTime {
    let now = SystemClock::new().now().wall.as_secs();
    OffsetDateTime::from_unix_timestamp(now).expect("a time") + Duration::days(days)
}

fn write(host: &Host, name: &str, content: &str) -> PathBuf {
    let path = host.dir.path().join(name);
    fs::write(&path, content).expect("written");
    path
}

/// A host that trusts that CA and no other.
fn host(url: &str, ca: &Ca) -> Host {
    let host = Host::of(url);
    let roots = write(&host, "roots.pem", &ca.pem);
    host.set(format!("ServerAuthRootsFile={}", roots.display()))
}

/// The lines from TLS to HTTP.
fn lines(host: &Host) -> String {
    let text = stable(&host.doctor(&[]));
    let lines: Vec<_> = text
        .lines()
        .skip_while(|line| !line.contains(" tls  "))
        .take_while(|line| !line.contains(" body  "))
        .collect();
    lines.join("\n")
}

fn assert_has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
}

/// HTTP-12: whose certificate, by which roots, for how long.
#[test]
fn http_12_a_trusted_certificate_is_shown_with_its_end() {
    let ca = Ca::new("Example CA");
    let leaf = ca.issue_valid("sync server", &["localhost"], in_days(-9), in_days(90));
    let url = serve(&ca, &leaf, Clients::Anyone);
    assert_has(
        &lines(&host(&url, &ca)),
        &[
            "ok       tls                the server shows \"sync server\", signed by Example CA",
            "89 days left",
            "roots.pem",
            "ok       client certificate none is configured; the server did not ask for one",
            "ok       http ",
        ],
    );
    let leaf = ca.issue_valid("sync server", &["localhost"], in_days(-9), in_days(3));
    let url = serve(&ca, &leaf, Clients::Anyone);
    assert_has(&lines(&host(&url, &ca)), &["warning  tls ", "2 days left", "fix: have the server"]);
}

/// HTTP-12: what is not accepted is shown all the same.
#[test]
fn http_12_a_refused_certificate_is_shown_with_the_reason() {
    let ca = Ca::new("Example CA");
    let other = Ca::new("Firewall CA");
    for (leaf, kind) in [
        (other.issue("sync server", &["localhost"]), "certificate_untrusted"),
        (ca.issue("sync server", &["sync.example.com"]), "certificate_wrong_name"),
        (ca.issue_between("sync server", &["localhost"], 2020, 2021), "certificate_expired"),
    ] {
        let url = serve(&ca, &leaf, Clients::Anyone);
        let host = host(&url, &ca);
        assert_has(
            &lines(&host),
            &[
                "warning  tls                the server shows \"sync server\"",
                "PROBLEM  tls ",
                "skipped  http               the connection is not made",
            ],
        );
        let json = host.doctor(&["--json"]);
        assert_has(&json, &[&format!("\"kind\": \"{kind}\""), "exit 1"]);
    }
}

/// HTTP-12: the client certificate, asked for, shown, missing.
#[test]
fn http_12_the_client_certificate_is_told_with_who_asked() {
    let ca = Ca::new("Example CA");
    let leaf = ca.issue("sync server", &["localhost"]);
    let url = serve(&ca, &leaf, Clients::WithCertificate);
    assert_has(&lines(&host(&url, &ca)), &["PROBLEM  client certificate ", "fix: "]);

    let with = host(&url, &ca);
    let client = ca.issue_valid("host-1", &[], in_days(-9), in_days(90));
    let file = write(&with, "client.pem", &format!("{}{}", client.pem, client.key_pem));
    let with = with.set(format!("ClientAuthCertificateFile={}", file.display()));
    assert_has(
        &lines(&with),
        &[
            "ok       client certificate \"host-1\" by \"Example CA\" from DIR/client.pem",
            "89 days left); the server asked for one",
            "ok       http ",
        ],
    );
}
