//! The fake server's faults as the real transport sees them.

use std::time::Duration;

use santa_sync::failure::FailureKind;
use santa_sync::harness::{FakeServer, Fault, fixtures, nth};
use santa_sync::model::{BaseUrl, MachineId, Stage, Timestamp};
use santa_sync::transport::{AttemptResult, Transport, TransportOptions};
use serde_json::json;

/// One rule download from a server with that fault.
async fn download(fault: Fault) -> AttemptResult {
    let slow = matches!(fault, Fault::SlowBytes(_));
    let silent = matches!(fault, Fault::Stall | Fault::Hold);
    let server = FakeServer::builder()
        .rules(fixtures::rules(200, 1))
        .fault(Stage::RuleDownload, nth(1), fault)
        .start()
        .unwrap();
    let base_url = BaseUrl::parse(&server.url()).unwrap();
    let mut options = TransportOptions::new(base_url, MachineId::new("HOST").unwrap());
    options.max_body = 4 << 20;
    // Short where nothing else can end the attempt; a machine may be slow.
    if silent {
        options.timeouts.idle = Duration::from_secs(1);
    } else if slow {
        options.timeouts.total = Duration::from_secs(3);
    }
    let transport = Transport::new(options).unwrap();
    transport.post(Stage::RuleDownload, b"{}", None, Timestamp::from_secs(1_750_000_000)).await
}

/// HTTP-2, HTTP-3, HTTP-6, HTTP-8, HTTP-9: each way to break off, stall, drip,
/// never end or lie ends in its own failure.
#[tokio::test]
async fn every_fault_of_http_is_named_by_the_transport() {
    let expected = [
        (Fault::Truncate, FailureKind::Truncated),
        (Fault::TruncateChunked, FailureKind::Truncated),
        (Fault::CloseBeforeResponse, FailureKind::ConnectionLost),
        (Fault::Stall, FailureKind::IdleTimeout),
        (Fault::Hold, FailureKind::IdleTimeout),
        (Fault::SlowBytes(Duration::from_millis(20)), FailureKind::TotalTimeout),
        (Fault::GzipBomb(64 << 20), FailureKind::TooLarge),
        (Fault::EndlessBody, FailureKind::TooLarge),
        (Fault::EndlessHeader, FailureKind::HeaderTooLarge),
        (Fault::CorruptGzip, FailureKind::BadEncoding),
        (Fault::UnknownEncoding, FailureKind::BadEncoding),
        (Fault::NotHttp, FailureKind::NotHttp),
        (Fault::Redirect("/elsewhere".into()), FailureKind::Redirected),
        (Fault::status(503), FailureKind::ServerError),
        (Fault::status(404), FailureKind::NotFound),
        (Fault::retry_after(429, "7"), FailureKind::TooManyRequests),
    ];
    for (fault, kind) in expected {
        let failure = download(fault.clone()).await.outcome.expect_err(fault.name());
        assert_eq!(failure.kind, kind, "{fault:?}: {failure}");
    }
}

/// HTTP-2: a body whose end only the close tells is complete as far as HTTP
/// goes; that one cut short is not JSON is for the reader of pages to say.
#[tokio::test]
async fn an_answer_without_a_length_is_taken_as_it_came() {
    let whole = download(Fault::Delay(Duration::from_millis(1))).await.outcome.unwrap().body;
    let unframed = download(Fault::CloseWithoutLength).await.outcome.unwrap().body;
    let cut = download(Fault::TruncateWithoutLength).await.outcome.unwrap().body;
    assert_eq!(unframed, whole);
    assert_eq!(cut, whole[..whole.len() / 2]);
}

/// These answers are good HTTP; what they say is for the reader of pages.
#[tokio::test]
async fn faults_of_content_reach_the_reader_of_pages() {
    let body = async |fault: Fault| download(fault).await.outcome.unwrap().body;
    assert_eq!(body(Fault::EmptyBody).await, b"");
    assert!(body(Fault::Html).await.starts_with(b"<!DOCTYPE html>"));
    assert_eq!(body(Fault::NotJson).await, b"rules: none\n");
    assert_eq!(body(Fault::WrongShape(json!({"rules": 3}))).await, br#"{"rules":3}"#);
}
