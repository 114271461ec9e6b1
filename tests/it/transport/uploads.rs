//! Bodies on their way: slow, stalled, broken off, and refused before they have
//! arrived.

use std::time::Duration;

use santa_sync::failure::FailureKind;
use santa_sync::model::{ContentEncoding, Stage};
use santa_sync::transport::{AttemptResult, Transport, TransportOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::server::{NOW, answer, options, read_request, transport};

/// Larger than the buffers of a connection: Linux lets them grow to 4 MiB.
const LARGE: usize = 8 << 20;

/// Serves every connection by `serve`, with little room for what it does not
/// read. The server has a thread of its own: one that only runs while the client
/// waits never answers in the middle of a write.
fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = socket.listen(16).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let listener = listener.into_std().expect("a listener");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    });
    port
}

/// Reads a head and nothing of the body beyond what came with it.
async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        stream.read_buf(&mut head).await.expect("a head");
    }
}

fn patient(port: u16, idle: Duration) -> Transport {
    let mut options: TransportOptions = options(port);
    options.content_encoding = ContentEncoding::None;
    options.timeouts.idle = idle;
    transport(options)
}

async fn upload(transport: &Transport, length: usize) -> AttemptResult {
    transport.post(Stage::EventUpload, &vec![b' '; length], None, NOW).await
}

/// HTTP-9: it takes several times the idle timeout, and of its last megabytes
/// the kernel alone knows whether they move.
#[tokio::test]
async fn http_9_a_slow_upload_that_moves_is_not_idle() {
    let port = listen(|mut stream| async move {
        let mut buffer = vec![0; 32 << 10];
        let mut read = 0;
        while read < LARGE {
            read += stream.read(&mut buffer).await.expect("the request");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stream.write_all(&answer(200, "", "{}")).await.expect("an answer");
        std::future::pending::<()>().await;
    });
    let exchange = upload(&patient(port, Duration::from_secs(1)), LARGE).await;
    assert_eq!(exchange.outcome.expect("in time").body, b"{}");
    assert_eq!(exchange.bytes_sent, LARGE as u64);
    assert!(!exchange.upload_unfinished);
}

/// HTTP-9: and what never left the connection is not counted as sent.
#[tokio::test]
async fn http_9_an_upload_that_stalls_is_idle() {
    let port = listen(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    });
    let exchange = upload(&patient(port, Duration::from_millis(300)), LARGE).await;
    assert_eq!(exchange.outcome.expect_err("stalled").kind, FailureKind::IdleTimeout);
    assert!(exchange.upload_unfinished);
    assert!(exchange.bytes_sent > 0);
    assert!(exchange.bytes_sent < LARGE as u64, "{} bytes", exchange.bytes_sent);
}

/// HTTP-9: a server that has read everything and thinks is idle as well, but
/// the upload is not to blame.
#[tokio::test]
async fn http_9_a_server_that_stalls_after_the_body_leaves_no_unfinished_upload() {
    let port = listen(|mut stream| async move {
        read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    });
    let exchange = upload(&patient(port, Duration::from_millis(300)), LARGE).await;
    assert_eq!(exchange.outcome.expect_err("stalled").kind, FailureKind::IdleTimeout);
    assert_eq!(exchange.bytes_sent, LARGE as u64);
    assert_eq!(exchange.upload_unfinished, !cfg!(target_os = "linux"));
}

#[tokio::test]
async fn http_9_a_connection_that_breaks_under_a_large_body_is_an_unfinished_upload() {
    let port = listen(|mut stream| async move { read_head(&mut stream).await });
    let transport = patient(port, Duration::from_secs(30));
    for (length, unfinished) in [(LARGE, true), (65 << 10, true), (1000, false)] {
        let exchange = upload(&transport, length).await;
        let failure = exchange.outcome.expect_err("broken");
        assert_eq!(failure.kind, FailureKind::ConnectionLost, "{length}: {failure}");
        assert_eq!(exchange.upload_unfinished, unfinished, "{length}");
    }
}

/// How a server leaves after it has refused a body that it does not read.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Closes at once, which resets the connection: bytes were not read.
    AtOnce,
    /// Ends its side and reads on for a while.
    Lingering,
    /// Says that it closes, and neither does nor reads.
    Never,
}

async fn refuse(mut stream: TcpStream, leaves: Leaves) {
    read_head(&mut stream).await;
    let refusal = answer(413, "Connection: close\r\n", "at most 64 KiB");
    stream.write_all(&refusal).await.expect("an answer");
    match leaves {
        Leaves::AtOnce => {}
        Leaves::Lingering => {
            stream.shutdown().await.expect("ended");
            let mut buffer = vec![0; 64 << 10];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Leaves::Never => std::future::pending().await,
    }
}

/// HTTP-3: the answer of a server that resets the connection is lost only if it
/// comes in the middle of a write, as on a machine too busy to answer in time.
/// Then the upload counts as unfinished, which has the same remedy.
#[tokio::test]
async fn http_3_an_answer_before_the_request_is_sent_whole_is_read() {
    for (leaves, may_be_lost) in [(Leaves::AtOnce, 25), (Leaves::Lingering, 0), (Leaves::Never, 0)]
    {
        let port = listen(move |stream| refuse(stream, leaves));
        let transport = patient(port, Duration::from_secs(30));
        let mut lost = 0;
        for length in [100, 65 << 10, 1 << 20, LARGE].repeat(10) {
            let exchange = upload(&transport, length).await;
            let failure = exchange.outcome.expect_err("refused");
            if failure.kind == FailureKind::ConnectionLost {
                assert!(exchange.upload_unfinished, "{leaves:?}, {length} bytes: {failure}");
                lost += 1;
            } else {
                assert_eq!(failure.kind, FailureKind::PayloadTooLarge, "{leaves:?}: {failure}");
            }
        }
        assert!(lost <= may_be_lost, "{leaves:?}: {lost} of 40 answers lost");
    }
}
