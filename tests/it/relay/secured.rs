//! The relay's TLS and its secret, as its clients meet them: with what the daemon
//! itself has written.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use santa_sync::failure::ErrorText;
use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::model::Stage;
use santa_sync::relay::certificates::{self, Places};
use santa_sync::relay::worker::TlsSide;
use serde_json::Value;

use super::chain::{Chain, MACHINE_ID, wait};
use super::link::pause;
use super::santa::{Age, Santa, Status};
use super::{stored, tls};
use crate::agent::{Agent, free_address};
use crate::daemon::{Daemon, PATIENCE};

/// A host whose daemon relays as these keys say.
struct Host {
    server: FakeServer,
    agent: Agent,
    address: SocketAddr,
    directory: tempfile::TempDir,
    _daemon: Daemon,
}

impl Host {
    fn new(keys: &[&str]) -> Self {
        let rules: Vec<_> = fixtures::rules(60, 3).collect();
        let server = FakeServer::builder().rules(rules).start().expect("a server");
        let agent = Agent::of(&server);
        let directory = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let own = [
            format!("RelayListen={address}"),
            format!("RelayDirectory={}", directory.path().join("relay").display()),
        ];
        let sets: Vec<_> = keys.iter().copied().chain(own.iter().map(String::as_str)).collect();
        let sets: Vec<_> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        let daemon = Daemon::start(&agent, 1, &sets);
        assert!(server.wait_for(Stage::Postflight, 1, PATIENCE));
        let mut left = PATIENCE;
        while TcpStream::connect(address).is_err() || stored::rows(&agent.state_dir).len() < 60 {
            pause(Duration::from_millis(20));
            left = left.checked_sub(Duration::from_millis(20)).expect("it listens");
        }
        Self { server, agent, address, directory, _daemon: daemon }
    }

    fn public(&self, file: &str) -> PathBuf {
        self.directory.path().join("relay").join(file)
    }

    /// What the relay keeps of its client certificate.
    fn client(&self, key: &str) -> String {
        let text = std::fs::read(self.agent.state_dir.join("relay-keys.json")).expect("keys");
        let keys: Value = serde_json::from_slice(&text).expect("JSON");
        let value = if key == "password" { &keys["client_password"] } else { &keys["client"][key] };
        value.as_str().expect("text").to_owned()
    }

    fn santa(&self, scheme: &str) -> Santa {
        Santa::new(Age::Y2026M7, &format!("{scheme}://{}/", self.address))
    }
}

/// Syncs until its rules are those of the agent: at most twice.
fn come_into_step(santa: &Santa, host: &Host) {
    for _ in 0..2 {
        let done = santa.sync();
        assert_eq!(done.status, Status::Success, "{done:?}");
    }
    assert_eq!(santa.rows(), stored::rows(&host.agent.state_dir));
}

/// RELAY-1, RELAY-12: over TLS with the authority that lies in `RelayDirectory`, only
/// who has the relay's client certificate is served: Santa, and our own client with
/// the file that is meant for Santa.
#[test]
fn relay_12_over_tls_only_who_has_the_certificate_is_served() {
    let host = Host::new(&["RelayTLS=true", "RelayClientCertificate=true"]);
    let ca = std::fs::read_to_string(host.public("ca.pem")).expect("an authority");
    let (certificate, key) = (host.client("certificate"), host.client("key"));
    let with = |own| host.santa("https").with(|profile| profile.tls = Some(tls::client(&ca, own)));
    come_into_step(&with(Some((&certificate, &key))), &host);

    let stranger = with(None);
    let done = stranger.sync();
    assert_eq!((done.status, done.http_status), (Status::PreflightFailed, None));
    let done = host.santa("http").sync();
    assert_eq!(done.status, Status::PreflightFailed, "{done:?}");

    let other = Agent::at(&format!("https://{}/", host.address));
    let sets = [
        format!("ServerAuthRootsFile={}", host.public("ca.pem").display()),
        format!("ClientAuthCertificateFile={}", host.public("client.p12").display()),
        format!("ClientAuthCertificatePassword={}", host.client("password")),
    ];
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let done = other.sync(&sets);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    // It changed what is acknowledged: both come back into step in their turn.
    assert_eq!(other.sync(&sets).code, Some(0));
    assert_eq!(stored::rows(&other.state_dir), stored::rows(&host.agent.state_dir));
    come_into_step(&with(Some((&certificate, &key))), &host);
}

/// RELAY-12: with a secret only requests that carry it are served, and none of its
/// letters is in what others are told.
#[test]
fn relay_12_requests_without_the_secret_are_refused() {
    let host = Host::new(&["RelaySecret=s3cret-of-the-relay"]);
    let header = "Santa-Sync-Relay-Secret".to_owned();
    let with = |value: &str| {
        let header = (header.clone(), value.to_owned());
        host.santa("http").with(|profile| profile.headers.push(header))
    };
    come_into_step(&with("s3cret-of-the-relay"), &host);
    for santa in [host.santa("http"), with("s3cret-of-the-relax"), with("")] {
        let done = santa.sync();
        assert_eq!((done.status, done.http_status), (Status::PreflightFailed, Some(401)));
        assert!(santa.rows().is_empty());
    }
    assert_eq!(host.server.events_received(), 0);
}

/// RELAY-1: certificates that cannot be renewed, such as on a full disk, stay in use, and the
/// renewal is tried again later.
#[test]
fn relay_1_a_renewal_that_fails_does_not_end_the_service() {
    let mut chain = Chain::new(FakeServer::builder().start().expect("a server"));
    chain.sync();
    chain.stop();
    let (state_dir, calls) = (chain.state_dir(), Arc::new(AtomicUsize::new(0)));
    let called = Arc::clone(&calls);
    chain.options.config.tls = true;
    chain.tls = Some(Arc::new(move |now| {
        if called.fetch_add(1, Ordering::Relaxed) > 0 {
            return Err(ErrorText { message: "no space left".to_owned(), fix: None });
        }
        let directory = state_dir.join("public");
        let places = Places { state_dir: &state_dir, directory: &directory, client: None };
        let made = certificates::ensure(&places, None, now).expect("certificates");
        let config = made.server_config(false).expect("a configuration");
        Ok(TlsSide { config, valid_from: now, renew_at: now })
    }));
    chain.start();
    assert!(wait(|| calls.load(Ordering::Relaxed) > 1), "a renewal is due at once");

    let ca = std::fs::read_to_string(chain.state_dir().join("public/ca.pem")).expect("a CA");
    let santa = Santa::new(Age::Y2026M7, &chain.url().replace("http", "https")).with(|profile| {
        profile.tls = Some(tls::client(&ca, None));
        MACHINE_ID.clone_into(&mut profile.machine_id);
    });
    for _ in 0..2 {
        let done = santa.sync();
        assert_eq!(done.status, Status::Success, "{done:?}");
    }
    assert_eq!(chain.status().error, None);
    assert_eq!(calls.load(Ordering::Relaxed), 2, "the next attempt is not due");
}
