//! HTTP-04: servers behind TLS.

use std::sync::Arc;

use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::harness::conformance::{Conformance, Report, Verdict, Waits};
use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::{Config, Sources};
use time::{Duration, OffsetDateTime};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::transport::pki::{Ca, Clients, Leaf, VERSIONS, server_config};

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
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_that_is_missed_when_it_is_left_out() {
    let (ca, dir, server) = (Ca::new("ca"), tempfile::tempdir().unwrap(), server());
    let leaf = ca.issue("server", &["localhost"]);
    let client = ca.issue("probe", &[]).write(dir.path());
    let sets =
        || vec![roots(&ca, &dir), format!("ClientAuthCertificateFile={}", client.file.display())];
    for (clients, expected) in
        [(Clients::WithCertificate, Verdict::Pass), (Clients::MayShowCertificate, Verdict::Fail)]
    {
        let port = tls_before(&server, &ca, &leaf, clients).await;
        let report = report(port, sets()).await;
        let result = report.result("ERR-03").unwrap();
        assert_eq!(result.verdict, expected, "{clients:?}: {}", result.summary);
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
