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
    let remove = |wait: &str, more: &[&str]| {
        let args = ["relay", "remove", "--wait", wait, "--output", "/nowhere"];
        let args = [&args[..], more].concat();
        let mut command = host.agent.command_at_rate(1, &args);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().expect("the program runs")
    };
    let set = ["--set", &listen];
    let ended = |process: std::process::Child| {
        let output = process.wait_with_output().expect("its end");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, errors) = ended(remove("0", &set));
    assert_eq!(code, Some(69), "it has not come yet: {errors}");
    assert!(errors.contains("has not synced within 0 s"), "{errors}");
    let mut removing = remove(&PATIENCE.as_secs().to_string(), &set);
    let status = loop {
        assert_eq!(host.santa.sync().status, Status::Success);
        if let Some(status) = removing.try_wait().expect("its end") {
            break status;
        }
    };
    let mut said = String::new();
    removing.stdout.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    assert!(status.success() && said.contains("the authorizer has taken it"), "{said}");
    assert!(said.contains("relay remove --finish` removes the certificates"), "{said}");
    assert!(!said.contains("santactl"), "{said}");
    assert_eq!(host.santa.interval(), 600, "the server's");
    // Nothing is forgotten when the daemon starts anew, nor taken away too early.
    drop(daemon);
    let daemon = host.start(&[]);
    host.santa.sync();
    assert_eq!(host.santa.interval(), 600);
    assert!(host.agent.state_dir.join("relay-leaving").exists());
    assert_eq!(ended(remove("0", &set)).0, Some(0));

    // Nothing is removed while the keys are there, while the daemon has the relay, or
    // while the authorizer may still come.
    let (code, errors) = ended(remove("0", &["--finish", "--set", &listen]));
    assert_eq!(code, Some(73), "{errors}");
    assert!(errors.contains("RelayListen is set in --set"), "{errors}");
    let (code, errors) = ended(remove("0", &["--finish"]));
    assert_eq!(code, Some(73), "{errors}");
    assert!(errors.contains("still has a relay, at http://127.0.0.1:"), "{errors}");
    drop(daemon);
    let (code, errors) = ended(remove("0", &["--finish"]));
    assert_eq!(code, Some(73), "{errors}");
    assert!(errors.contains("the authorizer synced with the relay at "), "{errors}");
    let file = host.agent.state_dir.join("authorizer.json");
    let text = std::fs::read_to_string(&file).expect("kept");
    let mut report: Value = serde_json::from_str(&text).expect("JSON");
    report["at"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&file, report.to_string()).expect("written");
    let directory = format!("RelayDirectory={}", host.agent.state_dir.join("none").display());
    let (code, errors) = ended(remove("0", &["--finish", "--set", &directory]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(!host.agent.state_dir.join("relay-leaving").exists());
}
