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

/// What syncs remember about batches that the server refused (EV-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UploadMemory {
    /// The largest batch that passed where a larger one was too large (413).
    pub ceiling: Option<usize>,
    /// How many syncs in a row had a batch refused as wrong (400, 422).
    pub refused_syncs: u32,
}

/// What the queue must know of an event to take it in.
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
