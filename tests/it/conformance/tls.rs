//! HTTP-04: servers behind TLS.

use std::sync::Arc;

use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::failure::Remedy as _;
use santa_sync::harness::conformance::{Conformance, Report, Verdict, Waits};
use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::{Config, Sources};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::transport::pki::{Ca, Clients, Leaf, VERSIONS, server_config};
use crate::transport::proxies::{Asked, PASSWORD, Policy, USER, connect_proxy};

/// What a connection in TLS begins with.
const TLS_HANDSHAKE: u8 = 0x16;
const NOT_TLS: &str =
    "HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nTLS!";

/// Ends TLS in front of the fake server, and returns the port.
async fn tls_before(server: &FakeServer, ca: &Ca, leaf: &Leaf, clients: Clients) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(ca, leaf, clients, VERSIONS)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = server.address();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut first = [0];
                let _ = stream.peek(&mut first).await;
                if first != [TLS_HANDSHAKE] {
                    // As nginx and Go's servers do.
                    let mut stream = stream;
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(NOT_TLS.as_bytes()).await;
                    return;
                }
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut upstream = TcpStream::connect(upstream).await.unwrap();
                    // Either side may end it.
                    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
                }
            });
        }
    });
    port
}

async fn report(port: u16, sets: Vec<String>) -> Report {
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap().config;
    Conformance::new(&format!("https://localhost:{port}/"))
        .unwrap()
        .configured(&config)
        .unwrap()
        .waits(Waits::none())
        .only(["HTTP-01", "HTTP-04", "ERR-03", "CLEAN-04"])
        .run()
        .await
        .unwrap()
        .report
}

fn verdicts(report: &Report) -> Vec<(&str, Verdict)> {
    report.results.iter().map(|result| (result.id, result.verdict)).collect()
}

fn roots(ca: &Ca, dir: &tempfile::TempDir) -> String {
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    format!("ServerAuthRootsFile={}", file.display())
}

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap()
}

#[tokio::test]
async fn a_certificate_that_verifies_passes_and_one_that_ends_soon_is_noted() {
    let (ca, dir, server) = (Ca::new("ca"), tempfile::tempdir().unwrap(), server());
    let leaf = ca.issue("server", &["localhost"]);
    let port = tls_before(&server, &ca, &leaf, Clients::Anyone).await;
    let report_of_long = report(port, vec![roots(&ca, &dir)]).await;
    assert_eq!(
        verdicts(&report_of_long),
        [
            ("HTTP-01", Verdict::Pass),
            ("HTTP-04", Verdict::Pass),
            ("CLEAN-04", Verdict::Pass),
            ("ERR-03", Verdict::NotApplicable)
        ]
    );

    let now = SystemClock::new().now().wall.as_secs();
    let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
    let soon =
        ca.issue_valid("server", &["localhost"], now - Duration::days(1), now + Duration::days(9));
    let port = tls_before(&server, &ca, &soon, Clients::Anyone).await;
    let report = report(port, vec![roots(&ca, &dir)]).await;
    let result = report.result("HTTP-04").unwrap();
    assert_eq!(result.verdict, Verdict::Info, "{}", result.summary);
    assert!(result.summary.ends_with("valid for 8 more days"), "{}", result.summary);
}

#[tokio::test]
async fn a_certificate_of_another_authority_fails_and_blocks_the_rest() {
    let (ca, dir, server) = (Ca::new("ca"), tempfile::tempdir().unwrap(), server());
    let stranger = Ca::new("stranger");
    let leaf = stranger.issue("server", &["localhost"]);
    let port = tls_before(&server, &stranger, &leaf, Clients::Anyone).await;
    let report = report(port, vec![roots(&ca, &dir)]).await;
    assert_eq!(report.result("HTTP-04").unwrap().verdict, Verdict::Fail);
    for id in ["HTTP-01", "CLEAN-04"] {
        let result = report.result(id).unwrap();
        assert_eq!((result.verdict, result.blocked_by), (Verdict::NotTested, Some("HTTP-04")));
    }
    let said = &report.result("HTTP-04").unwrap().summary;
    assert!(said.contains("add its CA") && said.contains("ServerAuthRootsFile"), "{said}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_named_in_words_with_what_to_do() {
    let (ca, server) = (Ca::new("ca"), server());
    let constraints = rcgen::BasicConstraints::Unconstrained;
    let own = Leaf::self_signed(rcgen::IsCa::Ca(constraints), &["localhost"], 2020, 2100);
    let port = tls_before(&server, &ca, &own, Clients::Anyone).await;
    let said = report(port, Vec::new()).await.result("HTTP-04").unwrap().summary.clone();
    assert!(said.contains("is a CA's own, as a self-signed one may be"), "{said}");
    assert!(said.contains("put it into ServerAuthRootsFile"), "{said}");
    assert!(!said.contains("OtherError") && !said.contains("CaUsed"), "{said}");
}

/// The verdict on HTTP-04 of a server that speaks something else than the URL says.
async fn of_wrong_scheme(url: &str) -> String {
    let report = Conformance::new(url).unwrap().waits(Waits::none()).run().await.unwrap().report;
    assert_eq!(super::complaints(&report), ["HTTP-04 fail"]);
    assert_eq!(report.ended_early.as_ref().unwrap().not_run, 87);
    let result = report.result("HTTP-04").unwrap();
    assert_eq!(report.result("PRE-01").unwrap().blocked_by, Some("HTTP-04"));
    result.summary.clone()
}

#[tokio::test]
async fn a_url_of_the_wrong_scheme_is_said_to_be_one() {
    let (ca, server) = (Ca::new("ca"), server());
    let leaf = ca.issue("server", &["localhost"]);
    let port = tls_before(&server, &ca, &leaf, Clients::Anyone).await;
    let said = of_wrong_scheme(&format!("http://localhost:{port}/")).await;
    assert!(said.contains("speaks TLS") && said.contains("begin it with https://"), "{said}");

    // This one ends the connection instead of answering.
    let plain = FakeServer::builder().tls().start().unwrap();
    let url = plain.url().replace("https://", "http://");
    let said = of_wrong_scheme(&url).await;
    assert!(said.contains("speaks TLS") && said.contains("begin it with https://"), "{said}");

    let port = server.address().port();
    let said = of_wrong_scheme(&format!("https://localhost:{port}/")).await;
    assert!(said.contains("plain HTTP") && said.contains("begin it with http://"), "{said}");
}

/// The keys of a proxy for https on this port, with what else is given.
fn proxy(port: u16, more: &str) -> String {
    format!(
        "SyncProxyConfiguration={{\"HTTPSEnable\":1,\"HTTPSProxy\":\"localhost\",\"HTTPSPort\":{port}{more}}}"
    )
}

#[tokio::test]
async fn an_http_proxy_is_gone_through_with_its_user() {
    let (ca, dir, server) = (Ca::new("ca"), tempfile::tempdir().unwrap(), server());
    let leaf = ca.issue("server", &["localhost"]);
    let port = tls_before(&server, &ca, &leaf, Clients::Anyone).await;
    let asked = Asked::default();
    let way = connect_proxy(Policy::KnownUsers, Arc::clone(&asked)).await;
    let user = format!(",\"HTTPSUser\":\"{USER}\",\"HTTPSPassword\":\"{PASSWORD}\"");
    let report = report(port, vec![roots(&ca, &dir), proxy(way, &user)]).await;
    assert_eq!(super::complaints(&report), [""; 0]);
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|line| *line == format!("CONNECT localhost:{port} HTTP/1.1")));
    assert!(server.count(santa_sync::model::Stage::Preflight) > 0);
}

#[tokio::test]
async fn a_proxy_that_cannot_be_gone_through_is_named_with_what_to_do() {
    let (ca, server) = (Ca::new("ca"), server());
    let leaf = ca.issue("server", &["localhost"]);
    let port = tls_before(&server, &ca, &leaf, Clients::Anyone).await;
    let refuses = connect_proxy(Policy::Nobody, Asked::default()).await;
    let http = format!(
        "SyncProxyConfiguration={{\"HTTPEnable\":1,\"HTTPProxy\":\"localhost\",\"HTTPPort\":{refuses}}}"
    );
    let socks = format!(
        "SyncProxyConfiguration={{\"SOCKSEnable\":1,\"SOCKSProxy\":\"localhost\",\"SOCKSPort\":{refuses}}}"
    );
    let https = format!("https://localhost:{port}/");
    for (url, set, what, fix) in [
        (&https, proxy(refuses, ""), "status 403 to CONNECT", "that it allows connections"),
        (&https, socks, "is a SOCKS proxy: agents can use it", "ExceptionsList"),
        (&server.url(), http, "is for an http:// server: agents can use it", "ExceptionsList"),
    ] {
        let config = Config::load(&Sources { sets: vec![set], ..Sources::default() }).unwrap();
        let conformance = Conformance::new(url).unwrap().configured(&config.config).unwrap();
        let error = conformance.run().await.unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.fix().unwrap().contains(fix), "{:?}", error.fix());
    }
    assert_eq!(server.hosts(), [""; 0], "nothing was sent past the proxy");
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_that_is_missed_when_it_is_left_out() {
    let (ca, dir, server) = (Ca::new("ca"), tempfile::tempdir().unwrap(), server());
    let leaf = ca.issue("server", &["localhost"]);
    let client = ca.issue("probe", &[]).write(dir.path());
    let sets =
        || vec![roots(&ca, &dir), format!("ClientAuthCertificateFile={}", client.file.display())];
    for (clients, expected, said) in [
        (Clients::WithCertificate, Verdict::Pass, ""),
        (
            Clients::MayShowCertificate,
            Verdict::Fail,
            "preflight without its credential (client certificate): 200",
        ),
        (
            Clients::WithAnyCertificate,
            Verdict::Fail,
            "preflight with a wrong one (client certificate): 200",
        ),
    ] {
        let port = tls_before(&server, &ca, &leaf, clients).await;
        let report = report(port, sets()).await;
        let result = report.result("ERR-03").unwrap();
        assert_eq!((result.verdict, &*result.summary), (expected, said), "{clients:?}");
        assert_eq!(report.result("HTTP-01").unwrap().verdict, Verdict::Pass);
    }
}

#[tokio::test]
async fn plain_http_to_another_host_fails_http_04_and_nothing_else() {
    let server = server();
    // It leads to this host, and no agent takes it for loopback.
    let url = format!("http://0.0.0.0:{}/", server.address().port());
    let conformance = Conformance::new(&url).unwrap().waits(Waits::none()).without_slow();
    let done = conformance.run().await.unwrap();
    assert_eq!(super::complaints(&done.report), ["HTTP-04 fail"]);
}
