//! Which parts of a URL may be secrets, and URLs with those parts cut (HTTP-14).

use std::fmt::Write as _;

use ::url::Url;
use percent_encoding::percent_decode_str;

/// How much of a secret is shown: enough to tell which one is configured.
const SHOWN_CHARS: usize = 4;

/// The shortest path segment that may be a secret: tokens are no shorter, and
/// words of a path hardly longer.
const MIN_SECRET_SEGMENT_CHARS: usize = 16;

/// A URL as it may be shown: user, values of the query, and path segments that
/// look like tokens are cut to their first characters; a password and a
/// fragment are left out.
#[must_use]
pub fn shown(url: &Url) -> String {
    with_path_end(url, "")
}

/// Schemes that are words and no secrets.
const KNOWN_SCHEMES: [&str; 16] = [
    "data", "file", "ftp", "ftps", "http", "https", "ldap", "ldaps", "mailto", "socks4", "socks4a",
    "socks5", "socks5h", "ssh", "ws", "wss",
];

/// The scheme. One that nobody knows is cut: in `user:password@host` it is the
/// user.
pub(super) fn scheme(url: &Url) -> String {
    let scheme = url.scheme();
    if KNOWN_SCHEMES.contains(&scheme) { scheme.to_owned() } else { start_of_secret(scheme) }
}

/// [`shown`] with a text behind the path, which is shown as it is.
pub(super) fn with_path_end(url: &Url, end: &str) -> String {
    let Some(host) = url.host_str() else {
        // `mailto:` and the like: what follows the scheme has no parts.
        return format!("{}:…", scheme(url));
    };
    let mut text = format!("{}://", scheme(url));
    if !url.username().is_empty() || url.password().is_some() {
        let _ = write!(text, "{}@", start_of_secret(url.username()));
    }
    text.push_str(host);
    if let Some(port) = url.port() {
        let _ = write!(text, ":{port}");
    }
    let path: Vec<_> =
        url.path()
            .split('/')
            .map(|segment| {
                if is_secret_segment(segment) {
                    start_of_secret(segment)
                } else {
                    segment.to_owned()
                }
            })
            .collect();
    let path = path.join("/");
    text.push_str(if end.is_empty() { &path } else { path.trim_end_matches('/') });
    text.push_str(end);
    if let Some(query) = url.query() {
        let pairs: Vec<_> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => format!("{name}={}", start_of_secret(value)),
                None => start_of_secret(pair),
            })
            .collect();
        text.push('?');
        text.push_str(&pairs.join("&"));
    }
    text
}

/// What is shown of a text that may be a secret: its first 4 characters, or
/// half of it if it is shorter than 8, and an ellipsis.
#[must_use]
pub fn start_of_secret(text: &str) -> String {
    let shown = SHOWN_CHARS.min(text.chars().take(2 * SHOWN_CHARS).count() / 2);
    let mut start =
        crate::model::text::escaped(&text.chars().take(shown).collect::<String>()).into_owned();
    start.push('…');
    start
}

/// Whether a path segment has the looks of a token: long, of letters and digits.
fn is_secret_segment(segment: &str) -> bool {
    let decoded = decoded(segment);
    decoded.chars().count() >= MIN_SECRET_SEGMENT_CHARS
        && decoded.chars().any(char::is_alphabetic)
        && decoded.chars().any(char::is_numeric)
}

/// Every part that [`shown`] cuts or leaves out, as written and decoded.
pub(super) fn secrets(url: &Url) -> Vec<String> {
    let query = url.query().unwrap_or_default().split('&');
    let values = query.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    let segments = url.path().split('/').filter(|segment| is_secret_segment(segment));
    let mut secrets = Vec::new();
    for part in [url.username(), url.password().unwrap_or_default()]
        .into_iter()
        .chain(values)
        .chain(segments)
        .filter(|part| !part.is_empty())
    {
        let plain = decoded(part);
        if plain != part {
            secrets.push(plain);
        }
        secrets.push(part.to_owned());
    }
    secrets
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// How the first versions showed a URL, and kept it as its identity: without user and
/// password, the values of the query replaced by dots, the path whole.
pub(super) fn first_form(url: &Url) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        shown(&Url::parse(text).expect("a URL"))
    }

    #[test]
    fn http_14_what_may_be_a_secret_in_a_url_is_shown_by_its_first_4_characters() {
        for (url, expected) in [
            ("https://h/p?key=s3cret-token&x", "https://h/p?key=s3cr…&…"),
            ("https://user:s3cret@h:8443/p", "https://us…@h:8443/p"),
            ("https://:s3cret@h/p", "https://…@h/p"),
            ("https://ghp_0123456789@h/p", "https://ghp_…@h/p"),
            ("https://h/santa/a1b2c3d4e5f6a7b8/v1/", "https://h/santa/a1b2…/v1/"),
            ("https://h/santa/%61%31b2c3d4e5f6a7b8", "https://h/santa/%61%…"),
            ("https://h/p#s3cret", "https://h/p"),
            ("data:text/plain,s3cret", "data:…"),
            ("mailto:s3cret@h", "mailto:…"),
            ("s3cret-user:s3cret@h", "s3cr…:…"),
            ("s3cret-token://h/", "s3cr…://h/"),
        ] {
            assert_eq!(of(url), expected, "{url}");
        }
    }

    #[test]
    fn http_14_words_of_a_path_are_shown() {
        for url in [
            "https://h/v1/santa",
            "https://h/a1b2c3d4e5f6a7b/",
            "https://h/synchronisation-service/",
            "https://h/1234567890123456/",
            "https://[::1]:8080/my%20company%20name",
        ] {
            assert_eq!(of(url), url);
        }
    }

    #[test]
    fn http_14_a_short_secret_is_never_shown_by_more_than_half() {
        assert_eq!(start_of_secret("hunter2"), "hun…");
        assert_eq!(start_of_secret("1"), "…");
        assert_eq!(start_of_secret(""), "…");
        assert_eq!(start_of_secret("\u{1b}[31mlong-enough"), "\\u{1b}[31…");
    }

    #[test]
    fn http_14_every_secret_of_a_url_is_listed_as_written_and_decoded() {
        let url = "https://me:p%40ss@h/p/0123456789abcdef%21?k=v%20w&flag&e=";
        assert_eq!(
            secrets(&Url::parse(url).expect("a URL")),
            [
                "me",
                "p@ss",
                "p%40ss",
                "v w",
                "v%20w",
                "flag",
                "0123456789abcdef!",
                "0123456789abcdef%21"
            ]
        );
    }
}
