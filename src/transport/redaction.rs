//! Redacts secrets in what servers wrote, because some echo what they were sent: as it was, in
//! capitals, percent-encoded, escaped as in JSON or HTML, in hex, or in base64 data.

mod escapes;
mod patterns;

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use crate::model::Secret;
use patterns::Patterns;

/// Shorter secrets are not looked for in other texts: they would match words
/// that mean something else.
pub const MIN_SECRET_BYTES: usize = 5;

/// The same for values inside of a secret, which may be flags and words.
const MIN_VALUE_BYTES: usize = 8;

/// How many secrets that come and go are remembered: servers may set a new
/// cookie with every response.
const MAX_ROTATING_SECRETS: usize = 64;

/// The secrets to redact.
#[derive(Clone, Default)]
pub(super) struct Redaction {
    secrets: HashSet<String>,
    patterns: Patterns,
    rotating: VecDeque<String>,
    /// Made when a text is to be looked through: most secrets of this kind come and go
    /// without one.
    rotating_patterns: OnceLock<Patterns>,
}

impl Redaction {
    /// Redacts this text from here on, and also the part of it that follows a scheme word such
    /// as `Bearer`, and the value of each `name=value` in it.
    pub(super) fn add(&mut self, secret: &str) {
        let after_scheme = secret.split_once(' ').map(|(_, rest)| rest.trim());
        let pairs = secret.split([';', ',', ' ']).filter_map(|pair| pair.split_once('='));
        let values = pairs.map(|(_, value)| value.trim_matches('"'));
        let values = values.filter(|value| value.len() >= MIN_VALUE_BYTES);
        for part in std::iter::once(secret).chain(after_scheme).chain(values) {
            if part.len() >= MIN_SECRET_BYTES && self.secrets.insert(part.to_owned()) {
                self.patterns.add(part, MIN_SECRET_BYTES);
            }
        }
    }

    /// The same for a secret that is replaced in time, such as a cookie. Only the latest ones
    /// are remembered.
    pub(super) fn add_rotating(&mut self, secret: &str) {
        if secret.len() < MIN_SECRET_BYTES || self.rotating.iter().any(|known| known == secret) {
            return;
        }
        self.rotating.push_back(secret.to_owned());
        if self.rotating.len() > MAX_ROTATING_SECRETS {
            self.rotating.pop_front();
        }
        self.rotating_patterns = OnceLock::new();
    }

    fn rotating_patterns(&self) -> &Patterns {
        self.rotating_patterns.get_or_init(|| {
            let mut patterns = Patterns::default();
            for secret in &self.rotating {
                patterns.add(secret, MIN_SECRET_BYTES);
            }
            patterns
        })
    }

    /// The text with a mask in place of every secret. Where a text was cut off in the middle of
    /// a secret, at its end or before an ellipsis, the beginning of the secret is masked.
    pub(super) fn apply(&self, text: &str) -> String {
        const CUT: &str = "…";
        let mut parts = self.places(text.as_bytes());
        let mut start = 0;
        for piece in text.split(CUT) {
            let end = start + piece.len();
            let cuts = [&self.patterns, self.rotating_patterns()]
                .into_iter()
                .filter_map(|patterns| patterns.cut(piece.as_bytes(), MIN_SECRET_BYTES));
            parts.extend(cuts.min().map(|at| start + at..end));
            start = end + CUT.len();
        }
        String::from_utf8_lossy(&masked(text.as_bytes(), parts)).into_owned()
    }

    /// The bytes with a mask in place of every secret.
    #[cfg(any(test, feature = "harness"))]
    pub(super) fn apply_to_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        masked(bytes, self.places(bytes))
    }

    fn places(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut places = self.patterns.find(bytes);
        places.extend(self.rotating_patterns().find(bytes));
        places
    }
}

/// The bytes with a mask in place of each of these parts. Parts that overlap or touch share one
/// mask.
fn masked(bytes: &[u8], mut parts: Vec<Range<usize>>) -> Cow<'_, [u8]> {
    if parts.is_empty() {
        return Cow::Borrowed(bytes);
    }
    parts.sort_unstable_by_key(|part| (part.start, part.end));
    let mut result = Vec::with_capacity(bytes.len());
    let mut copied = 0;
    let mut parts = parts.into_iter().peekable();
    while let Some(mut part) = parts.next() {
        while let Some(next) = parts.next_if(|next| next.start <= part.end) {
            part.end = part.end.max(next.end);
        }
        result.extend_from_slice(&bytes[copied..part.start]);
        result.extend_from_slice(Secret::MASK.as_bytes());
        copied = part.end;
    }
    result.extend_from_slice(&bytes[copied..]);
    Cow::Owned(result)
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redaction({} secrets)", self.secrets.len() + self.rotating.len())
    }
}

#[cfg(test)]
mod tests;
