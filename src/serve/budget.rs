//! What all bodies together may take of memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// Bodies up to `small` bytes are free: there are as many as connections. Longer
/// ones take turns, so that no two ever wait for each other. Those of trusted
/// connections have turns of their own.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) small: usize,
    favoured: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        let turns = limits.large_bodies.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            small: limits.small_body,
            favoured: Arc::new(Semaphore::new(turns)),
            others: Arc::new(Semaphore::new(turns)),
        }
    }

    /// Waits for the turn of a body longer than `small`.
    pub(super) async fn turn(&self, is_favoured: bool) -> Option<OwnedSemaphorePermit> {
        let turns = if is_favoured { &self.favoured } else { &self.others };
        // They are never closed.
        Arc::clone(turns).acquire_owned().await.ok()
    }
}
