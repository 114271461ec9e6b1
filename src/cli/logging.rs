//! Log lines on standard error, as text or JSON.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::{Global, LogFormat, LogLevel};
use crate::{config, daemon};

/// Sends log lines of the chosen level and form to standard error.
pub(super) fn start(global: &Global) {
    let layer = stderr(global.log_format.unwrap_or(LogFormat::Text));
    let level = global.log_level.unwrap_or(LogLevel::Warn);
    // A second start in one process, as in tests, keeps the first.
    let _ = Registry::default().with(layer.with_filter(filter(level.into()))).try_init();
}

/// The same with a level that can be changed.
pub(super) fn start_adjustable(format: LogFormat, level: config::LogLevel) -> daemon::SetLevel {
    let (level, handle) = reload::Layer::new(filter(level));
    let _ = Registry::default().with(stderr(format).with_filter(level)).try_init();
    Box::new(move |level| {
        // Fails only once there is no subscriber.
        let _ = handle.reload(filter(level));
    })
}

fn stderr(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let stderr = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => stderr.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
    }
}

const fn filter(level: config::LogLevel) -> LevelFilter {
    match level {
        config::LogLevel::Off => LevelFilter::OFF,
        config::LogLevel::Error => LevelFilter::ERROR,
        config::LogLevel::Warn => LevelFilter::WARN,
        config::LogLevel::Info => LevelFilter::INFO,
        config::LogLevel::Debug => LevelFilter::DEBUG,
        config::LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl From<LogLevel> for config::LogLevel {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}
