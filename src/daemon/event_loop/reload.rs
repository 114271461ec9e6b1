//! The configuration in effect: watched, read again, adopted or refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::EventLoop;
use crate::config::{self, Config, Loaded};
use crate::control::configuration::{ConfigurationReport, ConfiguredFile};
use crate::daemon::Options;
use crate::daemon::control::server;
use crate::daemon::own_program::{self, OwnProgram};
use crate::daemon::{SETTLE_TIME, source_watch};
use crate::failure::Remedy as _;
use crate::host::{self, RememberingHost, SystemHost};
use crate::model::LogLevel;
use crate::sync::schedule::Requester;

/// How long reading the configuration may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a source must be missing until its values no longer hold: management
/// systems remove a profile before they install its next version.
const VANISH_TIME: Duration = Duration::from_mins(1);

/// What a source that is missing means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vanished {
    /// Its values no longer hold.
    IsGone,
    /// It may come back within [`VANISH_TIME`].
    MayReturn,
}

/// The files to watch: the sources, what the way to the server depends on, and this
/// program.
pub(super) fn watched_files(
    options: &Options,
    loaded: &Loaded,
    program: Option<&OwnProgram>,
) -> Vec<PathBuf> {
    let config = &loaded.config;
    let mut files = (options.sources)().files();
    files.extend(program.map(|program| program.path().to_owned()));
    let named = [
        &config.server_auth_roots_file,
        &config.client_auth_certificate_file,
        &config.machine_id_plist,
    ];
    files.extend(named.into_iter().flatten().cloned());
    files
}

/// Whether the server, the credentials for it or the machine id differ.
fn reaches_server_differently(old: &Config, new: &Config) -> bool {
    fn way(config: &Config) -> impl PartialEq + '_ {
        (
            &config.sync_base_url,
            (&config.proxy, &config.extra_headers),
            (&config.server_auth_roots_file, &config.server_auth_roots_data),
            (&config.client_auth_certificate_file, &config.client_auth_certificate_password),
            (&config.machine_id, &config.machine_id_plist, &config.machine_id_key),
        )
    }
    way(old) != way(new)
}

/// What a sync needs besides the configuration's values: the machine id, and when
/// each file with credentials was last changed, if it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access(Option<String>, Vec<Option<SystemTime>>);

pub(super) fn access(report: &ConfigurationReport) -> Access {
    let credentials = report
        .files
        .iter()
        .filter(|file| matches!(&*file.key, "ServerAuthRootsFile" | "ClientAuthCertificateFile"));
    let changed = |file: &ConfiguredFile| {
        if file.error.is_some() {
            return None;
        }
        Path::new(&file.path).metadata().and_then(|metadata| metadata.modified()).ok()
    };
    Access(report.machine_id.clone(), credentials.map(changed).collect())
}

/// The configuration as this process sees it.
pub(super) fn examine(loaded: &Loaded, state_dir: &Path) -> ConfigurationReport {
    let host = RememberingHost::new(SystemHost, state_dir);
    ConfigurationReport::examine(loaded, &host, |name| std::env::var(name).ok())
}

impl EventLoop {
    pub(super) fn group(&self) -> Option<u32> {
        let name = self.loaded.config.socket_group.as_deref()?;
        let number = host::group_id(name, &SystemHost);
        if number.is_none() {
            warn!(
                group = name,
                "the group of SocketGroup does not exist; only the owner and root may use the control socket"
            );
        }
        number
    }

    /// Looks whether the file of this program is another one. A file system that does
    /// not respond leaves it as it was.
    pub(super) async fn look_at_program(&mut self) {
        let Some(path) = self.own_program.as_ref().map(|program| program.path().to_owned()) else {
            return;
        };
        let looking = tokio::task::spawn_blocking(move || own_program::examine(&path));
        let Ok(Ok(found)) = timeout(RELOAD_TIMEOUT, looking).await else { return };
        let elapsed = self.alarm.now().elapsed;
        self.look_again_at =
            self.own_program.as_mut().and_then(|program| program.found(found, elapsed));
    }

    /// Whether the daemon is to end for the service manager to start another program:
    /// no sync and no upload runs.
    pub(super) fn is_to_restart(&self) -> bool {
        self.own_program.as_ref().is_some_and(OwnProgram::is_replaced)
            && self.look_again_at.is_none()
            && self.running.is_none()
            && self.uploading.is_none()
    }

    /// Opens the log again and reads the configuration because of SIGHUP, and syncs if
    /// that is another one.
    pub(super) async fn reload_on_signal(&mut self) {
        (self.options.reopen_log)();
        if self.reload(Vanished::IsGone).await {
            self.schedule.ask(Requester::Owner, self.alarm.now());
        }
        self.publish();
    }

    /// A source may have changed: the configuration is read once whoever writes it
    /// has had time to finish.
    pub(super) async fn source_changed(&mut self) {
        let due = self.alarm.now().elapsed + SETTLE_TIME;
        self.reload_at = Some(self.reload_at.map_or(due, |at| at.min(due)));
        // A change can end what is watched, such as a directory.
        self.watch_sources().await;
    }

    /// Reads the configuration because a source has changed, and syncs if the way
    /// to the server is another one or has become usable.
    pub(super) async fn reload_changed(&mut self) {
        self.reload_at = None;
        let (loaded, access) = (Arc::clone(&self.loaded), self.access.clone());
        self.reload(Vanished::MayReturn).await;
        if reaches_server_differently(&loaded.config, &self.loaded.config) || access != self.access
        {
            info!("the way to the server has changed; a sync follows");
            self.schedule.ask(Requester::Owner, self.alarm.now());
        }
        self.publish();
    }

    /// Reads the configuration again and returns whether it is another one.
    pub(super) async fn reload(&mut self, vanished: Vanished) -> bool {
        let sources = Arc::clone(&self.options.sources);
        let reading = tokio::task::spawn_blocking(move || Config::load(&sources()));
        let read = match timeout(RELOAD_TIMEOUT, reading).await {
            Ok(Ok(read)) => read.map_err(|error| error.with_fix()),
            Ok(Err(error)) => Err(format!("reading the configuration failed: {error}")),
            Err(_) => Err("the configuration cannot be read: its files do not respond".to_owned()),
        };
        let loaded = match read {
            Ok(loaded) => loaded,
            Err(error) => {
                if self.refused.as_ref() != Some(&error) {
                    warn!(
                        error,
                        "a new configuration is refused; the previous one stays in effect"
                    );
                }
                self.refused = Some(error);
                self.notify(self.notified);
                return false;
            }
        };
        if self.refused.take().is_some() {
            info!("the configuration can be used again");
            self.notify(self.notified);
        }
        if vanished == Vanished::MayReturn && self.is_source_missing(&loaded) {
            return false;
        }
        self.source_missing_since = None;
        let adopted = self.adopt(loaded);
        self.examine().await;
        if adopted {
            self.watch_sources().await;
        }
        // It also depends on the machine id that was just examined.
        self.update_relay().await;
        adopted
    }

    /// Whether a source of the configuration in effect has been missing for less
    /// than [`VANISH_TIME`].
    fn is_source_missing(&mut self, loaded: &Loaded) -> bool {
        if self.loaded.sources.iter().all(|source| loaded.sources.contains(source)) {
            return false;
        }
        let now = self.alarm.now().elapsed;
        let gone = *self.source_missing_since.get_or_insert(now) + VANISH_TIME;
        if gone <= now {
            return false;
        }
        self.reload_at = Some(self.reload_at.map_or(gone, |at| at.min(gone)));
        true
    }

    /// Watches the sources, and the files that the way to the server depends on.
    async fn watch_sources(&mut self) {
        let files = watched_files(&self.options, &self.loaded, self.own_program.as_ref());
        let arming = tokio::task::spawn_blocking(move || source_watch::arm(files));
        if let Ok(Ok(armed)) = timeout(RELOAD_TIMEOUT, arming).await {
            self.sources = armed.connect();
        }
    }

    /// Examines the configuration in effect again. A file system that does not
    /// respond leaves the report as it was.
    async fn examine(&mut self) {
        let loaded = Arc::clone(&self.loaded);
        let state_dir = self.state_dir.clone();
        let examining = tokio::task::spawn_blocking(move || {
            let report = examine(&loaded, &state_dir);
            let access = access(&report);
            (report, access)
        });
        if let Ok(Ok((report, access))) = timeout(RELOAD_TIMEOUT, examining).await {
            (self.configuration, self.access) = (report, access);
        }
    }

    /// Puts a configuration in effect and returns whether it is another one.
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
            warn!("the new StateDirectory takes effect when the daemon is restarted");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use crate::daemon::event_loop::requests::tests::daemon;

    fn config(url: &str, level: LogLevel) -> Loaded {
        let sync_base_url = Some(crate::model::BaseUrl::parse(url).expect("a URL"));
        let config = Config { sync_base_url, log_level: level, ..Config::default() };
        Loaded { config: config.into(), ..Config::resolve(&[]) }
    }

    /// CONF-3: a sync follows a change of the server, its credentials or the machine
    /// id, and of nothing else.
    #[test]
    fn conf_3_a_sync_follows_if_the_way_to_the_server_changes() {
        let old = config("https://one.example/", LogLevel::Info).config;
        let level = config("https://one.example/", LogLevel::Debug).config;
        assert!(!reaches_server_differently(&old, &level));
        let server = config("https://two.example/", LogLevel::Info).config;
        let machine = Config { machine_id: Some("another".to_owned()), ..(*old).clone() };
        let certificate = Some(PathBuf::from("/etc/client.p12"));
        let certificate = Config { client_auth_certificate_file: certificate, ..(*old).clone() };
        for new in [(*server).clone(), machine, certificate] {
            assert!(reaches_server_differently(&old, &new));
        }
    }

    /// CONF-3: what a sync needs has changed once a file with credentials comes into
    /// being.
    #[test]
    fn conf_3_credentials_that_become_usable_are_a_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("roots.pem");
        let config = Config { server_auth_roots_file: Some(file.clone()), ..Config::default() };
        let loaded = Loaded { config: config.into(), ..Config::resolve(&[]) };
        let before = access(&examine(&loaded, Path::new("/nonexistent")));
        assert_eq!(access(&examine(&loaded, Path::new("/nonexistent"))), before);
        std::fs::write(file, "x").expect("written");
        assert_ne!(access(&examine(&loaded, Path::new("/nonexistent"))), before);
    }

    /// CONF-1: a source that vanishes holds for a minute, in which it may come back.
    #[tokio::test]
    async fn conf_1_a_source_that_vanishes_holds_for_a_minute() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut daemon = daemon(dir.path());
        let source = Source::File(PathBuf::from("/etc/santa-sync/config.plist"));
        let with = Loaded { sources: vec![source], ..Config::resolve(&[]) };
        let without = Config::resolve(&[]);
        daemon.loaded = Arc::new(with.clone());
        assert!(!daemon.is_source_missing(&with));
        assert!(daemon.is_source_missing(&without));
        let since = daemon.source_missing_since.expect("it is noted");
        assert_eq!(daemon.reload_at, Some(since + VANISH_TIME));
        daemon.source_missing_since = since.checked_sub(VANISH_TIME);
        assert!(!daemon.is_source_missing(&without), "it is gone");
    }
}
