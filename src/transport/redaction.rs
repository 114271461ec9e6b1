//! Strikes secrets out of texts that servers wrote, since some echo what they
//! were sent.

use std::collections::VecDeque;
use std::fmt;

use crate::model::Secret;

/// Shorter secrets are not looked for in other texts: they would match words
/// that mean something else.
const MIN_SECRET_BYTES: usize = 5;

/// The same for values inside of a secret, which may be flags and words.
const MIN_VALUE_BYTES: usize = 8;

/// How many secrets that come and go are remembered: servers may set a new
/// cookie with every response.
const MAX_ROTATING_SECRETS: usize = 64;

/// The secrets to strike out.
#[derive(Clone, Default)]
pub(super) struct Redaction {
    secrets: Vec<String>,
    rotating: VecDeque<String>,
}

impl Redaction {
    /// Strikes this text out from here on, what follows a scheme word such as
    /// `Bearer` in it, and the value of each `name=value`.
    pub(super) fn add(&mut self, secret: &str) {
        let after_scheme = secret.split_once(' ').map(|(_, rest)| rest.trim());
        let pairs = secret.split([';', ',', ' ']).filter_map(|pair| pair.split_once('='));
        let values = pairs.map(|(_, value)| value.trim_matches('"'));
        let values = values.filter(|value| value.len() >= MIN_VALUE_BYTES);
        for part in std::iter::once(secret).chain(after_scheme).chain(values) {
            if part.len() >= MIN_SECRET_BYTES && !self.secrets.iter().any(|known| known == part) {
                self.secrets.push(part.to_owned());
            }
        }
    }

    /// The same for a secret that others of its kind replace in time.
    pub(super) fn add_rotating(&mut self, secret: &str) {
        if secret.len() < MIN_SECRET_BYTES || self.rotating.iter().any(|known| known == secret) {
            return;
        }
        if self.rotating.len() == MAX_ROTATING_SECRETS {
            self.rotating.pop_front();
        }
        self.rotating.push_back(secret.to_owned());
    }

    /// The text with a mask in the place of every secret.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut secrets: Vec<_> = self.secrets.iter().chain(&self.rotating).collect();
        // The longest first, so that no secret hides in the rest of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let text = secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), Secret::MASK));
        strike_cut(&text, &secrets)
    }
}

/// Strikes out the beginning of a secret where a text was cut in its middle: at
/// the text's end, or before an ellipsis.
fn strike_cut(text: &str, secrets: &[&String]) -> String {
    const CUT: char = '…';
    let pieces: Vec<_> = text
        .split(CUT)
        .map(|piece| {
            let cut = secrets.iter().find_map(|secret| {
                // Only prefixes that fit: the pieces of a text are together no
                // longer than the text, however many there are.
                (MIN_SECRET_BYTES..=piece.len().min(secret.len() - 1))
                    .rev()
                    .filter(|length| secret.is_char_boundary(*length))
                    .map(|length| &secret[..length])
                    .find(|start| piece.ends_with(start))
            });
            match cut.and_then(|start| piece.strip_suffix(start)) {
                Some(rest) => format!("{rest}{}", Secret::MASK),
                None => piece.to_owned(),
            }
        })
        .collect();
    pieces.join("…")
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redaction({} secrets)", self.secrets.len() + self.rotating.len())
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
        redaction.add("session=s3ss10n-id; theme=dark");
        redaction.add("no");
        redaction.add_rotating("c00kie");
        assert_eq!(
            redaction.apply(
                "Bearer abc123, then abc123, then abc123-and-more, no c00kie, s3ss10n-id is dark"
            ),
            "(secret), then (secret), then (secret), no (secret), (secret) is dark"
        );
        assert!(!format!("{redaction:?}").contains("abc123"));
    }

    #[test]
    fn a_secret_that_a_cut_divides_is_struck_out_as_well() {
        let mut redaction = Redaction::default();
        redaction.add("t0ken-of-the-host");
        assert_eq!(redaction.apply("it begins \"t0ken-of…\""), "it begins \"(secret)…\"");
        assert_eq!(redaction.apply("t0ken-of-the-host t0ken-o"), "(secret) (secret)");
        assert_eq!(redaction.apply("t0ke… token…"), "t0ke… token…");
    }

    #[test]
    fn secrets_that_come_and_go_do_not_pile_up() {
        let mut redaction = Redaction::default();
        for number in 10_000..20_000 {
            redaction.add_rotating(&number.to_string());
        }
        assert_eq!(redaction.rotating.len(), MAX_ROTATING_SECRETS);
        assert_eq!(redaction.apply("19999 and 10000"), "(secret) and 10000");
    }
}
