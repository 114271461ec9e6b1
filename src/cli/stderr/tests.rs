use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::*;

/// A pipe whose reader takes a piece each time the test says so.
struct Pipe {
    turns: Receiver<()>,
    written: Sender<Vec<u8>>,
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // With the other end gone, everything passes.
        let _ = self.turns.recv();
        let _ = self.written.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pipe() -> (Queue, SyncSender<()>, Receiver<Vec<u8>>) {
    let (turn, turns) = sync_channel(0);
    let (written, read) = channel();
    let report = Box::new(|dropped| format!("{dropped} dropped"));
    (Queue::start(Pipe { turns, written }, report).expect("a thread"), turn, read)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn lines_are_written_in_order_and_flushed() {
    let (queue, turn, read) = pipe();
    drop(turn);
    for number in 0..1000 {
        queue.push(&number.to_string());
    }
    queue.flush(LONG);
    let text = String::from_utf8(read.try_iter().flatten().collect()).expect("UTF-8");
    assert!(text.lines().map(str::to_owned).eq((0..1000).map(|number| number.to_string())));
}

/// A reader that stops reading holds nobody up, and what it missed is counted
/// where it would have stood.
#[test]
fn a_pipe_nobody_reads_blocks_nobody_and_its_lines_are_counted() {
    let (queue, turn, read) = pipe();
    let line = "x".repeat(1000);
    queue.push("first");
    for _ in 0..2000 {
        queue.push(&line);
    }
    // Within its patience, not for ever.
    queue.flush(Duration::from_millis(1));
    let state = queue.0.lock();
    assert!(state.waiting.len() <= MAX_QUEUED, "{} bytes wait", state.waiting.len());
    assert!(state.dropped > 1000, "{} lines were dropped", state.dropped);
    drop(state);

    drop(turn);
    queue.flush(LONG);
    queue.push("last");
    queue.flush(LONG);
    let text = String::from_utf8(read.try_iter().flatten().collect()).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    let kept = lines.iter().filter(|kept| **kept == line).count();
    let expected = format!("{} dropped", 2000 - kept);
    assert_eq!((lines[0], &lines[kept + 1..]), ("first", &[expected.as_str(), "last"][..]));
}
