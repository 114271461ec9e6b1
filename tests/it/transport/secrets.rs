//! Secrets reach the wire and nothing else: everything that is logged at TRACE
//! or shown of errors and values is searched for them.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use santa_sync::model::{Proxy, ProxyServer, ProxySettings, Secret, Stage};
use tracing_subscriber::layer::SubscriberExt as _;

use super::alone::alone;
use super::pki::{Ca, Clients, VERSIONS, listen_tls, options_trusting, server_config};
use super::server::{NOW, Reply, Script, answer, ok, options_for, transport};

/// Each secret carries this mark, so that one search finds them all.
const MARK: &str = "5ecretm4rk";

/// What was written, from every thread of the test.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures all log lines of this thread, on which the test's runtime runs too.
fn capture() -> (Written, tracing::subscriber::DefaultGuard) {
    let written = Written::default();
    let writer = written.clone();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL);
    let subscriber = tracing_subscriber::registry().with(lines);
    (written, tracing::subscriber::set_default(subscriber))
}

fn secret(name: &str) -> String {
    format!("{name}-{MARK}-{name}")
}

/// Issue of the contract: NEVER "send secrets to a log".
#[tokio::test]
async fn never_a_secret_in_logs_errors_or_debug_output() {
    if !alone("secrets::never_a_secret_in_logs_errors_or_debug_output") {
        return;
    }
    let (written, _guard) = capture();
    let mut shown = String::new();

    // TLS and HTTP/2, a client certificate with a password, an extra header, a
    // cookie, a token, and a server that echoes all it was sent.
    let ca = Ca::new("Test CA");
    let leaf = ca.issue("server", &["localhost"]);
    let token = format!("X-XSRF-TOKEN: {}\r\n", secret("token"));
    let cookie = format!("Set-Cookie: session={}; Path=/\r\n", secret("cookie"));
    let echo = format!(
        "you sent {} {} {} {}",
        secret("header"),
        secret("cookie"),
        secret("token"),
        secret("urlpassword")
    );
    let location = format!("Location: https://{}@h/?c={}\r\n", secret("user"), secret("cookie"));
    let script = Script::new([
        Reply::Keep(answer(200, &format!("{cookie}{token}"), "")),
        ok("{}"),
        Reply::Keep(answer(400, &cookie, &echo)),
        Reply::Keep(answer(302, &location, "")),
        Reply::Close(Vec::new()),
    ]);
    let config = server_config(&ca, &leaf, Clients::MayShowCertificate, VERSIONS);
    let port = listen_tls(&script, config).await;
    let mut options =
        options_for(&format!("https://me:{}@localhost:{port}/", secret("urlpassword")));
    let directory = tempfile::tempdir().expect("a directory");
    options.roots = ca.roots();
    let mut certificate = ca.issue("host-1", &[]).write(directory.path());
    certificate.password = Some(Secret::new(secret("certificate")));
    options.client_certificate = Some(certificate);
    options.extra_headers = vec![
        ("X-Api-Key".to_owned(), Secret::new(format!("Bearer {}", secret("header")))),
        ("X-Broken".to_owned(), Secret::new(format!("{}\n", secret("br\noken")))),
    ];
    let _ = write!(shown, "{options:?}");
    let one = transport(options);
    let fetched = one.fetch_token(NOW).await;
    let _ = write!(shown, "{fetched:?}");
    let held = fetched.expect("an answer");
    for stage in Stage::ALL.iter().copied() {
        let exchange = one.post(stage, b"{}", held.as_ref(), NOW).await;
        let _ = write!(shown, "{exchange:?}");
        if let Err(failure) = exchange.outcome {
            let _ = write!(shown, "{failure}");
        }
    }
    let _ = write!(shown, "{one:?} {}", one.url(Stage::Preflight));
    let sent = script.requests();
    assert_eq!(sent.len(), 5);
    assert!(sent[1].head.contains(&secret("token")), "secrets do reach the wire");
    assert!(sent[2].head.contains(&secret("cookie")), "secrets do reach the wire");
    assert!(shown.contains("you sent (secret) (secret) (secret) (secret)"), "{shown}");

    // A proxy with a password, which is not there.
    let mut options = options_trusting(port, &ca);
    options.proxy = Proxy::Configured(Box::new(ProxySettings {
        https: Some(ProxyServer {
            host: "localhost".to_owned(),
            port: 1,
            user: Some("me".to_owned()),
            password: Some(Secret::new(secret("proxy"))),
        }),
        ..ProxySettings::default()
    }));
    let _ = write!(shown, "{options:?}");
    let two = transport(options);
    let _ = write!(shown, "{two:?} {:?}", two.route());
    let _ = write!(shown, "{:?}", two.post(Stage::Preflight, b"{}", None, NOW).await);

    let logged = String::from_utf8(written.0.lock().expect("unpoisoned").clone()).expect("UTF-8");
    assert!(logged.contains("attempt succeeded") && logged.contains("attempt failed"), "{logged}");
    assert!(logged.contains("X-Broken"), "the header left out is named: {logged}");
    for (what, text) in [("logged", &logged), ("shown", &shown)] {
        let found = text.lines().find(|line| line.contains(MARK));
        assert_eq!(found, None, "{what}");
    }
}
