//! What a connection needs that is made elsewhere than by [`super::Transport`]: for tools
//! that look at a server's every byte. It talks TLS, sends headers and strikes out secrets
//! as the transport does.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use reqwest::header::HeaderMap;
use rustls::ClientConfig;

use super::headers;
use super::redaction::Redaction;
use super::tls::{self, RecordingResolver};
use super::{CertificateFacts, TransportOptions};
use crate::failure::Failure;

/// TLS, headers and secrets for connections to the server of some options.
pub struct DirectAccess {
    /// The TLS configuration, for HTTP/1.1; `None` for plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// Headers of every request: the extra ones of the configuration, `Authorization`,
    /// `Accept`, `Content-Type` and `User-Agent`.
    pub headers: HeaderMap,
    resolver: Arc<RecordingResolver>,
    redaction: Redaction,
}

impl DirectAccess {
    /// Reads trust roots and client certificate. A proxy of the options is not used.
    ///
    /// # Errors
    /// If roots or client certificate cannot be used.
    pub fn new(options: &TransportOptions) -> Result<Self, Failure> {
        let is_https = options.base_url.as_url().scheme() == "https";
        let (mut tls, resolver) =
            tls::configure(&options.roots, options.client_certificate.as_ref(), is_https, false)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut redaction = Redaction::default();
        for secret in options.base_url.secrets() {
            redaction.add(&secret);
        }
        let headers = headers::of_every_request(options, &mut redaction);
        let tls = is_https.then(|| Arc::new(tls));
        Ok(Self { tls, headers, resolver, redaction })
    }

    /// Strikes this text out as well: a token or a cookie that the server handed out.
    pub fn add_secret(&mut self, secret: &str) {
        self.redaction.add(secret);
    }

    /// The text with every known secret struck out.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.redaction.apply(text)
    }

    /// The bytes with every known secret struck out.
    #[must_use]
    pub fn redact_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        self.redaction.apply_to_bytes(bytes)
    }

    /// The certificates that the server showed in the last handshake, its own first.
    #[must_use]
    pub fn server_chain(&self) -> Vec<CertificateFacts> {
        self.resolver.server_chain()
    }
}

impl fmt::Debug for DirectAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectAccess").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}
