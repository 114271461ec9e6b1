//! The limits hold in memory as well: the peak of a process that does nothing
//! else is measured. To see the figures:
//! `SANTA_SYNC_TEST_ALONE=1 cargo nextest run memory:: --no-capture`.

use santa_sync::model::Stage;
use santa_sync::sync::retry::FailureKind;

use super::alone::alone;
use super::server::{NOW, Reply, Script, ok, options, scripted, transport};

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
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 4 << 20]).expect("gzip");
    let bomb = bomb.finish().expect("gzip");
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
