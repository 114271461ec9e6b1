//! Latencies as histograms that can be added up exactly, whatever shard they come
//! from.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest latency that is told apart: a sync ends after an hour.
const MAX_MICROS: u64 = 3_600_000_000;

/// Latencies in microseconds, to `DIGITS` significant decimal digits.
///
/// Its size depends on the longest latency. With two digits, it takes 16 KiB up to a second, and at
/// most 26 KiB. An empty histogram takes no memory.
#[derive(Clone, Default, PartialEq)]
pub struct LatencyHistogram<const DIGITS: u8>(Option<Histogram<u64>>);

impl<const DIGITS: u8> LatencyHistogram<DIGITS> {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.record_many(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), 1);
    }

    fn record_many(&mut self, micros: u64, count: u64) {
        if self.0.is_none() {
            self.0 = Histogram::new(DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // Cannot fail: the value is within the histogram's range.
            let _ = histogram.record_n(micros.clamp(1, MAX_MICROS), count);
        }
    }

    /// Adds those of another one.
    pub fn add(&mut self, other: &Self) {
        for (micros, count) in other.buckets() {
            self.record_many(micros, count);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The latency that this share of all do not exceed; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        Some(Duration::from_micros(histogram.value_at_quantile(share)))
    }

    /// The longest one; `None` without any.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        self.quantile(1.0)
    }

    /// Bytes of memory that its counts take.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |histogram| histogram.distinct_values() * size_of::<u64>())
    }

    /// The largest value of each bucket that is not empty, and how many are in it.
    fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0
            .iter()
            .flat_map(Histogram::iter_recorded)
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
    }
}

impl<const DIGITS: u8> fmt::Debug for LatencyHistogram<DIGITS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} latencies up to {:?}", self.count(), self.longest().unwrap_or_default())
    }
}

/// For people and programs that read the JSON, the usual quantiles; for
/// [`LatencyHistogram::add`], the buckets.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    count: u64,
    #[serde(default)]
    p50_us: u64,
    #[serde(default)]
    p90_us: u64,
    #[serde(default)]
    p99_us: u64,
    #[serde(default)]
    max_us: u64,
    buckets: Vec<(u64, u64)>,
}

impl<const DIGITS: u8> Serialize for LatencyHistogram<DIGITS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = |share| {
            let micros = self.quantile(share).unwrap_or_default().as_micros();
            u64::try_from(micros).unwrap_or(u64::MAX)
        };
        Written {
            count: self.count(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: at(1.0),
            buckets: self.buckets().collect(),
        }
        .serialize(serializer)
    }
}

impl<'de, const DIGITS: u8> Deserialize<'de> for LatencyHistogram<DIGITS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (micros, count) in Written::deserialize(deserializer)?.buckets {
            histogram.record_many(micros, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Latencies = LatencyHistogram<3>;

    fn of(micros: impl IntoIterator<Item = u64>) -> Latencies {
        let mut histogram = Latencies::default();
        micros.into_iter().for_each(|n| histogram.record(Duration::from_micros(n)));
        histogram
    }

    /// What shards measured adds up to what one process would have measured.
    #[test]
    fn adding_up_loses_nothing_through_json_either() {
        let all = of((1..20_000).map(|n| n * 37));
        let mut sum = of((1..20_000).filter(|n| n % 3 == 0).map(|n| n * 37));
        let rest = of((1..20_000).filter(|n| n % 3 != 0).map(|n| n * 37));
        let text = serde_json::to_string(&rest).expect("JSON");
        sum.add(&serde_json::from_str(&text).expect("the same"));
        assert_eq!(sum.count(), all.count());
        for share in [0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(sum.quantile(share), all.quantile(share), "{share}");
        }
        assert_eq!(sum.buckets().collect::<Vec<_>>(), all.buckets().collect::<Vec<_>>());
    }

    #[test]
    fn a_latency_is_told_to_three_digits_and_the_longest_one_at_all() {
        let histogram = of([123_456, 7_200_000_000]);
        let half = histogram.quantile(0.5).expect("one").as_micros();
        assert!((123_300..=123_600).contains(&half), "{half}");
        assert!(histogram.longest() >= Some(Duration::from_mins(59)));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
