//! How the authorizer of this host is to be served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Config;
use super::build::{ConfigBuilder, chosen};
use super::finding::{FindingKind, Severity};
use super::keys::KEYS;
use crate::model::{BaseUrl, HeaderProblem, MachineId, RelayManner, Secret};

/// How long the authorizer may stay away, if not configured (RELAY-10).
const DEFAULT_STALE: Duration = Duration::from_hours(72);

/// The longest `RelaySecret`, in bytes.
const MAX_SECRET_BYTES: usize = 1024;

/// What is configured for the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Where it listens: 127.0.0.1 or `::1`, never port 0.
    pub listen: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it serves only holders of its client certificate; only with
    /// [`Self::tls`].
    pub client_certificate: bool,
    /// Where the authorizer finds the certificates.
    pub directory: PathBuf,
    /// The machine id that the authorizer uses; `None`: this host's own.
    pub machine_id: Option<MachineId>,
    /// Seconds between the authorizer's syncs; `None`: by whether there is a
    /// nudge command (RELAY-4).
    pub interval: Option<u32>,
    /// The command that has the authorizer sync, an absolute path and its
    /// arguments. `None`: the default of the operating system; empty: none.
    pub nudge: Option<Vec<String>>,
    /// After this time without a sync of the authorizer the server gets events
    /// only; `None`: never.
    pub stale: Option<Duration>,
    /// Users whose connections count as the authorizer's; empty: the default.
    pub peer_users: Vec<String>,
    /// What each request has to carry.
    pub secret: Option<Secret>,
    /// Which authorizer is served.
    pub manner: RelayManner,
}

/// The name of the socket that launchd or systemd holds for the relay.
pub const RELAY_SOCKET: &str = "relay";

impl RelayConfig {
    /// The header that carries [`Self::secret`].
    pub const SECRET_HEADER: &str = "Santa-Sync-Relay-Secret";

    /// The base URL for the authorizer.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.tls { "https" } else { "http" }, self.listen)
    }
}

/// Where the certificates lie if `RelayDirectory` is not set.
#[must_use]
pub fn default_relay_dir() -> &'static Path {
    Path::new(if cfg!(target_os = "macos") {
        "/Library/Application Support/santa-sync/relay"
    } else {
        "/etc/santa-sync/relay"
    })
}

/// The relay's part of the configuration; `None` without an address to listen at.
pub(super) fn build(builder: &mut ConfigBuilder<'_>) -> Option<RelayConfig> {
    if !builder.is_set("RelayListen") {
        report_idle_keys(builder);
    }
    let values = builder.values;
    let listen = listen(builder)?;
    let tls = values.flag("RelayTLS").unwrap_or_default();
    let client_certificate = values.flag("RelayClientCertificate").unwrap_or_default();
    let manner = chosen(values, "RelayManner");
    if client_certificate && !tls {
        let message = "has no effect without RelayTLS: everybody would be served".to_owned();
        refuse(builder, "RelayClientCertificate", message, "set RelayTLS to true as well");
    }
    if tls && manner == RelayManner::Pedro {
        let message = "pedro trusts public CAs only, so it cannot reach the relay".to_owned();
        refuse(builder, "RelayTLS", message, "remove RelayTLS, or set RelayManner to santa");
    }
    Some(RelayConfig {
        listen,
        tls,
        client_certificate: client_certificate && tls,
        directory: values.path("RelayDirectory").unwrap_or_else(|| default_relay_dir().to_owned()),
        machine_id: machine_id(builder),
        interval: values.integer("RelayInterval").and_then(|secs| u32::try_from(secs).ok()),
        nudge: nudge(builder),
        stale: match values.integer("RelayStale").map(u64::try_from) {
            Some(Ok(0)) => None,
            Some(Ok(secs)) => Some(Duration::from_secs(secs)),
            Some(Err(_)) | None => Some(DEFAULT_STALE),
        },
        peer_users: values.texts("RelayPeerUsers").unwrap_or_default(),
        secret: secret(builder),
        manner,
    })
}

/// An upstream server that is the relay itself (RELAY-1).
pub(super) fn report_loop(builder: &mut ConfigBuilder<'_>, config: &Config) {
    let (Some(relay), Some(url)) = (&config.relay, &config.sync_base_url) else { return };
    if leads_to(url, relay.listen.port()) {
        let message =
            format!("leads to the relay of this host ({}), not to a server", relay.listen);
        let fix = "set it to the real server's URL; the relay's belongs into Santa's profile";
        refuse(builder, "SyncBaseURL", message, fix);
    }
}

/// Whether a URL names this host and the port. All loopback and unspecified
/// addresses count: a process that took the port there would stand in for the
/// relay.
#[must_use]
pub fn leads_to(url: &BaseUrl, port: u16) -> bool {
    let url = url.as_url();
    let host = url.host_str().unwrap_or_default();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = match address.map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    };
    is_here && url.port_or_known_default() == Some(port)
}

fn refuse(builder: &mut ConfigBuilder<'_>, key: &str, message: String, fix: &str) {
    builder.report(Severity::Error, FindingKind::BadValue, key, message, fix);
}

fn listen(builder: &mut ConfigBuilder<'_>) -> Option<SocketAddr> {
    let key = "RelayListen";
    let text = builder.values.filled_text(key)?;
    let fix = "write 127.0.0.1:PORT or [::1]:PORT";
    let Ok(address) = text.parse::<SocketAddr>() else {
        let shown: String = text.chars().take(64).collect();
        refuse(builder, key, format!("{shown:?} is not an address with a port"), fix);
        return None;
    };
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !loopback.contains(&address.ip()) {
        let message = format!("is {address}, but the relay is for 127.0.0.1 and ::1 only");
        refuse(builder, key, message, fix);
        return None;
    }
    if address.port() == 0 {
        let message = "has port 0, which Santa's profile cannot name".to_owned();
        refuse(builder, key, message, "write a port from 1 to 65535, best one below 1024");
        return None;
    }
    Some(address)
}

fn machine_id(builder: &mut ConfigBuilder<'_>) -> Option<MachineId> {
    let key = "RelayMachineID";
    let text = builder.values.filled_text(key)?;
    MachineId::new(&text)
        .map_err(|error| {
            let fix = "write the id that Santa uses, or remove the key";
            refuse(builder, key, error.to_string(), fix);
        })
        .ok()
}

/// The nudge command. One that cannot be run counts as not configured.
fn nudge(builder: &mut ConfigBuilder<'_>) -> Option<Vec<String>> {
    let key = "RelayNudge";
    let words = builder.values.command(key)?;
    if words.iter().all(|word| word.trim().is_empty()) {
        return Some(Vec::new());
    }
    let program = words.first().map(String::as_str).unwrap_or_default();
    let problem = if !program.starts_with('/') {
        Some("does not begin with the absolute path of a program")
    } else if words.iter().any(|word| word.contains('\0')) {
        Some("holds a NUL character")
    } else {
        None
    };
    let Some(problem) = problem else { return Some(words) };
    let message = format!("{problem}, so the default holds");
    builder.warn(FindingKind::BadValue, key, message, "write the path from the root, with a /");
    None
}

fn secret(builder: &mut ConfigBuilder<'_>) -> Option<Secret> {
    let key = "RelaySecret";
    let secret = builder.values.secret(key)?;
    let problem = HeaderProblem::of(RelayConfig::SECRET_HEADER, secret.expose());
    let text = secret.expose().trim();
    if text.is_empty() {
        refuse(builder, key, "is empty".to_owned(), "write a secret, or remove the key");
    } else if let Some(problem) = problem {
        refuse(builder, key, problem.what().to_owned(), problem.fix());
    } else if text.len() > MAX_SECRET_BYTES {
        let message = format!("is longer than {MAX_SECRET_BYTES} characters");
        refuse(builder, key, message, "write a shorter one");
    } else {
        return Some(Secret::new(text.to_owned()));
    }
    None
}

/// Keys that say how to serve where nothing is served.
fn report_idle_keys(builder: &mut ConfigBuilder<'_>) {
    let names = KEYS.iter().map(|key| key.name);
    for key in names.filter(|name| name.starts_with("Relay") && *name != "RelayListen") {
        if builder.values.get(key).is_some() {
            let message = "has no effect without RelayListen".to_owned();
            let fix = "set RelayListen, or remove it";
            builder.report(Severity::Note, FindingKind::NoEffect, key, message, fix);
        }
    }
}

#[cfg(test)]
mod tests;
