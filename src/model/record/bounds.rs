//! Keeping a record small, whatever a server sent (HTTP-8).
//!
//! Texts are cut first. If the record is still too large, the ends of its lists
//! go, and how many entries went is kept under `left_out`.

use std::io;

use serde::Serialize;

use super::{ErrorRecord, SettingChange, SyncRecord};

/// A text of a record is cut to this many bytes.
pub const MAX_RECORD_TEXT_BYTES: usize = 1024;
/// The JSON of a record takes at most this many bytes.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;
/// What is kept free for `left_out`, in bytes: a line for each list.
const LEFT_OUT_BYTES: usize = 1024;
/// How many errors are kept of a chain of causes.
const MAX_CAUSES: usize = 4;

impl SyncRecord {
    /// The record, cut so that its JSON takes at most [`MAX_RECORD_BYTES`] bytes and
    /// each of its texts [`MAX_RECORD_TEXT_BYTES`].
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.cut_texts();
        if size(&self) <= MAX_RECORD_BYTES {
            return self;
        }
        let lists = Lists {
            stages: std::mem::take(&mut self.stages),
            events_dropped: std::mem::take(&mut self.events_dropped).into_iter().collect(),
            settings_applied: std::mem::take(&mut self.settings_applied),
            settings_reverted: std::mem::take(&mut self.settings_reverted),
            rules_rejected: std::mem::take(&mut self.rules_rejected),
            warnings: std::mem::take(&mut self.warnings),
        };
        let mut room = ByteBudget {
            left: MAX_RECORD_BYTES.saturating_sub(size(&self) + LEFT_OUT_BYTES),
            lists: 6,
            record: &mut self,
        };
        // Each list may take its share of what those before it have left.
        let stages = room.fill("stages", lists.stages);
        let events_dropped = room.fill("events_dropped", lists.events_dropped);
        let settings_applied = room.fill("settings_applied", lists.settings_applied);
        let settings_reverted = room.fill("settings_reverted", lists.settings_reverted);
        let rules_rejected = room.fill("rules_rejected", lists.rules_rejected);
        let warnings = room.fill("warnings", lists.warnings);
        Self {
            stages,
            events_dropped: events_dropped.into_iter().collect(),
            settings_applied,
            settings_reverted,
            rules_rejected,
            warnings,
            ..self
        }
    }

    fn cut_texts(&mut self) {
        cut(&mut self.id);
        cut(&mut self.rules_hash);
        if self.events_dropped.keys().any(|kind| kind.len() > MAX_RECORD_TEXT_BYTES) {
            for (mut kind, count) in std::mem::take(&mut self.events_dropped) {
                cut(&mut kind);
                *self.events_dropped.entry(kind).or_default() += count;
            }
        }
        for rule in &mut self.rules_rejected {
            cut(&mut rule.identifier);
            cut(&mut rule.reason);
        }
        for change in self.settings_applied.iter_mut().chain(&mut self.settings_reverted) {
            let SettingChange { setting, before, after } = change;
            cut(setting);
            before.iter_mut().chain(after).for_each(cut);
        }
        for warning in &mut self.warnings {
            cut(&mut warning.field);
            cut(&mut warning.value);
            cut(&mut warning.action);
        }
        let mut next = self.error.as_mut();
        for place in 1..=MAX_CAUSES {
            let Some(ErrorRecord { stage, kind, message, fix, cause, http_status: _ }) = next
            else {
                break;
            };
            [stage, kind, message].into_iter().chain(fix).for_each(cut);
            if place == MAX_CAUSES {
                *cause = None;
            }
            next = cause.as_deref_mut();
        }
    }
}

/// The lists of a record.
struct Lists {
    stages: Vec<super::StageRecord>,
    events_dropped: Vec<(String, u64)>,
    settings_applied: Vec<SettingChange>,
    settings_reverted: Vec<SettingChange>,
    rules_rejected: Vec<super::RejectedRule>,
    warnings: Vec<super::SyncWarning>,
}

/// What is left for lists.
struct ByteBudget<'a> {
    /// Bytes.
    left: usize,
    /// Lists that come.
    lists: usize,
    record: &'a mut SyncRecord,
}

impl ByteBudget<'_> {
    /// The start of a list that fits its share. Notes how much was left out.
    fn fill<T: Serialize>(&mut self, name: &str, mut list: Vec<T>) -> Vec<T> {
        let share = self.left / self.lists.max(1);
        self.lists = self.lists.saturating_sub(1);
        let mut taken = 0;
        let fitting = list.iter().take_while(|entry| {
            // With the comma behind it.
            taken += size(entry) + 1;
            taken <= share
        });
        let kept = fitting.count();
        let used = list.iter().take(kept).map(|entry| size(entry) + 1).sum::<usize>();
        self.left = self.left.saturating_sub(used);
        let gone = list.len() - kept;
        if gone > 0 {
            list.truncate(kept);
            *self.record.left_out.entry(name.to_owned()).or_default() += gone as u64;
        }
        list
    }
}

/// Cuts a text at a character, and marks that.
fn cut(text: &mut String) {
    const MARK: char = '…';
    if text.len() > MAX_RECORD_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_RECORD_TEXT_BYTES - MARK.len_utf8()));
        text.push(MARK);
    }
}

/// How many bytes the JSON of a value takes.
fn size(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be written as JSON takes no room in it.
    drop(serde_json::to_writer(&mut count, value));
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        RejectedRule, Stage, StageRecord, SyncType, SyncWarning, Timestamp, Trigger,
    };

    fn begun() -> SyncRecord {
        SyncRecord::begun("1".to_owned(), Trigger::Timer, Timestamp::default(), SyncType::Normal)
    }

    /// A text that takes six bytes of JSON for each of its own.
    fn hostile(bytes: usize) -> String {
        "\u{1}".repeat(bytes)
    }

    fn error(depth: usize) -> ErrorRecord {
        ErrorRecord {
            stage: hostile(5_000),
            kind: hostile(5_000),
            message: hostile(5_000),
            fix: Some(hostile(5_000)),
            http_status: Some(200),
            cause: (depth > 0).then(|| Box::new(error(depth - 1))),
        }
    }

    fn filled(entries: usize, text: &str) -> SyncRecord {
        let text = || text.to_owned();
        let change =
            || SettingChange { setting: text(), before: Some(text()), after: Some(text()) };
        let stage = StageRecord {
            stage: Stage::Preflight,
            requests: u32::MAX,
            attempts: u32::MAX,
            duration_ms: u64::MAX,
            http_status: Some(u16::MAX),
            bytes_sent: u64::MAX,
            bytes_received: u64::MAX,
        };
        SyncRecord {
            id: text(),
            rules_hash: text(),
            stages: vec![stage; entries],
            events_dropped: (0..entries as u64).map(|n| (format!("{n} {}", text()), n)).collect(),
            rules_rejected: (0..u32::try_from(entries).expect("small"))
                .map(|index| RejectedRule { page: 1, index, identifier: text(), reason: text() })
                .collect(),
            settings_applied: (0..entries).map(|_| change()).collect(),
            settings_reverted: (0..entries).map(|_| change()).collect(),
            warnings: (0..entries)
                .map(|_| SyncWarning {
                    stage: Stage::RuleDownload,
                    field: text(),
                    value: text(),
                    action: text(),
                })
                .collect(),
            ..begun()
        }
    }

    #[test]
    fn http_8_a_record_is_small_whatever_a_server_sent() {
        let long = "ä".repeat(30_000);
        for (entries, text) in [
            (1, &*long),
            (100, &*long),
            (3_000, "x"),
            (3_000, ""),
            (50, &hostile(10_000)),
            (200, &hostile(1_500)),
        ] {
            let mut record = filled(entries, text);
            record.error = Some(error(1_000));
            let bounded = record.clone().bounded();
            let json = serde_json::to_vec(&bounded).expect("JSON");
            assert!(json.len() <= MAX_RECORD_BYTES, "{entries}: {}", json.len());
            assert_eq!(serde_json::from_slice::<SyncRecord>(&json).expect("read"), bounded);
            // What is missing is counted.
            let gone = |list: &str| bounded.left_out.get(list).copied().unwrap_or(0);
            let warnings = bounded.warnings.len() as u64 + gone("warnings");
            let rejected = bounded.rules_rejected.len() as u64 + gone("rules_rejected");
            assert_eq!((warnings, rejected), (entries as u64, entries as u64));
            assert!(!bounded.warnings.is_empty() && !bounded.rules_rejected.is_empty());
            assert_eq!(bounded.clone().bounded(), bounded, "once is enough");
        }
    }

    #[test]
    fn http_8_a_text_of_a_record_is_cut_to_1_kib() {
        let bounded = filled(1, &"ä".repeat(600)).bounded();
        let cut = format!("{}…", "ä".repeat(510));
        assert_eq!(bounded.rules_rejected[0].identifier, cut);
        assert_eq!(bounded.settings_applied[0].after.as_deref(), Some(&*cut));
        assert_eq!(bounded.warnings[0].field, cut);
        assert!(bounded.left_out.is_empty());
    }

    #[test]
    fn http_8_an_ordinary_record_stays_as_it_is() {
        let record = SyncRecord { error: None, ..filled(20, "an ordinary text") };
        assert_eq!(record.clone().bounded(), record);
        assert!(!serde_json::to_string(&record).expect("JSON").contains("left_out"));
    }
}
