use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};

use super::*;
use crate::config::{Domain, Layer as ConfigLayer, Source};
use crate::control::relay::{
    AcknowledgedStatus, AuthorizerStatus, NotAcknowledged, NudgeStatus, RefusedPeer,
};
use crate::host::SystemHost;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

const RELAY: &str = "<key>RelayListen</key><string>127.0.0.1:917</string>\
    <key>SyncBaseURL</key><string>https://sync.example.com/santa/</string>";

fn configured(own: &str, santas: &str) -> std::sync::Arc<Config> {
    let layer = |domain, keys: &str| {
        let text = format!("<plist><dict>{keys}</dict></plist>");
        let values = plist::Value::from_reader_xml(text.as_bytes()).expect("a property list");
        let values = values.into_dictionary().expect("a dictionary");
        ConfigLayer {
            source: Source::File("/c".into()),
            domain: Some(domain),
            values,
            exposed: false,
        }
    };
    let own = layer(Domain::Agent, &format!("{RELAY}{own}"));
    Config::resolve(&[own, layer(Domain::Santa, santas)]).config
}

/// A profile as `relay setup --plain` writes one.
const SANTAS: &str = "<key>SyncBaseURL</key><string>http://127.0.0.1:917/</string>\
    <key>SyncEnableCleanSyncEventUpload</key><true/>";

fn in_step() -> RelayStatus {
    RelayStatus {
        url: "http://127.0.0.1:917/".to_owned(),
        machine_id: "host-1".to_owned(),
        interval: 600,
        authorizer: Some(AuthorizerStatus {
            at: NOW,
            version: "2026.7".to_owned(),
            client_mode: Some(ClientMode::Monitor),
            authenticated: false,
        }),
        acknowledged: Some(AcknowledgedStatus { generation: 7, at: NOW, drift: false }),
        in_step: true,
        ..RelayStatus::default()
    }
}

fn of(config: &Config, status: Option<&RelayStatus>) -> Vec<Line> {
    let relay = config.relay.as_ref().expect("a relay");
    let facts = Facts { config, relay, status, is_macos: true, now: NOW };
    let mut lines = facts.standing();
    lines.extend(facts.profile());
    lines.extend(allowed(&facts, &SystemHost));
    facts.with_fine(lines)
}

/// The one line of a case.
fn only(config: &Config, status: Option<&RelayStatus>) -> (Status, String) {
    let mut lines = of(config, status);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines.remove(0);
    (line.status, line.message)
}

#[test]
fn relay_11_a_relay_without_a_fault_is_one_line() {
    let config = configured("", SANTAS);
    let (status, message) = only(&config, Some(&in_step()));
    assert_eq!(status, Status::Ok);
    assert!(message.contains("version 2026.7") && message.contains("generation 7"), "{message}");
    assert_eq!(only(&config, None).0, Status::Skipped);
    let none = Config::default();
    assert_eq!(examine(&none, Path::new("/"), None, &SystemHost, NOW), []);
}

/// RELAY-11: an authorizer that has come once, to upload its events, has no rules yet.
#[test]
fn relay_11_what_the_next_sync_brings_is_said() {
    let config = configured("", SANTAS);
    let first = RelayStatus { acknowledged: None, in_step: false, ..in_step() };
    let (status, message) = only(&config, Some(&first));
    assert_eq!(status, Status::Ok);
    assert!(message.ends_with("has no rules of this agent yet: its next sync brings them"));
    let behind = RelayStatus { in_step: false, newest_generation: Some(9), ..in_step() };
    let (_, message) = only(&config, Some(&behind));
    assert!(message.contains("generation 7 of rules; the newest is 9"), "{message}");
}

/// RELAY-11: a request for another machine id is forgotten after a day.
#[test]
fn relay_11_another_machine_id_is_forgotten_after_a_day() {
    let config = configured("", SANTAS);
    let asked = |hours: i64| {
        let at = Timestamp::from_secs(NOW.as_secs() - hours * 3600);
        let (id, at) = (Some("host-2".to_owned()), Some(at));
        let status = RelayStatus { other_machine_id: id, other_machine_id_at: at, ..in_step() };
        only(&config, Some(&status)).0
    };
    assert_eq!((asked(1), asked(24), asked(25)), (Status::Warning, Status::Warning, Status::Ok));
}

/// RELAY-11: what was left out or altered for the authorizer accounts for drift, and is
/// told with its reason.
#[test]
fn relay_11_rules_that_are_not_sent_as_they_are_are_no_fault() {
    let config = configured("", SANTAS);
    let held = AcknowledgedStatus { generation: 7, at: NOW, drift: true };
    let status = RelayStatus {
        acknowledged: Some(held),
        rules_left_out: 4,
        rules_left_out_why: [("rule_type".to_owned(), 4)].into(),
        rules_altered: 1,
        ..in_step()
    };
    let lines = of(&config, Some(&status));
    assert!(lines.iter().all(|line| line.status == Status::Ok), "{lines:?}");
    let told = &lines.last().expect("a line").message;
    assert!(told.contains("4 left out (pedro enforces BINARY rules only), 1 sent with"), "{told}");
}

/// RELAY-11, RELAY-12: who was refused is named, with what to do about it.
#[test]
fn relay_11_who_was_refused_is_named() {
    let config = configured("", SANTAS);
    let peer = RefusedPeer {
        user_id: Some(1000),
        user: Some("kim".to_owned()),
        process: Some(42),
        program: Some("curl".to_owned()),
        times: 3,
        at: NOW,
    };
    let status = RelayStatus {
        checks_peers: true,
        authorizer: in_step()
            .authorizer
            .map(|last| AuthorizerStatus { authenticated: true, ..last }),
        refused: BTreeMap::from([("peer".to_owned(), 3)]),
        refused_peers: vec![peer],
        ..in_step()
    };
    let mut lines = of(&config, Some(&status));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines.remove(0);
    let expected = "kim (user 1000), process 42 (curl) was refused 3 times, last at ";
    assert!(line.message.starts_with(expected), "{}", line.message);
    assert!(line.fix.is_some_and(|fix| fix.contains("RelayPeerUsers")));
}

/// What is changed in a status.
type Change<'a> = &'a dyn Fn(&mut RelayStatus);

#[test]
fn relay_11_doctor_names_each_fault_of_the_visitor() {
    let config = configured("", SANTAS);
    let with = |change: &dyn Fn(&mut RelayStatus)| {
        let mut status = in_step();
        change(&mut status);
        only(&config, Some(&status))
    };
    let last = |status: &mut RelayStatus, change: &dyn Fn(&mut AuthorizerStatus)| {
        status.authorizer.as_mut().into_iter().for_each(change);
    };
    let cases: [(Change<'_>, &str); 12] = [
        (&|s| s.error = Some("it is taken".to_owned()), "nothing listens at 127.0.0.1:917"),
        (&|s| s.not_ready = Some("no rules".to_owned()), "nothing can be handed out yet"),
        (&|s| s.other_machine_id = Some("host-2".to_owned()), "machine id \"host-2\""),
        (&|s| s.authorizer = None, "has not synced with http://127.0.0.1:917/ yet"),
        (
            &|s| last(s, &|a| a.at = Timestamp::from_secs(NOW.as_secs() - 1801)),
            "more than 3 of its intervals of 600 s",
        ),
        (&|s| s.checks_peers = true, "was not authenticated"),
        (
            &|s| {
                let reason = "5 of 7 rules".to_owned();
                s.not_acknowledged = Some(NotAcknowledged { at: NOW, reason, times: 2 });
            },
            "(2 times in a row): 5 of 7 rules",
        ),
        (&|s| s.acknowledged.as_mut().into_iter().for_each(|a| a.drift = true), "differ"),
        (&|s| s.withdrawn_settings = vec!["client_mode".to_owned()], "no longer sets client_mode"),
        (&|s| s.release_cannot = vec!["take CEL rules".to_owned()], "cannot take CEL rules"),
        (
            &|s| s.refused = BTreeMap::from([("peer".to_owned(), 3), ("not_ready".to_owned(), 1)]),
            "started: peer 3",
        ),
        (
            &|s| {
                let result = Some("exit 1".to_owned());
                s.nudge = Some(NudgeStatus { at: NOW, result, failures: 2 });
            },
            "the nudge failed 2 times in a row: exit 1",
        ),
    ];
    for (change, expected) in cases {
        let (status, message) = with(change);
        assert!(status >= Status::Warning && message.contains(expected), "{expected}: {message}");
    }
    let (status, _) = with(&|s| last(s, &|a| a.at = Timestamp::from_secs(NOW.as_secs() - 1799)));
    assert_eq!(status, Status::Ok);
}

#[test]
fn relay_11_doctor_names_each_fault_of_santas_profile() {
    let url = |url: &str| format!("<key>SyncBaseURL</key><string>{url}</string>");
    let upload = "<key>SyncEnableCleanSyncEventUpload</key><true/>";
    let proxy = "<key>SyncProxyConfiguration</key><dict><key>HTTPEnable</key><integer>1</integer>\
                 </dict>";
    let here = url("http://127.0.0.1:917/");
    let tls = "<key>RelayTLS</key><true/><key>RelayDirectory</key><string>/r</string>";
    let https = format!("{}{upload}", url("https://127.0.0.1:917/"));
    let roots = "<key>ServerAuthRootsFile</key><string>/r/ca.pem</string>";
    let client = "<key>RelayClientCertificate</key><true/>";
    let secret = "<key>RelaySecret</key><string>5ecretm4rk</string>";
    for (own, santas, expected, status) in [
        ("", url("https://sync.example.com/santa/"), "as the same host", Status::Problem),
        ("", url("https://other.example.com/"), "https://other.example.com/, not", Status::Warning),
        ("", "<key>ClientMode</key><integer>1</integer>".to_owned(), "no usable", Status::Warning),
        ("", here.clone(), "lacks SyncEnableCleanSyncEventUpload", Status::Warning),
        ("", format!("{here}{upload}{proxy}"), "has SyncProxyConfiguration", Status::Warning),
        (
            "",
            format!("{here}{upload}<key>FCMEntity</key><string>e</string>"),
            "Firebase",
            Status::Warning,
        ),
        ("", https.clone(), "does not lead to http://127.0.0.1:917/", Status::Problem),
        (tls, https.clone(), "ServerAuthRootsFile", Status::Problem),
        (
            &format!("{tls}{client}"),
            format!("{https}{roots}"),
            "no ClientAuthCertificateFile /r/client.p12",
            Status::Problem,
        ),
        (secret, format!("{here}{upload}"), "does not send RelaySecret", Status::Problem),
        (
            "",
            format!("{SANTAS}<key>ClientMode</key><integer>2</integer>"),
            "LOCKDOWN",
            Status::Warning,
        ),
    ] {
        let config = configured(own, &santas);
        let standing = RelayStatus { authorizer: None, ..in_step() };
        let lines = of(&config, Some(&standing));
        let found = lines.iter().find(|line| line.message.contains(expected));
        let found = found.unwrap_or_else(|| panic!("{expected}: {lines:?}"));
        assert_eq!(found.status, status, "{expected}");
        assert_eq!(lines.len(), 2, "and that it has not come: {lines:?}");
        assert!(!format!("{lines:?}").contains("5ecret"));
    }
    // Without any profile, on a Mac.
    let config = configured("", "");
    assert!(of(&config, Some(&in_step()))[0].message.contains("Santa has no profile"));
}

/// As `nobody` sees it.
#[test]
fn relay_11_files_that_santa_cannot_read_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let public = dir.path().join("public");
    fs::create_dir(&public).expect("a directory");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    set(dir.path(), 0o755);
    let own = format!(
        "<key>RelayTLS</key><true/><key>RelayClientCertificate</key><true/>\
         <key>RelayDirectory</key><string>{}</string>",
        public.display()
    );
    let config = configured(&own, "");
    let relay = config.relay.as_ref().expect("a relay");
    let found = || {
        let lines = directory(relay, &SystemHost);
        lines.into_iter().map(|line| line.message).collect::<Vec<_>>().join("\n")
    };
    let missing = found();
    assert!(missing.contains("ca.pem") && missing.contains("client.p12"), "{missing}");
    let (ca, client) = (public.join(CA_FILE), public.join(CLIENT_FILE));
    fs::write(&ca, "").expect("written");
    fs::write(&client, "").expect("written");
    set(&ca, 0o600);
    set(&client, 0o644);
    let wrong = found();
    assert!(wrong.contains(&format!("cannot read {}", ca.display())), "{wrong}");
    assert!(wrong.contains("every user of this host can read"), "{wrong}");
    set(&ca, 0o644);
    set(&client, 0o400);
    assert!(found().contains("client.p12"), "it is not nobody's");
    set(&public, 0o700);
    assert!(found().starts_with("the authorizer cannot enter"));
    set(&public, 0o755);
    if rustix::process::geteuid().is_root() {
        lchown(&client, Some(host::nobody_id(&SystemHost)), None).expect("given away");
        assert_eq!(found(), "");
    }
    let made = keys(dir.path(), NOW).expect("a line");
    assert_eq!((made.status, &*made.message), (Status::Problem, "the relay has no certificates"));
}
