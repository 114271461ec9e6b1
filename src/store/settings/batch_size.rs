//! The batch size of the last preflight, for uploads between syncs (EV-10).

use crate::store::{Store, StoreError, agent_meta};

const BATCH_SIZE: &str = "batch_size";

impl Store {
    /// Stores the server's batch size; 0 if it sent none. Writes nothing if it
    /// has not changed.
    ///
    /// # Errors
    /// If the database cannot be written; then it is as it was.
    pub fn keep_batch_size(&mut self, events: u32) -> Result<(), StoreError> {
        let failed = self.failed("keep the batch size");
        let keep = || {
            let kept: Option<String> = agent_meta::get(&self.rules, BATCH_SIZE)?;
            let events = events.to_string();
            if kept.as_deref().unwrap_or("0") == events {
                return Ok(());
            }
            agent_meta::put(&self.rules, BATCH_SIZE, &events)
        };
        keep().map_err(failed)
    }

    /// Returns the server's last batch size, if it sent one.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn batch_size(&self) -> Result<Option<usize>, StoreError> {
        let kept: Option<String> =
            agent_meta::get(&self.rules, BATCH_SIZE).map_err(self.failed("read the batch size"))?;
        Ok(kept.and_then(|text| text.parse().ok()).filter(|events| *events > 0))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Timestamp;
    use crate::store::Store;

    /// EV-10: the last response counts, even one without a batch size.
    #[test]
    fn ev_10_the_batch_size_of_the_last_preflight_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = Store::open(dir.path(), Timestamp::from_secs(0)).expect("a store");
        for (given, kept) in [(0, None), (7, Some(7)), (7, Some(7)), (5000, Some(5000)), (0, None)]
        {
            store.keep_batch_size(given).expect("kept");
            assert_eq!(store.batch_size().expect("read"), kept);
        }
    }
}
