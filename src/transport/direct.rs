//! What a connection needs that is made elsewhere than by [`super::Transport`]: for tools
//! that look at a server's every byte. It talks TLS, sends headers and strikes out secrets
//! as the transport does.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use reqwest::header::HeaderMap;
use rustls::{ClientConfig, RootCertStore};

use super::failure::FailureContext;
use super::headers;
use super::redaction::Redaction;
use super::tls::{self, RecordingResolver};
use super::{CertificateFacts, TransportOptions};
use crate::failure::Failure;
use crate::model::Timestamp;
use crate::model::text::joined;

/// TLS, headers and secrets for connections to the server of some options.
pub struct DirectAccess {
    /// The TLS configuration, for HTTP/1.1; `None` for plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// Headers of every request: the extra ones of the configuration, `Authorization`,
    /// `Accept`, `Content-Type` and `User-Agent`.
    pub headers: HeaderMap,
    options: TransportOptions,
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
        Ok(Self { tls, headers, options: options.clone(), resolver, redaction })
    }

    /// Strikes this text out as well: a token or a cookie that the server handed out.
    pub fn add_secret(&mut self, secret: &str) {
        self.redaction.add(secret);
    }

    /// The text with every known secret redacted.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.redaction.apply(text)
    }

    /// The bytes with every known secret redacted.
    #[must_use]
    pub fn redact_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        self.redaction.apply_to_bytes(bytes)
    }

    /// A TLS configuration that refuses every certificate: how a handshake fails says whether a
    /// server speaks TLS.
    #[must_use]
    pub fn tls_that_trusts_nobody() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map(|builder| builder.with_root_certificates(RootCertStore::empty()));
        match builder {
            Ok(builder) => Arc::new(builder.with_no_client_auth()),
            // ring has suites for each version.
            Err(error) => unreachable!("{error}"),
        }
    }

    /// Why a handshake failed, and how to fix it, in the words of the agent.
    #[must_use]
    pub fn tls_failure(&self, error: &rustls::Error, now: Timestamp) -> String {
        let target = self.options.base_url.as_url();
        let host = target.host_str().unwrap_or_default();
        let port = target.port_or_known_default().unwrap_or_default();
        let context = FailureContext {
            url: self.options.base_url.to_string(),
            target,
            server: format!("{host}:{port}"),
            route: None,
            resolver: &self.resolver,
            certificate_file: self.options.client_certificate.as_ref().map(|c| c.file.as_path()),
            roots: &self.options.roots,
            timeouts: &self.options.timeouts,
            now,
        };
        let failure = context.tls(error);
        joined(&failure.message, failure.fix.as_deref())
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
