//! Proxies on loopback: CONNECT and SOCKS 5, with and without credentials.

use std::sync::{Arc, Mutex};

use santa_sync::failure::{Failure, FailureKind, Remedy as _};
use santa_sync::model::{Proxy, ProxyServer, ProxySettings, Secret};
use santa_sync::transport::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use super::pki::{Ca, Clients, VERSIONS, listen_tls, options_trusting, server_config};
use super::server::{Script, answer, listener, ok, options, post, read_request};

pub(crate) const USER: &str = "me@corp";
pub(crate) const PASSWORD: &str = "pa:ss w0rd%";
/// `me@corp:pa:ss w0rd%`
const BASIC: &str = "Basic bWVAY29ycDpwYTpzcyB3MHJkJQ==";

/// What a proxy does with who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Everyone,
    KnownUsers,
    Nobody,
}

/// Where connections were asked to go.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that knows CONNECT.
pub(crate) async fn connect_proxy(policy: Policy, asked: Asked) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let request = read_request(&mut stream, &mut Vec::new()).await?;
                let target = request.line().split(' ').nth(1)?.to_owned();
                asked.lock().expect("unpoisoned").push(request.line().to_owned());
                let known = request.header("proxy-authorization") == Some(BASIC);
                let refusal = match policy {
                    Policy::KnownUsers if !known => "407 Proxy Authentication Required",
                    Policy::Nobody => "403 Forbidden",
                    Policy::Everyone | Policy::KnownUsers => "",
                };
                if !refusal.is_empty() {
                    let head = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(head.as_bytes()).await.ok()?;
                    return None;
                }
                let mut server = TcpStream::connect(target).await.ok()?;
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.ok()?;
                copy_bidirectional(&mut stream, &mut server).await.ok()
            });
        }
    });
    port
}

/// A SOCKS 5 proxy (RFC 1928, RFC 1929).
async fn socks_proxy(policy: Policy, asked: Asked) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(socks(stream, policy, Arc::clone(&asked)));
        }
    });
    port
}

async fn socks(mut stream: TcpStream, policy: Policy, asked: Asked) -> Option<()> {
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).await.ok()?;
    let mut methods = vec![0; greeting[1].into()];
    stream.read_exact(&mut methods).await.ok()?;
    let method = if policy == Policy::KnownUsers { 2 } else { 0 };
    let method = if methods.contains(&method) { method } else { 0xff };
    stream.write_all(&[5, method]).await.ok()?;
    if method == 2 {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.ok()?;
        let mut user = vec![0; head[1].into()];
        stream.read_exact(&mut user).await.ok()?;
        let mut password = vec![0; stream.read_u8().await.ok()?.into()];
        stream.read_exact(&mut password).await.ok()?;
        let known = user == USER.as_bytes() && password == PASSWORD.as_bytes();
        stream.write_all(&[1, u8::from(!known)]).await.ok()?;
        if !known {
            return None;
        }
    }
    let mut request = [0; 5];
    stream.read_exact(&mut request).await.ok()?;
    assert_eq!(request[..4], [5, 1, 0, 3], "CONNECT by name");
    let mut name = vec![0; request[4].into()];
    stream.read_exact(&mut name).await.ok()?;
    let name = String::from_utf8(name).ok()?;
    let port = stream.read_u16().await.ok()?;
    asked.lock().expect("unpoisoned").push(format!("{name}:{port}"));
    let status = if policy == Policy::Nobody { 2 } else { 0 };
    stream.write_all(&[5, status, 0, 1, 127, 0, 0, 1, 0, 0]).await.ok()?;
    if status == 0 {
        let mut server = TcpStream::connect((name, port)).await.ok()?;
        copy_bidirectional(&mut stream, &mut server).await.ok()?;
    }
    Some(())
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Connect,
    Socks,
}

/// Posts to a TLS server through such a proxy, as that user.
async fn through(
    kind: Kind,
    policy: Policy,
    password: Option<&str>,
) -> (Result<Response, Failure>, Vec<String>, u16) {
    let ca = Ca::new("Test CA");
    let leaf = ca.issue("server", &["localhost"]);
    let config = server_config(&ca, &leaf, Clients::Anyone, VERSIONS);
    let server = listen_tls(&Script::new([ok("{}")]), config).await;
    let asked = Asked::default();
    let port = match kind {
        Kind::Connect => connect_proxy(policy, Arc::clone(&asked)).await,
        Kind::Socks => socks_proxy(policy, Arc::clone(&asked)).await,
    };
    let mut options = options_trusting(server, &ca);
    options.proxy = configured(kind, port, password);
    let outcome = post(options).await;
    let asked = asked.lock().expect("unpoisoned").clone();
    (outcome, asked, server)
}

fn configured(kind: Kind, port: u16, password: Option<&str>) -> Proxy {
    let server = ProxyServer {
        host: "localhost".to_owned(),
        port,
        user: password.map(|_| USER.to_owned()),
        password: password.map(|text| Secret::new(text.to_owned())),
    };
    let mut settings = ProxySettings::default();
    match kind {
        Kind::Connect => settings.https = Some(server),
        Kind::Socks => settings.socks = Some(server),
    }
    Proxy::Configured(Box::new(settings))
}

#[tokio::test]
async fn http_13_requests_go_through_the_proxy() {
    let (outcome, asked, server) = through(Kind::Connect, Policy::Everyone, None).await;
    assert_eq!(outcome.expect("through").body, b"{}");
    assert_eq!(asked, [format!("CONNECT localhost:{server} HTTP/1.1")]);
    let (outcome, asked, server) = through(Kind::Socks, Policy::Everyone, None).await;
    assert_eq!(outcome.expect("through").body, b"{}");
    assert_eq!(asked, [format!("localhost:{server}")], "the proxy resolves the name");
}

/// HTTP-13: with characters that URLs would mangle.
#[tokio::test]
async fn http_13_user_and_password_are_given_to_the_proxy() {
    for kind in [Kind::Connect, Kind::Socks] {
        let (outcome, ..) = through(kind, Policy::KnownUsers, Some(PASSWORD)).await;
        assert_eq!(outcome.expect("through").body, b"{}", "{kind:?}");
    }
}

#[tokio::test]
async fn http_13_a_proxy_that_wants_a_user_is_named() {
    for kind in [Kind::Connect, Kind::Socks] {
        for (password, fix) in [
            (None, "set the proxy's user and password"),
            (Some("wrong-password"), "check the proxy's user and password"),
        ] {
            let (outcome, ..) = through(kind, Policy::KnownUsers, password).await;
            let failure = outcome.expect_err("refused");
            assert_eq!(failure.kind, FailureKind::ProxyCredentials, "{kind:?}: {failure}");
            assert!(failure.with_fix().contains(fix), "{kind:?}: {failure}");
            assert!(failure.with_fix().contains("SyncProxyConfiguration"), "{failure}");
            assert!(!format!("{failure:?}").contains("wrong-password"), "{failure}");
        }
    }
}

#[tokio::test]
async fn http_13_a_proxy_that_refuses_is_named() {
    for kind in [Kind::Connect, Kind::Socks] {
        let (outcome, _, server) = through(kind, Policy::Nobody, None).await;
        let failure = outcome.expect_err("refused");
        assert_eq!(failure.kind, FailureKind::ProxyRefused, "{kind:?}: {failure}");
        assert!(failure.with_fix().contains(&format!("allows localhost:{server}")), "{failure}");
    }
}

#[tokio::test]
async fn http_13_a_proxy_that_is_not_there_is_told_from_a_server_that_is_not() {
    for (kind, scheme) in [(Kind::Connect, "http"), (Kind::Socks, "socks5h")] {
        let (listener, port) = listener().await;
        drop(listener);
        let mut options = options_trusting(1, &Ca::new("Test CA"));
        options.proxy = configured(kind, port, None);
        let failure = post(options).await.expect_err("nothing listens");
        assert_eq!(failure.kind, FailureKind::ProxyRefused, "{failure}");
        assert!(failure.with_fix().contains(&format!("{scheme}://localhost:{port}")), "{failure}");
    }
}

#[tokio::test]
async fn http_13_plain_http_goes_to_the_http_proxy_in_absolute_form() {
    let script = Script::new([ok("{}"), super::server::Reply::Keep(answer(407, "", ""))]);
    let port = script.listen().await;
    let mut options = options(1);
    options.proxy = Proxy::Configured(Box::new(ProxySettings {
        http: Some(ProxyServer {
            host: "localhost".to_owned(),
            port,
            user: Some(USER.to_owned()),
            password: Some(Secret::new(PASSWORD.to_owned())),
        }),
        ..ProxySettings::default()
    }));
    assert_eq!(post(options.clone()).await.expect("through").body, b"{}");
    let request = script.requests().pop().expect("a request");
    assert_eq!(request.line(), "POST http://localhost:1/santa/preflight/HOST%201 HTTP/1.1");
    assert_eq!(request.header("proxy-authorization"), Some(BASIC));
    let failure = post(options).await.expect_err("407");
    assert_eq!(failure.kind, FailureKind::ProxyCredentials);
}

/// HTTP-13: the failure of a server behind a proxy is the server's.
#[tokio::test]
async fn http_13_a_certificate_behind_a_proxy_is_verified() {
    let (ca, other) = (Ca::new("Test CA"), Ca::new("Other CA"));
    let leaf = ca.issue("server", &["localhost"]);
    let config = server_config(&ca, &leaf, Clients::Anyone, VERSIONS);
    let server = listen_tls(&Script::new([ok("{}")]), config).await;
    for kind in [Kind::Connect, Kind::Socks] {
        let port = match kind {
            Kind::Connect => connect_proxy(Policy::Everyone, Asked::default()).await,
            Kind::Socks => socks_proxy(Policy::Everyone, Asked::default()).await,
        };
        let mut options = options_trusting(server, &other);
        options.proxy = configured(kind, port, None);
        let failure = post(options).await.expect_err("untrusted");
        assert_eq!(failure.kind, FailureKind::CertificateUntrusted, "{kind:?}: {failure}");
    }
}

/// A proxy that lets everyone pass and resets the connection in the middle of
/// what comes then.
async fn resetting_proxy() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_request(&mut stream, &mut Vec::new()).await.expect("CONNECT");
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.expect("sent");
            stream.readable().await.expect("a hello");
            stream.set_zero_linger().expect("a reset");
        }
    });
    port
}

/// HTTP-13: who cannot know which of the two it was does not blame the proxy.
#[tokio::test]
async fn http_13_a_reset_behind_connect_is_not_called_the_proxy_s() {
    let mut options = options_trusting(1, &Ca::new("Test CA"));
    options.proxy = configured(Kind::Connect, resetting_proxy().await, None);
    let failure = post(options).await.expect_err("reset");
    assert_eq!(failure.kind, FailureKind::ConnectionLost, "{failure}");
    assert!(failure.with_fix().contains("localhost:1 closed the connection"), "{failure}");
}
