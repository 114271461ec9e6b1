//! Servers that speak HTTP/2, or refuse to.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use santa_sync::failure::{Disposition, Failure, FailureKind, Remedy as _};
use santa_sync::model::Stage;
use santa_sync::transport::Transport;
use tokio::net::TcpStream;

use super::pki::{Ca, Clients, VERSIONS, options_trusting, server_config};
use super::server::{NOW, Script, listener, ok, transport};
#[cfg(feature = "harness")]
use crate::agent::Agent;

/// What came to a server, and how.
type Came = Arc<Mutex<Vec<&'static str>>>;

/// Serves HTTP/2 requests by `respond`, and HTTP/1.1 ones with `{}`.
async fn listen(
    ca: &Ca,
    respond: impl Fn(hyper::Request<h2::RecvStream>, SendResponse<Bytes>) + Send + Clone + 'static,
) -> (u16, Came) {
    let leaf = ca.issue("server", &["localhost"]);
    let mut config = server_config(ca, &leaf, Clients::Anyone, VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listener().await;
    let came = Came::default();
    let seen = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acceptor.clone(), respond.clone(), Arc::clone(&seen)));
        }
    });
    (port, came)
}

async fn serve(
    stream: TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    respond: impl Fn(hyper::Request<h2::RecvStream>, SendResponse<Bytes>),
    came: Came,
) {
    let stream = acceptor.accept(stream).await.expect("TLS");
    let note = |how| came.lock().expect("unpoisoned").push(how);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((request, response))) = connection.accept().await {
            note("HTTP/2");
            respond(request, response);
        }
    } else {
        note("HTTP/1.1");
        Script::new([ok("{}")]).serve(stream).await;
    }
}

fn versions(came: &Came) -> Vec<&'static str> {
    came.lock().expect("unpoisoned").clone()
}

/// HTTP/2: spoken where the server offers it, with the same care for the end.
#[tokio::test]
async fn http_2_http_5_hold_over_http2_too() {
    let ca = Ca::new("Test CA");
    let (port, _) = listen(&ca, |request, mut response| {
        // Rule downloads are cut short.
        let whole = request.uri().path().starts_with("/preflight/");
        let sent = request.headers().get("content-length").expect("HTTP-5: a length");
        assert_eq!(sent, "13");
        let length = if whole { "12" } else { "100" };
        let head = hyper::Response::builder().header("content-length", length).body(());
        let mut body = response.send_response(head.expect("a head"), false).expect("sent");
        body.send_data("{\"rules\":[]}".into(), true).expect("sent");
    })
    .await;
    let transport = transport(options_trusting(port, &ca));
    assert_eq!(transport.pack(b"{}".to_vec()).bytes.len(), 13);
    let answer = transport.post(Stage::Preflight, b"{}", None, NOW).await.outcome;
    let answer = answer.expect("an answer");
    assert_eq!(
        (answer.version.as_str(), answer.body.as_slice()),
        ("HTTP/2.0", &b"{\"rules\":[]}"[..])
    );
    let failure = transport.post(Stage::RuleDownload, b"{}", None, NOW).await.outcome;
    assert_eq!(failure.expect_err("cut").kind, FailureKind::Truncated);
}

/// What a server that requires HTTP/1.1 makes of the first attempt.
pub(super) async fn http_1_1_required() -> Failure {
    let ca = Ca::new("Test CA");
    let (port, _) = listen(&ca, |_, mut response| {
        response.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
    })
    .await;
    let exchange =
        transport(options_trusting(port, &ca)).post(Stage::Preflight, b"{}", None, NOW).await;
    exchange.outcome.expect_err("reset")
}

/// HTTP-3: a failed attempt of its own kind, then HTTP/1.1 at once, for the rest
/// of the sync.
#[tokio::test]
async fn http_3_a_server_that_requires_http_1_1_gets_it_for_the_rest_of_the_sync() {
    let ca = Ca::new("Test CA");
    let (port, came) = listen(&ca, |_, mut response| {
        response.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
    })
    .await;
    let transport = transport(options_trusting(port, &ca));
    let failure = transport.post(Stage::Preflight, b"{}", None, NOW).await.outcome;
    let failure = failure.expect_err("reset");
    assert_eq!(failure.kind, FailureKind::Http11Required, "{failure}");
    assert_eq!(failure.kind.disposition(), Disposition::Retry);
    assert_eq!(failure.retry_after, Some(std::time::Duration::ZERO));
    assert!(failure.with_fix().contains("SyncDisableHTTP2"), "{failure}");
    for stage in Stage::ALL.iter().copied() {
        let answer = transport.post(stage, b"{}", None, NOW).await.outcome.expect("an answer");
        assert_eq!(answer.version, "HTTP/1.1");
    }
    assert_eq!(versions(&came), ["HTTP/2", "HTTP/1.1"], "one kept connection");
}

/// HTTP-3: the record of a whole sync says as many attempts as the server saw.
#[cfg(feature = "harness")]
#[tokio::test]
async fn http_3_the_attempts_of_a_record_are_those_the_server_saw() {
    let ca = Ca::new("Test CA");
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, &ca.pem).expect("write");
    let roots = format!("ServerAuthRootsFile={}", roots.display());
    for (disabled, attempts, seen) in
        [("false", 2, &["HTTP/2", "HTTP/1.1"][..]), ("true", 1, &["HTTP/1.1"])]
    {
        let (port, came) = listen(&ca, |_, mut response| {
            response.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
        })
        .await;
        let agent = Agent::at(&format!("https://localhost:{port}/"));
        let disabled = format!("SyncDisableHTTP2={disabled}");
        let roots = roots.clone();
        let sync = move || agent.sync(&["--set", &roots, "--set", &disabled]);
        let synced = tokio::task::spawn_blocking(sync).await.expect("no panic");
        assert_eq!(synced.result(), "success", "{}", synced.stderr);
        assert_eq!(synced.json["stages"][0]["attempts"], attempts, "{}", synced.json);
        assert_eq!(versions(&came), seen);
    }
}

/// HTTP-4: a request for a token is no attempt of a stage, so it is repeated here.
#[tokio::test]
async fn http_3_http_4_a_token_is_fetched_by_http_1_1_where_that_is_required() {
    let ca = Ca::new("Test CA");
    let (port, came) = listen(&ca, |_, mut response| {
        response.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
    })
    .await;
    let transport = transport(options_trusting(port, &ca));
    assert_eq!(transport.fetch_token(NOW).await, Ok(None));
    assert_eq!(versions(&came), ["HTTP/2", "HTTP/1.1"]);
}

#[tokio::test]
async fn http_3_http2_is_not_spoken_where_it_is_disabled() {
    let ca = Ca::new("Test CA");
    let (port, came) = listen(&ca, |_, _| ()).await;
    let mut options = options_trusting(port, &ca);
    options.disable_http2 = true;
    let transport: Transport = transport(options);
    let answer = transport.post(Stage::Preflight, b"{}", None, NOW).await.outcome;
    assert_eq!(answer.expect("an answer").version, "HTTP/1.1");
    assert_eq!(versions(&came), ["HTTP/1.1"]);
}

/// HTTP-3: HTTP clients like to repeat what a server says it has not looked at.
#[tokio::test]
async fn http_3_one_attempt_is_one_request() {
    let ca = Ca::new("Test CA");
    let (port, came) = listen(&ca, |_, mut response| {
        response.send_reset(h2::Reason::REFUSED_STREAM);
    })
    .await;
    let transport = transport(options_trusting(port, &ca));
    let failure = transport.post(Stage::Preflight, b"{}", None, NOW).await.outcome;
    assert_eq!(failure.expect_err("refused").kind, FailureKind::ConnectionLost);
    assert_eq!(versions(&came), ["HTTP/2"]);
}
