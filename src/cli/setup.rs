//! What every command that needs the configuration begins with.

use std::path::PathBuf;

use super::{Error, Global};
use crate::config::{self, Config, Finding, Severity, Sources, system_files};
use crate::host::{self, HostSource as _, SystemHost};

/// A configuration to act on.
#[derive(Debug)]
pub(super) struct Setup {
    /// The typed values.
    pub(super) config: Config,
    /// Where rules, events and settings are kept.
    pub(super) state_dir: PathBuf,
}

/// Where the configuration of this command comes from.
pub(super) fn sources(global: &Global) -> Sources {
    let host = SystemHost;
    let console_user = host::console_user(&host);
    Sources {
        sets: global.set.clone(),
        file: global.config.clone(),
        system: system_files(host.uname().is_macos(), console_user.as_deref()),
    }
}

/// Reads the configuration and warns of what is wrong with it.
///
/// # Errors
/// If the configuration cannot be acted on.
pub(super) fn load(global: &Global) -> Result<Setup, Error> {
    let loaded = Config::load(&sources(global))?;
    warn_of(&loaded.findings);
    let state_dir = config::state_dir(global.state_dir.as_deref(), &loaded.config);
    let setup = Setup { config: loaded.config, state_dir };
    tracing::debug!(state_dir = %setup.state_dir.display(), "configuration read");
    Ok(setup)
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
