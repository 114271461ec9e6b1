//! Queued events as the event queue sees them.

/// A row of the event queue. The payload is opaque here:
/// [`crate::protocol`] reads it, whichever producer wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The queue's number for it: later arrivals have larger ones, and none is
    /// given twice.
    pub id: i64,
    /// What makes two events the same one.
    pub unique_id: String,
    /// The stored form; empty if the producer left none.
    pub data: Vec<u8>,
    /// How many bytes the stored form has, if that is more than is ever read.
    /// Then `data` is its beginning.
    pub oversize: Option<u64>,
}

/// What becomes of the rows of a batch, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SettledEvents {
    /// The server accepted these; they leave the queue.
    pub delivered: Vec<i64>,
    /// These leave the queue unsent; with the kind they are counted under.
    pub dropped: Vec<(i64, String)>,
    /// These are set aside; with the reason.
    pub rejected: Vec<(i64, String)>,
    /// Bundles whose executables the server requests.
    pub bundle_requests: Vec<String>,
    /// For each delivered executable of a requested bundle: the bundle's hash,
    /// and how many executables the bundle has (0 if unknown).
    pub bundles_delivered: Vec<(String, u32)>,
}

impl SettledEvents {
    /// The rows that are settled.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        let dropped = self.dropped.iter().map(|(id, _)| *id);
        let rejected = self.rejected.iter().map(|(id, _)| *id);
        self.delivered.iter().copied().chain(dropped).chain(rejected)
    }
}

/// What syncs remember about batches that the server refused (EV-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UploadMemory {
    /// The largest batch that passed where a larger one was too large (413).
    pub ceiling: Option<usize>,
    /// How many syncs in a row had a batch refused as wrong (400, 422).
    pub refused_syncs: u32,
}

/// What the queue must know of an event to store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// What makes two events the same one: the file's SHA-256 for an execution
    /// (with `:audit` behind it where a rule asked for an audit record),
    /// `rule|version|process SHA-256` for a file access.
    pub unique_id: String,
    /// Something was blocked, or a rule asked for a record. The others are
    /// dropped first when the queue is full, and seldom repeated.
    pub actionable: bool,
}
