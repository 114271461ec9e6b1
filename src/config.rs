//! Configuration: where values come from, which one holds, what is wrong with
//! them, and the typed result.
//!
//! Reading files and choosing among values are apart: [`Config::examine`] reads
//! the [`Sources`] into layers, [`Config::resolve`] decides without I/O. Nothing
//! here follows a key; a wrong value is a [`Finding`] with its fix, and only
//! keys that security rests on make a configuration unusable (CONF-2).

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

mod build;
mod cms;
mod effective;
mod finding;
pub mod keys;
mod profile;
mod proxy;
mod relay;
mod santa_keys;
mod santas_profile;
mod shown;
mod source;
mod value;

pub use effective::{Chosen, Effective};
pub use finding::{Finding, FindingKind, Severity, Source};
pub use profile::{Conflict, Domain, DomainKeys, ProfileError, read_domains};
pub use relay::{RELAY_SOCKET, RelayConfig, default_relay_dir, leads_to};
pub use santa_keys::{SANTA_KEYS, SantaSource};
pub use santas_profile::{RawKeys, SantaProfile, static_rule};
pub use shown::{revealed, shown};
pub use source::{Layer, MANAGED_PREFERENCES, MAX_FILE, Sources, system_files};

use crate::failure::Remedy;
use crate::model::{
    BaseUrl, ClientMode, ContentEncoding, FileAccessAction, LogLevel, MediaPolicy, Proxy, Rule,
    Secret, Settings, Transfer,
};

/// The values that hold, typed. `None` is "not configured". Secrets are masked
/// in every shown form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Server to sync with; without one there is no sync.
    pub sync_base_url: Option<BaseUrl>,
    /// The form of the bodies.
    pub transfer: Transfer,
    /// Compression of request bodies.
    pub content_encoding: ContentEncoding,
    /// Headers added to every request, without the restricted ones.
    pub extra_headers: Vec<(String, Secret)>,
    /// HTTP/1.1 even where the server offers HTTP/2.
    pub disable_http2: bool,
    /// Where the proxy comes from.
    pub proxy: Proxy,
    /// `Some(false)` holds events back during clean syncs.
    pub enable_clean_sync_event_upload: Option<bool>,
    /// PEM file of the only trusted roots.
    pub server_auth_roots_file: Option<PathBuf>,
    /// PEM bytes of the only trusted roots, if there is no file.
    pub server_auth_roots_data: Option<Vec<u8>>,
    /// PKCS#12 or PEM file of the client certificate and its key.
    pub client_auth_certificate_file: Option<PathBuf>,
    /// Password of that file.
    pub client_auth_certificate_password: Option<Secret>,
    /// Machine id as configured, not yet checked.
    pub machine_id: Option<String>,
    /// Property list that holds the machine id.
    pub machine_id_plist: Option<PathBuf>,
    /// Its key in that list.
    pub machine_id_key: Option<String>,
    /// Short name of the person the host belongs to.
    pub machine_owner: Option<String>,
    /// Property list that holds the owner and the owner's groups.
    pub machine_owner_plist: Option<PathBuf>,
    /// The owner's key in that list.
    pub machine_owner_key: Option<String>,
    /// Groups of the owner.
    pub machine_owner_groups: Vec<String>,
    /// The groups' key in that list.
    pub machine_owner_groups_key: Option<String>,
    /// See [`Settings::client_mode`].
    pub client_mode: Option<ClientMode>,
    /// See [`Settings::enable_transitive_rules`].
    pub enable_transitive_rules: Option<bool>,
    /// See [`Settings::enable_all_event_upload`].
    pub enable_all_event_upload: Option<bool>,
    /// See [`Settings::disable_unknown_event_upload`].
    pub disable_unknown_event_upload: Option<bool>,
    /// See [`Settings::allowed_path_regex`].
    pub allowed_path_regex: Option<String>,
    /// See [`Settings::blocked_path_regex`].
    pub blocked_path_regex: Option<String>,
    /// See [`Settings::removable_media`].
    pub removable_media: Option<MediaPolicy>,
    /// See [`Settings::encrypted_removable_media`].
    pub encrypted_removable_media: Option<MediaPolicy>,
    /// See [`Settings::override_file_access_action`].
    pub override_file_access_action: Option<FileAccessAction>,
    /// See [`Settings::event_detail_url`].
    pub event_detail_url: Option<String>,
    /// See [`Settings::event_detail_text`].
    pub event_detail_text: Option<String>,
    /// Rules that win over every rule of the store, in the order configured.
    pub static_rules: Vec<Rule>,
    /// Where rules, events and settings are kept; see [`state_dir`].
    pub state_directory: Option<PathBuf>,
    /// How long a sync may take; 1 minute to 1 day.
    pub sync_deadline: Duration,
    /// Another program's `events.db` to upload from, too.
    pub events_database: Option<PathBuf>,
    /// At most this many events stay queued.
    pub event_queue_limit: u64,
    /// Events are uploaded soon after something was denied, not only in syncs.
    pub prompt_event_upload: bool,
    /// The largest share of the stored rules, in percent, that one download may
    /// remove or turn from allowing to blocking or back; 1 to 100. `None`: any.
    pub guard_removed_percent: Option<u8>,
    /// Program to run for rules with an application to name.
    pub notification_hook: Option<PathBuf>,
    /// Group that may ask the daemon for its status and for a sync.
    pub socket_group: Option<String>,
    /// File for metrics.
    pub metrics_file: Option<PathBuf>,
    /// Least severe log lines of the daemon.
    pub log_level: LogLevel,
    /// Whether the daemon's log lines are JSON.
    pub log_json: bool,
    /// How the authorizer of this host is served; `None`: it is not.
    pub relay: Option<RelayConfig>,
    /// What Santa's own profile says of Santa's syncs; `None` without a relay or
    /// without Santa's domain. The agent does not follow it.
    pub santa_profile: Option<SantaProfile>,
}

/// A configuration, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed values.
    pub config: Arc<Config>,
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Which source's value holds for each key.
    pub effective: Effective,
    /// The sources there are, the strongest first.
    pub sources: Vec<Source>,
}

impl Loaded {
    /// Whether Santa's own profile has it keep its queued events in clean syncs,
    /// in which it deletes them otherwise.
    #[must_use]
    pub fn authorizer_keeps_events(&self) -> bool {
        let source = self.effective.source("SyncEnableCleanSyncEventUpload");
        self.config.enable_clean_sync_event_upload == Some(true) && source.is_santas()
    }
}

/// Why there is no configuration to work with.
#[derive(Clone, Debug, Error)]
pub enum ConfigError {
    /// Findings of [`Severity::Error`]; at least one.
    #[error("{}", rejected(.0))]
    Rejected(Vec<Finding>),
}

impl ConfigError {
    /// The error of a configuration with these findings.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let errors = findings.iter().filter(|f| f.severity == Severity::Error);
        Self::Rejected(errors.cloned().collect())
    }

    /// Every error, in the order found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        let Self::Rejected(findings) = self;
        findings
    }
}

impl Remedy for ConfigError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        self.findings().first().map(|finding| finding.fix.clone().into())
    }
}

fn rejected(errors: &[Finding]) -> String {
    let first = errors.first().map(Finding::what).unwrap_or_default();
    match errors.len() {
        0 | 1 => format!("the configuration is refused: {first}"),
        n => format!(
            "the configuration is refused: {first} (and {} more; `santa-sync config check` \
             lists them)",
            n - 1
        ),
    }
}

impl Config {
    /// Reads the sources and returns the configuration.
    ///
    /// # Errors
    /// If a source cannot be read, or a key that security rests on is wrong.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let loaded = Self::examine(sources);
        let refused = loaded.findings.iter().any(|f| f.severity == Severity::Error);
        if refused { Err(ConfigError::of(&loaded.findings)) } else { Ok(loaded) }
    }

    /// Reads the sources and returns what can be read of them, errors among the
    /// findings. For showing and checking; to act on, use [`Config::load`].
    #[must_use]
    pub fn examine(sources: &Sources) -> Loaded {
        Self::read(sources, false)
    }

    /// As [`Self::examine`], for a profile whose placeholders are not filled in
    /// yet: values that hold one are not checked.
    #[must_use]
    pub fn examine_template(sources: &Sources) -> Loaded {
        Self::read(sources, true)
    }

    fn read(sources: &Sources, template: bool) -> Loaded {
        let mut findings = Vec::new();
        let layers = sources.read(&mut findings);
        let mut loaded = Self::choose(&layers, template);
        findings.append(&mut loaded.findings);
        Loaded { findings, ..loaded }
    }

    /// Decides among layers, the strongest first.
    #[must_use]
    pub fn resolve(layers: &[Layer]) -> Loaded {
        Self::choose(layers, false)
    }

    fn choose(layers: &[Layer], template: bool) -> Loaded {
        let mut findings = Vec::new();
        let effective = Effective::choose(layers, template, &mut findings);
        let mut config = build::build(&effective, &mut findings);
        config.santa_profile = config.relay.as_ref().and_then(|_| SantaProfile::of(layers));
        let sources = layers.iter().map(|layer| layer.source.clone()).collect();
        Loaded { config: Arc::new(config), findings, effective, sources }
    }

    /// The configured values that a server may set, in the form of its settings:
    /// what holds where the server is silent.
    #[must_use]
    pub fn as_settings(&self) -> Settings {
        Settings {
            client_mode: self.client_mode,
            enable_transitive_rules: self.enable_transitive_rules,
            enable_all_event_upload: self.enable_all_event_upload,
            disable_unknown_event_upload: self.disable_unknown_event_upload,
            allowed_path_regex: self.allowed_path_regex.clone(),
            blocked_path_regex: self.blocked_path_regex.clone(),
            removable_media: self.removable_media.clone(),
            encrypted_removable_media: self.encrypted_removable_media.clone(),
            override_file_access_action: self.override_file_access_action,
            event_detail_url: self.event_detail_url.clone(),
            event_detail_text: self.event_detail_text.clone(),
            ..Settings::default()
        }
    }
}

impl Default for Config {
    /// The configuration without any source: defaults only.
    fn default() -> Self {
        Arc::unwrap_or_clone(Self::resolve(&[]).config)
    }
}

/// The state directory: the one of the command line or environment, else the
/// configured one, else the system's.
#[must_use]
pub fn state_dir(flag: Option<&Path>, config: &Config) -> PathBuf {
    let configured = config.state_directory.as_deref();
    flag.or(configured).unwrap_or(default_state_dir()).to_owned()
}

/// The system's state directory.
#[must_use]
pub fn default_state_dir() -> &'static Path {
    Path::new(if cfg!(target_os = "macos") { "/var/db/santa-sync" } else { "/var/lib/santa-sync" })
}

#[cfg(test)]
mod tests;
