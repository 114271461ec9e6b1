//! The limits hold in memory as well: the peak of a process that does nothing
//! else is measured. To see the figures:
//! `SANTA_SYNC_TEST_ALONE=1 cargo nextest run memory:: --no-capture`.

use santa_sync::failure::FailureKind;
use santa_sync::model::Stage;

use super::alone::alone;
use super::server::{NOW, Reply, Script, bomb, ok, options, scripted, transport};

const LIMIT: usize = 32 << 20;
/// Buffers of sockets and decoders, and what the allocator keeps.
const ALLOWANCE: u64 = 8 << 20;

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("KiB") * 1024
}

/// How far the resident memory rises above what it is while `work` runs.
async fn peak_of(work: impl Future<Output = ()>) -> u64 {
    // What any exchange needs is there before, the pages of the program too.
    let (_, transport) = scripted([ok("{}")]).await;
    transport.post(Stage::RuleDownload, b"{}", None, NOW).await.outcome.expect("an answer");
    // 5 resets the peak to the present size: proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").expect("clear_refs");
    let before = status("VmRSS:");
    work.await;
    status("VmHWM:").saturating_sub(before)
}

async fn answered_with(head: &str, piece: Vec<u8>) {
    let script = Script::new([Reply::Endless(head.as_bytes().to_vec(), piece)]);
    let mut options = options(script.listen().await);
    options.max_body = LIMIT;
    let exchange = transport(options).post(Stage::RuleDownload, b"{}", None, NOW).await;
    let failure = exchange.outcome.expect_err("no end");
    assert_eq!(failure.kind, FailureKind::TooLarge, "{failure}");
}

/// HTTP-8: rules without end, plain and as a gzip bomb of 1000 to 1.
#[tokio::test]
async fn http_8_answers_without_end_cost_no_more_than_the_limit() {
    if !alone("memory::http_8_answers_without_end_cost_no_more_than_the_limit") {
        return;
    }
    let bomb = bomb(4 << 20);
    let gzip = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n";
    let rule = b"{\"identifier\":\"ABCDEFGHIJ\",\"rule_type\":\"TEAMID\"},".repeat(1000);
    for (head, piece) in [("HTTP/1.1 200 OK\r\n\r\n", rule), (gzip, bomb)] {
        let peak = peak_of(answered_with(head, piece)).await;
        println!("peak above the start: {} KiB, limit {} KiB", peak >> 10, LIMIT >> 10);
        // A vector that grows is there twice for a moment.
        assert!(peak < LIMIT as u64 * 3 / 2 + ALLOWANCE, "{head}: {} MiB", peak >> 20);
    }
}

/// HTTP-8: a header without end costs next to nothing.
#[tokio::test]
async fn http_8_a_header_without_end_costs_next_to_nothing() {
    if !alone("memory::http_8_a_header_without_end_costs_next_to_nothing") {
        return;
    }
    let peak = peak_of(async {
        let reply = Reply::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 4096]);
        let script = Script::new([reply]);
        let transport = transport(options(script.listen().await));
        let exchange = transport.post(Stage::RuleDownload, b"{}", None, NOW).await;
        assert_eq!(exchange.outcome.expect_err("no end").kind, FailureKind::HeaderTooLarge);
    })
    .await;
    println!("peak above the start: {} KiB", peak >> 10);
    assert!(peak < ALLOWANCE, "{} MiB", peak >> 20);
}

fn of_header(name: &str, value: &str) -> String {
    format!("HTTP/1.1 500 No\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n")
}

/// HTTP-8: what comes beside the body of an answer costs next to nothing, each
/// of it many times in one sync.
#[tokio::test]
async fn http_8_what_comes_beside_a_body_costs_next_to_nothing() {
    if !alone("memory::http_8_what_comes_beside_a_body_costs_next_to_nothing") {
        return;
    }
    let once = |text: String| Reply::Close(text.into_bytes());
    let long = "x".repeat(300 << 10);
    let endless = |head: &str, piece: Vec<u8>| Reply::Endless(head.as_bytes().to_vec(), piece);
    let bomb = bomb(4 << 20);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, reply) in [
        ("cookies", once(of_header("Set-Cookie", &format!("a={}", "x".repeat(8000))))),
        ("a long cookie", once(of_header("Set-Cookie", &format!("a={long}")))),
        ("a long token", once(of_header("X-XSRF-TOKEN", &long))),
        ("a long way", once(of_header("Location", &long).replace("500 No", "301 Away"))),
        ("a long wait", once(of_header("Retry-After", &long).replace("500 No", "503 Wait"))),
        ("a long encoding", once(of_header("Content-Encoding", &long).replace("500 No", "200 OK"))),
        ("a bomb in an error", endless("HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\n\r\n", bomb)),
        ("an error without end", endless("HTTP/1.1 500 No\r\n\r\n", vec![b'x'; 4096])),
        ("interim answers", endless("", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100))),
        (
            "interim answers with headers",
            endless(
                "",
                format!("HTTP/1.1 103 Hints\r\nLink: {}\r\n\r\n", "x".repeat(4000)).into_bytes(),
            ),
        ),
        ("trailers", endless(&format!("{chunked}0\r\n"), b"X: x\r\n".repeat(100))),
        ("a chunk's extension", endless(&format!("{chunked}1;"), vec![b'x'; 4096])),
    ] {
        let peak = peak_of(async {
            let script = Script::new([reply]);
            let mut options = options(script.listen().await);
            options.timeouts.total = std::time::Duration::from_millis(500);
            let transport = transport(options);
            for _ in 0..3 {
                let began = tokio::time::Instant::now();
                let exchange = transport.post(Stage::Preflight, b"{}", None, NOW).await;
                exchange.outcome.expect_err("no answer");
                let took = began.elapsed();
                assert!(took < std::time::Duration::from_secs(2), "{what}: {took:?}");
            }
        })
        .await;
        println!("{what}: peak above the start {} KiB", peak >> 10);
        assert!(peak < ALLOWANCE, "{what}: {} MiB", peak >> 20);
    }
}
