//! Loads the configuration for the commands.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Error, Global, output};
use crate::config::{
    self, Config, ConfigError, Finding, FindingKind, Severity, Sources, system_files,
};
use crate::failure::Remedy as _;
use crate::host::{HostSource as _, SystemHost};

/// The configuration of a command.
#[derive(Debug)]
pub(super) struct Setup {
    /// The typed values.
    pub(super) config: Arc<Config>,
    /// Where rules, events and settings are kept.
    pub(super) state_dir: PathBuf,
    /// Why no sync would use this configuration; see [`load_to_read`].
    refusal: Option<ConfigRefusal>,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, Serialize)]
struct ConfigRefusal {
    message: String,
    fix: String,
}

impl Setup {
    fn new(global: &Global, config: Arc<Config>, refusal: Option<ConfigRefusal>) -> Self {
        let state_dir = config::state_dir(global.state_dir.as_deref(), &config);
        tracing::debug!(state_dir = %state_dir.display(), "configuration read");
        Self { config, state_dir, refusal }
    }

    /// Why the configuration is refused, and how to fix that; `None` if it is not.
    pub(super) fn refusal(&self) -> Option<(&str, &str)> {
        self.refusal.as_ref().map(|refusal| (&*refusal.message, &*refusal.fix))
    }

    /// Prints a report as one JSON object, with `configuration_error` if the
    /// configuration is refused (CONF-4).
    pub(super) fn print_json(&self, report: &impl Serialize) {
        #[derive(Serialize)]
        struct WithRefusal<'a, T> {
            #[serde(flatten)]
            report: &'a T,
            #[serde(skip_serializing_if = "Option::is_none")]
            configuration_error: Option<&'a ConfigRefusal>,
        }
        output::json(&WithRefusal { report, configuration_error: self.refusal.as_ref() });
    }
}

/// Where the configuration of this command comes from.
pub(super) fn sources(global: &Global) -> Sources {
    let host = SystemHost;
    Sources {
        sets: global.set.clone(),
        file: global.config.clone(),
        system: system_files(host.uname().is_macos())
            .iter()
            .map(|path| global.system_root.join(path.strip_prefix("/").unwrap_or(path)))
            .collect(),
    }
}

/// Reads the configuration to act on, and logs warnings about it.
///
/// # Errors
/// If it is refused.
pub(super) fn load(global: &Global) -> Result<Setup, ConfigError> {
    let loaded = Config::load(&sources(global))?;
    warn_of(&loaded.findings);
    Ok(Setup::new(global, loaded.config, None))
}

/// Reads the configuration for a command that only reads the state directory.
/// A refused one does not stop it: standard error and the command's JSON say
/// that it is refused, and the values that can be used count (CONF-4).
///
/// # Errors
/// If the command line is wrong.
pub(super) fn load_to_read(global: &Global) -> Result<Setup, Error> {
    let loaded = Config::examine(&sources(global));
    let error = loaded.findings.iter().find(|finding| finding.severity == Severity::Error);
    let Some(error) = error else {
        warn_of(&loaded.findings);
        return Ok(Setup::new(global, loaded.config, None));
    };
    let refused = ConfigError::of(&loaded.findings);
    if error.kind == FindingKind::BadSet {
        return Err(refused.into());
    }
    output::note(refused.with_fix());
    let refusal = ConfigRefusal { message: error.what(), fix: error.fix.clone() };
    Ok(Setup::new(global, loaded.config, Some(refusal)))
}

/// Logs what is wrong, each thing once.
pub(super) fn warn_of(findings: &[Finding]) {
    for finding in findings {
        let key = finding.key.as_deref().unwrap_or_default();
        match finding.severity {
            Severity::Note => tracing::debug!(key, source = %finding.source, "{finding}"),
            Severity::Warning => tracing::warn!(key, source = %finding.source, "{finding}"),
            Severity::Error => tracing::error!(key, source = %finding.source, "{finding}"),
        }
    }
}
