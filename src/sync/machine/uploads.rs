//! The size of event batches once the server has refused some (EV-6).

use crate::model::UploadMemory;

/// In how many syncs in a row a refused batch (400, 422) may keep rules and
/// settings away. The last of them goes on without the events.
pub(super) const MAX_REFUSED_SYNCS: u32 = 8;

/// What one sync knows about the size of batches.
#[derive(Debug)]
pub(super) struct Uploads {
    /// The largest batch that earlier syncs allow.
    ceiling: Option<usize>,
    /// Batches that were too large (413), but for those that are explained by
    /// an event that is too large by itself.
    too_large: Vec<Vec<i64>>,
    /// A batch has been too large in this sync.
    any_too_large: bool,
    /// A refusal (400, 422) has been counted in this sync.
    refused: bool,
    /// Refusals no longer end this sync.
    going_on: bool,
    memory: UploadMemory,
}

impl Uploads {
    pub(super) const fn new(memory: UploadMemory) -> Self {
        Self {
            ceiling: memory.ceiling,
            too_large: Vec::new(),
            any_too_large: false,
            refused: false,
            going_on: false,
            memory,
        }
    }

    /// How many events the next batch may have, at least 1. `batch_size` is the
    /// server's.
    pub(super) fn limit(&self, batch_size: usize) -> usize {
        let halves = self.too_large.iter().map(|events| events.len() / 2);
        halves.chain(self.ceiling).fold(batch_size, usize::min).max(1)
    }

    /// These events are too many for one request. If it is one event, it is
    /// too large by itself and explains every refusal of a batch that it was in.
    pub(super) fn found_too_large(&mut self, ids: &[i64], batch_size: usize) {
        self.any_too_large = true;
        if let [alone] = ids {
            self.too_large.retain(|events| !events.contains(alone));
        } else {
            self.too_large.push(ids.to_vec());
        }
        let limit = self.limit(batch_size);
        self.memory.ceiling = (limit < batch_size).then_some(limit);
    }

    /// The server refused events as wrong (400, 422). Counts the sync once.
    pub(super) const fn found_wrong(&mut self) {
        if !self.refused {
            self.refused = true;
            self.memory.refused_syncs = self.memory.refused_syncs.saturating_add(1);
        }
    }

    /// Whether refusals have kept rules and settings away for long enough. If
    /// so, no refusal ends this sync, and the count starts again.
    pub(super) const fn must_go_on(&mut self) -> bool {
        if self.memory.refused_syncs >= MAX_REFUSED_SYNCS {
            self.going_on = true;
            self.memory.refused_syncs = 0;
        }
        self.going_on
    }

    /// What to remember for the next sync.
    pub(super) const fn memory(&self) -> UploadMemory {
        self.memory
    }

    /// What to remember once the uploads have ended and the sync goes on;
    /// `None` if nothing has changed. If all that waited has gone through
    /// (`drained`), larger batches may be tried again.
    pub(super) fn ended(&mut self, drained: bool, batch_size: usize) -> Option<UploadMemory> {
        let before = self.memory;
        if drained {
            self.memory.refused_syncs = 0;
        }
        if drained && !self.any_too_large {
            let doubled = self.memory.ceiling.map(|ceiling| ceiling.saturating_mul(2));
            self.memory.ceiling = doubled.filter(|doubled| *doubled < batch_size);
        }
        (self.memory != before).then_some(self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends events of which some are too large by themselves, and of which no
    /// more than `most` fit a request: the sizes sent, and what was set aside.
    fn send(
        uploads: &mut Uploads,
        mut ids: Vec<i64>,
        poison: &[i64],
        most: usize,
    ) -> (Vec<(usize, bool)>, Vec<i64>) {
        let (mut sizes, mut aside) = (Vec::new(), Vec::new());
        while !ids.is_empty() {
            let sent: Vec<i64> = ids.iter().copied().take(uploads.limit(50)).collect();
            let taken = sent.len() <= most && !sent.iter().any(|id| poison.contains(id));
            sizes.push((sent.len(), taken));
            if taken {
                ids.drain(..sent.len());
            } else {
                uploads.found_too_large(&sent, 50);
                if sent.len() == 1 {
                    aside.push(ids.remove(0));
                }
            }
            assert!(sizes.len() < 10_000);
        }
        (sizes, aside)
    }

    /// EV-6: behind a body limit the size is found once, and kept for the rest
    /// of the sync and for the next one.
    #[test]
    fn ev_6_the_size_that_passed_is_kept_within_the_sync_and_after_it() {
        let mut first = Uploads::new(UploadMemory::default());
        let (sizes, aside) = send(&mut first, (1..=500).collect(), &[], 16);
        assert_eq!(sizes[..4], [(50, false), (25, false), (12, true), (12, true)]);
        assert_eq!(sizes.iter().filter(|(_, taken)| !taken).count(), 2, "{sizes:?}");
        assert!(aside.is_empty());
        assert_eq!(first.memory().ceiling, Some(12));
        assert_eq!(first.ended(true, 50), None);

        let mut next = Uploads::new(first.memory());
        let (sizes, _) = send(&mut next, (1..=100).collect(), &[], 16);
        assert!(sizes.iter().all(|(size, taken)| *size <= 12 && *taken), "{sizes:?}");
        // It may double once a sync: 24, and then there is no ceiling.
        assert_eq!(next.ended(true, 50).map(|m| m.ceiling), Some(Some(24)));
        let mut last = Uploads::new(next.memory());
        assert_eq!(last.ended(false, 50), None, "not before all has gone through");
        assert_eq!(last.ended(true, 40).map(|m| m.ceiling), Some(None));
    }

    /// EV-6: an event that is too large by itself is set aside in one sync,
    /// wherever it is, and makes no batch smaller after that.
    #[test]
    fn ev_6_an_event_too_large_by_itself_is_set_aside_and_the_size_restored() {
        for ceiling in [None, Some(20)] {
            for poison in [vec![1], vec![500], vec![237], vec![1, 2, 3, 250, 500]] {
                let memory = UploadMemory { ceiling, refused_syncs: 0 };
                let mut uploads = Uploads::new(memory);
                let (sizes, aside) = send(&mut uploads, (1..=500).collect(), &poison, 50);
                assert_eq!(aside, poison);
                let taken: usize = sizes.iter().filter(|(_, taken)| *taken).map(|(n, _)| n).sum();
                assert_eq!(taken + aside.len(), 500);
                assert!(sizes.len() < 28 + 12 * poison.len(), "{} requests", sizes.len());
                assert_eq!(uploads.memory(), memory, "{poison:?}");
            }
        }
    }

    /// EV-6: refusals keep policy away for at most eight syncs in a row.
    #[test]
    fn ev_6_the_eighth_refused_sync_goes_on() {
        let mut memory = UploadMemory::default();
        for sync in 1..=9 {
            let mut uploads = Uploads::new(memory);
            uploads.found_wrong();
            uploads.found_wrong();
            assert_eq!(uploads.must_go_on(), sync == 8, "{sync}");
            // Another refusal in the same sync changes nothing.
            uploads.found_wrong();
            assert_eq!(uploads.must_go_on(), sync == 8, "{sync}");
            memory = uploads.memory();
        }
        assert_eq!(memory.refused_syncs, 1);
        let mut uploads = Uploads::new(memory);
        assert_eq!(uploads.ended(false, 50), None);
        assert_eq!(uploads.ended(true, 50).map(|m| m.refused_syncs), Some(0));
    }
}
