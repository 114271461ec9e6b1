//! Memory that the responses of many transports share: a simulator has thousands of
//! them, and each alone may take as much as the agent allows one response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory that all responses in flight may take together.
///
/// The first [`Self::FREE_BYTES`] of each response are not counted, so that small
/// ones always fit.
#[derive(Clone, Debug)]
pub struct ResponseBudget(Arc<SharedMemory>);

#[derive(Debug)]
struct SharedMemory {
    limit: usize,
    used: AtomicUsize,
}

/// The budget has less left than is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExhausted;

impl ResponseBudget {
    /// The bytes of each response that are not counted.
    pub const FREE_BYTES: usize = 16 << 10;
    /// The step in which memory is taken, in bytes.
    const STEP_BYTES: usize = 64 << 10;

    /// A budget of so many bytes.
    #[cfg(any(feature = "harness", test))]
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(SharedMemory { limit, used: AtomicUsize::new(0) }))
    }

    /// How many bytes it has, used or not.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    fn take(&self, bytes: usize) -> Result<(), BudgetExhausted> {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.0.limit);
        let taken = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(|_| ()).map_err(|_| BudgetExhausted)
    }
}

/// What one response holds of a budget, until it is dropped; without a budget, as much
/// as it likes.
#[derive(Debug, Default)]
pub struct BudgetShare {
    budget: Option<ResponseBudget>,
    /// What is needed so far.
    needed: usize,
    /// What has been taken for it.
    held: usize,
}

impl BudgetShare {
    /// A share that holds nothing yet.
    #[must_use]
    pub const fn of(budget: Option<ResponseBudget>) -> Self {
        Self { budget, needed: 0, held: 0 }
    }

    /// Takes memory for this many more bytes.
    ///
    /// # Errors
    /// If the budget does not have them; what is held stays.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        let Some(budget) = &self.budget else { return Ok(()) };
        self.needed = self.needed.saturating_add(bytes);
        let counted = self.needed.saturating_sub(ResponseBudget::FREE_BYTES);
        let wanted = counted.next_multiple_of(ResponseBudget::STEP_BYTES);
        if wanted > self.held {
            budget.take(wanted - self.held)?;
            self.held = wanted;
        }
        Ok(())
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.0.used.fetch_sub(self.held, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_responses_always_fit_and_large_ones_share() {
        let budget = ResponseBudget::new(2 * ResponseBudget::STEP_BYTES);
        let share = || BudgetShare::of(Some(budget.clone()));
        let mut first = share();
        assert_eq!(first.grow(ResponseBudget::FREE_BYTES + 1), Ok(()));
        let mut second = share();
        assert_eq!(second.grow(ResponseBudget::STEP_BYTES), Ok(()));
        let mut third = share();
        assert_eq!(third.grow(ResponseBudget::FREE_BYTES), Ok(()));
        assert_eq!(third.grow(1), Err(BudgetExhausted), "two steps are all there is");
        drop(first);
        assert_eq!(third.grow(1), Ok(()), "what a response held is free once it is gone");
        drop((second, third));
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_a_budget_everything_fits() {
        assert_eq!(BudgetShare::default().grow(usize::MAX), Ok(()));
    }
}
