//! What Santa's own profile says of Santa's syncs. The agent does not follow it,
//! but the relay's users have to: it must lead Santa here.

use std::path::PathBuf;

use plist::{Dictionary, Value};

use super::relay::{RelayConfig, leads_to};
use super::source::{Layer, Sources};
use crate::model::{BaseUrl, ClientMode, Policy, Rule, Secret, parse_rule};

/// What Santa's preference domain says that matters to a relay.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SantaProfile {
    /// The server Santa syncs with; `None` also for one that cannot be used.
    pub sync_base_url: Option<BaseUrl>,
    /// `ServerAuthRootsFile`.
    pub roots_file: Option<PathBuf>,
    /// `ClientAuthCertificateFile`.
    pub client_file: Option<PathBuf>,
    /// `ClientAuthCertificatePassword`.
    pub client_password: Option<Secret>,
    /// `SyncEnableCleanSyncEventUpload`: Santa deletes queued events unsent in
    /// clean syncs where it is not set.
    pub clean_sync_event_upload: bool,
    /// Whether `SyncProxyConfiguration` has entries.
    pub has_proxy: bool,
    /// Whether a key of Firebase push notifications is set.
    pub has_push: bool,
    /// The relay's header of `SyncExtraHeaders`.
    pub relay_secret: Option<Secret>,
    /// The mode before a server sets one.
    pub client_mode: Option<ClientMode>,
    /// Rules that hold before every other, unless Santa cannot read them.
    pub static_rules: Vec<Rule>,
}

/// The keys of Firebase push notifications.
const PUSH_KEYS: [&str; 3] = ["FCMProject", "FCMEntity", "FCMAPIKey"];

impl SantaProfile {
    /// From Santa's domain; `None` if no layer is of it.
    pub(super) fn of(layers: &[Layer]) -> Option<Self> {
        let keys = merged(layers.iter().filter(|layer| layer.is_santas()));
        (!keys.is_empty()).then(|| Self::of_keys(&keys))
    }

    fn of_keys(keys: &Dictionary) -> Self {
        let text = |name: &str| keys.get(name).and_then(Value::as_string).map(str::to_owned);
        let number = |name: &str| keys.get(name).and_then(Value::as_signed_integer);
        let flag = |name: &str| {
            let value = keys.get(name);
            value.and_then(Value::as_boolean).unwrap_or_default() || number(name) == Some(1)
        };
        let dictionary = |name: &str| keys.get(name).and_then(Value::as_dictionary);
        let secret = dictionary("SyncExtraHeaders").and_then(|headers| {
            let header = RelayConfig::SECRET_HEADER;
            let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header))?;
            Some(Secret::new(value.as_string()?.trim().to_owned()))
        });
        let rules = keys.get("StaticRules").and_then(Value::as_array);
        let mode = number("ClientMode").and_then(|mode| i32::try_from(mode).ok());
        Self {
            sync_base_url: text("SyncBaseURL").and_then(|url| BaseUrl::parse(&url).ok()),
            roots_file: text("ServerAuthRootsFile").map(PathBuf::from),
            client_file: text("ClientAuthCertificateFile").map(PathBuf::from),
            client_password: text("ClientAuthCertificatePassword")
                .filter(|password| !password.is_empty())
                .map(Secret::new),
            clean_sync_event_upload: flag("SyncEnableCleanSyncEventUpload"),
            has_proxy: dictionary("SyncProxyConfiguration").is_some_and(|proxy| !proxy.is_empty()),
            has_push: PUSH_KEYS.iter().any(|key| keys.contains_key(key)),
            relay_secret: secret,
            client_mode: mode.and_then(ClientMode::from_number),
            static_rules: rules.into_iter().flatten().filter_map(static_rule).collect(),
        }
    }

    /// Whether it leads Santa to this relay.
    #[must_use]
    pub fn points_to(&self, relay: &RelayConfig) -> bool {
        self.sync_base_url.as_ref().is_some_and(|url| leads_to(url, relay.listen.port()))
    }
}

/// A static rule as a property list holds it.
#[must_use]
pub fn static_rule(value: &Value) -> Option<Rule> {
    let texts =
        value.as_dictionary()?.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_string()?)));
    parse_rule(texts).ok().filter(|rule| rule.policy != Policy::Remove)
}

/// The keys of all sources as they are written, without those that describe a
/// profile itself.
#[derive(Clone, PartialEq, Default)]
pub struct RawKeys {
    /// Of Santa's domain.
    pub santas: Dictionary,
    /// Of the agent's own domain and of the sources above it.
    pub own: Dictionary,
}

/// Secrets are among them.
impl std::fmt::Debug for RawKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawKeys").finish_non_exhaustive()
    }
}

impl RawKeys {
    /// Reads the sources. What cannot be read is left out.
    #[must_use]
    pub fn read(sources: &Sources) -> Self {
        Self::of(&sources.read(&mut Vec::new()))
    }

    fn of(layers: &[Layer]) -> Self {
        let of = |santas: bool| merged(layers.iter().filter(|layer| layer.is_santas() == santas));
        Self { santas: of(true), own: of(false) }
    }
}

/// Of each key the first layer's value.
fn merged<'a>(layers: impl Iterator<Item = &'a Layer>) -> Dictionary {
    let mut keys = Dictionary::new();
    for (key, value) in layers.flat_map(|layer| layer.values.iter()) {
        if !key.starts_with("Payload") && !keys.contains_key(key) {
            keys.insert(key.clone(), value.clone());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Domain, Source};

    fn layer(domain: Option<Domain>, text: &str) -> Layer {
        let text = format!("<plist><dict>{text}</dict></plist>");
        let values = Value::from_reader_xml(text.as_bytes()).expect("a property list");
        let values = values.into_dictionary().expect("a dictionary");
        Layer { source: Source::File("/c".into()), domain, values, exposed: false }
    }

    const SANTAS: &str = "<key>SyncBaseURL</key><string>https://127.0.0.1:917/</string>\
        <key>ServerAuthRootsFile</key><string>/relay/ca.pem</string>\
        <key>ClientAuthCertificateFile</key><string>/relay/client.p12</string>\
        <key>ClientAuthCertificatePassword</key><string>5ecretm4rk</string>\
        <key>SyncEnableCleanSyncEventUpload</key><true/>\
        <key>SyncProxyConfiguration</key><dict/>\
        <key>SyncExtraHeaders</key><dict><key>santa-sync-relay-secret</key><string> 5ecret2 \
        </string></dict>\
        <key>ClientMode</key><integer>2</integer><key>FCMProject</key><string>p</string>\
        <key>PayloadVersion</key><integer>1</integer>\
        <key>StaticRules</key><array><dict><key>identifier</key><string>ABCDE12345</string>\
        <key>rule_type</key><string>TEAMID</string><key>policy</key><string>ALLOWLIST</string>\
        </dict><string>x</string></array>";

    /// CONF-1: known, and not followed.
    #[test]
    fn conf_1_santas_profile_is_known_beside_the_configuration() {
        let own =
            layer(Some(Domain::Agent), "<key>RelayListen</key><string>127.0.0.1:917</string>");
        let loaded = Config::resolve(&[own, layer(Some(Domain::Santa), SANTAS)]);
        let config = &loaded.config;
        assert_eq!(
            (config.client_auth_certificate_file.as_ref(), &config.sync_base_url),
            (None, &None)
        );
        let profile = config.santa_profile.as_ref().expect("a profile");
        let relay = config.relay.as_ref().expect("a relay");
        assert!(profile.points_to(relay) && profile.clean_sync_event_upload && profile.has_push);
        assert!(!profile.has_proxy, "an empty dictionary means no proxy");
        assert_eq!(profile.roots_file.as_deref(), Some("/relay/ca.pem".as_ref()));
        assert_eq!(profile.client_file.as_deref(), Some("/relay/client.p12".as_ref()));
        assert_eq!(profile.client_password.as_ref().map(Secret::expose), Some("5ecretm4rk"));
        assert_eq!(profile.relay_secret.as_ref().map(Secret::expose), Some("5ecret2"));
        assert_eq!(profile.client_mode, Some(ClientMode::Lockdown));
        assert_eq!(profile.static_rules.len(), 1);
        assert!(!format!("{loaded:?}").contains("5ecret"));
    }

    #[test]
    fn conf_1_without_santas_domain_there_is_no_profile() {
        let loaded = Config::resolve(&[layer(None, SANTAS)]);
        assert_eq!(loaded.config.santa_profile, None);
        assert_eq!(Config::default().santa_profile, None);
        let elsewhere = "<key>SyncBaseURL</key><string>https://sync.example.com:917/</string>";
        let loaded = Config::resolve(&[
            layer(None, "<key>RelayListen</key><string>127.0.0.1:917</string>"),
            layer(Some(Domain::Google), elsewhere),
        ]);
        let profile = loaded.config.santa_profile.as_ref().expect("a profile");
        assert!(!profile.points_to(loaded.config.relay.as_ref().expect("a relay")));
        assert!(!profile.clean_sync_event_upload);
    }

    #[test]
    fn raw_keys_are_those_of_each_side_as_they_are_written() {
        let raw = RawKeys::of(&[
            layer(None, "<key>LogLevel</key><string>warn</string>"),
            layer(Some(Domain::Agent), "<key>LogLevel</key><string>info</string>"),
            layer(Some(Domain::Santa), SANTAS),
        ]);
        assert_eq!(raw.own.get("LogLevel").and_then(Value::as_string), Some("warn"));
        assert_eq!(raw.own.len(), 1);
        assert!(
            raw.santas.contains_key("FCMProject") && !raw.santas.contains_key("PayloadVersion")
        );
        assert!(!format!("{raw:?}").contains("5ecret"));
    }
}
