//! A configuration as one process sees it: the daemon reports its own, and a client
//! can compare it with what another process, or another user, sees.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::{Deserialize, Serialize};

use crate::config::{Config, Loaded, shown};
use crate::failure::ErrorText;
use crate::files;
use crate::host::{self, HostSource};
use crate::transport::ProxyRoute;

/// A configuration as one process sees it. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// The effective user id of the process.
    pub user_id: u32,
    /// The server, as it may be shown.
    pub server: Option<String>,
    /// The id the server knows this host by.
    pub machine_id: Option<String>,
    /// Why there is no machine id.
    pub machine_id_error: Option<ErrorText>,
    /// The sources that exist, the strongest first.
    pub sources: Vec<String>,
    /// A digest of every key that is set, without secrets: equal for equal
    /// configurations.
    pub digest: String,
    /// The proxy for the server; `None` if it is reached directly.
    pub proxy: Option<String>,
    /// The key or environment variable that names the proxy.
    pub proxy_origin: Option<String>,
    /// Why the proxy cannot be used.
    pub proxy_error: Option<String>,
    /// The files that the configuration names.
    pub files: Vec<ConfiguredFile>,
}

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredFile {
    /// The configuration key.
    pub key: String,
    /// The path.
    pub path: String,
    /// Why the process cannot use it; `None` if it can.
    pub error: Option<String>,
}

impl ConfigurationReport {
    /// Examines a configuration as this process sees it. Reads files, so that it
    /// may block.
    #[must_use]
    pub fn examine(
        loaded: &Loaded,
        host: &dyn HostSource,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let config = &loaded.config;
        let machine_id = host::machine_id(config, host);
        let mut report = Self {
            user_id: rustix::process::geteuid().as_raw(),
            server: config.sync_base_url.as_ref().map(ToString::to_string),
            sources: loaded.sources.iter().map(ToString::to_string).collect(),
            digest: digest(loaded),
            files: configured_files(config),
            ..Self::default()
        };
        match machine_id {
            Ok((id, _)) => {
                report.machine_id = Some(id.as_str().to_owned());
                if let Some(url) = &config.sync_base_url {
                    let proxy = host::with_system_proxies(&config.proxy, host);
                    match ProxyRoute::choose(&proxy, url.as_url(), variable) {
                        Ok(None) => {}
                        Ok(Some(route)) => {
                            report.proxy = Some(route.shown());
                            report.proxy_origin = Some(route.origin.to_owned());
                        }
                        Err(failure) => report.proxy_error = Some(failure.to_string()),
                    }
                }
            }
            Err(problem) => report.machine_id_error = Some(ErrorText::of(&problem)),
        }
        report
    }
}

fn digest(loaded: &Loaded) -> String {
    let lines = loaded.effective.iter().map(|(key, chosen)| {
        let value = shown(key, &chosen.value);
        format!("{}={value}\n", key.name)
    });
    let text: String = lines.collect();
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

fn configured_files(config: &Config) -> Vec<ConfiguredFile> {
    let read = [
        ("ServerAuthRootsFile", &config.server_auth_roots_file),
        ("ClientAuthCertificateFile", &config.client_auth_certificate_file),
        ("MachineIDPlist", &config.machine_id_plist),
        ("MachineOwnerPlist", &config.machine_owner_plist),
        ("EventsDatabase", &config.events_database),
    ];
    let mut files: Vec<_> = read
        .into_iter()
        .filter_map(|(key, path)| {
            let path = path.as_deref()?;
            Some(ConfiguredFile::new(key, path, readable(path).err()))
        })
        .collect();
    if let Some(path) = &config.notification_hook {
        let error = files::check_program(path).err().map(|error| error.to_string());
        files.push(ConfiguredFile::new("NotificationHook", path, error));
    }
    if let Some(path) = &config.metrics_file {
        files.push(ConfiguredFile::new("MetricsFile", path, writable(path).err()));
    }
    files
}

impl ConfiguredFile {
    fn new(key: &str, path: &Path, error: Option<String>) -> Self {
        Self { key: key.to_owned(), path: path.display().to_string(), error }
    }
}

fn readable(path: &Path) -> Result<(), String> {
    match files::regular(path) {
        Ok(Some(_)) => File::open(path).map(drop).map_err(|error| error.to_string()),
        Ok(None) => Err("it does not exist".to_owned()),
        Err(obstacle) => Err(obstacle.to_string()),
    }
}

/// Whether the file at `path` can be replaced: its directory decides.
fn writable(path: &Path) -> Result<(), String> {
    let dir = files::directory_of(path);
    accessat(CWD, dir.as_os_str() as &OsStr, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| format!("cannot write to {}: {error}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Source};
    use crate::host::RecordedHost;

    fn loaded(values: &[(&str, &str)]) -> Loaded {
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), plist::Value::from(*value)))
            .collect();
        let layer = Layer { source: Source::CommandLine, domain: None, values, exposed: false };
        Config::resolve(&[layer])
    }

    fn examine(loaded: &Loaded, variables: &[(&str, &str)]) -> ConfigurationReport {
        let nowhere = RecordedHost::new(Path::new("/nowhere"));
        ConfigurationReport::examine(loaded, &nowhere, |name| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn daemon_4_the_report_names_server_machine_proxy_and_unusable_files() {
        let values = [
            ("SyncBaseURL", "https://sync.example/0123456789abcdef/"),
            ("MachineID", "host-1"),
            ("ServerAuthRootsFile", "/no/such/roots.pem"),
            ("MetricsFile", "/no/such/dir/santa.prom"),
        ];
        let report =
            examine(&loaded(&values), &[("https_proxy", "http://user:5ecretm4rk@proxy:3128")]);
        assert_eq!(report.server.as_deref(), Some("https://sync.example/0123…"));
        assert_eq!(report.machine_id.as_deref(), Some("host-1"));
        assert_eq!(report.proxy.as_deref(), Some("http://proxy:3128"));
        assert_eq!(report.proxy_origin.as_deref(), Some("https_proxy"));
        let errors: Vec<_> = report
            .files
            .iter()
            .map(|file| (file.key.as_str(), file.error.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(errors[0], ("ServerAuthRootsFile", "it does not exist"));
        assert!(errors[1].1.starts_with("cannot write to /no/such/dir: "), "{errors:?}");
        assert!(!format!("{report:?}").contains("5ecretm4rk"));
    }

    #[test]
    fn daemon_4_the_digest_tells_configurations_apart_and_not_secrets() {
        let of = |values: &[(&str, &str)]| examine(&loaded(values), &[]).digest;
        let base = of(&[("MachineID", "a")]);
        assert_eq!(base, of(&[("MachineID", "a")]));
        assert_ne!(base, of(&[("MachineID", "b")]));
        let with =
            |password| of(&[("MachineID", "a"), ("ClientAuthCertificatePassword", password)]);
        assert_ne!(base, with("x"));
        assert_eq!(with("x"), with("y"));
    }
}
