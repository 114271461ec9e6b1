//! How often a request is repeated, and how long to wait in between.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

use crate::model::{Stage, Trigger};

/// How often, and how soon, a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPace {
    /// Five times, after 4, 8, 16, 32 and 32 s: somebody waits for the sync, or work
    /// would be lost.
    Prompt,
    /// Twice, after 4 and 40 s: nobody waits, and the schedule tries again. While a
    /// server is down, a fleet makes at most three times its usual number of requests. So the
    /// load when the server comes back is at most three times the usual one, too.
    Relaxed,
}

impl RetryPace {
    /// The pace of a stage's requests in a sync with this trigger.
    #[must_use]
    pub const fn of(stage: Stage, trigger: Trigger) -> Self {
        match (stage, trigger) {
            (Stage::Preflight, Trigger::Timer) => Self::Relaxed,
            (Stage::EventUpload | Stage::RuleDownload | Stage::Postflight, _)
            | (Stage::Preflight, Trigger::Manual | Trigger::Trigger) => Self::Prompt,
        }
    }

    /// How often a request is repeated after its first attempt.
    #[must_use]
    pub const fn retries(self) -> u32 {
        match self {
            Self::Prompt => 5,
            Self::Relaxed => 2,
        }
    }
}

/// The waits between the attempts of one request, each varied by up to a quarter. The
/// only user of the `backoff` crate.
#[derive(Debug)]
pub struct WaitSchedule {
    waits: ExponentialBackoff,
    left: u32,
}

impl WaitSchedule {
    /// A fresh schedule whose waits vary by up to `jitter` of their length.
    /// The contract's value is 0.25; tests that compare waits take 0.
    #[must_use]
    pub fn new(pace: RetryPace, jitter: f64) -> Self {
        let first = Duration::from_secs(4);
        let (multiplier, longest) = match pace {
            RetryPace::Prompt => (2.0, 32),
            RetryPace::Relaxed => (10.0, 40),
        };
        let waits = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: jitter,
            multiplier,
            max_interval: Duration::from_secs(longest),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { waits, left: pace.retries() }
    }

    /// The wait before the next attempt; `None` if no repeat is left.
    pub fn next_wait(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.waits.next_backoff()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_3_waits_are_4_8_16_32_32_seconds_and_then_none() {
        let waits = |stage, trigger| {
            let mut schedule = WaitSchedule::new(RetryPace::of(stage, trigger), 0.0);
            let waits = std::iter::from_fn(|| schedule.next_wait());
            waits.map(|wait| wait.as_secs()).collect::<Vec<_>>()
        };
        for stage in Stage::ALL {
            for trigger in [Trigger::Timer, Trigger::Manual, Trigger::Trigger] {
                let expected: &[u64] = match (*stage, trigger) {
                    (Stage::Preflight, Trigger::Timer) => &[4, 40],
                    _ => &[4, 8, 16, 32, 32],
                };
                assert_eq!(waits(*stage, trigger), expected, "{stage:?} {trigger:?}");
            }
        }
    }

    #[test]
    fn http_3_waits_vary_by_at_most_a_quarter() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut schedule = WaitSchedule::new(RetryPace::Prompt, 0.25);
            for base in [4.0, 8.0, 16.0, 32.0, 32.0] {
                let wait = schedule.next_wait().expect("five repeats").as_secs_f64();
                assert!((base * 0.75..=base * 1.25).contains(&wait), "{wait} for {base}");
                seen.insert((wait * 1e6).round().to_string());
            }
        }
        assert!(seen.len() > 500, "waits hardly vary: {}", seen.len());
    }
}
