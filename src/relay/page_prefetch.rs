//! The next page of a download, read while the one before it is sent (RELAY-5).
//!
//! At most one page is held here, for one download: a second, concurrent download reads its
//! pages on request. A page that nobody requests is dropped after [`PAGE_LIFE`].
//!
//! A download needs two buffers, whose memory serves one page after the other: new
//! memory costs a page fault for every 4 KiB.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;

use super::core::Located;
use super::delivery::{Page, ROOM_FOR_PAGE};
use super::sessions::Position;
use crate::mapped_buffer::MappedBuffer;
use crate::model::Transfer;

/// How long a page is kept for a client that does not request it.
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

impl Slot {
    const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

#[derive(Debug, Default)]
struct Held {
    slot: Slot,
    /// The buffer of a page that was sent, for the next one to be read. It is dropped
    /// with the last page, or with a page that nobody asked for.
    spare: Option<MappedBuffer>,
}

/// Holds the page that was read ahead.
#[derive(Debug)]
pub(super) struct PagePrefetch {
    held: Mutex<Held>,
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
        Self { held: Mutex::default(), read: Condvar::new(), life }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each part is replaced whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the page out if it was read ahead; waits while it is being read.
    pub(super) fn take(&self, located: &Located, transfer: Transfer) -> Option<Page> {
        let wanted = PageKey::of(located, transfer);
        let is_being_read =
            |held: &mut Held| matches!(&held.slot, Slot::Reading(key) if *key == wanted);
        let mut held = self
            .read
            .wait_while(self.held(), is_being_read)
            .unwrap_or_else(PoisonError::into_inner);
        if !matches!(&held.slot, Slot::Ready { key, .. } if *key == wanted) {
            return None;
        }
        let Slot::Ready { page, timer, .. } = std::mem::take(&mut held.slot) else { return None };
        timer.abort();
        if page.next.is_none() {
            held.spare = None;
        }
        Some(page)
    }

    /// Takes the buffer of a page that was sent, for the page after the next.
    pub(super) fn give_back(&self, body: MappedBuffer) {
        let mut held = self.held();
        if !held.slot.is_empty() {
            held.spare = Some(body);
        }
    }

    /// Begins to read a page in a thread, unless the place is taken by another
    /// download. Must be called within the relay's runtime.
    pub(super) fn begin(self: &Arc<Self>, located: Located, transfer: Transfer) {
        let key = PageKey::of(&located, transfer);
        let body = {
            let mut held = self.held();
            match &held.slot {
                Slot::Empty => {}
                Slot::Ready { key: other, timer, .. } if other.token == key.token => timer.abort(),
                Slot::Ready { .. } | Slot::Reading(_) => return,
            }
            held.slot = Slot::Reading(key);
            held.spare.take().unwrap_or_else(|| MappedBuffer::new(ROOM_FOR_PAGE))
        };
        let reading = Reading { prefetch: Arc::clone(self), key, page: None };
        spawn_blocking(move || {
            let mut reading = reading;
            // Who asks for the page reads it again, and reports the error.
            reading.page = located.read_into(body, transfer).ok();
        });
    }

    /// Drops the page, if it is still that one.
    fn forget(&self, unwanted: PageKey) {
        let mut held = self.held();
        if matches!(&held.slot, Slot::Ready { key, .. } if *key == unwanted) {
            *held = Held::default();
        }
    }
}

/// A page that is being read. Whoever waits for it is woken, however the reading ends.
struct Reading {
    prefetch: Arc<PagePrefetch>,
    key: PageKey,
    page: Option<Page>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let key = self.key;
        let mut held = self.prefetch.held();
        held.slot = match self.page.take() {
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
        if held.slot.is_empty() {
            held.spare = None;
        }
        drop(held);
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
        let held = prefetch.held();
        held.slot.is_empty() && held.spare.is_none()
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

    /// RELAY-5: the memory of a page that was sent serves a later page, and goes when no
    /// page follows.
    #[tokio::test]
    async fn relay_5_memory_of_a_page_that_was_sent_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (prefetch, first) = (Arc::new(PagePrefetch::default()), located(dir.path(), 1));
        let sent = first.read(Transfer::Json).unwrap();
        let place = sent.body.as_ptr();
        prefetch.give_back(first.read(Transfer::Json).unwrap().body);
        assert!(is_empty(&prefetch), "no page is being read");
        prefetch.begin(first.at(first.position), Transfer::Json);
        prefetch.give_back(sent.body);
        let waiting = Arc::clone(&prefetch);
        spawn_blocking(move || {
            let is_being_read = |held: &mut Held| matches!(held.slot, Slot::Reading(_));
            drop(waiting.read.wait_while(waiting.held(), is_being_read).unwrap());
        })
        .await
        .unwrap();
        // Its client asks for the page once more.
        prefetch.begin(first.at(first.position), Transfer::Json);
        let expected = first.read(Transfer::Json).unwrap();
        let taken = Arc::clone(&prefetch);
        let page = spawn_blocking(move || taken.take(&first, Transfer::Json).unwrap());
        let page = page.await.unwrap();
        assert_eq!((page.body.as_ptr(), &page), (place, &expected));
        prefetch.give_back(page.body);
        assert!(is_empty(&prefetch), "it was the last page");
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
