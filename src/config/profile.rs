//! From the bytes of a file to the keys it sets, whichever of the four forms it
//! has: a plain property list, a `.mobileconfig`, a signed one, or one with a
//! managed-preferences payload.

use plist::{Dictionary, Value};
use thiserror::Error;

use super::cms;
use crate::plist_bounded::{PlistError, read_plist};

/// The preference domains whose keys count, the present one first.
pub const DOMAINS: [&str; 2] = ["com.northpolesec.santa", "com.google.santa"];

/// The payload type that carries preferences of any domain.
const MANAGED_PREFERENCES: &str = "com.apple.ManagedClient.preferences";

/// Why a file sets no keys.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Neither a property list nor a signed one.
    #[error(transparent)]
    Plist(#[from] PlistError),
    /// A `SEQUENCE` that is no CMS signed message with its content inside.
    #[error("signed or encrypted in a way that hides its content")]
    Signed,
    /// The payloads are encrypted.
    #[error("its payloads are encrypted")]
    Encrypted,
    /// Some other property list.
    #[error("not a dictionary")]
    NotADictionary,
    /// A profile for something else.
    #[error("a profile without a payload for {}", DOMAINS[0])]
    NoPayload,
}

/// The keys that a file's bytes set.
///
/// # Errors
/// If the bytes are none of the forms, or hold nothing for Santa.
pub fn read_keys(bytes: &[u8]) -> Result<Dictionary, ProfileError> {
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
    let keys = match top.remove("PayloadContent") {
        Some(Value::Array(payloads)) => {
            let keys: Vec<_> = payloads.into_iter().filter_map(Value::into_dictionary).collect();
            let keys: Vec<_> = keys.into_iter().flat_map(of_payload).collect();
            if keys.is_empty() {
                return Err(ProfileError::NoPayload);
            }
            keys
        }
        // A managed-preferences payload on its own.
        Some(Value::Dictionary(domains)) => forced(&domains),
        _ => vec![top],
    };
    Ok(merged(keys))
}

/// The keys one payload of a profile sets, one dictionary for each place.
fn of_payload(payload: Dictionary) -> Vec<Dictionary> {
    let payload_type = payload.get("PayloadType").and_then(Value::as_string).unwrap_or_default();
    if DOMAINS.contains(&payload_type) {
        return vec![payload];
    }
    match payload.get("PayloadContent") {
        Some(Value::Dictionary(domains)) if payload_type == MANAGED_PREFERENCES => forced(domains),
        _ => Vec::new(),
    }
}

/// `<domain> > Forced > mcx_preference_settings`; what is set once only is not
/// managed and does not count.
fn forced(domains: &Dictionary) -> Vec<Dictionary> {
    DOMAINS
        .iter()
        .filter_map(|domain| domains.get(domain)?.as_dictionary()?.get("Forced")?.as_array())
        .flatten()
        .filter_map(|entry| entry.as_dictionary()?.get("mcx_preference_settings"))
        .filter_map(|settings| settings.as_dictionary().cloned())
        .collect()
}

/// One dictionary of several, the first to set a key winning, without the keys
/// that describe the profile itself.
fn merged(parts: Vec<Dictionary>) -> Dictionary {
    let mut keys = Dictionary::new();
    for part in parts {
        for (key, value) in part {
            if !is_of_profile(&key) && !keys.contains_key(&key) {
                keys.insert(key, value);
            }
        }
    }
    keys
}

fn is_of_profile(key: &str) -> bool {
    key.starts_with("Payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plist(body: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?><plist version=\"1.0\">{body}</plist>").into_bytes()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut names: Vec<_> = read_keys(bytes).expect("keys").keys().cloned().collect();
        names.sort();
        names
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
        for form in [plain, typed, whole, alone] {
            assert_eq!(names(&form), ["SyncBaseURL"]);
        }
    }

    #[test]
    fn a_file_without_anything_for_santa_says_so() {
        let message = |bytes: &[u8]| read_keys(bytes).expect_err("no keys").to_string();
        assert_eq!(message(&plist("<array/>")), "not a dictionary");
        assert_eq!(
            message(&plist("<dict><key>PayloadContent</key><array/></dict>")),
            "a profile without a payload for com.northpolesec.santa"
        );
        assert_eq!(
            message(&plist("<dict><key>EncryptedPayloadContent</key><data/></dict>")),
            "its payloads are encrypted"
        );
        assert_eq!(message(b"\x30\x03abc"), "signed or encrypted in a way that hides its content");
        assert!(message(b"{\"SyncBaseURL\": 1}").starts_with("not a property list"));
    }
}
