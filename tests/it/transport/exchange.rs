//! What goes over the wire in a plain exchange.

use std::io::Read as _;
use std::time::Duration;

use santa_sync::failure::FailureKind;
use santa_sync::model::{ContentEncoding, Secret, Stage, Transfer};
use santa_sync::transport::ClientCertificate;

use super::server::{NOW, Reply, Script, answer, ok, options, options_for, scripted, transport};

const BODY: &[u8] = b"{\"request_clean_sync\":false,\"hostname\":\"host\"}";

#[tokio::test]
async fn http_1_http_5_a_request_is_sent_as_the_contract_says() {
    let (script, transport) = scripted([ok("{}")]).await;
    for stage in Stage::ALL.iter().copied() {
        let exchange = transport.post(stage, BODY, None, NOW).await;
        assert_eq!(exchange.outcome.expect("an answer").body, b"{}");
        assert_eq!((exchange.http_status, exchange.bytes_received), (Some(200), 2));
        let request = script.requests().pop().expect("a request");
        assert_eq!(exchange.bytes_sent, request.body.len() as u64);
        assert_eq!(
            request.line(),
            format!("POST /santa/{}/HOST%201 HTTP/1.1", stage.segment()),
            "HTTP-1"
        );
        // HTTP-5: a length and no chunks, no charset, deflate in its wrapper.
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("content-encoding"), Some("deflate"));
        assert!(request.header("content-length").is_some());
        assert_eq!(request.header("transfer-encoding"), None);
        assert_eq!(request.header("accept"), Some("application/json"));
        assert_eq!(request.header("accept-encoding"), Some("gzip, deflate"));
        assert_eq!(request.header("expect"), None);
        let mut body = Vec::new();
        flate2::read::ZlibDecoder::new(request.body.as_slice())
            .read_to_end(&mut body)
            .expect("zlib");
        assert_eq!(body, BODY);
    }
    assert_eq!(script.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn http_5_json_3_encoding_and_transfer_are_as_configured() {
    let script = Script::new([ok("")]);
    let port = script.listen().await;
    for (encoding, header) in [(ContentEncoding::Gzip, Some("gzip")), (ContentEncoding::None, None)]
    {
        let mut options = options(port);
        options.content_encoding = encoding;
        options.transfer = Transfer::Protobuf;
        let transport = transport(options);
        let exchange = transport.post(Stage::Preflight, BODY, None, NOW).await;
        assert_eq!(exchange.outcome.expect("an answer").body, b"");
        let request = script.requests().pop().expect("a request");
        assert_eq!(request.header("content-encoding"), header);
        assert_eq!(request.header("content-type"), Some("application/x-protobuf"), "JSON-3");
        assert_eq!(request.body == BODY, header.is_none());
    }
}

#[tokio::test]
async fn http_7_an_empty_body_has_a_length_and_no_encoding() {
    let (script, transport) = scripted([ok("")]).await;
    let exchange = transport.post(Stage::RuleDownload, b"", None, NOW).await;
    assert_eq!(exchange.outcome.expect("an answer").body, b"");
    let request = script.requests().pop().expect("a request");
    assert_eq!(request.header("content-length"), Some("0"));
    assert_eq!(request.header("content-encoding"), None);
}

/// HTTP-10: extra headers go with every request, restricted ones do not, and
/// the User-Agent is ours whatever they say.
#[tokio::test]
async fn http_10_extra_headers_are_sent() {
    let script = Script::new([ok("{}")]);
    let port = script.listen().await;
    let mut options = options(port);
    options.user_agent = "santactl-sync/2025.6 santa-sync/0.1.0".to_owned();
    options.extra_headers = [
        ("Zentral-Authorization", "Bearer abcdef"),
        ("User-Agent", "mine"),
        ("Content-Type", "text/plain"),
        ("HOST", "elsewhere"),
        ("X-Broken", "a\r\nX-Injected: 1"),
        ("Cookie", "mine=1"),
    ]
    .map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())))
    .into();
    let transport = transport(options);
    transport.post(Stage::Preflight, BODY, None, NOW).await.outcome.expect("an answer");
    transport.fetch_token(NOW).await.expect("no token");
    for request in script.requests() {
        assert_eq!(request.header("zentral-authorization"), Some("Bearer abcdef"));
        assert_eq!(request.header("user-agent"), Some("santactl-sync/2025.6 santa-sync/0.1.0"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("host"), Some(format!("localhost:{port}").as_str()));
        assert_eq!(request.header("x-injected"), None);
        assert_eq!(request.header("cookie"), Some("mine=1"));
    }
}

/// HTTP-10: a cookie of one stage comes back with the next, `Secure` or not.
#[tokio::test]
async fn http_10_cookies_live_for_the_transport() {
    let cookie = "Set-Cookie: session=abc123; Path=/; Secure; HttpOnly\r\n";
    let (script, transport) = scripted([Reply::Keep(answer(200, cookie, "{}")), ok("{}")]).await;
    transport.post(Stage::Preflight, BODY, None, NOW).await.outcome.expect("an answer");
    transport.post(Stage::EventUpload, BODY, None, NOW).await.outcome.expect("an answer");
    let cookies: Vec<_> =
        script.requests().iter().map(|r| r.header("cookie").map(str::to_owned)).collect();
    assert_eq!(cookies, [None, Some("session=abc123".to_owned())]);
}

#[tokio::test]
async fn http_4_a_token_is_fetched_and_sent_in_the_header_it_names() {
    for (headers, sent_in) in [
        ("X-XSRF-TOKEN: t0ken-value\r\nX-XSRF-TOKEN-HEADER: X-Other\r\n", "x-other"),
        ("X-XSRF-TOKEN: t0ken-value\r\n", "x-xsrf-token"),
        ("X-XSRF-TOKEN: t0ken-value\r\nX-XSRF-TOKEN-HEADER: Host\r\n", "x-xsrf-token"),
        ("X-XSRF-TOKEN: t0ken-value\r\nX-XSRF-TOKEN-HEADER: \r\n", "x-xsrf-token"),
    ] {
        let (script, transport) = scripted([Reply::Keep(answer(200, headers, "")), ok("{}")]).await;
        let exchange = transport.fetch_token(NOW).await;
        let token = exchange.expect("an answer").expect("a token");
        assert!(!format!("{token:?}").contains("t0ken-value"));
        let answer = transport.post(Stage::Preflight, BODY, Some(&token), NOW).await.outcome;
        answer.expect("an answer");
        let requests = script.requests();
        assert_eq!(requests[0].line(), "POST /santa/xsrf/HOST%201 HTTP/1.1");
        assert_eq!(requests[0].header("content-length"), Some("0"));
        assert_eq!(requests[1].header(sent_in), Some("t0ken-value"), "{headers}");
    }
}

/// HTTP-4: servers without XSRF answer the request for a token with 404, or 200
/// and no token.
#[tokio::test]
async fn http_4_no_token_is_no_token() {
    let (_, transport) = scripted([ok(""), Reply::Keep(answer(404, "", "not here"))]).await;
    assert_eq!(transport.fetch_token(NOW).await, Ok(None));
    let failure = transport.fetch_token(NOW).await.expect_err("404");
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.message.contains("/santa/xsrf/HOST%201"), "{failure}");
}

#[tokio::test]
async fn credentials_of_the_url_go_into_a_header_and_nowhere_else() {
    let script = Script::new([Reply::Keep(answer(401, "", "you sent s3cr3t!"))]);
    let port = script.listen().await;
    let url = format!("http://me:s3cr3t@localhost:{port}/");
    let transport = transport(options_for(&url));
    let exchange = transport.post(Stage::Preflight, BODY, None, NOW).await;
    let failure = exchange.outcome.expect_err("401");
    assert_eq!(failure.kind, FailureKind::Unauthorized);
    assert!(failure.message.contains("you sent (secret)"), "{failure}");
    let request = script.requests().pop().expect("a request");
    assert_eq!(request.line(), "POST /preflight/HOST%201 HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Basic bWU6czNjcjN0"));
    let shown = format!("{transport:?} {failure:?} {}", transport.url(Stage::Preflight));
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[tokio::test]
async fn the_server_s_clock_is_read_from_the_date_header() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/html\r\n";
    let (_, transport) = scripted([Reply::Keep(answer(200, date, "{}"))]).await;
    let answer = transport.post(Stage::Preflight, BODY, None, NOW).await.outcome.expect("answer");
    assert_eq!(answer.server_date.map(|d| d.to_string()).as_deref(), Some("1994-11-06T08:49:37Z"));
    // HTTP-6: the content type is reported, but not trusted.
    assert_eq!(answer.content_type.as_deref(), Some("text/html"));
    assert_eq!(answer.version, "HTTP/1.1");
}

#[tokio::test]
async fn options_show_no_secret() {
    let mut options = options(1);
    options.extra_headers =
        vec![("Authorization".to_owned(), Secret::new("Bearer hidden-1".to_owned()))];
    options.client_certificate = Some(ClientCertificate {
        file: "/etc/client.p12".into(),
        password: Some(Secret::new("hidden-2".to_owned())),
    });
    let shown = format!("{options:?}");
    assert!(!shown.contains("hidden"), "{shown}");
    assert!(shown.contains("Authorization") && shown.contains("/etc/client.p12"), "{shown}");
}

/// Servers drop idle connections after 2 or 3 s. One that has lain idle for
/// longer than 1 s is not used again, so that no request meets the drop.
#[tokio::test]
async fn an_idle_connection_is_not_used_again_after_a_second() {
    let (script, transport) = scripted([ok("{}")]).await;
    transport.post(Stage::Preflight, BODY, None, NOW).await.outcome.expect("an answer");
    // Another server's two bytes take longer than a second to come.
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec();
    let (_, slow) =
        scripted([Reply::Drip(head, b"{}".to_vec(), Duration::from_millis(1100))]).await;
    slow.post(Stage::Preflight, BODY, None, NOW).await.outcome.expect("an answer");
    transport.post(Stage::Postflight, BODY, None, NOW).await.outcome.expect("an answer");
    assert_eq!(script.connections(), 2);
}
