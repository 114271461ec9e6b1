use plist::{Dictionary, Value};

use super::keys::{KEYS, Kind, Origin};
use super::*;

fn layer(source: Source, entries: &[(&str, Value)]) -> Layer {
    let values = entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Layer { source, domain: None, values, exposed: false }
}

fn file(entries: &[(&str, Value)]) -> Layer {
    layer(Source::File("/etc/p.plist".into()), entries)
}

fn resolved(entries: &[(&str, Value)]) -> Loaded {
    Config::resolve(&[file(entries)])
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.findings.iter().map(|f| format!("{:?}: {f}", f.severity)).collect()
}

fn strings(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|t| Value::from(*t)).collect())
}

fn rule(identifier: &str) -> Value {
    Value::Dictionary(Dictionary::from_iter([
        ("identifier", identifier),
        ("policy", "ALLOWLIST"),
        ("rule_type", "TEAMID"),
    ]))
}

/// CONF-1: the first source to set a key wins, key by key.
#[test]
fn conf_1_the_stronger_source_wins_and_the_weaker_one_is_remembered() {
    let loaded = Config::resolve(&[
        layer(Source::CommandLine, &[("MachineID", "from-set".into())]),
        file(&[("MachineID", "from-file".into()), ("MachineOwner", "kim".into())]),
    ]);
    assert_eq!(loaded.config.machine_id.as_deref(), Some("from-set"));
    assert_eq!(loaded.config.machine_owner.as_deref(), Some("kim"));
    let chosen = loaded.effective.get("MachineID").expect("a value");
    assert_eq!(chosen.source, Source::CommandLine);
    let weaker = (Source::File("/etc/p.plist".into()), Value::from("from-file"));
    assert_eq!(chosen.overridden, [weaker]);
    assert_eq!(loaded.effective.source("SyncBaseURL"), Source::Default);
    assert_eq!(lines(&loaded), [""; 0]);
}

/// CONF-2: a wrong value counts as not there, so the next source's holds.
#[test]
fn conf_2_a_wrong_type_counts_as_unset_and_is_reported() {
    let loaded = Config::resolve(&[
        file(&[("ClientMode", "LOCKDOWN".into()), ("SyncDeadline", Value::Integer(1.into()))]),
        layer(Source::File("/b".into()), &[("ClientMode", Value::Integer(2.into()))]),
    ]);
    assert_eq!(loaded.config.client_mode, Some(ClientMode::Lockdown));
    assert_eq!(loaded.config.sync_deadline, Duration::from_hours(1));
    assert_eq!(
        lines(&loaded),
        [
            "Warning: /etc/p.plist: ClientMode: is a string, not an integer; write it as an integer",
            "Warning: /etc/p.plist: SyncDeadline: 1 is out of range; \
             write a number from 60 to 86400",
        ]
    );
}

#[test]
fn conf_2_a_wrong_value_that_security_rests_on_is_an_error() {
    for (name, value) in [
        ("SyncBaseURL", Value::Boolean(true)),
        ("SyncBaseURL", "http://example.com/".into()),
        ("SyncBaseURL", "example.com".into()),
        ("ServerAuthRootsFile", Value::Integer(1.into())),
        ("ServerAuthRootsFile", "".into()),
        ("ServerAuthRootsFile", "roots.pem".into()),
        ("ServerAuthRootsData", "no certificate".into()),
        ("ServerAuthRootsData", Value::Data(Vec::new())),
        ("ClientAuthCertificateFile", Value::Boolean(false)),
        ("ClientAuthCertificatePassword", Value::Integer(12.into())),
    ] {
        let loaded = resolved(&[(name, value.clone())]);
        let severities: Vec<_> = loaded.findings.iter().map(|f| f.severity).collect();
        assert_eq!(severities, [Severity::Error], "{name} {value:?}: {:?}", lines(&loaded));
    }
}

#[test]
fn conf_2_an_unknown_key_names_the_one_that_was_meant() {
    let loaded = resolved(&[
        ("SyncBaseUrl", "https://h/".into()),
        ("Zzz", Value::Boolean(true)),
        ("EventLogType", "file".into()),
    ]);
    assert_eq!(loaded.config.sync_base_url, None);
    assert_eq!(
        lines(&loaded),
        [
            "Warning: /etc/p.plist: SyncBaseUrl: is not a known key and has no effect; \
             did you mean SyncBaseURL?",
            "Warning: /etc/p.plist: Zzz: is not a known key and has no effect; \
             check its spelling: neither Santa nor this agent has such a key",
        ]
    );
}

/// HTTP-5 and HTTP-10: an unknown encoding means deflate, restricted headers
/// are dropped; each is said.
#[test]
fn http_10_restricted_headers_are_dropped_and_named() {
    let headers = Dictionary::from_iter([
        ("Authorization", Value::from("Bearer t0ken")),
        ("content-Type", "text/plain".into()),
        ("X-N", Value::Integer(1.into())),
        ("X Y", "z".into()),
        ("X-L", "a\nb".into()),
        ("Transfer-Encoding", "chunked".into()),
    ]);
    let loaded = resolved(&[
        ("SyncExtraHeaders", Value::Dictionary(headers)),
        ("SyncClientContentEncoding", "brotli".into()),
    ]);
    assert_eq!(loaded.config.content_encoding, ContentEncoding::Deflate);
    let sent: Vec<_> =
        loaded.config.extra_headers.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(sent, [("Authorization", "Bearer t0ken")]);
    assert!(!format!("{loaded:?}").contains("t0ken"), "HTTP-10: values are secrets");
    assert_eq!(
        lines(&loaded),
        [
            "Warning: /etc/p.plist: SyncClientContentEncoding: \"brotli\" is not one of its values; \
             write one of deflate, gzip, none",
            "Warning: /etc/p.plist: SyncExtraHeaders: the header \"content-Type\" is set by \
             santa-sync itself and is dropped; remove it",
            "Warning: /etc/p.plist: SyncExtraHeaders: the header \"X-N\" is an integer; \
             write its value as a string",
            "Warning: /etc/p.plist: SyncExtraHeaders: the header \"X…\" is not a header name and \
             is dropped; use letters, digits and hyphens",
            "Warning: /etc/p.plist: SyncExtraHeaders: the header \"X-L\" has a value with control \
             or non-ASCII characters and is dropped; write the value on one line of ASCII characters",
            "Warning: /etc/p.plist: SyncExtraHeaders: the header \"Transfer-Encoding\" would \
             change the framing of the body and is dropped; remove it",
        ]
    );
}

#[test]
fn a_bad_static_rule_costs_no_other() {
    let rules = Value::Array(vec![rule("abcdefghij"), rule("short"), Value::from("x")]);
    let loaded = resolved(&[("StaticRules", rules)]);
    let names: Vec<_> =
        loaded.config.static_rules.iter().map(|r| r.identifier.to_string()).collect();
    assert_eq!(names, ["ABCDEFGHIJ"]);
    assert_eq!(
        lines(&loaded),
        [
            "Warning: /etc/p.plist: StaticRules: rule 1 is skipped: a TEAMID identifier is \
             10 ASCII letters or digits; fix the rule or remove it",
            "Warning: /etc/p.plist: StaticRules: rule 2 is a string; write it as a dictionary",
        ]
    );
}

/// RULE-3: a later rule replaces an earlier one.
#[test]
fn rule_3_of_two_static_rules_for_the_same_thing_the_later_holds() {
    let with = |policy: &str| {
        let mut dictionary = rule("ABCDEFGHIJ").into_dictionary().expect("a dictionary");
        dictionary.insert("policy".to_owned(), policy.into());
        Value::Dictionary(dictionary)
    };
    let rules = Value::Array(vec![with("ALLOWLIST"), with("BLOCKLIST"), with("REMOVE")]);
    let loaded = resolved(&[("StaticRules", rules)]);
    let policies: Vec<_> = loaded.config.static_rules.iter().map(|r| r.policy.name()).collect();
    assert_eq!(policies, ["BLOCKLIST"]);
    assert_eq!(
        lines(&loaded),
        [
            "Warning: /etc/p.plist: StaticRules: rule 1 replaces another of the same TEAMID; \
             keep one of the two",
            "Warning: /etc/p.plist: StaticRules: rule 2 is skipped: there is nothing to REMOVE; \
             remove the rule",
        ]
    );
}

#[test]
fn older_names_hold_where_the_present_ones_are_not_set() {
    let loaded = resolved(&[
        ("EnableTransitiveWhitelisting", Value::Boolean(true)),
        ("WhitelistRegex", "^/a".into()),
        ("BlockedPathRegex", "^/b".into()),
        ("BlacklistRegex", "^/c".into()),
        ("BlockUSBMount", Value::Integer(1.into())),
        ("RemountUSBMode", strings(&["rdonly"])),
    ]);
    let config = &loaded.config;
    assert_eq!(config.enable_transitive_rules, Some(true));
    assert_eq!(config.allowed_path_regex.as_deref(), Some("^/a"));
    assert_eq!(config.blocked_path_regex.as_deref(), Some("^/b"));
    assert_eq!(config.removable_media, Some(MediaPolicy::Remount(vec!["rdonly".to_owned()])));
    assert_eq!(config.as_settings().removable_media, config.removable_media);
    assert!(loaded.findings.iter().all(|f| f.severity == Severity::Note));
}

#[test]
fn set_takes_every_kind_of_value() {
    let sets = [
        "SyncBaseURL=http://127.0.0.1:8080/a?b=c",
        "EnableAllEventUpload=yes",
        "ClientMode=2",
        "MachineID=first",
        "MachineID=last",
        r#"MachineOwnerGroups=["a","b"]"#,
        r#"SyncExtraHeaders={"X-A":"1"}"#,
        "SyncProxyConfiguration=none",
        "ServerAuthRootsFile=roots.pem",
        "ServerAuthRootsData=aGVsbG8=",
        "RelayListen=127.0.0.1:917",
        "RelayPeerUsers=root, 4711",
        r#"StaticRules=[{"identifier":"ABCDEFGHIJ","policy":"BLOCKLIST","rule_type":"TEAMID"}]"#,
    ];
    let sources = Sources { sets: sets.map(str::to_owned).to_vec(), ..Sources::default() };
    let Loaded { config, findings, .. } = Config::load(&sources).expect("a configuration");
    assert_eq!(findings.len(), 1, "the data beside the file: {findings:?}");
    assert_eq!(
        config.sync_base_url.as_ref().map(ToString::to_string).as_deref(),
        Some("http://127.0.0.1:8080/a?b=…")
    );
    assert_eq!(config.enable_all_event_upload, Some(true));
    assert_eq!(config.client_mode, Some(ClientMode::Lockdown));
    assert_eq!(config.machine_id.as_deref(), Some("last"));
    assert_eq!(config.machine_owner_groups, ["a", "b"]);
    assert_eq!(config.extra_headers.len(), 1);
    assert_eq!(config.proxy, Proxy::Configured(Box::default()));
    assert_eq!(config.server_auth_roots_file, Some("roots.pem".into()));
    assert_eq!(config.server_auth_roots_data.as_deref(), Some(&b"hello"[..]));
    assert_eq!(config.static_rules.len(), 1);
    let users = config.relay.as_ref().map(|relay| relay.peer_users.clone());
    assert_eq!(users.unwrap_or_default(), ["root", "4711"]);
}

#[test]
fn a_bad_set_is_named_without_its_text() {
    let sets = ["ClientMode=lots", "ClientAuthCertificatePassword", "SyncExtraHeaders=Bearer x"];
    let sources = Sources { sets: sets.map(str::to_owned).to_vec(), ..Sources::default() };
    let loaded = Config::examine(&sources);
    assert_eq!(
        lines(&loaded),
        [
            "Warning: --set: ClientMode: the text is not an integer; write a whole number",
            "Error: --set: a --set has no `=`; write --set Key=Value",
            "Warning: --set: SyncExtraHeaders: the text is not a dictionary of strings; \
             write a dictionary of strings as JSON or an XML property list",
        ]
    );
    let error = Config::load(&sources).expect_err("a set without =").to_string();
    assert_eq!(error, "the configuration is refused: --set: a --set has no `=`");
}

/// Every key of the table that is followed changes the configuration, so that
/// no name can be misspelt in one of the two places.
#[test]
fn every_key_of_the_table_is_followed() {
    let default = Config::default();
    for key in KEYS {
        let value = match (key.name, key.kind) {
            ("SyncBaseURL", _) => "https://h/".into(),
            ("RemountUSBMode", _) => strings(&["rdonly"]),
            ("PromptEventUpload", _) => Value::Boolean(false),
            (_, Kind::Bool) => Value::Boolean(true),
            (_, Kind::Integer(low, _)) => Value::Integer(low.into()),
            ("RelayListen", _) => "127.0.0.1:917".into(),
            (_, Kind::Text) => "text".into(),
            (_, Kind::Command) => "/program argument".into(),
            (_, Kind::Choice(choices)) => choices.last().copied().expect("a choice").into(),
            (_, Kind::Path) => "/path".into(),
            (_, Kind::Data) => Value::Data(b"bytes".to_vec()),
            (_, Kind::Texts) => strings(&["text"]),
            (_, Kind::Headers) => Value::Dictionary(Dictionary::from_iter([("X-A", "b")])),
            (_, Kind::Proxy) => Value::Dictionary(Dictionary::new()),
            (_, Kind::Rules) => Value::Array(vec![rule("ABCDEFGHIJ")]),
        };
        let mut entries = vec![(key.name, value)];
        // These say something only beside another key.
        match key.name {
            "RemovableMediaRemountFlags" => {
                entries.push(("RemovableMediaAction", "Remount".into()));
            }
            "EncryptedRemovableMediaRemountFlags" => {
                entries.push(("EncryptedRemovableMediaAction", "Remount".into()));
            }
            "RemountUSBMode" => entries.push(("BlockUSBMount", Value::Boolean(true))),
            "RelayClientCertificate" => entries.extend([
                ("RelayListen", "127.0.0.1:917".into()),
                ("RelayTLS", Value::Boolean(true)),
            ]),
            "RelayListen" => {}
            name if name.starts_with("Relay") => {
                entries.push(("RelayListen", "127.0.0.1:917".into()));
            }
            _ => {}
        }
        let loaded = resolved(&entries);
        let without = resolved(&entries[1..]);
        let followed = !matches!(key.origin, Origin::Unsupported(_));
        assert_eq!(loaded.config != without.config, followed, "{}", key.name);
        assert!(loaded.findings.iter().all(|f| f.severity < Severity::Error), "{}", key.name);
    }
    assert_eq!(&default, &*resolved(&[]).config);
}

#[test]
fn the_state_directory_is_the_flags_then_the_keys_then_the_systems() {
    let configured = resolved(&[("StateDirectory", "/srv/s".into())]).config;
    assert_eq!(state_dir(Some(Path::new("d")), &configured), Path::new("d"));
    assert_eq!(state_dir(None, &configured), Path::new("/srv/s"));
    assert!(state_dir(None, &Config::default()).ends_with("santa-sync"));
}

#[test]
fn nothing_secret_shows_in_any_form() {
    let proxy = [
        ("HTTPSEnable", Value::Integer(1.into())),
        ("HTTPSProxy", "p".into()),
        ("HTTPSUser", "u".into()),
        ("HTTPSPassword", "s3cret".into()),
    ];
    let loaded = resolved(&[
        ("ClientAuthCertificateFile", "/c.p12".into()),
        ("ClientAuthCertificatePassword", "s3cret".into()),
        ("SyncExtraHeaders", Value::Dictionary(Dictionary::from_iter([("X-A", "s3cret")]))),
        ("SyncProxyConfiguration", Value::Dictionary(Dictionary::from_iter(proxy))),
        ("SyncBaseURL", "https://u:s3cret@h/".into()),
    ]);
    assert_eq!(lines(&loaded), [""; 0]);
    assert!(!format!("{loaded:?}").contains("s3cret"));
}
