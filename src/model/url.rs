//! The server's base URL and the URLs made of it.

use std::fmt;

use ::url::{Host, Url};
use thiserror::Error;

use super::MachineId;

/// A base URL that may be talked to: `https`, or `http` to a loopback host.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(Url);

/// Why a text cannot be the base URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BaseUrlError {
    /// Not a URL.
    #[error("SyncBaseURL {url:?} is not a URL ({reason}); write it as https://host/path/")]
    Malformed {
        /// The text, without user and password.
        url: String,
        /// What the parser says.
        reason: String,
    },
    /// Neither `https` nor `http`.
    #[error("SyncBaseURL {0:?} has the scheme {1:?}; only https is supported")]
    Scheme(String, String),
    /// `http` to a host that is not this one.
    #[error(
        "SyncBaseURL {0:?} would send everything in the clear; change http:// to https:// \
         (http is for localhost, 127.0.0.1 and ::1 only)"
    )]
    PlainHttp(String),
}

impl BaseUrl {
    /// Checks a text and takes it as the base URL. Empty segments of the path
    /// and the fragment are dropped.
    ///
    /// # Errors
    /// If the text is no URL, or one that must not be used.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let text = text.trim();
        let mut url = Url::parse(text).map_err(|error| BaseUrlError::Malformed {
            url: without_credentials(text),
            reason: error.to_string(),
        })?;
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => return Err(BaseUrlError::PlainHttp(shown(&url))),
            other => {
                let text = without_credentials(text);
                return Err(BaseUrlError::Scheme(text, without_credentials(other)));
            }
        }
        let segments: Vec<String> = url
            .path_segments()
            .into_iter()
            .flatten()
            .filter(|segment| !segment.is_empty())
            .map(str::to_owned)
            .collect();
        url.set_path(&segments.join("/"));
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// `<base>/<segment>/<machine id>`, with the base URL's query.
    #[must_use]
    pub fn join(&self, segment: &str, machine_id: &MachineId) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let id = percent_encoding::utf8_percent_encode(machine_id.as_str(), UNRESERVED_ONLY);
        url.set_path(&format!("{base}/{segment}/{id}"));
        url
    }

    /// The URL itself; it may hold credentials.
    #[must_use]
    pub const fn as_url(&self) -> &Url {
        &self.0
    }

    /// The host, for example to look its address up.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// A URL as it may be shown: without user and password, and with the values of
/// its query masked, which may be keys. Its path is shown.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if let Some(query) = url.query() {
        let masked: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) => format!("{name}=..."),
                None => "...".to_owned(),
            })
            .collect();
        url.set_query(Some(&masked.join("&")));
    }
    // Both fail only for URLs that cannot have credentials.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// Everything but RFC 3986's unreserved characters.
const UNRESERVED_ONLY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, behind)) => format!("...@{behind}"),
        None => text.to_owned(),
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&shown(&self.0))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, id: &str) -> String {
        let id = MachineId::new(id).expect("a machine id");
        BaseUrl::parse(base).expect("a base URL").join("preflight", &id).to_string()
    }

    #[test]
    fn http_1_a_trailing_slash_makes_no_difference() {
        for base in ["https://h/v1/santa", "https://h/v1/santa/", "https://h/v1//santa//"] {
            assert_eq!(joined(base, "A-1"), "https://h/v1/santa/preflight/A-1");
        }
        assert_eq!(joined("https://h", "A"), "https://h/preflight/A");
    }

    #[test]
    fn http_1_the_query_is_kept_and_the_machine_id_encoded() {
        assert_eq!(
            joined("https://h/p?x=1#f", "a/b ä%.~_"),
            "https://h/p/preflight/a%2Fb%20%C3%A4%25.~_?x=1"
        );
    }

    #[test]
    fn http_11_plain_http_is_for_loopback_only() {
        for good in [
            "http://localhost:8080/api",
            "http://127.0.0.1/",
            "http://[::1]:1/",
            "https://10.0.0.1/",
        ] {
            assert!(BaseUrl::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["http://example.com/api", "http://10.0.0.1/api", "http://localhost.example.com/"]
        {
            let error = BaseUrl::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("change http:// to https://"), "{error}");
        }
        assert!(matches!(BaseUrl::parse("ftp://h/"), Err(BaseUrlError::Scheme(..))));
        assert!(matches!(BaseUrl::parse("example.com"), Err(BaseUrlError::Malformed { .. })));
    }

    #[test]
    fn credentials_of_a_url_are_never_shown() {
        let url = BaseUrl::parse("https://h/p?key=s3cret&x").expect("a base URL");
        assert_eq!(url.to_string(), "https://h/p?key=...&...");
        let url = BaseUrl::parse("https://user:s3cret@h/p").expect("a base URL");
        assert!(!format!("{url} {url:?}").contains("s3cret"));
        let error = BaseUrl::parse("http://user:s3cret@h/p").expect_err("plain http");
        assert!(!error.to_string().contains("s3cret"));
        let error = BaseUrl::parse("s3cret:s3cret@h/p").expect_err("no scheme");
        assert!(!error.to_string().contains("s3cret@"));
        let error = BaseUrl::parse("https://user:s3cret@h:x/p").expect_err("bad port");
        assert!(!error.to_string().contains("s3cret"));
    }
}
