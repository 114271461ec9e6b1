//! The cookies of one sync. There is one server and a sync is one session, so
//! a cookie without a `Path` goes to every stage, and number and size of the
//! cookies are bounded; a browser's jar does neither. `Secure` cookies are sent
//! over plain HTTP as well, which only loopback servers may speak.

use std::collections::BTreeMap;

use url::Url;

use crate::model::Timestamp;

/// More cookies than this are not kept.
const MAX_COOKIES: usize = 64;
/// A longer name and value, in bytes, are not kept; browsers take 4096.
const MAX_COOKIE_BYTES: usize = 8192;

/// The cookies that the server has set.
#[derive(Default)]
pub(super) struct Jar {
    cookies: BTreeMap<(String, String), String>,
}

impl Jar {
    /// Takes the value of one `Set-Cookie` header of a response from `url`.
    ///
    /// A cookie without a `Path` belongs to the whole of the sync, though
    /// RFC 6265 would bind it to the stage that set it: a sync is one session.
    pub(super) fn set(&mut self, header: &str, url: &Url, now: Timestamp) {
        let mut parts = header.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (name, value) = (name.trim(), value.trim());
        let mut path = "/".to_owned();
        let mut expires = None;
        let mut max_age = None;
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => value.clone_into(&mut path),
                "domain" if !belongs(url.host_str().unwrap_or_default(), value) => return,
                "max-age" => max_age = value.parse::<i64>().ok(),
                "expires" => expires = httpdate::parse_http_date(value).ok(),
                _ => {}
            }
        }
        let key = (name.to_owned(), path);
        let gone = match (max_age, expires.and_then(super::headers::timestamp)) {
            (Some(seconds), _) => seconds <= 0,
            (None, Some(time)) => time <= now,
            (None, None) => false,
        };
        if gone {
            self.cookies.remove(&key);
        } else if !name.is_empty()
            && name.len() + value.len() <= MAX_COOKIE_BYTES
            && (self.cookies.len() < MAX_COOKIES || self.cookies.contains_key(&key))
        {
            self.cookies.insert(key, value.to_owned());
        }
    }

    /// The value of the `Cookie` header of a request to `url`, if there is any.
    pub(super) fn header(&self, url: &Url) -> Option<String> {
        let mut fitting: Vec<_> = self
            .cookies
            .iter()
            .filter(|((_, path), _)| covers(path, url.path()))
            .map(|((name, path), value)| (path.len(), format!("{name}={value}")))
            .collect();
        // RFC 6265, 5.4: longer paths first.
        fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        let pairs: Vec<_> = fitting.into_iter().map(|(_, pair)| pair).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// The values kept, which count as secrets.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.cookies.values().map(String::as_str)
    }
}

/// Whether a cookie for this domain goes to the host (RFC 6265, 5.1.3). One without a
/// domain does.
pub(crate) fn belongs(host: &str, domain: &str) -> bool {
    let domain = domain.trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    domain.is_empty()
        || host == domain
        || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a cookie for this path goes with a request for the other (RFC 6265, 5.1.4).
pub(crate) fn covers(path: &str, request: &str) -> bool {
    request
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || path.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn url(path: &str) -> Url {
        Url::parse(&format!("http://localhost:8080{path}")).expect("a URL")
    }

    fn jar(headers: &[&str]) -> Jar {
        let mut jar = Jar::default();
        for header in headers {
            jar.set(header, &url("/santa/preflight/ID"), NOW);
        }
        jar
    }

    #[test]
    fn http_10_a_secure_cookie_comes_back_over_loopback_http() {
        let jar = jar(&["session=abc; Path=/; Secure; HttpOnly; SameSite=Strict"]);
        assert_eq!(jar.header(&url("/santa/postflight/ID")).as_deref(), Some("session=abc"));
    }

    #[test]
    fn http_10_a_cookie_without_a_path_is_sent_to_every_stage() {
        let jar = jar(&["a=1"]);
        assert_eq!(jar.header(&url("/santa/eventupload/ID")).as_deref(), Some("a=1"));
    }

    #[test]
    fn http_10_path_and_domain_are_kept_to() {
        let jar = jar(&[
            "a=1; Path=/santa",
            "b=2; path=/other",
            "c=3; Domain=example.com",
            "d=4; Domain=localhost",
            "e=5; Path=/santa/preflight",
        ]);
        assert_eq!(jar.header(&url("/santa/preflight/ID")).as_deref(), Some("e=5; a=1; d=4"));
        assert_eq!(jar.header(&url("/santas/x")).as_deref(), Some("d=4"));
        assert!(belongs("sync.example.com", ".example.com"));
        assert!(!belongs("badexample.com", "example.com"));
    }

    #[test]
    fn http_10_a_later_cookie_replaces_and_an_expired_one_removes() {
        let replaced = jar(&["a=1", "a=2"]);
        assert_eq!(replaced.header(&url("/x")).as_deref(), Some("a=2"));
        for removal in [
            "a=; Max-Age=0",
            "a=gone; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "a=; Max-Age=-1; Expires=Thu, 01 Jan 2099 00:00:00 GMT",
        ] {
            assert_eq!(jar(&["a=1", removal]).header(&url("/x")), None, "{removal}");
        }
        let kept = jar(&["a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]);
        assert_eq!(kept.header(&url("/x")).as_deref(), Some("a=1"));
    }

    #[test]
    fn http_10_a_server_cannot_fill_the_jar() {
        let mut jar = Jar::default();
        for number in 0..1000 {
            jar.set(&format!("c{number}=1"), &url("/"), NOW);
        }
        jar.set(&format!("long={}", "x".repeat(MAX_COOKIE_BYTES)), &url("/"), NOW);
        jar.set("no pair", &url("/"), NOW);
        jar.set("=nameless", &url("/"), NOW);
        assert_eq!(jar.cookies.len(), MAX_COOKIES);
    }
}
