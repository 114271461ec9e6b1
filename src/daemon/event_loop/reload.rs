//! The configuration in force: read again, adopted or refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::EventLoop;
use crate::config::{self, Config, Loaded, LogLevel};
use crate::control::configuration::ConfigurationReport;
use crate::daemon::control::server;
use crate::failure::Remedy as _;
use crate::host::{self, SystemHost};

/// How long reading the configuration may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(2);

/// The configuration as this process sees it.
pub(super) fn examine(loaded: &Loaded) -> ConfigurationReport {
    ConfigurationReport::examine(loaded, &SystemHost, |name| std::env::var(name).ok())
}

impl EventLoop {
    pub(super) fn group(&self) -> Option<u32> {
        let name = self.loaded.config.socket_group.as_deref()?;
        let number = host::group_id(name, &SystemHost);
        if number.is_none() {
            warn!(
                group = name,
                "SocketGroup names no group of this host; only the owner and root may use the control socket"
            );
        }
        number
    }

    /// Reads the configuration again. Answers whether another one is in force.
    pub(super) async fn reload(&mut self) -> bool {
        let sources = Arc::clone(&self.options.sources);
        let reading = tokio::task::spawn_blocking(move || Config::load(&sources()));
        let read = match timeout(RELOAD_TIMEOUT, reading).await {
            Ok(Ok(read)) => read.map_err(|error| error.with_fix()),
            Ok(Err(error)) => Err(format!("reading the configuration failed: {error}")),
            Err(_) => Err("the configuration cannot be read: its files do not answer".to_owned()),
        };
        match read {
            Ok(loaded) => {
                if self.refused.take().is_some() {
                    info!("the configuration is in order again");
                }
                let adopted = self.adopt(loaded);
                self.examine().await;
                adopted
            }
            Err(error) => {
                if self.refused.as_ref() != Some(&error) {
                    warn!(error, "a new configuration is refused; the old one stays in force");
                }
                self.refused = Some(error);
                false
            }
        }
    }

    /// Examines the configuration in force again. A file system that does not
    /// respond leaves the report as it was.
    async fn examine(&mut self) {
        let loaded = Arc::clone(&self.loaded);
        let examining = tokio::task::spawn_blocking(move || examine(&loaded));
        if let Ok(Ok(report)) = timeout(RELOAD_TIMEOUT, examining).await {
            self.configuration = report;
        }
    }

    /// Puts a configuration in force; answers whether it is another one.
    fn adopt(&mut self, loaded: Loaded) -> bool {
        if loaded.config == self.loaded.config {
            return false;
        }
        info!("the configuration has changed");
        for finding in &loaded.findings {
            if !self.loaded.findings.contains(finding) {
                warn!(key = finding.key, source = %finding.source, "{finding}");
            }
        }
        if config::state_dir(self.options.state_dir.as_deref(), &loaded.config) != self.state_dir {
            warn!("another StateDirectory takes effect when the daemon is started again");
        }
        let regroup = loaded.config.socket_group != self.loaded.config.socket_group;
        self.loaded = Arc::new(loaded);
        self.configured.send_replace(Arc::clone(&self.loaded));
        let level = self.options.level.unwrap_or(self.loaded.config.log_level);
        self.set_level(self.asked_level.unwrap_or(level));
        if regroup && let Err(error) = server::permit(&self.state_dir, self.group()) {
            error!(%error, "the new SocketGroup has no access to the control socket");
        }
        true
    }

    pub(super) fn set_level(&mut self, level: LogLevel) {
        if level != self.level {
            self.level = level;
            (self.options.set_level)(level);
        }
    }
}
