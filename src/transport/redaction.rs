//! Strikes secrets out of texts that servers wrote, since some echo what they
//! were sent.

use std::fmt;

use crate::model::Secret;

/// Shorter secrets are not looked for in other texts: they would match words
/// that mean something else.
const SHORTEST: usize = 5;

/// The secrets to strike out.
#[derive(Clone, Default)]
pub(super) struct Redaction {
    secrets: Vec<String>,
}

impl Redaction {
    /// Strikes this text out from here on, and what follows a scheme word such
    /// as `Bearer` in it.
    pub(super) fn add(&mut self, secret: &str) {
        let after_scheme = secret.split_once(' ').map(|(_, rest)| rest.trim());
        for part in [Some(secret), after_scheme].into_iter().flatten() {
            if part.len() >= SHORTEST && !self.secrets.iter().any(|known| known == part) {
                self.secrets.push(part.to_owned());
            }
        }
        // The longest first, so that no secret hides in the rest of another.
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// The text with a mask in the place of every secret.
    pub(super) fn apply(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), Secret::MASK))
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redaction({} secrets)", self.secrets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_struck_out_with_and_without_their_scheme() {
        let mut redaction = Redaction::default();
        redaction.add("Bearer abc123");
        redaction.add("abc123-and-more");
        redaction.add("no");
        assert_eq!(
            redaction.apply("Bearer abc123, then abc123, then abc123-and-more, no"),
            "(secret), then (secret), then (secret), no"
        );
        assert!(!format!("{redaction:?}").contains("abc123"));
    }
}
