//! Points in time as values. Reading a clock is [`crate::clock`]'s.

use std::fmt;
use std::time::Duration;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use ::time::macros::format_description;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A wall-clock time in milliseconds since 1970-01-01 UTC, as text in RFC 3339
/// and UTC. Serialised it always has three decimal places, so that the texts sort
/// as the times do; shown to people it has none if the seconds are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01 UTC, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was, zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The time that RFC 3339 text names, if it is such text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    fn date_time(self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).ok()
    }

    /// RFC 3339 has the years 0 to 9999; other times are given as a number.
    fn text(self, decimals: bool) -> String {
        let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let millis = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        let format = if decimals { millis } else { seconds };
        self.date_time()
            .filter(|time| time.year() >= 0)
            .and_then(|time| time.format(format).ok())
            .unwrap_or_else(|| format!("{} ms since 1970", self.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text(self.0 % 1000 != 0))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text(true))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is not RFC 3339 time")))
    }
}

/// One reading of the clock: the wall time to show and store, and the time
/// since some fixed point to measure with. The second never runs backwards and
/// keeps running while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For people and records.
    pub wall: Timestamp,
    /// For durations and deadlines.
    pub elapsed: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Timestamp;

    /// 9999-12-31T23:59:59.999Z.
    const LAST: i64 = 253_402_300_799_999;

    fn serialised(time: Timestamp) -> String {
        serde_json::to_value(time).expect("JSON").as_str().expect("text").to_owned()
    }

    #[test]
    fn a_time_is_serialised_with_milliseconds_and_shown_with_what_it_has() {
        let texts = |millis| {
            let time = Timestamp::from_millis(millis);
            (serialised(time), time.to_string())
        };
        let alike = |text: &str| (text.to_owned(), text.to_owned());
        let whole = texts(1_782_892_800_000);
        assert_eq!(whole, ("2026-07-01T08:00:00.000Z".into(), "2026-07-01T08:00:00Z".into()));
        assert_eq!(texts(1_782_892_800_120), alike("2026-07-01T08:00:00.120Z"));
        assert_eq!(texts(-1), alike("1969-12-31T23:59:59.999Z"));
        assert_eq!(texts(LAST), alike("9999-12-31T23:59:59.999Z"));
        assert_eq!(texts(LAST + 1), alike("253402300800000 ms since 1970"));
        assert_eq!(texts(i64::MIN), alike("-9223372036854775808 ms since 1970"));
        assert_eq!(texts(-62_167_219_200_001), alike("-62167219200001 ms since 1970"));
    }

    proptest! {
        /// People compare times of JSON output as text (`jq`, `sort`).
        #[test]
        fn serialised_times_sort_as_text(base in 0..LAST - 2_000, by in 0..2_000_i64) {
            let (earlier, later) = (Timestamp::from_millis(base), Timestamp::from_millis(base + by));
            prop_assert_eq!(serialised(earlier).cmp(&serialised(later)), earlier.cmp(&later));
            prop_assert_eq!(Timestamp::parse(&serialised(later)), Some(later));
            prop_assert_eq!(Timestamp::parse(&later.to_string()), Some(later));
        }
    }
}
