//! How often a request is repeated, and how long to wait in between.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// How often a request is repeated after its first attempt.
pub const MAX_RETRIES: u32 = 5;

/// The waits between the attempts of one request: 4, 8, 16, 32, 32 s, each
/// varied by up to a quarter. The only user of the `backoff` crate.
#[derive(Debug)]
pub struct WaitSchedule {
    waits: ExponentialBackoff,
    left: u32,
}

impl WaitSchedule {
    /// A fresh schedule whose waits vary by up to `jitter` of their length.
    /// The contract's value is 0.25; tests that compare waits take 0.
    #[must_use]
    pub fn new(jitter: f64) -> Self {
        let first = Duration::from_secs(4);
        let waits = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: jitter,
            multiplier: 2.0,
            max_interval: Duration::from_secs(32),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { waits, left: MAX_RETRIES }
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
        let mut schedule = WaitSchedule::new(0.0);
        let waits: Vec<_> =
            std::iter::from_fn(|| schedule.next_wait()).map(|w| w.as_secs()).collect();
        assert_eq!(waits, [4, 8, 16, 32, 32]);
    }

    #[test]
    fn http_3_waits_vary_by_at_most_a_quarter() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut schedule = WaitSchedule::new(0.25);
            for base in [4.0, 8.0, 16.0, 32.0, 32.0] {
                let wait = schedule.next_wait().expect("five repeats").as_secs_f64();
                assert!((base * 0.75..=base * 1.25).contains(&wait), "{wait} for {base}");
                seen.insert((wait * 1e6).round().to_string());
            }
        }
        assert!(seen.len() > 500, "waits hardly vary: {}", seen.len());
    }
}
