//! A bound on the log lines of one sync.
//!
//! What makes lines at the word of a server bounds them itself, with a summary
//! that names what it left out. This is the bound behind those: whatever a
//! server sends, one place in the program writes no more than this.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// Lines of one place that are written. Whoever asks for DEBUG or TRACE gets all
/// of those.
pub(super) const MAX_LINES: u64 = 200;

/// How many lines each place has made.
#[derive(Debug, Default)]
pub(super) struct Flood(Mutex<HashMap<Identifier, CallSite>>);

#[derive(Debug)]
struct CallSite {
    name: String,
    lines: u64,
}

/// Whether a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    /// As the last of its place.
    Last,
    No,
}

impl Flood {
    pub(super) fn admit(&self, of: &Metadata<'_>) -> Admitted {
        // More detailed levels compare as greater.
        if *of.level() > Level::INFO {
            return Admitted::Yes;
        }
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(of.callsite()).or_insert_with(|| {
            let (file, line) = (of.file().unwrap_or(of.target()), of.line().unwrap_or_default());
            CallSite { name: format!("{file}:{line}"), lines: 0 }
        });
        place.lines += 1;
        match place.lines {
            ..MAX_LINES => Admitted::Yes,
            MAX_LINES => Admitted::Last,
            _ => Admitted::No,
        }
    }

    /// The places whose lines were left out, with how many.
    pub(super) fn left_out(&self) -> Vec<(String, u64)> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out: Vec<_> = places
            .values()
            .filter(|place| place.lines > MAX_LINES)
            .map(|place| (place.name.clone(), place.lines - MAX_LINES))
            .collect();
        left_out.sort();
        left_out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{Event, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Counting(Arc<Flood>, Arc<Mutex<Vec<Admitted>>>);

    impl<S: Subscriber> Layer<S> for Counting {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.1.lock().expect("unpoisoned").push(self.0.admit(event.metadata()));
        }
    }

    /// RULE-6 and its like: whatever a server multiplies, one place writes so
    /// many lines in a sync, and the rest is counted.
    #[test]
    fn rule_6_no_place_writes_more_lines_than_a_person_reads() {
        let counting = Counting::default();
        let subscriber = tracing_subscriber::registry().with(counting.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..400_000 {
                tracing::warn!(number, "one of many");
            }
            tracing::warn!("another");
            (0..1000).for_each(|number| tracing::debug!(number, "asked for"));
        });
        let admitted = counting.1.lock().expect("unpoisoned").clone();
        let count = |what| admitted.iter().filter(|admitted| **admitted == what).count();
        assert_eq!(count(Admitted::Yes), 199 + 1 + 1000);
        assert_eq!((count(Admitted::Last), count(Admitted::No)), (1, 400_000 - 200));
        let left_out = counting.0.left_out();
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].0.contains("flood.rs:"), "{left_out:?}");
        assert_eq!(left_out[0].1, 400_000 - 200);
    }
}
