//! TLS on loopback, with certificates of every kind.

use rcgen::IsCa;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use santa_sync::failure::{Failure, FailureKind, Remedy as _};
use santa_sync::model::Stage;
use santa_sync::transport::{ClientCertificate, Roots, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::pki::{Ca, Clients, Leaf, VERSIONS, listen_tls, options_trusting, server_config};
use super::server::{NOW, Reply, Script, answer, listener, ok, options_for, post, transport};

async fn serve(ca: &Ca, leaf: &Leaf, clients: Clients) -> u16 {
    listen_tls(&Script::new([ok("{}")]), server_config(ca, leaf, clients, VERSIONS)).await
}

#[tokio::test]
async fn http_12_a_server_of_the_configured_roots_is_trusted() {
    let ca = Ca::new("Test CA");
    let port = serve(&ca, &ca.issue("server", &["localhost"]), Clients::Anyone).await;
    assert_eq!(post(options_trusting(port, &ca)).await.expect("trusted").body, b"{}");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("roots.pem");
    std::fs::write(&file, format!("# ours\n{}", ca.pem)).expect("write");
    let mut options = options_trusting(port, &ca);
    options.roots = Roots::File(file);
    assert_eq!(post(options).await.expect("trusted").body, b"{}");
}

/// HTTP-12: an address is a name like any other.
#[tokio::test]
async fn http_12_a_certificate_for_an_address_is_trusted() {
    let ca = Ca::new("Test CA");
    let port = serve(&ca, &ca.issue("server", &["127.0.0.1"]), Clients::Anyone).await;
    let mut options = options_for(&format!("https://127.0.0.1:{port}/"));
    options.roots = ca.roots();
    post(options).await.expect("trusted");
}

#[tokio::test]
async fn http_12_a_server_of_nobody_s_is_untrusted() {
    let (ca, other) = (Ca::new("Test CA"), Ca::new("Other CA"));
    let port = serve(&ca, &ca.issue("server", &["localhost"]), Clients::Anyone).await;
    let failure = post(options_trusting(port, &other)).await.expect_err("untrusted");
    assert_eq!(failure.kind, FailureKind::CertificateUntrusted);
    assert!(
        failure.with_fix().contains("not signed by any CA in the roots in ServerAuthRootsData"),
        "{failure}"
    );
    assert!(failure.message.starts_with(&format!("https://localhost:{port}/preflight/")));
}

/// HTTP-12: as `openssl req -x509` makes it, with `CA:TRUE`, and as others do.
#[tokio::test]
async fn http_12_a_server_whose_own_certificate_is_among_the_roots_is_trusted() {
    let unused = Ca::new("Test CA");
    let constraints = rcgen::BasicConstraints::Unconstrained;
    for is_ca in [IsCa::Ca(constraints), IsCa::ExplicitNoCa, IsCa::NoCa] {
        for versions in EACH {
            let own = Leaf::self_signed(is_ca, &["localhost"], 2020, 2100);
            let config = server_config(&unused, &own, Clients::Anyone, versions);
            let port = listen_tls(&Script::new([ok("{}")]), config).await;
            let mut options = options_trusting(port, &unused);
            options.roots = own.roots();
            post(options).await.expect("trusted");
        }
    }
    // Pinned: issued by a CA that is not among the roots.
    let leaf = unused.issue("server", &["localhost"]);
    let port = serve(&unused, &leaf, Clients::Anyone).await;
    let mut options = options_trusting(port, &unused);
    options.roots = leaf.roots();
    post(options).await.expect("trusted");
}

#[tokio::test]
async fn http_12_a_certificate_among_the_roots_is_checked_for_validity_and_name() {
    let unused = Ca::new("Test CA");
    for (hosts, from, to, kind, words) in [
        (&["localhost"][..], 2001, 2002, FailureKind::CertificateExpired, "expired on 2002-01-01"),
        (&["localhost"], 2098, 2099, FailureKind::CertificateExpired, "not valid before 2098-01"),
        (&["other"], 2020, 2100, FailureKind::CertificateWrongName, "is for other only"),
        (&[], 2020, 2100, FailureKind::CertificateWrongName, "no host name (subjectAltName)"),
    ] {
        let own = Leaf::self_signed(IsCa::NoCa, hosts, from, to);
        let port = serve(&unused, &own, Clients::Anyone).await;
        let mut options = options_trusting(port, &unused);
        options.roots = own.roots();
        let failure = post(options).await.expect_err("refused");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.with_fix().contains(words), "{failure}");
    }
}

/// HTTP-12: or whoever has a pinned server's key could be any server.
#[tokio::test]
async fn http_12_a_pinned_certificate_vouches_for_no_other() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["pinned".to_owned()]).expect("params");
    params.is_ca = IsCa::ExplicitNoCa;
    let pinned = params.self_signed(&key).expect("a certificate").pem();
    let impostor = Ca::issuing(params, key).issue("server", &["localhost"]);
    let port = serve(&Ca::new("unused"), &impostor, Clients::Anyone).await;
    let mut options = options_for(&format!("https://localhost:{port}/"));
    options.roots = Roots::Data(pinned.into_bytes());
    let failure = post(options).await.expect_err("untrusted");
    assert_eq!(failure.kind, FailureKind::CertificateUntrusted, "{failure}");
}

#[tokio::test]
async fn http_12_a_ca_as_a_server_is_untrusted_and_the_reason_given() {
    let ca = Ca::new("localhost");
    let constraints = rcgen::BasicConstraints::Unconstrained;
    let own = Leaf::self_signed(IsCa::Ca(constraints), &["localhost"], 2020, 2100);
    let port = serve(&ca, &own, Clients::Anyone).await;
    let failure = post(options_trusting(port, &ca)).await.expect_err("untrusted");
    assert_eq!(failure.kind, FailureKind::CertificateUntrusted);
    let said = failure.with_fix();
    assert!(said.contains("is a CA's own, as a self-signed one may be"), "{said}");
    assert!(said.contains("put it into ServerAuthRootsFile"), "{said}");
    assert!(!said.contains("CaUsedAsEndEntity"), "{said}");
}

/// HTTP-12: what is not a file could hold up a sync for ever.
#[tokio::test]
async fn http_12_a_fifo_in_the_place_of_a_certificate_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let fifo = directory.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it ran").success());
    let mut options = options_for("https://localhost:1/");
    options.roots = Roots::File(fifo.clone());
    let failure = Transport::new(options.clone()).expect_err("a FIFO");
    assert_eq!(failure.kind, FailureKind::RootsUnreadable);
    assert!(failure.with_fix().contains("FIFO"), "{failure}");
    options.roots = Roots::Platform;
    options.client_certificate = Some(ClientCertificate { file: fifo, password: None });
    let failure = Transport::new(options).expect_err("a FIFO");
    assert_eq!(failure.kind, FailureKind::ClientCertificateUnreadable);
    assert!(failure.with_fix().contains("FIFO"), "{failure}");
}

#[tokio::test]
async fn http_12_a_certificate_outside_its_validity_is_expired() {
    let ca = Ca::new("Test CA");
    for (from, to, words) in [
        (2001, 2002, "expired on 2002-01-01T00:00:00Z"),
        (2098, 2099, "not valid before 2098-01-01T00:00:00Z"),
    ] {
        let leaf = ca.issue_between("server", &["localhost"], from, to);
        let port = serve(&ca, &leaf, Clients::Anyone).await;
        let failure = post(options_trusting(port, &ca)).await.expect_err("expired");
        assert_eq!(failure.kind, FailureKind::CertificateExpired);
        assert!(failure.with_fix().contains(words), "{failure}");
        assert!(failure.with_fix().contains("check this host's clock"), "{failure}");
    }
}

#[tokio::test]
async fn http_12_the_host_name_is_verified_always() {
    let ca = Ca::new("Test CA");
    let leaf = ca.issue("server", &["sync.example.com", "b.example.com"]);
    let port = serve(&ca, &leaf, Clients::Anyone).await;
    let failure = post(options_trusting(port, &ca)).await.expect_err("another name");
    assert_eq!(failure.kind, FailureKind::CertificateWrongName);
    assert!(failure.with_fix().contains("sync.example.com"), "{failure}");
    assert!(failure.with_fix().contains("SyncBaseURL"), "{failure}");
}

#[tokio::test]
async fn http_12_roots_that_cannot_be_read_are_no_licence_to_trust_others() {
    let mut options = options_for("https://localhost:1/");
    options.roots = Roots::File("/nonexistent/roots.pem".into());
    let failure = Transport::new(options).expect_err("no roots");
    assert_eq!(failure.kind, FailureKind::RootsUnreadable);
    assert!(failure.with_fix().contains("/nonexistent/roots.pem"), "{failure}");
}

/// Each version alone: they ask for client certificates in different ways.
static EACH: [&[&SupportedProtocolVersion]; 2] = [&[&TLS13], &[&TLS12]];

#[tokio::test]
async fn http_12_a_client_certificate_is_shown_to_a_server_that_asks() {
    let (ca, clients) = (Ca::new("Server CA"), Ca::new("Client CA"));
    let server = ca.issue("server", &["localhost"]);
    let directory = tempfile::tempdir().expect("a directory");
    for versions in EACH {
        let config = server_config(&clients, &server, Clients::WithCertificate, versions);
        let port = listen_tls(&Script::new([ok("{}")]), config).await;
        let mut options = options_trusting(port, &ca);
        options.client_certificate = Some(clients.issue("host-1", &[]).write(directory.path()));
        let transport = transport(options);
        let exchange = transport.post(Stage::Preflight, b"{}", None, NOW).await;
        assert_eq!(exchange.outcome.expect("accepted").body, b"{}", "{versions:?}");
        assert!(transport.client_certificate_asked());
        assert_eq!(transport.client_certificate().map(|c| c.subject.as_str()), Some("host-1"));
    }
}

#[tokio::test]
async fn http_12_a_client_certificate_that_is_asked_for_and_missing_is_named() {
    let (ca, clients) = (Ca::new("Server CA"), Ca::new("Client CA"));
    let server = ca.issue("server", &["localhost"]);
    for versions in EACH {
        let config = server_config(&clients, &server, Clients::WithCertificate, versions);
        let port = listen_tls(&Script::new([ok("{}")]), config).await;
        let failure = post(options_trusting(port, &ca)).await.expect_err("required");
        assert_eq!(failure.kind, FailureKind::ClientCertificateRequired, "{versions:?} {failure}");
        assert!(failure.with_fix().contains("it accepts those of Client CA"), "{failure}");
        assert!(failure.with_fix().contains("set ClientAuthCertificateFile"), "{failure}");
    }
}

async fn refused(certificate: &Leaf, trusted: &Ca) -> Failure {
    let ca = Ca::new("Server CA");
    let server = ca.issue("server", &["localhost"]);
    let directory = tempfile::tempdir().expect("a directory");
    let config = server_config(trusted, &server, Clients::WithCertificate, VERSIONS);
    let port = listen_tls(&Script::new([ok("{}")]), config).await;
    let mut options = options_trusting(port, &ca);
    options.client_certificate = Some(certificate.write(directory.path()));
    let failure = post(options).await.expect_err("refused");
    let file = directory.path().join("client.pem").display().to_string();
    assert!(failure.with_fix().contains(&file), "{failure}");
    failure
}

#[tokio::test]
async fn http_12_a_client_certificate_of_the_wrong_issuer_is_rejected() {
    let (clients, others) = (Ca::new("Client CA"), Ca::new("Other CA"));
    let failure = refused(&others.issue("host-1", &[]), &clients).await;
    assert_eq!(failure.kind, FailureKind::ClientCertificateRejected, "{failure}");
    for words in ["host-1", "issued by Other CA", "2100-01-01", "it accepts those of Client CA"] {
        assert!(failure.with_fix().contains(words), "{words}: {failure}");
    }
}

#[tokio::test]
async fn http_12_an_expired_client_certificate_is_told_from_a_rejected_one() {
    let clients = Ca::new("Client CA");
    let failure = refused(&clients.issue_between("host-1", &[], 2001, 2002), &clients).await;
    assert_eq!(failure.kind, FailureKind::ClientCertificateExpired, "{failure}");
    assert!(failure.with_fix().contains("2002-01-01T00:00:00Z"), "{failure}");
}

/// HTTP-12: the file is read anew for each sync.
#[tokio::test]
async fn http_12_a_renewed_client_certificate_counts_from_the_next_sync() {
    let (ca, clients) = (Ca::new("Server CA"), Ca::new("Client CA"));
    let server = ca.issue("server", &["localhost"]);
    let config = server_config(&clients, &server, Clients::WithCertificate, VERSIONS);
    let port = listen_tls(&Script::new([ok("{}")]), config).await;
    let directory = tempfile::tempdir().expect("a directory");
    let expired = clients.issue_between("host-1", &[], 2001, 2002);
    let mut options = options_trusting(port, &ca);
    options.client_certificate = Some(expired.write(directory.path()));
    let failure = post(options.clone()).await.expect_err("expired");
    assert_eq!(failure.kind, FailureKind::ClientCertificateExpired);
    clients.issue("host-1", &[]).write(directory.path());
    post(options).await.expect("renewed");
}

#[tokio::test]
async fn a_403_says_that_a_client_certificate_was_asked_for_too() {
    let (ca, clients) = (Ca::new("Server CA"), Ca::new("Client CA"));
    let server = ca.issue("server", &["localhost"]);
    let script = Script::new([Reply::Keep(answer(403, "", "no"))]);
    let config = server_config(&clients, &server, Clients::MayShowCertificate, VERSIONS);
    let port = listen_tls(&script, config).await;
    let failure = post(options_trusting(port, &ca)).await.expect_err("403");
    assert_eq!(failure.kind, FailureKind::Forbidden);
    assert!(failure.with_fix().contains("also asked for a client certificate"), "{failure}");
}

#[tokio::test]
async fn http_12_a_client_certificate_that_cannot_be_used_is_found_before_anything_is_sent() {
    let mut options = options_for("https://localhost:1/");
    options.client_certificate =
        Some(ClientCertificate { file: "/nonexistent/client.p12".into(), password: None });
    let failure = Transport::new(options).expect_err("no certificate");
    assert_eq!(failure.kind, FailureKind::ClientCertificateUnreadable);
}

/// Answers the client's hello with these bytes.
pub(crate) async fn raw_server(reply: Vec<u8>) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = vec![0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&reply).await;
            let _ = stream.shutdown().await;
            while stream.read(&mut hello).await.is_ok_and(|read| read > 0) {}
        }
    });
    port
}

/// A server's hello that settles on TLS 1.1.
fn tls_1_1_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x02];
    hello.extend([0x42; 32]);
    hello.extend([0x00, 0xc0, 0x2f, 0x00]);
    let length = u8::try_from(hello.len()).expect("short");
    let mut record = vec![0x16, 0x03, 0x02, 0x00, length + 4, 0x02, 0x00, 0x00, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn http_12_tls_1_1_is_refused() {
    let ca = Ca::new("Test CA");
    // A fatal alert: protocol_version.
    let alert = vec![0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
    for reply in [tls_1_1_hello(), alert] {
        let port = raw_server(reply).await;
        let failure = post(options_trusting(port, &ca)).await.expect_err("TLS 1.1");
        assert_eq!(failure.kind, FailureKind::TlsHandshake, "{failure}");
        assert!(failure.with_fix().contains("TLS 1.2 or later"), "{failure}");
    }
}

#[tokio::test]
async fn a_server_without_tls_behind_an_https_url_is_named() {
    let ca = Ca::new("Test CA");
    let port = raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    let failure = post(options_trusting(port, &ca)).await.expect_err("no TLS");
    assert_eq!(failure.kind, FailureKind::TlsHandshake);
    assert!(failure.with_fix().contains("does not speak TLS"), "{failure}");
}

/// HTTP-2: without a length, only `close_notify` ends a body in good order.
#[tokio::test]
async fn http_2_a_body_cut_without_close_notify_is_truncated() {
    let ca = Ca::new("Test CA");
    let leaf = ca.issue("server", &["localhost"]);
    let bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"rules\":[]}".to_vec();
    for (reply, whole) in [(Reply::Close(bytes.clone()), true), (Reply::Cut(bytes), false)] {
        let config = server_config(&ca, &leaf, Clients::Anyone, VERSIONS);
        let port = listen_tls(&Script::new([reply]), config).await;
        match post(options_trusting(port, &ca)).await {
            Ok(answer) => assert!(whole && answer.body == b"{\"rules\":[]}"),
            Err(failure) => {
                assert!(!whole, "{failure}");
                assert_eq!(failure.kind, FailureKind::Truncated);
            }
        }
    }
}

/// HTTP-9: the connect timeout covers TLS too.
#[tokio::test]
async fn http_9_a_server_that_stalls_in_the_handshake_ends_in_the_connect_timeout() {
    let (_listener, port) = listener().await;
    let mut options = options_trusting(port, &Ca::new("Test CA"));
    options.timeouts.connect = std::time::Duration::from_millis(300);
    let failure = post(options).await.expect_err("stalled");
    assert_eq!(failure.kind, FailureKind::ConnectTimeout);
    assert!(failure.with_fix().contains("within 0.3 s"), "{failure}");
}
