//! What `doctor` tells of certificates, the server's and this host's.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, IsCa};
use santa_sync::clock::{Clock as _, SystemClock};
use time::{Duration, OffsetDateTime};

use super::network::answering;
use super::{Cases, Host, examine, fixture, lines_of};
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

/// A host that trusts that CA and no other.
fn host(url: &str, ca: &Ca) -> Host {
    let host = Host::of(url);
    let roots = host.write("roots.pem", &ca.pem);
    host.set(format!("ServerAuthRootsFile={}", roots.display()))
}

/// The same with that client certificate.
fn with_certificate(host: Host, leaf: &Leaf) -> Host {
    let file = host.write("client.pem", format!("{}{}", leaf.pem, leaf.key_pem));
    host.set(format!("ClientAuthCertificateFile={}", file.display()))
}

/// HTTP-12: whose certificate the server shows, by which roots, for how long,
/// also where it is refused.
#[test]
fn http_12_the_servers_certificate_is_told_with_what_is_wrong_with_it() {
    let mut cases = Cases::default();
    let ca = Ca::new("Example CA");
    let other = Ca::new("Firewall CA");
    let name = "sync server";
    let valid = |from, to| ca.issue_valid(name, &["localhost"], in_days(from), in_days(to));
    for (case, leaf) in [
        ("a good one", valid(-9, 90)),
        ("one that ends soon", valid(-9, 3)),
        ("one of another CA", other.issue(name, &["localhost"])),
        ("one for another name", ca.issue(name, &["sync.example.com"])),
        ("one that has expired", valid(-90, -9)),
        ("one that is not valid yet", valid(9, 90)),
    ] {
        let url = serve(&ca, &leaf, Clients::Anyone);
        cases.add(case, &host(&url, &ca), &[]);
    }
    let plain = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    cases.add("none: the port speaks plain HTTP", &host(&format!("https://{plain}/"), &ca), &[]);
    let url = serve(&ca, &valid(-9, 90), Clients::Anyone);
    let unreadable = Host::of(&url).set("ServerAuthRootsFile=/nowhere/roots.pem");
    cases.add("roots that cannot be read", &unreadable, &[]);
    let unpacked = Host::of(&url);
    let roots = unpacked.write("roots.pem", "no certificate at all");
    let unpacked = unpacked.set(format!("ServerAuthRootsFile={}", roots.display()));
    cases.add("roots that are none", &unpacked, &[]);
    cases.pin("tls");
}

/// HTTP-12: a server that signed its own certificate, with or without `CA:TRUE`, and one
/// whose certificate is pinned: as `doctor` finds them, a sync gets through.
#[test]
fn http_12_a_server_of_its_own_and_a_pinned_one_are_fine_however_they_are_configured() {
    let ca = Ca::new("Example CA");
    let constraints = IsCa::Ca(BasicConstraints::Unconstrained);
    for (own, leaf) in [
        ("its own root", Leaf::self_signed(constraints, &["localhost"], 2020, 2100)),
        ("signed by itself", Leaf::self_signed(IsCa::NoCa, &["localhost"], 2020, 2100)),
        ("pinned", ca.issue("sync server", &["localhost"])),
    ] {
        let url = serve(&ca, &leaf, Clients::Anyone);
        let host = Host::of(&url);
        let file = host.write("server.pem", &leaf.pem);
        let data = format!("ServerAuthRootsData={}", leaf.pem);
        let host = host.set(format!("ServerAuthRootsFile={}", file.display()));
        for (host, key) in [(host, "File"), (Host::of(&url).set(data), "Data")] {
            let report = examine(&host, &[]);
            let lines = lines_of(&report.json).iter();
            let tls: Vec<_> = lines.filter(|line| line["layer"] == "tls").collect();
            assert!(!tls.is_empty(), "{own}, {key}: {}", report.text);
            assert!(tls.iter().all(|line| line["status"] == "ok"), "{own}, {key}: {tls:?}");
            let synced = host.run(&["sync"]);
            assert!(synced.status.success(), "{own}, {key}: {synced:?}");
        }
        // Another server's certificate is no reason to trust this one.
        let other = Leaf::self_signed(IsCa::NoCa, &["localhost"], 2020, 2100);
        let host = Host::of(&url).set(format!("ServerAuthRootsData={}", other.pem));
        assert_eq!(host.run(&["sync"]).status.code(), Some(1), "{own}");
    }
}

/// HTTP-12: the client certificate, asked for, shown, missing, refused.
#[test]
fn http_12_the_client_certificate_is_told_with_who_asked() {
    let mut cases = Cases::default();
    let ca = Ca::new("Example CA");
    let other = Ca::new("Old CA");
    let leaf = ca.issue("sync server", &["localhost"]);
    let asking = serve(&ca, &leaf, Clients::WithCertificate);
    let silent = serve(&ca, &leaf, Clients::Anyone);
    cases.add("asked for, and none configured", &host(&asking, &ca), &[]);
    let valid = |from, to| ca.issue_valid("host-1", &[], in_days(from), in_days(to));
    for (case, url, certificate) in [
        ("asked for and shown", &asking, valid(-9, 90)),
        ("not asked for", &silent, valid(-9, 90)),
        ("one that ends soon", &asking, valid(-9, 3)),
        ("one that has expired", &asking, valid(-90, -9)),
        ("one of another CA", &asking, other.issue("host-1", &[])),
    ] {
        cases.add(case, &with_certificate(host(url, &ca), &certificate), &[]);
    }
    let key = "ClientAuthCertificateFile";
    let missing = host(&asking, &ca).set(format!("{key}=/nowhere/client.p12"));
    cases.add("a file that is not there", &missing, &[]);
    let archive = fixture("certificates/modern.p12");
    let wrong = host(&asking, &ca).set(format!("{key}={archive}"));
    let wrong = wrong.set("ClientAuthCertificatePassword=not-it");
    cases.add("a password that does not open it", &wrong, &[]);
    let keyless = host(&asking, &ca);
    let file = keyless.write("client.pem", &valid(-9, 90).pem);
    let keyless = keyless.set(format!("{key}={}", file.display()));
    cases.add("a certificate without its key", &keyless, &[]);
    cases.pin("client_certificate");
}
