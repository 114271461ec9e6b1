//! Which headers an operator may add to requests (HTTP-10).

/// Headers that the transport sets, or that mean nothing in its requests.
const RESTRICTED: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
];

/// Headers that would change how the body is framed.
const FRAMING_HEADERS: [&str; 4] = ["te", "trailer", "transfer-encoding", "upgrade"];

/// Why an extra header is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderProblem {
    /// The transport sets it, or it means nothing in a request to the server.
    Restricted,
    /// It would change how the body is framed.
    Framing,
    /// HTTP does not allow the name.
    Name,
    /// HTTP does not allow the value: it holds a line break, say.
    Value,
}

impl HeaderProblem {
    /// The problem of a header that the transport drops; `None` if it sends it.
    #[must_use]
    pub fn of(name: &str, value: &str) -> Option<Self> {
        let name = name.trim();
        let is_in = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_in(&RESTRICTED) {
            Some(Self::Restricted)
        } else if is_in(&FRAMING_HEADERS) {
            Some(Self::Framing)
        } else if name.is_empty() || !name.bytes().all(is_name_byte) {
            Some(Self::Name)
        } else if !value.trim().bytes().all(is_value_byte) {
            Some(Self::Value)
        } else {
            None
        }
    }

    /// What is wrong, as a fragment that follows the header's name.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Restricted => "is set by santa-sync itself",
            Self::Framing => "would change the framing of the body",
            Self::Name => "is not a header name",
            Self::Value => "has a value with control or non-ASCII characters",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn fix(self) -> &'static str {
        match self {
            Self::Restricted | Self::Framing => "remove it",
            Self::Name => "use letters, digits and hyphens",
            Self::Value => "write the value on one line of ASCII characters",
        }
    }
}

/// A token of RFC 9110.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_10_restricted_headers_are_known_in_any_case() {
        for name in RESTRICTED {
            assert_eq!(HeaderProblem::of(name, "x"), Some(HeaderProblem::Restricted));
            let upper = name.to_ascii_uppercase();
            assert_eq!(HeaderProblem::of(&upper, "x"), Some(HeaderProblem::Restricted));
        }
        for name in ["Authorization", "X-XSRF-TOKEN", "User-Agent", "Cookie", "Accept"] {
            assert_eq!(HeaderProblem::of(name, "value"), None, "{name}");
        }
    }

    #[test]
    fn http_10_each_problem_of_a_header_is_named() {
        for name in ["Transfer-Encoding", "TE", "trailer", "Upgrade"] {
            assert_eq!(HeaderProblem::of(name, "x"), Some(HeaderProblem::Framing), "{name}");
        }
        assert_eq!(HeaderProblem::of("a b", "x"), Some(HeaderProblem::Name));
        assert_eq!(HeaderProblem::of("", "x"), Some(HeaderProblem::Name));
        assert_eq!(HeaderProblem::of("X-A", "a\r\nHost: b"), Some(HeaderProblem::Value));
        assert_eq!(HeaderProblem::of("X-A", "ä"), Some(HeaderProblem::Value));
        assert_eq!(HeaderProblem::of("X-A", " a\tb\n"), None);
    }
}
