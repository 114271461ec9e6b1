//! Every way an attempt can fail, as an operator gets to read it.

use std::fmt::Write as _;
use std::time::Duration;

use santa_sync::failure::{Failure, FailureKind};
use santa_sync::model::{Proxy, ProxyServer, ProxySettings, Secret, Stage};
use santa_sync::transport::{ClientCertificate, Roots, Transport, TransportOptions};
use strum::VariantArray as _;

use super::http2::http_1_1_required;
use super::pki::{Ca, Clients, Leaf, VERSIONS, listen_tls, options_trusting, server_config};
use super::server::{NOW, Reply, Script, answer, listener, ok, options, options_for};

async fn attempt(options: TransportOptions) -> Failure {
    let transport = match Transport::new(options) {
        Ok(transport) => transport,
        Err(failure) => return failure,
    };
    let exchange = transport.post(Stage::Preflight, b"{}", None, NOW).await;
    exchange.outcome.expect_err("a failure")
}

async fn replied(reply: Reply) -> Failure {
    replied_with(reply, |_| {}).await
}

async fn replied_with(reply: Reply, change: impl FnOnce(&mut TransportOptions)) -> Failure {
    let mut options = options(Script::new([reply]).listen().await);
    options.max_body = 1000;
    change(&mut options);
    attempt(options).await
}

async fn status(status: u16, headers: &str, body: &str) -> Failure {
    replied(Reply::Keep(answer(status, headers, body))).await
}

async fn free_port() -> u16 {
    listener().await.1
}

fn proxied(port: u16) -> Proxy {
    let server = ProxyServer { host: "localhost".to_owned(), port, user: None, password: None };
    Proxy::Configured(Box::new(ProxySettings {
        http: Some(server.clone()),
        https: Some(server),
        ..ProxySettings::default()
    }))
}

async fn of_tls(ca: &Ca, leaf: &Leaf, change: impl FnOnce(&mut TransportOptions)) -> Failure {
    let clients = Clients::WithCertificate;
    let config = server_config(ca, leaf, clients, VERSIONS);
    let mut options = options_trusting(listen_tls(&Script::new([ok("")]), config).await, ca);
    change(&mut options);
    attempt(options).await
}

/// A failure that happens before there is a connection.
async fn before(url: &str, change: impl FnOnce(&mut TransportOptions)) -> Failure {
    let mut options = options_for(url);
    options.roots = Ca::new("Test CA").roots();
    change(&mut options);
    attempt(options).await
}

#[expect(clippy::too_many_lines, reason = "a table")]
async fn every() -> Vec<(&'static str, FailureKind, Failure)> {
    use FailureKind as Kind;
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, content).expect("write");
        file
    };
    let ca = Ca::new("Test CA");
    let other = Ca::new("Other CA");
    let good = ca.issue("server", &["localhost"]);
    let expired = ca.issue_between("server", &["localhost"], 2001, 2002);
    let elsewhere = ca.issue("server", &["sync.example.com"]);
    let (_silent, silent_port) = listener().await;
    // 65 characters are too many for a label.
    let no_label = format!("https://{}.example.com/", "n".repeat(65));
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let drip = Reply::Drip(
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n".to_vec(),
        vec![b' '; 999],
        Duration::from_millis(20),
    );
    let endless = Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: x\r\n".repeat(100));
    let cut = Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec());
    let moved = "Location: https://me:pw@h/login\r\n";
    let expect = |leaf: Leaf, name: &str| {
        let certificate = file(name, &format!("{}{}", leaf.pem, leaf.key_pem));
        move |options: &mut TransportOptions| {
            options.client_certificate =
                Some(ClientCertificate { file: certificate, password: None });
        }
    };
    vec![
        // RFC 6761: resolvers answer for "invalid" themselves.
        ("no such name", Kind::NameNotResolved, before("https://name.invalid/", |_| {}).await),
        ("no name at all", Kind::MalformedUrl, before(&no_label, |_| {}).await),
        (
            "nothing listens",
            Kind::Refused,
            before(&format!("https://localhost:{}/", free_port().await), |_| {}).await,
        ),
        ("no way there", Kind::Unreachable, before("https://255.255.255.255/", |_| {}).await),
        (
            "no handshake",
            Kind::ConnectTimeout,
            before(&format!("https://localhost:{silent_port}/"), |options| {
                options.timeouts.connect = Duration::from_millis(300);
            })
            .await,
        ),
        (
            "stalled",
            Kind::IdleTimeout,
            replied_with(Reply::Stall(Vec::new()), |options| {
                options.timeouts.idle = Duration::from_millis(300);
            })
            .await,
        ),
        (
            "dripping",
            Kind::TotalTimeout,
            replied_with(drip, |options| options.timeouts.total = Duration::from_secs(1)).await,
        ),
        ("closed", Kind::ConnectionLost, replied(Reply::Close(Vec::new())).await),
        ("cut short", Kind::Truncated, replied(cut).await),
        ("another protocol", Kind::NotHttp, replied(Reply::Keep(b"220 mail\r\n".to_vec())).await),
        ("header without end", Kind::HeaderTooLarge, replied(endless).await),
        (
            "proxy not there",
            Kind::ProxyRefused,
            before("https://localhost:1/", |options| options.proxy = proxied(1)).await,
        ),
        ("proxy wants a user", Kind::ProxyCredentials, {
            let port = Script::new([Reply::Keep(answer(407, "", ""))]).listen().await;
            before("https://localhost:1/", |options| options.proxy = proxied(port)).await
        }),
        (
            "untrusted server",
            Kind::CertificateUntrusted,
            of_tls(&ca, &good, |options| options.roots = other.roots()).await,
        ),
        ("expired server", Kind::CertificateExpired, of_tls(&ca, &expired, |_| {}).await),
        ("other server", Kind::CertificateWrongName, of_tls(&ca, &elsewhere, |_| {}).await),
        ("no TLS", Kind::TlsHandshake, {
            let port = super::tls::raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
            before(&format!("https://localhost:{port}/"), |_| {}).await
        }),
        (
            "no client certificate",
            Kind::ClientCertificateRequired,
            of_tls(&ca, &good, |_| {}).await,
        ),
        (
            "client of another CA",
            Kind::ClientCertificateRejected,
            of_tls(&ca, &good, expect(other.issue("host-1", &[]), "other.pem")).await,
        ),
        (
            "expired client",
            Kind::ClientCertificateExpired,
            of_tls(&ca, &good, expect(ca.issue_between("host-1", &[], 2001, 2002), "expired.pem"))
                .await,
        ),
        (
            "client certificate missing",
            Kind::ClientCertificateUnreadable,
            before("https://localhost:1/", |options| {
                let file = "/nonexistent/client.p12".into();
                options.client_certificate = Some(ClientCertificate { file, password: None });
            })
            .await,
        ),
        (
            "client certificate locked",
            Kind::ClientCertificatePassword,
            before("https://localhost:1/", |options| {
                let file = "fixtures/certificates/modern.p12".into();
                let password = Some(Secret::new("wrong".to_owned()));
                options.client_certificate = Some(ClientCertificate { file, password });
            })
            .await,
        ),
        (
            "no roots",
            Kind::RootsUnreadable,
            before("https://localhost:1/", |options| {
                options.roots = Roots::File(file("roots.pem", &key));
            })
            .await,
        ),
        ("301", Kind::Redirected, status(301, moved, "").await),
        ("401", Kind::Unauthorized, status(401, "", "{\"error\": \"bad token\"}").await),
        ("403", Kind::Forbidden, status(403, "", "<html><title>Forbidden</title></html>").await),
        ("404", Kind::NotFound, status(404, "", "").await),
        ("405", Kind::MethodNotAllowed, status(405, "", "").await),
        ("408", Kind::RequestTimeout, status(408, "", "").await),
        ("413", Kind::PayloadTooLarge, status(413, "", "too much").await),
        ("415", Kind::UnsupportedMediaType, status(415, "", "").await),
        ("425", Kind::TooManyRequests, status(425, "", "").await),
        ("429", Kind::TooManyRequests, status(429, "Retry-After: 9\r\n", "slow down").await),
        ("400", Kind::ClientError, status(400, "", "zlib: invalid header").await),
        ("501", Kind::NotImplemented, status(501, "", "").await),
        ("503", Kind::ServerError, status(503, "", &"words ".repeat(100)).await),
        ("204", Kind::UnexpectedStatus, status(204, "", "").await),
        ("HTTP/1.1 required", Kind::Http11Required, http_1_1_required().await),
        ("wrong encoding", Kind::BadEncoding, status(200, "Content-Encoding: br\r\n", "???").await),
        ("too large", Kind::TooLarge, status(200, "", &" ".repeat(1001)).await),
        (
            "no proxy URL",
            Kind::MalformedUrl,
            before("https://localhost:1/", |options| {
                let host = "bad host".to_owned();
                let server = ProxyServer { host, port: 1, user: None, password: None };
                options.proxy = Proxy::Configured(Box::new(ProxySettings {
                    https: Some(server),
                    ..ProxySettings::default()
                }));
            })
            .await,
        ),
    ]
}

/// HTTP-3: one kind a cause, and a message that says where and what to try.
#[tokio::test]
async fn http_3_every_cause_has_its_kind_and_its_message() {
    let mut table = String::new();
    for (cause, kind, failure) in every().await {
        assert_eq!(failure.kind, kind, "{cause}: {failure}");
        let _ = writeln!(table, "{cause}: {}\n    {}", failure.kind, failure.message);
    }
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"localhost:\d{2,}", "localhost:PORT");
    settings.add_filter(r"/\S*/(other|expired|roots)\.pem", "/DIR/$1.pem");
    settings.add_filter(r"cannot be reached \(.*?\)\)", "cannot be reached (REASON)");
    settings.add_filter(r"os error \d+", "os error N");
    settings.bind(|| insta::assert_snapshot!("failures", table));
}

/// HTTP-3: what the transport alone can tell of its failures is all of the
/// kinds but those of bodies, rules and the sync as a whole.
#[tokio::test]
async fn http_3_every_kind_of_the_transport_has_a_cause() {
    let caused: Vec<_> = every().await.into_iter().map(|(_, kind, _)| kind).collect();
    let elsewhere = [
        FailureKind::Html,
        FailureKind::NotJson,
        FailureKind::WrongShape,
        FailureKind::NotProtobuf,
        FailureKind::EmptyBody,
        FailureKind::CursorNotAdvancing,
        FailureKind::TooManyPages,
        FailureKind::TooManyRules,
        FailureKind::ErrorInResponse,
        FailureKind::NoUsableRules,
        FailureKind::Guarded,
        FailureKind::Deadline,
        FailureKind::Cancelled,
        FailureKind::DiskFull,
        FailureKind::Store,
        FailureKind::SimulatorMemory,
    ];
    for kind in FailureKind::VARIANTS {
        assert!(caused.contains(kind) != elsewhere.contains(kind), "{kind}");
    }
}

/// A response for which a simulator has no memory left is told from one that is too large.
#[cfg(feature = "harness")]
#[tokio::test]
async fn http_8_a_response_without_memory_left_has_a_kind_of_its_own() {
    let body = answer(200, "", " ".repeat(100_000));
    let failure = replied_with(Reply::Keep(body), |options| {
        options.max_body = 1 << 20;
        options.response_budget = Some(santa_sync::transport::ResponseBudget::new(64 << 10));
    })
    .await;
    assert_eq!(failure.kind, FailureKind::SimulatorMemory, "{failure}");
    assert!(failure.message.contains("larger than 65536 bytes"), "{failure}");
}

#[tokio::test]
async fn http_3_the_wait_a_server_asks_for_is_handed_on() {
    for (code, header, wait) in [
        (429, "Retry-After: 9\r\n", Some(9)),
        (503, "Retry-After: 9000\r\n", Some(300)),
        (503, "", None),
        (500, "Retry-After: 9\r\n", None),
    ] {
        let failure = status(code, header, "").await;
        assert_eq!(failure.retry_after.map(|wait| wait.as_secs()), wait, "{code} {header}");
        assert_eq!(failure.http_status, Some(code));
    }
}

/// HTTP-3: a redirect is never followed, and the target shown without secrets.
#[tokio::test]
async fn http_3_redirects_are_not_followed() {
    for code in [301, 302, 303, 307, 308] {
        let target = Script::new([ok("{}")]);
        let port = target.listen().await;
        let location = format!("Location: http://me:s3cret@localhost:{port}/preflight\r\n");
        let failure = status(code, &location, "").await;
        assert_eq!(failure.kind, FailureKind::Redirected);
        let shown = format!("redirects to http://m…@localhost:{port}/preflight (status {code})");
        assert!(failure.message.contains(&shown), "{failure}");
        assert_eq!(target.connections(), 0);
    }
}

/// An error's body that does not come is not waited for: the status counts.
#[tokio::test]
async fn http_9_a_status_is_not_lost_to_a_body_that_drips_or_stalls() {
    let head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nno en".to_vec();
    let every = Duration::from_millis(100);
    for reply in [Reply::Stall(head.clone()), Reply::Drip(head, vec![b'!'; 995], every)] {
        let options = options(Script::new([reply]).listen().await);
        let failure = attempt(options).await;
        assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
        assert!(failure.message.contains("no en"), "{failure}");
    }
}

/// The documentation says of every kind what to do about it.
#[test]
fn every_kind_is_documented() {
    let errors = include_str!("../../../docs/errors.md");
    let table = errors.split("## When a sync fails").nth(1).expect("the section");
    for kind in FailureKind::VARIANTS {
        assert!(table.contains(&format!("`{kind}`")), "{kind}");
    }
}
