//! The TLS configuration: TLS 1.2 or later with ring, the trust roots, the
//! client certificate, and a resolver of what the server asked for. Roots and
//! client certificate are for the server alone. A proxy that is spoken to in
//! TLS is verified by the platform's roots and shown no certificate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::certificate::{self, ClientIdentity};
use super::proxy_or_server::{Leg, Legs};
use super::roots::ConfiguredRoots;
use super::{CertificateFacts, ClientCertificate, Roots, lock};
use crate::failure::{Failure, FailureKind};
#[cfg(test)]
use crate::model::Timestamp;

/// How many of the authorities that a server accepts are remembered.
const MAX_AUTHORITIES: usize = 5;

/// Returns the client certificate and remembers that the server requested it, so
/// that a failed handshake can be distinguished from a missing certificate.
#[derive(Debug)]
pub(super) struct RecordingResolver {
    pub(super) identity: Option<ClientIdentity>,
    asked: AtomicBool,
    authorities: Mutex<Vec<String>>,
    chain: CertificateChain,
    /// The way that connections take.
    pub(super) legs: Arc<Legs>,
}

impl RecordingResolver {
    #[cfg(test)]
    pub(super) fn new(identity: Option<ClientIdentity>, asked: bool) -> Self {
        let asked = AtomicBool::new(asked);
        Self {
            identity,
            asked,
            authorities: Mutex::default(),
            chain: CertificateChain::default(),
            legs: Arc::default(),
        }
    }

    /// Has the server have shown certificates of these validities.
    #[cfg(test)]
    pub(super) fn show(&self, validities: &[(i64, i64)]) {
        let facts = |&(not_before, not_after): &(i64, i64)| CertificateFacts {
            subject: "CN=h".to_owned(),
            issuer: "CN=ca".to_owned(),
            not_before: Timestamp::from_secs(not_before),
            not_after: Timestamp::from_secs(not_after),
            sha256: String::new(),
        };
        *lock(&self.chain) = validities.iter().map(facts).collect();
    }

    /// The certificates the server showed in the last handshake, its own first.
    pub(super) fn server_chain(&self) -> Vec<CertificateFacts> {
        lock(&self.chain).clone()
    }

    /// Whether the server asked for a client certificate in any handshake.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The first few authorities whose certificates the server accepts, by its
    /// own account.
    pub(super) fn authorities(&self) -> Vec<String> {
        lock(&self.authorities).clone()
    }
}

impl ResolvesClientCert for RecordingResolver {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        if self.legs.current() != Some(Leg::Server) {
            return None;
        }
        self.asked.store(true, Ordering::Relaxed);
        *lock(&self.authorities) = root_hint_subjects
            .iter()
            .take(MAX_AUTHORITIES)
            .filter_map(|der| X509Name::from_der(der).ok())
            .map(|(_, name)| certificate::name(&name))
            .collect();
        self.identity.as_ref().map(|identity| Arc::clone(&identity.key))
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// How many certificates of a chain are kept; real chains have up to four.
const MAX_CHAIN_CERTIFICATES: usize = 8;

/// The certificates of the last handshake, the server's own first.
pub(super) type CertificateChain = Arc<Mutex<Vec<CertificateFacts>>>;

/// Has each certificate verified by whoever decides on that leg of the
/// connection, and keeps what the server showed. The verifiers alone decide.
#[derive(Debug)]
pub(super) struct RecordingVerifier {
    server: Arc<dyn ServerCertVerifier>,
    proxy: Option<Arc<dyn ServerCertVerifier>>,
    legs: Arc<Legs>,
    chain: CertificateChain,
}

impl RecordingVerifier {
    pub(super) fn new(
        server: Arc<dyn ServerCertVerifier>,
        proxy: Option<Arc<dyn ServerCertVerifier>>,
        legs: Arc<Legs>,
        chain: CertificateChain,
    ) -> Self {
        Self { server, proxy, legs, chain }
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = match (self.legs.current(), &self.proxy) {
            (Some(Leg::Server), _) => {
                *lock(&self.chain) = std::iter::once(end_entity)
                    .chain(intermediates)
                    .take(MAX_CHAIN_CERTIFICATES)
                    .filter_map(|der| CertificateFacts::of(der))
                    .collect();
                &self.server
            }
            (Some(Leg::Proxy), Some(proxy)) => proxy,
            (Some(Leg::Proxy) | None, _) => {
                return Err(Error::General("whose certificate this is cannot be told".to_owned()));
            }
        };
        let accepted = verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        if self.legs.current() == Some(Leg::Proxy) {
            Legs::pass_proxy();
        }
        Ok(accepted)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.server.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.server.verify_tls13_signature(message, cert, dss)
    }

    /// Asked for at the beginning of each handshake.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.legs.begin();
        self.server.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.server.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.server.root_hint_subjects()
    }
}

/// Builds a TLS configuration from the trust roots and the client certificate.
/// `server` says whether the server uses TLS; if not, the platform's
/// roots are not loaded, since a host may have none.
pub(super) fn configure(
    roots: &Roots,
    client_certificate: Option<&ClientCertificate>,
    server: bool,
    tls_proxy: bool,
) -> Result<(ClientConfig, Arc<RecordingResolver>), Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let legs = Arc::new(Legs::new(tls_proxy));
    let resolver = Arc::new(RecordingResolver {
        identity: client_certificate.map(certificate::load_identity).transpose()?,
        asked: AtomicBool::new(false),
        authorities: Mutex::default(),
        chain: CertificateChain::default(),
        legs: Arc::clone(&legs),
    });
    let unusable = |what: String| {
        Failure::new(FailureKind::RootsUnreadable, format!("no trust roots: {what}"))
            .fixed_by("install the system's CA certificates or set ServerAuthRootsFile")
    };
    let platform = || {
        let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider));
        let verifier = verifier.map_err(|error| unusable(error.to_string()))?;
        Ok::<Arc<dyn ServerCertVerifier>, Failure>(Arc::new(verifier))
    };
    let of_server: Option<Arc<dyn ServerCertVerifier>> = match roots {
        Roots::Platform if !server => None,
        Roots::Platform => Some(platform()?),
        Roots::File(_) | Roots::Data(_) => {
            let roots = certificate::load_roots(roots)?;
            let roots = ConfiguredRoots::new(roots, Arc::clone(&provider)).map_err(unusable)?;
            Some(Arc::new(roots))
        }
    };
    let of_proxy = match (&of_server, roots) {
        _ if !tls_proxy => None,
        (Some(verifier), Roots::Platform) => Some(Arc::clone(verifier)),
        _ => Some(platform()?),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| unusable(error.to_string()))?;
    let builder = match of_server.or_else(|| of_proxy.clone()) {
        Some(server) => {
            let chain = Arc::clone(&resolver.chain);
            let watched = RecordingVerifier::new(server, of_proxy, legs, chain);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(watched))
        }
        // Nothing is trusted, should TLS be spoken all the same.
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let mut config = builder.with_client_cert_resolver(Arc::clone(&resolver) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if tls_proxy {
        // A resumed session is not verified, and the legs are told apart by that.
        config.resumption = Resumption::disabled();
    }
    Ok((config, resolver))
}
