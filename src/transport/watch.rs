//! A look at the certificates a server shows, for `doctor`: who they name, who
//! signed them and how long they last, also where they are not accepted.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::CertificateFacts;

/// How many certificates of a chain are kept; real chains have up to four.
const CHAIN_KEPT: usize = 8;

/// The certificates of the last handshake, the server's own first.
pub(super) type Chain = Arc<Mutex<Vec<CertificateFacts>>>;

/// Passes every question on to the verifier that decides and keeps what it was
/// asked about. The answers are the verifier's alone.
#[derive(Debug)]
pub(super) struct Watched {
    verifier: Arc<dyn ServerCertVerifier>,
    chain: Chain,
}

impl Watched {
    pub(super) fn new(verifier: Arc<dyn ServerCertVerifier>, chain: Chain) -> Self {
        Self { verifier, chain }
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
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = std::iter::once(end_entity)
            .chain(intermediates)
            .take(CHAIN_KEPT)
            .filter_map(|der| CertificateFacts::of(der))
            .collect();
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.verifier.root_hint_subjects()
    }
}
