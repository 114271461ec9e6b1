use std::time::Duration;

use super::*;
use crate::config::{Config, Layer, Source};

const TEAM: &str = "ABCDE12345:com.santa-sync.agent";

fn rule(identifier: &str, kind: &str, policy: &str) -> Value {
    Value::Dictionary(Dictionary::from_iter([
        ("identifier", identifier),
        ("rule_type", kind),
        ("policy", policy),
        ("comment", "kept"),
    ]))
}

fn relay() -> RelayConfig {
    RelayConfig {
        listen: "127.0.0.1:917".parse().expect("an address"),
        tls: true,
        client_certificate: true,
        directory: "/Library/Application Support/santa-sync/relay".into(),
        machine_id: None,
        interval: None,
        nudge: None,
        stale: Some(Duration::from_hours(72)),
        peer_users: Vec::new(),
        secret: None,
        manner: RelayManner::Santa,
    }
}

fn raw(santas: &[(&str, Value)], own: &[(&str, Value)]) -> RawKeys {
    let of = |keys: &[(&str, Value)]| keys.iter().cloned().collect();
    RawKeys { santas: of(santas), own: of(own) }
}

fn way(raw: &RawKeys) -> Effective {
    let layer = |domain, keys: &Dictionary| Layer {
        source: Source::File("/c".into()),
        domain: Some(domain),
        values: keys.clone(),
        exposed: false,
    };
    let layers = [layer(Domain::Agent, &raw.own), layer(Domain::Santa, &raw.santas)];
    Config::resolve(&layers).effective
}

fn program() -> ProgramRule {
    ProgramRule::SigningId(TEAM.to_owned())
}

/// A profile of Santa that syncs with a server by itself.
fn direct() -> RawKeys {
    let headers = Dictionary::from_iter([("Authorization", "Bearer 5ecretm4rk")]);
    raw(
        &[
            ("SyncBaseURL", "https://sync.example.com/santa/".into()),
            ("SyncExtraHeaders", Value::Dictionary(headers)),
            ("ServerAuthRootsData", Value::Data(b"roots".to_vec())),
            ("SyncClientContentEncoding", "gzip".into()),
            ("SyncProxyConfiguration", Value::Dictionary(Dictionary::new())),
            ("FCMProject", "p".into()),
            ("ClientMode", 2.into()),
            ("MachineOwner", "kim".into()),
            ("FileAccessPolicyPlist", "/faa.plist".into()),
            ("LogLevel", "debug".into()),
            ("StaticRules", Value::Array(vec![rule("FGHIJ67890", "TEAMID", "ALLOWLIST")])),
        ],
        &[],
    )
}

#[test]
fn relay_14_santas_side_leads_to_the_relay_and_keeps_the_rest() {
    let password = Secret::new("p4ssw0rd".to_owned());
    let side = santas_side(&direct(), &relay(), Some(&password), &program());
    let text = |key: &str| side.keys.get(key).and_then(Value::as_string).unwrap_or_default();
    assert_eq!(text("SyncBaseURL"), "https://127.0.0.1:917/");
    assert_eq!(text("SyncClientContentEncoding"), "none");
    let directory = "/Library/Application Support/santa-sync/relay/";
    assert_eq!(text("ServerAuthRootsFile"), format!("{directory}ca.pem"));
    assert_eq!(text("ClientAuthCertificateFile"), format!("{directory}client.p12"));
    assert_eq!(text("ClientAuthCertificatePassword"), "p4ssw0rd");
    assert_eq!(side.keys.get("SyncEnableCleanSyncEventUpload"), Some(&true.into()));
    for gone in ["SyncExtraHeaders", "ServerAuthRootsData", "FCMProject", "LogLevel"] {
        assert!(!side.keys.contains_key(gone), "{gone}");
    }
    // The system's proxies would hold for loopback, too.
    let proxy = side.keys.get("SyncProxyConfiguration").and_then(Value::as_dictionary);
    assert!(proxy.is_some_and(Dictionary::is_empty), "{proxy:?}");
    assert_eq!((text("MachineOwner"), text("FileAccessPolicyPlist")), ("kim", "/faa.plist"));
    assert_eq!(side.keys.get("ClientMode"), Some(&2.into()));
    let rules = side.keys.get("StaticRules").and_then(Value::as_array).expect("rules");
    assert_eq!(rules[0], rule("FGHIJ67890", "TEAMID", "ALLOWLIST"));
    let rules: Vec<_> = rules.iter().filter_map(static_rule).collect();
    assert_eq!(rules.len(), 2);
    assert!(program().is_allowed_by(&rules));
    assert_eq!(side.notes, ["FCMProject is left out: the relay has no push notifications"]);
    assert!(!format!("{side:?}").contains("p4ssw0rd"));

    let plain = RelayConfig {
        tls: false,
        client_certificate: false,
        secret: Some(Secret::new("s".to_owned())),
        ..relay()
    };
    let side = santas_side(&direct(), &plain, Some(&password), &program());
    let url = side.keys.get("SyncBaseURL").and_then(Value::as_string);
    assert_eq!(url, Some("http://127.0.0.1:917/"));
    assert!(!side.keys.keys().any(|key| key.contains("Auth")), "no certificates");
    let headers = side.keys.get("SyncExtraHeaders").and_then(Value::as_dictionary);
    let secret = headers.and_then(|headers| headers.get("Santa-Sync-Relay-Secret"));
    assert_eq!(secret.and_then(Value::as_string), Some("s"));
}

#[test]
fn relay_14_the_agents_side_takes_over_the_way_to_the_server() {
    let direct = direct();
    let own = own_side(&direct, &way(&direct), &relay());
    for key in [
        "SyncBaseURL",
        "SyncExtraHeaders",
        "ServerAuthRootsData",
        "SyncClientContentEncoding",
        "SyncProxyConfiguration",
        "LogLevel",
    ] {
        assert_eq!(own.get(key), direct.santas.get(key), "{key}");
    }
    for shared in ["ClientMode", "MachineOwner", "StaticRules", "FCMProject"] {
        assert!(!own.contains_key(shared), "{shared} stays Santa's");
    }
    assert_eq!(own.get("RelayListen"), Some(&"127.0.0.1:917".into()));
    let flags = ["RelayTLS", "RelayClientCertificate"].map(|key| own.get(key));
    assert_eq!(flags, [Some(&true.into()), Some(&true.into())]);

    // Both together are a configuration without a mistake, and both sides stay as
    // they are when they are made again.
    let password = Secret::new("p4ssw0rd".to_owned());
    let santas = santas_side(&direct, &relay(), Some(&password), &program()).keys;
    let both = RawKeys { santas: santas.clone(), own: own.clone() };
    let again = way(&both);
    let url = again.get("SyncBaseURL").and_then(|chosen| chosen.value.as_string());
    assert_eq!(url, Some("https://sync.example.com/santa/"));
    assert_eq!(own_side(&both, &again, &relay()), own);
    assert_eq!(santas_side(&both, &relay(), Some(&password), &program()).keys, santas);
}

#[test]
fn relay_14_removal_gives_santa_its_own_way_back() {
    let direct = direct();
    let own = own_side(&direct, &way(&direct), &relay());
    let santas = santas_side(&direct, &relay(), None, &program()).keys;
    let both = RawKeys { santas, own };
    let back = santas_side_without_relay(&both, &way(&both));
    for key in ["SyncBaseURL", "SyncExtraHeaders", "ServerAuthRootsData", "MachineOwner"] {
        assert_eq!(back.get(key), direct.santas.get(key), "{key}");
    }
    assert!(!back.keys().any(|key| key.starts_with("Relay") || key.starts_with("ClientAuth")));
}

#[test]
fn relay_14_static_rules_are_merged() {
    let mut notes = Vec::new();
    let allowed = vec![rule(TEAM, "SIGNINGID", "ALLOWLIST")];
    let merged = with_program(allowed.clone(), &program(), &mut notes);
    assert_eq!(merged, Value::Array(allowed), "it is there already");
    assert_eq!(notes, [""; 0]);
    let blocked = vec![rule(TEAM, "SIGNINGID", "BLOCKLIST"), "nonsense".into()];
    let merged = with_program(blocked, &program(), &mut notes);
    let merged = merged.as_array().expect("rules");
    assert_eq!((merged.len(), &merged[0]), (2, &"nonsense".into()));
    assert!(static_rule(&merged[1]).is_some_and(|rule| allows(rule.policy)));
    assert_eq!(notes, ["a static rule that blocks this program is left out"]);
    let binary = ProgramRule::Binary("0a".repeat(32));
    let merged = with_program(Vec::new(), &binary, &mut notes);
    let merged: Vec<_> = merged.as_array().into_iter().flatten().filter_map(static_rule).collect();
    assert!(binary.is_allowed_by(&merged) && !program().is_allowed_by(&merged));
}

#[test]
fn relay_11_whether_static_rules_allow_the_program() {
    let by = |rules: &[Value]| {
        let rules: Vec<_> = rules.iter().filter_map(static_rule).collect();
        program().is_allowed_by(&rules)
    };
    assert!(!by(&[]));
    assert!(by(&[rule("ABCDE12345", "TEAMID", "ALLOWLIST")]));
    assert!(!by(&[rule("ABCDE12345", "TEAMID", "BLOCKLIST")]));
    assert!(!by(&[rule("FGHIJ67890", "TEAMID", "ALLOWLIST")]));
    // The more specific rule decides.
    let team = rule("ABCDE12345", "TEAMID", "ALLOWLIST");
    assert!(!by(&[team, rule(TEAM, "SIGNINGID", "BLOCKLIST")]));
}

#[test]
fn relay_14_the_signature_names_the_program() {
    let signed = "designated => identifier \"com.santa-sync.agent\" and anchor apple generic and \
                  certificate 1[field.1.2.840.113635.100.6.2.6] /* exists */ and certificate \
                  leaf[field.1.2.840.113635.100.6.1.13] /* exists */ and certificate \
                  leaf[subject.OU] = ABCDE12345\n";
    assert_eq!(ProgramRule::of_requirement(signed), Some(program()));
    let quoted = signed.replace("= ABCDE12345", "= \"4BCDE12345\"");
    let expected = ProgramRule::SigningId(TEAM.replace('A', "4"));
    assert_eq!(ProgramRule::of_requirement(&quoted), Some(expected));
    for unsigned in [
        "",
        "# designated => cdhash H\"0123456789abcdef0123456789abcdef01234567\"\n",
        "designated => identifier \"a\"",
        "identifier \"a b\" [subject.OU] = ABCDE12345",
        "identifier \"a\" [subject.OU] = ABC",
        "identifier \"\" [subject.OU] = ABCDE12345",
    ] {
        assert_eq!(ProgramRule::of_requirement(unsigned), None, "{unsigned}");
    }
}

#[test]
fn relay_14_a_profile_is_whole_and_the_same_in_every_run() {
    let keys = Dictionary::from_iter([("SyncBaseURL", "https://h/")]);
    let profile = mobileconfig(Domain::Santa, "Santa", &keys);
    assert_eq!(profile, mobileconfig(Domain::Santa, "Santa", &keys));
    let mut text = Vec::new();
    profile.to_writer_xml(&mut text).expect("a property list");
    let read = crate::config::read_domains(&text).expect("keys");
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].domain, &read[0].keys), (Some(Domain::Santa), &keys));
    let top = profile.as_dictionary().expect("a dictionary");
    let inner = top.get("PayloadContent").and_then(Value::as_array).expect("payloads");
    let other = mobileconfig(Domain::Agent, "Santa sync agent", &keys);
    let mut ids = std::collections::BTreeSet::new();
    for dictionary in
        [top, inner[0].as_dictionary().expect("one"), other.as_dictionary().expect("one")]
    {
        let text = |key: &str| dictionary.get(key).and_then(Value::as_string).expect("a text");
        let uuid = text("PayloadUUID");
        assert!(ids.insert(uuid.to_owned()) && ids.insert(text("PayloadIdentifier").to_owned()));
        let shape: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(shape, [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'8');
        assert!(b"89AB".contains(&uuid.as_bytes()[19]));
        text("PayloadDisplayName");
    }
    assert_eq!(top.get("PayloadScope"), Some(&"System".into()));
}

#[test]
fn relay_13_pedro_gets_its_flags() {
    let relay = RelayConfig { tls: false, manner: RelayManner::Pedro, ..relay() };
    let flags = "--sync-endpoint http://127.0.0.1:917 --sync-interval 60s";
    assert_eq!(pedro_flags(&relay, 60), flags);
}
