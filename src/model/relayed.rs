//! Events that the authorizer of this host uploads to the relay.

use std::fmt;

use bytes::Bytes;

/// Identifies an event by all of its fields: the first half of the SHA-256 of
/// its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventDigest([u8; 16]);

impl EventDigest {
    /// A digest of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The unique id of the event in the queue. No other producer's unique ids
    /// look like it.
    #[must_use]
    pub fn unique_id(self) -> String {
        format!("relay:{self}")
    }
}

/// 32 hex digits.
impl fmt::Display for EventDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An uploaded event, as the event queue takes it (RELAY-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayedEvent {
    /// Identifies it.
    pub digest: EventDigest,
    /// Its stored form. Of a [`RelayedKind::TooLarge`] or
    /// [`RelayedKind::Unreadable`] event possibly only the beginning.
    pub data: Bytes,
    /// Something was blocked or audited. The others are dropped first when the
    /// queue is full.
    pub actionable: bool,
    /// It reports a denial (EV-10).
    pub denial: bool,
    /// What becomes of it.
    pub kind: RelayedKind,
}

/// What an uploaded event is to the event queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayedKind {
    /// An event that is queued.
    Plain,
    /// An event that is queued, of an executable that belongs to a bundle.
    OfBundle(EventBundle),
    /// One of the executables of a bundle, which is held until the upstream
    /// server requests the bundle.
    Member(EventBundle),
    /// An event larger than any that servers take, which is set aside.
    TooLarge {
        /// What is wrong with it.
        reason: String,
    },
    /// Something that is not an event, which is set aside.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

/// The bundle that an event names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBundle {
    /// The bundle's hash: not empty, at most [`EventBundle::MAX_HASH_BYTES`]
    /// bytes.
    pub hash: String,
    /// How many executables it has; 0 if the event does not say.
    pub executables: u32,
}

impl EventBundle {
    /// The longest hash, in bytes; a SHA-256 has 64 digits.
    pub const MAX_HASH_BYTES: usize = 256;

    /// The bundle of this hash; `None` if no bundle has such a hash.
    #[must_use]
    pub fn new(hash: &str, executables: u32) -> Option<Self> {
        let fits = !hash.is_empty() && hash.len() <= Self::MAX_HASH_BYTES;
        fits.then(|| Self { hash: hash.to_owned(), executables })
    }
}
