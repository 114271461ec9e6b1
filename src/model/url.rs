//! The server's base URL and the URLs made of it.

mod shown;

use std::fmt;

use ::url::{Host, Url};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::MachineId;
pub use shown::{shown, start_of_secret};

/// A base URL that may be talked to: `https`, or `http` to a loopback host.
///
/// It may hold secrets. Its `Display` and `Debug` forms are [`shown`]'s; the
/// whole text comes out only through [`Self::as_url`] and [`Self::join`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(Url);

/// Why a text cannot be the base URL. No variant holds more of the text than
/// may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("SyncBaseURL {}; {}", self.what(), self.fix())]
pub enum BaseUrlError {
    /// Not a URL. The text is not quoted: what cannot be parsed may hold a
    /// secret anywhere.
    Malformed {
        /// The first characters, at most 4.
        start: String,
        /// How many characters the text has.
        length: usize,
        /// The parser's message.
        reason: String,
    },
    /// Neither `https` nor `http`. A scheme nobody knows is shown by its
    /// beginning: in `user:password@host` it is the user.
    Scheme(String),
    /// `http` to a host that is not this one.
    PlainHttp(String),
}

impl BaseUrlError {
    /// What is wrong, as a fragment that follows the key's name.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Malformed { start, length, reason } => {
                format!("is not a URL ({reason}); it has {length} characters and begins {start:?}")
            }
            Self::Scheme(scheme) => format!("has the scheme {scheme:?}, which is not supported"),
            Self::PlainHttp(url) => format!("{url:?} would send everything in the clear"),
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Malformed { .. } | Self::Scheme(_) => "write it as https://host/path/",
            Self::PlainHttp(_) => {
                "change http:// to https:// (http is for localhost, 127.0.0.1 and ::1 only)"
            }
        }
    }
}

/// Separates the shown form and the hash of an identity. A URL holds no space.
const HASH_MARK: &str = " #";

impl BaseUrl {
    /// Checks a text and takes it as the base URL. Empty segments of the path
    /// and the fragment are dropped.
    ///
    /// # Errors
    /// If the text is not a URL, or one that must not be used.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        Self::parse_if(text, is_loopback)
    }

    /// [`Self::parse`] that accepts plain HTTP to any host: for tools that test a
    /// server, and report that no agent would talk to it.
    ///
    /// # Errors
    /// If the text is not an http or https URL.
    pub fn parse_any_http(text: &str) -> Result<Self, BaseUrlError> {
        Self::parse_if(text, |_| true)
    }

    fn parse_if(text: &str, allows_plain: fn(&Url) -> bool) -> Result<Self, BaseUrlError> {
        let text = text.trim();
        let mut url = Url::parse(text).map_err(|error| BaseUrlError::Malformed {
            start: start_of_secret(text),
            length: text.chars().count(),
            reason: error.to_string(),
        })?;
        match url.scheme() {
            "https" => {}
            "http" if allows_plain(&url) => {}
            "http" => return Err(BaseUrlError::PlainHttp(shown(&url))),
            _ => return Err(BaseUrlError::Scheme(shown::scheme(&url))),
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

    /// The URL of a stage as it may be shown: [`Self::join`] with the secrets of
    /// the base URL cut. The machine id is not one of them.
    #[must_use]
    pub fn shown_join(&self, segment: &str, machine_id: &MachineId) -> String {
        let id = percent_encoding::utf8_percent_encode(machine_id.as_str(), UNRESERVED_ONLY);
        shown::with_path_end(&self.0, &format!("/{segment}/{id}"))
    }

    /// What may be a secret in it, as written and percent-decoded: for finding
    /// it in texts of a server, which may echo what it was sent.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        shown::secrets(&self.0)
    }

    /// What tells this server from others, for keeping on disk: the shown form
    /// and a hash of the whole, so that two URLs that differ only in the hidden
    /// part of a secret stay two servers. Compare with [`Self::is_named_by`].
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{self}{HASH_MARK}{}", self.hash())
    }

    /// Whether a kept identity names this server. Older versions kept only a
    /// shown form, of another shape; that still counts.
    #[must_use]
    pub fn is_named_by(&self, identity: &str) -> bool {
        match identity.rsplit_once(HASH_MARK) {
            Some((_, hash)) => hash == self.hash(),
            None => identity == shown::first_form(&self.0),
        }
    }

    fn hash(&self) -> String {
        let digest = Sha256::digest(self.0.as_str().as_bytes());
        let start = digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        format!("{start:016x}")
    }

    /// The host, for example to look its address up.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// Everything but RFC 3986's unreserved characters.
const UNRESERVED_ONLY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whether the host is this one, by its name `localhost` or a loopback address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A kept [`BaseUrl::identity`] as it may be shown to people.
#[must_use]
pub fn shown_identity(identity: &str) -> String {
    if let Some((shown, _)) = identity.rsplit_once(HASH_MARK) {
        return shown.to_owned();
    }
    Url::parse(identity).map_or_else(|_| start_of_secret(identity), |url| shown(&url))
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
    fn http_14_two_servers_that_differ_only_in_a_secret_have_two_identities() {
        let url = |text: &str| BaseUrl::parse(text).expect("a base URL");
        for (one, other) in [
            ("https://h/p?key=tenant-a1", "https://h/p?key=tenant-a2"),
            ("https://h/0123456789abcdef0/", "https://h/0123456789abcdef1/"),
            ("https://user:password1@h/", "https://user:password2@h/"),
        ] {
            assert_eq!(url(one).to_string(), url(other).to_string());
            assert_ne!(url(one).identity(), url(other).identity());
            assert!(url(one).is_named_by(&url(one).identity()));
            assert!(!url(one).is_named_by(&url(other).identity()));
            assert_eq!(shown_identity(&url(one).identity()), url(one).to_string());
        }
        assert!(url("https://h/p/").is_named_by(&url("https://h//p#x").identity()));
    }

    #[test]
    fn http_14_an_identity_kept_by_an_older_version_still_names_its_server() {
        for (text, kept) in [
            ("https://h/v1/santa/", "https://h/v1/santa"),
            ("https://u:p@h/p?key=s3cret&x", "https://h/p?key=...&..."),
            ("https://h/0123456789abcdef0", "https://h/0123456789abcdef0"),
        ] {
            assert!(BaseUrl::parse(text).expect("a base URL").is_named_by(kept), "{kept}");
        }
        assert!(!BaseUrl::parse("https://h/a").expect("a base URL").is_named_by("https://h/b"));
        assert_eq!(shown_identity("https://h/0123456789abcdef0"), "https://h/0123…");
    }

    #[test]
    fn http_14_errors_about_a_url_do_not_quote_what_may_be_a_secret() {
        for bad in [
            "http://user:5ecretm4rk@h/p?k=5ecretm4rk",
            "5ecretm4rk:5ecretm4rk@h/p",
            "https://user:5ecretm4rk@h:x/p",
            "https://user:5ecret@m4rk@h:99999999/p",
            "//5ecretm4rk@h/p",
            "5ecretm4rk",
            "h/p?token=5ecretm4rk",
            "ftp://user:5ecretm4rk@h/",
            "https://[5ecretm4rk]/",
        ] {
            let error = BaseUrl::parse(bad).expect_err(bad);
            let text = format!("{error} {error:?}");
            assert!(!text.contains("5ecret") && !text.contains("m4rk"), "{text}");
        }
        let error = BaseUrl::parse("example.com").expect_err("no scheme").to_string();
        assert_eq!(
            error,
            "SyncBaseURL is not a URL (relative URL without a base); it has 11 characters and \
             begins \"exam…\"; write it as https://host/path/"
        );
    }
}
