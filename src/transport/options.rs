//! What a [`super::Transport`] is made of: plain values that the caller fills
//! in from the configuration.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{BaseUrl, ContentEncoding, MachineId, Proxy, Secret, Transfer};

/// Who vouches for the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Roots {
    /// The operating system's trust store.
    #[default]
    Platform,
    /// The certificates of a PEM or DER file, and no others.
    File(PathBuf),
    /// Certificates as PEM or DER bytes, and no others.
    Data(Vec<u8>),
}

/// The client certificate and its key: PKCS#12, or PEM with the chain and the
/// key in one file. Which of the two is seen from the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Where it lies.
    pub file: PathBuf,
    /// What the file, or the key in it, is encrypted with.
    pub password: Option<Secret>,
}

/// How long one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the name, the connection, the proxy and TLS together.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// For the attempt as a whole.
    pub total: Duration,
    /// For fetching an XSRF token as a whole.
    pub xsrf: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_mins(5),
            xsrf: Duration::from_secs(10),
        }
    }
}

/// Everything a [`super::Transport`] needs to know.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// The server.
    pub base_url: BaseUrl,
    /// The last segment of every URL.
    pub machine_id: MachineId,
    /// The form of the bodies.
    pub transfer: Transfer,
    /// How request bodies are compressed.
    pub content_encoding: ContentEncoding,
    /// Headers of every request. Those with a [`header_problem`] are left out.
    pub extra_headers: Vec<(String, Secret)>,
    /// The value of `User-Agent`, whatever the extra headers say.
    pub user_agent: String,
    /// Who vouches for the server's certificate.
    pub roots: Roots,
    /// The certificate to show to a server that asks for one.
    pub client_certificate: Option<ClientCertificate>,
    /// The way to the server.
    pub proxy: Proxy,
    /// Whether HTTP/1.1 is spoken to servers that offer HTTP/2 as well.
    pub disable_http2: bool,
    /// How long an attempt may take.
    pub timeouts: Timeouts,
    /// The largest answer in bytes, after decoding.
    pub max_body: usize,
}

impl TransportOptions {
    /// The largest answer by default: 128 MiB, some 600,000 rules.
    pub const DEFAULT_MAX_BODY_BYTES: usize = 128 << 20;

    /// TransportOptions for a server with everything else at its default.
    #[must_use]
    pub fn new(base_url: BaseUrl, machine_id: MachineId) -> Self {
        Self {
            base_url,
            machine_id,
            transfer: Transfer::default(),
            content_encoding: ContentEncoding::default(),
            extra_headers: Vec::new(),
            user_agent: concat!("santa-sync/", env!("CARGO_PKG_VERSION")).to_owned(),
            roots: Roots::default(),
            client_certificate: None,
            proxy: Proxy::default(),
            disable_http2: false,
            timeouts: Timeouts::default(),
            max_body: Self::DEFAULT_MAX_BODY_BYTES,
        }
    }
}

/// Headers that the transport itself is responsible for.
const RESTRICTED: [&str; 8] = [
    "content-encoding",
    "content-length",
    "content-type",
    "connection",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
];

/// Whether an extra header of that name is left out because the transport
/// itself sets it, or it means nothing in a request to the server.
#[must_use]
pub fn is_restricted_header(name: &str) -> bool {
    RESTRICTED.iter().any(|restricted| restricted.eq_ignore_ascii_case(name.trim()))
}

/// Why an extra header is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderProblem {
    /// One of the eight of [`is_restricted_header`].
    Restricted,
    /// It would change how the body is framed.
    Framing,
    /// The name is not one that HTTP allows.
    Name,
    /// The value holds control characters, such as a line break.
    Value,
}

impl HeaderProblem {
    /// What is wrong, as a fragment that follows the header's name.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Restricted => "is set by santa-sync itself; remove it from SyncExtraHeaders",
            Self::Framing => {
                "would change the framing of the body; remove it from SyncExtraHeaders"
            }
            Self::Name => "is not a header name; use letters, digits and hyphens",
            Self::Value => "has a value with control characters; remove line breaks from it",
        }
    }
}

/// Why the transport will leave an extra header out; `None` if it will send it.
#[must_use]
pub fn header_problem(name: &str, value: &str) -> Option<HeaderProblem> {
    let name = name.trim();
    if is_restricted_header(name) {
        Some(HeaderProblem::Restricted)
    } else if ["transfer-encoding", "te", "trailer", "upgrade"]
        .iter()
        .any(|framing| framing.eq_ignore_ascii_case(name))
    {
        Some(HeaderProblem::Framing)
    } else if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
        Some(HeaderProblem::Name)
    } else if reqwest::header::HeaderValue::from_str(value.trim()).is_err() {
        Some(HeaderProblem::Value)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_10_the_eight_restricted_headers_are_known_in_any_case() {
        for name in RESTRICTED {
            assert!(is_restricted_header(name));
            assert!(is_restricted_header(&name.to_ascii_uppercase()));
        }
        for name in ["Authorization", "X-XSRF-TOKEN", "User-Agent", "Cookie", "Accept"] {
            assert!(!is_restricted_header(name), "{name}");
            assert_eq!(header_problem(name, "value"), None);
        }
    }

    #[test]
    fn http_10_headers_that_cannot_be_sent_are_told_apart() {
        assert_eq!(header_problem("Host", "x"), Some(HeaderProblem::Restricted));
        assert_eq!(header_problem("Transfer-Encoding", "x"), Some(HeaderProblem::Framing));
        assert_eq!(header_problem("a b", "x"), Some(HeaderProblem::Name));
        assert_eq!(header_problem("", "x"), Some(HeaderProblem::Name));
        assert_eq!(header_problem("X-A", "a\r\nHost: b"), Some(HeaderProblem::Value));
    }

    #[test]
    fn http_9_the_timeouts_are_10_30_and_300_seconds() {
        let timeouts = Timeouts::default();
        assert_eq!(
            [timeouts.connect, timeouts.idle, timeouts.total, timeouts.xsrf].map(|t| t.as_secs()),
            [10, 30, 300, 10]
        );
    }
}
