//! Standard error: a queue in front of it, and one thread that empties it.
//!
//! Whoever reads standard error may stop reading. A full pipe then blocks the
//! thread that writes, for as long as it likes: that must be neither the
//! daemon's event loop nor a sync that holds the state directory. So lines go
//! into a queue of bounded size. While the queue is full and stays full, lines
//! are dropped and counted; once it is empty again, one line says how many.

use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// The most bytes that wait. As many again may be with the thread that writes.
const MAX_QUEUED: usize = 256 * 1024;

/// A line is cut to this many bytes.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// How long a full queue may hold up whoever has a line for it. A reader that is
/// merely slower than the writer takes something out in that time.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(100);

/// How much is written at a time.
const WRITE_CHUNK_BYTES: usize = 8 * 1024;

/// A queue with more room than this gives it back once it is empty.
const KEPT_CAPACITY: usize = 16 * 1024;

/// Standard error's queue, once there is one.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// The line that says how many were dropped.
type DroppedLine = Box<dyn Fn(u64) -> String + Send>;

/// Puts a queue before standard error. `report` words the line that says how
/// many lines were dropped. Only the first call counts.
pub(super) fn start(report: impl Fn(u64) -> String + Send + 'static) {
    // Without a thread, lines are written where they are made.
    if QUEUE.get().is_none()
        && let Ok(queue) = Queue::start(WaitingWriter, Box::new(report))
    {
        let _ = QUEUE.set(queue);
    }
}

/// Writes one line, or queues it.
pub(super) fn line(text: &str) {
    match QUEUE.get() {
        Some(queue) => queue.push(text),
        None => drop(writeln!(io::stderr().lock(), "{text}")),
    }
}

/// Waits until every line has been written, `patience` at most.
pub(super) fn flush(patience: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(patience);
    }
}

/// Lines on their way to a writer.
struct Queue(Arc<QueueShared>);

#[derive(Default)]
struct QueueShared {
    state: Mutex<QueueContents>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueContents {
    waiting: Vec<u8>,
    /// Lines that came while the queue was full, none of which waits.
    dropped: u64,
    /// Whether the thread has something that is not written yet.
    writing: bool,
}

impl QueueContents {
    const fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.dropped == 0 && !self.writing
    }

    const fn has_room(&self, length: usize) -> bool {
        self.waiting.is_empty() || self.waiting.len() + length < MAX_QUEUED
    }
}

impl Queue {
    fn start(to: impl io::Write + Send + 'static, report: DroppedLine) -> io::Result<Self> {
        let shared = Arc::new(QueueShared::default());
        let ours = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("stderr".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || shared.write_all(to, &report))?;
        Ok(Self(ours))
    }

    fn push(&self, text: &str) {
        let mut state = self.0.lock();
        if state.dropped == 0 && !state.has_room(text.len()) {
            let full =
                |state: &mut QueueContents| state.dropped == 0 && !state.has_room(text.len());
            let waited = self.0.changed.wait_timeout_while(state, FULL_QUEUE_WAIT, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // Once a line is dropped, all are until the queue has been emptied: the
        // report stands where they would have stood.
        if state.dropped > 0 || !state.has_room(text.len()) {
            state.dropped += 1;
        } else {
            state.waiting.extend_from_slice(text.as_bytes());
            state.waiting.push(b'\n');
        }
        drop(state);
        self.0.changed.notify_all();
    }

    fn flush(&self, patience: Duration) {
        let state = self.0.lock();
        drop(self.0.changed.wait_timeout_while(state, patience, |state| !state.is_idle()));
    }
}

impl QueueShared {
    /// A panic while the lock is held leaves a whole number of lines.
    fn lock(&self) -> MutexGuard<'_, QueueContents> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what waits, for as long as the process lives.
    fn write_all(&self, mut to: impl io::Write, report: &DroppedLine) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.is_idle())
                .unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                let dropped = std::mem::take(&mut state.dropped);
                taken.extend_from_slice(report(dropped).as_bytes());
                taken.push(b'\n');
            } else {
                std::mem::swap(&mut taken, &mut state.waiting);
            }
            state.writing = true;
            drop(state);
            self.changed.notify_all();
            for piece in taken.chunks(WRITE_CHUNK_BYTES) {
                // The reader is gone: nobody can be told.
                let _ = to.write_all(piece);
            }
            let _ = to.flush();
            taken.clear();
            if taken.capacity() > KEPT_CAPACITY {
                taken = Vec::new();
            }
        }
    }
}

/// Standard error, which another process may have set to fail instead of block.
struct WaitingWriter;

impl io::Write for WaitingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match io::stderr().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stderr = io::stderr();
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
