//! Servers that break off, stall, drip, never end or send what they should not:
//! each ends in the named failure within its limit.

use std::time::Duration;

use flate2::Compression;
use flate2::read::GzEncoder;
use santa_sync::failure::{Failure, FailureKind, Remedy as _};
use santa_sync::model::Stage;
use santa_sync::transport::TransportOptions;

use super::server::{NOW, Reply, Script, answer, bomb, compressed, ok, options, transport};

/// What a transport makes of that reply to its only request.
async fn failure(reply: Reply, change: impl FnOnce(&mut TransportOptions)) -> Failure {
    let script = Script::new([reply]);
    let mut options = options(script.listen().await);
    change(&mut options);
    let exchange = transport(options).post(Stage::RuleDownload, b"{}", None, NOW).await;
    let failure = exchange.outcome.expect_err("a failure");
    assert!(failure.with_fix().contains("/santa/ruledownload/HOST%201"), "{failure}");
    assert!(failure.with_fix().contains("; "), "no advice: {failure}");
    failure
}

async fn kind(reply: Reply) -> FailureKind {
    failure(reply, |_| {}).await.kind
}

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"rules\":[";

#[tokio::test]
async fn http_2_a_body_short_of_its_content_length_is_truncated() {
    assert_eq!(kind(Reply::Close(HALF.into())).await, FailureKind::Truncated);
}

#[tokio::test]
async fn http_2_a_body_cut_between_or_within_chunks_is_truncated() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in
        ["", "2\r\n{}", "2\r\n{}\r\n", "2\r\n{}\r\n0\r\n", "ff\r\n{\"rules\":[\r\n", "zz\r\n"]
    {
        let reply = Reply::Close(format!("{head}{body}").into());
        assert_eq!(kind(reply).await, FailureKind::Truncated, "{body:?}");
    }
}

/// HTTP-2: without a length only the compressed data itself can tell.
#[tokio::test]
async fn http_2_gzip_cut_short_without_a_length_is_truncated() {
    let wire = compressed(GzEncoder::new(&b"{\"rules\":[]}"[..], Compression::default()));
    let head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let cut = [&head[..], &wire[..wire.len() - 5]].concat();
    assert_eq!(kind(Reply::Close(cut)).await, FailureKind::Truncated);
    let whole = Script::new([Reply::Close([&head[..], &wire].concat())]);
    let transport = transport(options(whole.listen().await));
    let exchange = transport.post(Stage::RuleDownload, b"{}", None, NOW).await;
    assert_eq!(exchange.bytes_received, wire.len() as u64);
    assert_eq!(exchange.outcome.expect("whole").body, b"{\"rules\":[]}");
}

#[tokio::test]
async fn http_3_a_connection_closed_without_an_answer_is_lost() {
    for begun in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let failure = failure(Reply::Close(begun.into()), |_| {}).await;
        assert_eq!(failure.kind, FailureKind::ConnectionLost, "{begun:?}: {failure}");
    }
}

#[tokio::test]
async fn http_9_a_server_that_stalls_ends_in_the_idle_timeout() {
    for begun in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
    ] {
        let hasty =
            |options: &mut TransportOptions| options.timeouts.idle = Duration::from_millis(300);
        let failure = failure(Reply::Stall(begun.into()), hasty).await;
        assert_eq!(failure.kind, FailureKind::IdleTimeout, "{begun:?}: {failure}");
        assert!(failure.with_fix().contains("for 0.3 s"), "{failure}");
    }
}

/// HTTP-9: a byte now and then keeps an attempt alive, but not for ever.
#[tokio::test]
async fn http_9_a_server_that_drips_ends_in_the_total_timeout() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n".to_vec();
    let reply = Reply::Drip(head, vec![b' '; 10_000], Duration::from_millis(20));
    let failure = failure(reply, |options| options.timeouts.total = Duration::from_secs(1)).await;
    assert_eq!(failure.kind, FailureKind::TotalTimeout, "{failure}");
    assert!(failure.with_fix().contains("after 1 s"), "{failure}");
}

/// HTTP-9: 128 MiB that arrive as 128 KiB take a while to decode. The limit is
/// kept in between.
#[tokio::test]
async fn http_9_decoding_does_not_hold_up_the_total_timeout() {
    let bomb = bomb(128 << 20);
    let reply = Reply::Keep(answer(200, "Content-Encoding: gzip\r\n", bomb));
    let limit = Duration::from_millis(20);
    let began = tokio::time::Instant::now();
    let failure = failure(reply, |options| options.timeouts.total = limit).await;
    assert_eq!(failure.kind, FailureKind::TotalTimeout, "{failure}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// SYNC-6: as many and as long cookies as are kept are looked for in an error
/// that is all cuts.
#[tokio::test]
async fn sync_6_a_hostile_error_costs_little_time() {
    let value = "x".repeat(8000);
    let cookies = |numbers: std::ops::Range<u8>| -> String {
        numbers.fold(String::new(), |headers, number| {
            headers + &format!("Set-Cookie: c{number}={number}{value}\r\n")
        })
    };
    let cuts = "…".repeat((16 << 10) / 3);
    let replies = [answer(500, &cookies(0..32), ""), answer(500, &cookies(32..64), cuts)];
    let script = Script::new(replies.map(Reply::Keep));
    let transport = transport(options(script.listen().await));
    let began = tokio::time::Instant::now();
    for _ in 0..2 {
        let exchange = transport.post(Stage::Preflight, b"{}", None, NOW).await;
        assert_eq!(exchange.http_status, Some(500), "{exchange:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn http_9_a_stalled_token_request_ends_in_its_own_timeout() {
    let script = Script::new([Reply::Stall(Vec::new())]);
    let mut options = options(script.listen().await);
    options.timeouts.xsrf = Duration::from_millis(300);
    let failure = transport(options).fetch_token(NOW).await.expect_err("stalled");
    assert_eq!(failure.kind, FailureKind::TotalTimeout);
    assert!(failure.with_fix().contains("/santa/xsrf/"), "{failure}");
}

#[tokio::test]
async fn http_8_an_endless_header_ends_at_its_limit() {
    let begun = b"HTTP/1.1 200 OK\r\n".to_vec();
    for piece in [b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(50), vec![b'a'; 4096]] {
        let reply = Reply::Endless(begun.clone(), piece);
        assert_eq!(kind(reply).await, FailureKind::HeaderTooLarge);
    }
}

#[tokio::test]
async fn http_8_an_endless_body_ends_at_its_limit() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2),
    ] {
        let reply = Reply::Endless(head.into_bytes(), vec![b' '; 4096]);
        let failure = failure(reply, |options| options.max_body = 1 << 20).await;
        assert_eq!(failure.kind, FailureKind::TooLarge, "{failure}");
        assert!(failure.with_fix().contains("larger than 1048576 bytes"), "{failure}");
    }
}

#[tokio::test]
async fn http_8_the_limit_itself_is_not_too_large() {
    let script = Script::new([ok(" ".repeat(1000)), ok(" ".repeat(1001))]);
    let mut options = options(script.listen().await);
    options.max_body = 1000;
    let transport = transport(options);
    let exchange = transport.post(Stage::RuleDownload, b"{}", None, NOW).await;
    assert_eq!(exchange.outcome.expect("at the limit").body.len(), 1000);
    let exchange = transport.post(Stage::RuleDownload, b"{}", None, NOW).await;
    assert_eq!(exchange.outcome.expect_err("past it").kind, FailureKind::TooLarge);
}

#[tokio::test]
async fn http_6_an_encoding_that_is_not_known_or_not_true_is_named() {
    for (encoding, body, words) in [
        ("br", "{\"rules\":[]}", "\"br\""),
        ("gzip", "{\"rules\":[]}", "not gzip although its header says so"),
        ("gzip", "{}", "not gzip although its header says so"),
        ("deflate", "{\"rules\":[]}", "not deflate although its header says so"),
        ("deflate", "no deflate data at all", "corrupt deflate data"),
    ] {
        let headers = format!("Content-Encoding: {encoding}\r\n");
        let reply = Reply::Keep(answer(200, &headers, body));
        let failure = failure(reply, |_| {}).await;
        assert_eq!(failure.kind, FailureKind::BadEncoding, "{failure}");
        assert!(failure.with_fix().contains(words), "{failure}");
        assert_eq!(failure.http_status, Some(200));
    }
}

#[tokio::test]
async fn what_is_not_http_is_named() {
    for greeting in ["SSH-2.0-OpenSSH_9.6\r\n", "220 mail.example.com ESMTP\r\n"] {
        assert_eq!(kind(Reply::Keep(greeting.into())).await, FailureKind::NotHttp, "{greeting}");
    }
}
