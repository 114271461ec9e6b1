//! A look at the certificates a server shows, for `doctor`: who they name, who
//! signed them and how long they last, also where they are not accepted.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::legs::{Leg, Legs};
use super::{CertificateFacts, lock};

/// How many certificates of a chain are kept; real chains have up to four.
const CHAIN_KEPT: usize = 8;

/// The certificates of the last handshake, the server's own first.
pub(super) type Chain = Arc<Mutex<Vec<CertificateFacts>>>;

/// Has each certificate verified by whoever decides on that leg of the
/// connection, and keeps what the server showed. The answers are the verifiers'
/// alone.
#[derive(Debug)]
pub(super) struct Watched {
    server: Arc<dyn ServerCertVerifier>,
    proxy: Option<Arc<dyn ServerCertVerifier>>,
    legs: Arc<Legs>,
    chain: Chain,
}

impl Watched {
    pub(super) fn new(
        server: Arc<dyn ServerCertVerifier>,
        proxy: Option<Arc<dyn ServerCertVerifier>>,
        legs: Arc<Legs>,
        chain: Chain,
    ) -> Self {
        Self { server, proxy, legs, chain }
    }
}

impl ServerCertVerifier for Watched {
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
                    .take(CHAIN_KEPT)
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
