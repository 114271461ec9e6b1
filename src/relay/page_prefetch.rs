//! The next page of a download, read while the one before it is sent (RELAY-5).
//!
//! At most one page is held here, for one download: a second one beside it reads its
//! pages when they are asked for. A page that nobody asks for is dropped after
//! [`PAGE_LIFE`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;

use super::core::Located;
use super::delivery::Page;
use super::sessions::Position;
use crate::model::Transfer;

/// How long a page is kept for a client that does not ask for it.
const PAGE_LIFE: Duration = Duration::from_secs(10);

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageKey {
    token: u64,
    position: Position,
    transfer: Transfer,
}

impl PageKey {
    const fn of(located: &Located, transfer: Transfer) -> Self {
        Self { token: located.token, position: located.position, transfer }
    }
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Reading(PageKey),
    Ready {
        key: PageKey,
        page: Page,
        /// Drops the page.
        timer: AbortHandle,
    },
}

/// Holds the page that was read ahead.
#[derive(Debug)]
pub(super) struct PagePrefetch {
    slot: Mutex<Slot>,
    read: Condvar,
    life: Duration,
}

impl Default for PagePrefetch {
    fn default() -> Self {
        Self::with_life(PAGE_LIFE)
    }
}

impl PagePrefetch {
    fn with_life(life: Duration) -> Self {
        Self { slot: Mutex::default(), read: Condvar::new(), life }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // It is replaced whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the page out if it was read ahead; waits while it is being read.
    pub(super) fn take(&self, located: &Located, transfer: Transfer) -> Option<Page> {
        let wanted = PageKey::of(located, transfer);
        let is_being_read = |slot: &mut Slot| matches!(slot, Slot::Reading(key) if *key == wanted);
        let mut slot = self
            .read
            .wait_while(self.slot(), is_being_read)
            .unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*slot, Slot::Ready { key, .. } if *key == wanted) {
            return None;
        }
        let Slot::Ready { page, timer, .. } = std::mem::take(&mut *slot) else { return None };
        timer.abort();
        Some(page)
    }

    /// Begins to read a page in a thread, unless the place is taken by another
    /// download. Must be called within the relay's runtime.
    pub(super) fn begin(self: &Arc<Self>, located: Located, transfer: Transfer) {
        let key = PageKey::of(&located, transfer);
        {
            let mut slot = self.slot();
            match &*slot {
                Slot::Empty => {}
                Slot::Ready { key: held, timer, .. } if held.token == key.token => timer.abort(),
                Slot::Ready { .. } | Slot::Reading(_) => return,
            }
            *slot = Slot::Reading(key);
        }
        let reading = Reading { prefetch: Arc::clone(self), key, page: None };
        spawn_blocking(move || {
            let mut reading = reading;
            // Who asks for the page reads it again, and reports the error.
            reading.page = located.read(transfer).ok();
        });
    }

    /// Drops the page, if it is still that one.
    fn forget(&self, unwanted: PageKey) {
        let mut slot = self.slot();
        if matches!(&*slot, Slot::Ready { key, .. } if *key == unwanted) {
            *slot = Slot::Empty;
        }
    }
}

/// A page that is being read. However that ends, who waits for it goes on.
struct Reading {
    prefetch: Arc<PagePrefetch>,
    key: PageKey,
    page: Option<Page>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let key = self.key;
        *self.prefetch.slot() = match self.page.take() {
            Some(page) => {
                let prefetch = Arc::clone(&self.prefetch);
                let timer = tokio::spawn(async move {
                    sleep(prefetch.life).await;
                    prefetch.forget(key);
                });
                Slot::Ready { key, page, timer: timer.abort_handle() }
            }
            None => Slot::Empty,
        };
        self.prefetch.read.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::Source;
    use super::super::plan::Plan;
    use super::*;
    use crate::model::{Identifier, Policy, RelayManner, Rule, RuleSet, SyncType, Timestamp};
    use crate::store::{RulesSnapshot, Store};

    const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

    /// A delivery of a store with one rule.
    fn located(dir: &std::path::Path, token: u64) -> Located {
        let mut store = Store::open(dir, NOW).unwrap().0;
        let mut rules = RuleSet::default();
        let rule = Rule {
            identifier: Identifier::TeamId(*b"ABCDE12345"),
            policy: Policy::Blocklist,
            details: None,
        };
        rules.push_page(vec![rule], Vec::new());
        store.commit_rules(&rules, (SyncType::Clean, NOW)).unwrap();
        let snapshot = Arc::new(Mutex::new(RulesSnapshot::open(dir).unwrap()));
        let plan = Plan::whole_set();
        let source = Source::new(snapshot, plan, None, RelayManner::Santa).unwrap();
        let position = Position::first(plan.content);
        Located { token, position, plan, source: Arc::new(source) }
    }

    fn is_empty(prefetch: &PagePrefetch) -> bool {
        matches!(*prefetch.slot(), Slot::Empty)
    }

    /// RELAY-5: the page is the one that reading it gives, and is given once.
    #[tokio::test]
    async fn relay_5_a_page_that_was_read_ahead_is_the_page() {
        let dir = tempfile::tempdir().unwrap();
        let (prefetch, first) = (Arc::new(PagePrefetch::default()), located(dir.path(), 1));
        let expected = first.read(Transfer::Json).unwrap();
        assert_eq!(expected.rules, 1);
        prefetch.begin(first.at(first.position), Transfer::Json);
        let other = Located { token: 2, ..first.at(first.position) };
        // The place is taken: this one is read when it is asked for.
        prefetch.begin(other.at(other.position), Transfer::Json);
        let taken = Arc::clone(&prefetch);
        let (page, others, again) = spawn_blocking(move || {
            let page = taken.take(&first, Transfer::Json);
            (page, taken.take(&other, Transfer::Json), taken.take(&first, Transfer::Json))
        })
        .await
        .unwrap();
        assert_eq!((page, others, again), (Some(expected), None, None));
        assert!(is_empty(&prefetch));
    }

    /// RELAY-5: a page that nobody asks for is dropped.
    #[tokio::test]
    async fn relay_5_a_page_that_nobody_asks_for_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let prefetch = Arc::new(PagePrefetch::with_life(Duration::from_millis(1)));
        prefetch.begin(located(dir.path(), 1), Transfer::Json);
        assert!(!is_empty(&prefetch));
        for _ in 0..20_000 {
            if is_empty(&prefetch) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("it is still there");
    }
}
