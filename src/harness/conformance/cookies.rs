//! Cookies as Santa's client keeps them, which differs from our own agent: a `Secure` cookie is
//! not sent over plain HTTP, and a cookie without `Path` belongs to the directory that set it.

use crate::transport::cookies::{belongs, covers};

/// The cookies of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct CookieJar {
    cookies: Vec<Cookie>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
    /// Why the client does not return it anywhere, if it does not.
    withheld: Option<&'static str>,
}

impl CookieJar {
    /// Stores the cookie of a `Set-Cookie` header in a response to `path` on `host`.
    pub(super) fn set(&mut self, header: &str, host: &str, path: &str, https: bool) {
        let mut parts = header.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let mut cookie = Cookie {
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
            path: directory(path).to_owned(),
            withheld: None,
        };
        let mut is_expired = false;
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => value.clone_into(&mut cookie.path),
                "domain" if !belongs(host, value) => {
                    cookie.withheld = Some("it is for another Domain");
                }
                "secure" if !https => cookie.withheld = Some("it is Secure and this is http"),
                "max-age" => is_expired = value.parse::<i64>().is_ok_and(|seconds| seconds <= 0),
                _ => {}
            }
        }
        self.cookies.retain(|known| (&known.name, &known.path) != (&cookie.name, &cookie.path));
        if !is_expired && !cookie.name.is_empty() {
            self.cookies.push(cookie);
        }
    }

    /// The value of the `Cookie` header for a request to `path`.
    pub(super) fn header(&self, path: &str) -> Option<String> {
        let fitting = |cookie: &&Cookie| cookie.withheld.is_none() && covers(&cookie.path, path);
        Self::joined(self.cookies.iter().filter(fitting))
    }

    /// The header with every cookie, including those that a client would not send.
    pub(super) fn all(&self) -> Option<String> {
        Self::joined(self.cookies.iter())
    }

    /// A cookie that the client does not send to `path`, and why.
    pub(super) fn withheld(&self, path: &str) -> Option<(&str, &'static str)> {
        self.cookies.iter().find_map(|cookie| {
            let why = cookie.withheld.or_else(|| {
                (!covers(&cookie.path, path)).then_some("its Path does not cover this stage")
            });
            Some((cookie.name.as_str(), why?))
        })
    }

    /// The values, which are secrets.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.cookies.iter().map(|cookie| cookie.value.as_str())
    }

    fn joined<'a>(cookies: impl Iterator<Item = &'a Cookie>) -> Option<String> {
        let pairs: Vec<_> =
            cookies.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// RFC 6265, 5.1.4: the default path of a cookie.
fn directory(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(end) => &path[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(header: &str, https: bool) -> CookieJar {
        let mut jar = CookieJar::default();
        jar.set(header, "sync.example.com", "/santa/preflight/ID", https);
        jar
    }

    const LATER: &str = "/santa/ruledownload/ID";

    #[test]
    fn a_cookie_for_the_whole_host_goes_to_later_stages() {
        assert_eq!(jar("a=1; Path=/", false).header(LATER).as_deref(), Some("a=1"));
        let domain = jar("a=1; Path=/santa; Domain=.example.com; Secure", true);
        assert_eq!(domain.header(LATER).as_deref(), Some("a=1"));
    }

    #[test]
    fn a_cookie_that_the_client_cannot_return_is_withheld_with_the_reason() {
        for (header, reason) in [
            ("a=1; Path=/; Secure", "it is Secure and this is http"),
            ("a=1; Path=/; Domain=other.example", "it is for another Domain"),
            ("a=1", "its Path does not cover this stage"),
            ("a=1; Path=/admin", "its Path does not cover this stage"),
        ] {
            let jar = jar(header, false);
            assert_eq!(jar.header(LATER), None, "{header}");
            assert_eq!(jar.withheld(LATER), Some(("a", reason)), "{header}");
            assert_eq!(jar.all().as_deref(), Some("a=1"));
        }
    }

    #[test]
    fn a_later_cookie_replaces_and_an_expired_one_removes() {
        let mut jar = jar("a=1; Path=/", true);
        jar.set("a=2; Path=/", "sync.example.com", LATER, true);
        assert_eq!(jar.all().as_deref(), Some("a=2"));
        jar.set("a=; Path=/; Max-Age=0", "sync.example.com", LATER, true);
        assert_eq!(jar.all(), None);
    }
}
