//! Certificates made for a test, and a TLS server that shows them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use santa_sync::transport::{ClientCertificate, Roots, TransportOptions};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;

use super::server::{Script, listener, options_for};

/// A certificate authority.
pub(crate) struct Ca {
    pub(crate) pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Leaf {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::issuing(params, KeyPair::generate().expect("a key"))
    }

    /// Whoever holds that key, as an authority, whatever its certificate says.
    pub(crate) fn issuing(params: CertificateParams, key: KeyPair) -> Self {
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for these hosts, or for a client of that name.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Leaf {
        self.issue_between(name, hosts, 2020, 2100)
    }

    /// The same, valid from and to New Year of these years.
    pub(crate) fn issue_between(&self, name: &str, hosts: &[&str], from: i32, to: i32) -> Leaf {
        let year = |year| rcgen::date_time_ymd(year, 1, 1);
        self.issue_valid(name, hosts, year(from), year(to))
    }

    /// The same, valid from and to these times.
    pub(crate) fn issue_valid(
        &self,
        name: &str,
        hosts: &[&str],
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name, hosts);
        (params.not_before, params.not_after) = (from, to);
        Leaf::new(&params.signed_by(&key, &self.issuer).expect("a certificate"), &key)
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::Data(self.pem.clone().into_bytes())
    }
}

impl Leaf {
    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// A server's certificate for `localhost` that it signed itself, with or
    /// without `CA:TRUE`, valid from and to New Year of these years.
    pub(crate) fn self_signed(is_ca: IsCa, hosts: &[&str], from: i32, to: i32) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named("a server of its own", hosts);
        params.is_ca = is_ca;
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        Self::new(&params.self_signed(&key).expect("a certificate"), &key)
    }

    /// The certificate alone, as trust roots.
    pub(crate) fn roots(&self) -> Roots {
        Roots::Data(self.pem.clone().into_bytes())
    }

    /// Writes certificate and key into one PEM file.
    pub(crate) fn write(&self, directory: &Path) -> ClientCertificate {
        let file: PathBuf = directory.join("client.pem");
        std::fs::write(&file, format!("{}{}", self.pem, self.key_pem)).expect("write");
        ClientCertificate { file, password: None }
    }
}

/// How a TLS server treats its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    Anyone,
    WithCertificate,
    MayShowCertificate,
    /// Whoever issued it.
    #[cfg_attr(not(feature = "harness"), expect(dead_code, reason = "for conformance"))]
    WithAnyCertificate,
}

/// Asks for a client certificate, and takes any.
#[derive(Debug)]
struct AnyClient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

pub(crate) fn server_config(
    ca: &Ca,
    leaf: &Leaf,
    clients: Clients,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("versions");
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients {
        Clients::Anyone => builder.with_no_client_auth(),
        Clients::WithCertificate => {
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
        Clients::WithAnyCertificate => {
            let verifier = verifier.build().expect("a verifier");
            builder.with_client_cert_verifier(Arc::new(AnyClient(verifier)))
        }
        Clients::MayShowCertificate => builder.with_client_cert_verifier(
            verifier.allow_unauthenticated().build().expect("a verifier"),
        ),
    };
    builder.with_single_cert(vec![leaf.der.clone()], leaf.key.clone_key()).expect("a certificate")
}

/// Both versions that are spoken.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Serves the script over TLS on a loopback port.
pub(crate) async fn listen_tls(script: &Script, config: ServerConfig) -> u16 {
    let (listener, port) = listener().await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let script = script.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (script, acceptor) = (script.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    script.serve(stream).await;
                }
            });
        }
    });
    port
}

/// Options for `https://localhost:<port>/` that trust that CA.
pub(crate) fn options_trusting(port: u16, ca: &Ca) -> TransportOptions {
    let mut options = options_for(&format!("https://localhost:{port}/"));
    options.roots = ca.roots();
    options
}
