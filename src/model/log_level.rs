//! How severe a log line is.

use strum::{EnumString, IntoStaticStr, VariantNames};

/// The least severe log lines that are written.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    EnumString,
    IntoStaticStr,
    VariantNames,
    clap::ValueEnum,
)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// What failed.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a sync.
    #[default]
    Info,
    /// Each request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name on the command line and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}
