//! The relay's certificates in use, and how its authorizer is led away.

use std::io::Read as _;

use serde_json::Value;

use super::process::Host;
use super::santa::{Age, Santa, Status};
use super::tls;
use crate::daemon::PATIENCE;

/// RELAY-1, RELAY-12: Santa reaches the relay by what lies in `RelayDirectory`, and
/// nobody does without it.
#[test]
fn relay_1_santa_syncs_by_the_certificates_that_were_made_for_it() {
    let host = Host::new(Age::Y2026M7);
    let dir = tempfile::tempdir().expect("a directory");
    let public = dir.path().join("public");
    let directory = format!("RelayDirectory={}", public.display());
    let sets = ["RelayTLS=true", "RelayClientCertificate=true", &directory];
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let _daemon = host.start(&sets);
    host.until(|relay| relay.url.starts_with("https:") && relay.newest_generation.is_some());

    let roots = std::fs::read_to_string(public.join("ca.pem")).expect("the CA");
    let keys = std::fs::read(host.agent.state_dir.join("relay-keys.json")).expect("the keys");
    let keys: Value = serde_json::from_slice(&keys).expect("JSON");
    let text = |pair: &str, part: &str| keys[pair][part].as_str().expect("PEM").to_owned();
    let santa = |own: Option<&str>| {
        let url = format!("https://{}/", host.listen);
        Santa::new(Age::Y2026M7, &url).with(|profile| {
            let own = own.map(|pair| (text(pair, "certificate"), text(pair, "key")));
            let own = own.as_ref().map(|(certificate, key)| (&**certificate, &**key));
            profile.tls = Some(tls::client(&roots, own));
        })
    };
    assert_ne!(santa(None).sync().status, Status::Success);
    assert_ne!(santa(Some("server")).sync().status, Status::Success);
    let served = santa(Some("client"));
    assert_eq!(served.sync().status, Status::Success);
    assert_eq!(served.sync().status, Status::Success);
    let relay = host.until_status(|relay| relay.in_step);
    assert!(relay.authorizer.expect("it came").authenticated);
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::MetadataExt as _;
        let file = public.join("client.p12").metadata().expect("the client's file");
        assert_eq!((file.uid(), file.mode() & 0o777), (65_534, 0o400));
    }
}

/// RELAY-14: an authorizer that is led away keeps the server's own interval, not the
/// relay's, which a host without a relay would have to bear.
#[test]
fn relay_14_remove_gives_the_authorizer_the_servers_interval() {
    let host = Host::new(Age::Y2026M7);
    let daemon = host.start(&[]);
    host.until(|relay| relay.newest_generation.is_some());
    host.santa.sync();
    assert_eq!(host.santa.sync().status, Status::Success);
    assert_eq!(host.santa.interval(), 60, "the relay's");
    let listen = format!("RelayListen={}", host.listen);
    let remove = |wait: &str| {
        let args = ["relay", "remove", "--wait", wait, "--output", "/nowhere", "--set", &listen];
        let mut command = host.agent.command_at_rate(1, &args);
        command.stdout(std::process::Stdio::piped()).spawn().expect("the program runs")
    };
    let mut removing = remove(&PATIENCE.as_secs().to_string());
    let status = loop {
        assert_eq!(host.santa.sync().status, Status::Success);
        if let Some(status) = removing.try_wait().expect("its end") {
            break status;
        }
    };
    let mut said = String::new();
    removing.stdout.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    assert!(status.success() && said.contains("the authorizer has taken it"), "{said}");
    assert!(said.contains("`santa-sync relay remove --finish` again"), "{said}");
    assert_eq!(host.santa.interval(), 600, "the server's");
    // Nothing is forgotten when the daemon starts anew, nor taken away too early.
    drop(daemon);
    let _daemon = host.start(&[]);
    host.santa.sync();
    assert_eq!(host.santa.interval(), 600);
    assert!(host.agent.state_dir.join("relay-leaving").exists());
    let mut again = remove("0");
    assert!(again.wait().expect("its end").success());
}
