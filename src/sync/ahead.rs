//! The next batch of events, made ready while the server works on the last.
//!
//! An optimisation of the driver's that the machine knows nothing of: nothing
//! is sent or settled earlier, and a batch that cannot be had this way is read
//! when its turn comes. At most one batch lies ready.

use super::exchange;
use super::machine::{Batch, Request};
use crate::model::{EventRow, MachineId};
use crate::protocol::body::Transfer;
use crate::protocol::events;
use crate::store::EventStore;
use crate::transport::{Packed, Transport};

/// After so many turns of the event loop a request that needs no new
/// connection has left.
const TURNS: usize = 3;

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

    fn last(&self) -> Option<i64> {
        let Batch { ids, dropped, rejected, .. } = &self.batch;
        let others = dropped.iter().chain(rejected).map(|(id, _)| id);
        ids.iter().chain(others).max().copied()
    }
}

/// What is known of the batch after the one handed out last.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where the last batch ended, and how many events it could have had.
    last: Option<(i64, usize)>,
    next: Option<Read>,
}

impl Ahead {
    /// The batch that lies ready, if it was read for that limit.
    pub(super) fn take(&mut self, limit: usize) -> Option<Read> {
        let next = self.next.take();
        let (_, of) = self.last?;
        next.filter(|_| of == limit)
    }

    /// Notes which batch is handed out.
    pub(super) fn handed_out(&mut self, read: &Read, limit: usize) {
        self.last = read.last().map(|last| (last, limit));
    }

    /// Reads and encodes the next batch, once the request that carries the last
    /// has had the time to leave.
    pub(super) async fn fill(
        &mut self,
        events: &EventStore,
        machine_id: &MachineId,
        (transport, transfer): (&Transport, Transfer),
    ) {
        let (None, Some((last, limit))) = (&self.next, self.last) else { return };
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        // What goes wrong here is met, and told, when the batch's turn comes.
        let Ok(Some(rows)) = events.read_on(limit, last) else { return };
        let mut read = Read::new(rows, machine_id);
        let request = Request::EventUpload(std::mem::take(&mut read.batch.request));
        read.body = exchange::encode(transfer, &request).ok().map(|body| transport.pack(body));
        if let Request::EventUpload(message) = request {
            read.batch.request = message;
        }
        self.next = Some(read);
    }
}
