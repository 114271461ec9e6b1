//! Proxies that are spoken to in TLS. Only the environment can name one, so the
//! agent runs as a process of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use santa_sync::transport::ClientCertificate;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use super::pki::{Ca, Clients, VERSIONS, listen_tls, server_config};
use super::server::{Script, listener, ok, read_request};
use crate::agent::{Agent, Synced, synced};

/// Whether each client showed a certificate when it was asked.
type Shown = Arc<Mutex<Vec<bool>>>;

/// A network in which the server is reached through the proxy only, each with a
/// certificate of its own CA.
struct Network {
    directory: tempfile::TempDir,
    server_ca: Ca,
    proxy_ca: Ca,
    server: u16,
    proxy: u16,
    shown_to_proxy: Shown,
    client: ClientCertificate,
}

impl Network {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (server_ca, proxy_ca) = (Ca::new("Server CA"), Ca::new("Proxy CA"));
        let clients = Ca::new("Client CA");
        let leaf = server_ca.issue("server", &["sync.test"]);
        let config = server_config(&clients, &leaf, Clients::WithCertificate, VERSIONS);
        let server = listen_tls(&Script::new([ok("{}")]), config).await;
        let leaf = proxy_ca.issue("proxy", &["localhost"]);
        let config = server_config(&clients, &leaf, Clients::MayShowCertificate, VERSIONS);
        let shown_to_proxy = Shown::default();
        let proxy = tls_proxy(config, server, Arc::clone(&shown_to_proxy)).await;
        let client = clients.issue("host-1", &[]).write(directory.path());
        Self { directory, server_ca, proxy_ca, server, proxy, shown_to_proxy, client }
    }

    fn file(&self, name: &str, ca: &Ca) -> PathBuf {
        let file = self.directory.path().join(name);
        std::fs::write(&file, &ca.pem).expect("write");
        file
    }

    /// A sync on a host whose system trusts `system`, and whose configuration
    /// trusts `configured`.
    async fn sync(&self, system: &Ca, configured: Option<&Ca>) -> Synced {
        let agent = Agent::at(&format!("https://sync.test:{}/", self.server));
        let client = self.client.file.display();
        let client = format!("ClientAuthCertificateFile={client}");
        let mut command = agent.command(&["sync", "--json", "--set", &client]);
        if let Some(ca) = configured {
            let file = self.file("configured.pem", ca);
            command.args(["--set", &format!("ServerAuthRootsFile={}", file.display())]);
        }
        command
            .env("HTTPS_PROXY", format!("https://localhost:{}", self.proxy))
            .env("SSL_CERT_FILE", self.file("system.pem", system));
        let running = tokio::task::spawn_blocking(move || {
            let output = command.output().expect("the program runs");
            drop(agent);
            output
        });
        synced(&running.await.expect("no panic"))
    }
}

/// A proxy that knows CONNECT, and leads to that port of this host whatever it is
/// asked for.
async fn tls_proxy(config: rustls::ServerConfig, server: u16, shown: Shown) -> u16 {
    let (listener, port) = listener().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, shown) = (acceptor.clone(), Arc::clone(&shown));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let certificate = stream.get_ref().1.peer_certificates().is_some();
                shown.lock().expect("unpoisoned").push(certificate);
                read_request(&mut stream, &mut Vec::new()).await?;
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.ok()?;
                copy_bidirectional(&mut stream, &mut server).await.ok()
            });
        }
    });
    port
}

/// HTTP-12: the configured roots and the client certificate are for the server,
/// the system's roots for the proxy.
#[tokio::test]
async fn http_12_roots_and_client_certificate_of_the_server_are_not_for_the_proxy() {
    let network = Network::new().await;
    let synced = network.sync(&network.proxy_ca, Some(&network.server_ca)).await;
    assert_eq!(synced.result(), "success", "{}", synced.stderr);
    let shown = network.shown_to_proxy.lock().expect("unpoisoned").clone();
    assert!(!shown.is_empty() && !shown.contains(&true), "{shown:?}");
}

#[tokio::test]
async fn http_12_a_proxy_of_the_configured_roots_alone_is_untrusted() {
    let network = Network::new().await;
    let synced = network.sync(&network.server_ca, Some(&network.proxy_ca)).await;
    assert_eq!(synced.kind(), "certificate_untrusted", "{}", synced.stderr);
    let message = synced.json["error"]["message"].as_str().expect("a message");
    let proxy = format!("the proxy https://localhost:{} (HTTPS_PROXY)", network.proxy);
    assert!(message.contains(&proxy), "{message}");
}

#[tokio::test]
async fn http_12_a_server_behind_a_trusted_proxy_is_still_verified_by_its_own_roots() {
    let network = Network::new().await;
    let synced = network.sync(&network.proxy_ca, Some(&network.proxy_ca)).await;
    assert_eq!(synced.kind(), "certificate_untrusted", "{}", synced.stderr);
    let message = synced.json["error"]["message"].as_str().expect("a message");
    let server = format!("the certificate of sync.test:{}", network.server);
    assert!(message.contains(&server), "{message}");
    // With the system's roots for both, the server is still told from the proxy.
    let synced = network.sync(&network.proxy_ca, None).await;
    assert_eq!(synced.kind(), "certificate_untrusted", "{}", synced.stderr);
    assert!(!synced.json["error"]["message"].to_string().contains("the proxy"));
}
