use plist::{Dictionary, Value};

use super::*;
use crate::config::{Config, Domain, Layer, Loaded, Severity, Source};

fn layer(domain: Option<Domain>, entries: &[(&str, Value)]) -> Layer {
    let values: Dictionary =
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Layer { source: Source::File("/c".into()), domain, values, exposed: false }
}

fn resolved(entries: &[(&str, Value)]) -> Loaded {
    Config::resolve(&[layer(None, entries)])
}

fn with_listen(entries: &[(&str, Value)]) -> Loaded {
    resolved(&[&[("RelayListen", "127.0.0.1:917".into())], entries].concat())
}

fn relay(loaded: &Loaded) -> &RelayConfig {
    loaded.config.relay.as_ref().expect("a relay")
}

/// The keys with a finding of that severity.
fn keys_with(loaded: &Loaded, severity: Severity) -> Vec<&str> {
    let findings = loaded.findings.iter().filter(|finding| finding.severity == severity);
    findings.filter_map(|finding| finding.key.as_deref()).collect()
}

#[test]
fn relay_1_it_is_off_unless_it_listens_on_a_loopback_address() {
    assert_eq!(Config::default().relay, None);
    for good in ["127.0.0.1:917", "[::1]:1", " 127.0.0.1:65535 "] {
        let loaded = resolved(&[("RelayListen", good.into())]);
        assert_eq!(loaded.findings, [], "{good}");
        assert_eq!(relay(&loaded).listen, good.trim().parse().expect("an address"));
    }
    for bad in [
        "0.0.0.0:917",
        "[::]:917",
        "127.0.0.2:917",
        "[::ffff:127.0.0.1]:917",
        "10.0.0.1:917",
        "localhost:917",
        "127.0.0.1",
        "127.0.0.1:0",
        "917",
        "::1:917",
    ] {
        let loaded = resolved(&[("RelayListen", bad.into())]);
        assert_eq!(keys_with(&loaded, Severity::Error), ["RelayListen"], "{bad}");
        assert_eq!(loaded.config.relay, None, "{bad}");
    }
    let loaded = resolved(&[("RelayListen", Value::Integer(917.into()))]);
    assert_eq!(keys_with(&loaded, Severity::Error), ["RelayListen"]);
}

#[test]
fn relay_1_without_further_keys_the_defaults_hold() {
    let expected = RelayConfig {
        listen: "127.0.0.1:917".parse().expect("an address"),
        tls: false,
        client_certificate: false,
        directory: default_relay_dir().to_owned(),
        machine_id: None,
        interval: None,
        nudge: None,
        stale: Some(Duration::from_hours(72)),
        peer_users: Vec::new(),
        secret: None,
        manner: RelayManner::Santa,
    };
    assert_eq!(relay(&with_listen(&[])), &expected);
}

#[test]
fn relay_1_every_key_is_followed() {
    let loaded = with_listen(&[
        ("RelayTLS", Value::Boolean(true)),
        ("RelayClientCertificate", Value::Boolean(true)),
        ("RelayDirectory", "/srv/relay".into()),
        ("RelayMachineID", " host-1 ".into()),
        ("RelayInterval", Value::Integer(120.into())),
        ("RelayNudge", "/usr/local/bin/santactl  sync".into()),
        ("RelayStale", Value::Integer(0.into())),
        ("RelayPeerUsers", Value::Array(vec!["nobody".into()])),
        ("RelaySecret", "5ecretm4rk".into()),
        ("RelayManner", "SANTA".into()),
    ]);
    assert_eq!(loaded.findings, []);
    let relay = relay(&loaded);
    assert!(relay.tls && relay.client_certificate);
    assert_eq!(relay.directory, Path::new("/srv/relay"));
    assert_eq!(relay.machine_id, MachineId::new("host-1").ok());
    assert_eq!((relay.interval, relay.stale), (Some(120), None));
    let words = ["/usr/local/bin/santactl", "sync"].map(str::to_owned);
    assert_eq!(relay.nudge.as_deref(), Some(&words[..]));
    assert_eq!(relay.peer_users, ["nobody"]);
    assert_eq!(relay.secret.as_ref().map(Secret::expose), Some("5ecretm4rk"));
    assert!(!format!("{loaded:?}").contains("5ecret"), "secrets are masked");
}

#[test]
fn relay_9_a_nudge_is_a_command_an_array_or_none() {
    let nudge = |value: Value| {
        let loaded = with_listen(&[("RelayNudge", value)]);
        (relay(&loaded).nudge.clone(), loaded.findings.len())
    };
    let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    let array = |words: &[&str]| Value::Array(words.iter().map(|&word| word.into()).collect());
    assert_eq!(nudge("/bin/a b\tc".into()), (words(&["/bin/a", "b", "c"]), 0));
    assert_eq!(nudge(array(&["/bin/a", "b c"])), (words(&["/bin/a", "b c"]), 0));
    for none in ["".into(), "  ".into(), array(&[]), array(&[""])] {
        assert_eq!(nudge(none), (Some(Vec::new()), 0));
    }
    // What cannot be run counts as not configured.
    assert_eq!(nudge("santactl sync".into()), (None, 1));
    assert_eq!(nudge(array(&["/bin/a", "b\0"])), (None, 1));
    assert_eq!(nudge(Value::Boolean(true)), (None, 1));
    let set = |text: &str| {
        let sets = ["RelayListen=[::1]:917".to_owned(), format!("RelayNudge={text}")].to_vec();
        let loaded = Config::examine(&crate::config::Sources { sets, ..Default::default() });
        assert_eq!(loaded.findings, [], "{text}");
        relay(&loaded).nudge.clone()
    };
    assert_eq!(set("/bin/a b"), words(&["/bin/a", "b"]));
    assert_eq!(set(r#"["/bin/a", "b c"]"#), words(&["/bin/a", "b c"]));
    assert_eq!(set(""), Some(Vec::new()));
}

#[test]
fn relay_1_keys_that_contradict_each_other_are_refused() {
    for (entries, key) in [
        (vec![("RelayClientCertificate", Value::Boolean(true))], "RelayClientCertificate"),
        (vec![("RelayTLS", Value::Boolean(true)), ("RelayManner", "pedro".into())], "RelayTLS"),
        (vec![("RelayManner", "moroz".into())], "RelayManner"),
        (vec![("RelayTLS", "yes".into())], "RelayTLS"),
        (vec![("RelayPeerUsers", "root".into())], "RelayPeerUsers"),
        (vec![("RelaySecret", " ".into())], "RelaySecret"),
        (vec![("RelaySecret", "two\nlines".into())], "RelaySecret"),
        (vec![("RelaySecret", "x".repeat(1025).into())], "RelaySecret"),
        (vec![("RelayMachineID", "%HardwareUUID%".into())], "RelayMachineID"),
    ] {
        let loaded = with_listen(&entries);
        assert_eq!(keys_with(&loaded, Severity::Error), [key], "{entries:?}");
    }
    for (key, value) in [("RelayInterval", 59), ("RelayInterval", 604_801), ("RelayStale", -1)] {
        let loaded = with_listen(&[(key, Value::Integer(value.into()))]);
        assert_eq!(keys_with(&loaded, Severity::Warning), [key], "{value}");
        assert_eq!(relay(&loaded), relay(&with_listen(&[])), "the default holds");
    }
}

#[test]
fn relay_1_an_upstream_that_is_the_relay_itself_is_an_error() {
    let errors = |url: &str, listen: &str| {
        let loaded = resolved(&[("SyncBaseURL", url.into()), ("RelayListen", listen.into())]);
        keys_with(&loaded, Severity::Error).len()
    };
    for listen in ["127.0.0.1:917", "[::1]:917"] {
        for here in [
            "http://127.0.0.1:917/",
            "http://[::1]:917/santa/",
            "http://localhost:917",
            "http://LOCALHOST:917/",
            "https://127.0.0.1:917/",
            "https://127.1.2.3:917/",
            "https://0.0.0.0:917/",
            "https://[::ffff:127.0.0.1]:917/",
            "https://localhost.:917/",
            "https://a.localhost:917/",
        ] {
            assert_eq!(errors(here, listen), 1, "{here}");
        }
        for elsewhere in [
            "http://127.0.0.1:918/",
            "https://localhost/",
            "https://sync.example.com:917/",
            "https://10.0.0.1:917/",
            "https://localhost.example.com:917/",
        ] {
            assert_eq!(errors(elsewhere, listen), 0, "{elsewhere}");
        }
    }
    assert_eq!(errors("https://localhost/", "127.0.0.1:443"), 1);
    assert_eq!(errors("http://localhost/", "127.0.0.1:80"), 1);
}

#[test]
fn relay_1_keys_without_an_address_are_named() {
    let loaded = resolved(&[
        ("RelayTLS", Value::Boolean(true)),
        ("RelaySecret", "5ecretm4rk".into()),
        ("SyncBaseURL", "https://h/".into()),
    ]);
    assert_eq!(loaded.config.relay, None);
    assert_eq!(keys_with(&loaded, Severity::Note), ["RelayTLS", "RelaySecret"]);
    assert_eq!(loaded.findings.len(), 2);
}

/// CONF-1: Santa's domain then says how to reach the relay.
#[test]
fn conf_1_with_a_relay_nothing_of_the_way_to_a_server_comes_from_santas_domain() {
    let santas = layer(
        Some(Domain::Santa),
        &[
            ("SyncBaseURL", "http://127.0.0.1:917/".into()),
            ("SyncClientContentEncoding", "none".into()),
            ("ServerAuthRootsFile", "/relay/ca.pem".into()),
            ("MachineID", "host-1".into()),
            ("SyncEnableCleanSyncEventUpload", Value::Boolean(true)),
        ],
    );
    let listen = || ("RelayListen", Value::from("127.0.0.1:917"));
    for own in [vec![listen()], vec![listen(), ("SyncBaseURL", "https://h/".into())]] {
        let loaded = Config::resolve(&[layer(Some(Domain::Agent), &own), santas.clone()]);
        let config = &loaded.config;
        assert_eq!(config.sync_base_url.is_some(), own.len() > 1);
        assert_eq!(config.server_auth_roots_file, None);
        assert_eq!(config.content_encoding, crate::model::ContentEncoding::Deflate);
        assert_eq!(config.machine_id.as_deref(), Some("host-1"), "who the host is does");
        assert_eq!(config.enable_clean_sync_event_upload, Some(true));
        // That Santa's way ends here is as it should be.
        assert_eq!(loaded.findings.len(), 0, "{:?}", loaded.findings);
        // One that leads elsewhere is not followed either, and worth a note.
        let mut direct = santas.clone();
        direct.values.insert("SyncBaseURL".to_owned(), "https://s.example.com/".into());
        let loaded = Config::resolve(&[layer(Some(Domain::Agent), &own), direct]);
        let dropped = ["SyncBaseURL", "SyncClientContentEncoding", "ServerAuthRootsFile"];
        assert_eq!(keys_with(&loaded, Severity::Note), dropped);
        assert_eq!(loaded.findings.len(), dropped.len(), "{:?}", loaded.findings);
    }
    // Where the relay is configured makes no difference.
    let mut both = santas;
    both.values.insert("RelayListen".to_owned(), "127.0.0.1:917".into());
    let loaded = Config::resolve(&[both]);
    assert_eq!(loaded.config.sync_base_url, None);
    assert_eq!(keys_with(&loaded, Severity::Error), [""; 0]);
}
