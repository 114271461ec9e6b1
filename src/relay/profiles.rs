//! The configuration of both sides (RELAY-14): Santa's, which leads to the relay,
//! and the agent's, which leads to the real server. Pure.

use plist::{Dictionary, Value};
use sha2::{Digest as _, Sha256};

use super::certificates::{CA_FILE, CLIENT_FILE};
use crate::config::keys::{KEYS, Origin};
use crate::config::{Domain, Effective, RawKeys, RelayConfig, static_rule};
use crate::model::text::hex;
use crate::model::{Policy, RelayManner, Rule, Secret};

/// Santa's keys that have no place beside a relay: Firebase would have Santa ask
/// Google for tokens.
const PUSH_KEYS: [&str; 3] = ["FCMProject", "FCMEntity", "FCMAPIKey"];

/// How Santa tells this program from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramRule {
    /// By who signed it and as what; `TEAMID:identifier`. Updates have the same.
    SigningId(String),
    /// By its SHA-256, in lower-case hex digits, because nobody signed it.
    Binary(String),
}

impl ProgramRule {
    /// From what `codesign -d -r-` writes of a signed program; `None` if no team
    /// signed it.
    #[must_use]
    pub fn of_requirement(text: &str) -> Option<Self> {
        let after = |mark: &str| {
            let (_, rest) = text.split_once(mark)?;
            let rest = rest.trim_start();
            match rest.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => rest.split(|c: char| c.is_whitespace()).next(),
            }
        };
        let identifier = after("identifier ")?;
        let team = after("[subject.OU] =")?;
        let is_team = team.len() == 10 && team.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        (is_team && !identifier.is_empty() && identifier.chars().all(is_plain))
            .then(|| Self::SigningId(format!("{}:{identifier}", team.to_ascii_uppercase())))
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::SigningId(identifier) => ("SIGNINGID", identifier),
            Self::Binary(sha256) => ("BINARY", sha256),
        }
    }

    fn dictionary(&self) -> Dictionary {
        let (kind, identifier) = self.parts();
        let entries = [
            ("identifier", identifier),
            ("rule_type", kind),
            ("policy", "ALLOWLIST"),
            ("comment", "Santa sync agent"),
        ];
        entries.into_iter().collect()
    }

    /// Whether static rules allow the program, as far as rules of its kind and
    /// of its team say.
    #[must_use]
    pub fn is_allowed_by(&self, rules: &[Rule]) -> bool {
        let (kind, identifier) = self.parts();
        let team = match self {
            Self::SigningId(identifier) => identifier.split(':').next(),
            Self::Binary(_) => None,
        };
        let decides = |kind: &str, identifier: &str| {
            rules.iter().find(|rule| {
                rule.identifier.rule_type().name() == kind
                    && rule.identifier.to_string().eq_ignore_ascii_case(identifier)
            })
        };
        let rule =
            decides(kind, identifier).or_else(|| team.and_then(|team| decides("TEAMID", team)));
        rule.is_some_and(|rule| allows(rule.policy))
    }
}

const fn allows(policy: Policy) -> bool {
    matches!(policy, Policy::Allowlist | Policy::AllowlistCompiler)
}

/// Santa's domain, and what an administrator should know of it.
#[derive(Clone, PartialEq)]
pub struct SantasSide {
    /// All of its keys.
    pub keys: Dictionary,
    /// What was changed besides what leads to the relay.
    pub notes: Vec<String>,
}

/// What the way to a server is in Santa's domain: replaced as a whole, because
/// what reached the real server must not go to the relay, nor the other way.
fn without_way(santas: &Dictionary) -> Dictionary {
    let is_way = |name: &str| {
        KEYS.iter().any(|key| key.name == name && (key.transport || key.origin == Origin::Own))
    };
    let kept = santas.iter().filter(|(name, _)| !is_way(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The keys may be secrets.
impl std::fmt::Debug for SantasSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SantasSide").field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// Santa's domain with the relay as its server; everything else stays.
#[must_use]
pub fn santas_side(
    raw: &RawKeys,
    relay: &RelayConfig,
    client_password: Option<&Secret>,
    program: &ProgramRule,
) -> SantasSide {
    let mut keys = without_way(&raw.santas);
    let mut notes = Vec::new();
    for key in PUSH_KEYS {
        if keys.remove(key).is_some() {
            notes.push(format!("{key} is left out: the relay has no push notifications"));
        }
    }
    let ids = ["MachineID", "MachineIDPlist", "MachineIDKey"];
    if !ids.iter().any(|id| keys.contains_key(id)) {
        for id in ids {
            if let Some(value) = raw.own.get(id) {
                keys.insert(id.to_owned(), value.clone());
            }
        }
    }
    keys.insert("SyncBaseURL".to_owned(), relay.url().into());
    keys.insert("SyncClientContentEncoding".to_owned(), "none".into());
    keys.insert("SyncEnableCleanSyncEventUpload".to_owned(), true.into());
    // Set, though empty: otherwise the system's proxy settings hold for loopback, too.
    keys.insert("SyncProxyConfiguration".to_owned(), Value::Dictionary(Dictionary::new()));
    if relay.tls {
        let path = |name: &str| Value::from(relay.directory.join(name).to_string_lossy().as_ref());
        keys.insert("ServerAuthRootsFile".to_owned(), path(CA_FILE));
        if let Some(password) = client_password.filter(|_| relay.client_certificate) {
            keys.insert("ClientAuthCertificateFile".to_owned(), path(CLIENT_FILE));
            keys.insert("ClientAuthCertificatePassword".to_owned(), password.expose().into());
        }
    }
    if let Some(secret) = &relay.secret {
        let headers = Dictionary::from_iter([(RelayConfig::SECRET_HEADER, secret.expose())]);
        keys.insert("SyncExtraHeaders".to_owned(), Value::Dictionary(headers));
    }
    let rules = match keys.remove("StaticRules") {
        Some(Value::Array(rules)) => rules,
        Some(_) | None => Vec::new(),
    };
    keys.insert("StaticRules".to_owned(), with_program(rules, program, &mut notes));
    SantasSide { keys, notes }
}

/// The rules, and one that allows the program.
fn with_program(mut rules: Vec<Value>, program: &ProgramRule, notes: &mut Vec<String>) -> Value {
    let (kind, identifier) = program.parts();
    let before = rules.len();
    let mut is_allowed = false;
    rules.retain(|value| {
        let Some(rule) = static_rule(value) else { return true };
        let is_same = rule.identifier.rule_type().name() == kind
            && rule.identifier.to_string().eq_ignore_ascii_case(identifier);
        is_allowed |= is_same && allows(rule.policy);
        !is_same || allows(rule.policy)
    });
    if rules.len() < before {
        notes.push("a static rule that blocks this program is left out".to_owned());
    }
    if !is_allowed {
        rules.push(Value::Dictionary(program.dictionary()));
    }
    Value::Array(rules)
}

/// Santa's domain as it is without a relay: `way` is how the agent reaches its
/// server.
#[must_use]
pub fn santas_side_without_relay(raw: &RawKeys, way: &Effective) -> Dictionary {
    let mut keys = without_way(&raw.santas);
    for (key, chosen) in way.iter().filter(|(key, _)| key.transport) {
        keys.insert(key.name.to_owned(), chosen.value.clone());
    }
    keys
}

/// The agent's own domain: what it has, how the server is reached (until now
/// perhaps from Santa's domain, by `way`), and the relay.
#[must_use]
pub fn own_side(raw: &RawKeys, way: &Effective, relay: &RelayConfig) -> Dictionary {
    let mut keys = raw.own.clone();
    for (key, chosen) in way.iter().filter(|(key, _)| key.transport) {
        if !keys.contains_key(key.name) {
            keys.insert(key.name.to_owned(), chosen.value.clone());
        }
    }
    for key in KEYS.iter().filter(|key| key.origin == Origin::Own) {
        if let Some(value) = raw.santas.get(key.name)
            && !keys.contains_key(key.name)
        {
            keys.insert(key.name.to_owned(), value.clone());
        }
    }
    keys.insert("RelayListen".to_owned(), relay.listen.to_string().into());
    keys.insert("RelayTLS".to_owned(), relay.tls.into());
    keys.insert("RelayClientCertificate".to_owned(), relay.client_certificate.into());
    if relay.manner != RelayManner::default() {
        keys.insert("RelayManner".to_owned(), relay.manner.name().into());
    }
    keys
}

/// A profile for the whole device with one payload. The same keys' profile has
/// the same identifiers and UUIDs in every run, so that a new one replaces it.
#[must_use]
pub fn mobileconfig(domain: Domain, name: &str, keys: &Dictionary) -> Value {
    let identifier = match domain {
        Domain::Agent => "com.santa-sync.relay.agent",
        Domain::Santa | Domain::Google => "com.santa-sync.relay.santa",
    };
    let described = |identifier: &str, kind: &str| {
        Dictionary::from_iter([
            ("PayloadDisplayName", Value::from(name)),
            ("PayloadIdentifier", identifier.into()),
            ("PayloadOrganization", "Santa sync".into()),
            ("PayloadType", kind.into()),
            ("PayloadUUID", uuid(identifier).into()),
            ("PayloadVersion", 1.into()),
        ])
    };
    let mut payload = described(&format!("{identifier}.keys"), domain.name());
    payload.extend(keys.iter().map(|(key, value)| (key.clone(), value.clone())));
    let mut profile = described(identifier, "Configuration");
    profile.insert("PayloadScope".to_owned(), "System".into());
    profile.insert("PayloadContent".to_owned(), Value::Array(vec![Value::Dictionary(payload)]));
    Value::Dictionary(profile)
}

/// A UUID that is a digest of a text (RFC 9562, version 8).
fn uuid(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.iter_mut().zip(digest.iter()).for_each(|(byte, digest)| *byte = *digest);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes).to_ascii_uppercase();
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// Seconds between pedro's syncs where `RelayInterval` does not say.
pub const PEDRO_INTERVAL: u32 = 60;

/// The flags that lead pedro here, in the form of a command line.
#[must_use]
pub fn pedro_flags(relay: &RelayConfig, interval_secs: u32) -> String {
    format!(
        "--sync-endpoint {} --sync-interval {interval_secs}s",
        relay.url().trim_end_matches('/')
    )
}

#[cfg(test)]
mod tests;
