//! Log lines on standard error, as text or JSON.
//!
//! Every line passes through [`LogWriter`], wherever it comes from: there it is
//! made safe to show, cut, and counted, so that no call site can forget it.

use crate::model::LogLevel;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::flood::Flood;
use super::{Global, LogFormat, journal, stderr};
use crate::clock::{Clock as _, SystemClock};
use crate::daemon;

mod flood;
mod log_file;
mod safe;

pub(super) use log_file::LogFile;

/// How long the last lines of the daemon or of a sync of its may take: DAEMON-3
/// leaves 5 s for everything.
pub(super) const DAEMON_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the last lines of a command may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The log of a command. Dropping it reports the lines that were left out and
/// waits, for a limited time, until every line has been written.
#[derive(Debug)]
pub(super) struct Log {
    flood: Option<Arc<Flood>>,
    format: LogFormat,
    flush_timeout: Duration,
}

impl Drop for Log {
    fn drop(&mut self) {
        for (place, lines) in self.flood.iter().flat_map(|flood| flood.left_out()) {
            let message = format!("log lines like an earlier one were left out, from {place}");
            own_line(self.format, &message, lines);
        }
        stderr::flush(self.flush_timeout);
    }
}

/// Sends log lines of the chosen level and form to standard error. A command makes
/// one sync, so the number of lines from each place in the program is limited:
/// that bounds what a server can have written.
pub(super) fn start(global: &Global, of_daemon: bool) -> Log {
    let format = global.log_format.unwrap_or(LogFormat::Text);
    let flood = Arc::new(Flood::default());
    let layer = lines(format, Some(Arc::clone(&flood)));
    let level = global.log_level.unwrap_or(LogLevel::Warn);
    // A second start in one process, as in tests, keeps the first.
    let _ = Registry::default().with(layer.with_filter(filter(level))).try_init();
    let flush_timeout = if of_daemon { DAEMON_FLUSH_TIMEOUT } else { FLUSH_TIMEOUT };
    Log { flood: Some(flood), format, flush_timeout }
}

/// The same for the daemon: with a level that can be changed, and without a
/// bound, since it lives for long and makes no sync itself.
pub(super) fn start_adjustable(format: LogFormat, level: LogLevel) -> (Log, daemon::SetLevel) {
    let (level, handle) = reload::Layer::new(filter(level));
    let _ = Registry::default().with(lines(format, None).with_filter(level)).try_init();
    let set_level = Box::new(move |level| {
        // Fails only once there is no subscriber.
        let _ = handle.reload(filter(level));
    });
    (Log { flood: None, format, flush_timeout: DAEMON_FLUSH_TIMEOUT }, set_level)
}

fn lines(format: LogFormat, flood: Option<Arc<Flood>>) -> Box<dyn Layer<Registry> + Send + Sync> {
    stderr::start(move |dropped| {
        let message = "log lines were dropped, because nobody read the earlier ones";
        let line = safe::own_line(format, message, dropped, now());
        journal::lines(Level::WARN, &line).into_owned()
    });
    let lines = fmt::layer().with_writer(LogWriters { format, flood });
    match format {
        LogFormat::Text if journal::is_connected() => {
            lines.with_target(false).with_ansi(false).without_time().boxed()
        }
        LogFormat::Text => lines.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// Writes a warning about the log itself.
fn own_line(format: LogFormat, message: &str, lines: u64) {
    let line = safe::own_line(format, message, lines, now());
    stderr::line(&journal::lines(Level::WARN, &line));
}

fn now() -> crate::model::Timestamp {
    SystemClock::new().now().wall
}

/// Makes the writer of each line.
struct LogWriters {
    format: LogFormat,
    /// Counts lines by the place they come from.
    flood: Option<Arc<Flood>>,
}

/// Takes one formatted line.
struct LogWriter {
    format: LogFormat,
    level: Level,
    admitted: flood::Admitted,
}

impl<'a> MakeWriter<'a> for LogWriters {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter { format: self.format, level: Level::INFO, admitted: flood::Admitted::Yes }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> LogWriter {
        let flood = self.flood.as_ref();
        let admitted = flood.map_or(flood::Admitted::Yes, |flood| flood.admit(of));
        LogWriter { format: self.format, level: *of.level(), admitted }
    }
}

impl LogWriter {
    fn line(&self, text: &str) {
        stderr::line(&journal::lines(self.level, &safe::line(self.format, text)));
    }
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        match self.admitted {
            flood::Admitted::Yes => self.line(&text),
            flood::Admitted::Last => {
                self.line(&text);
                let message = "further lines like this one are left out and counted";
                own_line(self.format, message, flood::MAX_LINES);
            }
            flood::Admitted::No => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines of that level from this program, and from its libraries those that an
/// operator should see: they do not know what is a secret in the URLs and
/// headers that they handle.
fn filter(level: LogLevel) -> Targets {
    let level = level_filter(level);
    let own = env!("CARGO_CRATE_NAME");
    Targets::new().with_target(own, level).with_default(level.min(LevelFilter::WARN))
}

const fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
