//! Mixes of values with weights, and shares: how often something occurs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::harness::fixtures::Random;

/// Values and how often each occurs: `2026.4=70,2025.7=30`, or one value alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix<T>(Vec<Share<T>>);

/// A value of a [`Mix`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Share<T> {
    value: T,
    weight: u32,
}

impl<T> Mix<T> {
    /// Always that value.
    #[must_use]
    pub fn only(value: T) -> Self {
        Self(vec![Share { value, weight: 1 }])
    }

    /// Each of these values equally often.
    pub(in crate::harness::simulation) fn evenly(values: Vec<T>) -> Self {
        Self(values.into_iter().map(|value| Share { value, weight: 1 }).collect())
    }

    /// Maps each value and keeps its weight.
    pub(in crate::harness::simulation) fn map<U>(self, other: impl Fn(T) -> U) -> Mix<U> {
        let shares = self.0.into_iter();
        let shares = shares.map(|Share { value, weight }| Share { value: other(value), weight });
        Mix(shares.collect())
    }

    /// Its values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|share| &share.value)
    }

    /// One of the values, by weight; `None` only if there are none.
    pub(in crate::harness::simulation) fn pick(&self, random: &mut Random) -> Option<&T> {
        let total = self.0.iter().fold(0_u32, |sum, share| sum.saturating_add(share.weight));
        let mut left = random.below(total);
        for share in &self.0 {
            if left < share.weight {
                return Some(&share.value);
            }
            left -= share.weight;
        }
        None
    }
}

impl<T: fmt::Display> fmt::Display for Mix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{}", only.value),
            shares => shares.iter().enumerate().try_for_each(|(place, share)| {
                let comma = if place == 0 { "" } else { "," };
                write!(f, "{comma}{}={}", share.value, share.weight)
            }),
        }
    }
}

impl<T: FromStr> FromStr for Mix<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shares = text.split(',').map(|share| {
            let (value, weight) = share.split_once('=').unwrap_or((share, "1"));
            match (value.trim().parse(), weight.trim().parse()) {
                (Ok(value), Ok(weight @ 1..=1_000_000)) if !share.trim().is_empty() => {
                    Ok(Share { value, weight })
                }
                _ => Err(format!(
                    "{share:?} is not VALUE=WEIGHT with a weight of 1 to 1000000; separate \
                     several by commas"
                )),
            }
        });
        shares.collect::<Result<_, _>>().map(Self)
    }
}

/// Reads a share such as `20%` or `20`.
#[must_use]
pub fn parse_percent(text: &str) -> Option<u8> {
    text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent <= 100)
}
