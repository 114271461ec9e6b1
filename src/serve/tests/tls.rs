//! TLS in front of it all.

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

/// A certificate authority, and what it signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn sign(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    /// A server's settings: client certificates are asked for, not required.
    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let (chain, key) = self.sign();
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_client_cert_verifier(verifier);
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }
}

/// Connects with TLS and asks who it is.
fn ask(server: &Server, roots: &Authority, identity: Option<Identity>) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots.roots());
    let config = match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(tls, stream);
    stream.write_all(b"POST /user HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    // Closed with a close_notify, or this is an error.
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn relay_12_a_verified_client_certificate_is_told_from_none() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let server = Server::with(Limits::default(), Paths::default(), Some(ours.server()));
    let with = ask(&server, &ours, Some(ours.sign())).unwrap();
    assert!(with.starts_with("HTTP/1.1 200 ") && with.contains("certificate: true"), "{with}");
    let without = ask(&server, &ours, None).unwrap();
    assert!(without.contains("certificate: false"), "{without}");
    ask(&server, &ours, Some(foreign.sign())).unwrap_err();
    // The client verifies as well.
    ask(&server, &foreign, None).unwrap_err();
    assert!(ask(&server, &ours, None).is_ok());
}

#[test]
fn relay_12_slow_and_wrong_handshakes_end() {
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let server = Server::with(limits, Paths::default(), Some(Authority::new().server()));
    server.connect().ends();
    // The beginning of a record.
    server.connect().send([0x16, 3, 1, 1, 0, 1]).ends();
    let mut plain = server.connect();
    plain.send("POST /echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    let mut alert = Vec::new();
    let _ = plain.0.read_to_end(&mut alert);
    assert!(alert.len() < 10 && !alert.starts_with(b"HTTP"), "{alert:?}");
    assert!(server.paths.seen.lock().unwrap().is_empty());
}

#[test]
fn relay_12_handshakes_count_as_connections() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let ours = Authority::new();
    let server = Server::with(limits, Paths::default(), Some(ours.server()));
    let mut silent: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    assert!(ask(&server, &ours, None).is_ok());
    for client in &mut silent[..4] {
        client.ends();
    }
}
