//! Configured values as they may be shown. What may be a secret is cut or
//! masked, and what cannot be distinguished from one is not shown at all.

use plist::Value;
use serde_json::Value as Json;
use url::Url;

use super::keys::{Key, Kind};
use super::value;
use crate::model::{Secret, start_of_secret};

/// Shown instead of a URL that cannot be parsed: a secret may be anywhere in it.
const NOT_A_URL: &str = "(not a URL, not shown)";

/// A value as it may be shown (HTTP-14).
#[must_use]
pub fn shown(key: &Key, value: &Value) -> Json {
    let json = value::to_json(value);
    match (key.kind, json) {
        (Kind::Headers, Json::Object(headers)) => {
            headers.into_iter().map(|(name, _)| (header_name(&name), mask())).collect()
        }
        (Kind::Proxy, Json::Object(entries)) => entries
            .into_iter()
            .map(|(name, value)| {
                let value = proxy_value(&name, value);
                (name, value)
            })
            .collect(),
        (_, _) if key.secret => mask(),
        (_, Json::String(text)) if key.name == "SyncBaseURL" => match Url::parse(text.trim()) {
            Ok(url) if url.has_host() => crate::model::shown(&url).into(),
            Ok(_) | Err(_) => NOT_A_URL.into(),
        },
        (Kind::Text, Json::String(text)) => url_text(text),
        (_, json) => json,
    }
}

/// As [`shown`], with the base URL whole.
#[must_use]
pub fn revealed(key: &Key, value: &Value) -> Json {
    if key.name == "SyncBaseURL" { value::to_json(value) } else { shown(key, value) }
}

fn mask() -> Json {
    Secret::MASK.into()
}

/// The name of a header. What cannot be one may be a header and its value in
/// one text.
pub(super) fn header_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        name.to_owned()
    } else {
        start_of_secret(name)
    }
}

/// A text that may be a URL. One without user and password is shown whole: only
/// the base URL has secrets elsewhere.
fn url_text(text: String) -> Json {
    match Url::parse(&text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            crate::model::shown(&url).into()
        }
        Err(_) if text.contains("://") && text.contains('@') => NOT_A_URL.into(),
        Ok(_) | Err(_) => text.into(),
    }
}

fn proxy_value(name: &str, value: Json) -> Json {
    let name = name.to_ascii_lowercase();
    let Json::String(text) = value else {
        let plain = matches!(value, Json::Bool(_) | Json::Number(_));
        return if plain || name == "exceptionslist" { value } else { mask() };
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    match &*name {
        "httpsproxy" | "httpproxy" | "socksproxy" if text.chars().all(is_host) => text.into(),
        "httpsproxy" | "httpproxy" | "socksproxy" | "proxyautoconfigurlstring" => {
            match Url::parse(&text) {
                Ok(url) if url.has_host() => crate::model::shown(&url).into(),
                Ok(_) | Err(_) => NOT_A_URL.into(),
            }
        }
        _ if name.ends_with("port") && text.chars().all(|c| c.is_ascii_digit()) => text.into(),
        _ if name.ends_with("user") || name.contains("username") => start_of_secret(&text).into(),
        _ => mask(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn of(name: &str, value: impl Into<Value>) -> String {
        let json = shown(keys::find(name).expect("a key"), &value.into());
        json.as_str().map_or_else(|| json.to_string(), str::to_owned)
    }

    #[test]
    fn http_14_a_value_that_may_hold_a_secret_is_cut_and_one_that_cannot_be_parsed_not_shown() {
        for (url, expected) in [
            ("https://me-and:5ecret@h/p?k=5ecretm4rk", "https://me-…@h/p?k=5ecr…"),
            ("https://h/0123456789abcdef/", "https://h/0123…/"),
            ("https://u:5ecretm4rk@h:x/", NOT_A_URL),
            ("u:5ecretm4rk@h", NOT_A_URL),
            ("5ecretm4rk", NOT_A_URL),
        ] {
            assert_eq!(of("SyncBaseURL", url), expected, "{url}");
            let revealed = revealed(keys::find("SyncBaseURL").expect("a key"), &url.into());
            assert_eq!(revealed, url);
        }
        assert_eq!(of("EventDetailURL", "https://u:5ecret@h:x/"), NOT_A_URL);
        assert_eq!(of("EventDetailURL", "https://h/?id=%file_sha%"), "https://h/?id=%file_sha%");
        assert_eq!(of("EventDetailText", "mail a@b"), "mail a@b");
    }

    #[test]
    fn http_14_no_part_of_a_proxy_dictionary_shows_a_secret() {
        for (name, value, expected) in [
            ("HTTPSProxy", "proxy.example.com:3128", "proxy.example.com:3128"),
            ("HTTPSProxy", "u:5ecretm4rk@h", NOT_A_URL),
            ("HTTPProxy", "http://agent-7:5ecretm4rk@h:1/", "http://age…@h:1/"),
            ("SOCKSProxy", "5ecret m4rk", NOT_A_URL),
            ("HTTPSUser", "agent-7-5ecretm4rk", "agen…"),
            ("HTTPSPassword", "5ecretm4rk", Secret::MASK),
            ("kCFProxyPasswordKey", "5ecretm4rk", Secret::MASK),
            ("kCFProxyUsernameKey", "agent-7-5ecretm4rk", "agen…"),
            ("ProxyAutoConfigURLString", "https://h/?token=5ecretm4rk", "https://h/?token=5ecr…"),
            ("ProxyAutoConfigJavaScript", "5ecretm4rk", Secret::MASK),
            ("HTTPSPasword", "5ecretm4rk", Secret::MASK),
            ("HTTPSPort", "3128", "3128"),
            ("HTTPSPort", "5ecretm4rk", Secret::MASK),
        ] {
            let dictionary = plist::Dictionary::from_iter([(name, value)]);
            let expected = serde_json::json!({ name: expected }).to_string();
            assert_eq!(of("SyncProxyConfiguration", Value::Dictionary(dictionary)), expected);
        }
    }

    #[test]
    fn http_14_a_header_whose_value_stands_in_its_name_is_not_shown() {
        let headers = plist::Dictionary::from_iter([
            ("Authorization: Bearer 5ecretm4rk", ""),
            ("X-Key", "5ecretm4rk"),
        ]);
        assert_eq!(
            of("SyncExtraHeaders", Value::Dictionary(headers)),
            r#"{"Auth…":"(secret)","X-Key":"(secret)"}"#
        );
    }
}
