//! The next batch of events, made ready on a thread of its own while the server
//! works on the last.
//!
//! An optimisation of the driver's that the machine knows nothing of: nothing
//! is sent or settled earlier, and a batch that cannot be had this way is read
//! when its turn comes. At most one batch lies ready.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use super::exchange;
use super::machine::{Batch, Request};
use crate::model::{EventRow, MachineId};
use crate::protocol::body::Transfer;
use crate::protocol::events;
use crate::store::{EventStore, ReadEvents};
use crate::transport::{Packed, Packer};

/// A batch as the driver holds it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) batch: Batch,
    /// Executables of bundles in it: bundle hash, and how many executables the
    /// bundle has.
    pub(super) bundles: Vec<(String, u32)>,
    /// Its body, if that was made already.
    pub(super) body: Option<Packed>,
}

impl Read {
    pub(super) fn new(rows: Vec<EventRow>, machine_id: &MachineId) -> Self {
        let events::Sorted { ids, mut request, dropped, rejected, bundles } = events::sort(rows);
        machine_id.as_str().clone_into(&mut request.machine_id);
        Self { batch: Batch { ids, request, dropped, rejected }, bundles, body: None }
    }

    /// How many rows it is of, and the last of them.
    fn extent(&self) -> (usize, Option<i64>) {
        let Batch { ids, dropped, rejected, .. } = &self.batch;
        let others = dropped.iter().chain(rejected).map(|(id, _)| id);
        let rows = ids.len() + dropped.len() + rejected.len();
        (rows, ids.iter().chain(others).max().copied())
    }
}

/// How bodies are made.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) machine_id: MachineId,
    pub(super) transfer: Transfer,
    pub(super) packer: Packer,
}

/// What is known of the batch after the one handed out last.
#[derive(Debug)]
pub(super) struct Ahead {
    thread: Thread,
    /// How many events the batch may have that the thread was asked for.
    asked: Option<usize>,
}

#[derive(Debug)]
enum Thread {
    /// There has been no use for it.
    Idle(Form),
    Running(Worker),
    /// It could not be started, or has ended.
    Gone,
}

impl Ahead {
    /// Without a form nothing is read ahead.
    pub(super) fn new(form: Option<Form>) -> Self {
        Self { thread: form.map_or(Thread::Gone, Thread::Idle), asked: None }
    }

    /// The batch that lies ready, or will in a moment, if it was read for that
    /// limit.
    pub(super) fn take(&mut self, limit: usize) -> Option<Read> {
        let asked = self.asked.take()?;
        let Thread::Running(worker) = &self.thread else { return None };
        match worker.read.recv() {
            Ok(read) => read.filter(|_| asked == limit),
            Err(_) => {
                self.thread = Thread::Gone;
                None
            }
        }
    }

    /// Has the batch after this one made ready, if there may be one.
    pub(super) fn handed_out(&mut self, read: &Read, limit: usize, events: &EventStore) {
        let (rows, Some(last)) = read.extent() else { return };
        if rows < limit {
            return;
        }
        self.thread = match std::mem::replace(&mut self.thread, Thread::Gone) {
            Thread::Idle(form) => Worker::start(events, form).map_or(Thread::Gone, Thread::Running),
            other => other,
        };
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

/// The thread. It ends when nothing more can be asked, and is waited for.
#[derive(Debug)]
struct Worker {
    ask: Option<Sender<Ask>>,
    /// One answer for each question: what goes wrong is met, and told, when the
    /// batch's turn comes.
    read: Receiver<Option<Read>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(events: &EventStore, form: Form) -> Option<Self> {
        let events = events.reader().ok()??;
        let (ask, asked) = channel();
        let (reads, read) = channel();
        let thread = Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || work(&events, form, &asked, &reads))
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

fn work(events: &ReadEvents, mut form: Form, asked: &Receiver<Ask>, reads: &Sender<Option<Read>>) {
    while let Ok(Ask { after, limit }) = asked.recv() {
        let rows = events.read_on(limit, after).ok().flatten();
        if reads.send(rows.map(|rows| made(rows, &mut form))).is_err() {
            return;
        }
    }
}

fn made(rows: Vec<EventRow>, form: &mut Form) -> Read {
    let mut read = Read::new(rows, &form.machine_id);
    let request = Request::EventUpload(std::mem::take(&mut read.batch.request));
    let body = exchange::encode(form.transfer, &request).ok();
    read.body = body.map(|body| form.packer.pack(body));
    if let Request::EventUpload(message) = request {
        read.batch.request = message;
    }
    read
}
