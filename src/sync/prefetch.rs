//! Prepares the next batch of events on a thread of its own while the server
//! processes the current one.
//!
//! An optimisation of the driver's that the machine knows nothing of: nothing
//! is sent or settled earlier, and a batch that cannot be had this way is read
//! when its turn comes. At most one batch is prepared.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::model::{EventRow, MachineId, Transfer};
use crate::protocol::events::EventBatch;
use crate::store::{EventStore, Horizon, ReadEvents};
use crate::transport::Packer;

/// How batches are made.
#[derive(Clone, Debug)]
pub(super) struct BatchBuilder {
    pub(super) machine_id: MachineId,
    pub(super) transfer: Transfer,
    pub(super) packer: Packer,
}

impl BatchBuilder {
    fn build(&mut self, rows: Vec<EventRow>) -> EventBatch {
        EventBatch::of_rows(rows, &self.machine_id, self.transfer, |body| self.packer.pack(body))
    }
}

/// What is known of the batch after the one handed out last.
#[derive(Debug)]
pub(super) struct Prefetcher {
    builder: BatchBuilder,
    thread: Thread,
    /// The limit of the batch that the thread is preparing.
    asked: Option<usize>,
}

#[derive(Debug)]
enum Thread {
    /// It has not been needed yet.
    Idle,
    Running(Worker),
    /// It could not be started, or has ended.
    Gone,
}

impl Prefetcher {
    pub(super) const fn new(builder: BatchBuilder) -> Self {
        Self { builder, thread: Thread::Idle, asked: None }
    }

    /// Ends the thread and frees its memory, once no more batches are needed.
    pub(super) fn stop(&mut self) {
        *self = Self::new(self.builder.clone());
    }

    /// The batch of these rows.
    pub(super) fn build(&mut self, rows: Vec<EventRow>) -> EventBatch {
        self.builder.build(rows)
    }

    /// Returns the prepared batch, waiting for it if necessary, if it was read for
    /// that limit.
    pub(super) fn take(&mut self, limit: usize) -> Option<EventBatch> {
        let asked = self.asked.take()?;
        let Thread::Running(worker) = &self.thread else { return None };
        if let Ok(read) = worker.read.recv() {
            return read.filter(|_| asked == limit);
        }
        self.thread = Thread::Gone;
        None
    }

    /// Discards the prepared batch: the queue is read from its start again.
    pub(super) fn discard(&mut self) {
        self.take(0);
    }

    /// Starts preparing the batch after this one, if there may be one before the
    /// horizon.
    pub(super) fn start_next(
        &mut self,
        read: &EventBatch,
        limit: usize,
        horizon: Horizon,
        events: &EventStore,
    ) {
        let (rows, Some(last)) = read.extent() else { return };
        if rows < limit || !horizon.goes_past(last) {
            return;
        }
        if matches!(self.thread, Thread::Idle) {
            let worker = Worker::start(events, self.builder.clone());
            self.thread = worker.map_or(Thread::Gone, Thread::Running);
        }
        if let Thread::Running(worker) = &self.thread
            && worker.ask.as_ref().is_some_and(|ask| ask.send(Ask { after: last, limit }).is_ok())
        {
            self.asked = Some(limit);
        }
    }
}

/// The batch that comes after a row.
struct Ask {
    after: i64,
    limit: usize,
}

/// The thread. It ends when its channel is closed, and is joined.
#[derive(Debug)]
struct Worker {
    ask: Option<Sender<Ask>>,
    /// One reply for each request: an error is met, and reported, when the batch is
    /// read in its turn.
    read: Receiver<Option<EventBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(events: &EventStore, builder: BatchBuilder) -> Option<Self> {
        let events = events.reader().ok()??;
        let (ask, asked) = channel();
        let (reads, read) = channel();
        let thread = Builder::new()
            .name("prefetch".to_owned())
            .spawn(move || work(&events, builder, &asked, &reads))
            .ok()?;
        Some(Self { ask: Some(ask), read, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

fn work(
    events: &ReadEvents,
    mut builder: BatchBuilder,
    asked: &Receiver<Ask>,
    reads: &Sender<Option<EventBatch>>,
) {
    while let Ok(Ask { after, limit }) = asked.recv() {
        let rows = events.read_on(limit, after).ok().flatten();
        if reads.send(rows.map(|rows| builder.build(rows))).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Now, Timestamp};
    use crate::protocol::stored::{self, QueuedEvent};
    use crate::protocol::wire;
    use crate::store::{Limits, NewEvent};

    fn prefetcher() -> Prefetcher {
        let machine_id = MachineId::new("host").expect("an id");
        Prefetcher::new(BatchBuilder {
            machine_id,
            transfer: Transfer::Json,
            packer: Packer::default(),
        })
    }

    fn queue(dir: &std::path::Path, count: u8) -> EventStore {
        let (mut store, _) = EventStore::open(dir, Timestamp::from_secs(0)).expect("a queue");
        let events: Vec<NewEvent> = (0..count)
            .map(|number| {
                let event = QueuedEvent::Execution(Box::new(wire::Event {
                    file_sha256: format!("{number:064x}"),
                    file_name: "x".to_owned(),
                    execution_time: 1.0,
                    decision: wire::Decision::BlockUnknown.into(),
                    ..wire::Event::default()
                }));
                let summary = stored::summarize(&event, false).expect("a whole event");
                NewEvent { summary, data: stored::encode(&event) }
            })
            .collect();
        let now = Now { wall: Timestamp::from_secs(1), elapsed: Duration::ZERO };
        store.queue_events(&events, now, Limits::default()).expect("queued");
        store
    }

    /// EV-1: what is read ahead is the batch that would be read in its turn.
    #[test]
    fn ev_1_the_batch_made_ahead_is_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = queue(dir.path(), 5);
        let horizon = store.horizon(Timestamp::from_secs(2)).expect("a horizon");
        let mut read = |after| store.read_batch(2, after, Timestamp::from_secs(2)).expect("rows");
        let rows = [read(None), read(Some(2)), read(Some(4))];
        let [first, second, third] = rows.map(|rows| prefetcher().build(rows));

        let mut prefetcher = prefetcher();
        assert!(prefetcher.take(2).is_none(), "nothing was asked for");
        prefetcher.start_next(&first, 2, horizon, &store);
        let made = prefetcher.take(2).expect("made ahead");
        assert_eq!(made, second);
        prefetcher.start_next(&made, 2, horizon, &store);
        assert!(prefetcher.take(1).is_none(), "it was made for another limit");
        prefetcher.start_next(&second, 2, horizon, &store);
        assert_eq!(prefetcher.take(2).expect("made ahead"), third);
        prefetcher.start_next(&third, 2, horizon, &store);
        assert!(prefetcher.take(2).is_none(), "a batch that is not full is the last");
        prefetcher.stop();
        assert!(matches!(prefetcher.thread, Thread::Idle), "the thread has ended");
    }
}
