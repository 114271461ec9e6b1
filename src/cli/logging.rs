//! Log lines on standard error, as text or JSON.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use super::{Global, LogFormat, LogLevel};

/// Sends log lines of the chosen level and form to standard error.
pub(super) fn start(global: &Global) {
    let level = match global.log_level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let stderr = fmt::layer().with_writer(std::io::stderr);
    let layer = match global.log_format {
        LogFormat::Text => stderr.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
    };
    // A second start in one process, as in tests, keeps the first.
    let _ = Registry::default().with(layer.with_filter(level)).try_init();
}
