//! What a [`super::Transport`] is made of: plain values that the caller fills
//! in from the configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::response_budget::ResponseBudget;
use crate::model::{BaseUrl, ContentEncoding, MachineId, Proxy, Secret, Transfer};

/// What the server's certificate is verified against.
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
/// key in one file. The content decides which of the two it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its path.
    pub file: PathBuf,
    /// The password of the file, or of the key in it.
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
    /// Headers of every request. Those with a [`HeaderProblem`](crate::model::HeaderProblem) are dropped.
    pub extra_headers: Vec<(String, Secret)>,
    /// The value of `User-Agent`, whatever the extra headers say.
    pub user_agent: String,
    /// What the server's certificate is verified against.
    pub roots: Roots,
    /// The certificate to show to a server that asks for one.
    pub client_certificate: Option<ClientCertificate>,
    /// The way to the server.
    pub proxy: Proxy,
    /// Whether to use HTTP/1.1 even if the server offers HTTP/2.
    pub disable_http2: bool,
    /// How long an attempt may take.
    pub timeouts: Timeouts,
    /// The largest response in bytes, after decoding.
    pub max_body: usize,
    /// What the responses of several transports may take together.
    pub response_budget: Option<ResponseBudget>,
}

/// What distinguishes one host from the others that go the same way, see
/// [`super::Transport::for_host`].
#[cfg(feature = "harness")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// The last segment of every URL.
    pub machine_id: MachineId,
    /// The form of the bodies.
    pub transfer: Transfer,
    /// How request bodies are compressed.
    pub content_encoding: ContentEncoding,
    /// The value of `User-Agent`.
    pub user_agent: String,
}

impl TransportOptions {
    /// The largest response by default: 128 MiB, some 600,000 rules.
    pub const DEFAULT_MAX_BODY_BYTES: usize = 128 << 20;

    /// Options for a server with everything else at its default.
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
            response_budget: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_9_the_timeouts_are_10_30_and_300_seconds() {
        let timeouts = Timeouts::default();
        assert_eq!(
            [timeouts.connect, timeouts.idle, timeouts.total, timeouts.xsrf].map(|t| t.as_secs()),
            [10, 30, 300, 10]
        );
    }
}
