//! From the bytes of a file to the keys it sets, whichever of the four forms it
//! has: a plain property list, a `.mobileconfig`, a signed one, or one with a
//! managed-preferences payload.

use plist::{Dictionary, Value};
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};
use thiserror::Error;

use super::cms;
use crate::plist_bounded::{PlistError, read_plist};

/// A preference domain whose keys count, the strongest first.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
pub enum Domain {
    /// This agent's own.
    #[strum(serialize = "com.santa-sync")]
    Agent,
    /// Santa's.
    #[strum(serialize = "com.northpolesec.santa")]
    Santa,
    /// The one that Santa had before; it counts only where there is no other of
    /// Santa's.
    #[strum(serialize = "com.google.santa")]
    Google,
}

impl Domain {
    /// All of them, the strongest first.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in profiles and of preference files.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it is one of Santa's.
    #[must_use]
    pub const fn is_santas(self) -> bool {
        matches!(self, Self::Santa | Self::Google)
    }
}

/// The payload type that carries preferences of any domain.
const MANAGED_PREFERENCES: &str = "com.apple.ManagedClient.preferences";

/// Why a file sets no keys.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Neither a property list nor a signed one.
    #[error(transparent)]
    Plist(#[from] PlistError),
    /// A `SEQUENCE` that is not a CMS signed message with its content inside.
    #[error("signed or encrypted in a way that hides its content")]
    Signed,
    /// The payloads are encrypted.
    #[error("its payloads are encrypted")]
    Encrypted,
    /// Some other property list.
    #[error("not a dictionary")]
    NotADictionary,
    /// A profile for something else.
    #[error("a profile without a payload for com.santa-sync or com.northpolesec.santa")]
    NoPayload,
}

/// What a file sets in one domain.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainKeys {
    /// The domain; `None` for a plain property list.
    pub domain: Option<Domain>,
    /// Its keys, known or not.
    pub keys: Dictionary,
    /// Keys that several payloads set to different values.
    pub conflicts: Vec<Conflict>,
}

/// A key that two payloads of one domain set to different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: String,
    /// The payload whose value counts, for people.
    pub counts: String,
    /// The other payload.
    pub ignored: String,
}

/// What a file's bytes set, the strongest domain first.
///
/// # Errors
/// If the bytes have none of the forms, or hold nothing for Santa or this agent.
pub fn read_domains(bytes: &[u8]) -> Result<Vec<DomainKeys>, ProfileError> {
    let armoured = cms::unarmoured(bytes);
    let bytes = armoured.as_deref().unwrap_or(bytes);
    let unwrapped;
    let bytes = if cms::looks_signed(bytes) {
        unwrapped = cms::content(bytes).ok_or(ProfileError::Signed)?;
        &unwrapped
    } else {
        bytes
    };
    let Value::Dictionary(mut top) = read_plist(bytes)? else {
        return Err(ProfileError::NotADictionary);
    };
    if top.contains_key("EncryptedPayloadContent") {
        return Err(ProfileError::Encrypted);
    }
    let payloads: Vec<Payload> = match top.remove("PayloadContent") {
        Some(Value::Array(payloads)) => {
            let numbered = (1..).zip(payloads).filter_map(|(n, p)| Some((n, p.into_dictionary()?)));
            numbered.flat_map(|(number, payload)| of_payload(number, payload)).collect()
        }
        // A managed-preferences payload on its own.
        Some(Value::Dictionary(domains)) => forced("the payload", &domains),
        _ => {
            let keys = merged(None, vec![Payload { domain: None, name: String::new(), keys: top }]);
            return Ok(vec![keys]);
        }
    };
    let domains: Vec<_> = Domain::ALL
        .iter()
        .copied()
        .filter_map(|domain| {
            let of_domain = |payload: &&Payload| payload.domain == Some(domain);
            let payloads: Vec<_> = payloads.iter().filter(of_domain).cloned().collect();
            (!payloads.is_empty()).then(|| merged(Some(domain), payloads))
        })
        .collect();
    if domains.is_empty() { Err(ProfileError::NoPayload) } else { Ok(domains) }
}

/// What one payload sets in one domain.
#[derive(Clone)]
struct Payload {
    domain: Option<Domain>,
    /// Its place in the profile, for people.
    name: String,
    keys: Dictionary,
}

/// What one payload of a profile sets.
fn of_payload(number: usize, payload: Dictionary) -> Vec<Payload> {
    let text = |name: &str| payload.get(name).and_then(Value::as_string).unwrap_or_default();
    let name = match text("PayloadIdentifier") {
        "" => format!("payload {number}"),
        identifier => {
            let identifier: String = identifier.chars().take(64).collect();
            format!("payload {number} ({identifier:?})")
        }
    };
    let payload_type = text("PayloadType");
    match (payload_type.parse().ok(), payload.get("PayloadContent")) {
        (Some(domain), _) => vec![Payload { domain: Some(domain), name, keys: payload }],
        (None, Some(Value::Dictionary(domains))) if payload_type == MANAGED_PREFERENCES => {
            forced(&name, domains)
        }
        (None, _) => Vec::new(),
    }
}

/// `<domain> > Forced > mcx_preference_settings`; what is set once only is not
/// managed and does not count.
fn forced(payload: &str, domains: &Dictionary) -> Vec<Payload> {
    let settings = |domain: Domain| {
        let forced = domains.get(domain.name())?.as_dictionary()?.get("Forced")?.as_array()?;
        let settings = forced
            .iter()
            .filter_map(|entry| entry.as_dictionary()?.get("mcx_preference_settings"))
            .filter_map(|settings| settings.as_dictionary().cloned());
        Some(settings.map(move |keys| Payload {
            domain: Some(domain),
            name: payload.to_owned(),
            keys,
        }))
    };
    Domain::ALL.iter().copied().filter_map(settings).flatten().collect()
}

/// The keys of one domain's payloads, the first to set a key winning, without
/// those that describe the profile itself.
fn merged(domain: Option<Domain>, payloads: Vec<Payload>) -> DomainKeys {
    let mut keys = Dictionary::new();
    let mut conflicts = Vec::new();
    let mut names = std::collections::BTreeMap::new();
    for payload in payloads {
        for (key, value) in payload.keys {
            if key.starts_with("Payload") {
                continue;
            }
            match keys.get(&key) {
                None => {
                    names.insert(key.clone(), payload.name.clone());
                    keys.insert(key, value);
                }
                Some(counts) if *counts != value => {
                    let counts = names.get(&key).cloned().unwrap_or_default();
                    conflicts.push(Conflict { key, counts, ignored: payload.name.clone() });
                }
                Some(_) => {}
            }
        }
    }
    DomainKeys { domain, keys, conflicts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plist(body: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?><plist version=\"1.0\">{body}</plist>").into_bytes()
    }

    const URL: &str = "<key>SyncBaseURL</key><string>https://h/</string>";

    #[test]
    fn conf_1_every_form_of_a_profile_is_read() {
        let plain = plist(&format!("<dict>{URL}</dict>"));
        let typed = plist(&format!(
            "<dict><key>PayloadType</key><string>Configuration</string>\
             <key>PayloadContent</key><array>\
             <dict><key>PayloadType</key><string>com.apple.wifi</string></dict>\
             <dict><key>PayloadType</key><string>com.northpolesec.santa</string>{URL}</dict>\
             </array></dict>"
        ));
        let managed = format!(
            "<key>PayloadContent</key><dict><key>com.google.santa</key><dict>\
             <key>Forced</key><array><dict><key>mcx_preference_settings</key>\
             <dict>{URL}</dict></dict></array></dict></dict>"
        );
        let whole = plist(&format!(
            "<dict><key>PayloadContent</key><array><dict><key>PayloadType</key>\
             <string>com.apple.ManagedClient.preferences</string>{managed}</dict></array></dict>"
        ));
        let alone = plist(&format!("<dict>{managed}</dict>"));
        for (form, domain) in [
            (plain, None),
            (typed, Some(Domain::Santa)),
            (whole, Some(Domain::Google)),
            (alone, Some(Domain::Google)),
        ] {
            let domains = read_domains(&form).expect("keys");
            assert_eq!(domains.len(), 1);
            assert_eq!(domains[0].domain, domain);
            assert_eq!(domains[0].keys.keys().collect::<Vec<_>>(), ["SyncBaseURL"]);
        }
    }

    #[test]
    fn conf_1_two_payloads_of_one_domain_that_differ_are_both_named() {
        let payload = |id: &str, url: &str| {
            format!(
                "<dict><key>PayloadType</key><string>com.santa-sync</string>\
                 <key>PayloadIdentifier</key><string>{id}</string>\
                 <key>SyncBaseURL</key><string>{url}</string>\
                 <key>LogLevel</key><string>warn</string></dict>"
            )
        };
        let profile = plist(&format!(
            "<dict><key>PayloadContent</key><array>{}{}</array></dict>",
            payload("a.one", "https://one/"),
            payload("", "https://two/")
        ));
        let domains = read_domains(&profile).expect("keys");
        let conflict = Conflict {
            key: "SyncBaseURL".to_owned(),
            counts: "payload 1 (\"a.one\")".to_owned(),
            ignored: "payload 2".to_owned(),
        };
        assert_eq!(domains[0].conflicts, [conflict]);
        let url = domains[0].keys.get("SyncBaseURL").and_then(Value::as_string);
        assert_eq!(url, Some("https://one/"));
    }

    #[test]
    fn a_file_without_anything_for_santa_says_so() {
        let message = |bytes: &[u8]| read_domains(bytes).expect_err("no keys").to_string();
        assert_eq!(message(&plist("<array/>")), "not a dictionary");
        assert_eq!(
            message(&plist("<dict><key>PayloadContent</key><array/></dict>")),
            "a profile without a payload for com.santa-sync or com.northpolesec.santa"
        );
        assert_eq!(
            message(&plist("<dict><key>EncryptedPayloadContent</key><data/></dict>")),
            "its payloads are encrypted"
        );
        assert_eq!(message(b"\x30\x03abc"), "signed or encrypted in a way that hides its content");
        assert!(message(b"{\"SyncBaseURL\": 1}").starts_with("not a property list"));
    }
}
