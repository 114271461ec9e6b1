//! A formatted log line made safe to show, in either form.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::cli::{LogFormat, stderr};
use crate::model::Timestamp;
use crate::model::text::{escaped, escaped_json, escaped_start, to_json};

/// The most characters of a text in a JSON line that is too long.
const MAX_FIELD: usize = 1024;

/// The line as it is written, without its line end. Nothing in it can end it,
/// and it is not longer than [`stderr::MAX_LINE`].
pub(super) fn line(format: LogFormat, line: &str) -> Cow<'_, str> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let safe = match format {
        LogFormat::Text => escaped(line),
        LogFormat::Json => escaped_json(line),
    };
    if safe.len() <= stderr::MAX_LINE {
        return safe;
    }
    match format {
        LogFormat::Text => {
            let end = safe.floor_char_boundary(stderr::MAX_LINE - '…'.len_utf8());
            Cow::Owned(format!("{}…", &safe[..end]))
        }
        LogFormat::Json => Cow::Owned(shortened(line)),
    }
}

/// The JSON line with its texts cut, and if that does not help, its own fields
/// alone.
fn shortened(line: &str) -> String {
    let mut fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
    fields.values_mut().for_each(cut);
    let short = to_json(&fields).unwrap_or_default();
    if short.len() <= stderr::MAX_LINE {
        return short;
    }
    fields.retain(|name, _| matches!(name.as_str(), "timestamp" | "level" | "message" | "target"));
    to_json(&fields).unwrap_or_default()
}

fn cut(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > MAX_FIELD => *text = escaped_start(text, MAX_FIELD),
        Value::Array(values) => values.iter_mut().for_each(cut),
        Value::Object(fields) => fields.values_mut().for_each(cut),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A warning about the log itself, which cannot pass through the log.
pub(super) fn own_line(format: LogFormat, message: &str, lines: u64, now: Timestamp) -> String {
    match format {
        LogFormat::Text => format!("{now}  WARN {message} lines={lines}"),
        LogFormat::Json => {
            let fields = json!({
                "timestamp": now, "level": "WARN", "message": message, "lines": lines,
                "target": module_path!(),
            });
            to_json(&fields).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::model::text::{HOSTILE, is_unsafe_to_show};

    /// Collects what [`line`] makes of each log line.
    #[derive(Clone)]
    struct Collected(LogFormat, Arc<Mutex<Vec<String>>>);

    impl io::Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
            self.1.lock().expect("unpoisoned").push(line(self.0, &text).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Collected {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Each way in which a text gets into a log line, the name of a field
    /// aside, which is ours.
    fn logged(format: LogFormat, text: &str) -> Vec<String> {
        let collected = Collected(format, Arc::default());
        let layer = tracing_subscriber::fmt::layer().with_writer(collected.clone());
        let log = || {
            tracing::warn!(identifier = text, "a field");
            tracing::warn!(shown = %text, debugged = ?text, "fields");
            tracing::warn!("{text}");
            tracing::warn!(list = ?[Some(text)], path = %std::path::Path::new(text).display(), "x");
        };
        let registry = tracing_subscriber::registry();
        match format {
            LogFormat::Text => {
                let layer = layer.with_target(false).with_ansi(false);
                tracing::subscriber::with_default(registry.with(layer), log);
            }
            LogFormat::Json => {
                let layer = layer.json().flatten_event(true);
                tracing::subscriber::with_default(registry.with(layer), log);
            }
        }
        let lines = collected.1.lock().expect("unpoisoned").clone();
        assert_eq!(lines.len(), 4);
        lines
    }

    #[test]
    fn never_does_a_log_line_hold_more_than_text() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for line in logged(format, HOSTILE) {
                assert!(!line.contains(is_unsafe_to_show), "{line:?}");
            }
        }
        let lines = logged(LogFormat::Json, HOSTILE);
        let first: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(first["identifier"], HOSTILE);
    }

    #[test]
    fn a_log_line_of_a_megabyte_is_cut() {
        let long = HOSTILE.repeat((1 << 20) / HOSTILE.len());
        for format in [LogFormat::Text, LogFormat::Json] {
            for line in logged(format, &long) {
                assert!(line.len() <= stderr::MAX_LINE, "{} bytes", line.len());
                assert!(!line.contains(is_unsafe_to_show), "{line:?}");
                if format == LogFormat::Json {
                    serde_json::from_str::<Value>(&line).expect("JSON");
                }
            }
        }
    }

    #[test]
    fn a_line_about_the_log_itself_has_the_form_of_the_others() {
        let now = Timestamp::from_secs(1_800_000_000);
        assert_eq!(
            own_line(LogFormat::Text, "lines were dropped", 7, now),
            format!("{now}  WARN lines were dropped lines=7")
        );
        let json = own_line(LogFormat::Json, "lines were dropped", 7, now);
        let fields: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&fields["level"], &fields["lines"]), (&json!("WARN"), &json!(7)));
        let _ = io::sink().flush();
    }
}
