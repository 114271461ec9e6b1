//! When the relay's certificates are to be renewed.

use std::time::Duration;

use crate::model::{Now, Timestamp};

/// When the certificates in use are valid, and when to renew them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) renew_at: Timestamp,
    /// The earliest time of the next renewal, whatever the clock says.
    pub(super) not_before: Duration,
}

impl Validity {
    /// The time of the next renewal.
    pub(super) fn due(self, now: Now) -> Duration {
        let is_too_early = now.wall < self.from;
        let left = if is_too_early { Duration::ZERO } else { self.renew_at.since(now.wall) };
        (now.elapsed + left).max(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-1: certificates that were made while the clock was ahead are renewed once it is
    /// corrected, but not before `not_before`.
    #[test]
    fn relay_1_certificates_are_renewed_when_the_clock_is_corrected() {
        let at = |day: i64| Timestamp::from_secs(day * 86_400);
        let validity =
            Validity { from: at(100), renew_at: at(300), not_before: Duration::from_secs(5) };
        let due = |day, elapsed| {
            validity.due(Now { wall: at(day), elapsed: Duration::from_secs(elapsed) })
        };
        assert_eq!(due(100, 9), Duration::from_secs(9 + 200 * 86_400));
        assert_eq!(due(299, 9), Duration::from_secs(9 + 86_400));
        assert_eq!(due(300, 9), Duration::from_secs(9));
        assert_eq!(due(99, 9), Duration::from_secs(9), "the clock was set back");
        assert_eq!([due(99, 2), due(301, 2)], [Duration::from_secs(5); 2], "not too early");
    }
}
