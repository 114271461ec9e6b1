//! Configuration: the forms a file can have, the `config` commands as a user
//! runs them, and the documents that follow the key table.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use santa_sync::config::keys::{self, KEYS, Key, Kind, Origin};
use santa_sync::config::{
    Config, Domain, FindingKind, Loaded, SANTA_KEYS, Severity, Sources, read_domains, system_files,
};
use serde_json::{Value, json};

use crate::program::program;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/config").join(name)
}

fn examine(file: &Path) -> Loaded {
    Config::examine(&Sources { file: Some(file.to_owned()), ..Sources::default() })
}

/// What a run of the program writes and answers, paths made stable.
fn run(args: &[&str]) -> String {
    let output = program().args(args).output().expect("it ran");
    let text = format!(
        "{}{}exit {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status.code().expect("an exit code"),
    );
    text.replace(&fixture("").display().to_string(), "fixtures/config/")
}

fn with(command: &[&str], file: &str) -> String {
    let file = fixture(file).display().to_string();
    run(&[&["--config", &file], command].concat())
}

/// CONF-1: the same keys, whichever of the forms the file has.
#[test]
fn conf_1_every_form_of_a_file_gives_the_same_configuration() {
    let plain = examine(&fixture("plain.plist"));
    assert_eq!(plain.config.machine_owner.as_deref(), Some("kim"));
    for name in [
        "binary.plist",
        "profile.mobileconfig",
        "managed.mobileconfig",
        "signed.mobileconfig",
        "signed-in-pieces.mobileconfig",
    ] {
        let loaded = examine(&fixture(name));
        assert_eq!(loaded.config, plain.config, "{name}");
        assert!(loaded.findings.iter().all(|f| f.severity == Severity::Note), "{name}");
    }
}

/// Whatever a file holds, reading it ends in keys or an error.
#[test]
fn a_damaged_file_is_an_error_or_other_keys() {
    for name in ["binary.plist", "plain.plist", "signed-in-pieces.mobileconfig"] {
        let bytes = fs::read(fixture(name)).expect("the fixture");
        let mut read = 0;
        for at in 0..bytes.len() {
            for value in [0x00, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                read += usize::from(read_domains(&damaged).is_ok());
            }
            let _ = read_domains(&bytes[..at]);
        }
        assert!(read < 3 * bytes.len(), "{name}: some damage must show");
    }
}

/// CONF-1: files of the system may be missing, and one of the old domain does
/// not count beside one of the new.
#[test]
fn conf_1_a_leftover_profile_of_the_old_domain_is_not_mixed_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, key: &str| {
        let path = dir.path().join(name);
        let text = format!("<plist><dict><key>{key}</key><string>x</string></dict></plist>");
        fs::write(&path, text).expect("written");
        path
    };
    let missing = dir.path().join("none").join("com.northpolesec.santa.plist");
    let new = write("com.northpolesec.santa.plist", "MachineOwner");
    let old = write("com.google.santa.plist", "MachineID");
    let load = |system: &[&PathBuf]| {
        let system = system.iter().map(|path| (*path).clone()).collect();
        Config::load(&Sources { system, ..Sources::default() }).expect("a configuration").config
    };
    let both = load(&[&missing, &new, &old]);
    assert_eq!((both.machine_owner.as_deref(), both.machine_id.as_ref()), (Some("x"), None));
    assert_eq!(load(&[&missing, &old]).machine_id.as_deref(), Some("x"));
}

/// CONF-1: how the agent's own server is reached comes from the agent's own
/// domain alone; the rest comes key by key from Santa's, too.
#[test]
fn conf_1_the_agents_own_domain_wins_and_its_server_is_reached_its_own_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |domain: Domain, keys: &str| {
        let path = dir.path().join(format!("{}.plist", domain.name()));
        fs::write(&path, format!("<plist><dict>{keys}</dict></plist>")).expect("written");
        path
    };
    let text = |key: &str, value: &str| format!("<key>{key}</key><string>{value}</string>");
    let santas = [
        text("SyncBaseURL", "http://127.0.0.1:917/"),
        text("MachineID", "host-1"),
        text("MachineOwner", "kim"),
        text("SyncClientContentEncoding", "none"),
        text("SocketGroup", "admin"),
        "<key>SyncExtraHeaders</key><dict><key>X</key><string>s3cret</string></dict>".to_owned(),
    ];
    let santa = write(Domain::Santa, &santas.concat());
    let url = text("SyncBaseURL", "https://sync.example.com/");
    let own = |keys: &str| {
        let system = vec![write(Domain::Agent, keys), santa.clone()];
        Config::examine(&Sources { system, ..Sources::default() })
    };
    let Loaded { config, findings, .. } = own(&[url, text("MachineOwner", "alex")].concat());
    assert_eq!(
        config.sync_base_url.as_ref().map(ToString::to_string).as_deref(),
        Some("https://sync.example.com/")
    );
    assert_eq!(config.machine_owner.as_deref(), Some("alex"));
    assert_eq!(config.machine_id.as_deref(), Some("host-1"), "from Santa's domain");
    assert_eq!(config.socket_group.as_deref(), Some("admin"), "an own key works there");
    assert!(config.extra_headers.is_empty(), "no secret goes to another server");
    assert_eq!(config.content_encoding, santa_sync::model::ContentEncoding::Deflate);
    let of = |kind| {
        let keys = findings.iter().filter(|finding| finding.kind == kind);
        keys.filter_map(|finding| finding.key.as_deref()).collect::<Vec<_>>()
    };
    let dropped = ["SyncBaseURL", "SyncClientContentEncoding", "SyncExtraHeaders"];
    assert_eq!(of(FindingKind::NoEffect), dropped);
    assert_eq!(of(FindingKind::Misplaced), ["SocketGroup"]);
    assert!(findings.iter().all(|finding| finding.severity != Severity::Error));
    // Without a server of its own the agent shares Santa's, and the way to it.
    let config = own(&text("MachineOwner", "alex")).config;
    assert_eq!(
        config.sync_base_url.as_ref().map(ToString::to_string).as_deref(),
        Some("http://127.0.0.1:917/")
    );
    assert_eq!(config.extra_headers.len(), 1);
}

/// CONF-1: a user's managed preferences never configure root's daemon.
#[test]
fn conf_1_on_a_mac_only_the_devices_preferences_count() {
    let root = "/Library/Managed Preferences/";
    let files = ["com.santa-sync", "com.northpolesec.santa", "com.google.santa"]
        .map(|domain| PathBuf::from(format!("{root}{domain}.plist")));
    assert_eq!(system_files(true), files);
}

/// CONF-1: the order of the domains holds within a profile.
#[test]
fn conf_1_a_profile_with_both_of_santas_domains_is_not_mixed() {
    let loaded = examine(&fixture("both-domains.mobileconfig"));
    let url = loaded.config.sync_base_url.as_ref().map(ToString::to_string);
    assert_eq!(url.as_deref(), Some("https://new.example.net/"));
    assert_eq!(loaded.config.machine_owner, None);
    let [finding] = &loaded.findings[..] else { panic!("{:?}", loaded.findings) };
    assert!(finding.message.contains("com.google.santa"), "{finding}");
}

/// CONF-1: CDATA, UTF-16 and a PEM armour are read as what they hold.
#[test]
fn conf_1_a_file_in_another_dress_gives_the_same_configuration() {
    use base64::Engine as _;
    let Loaded { config, findings, .. } = examine(&fixture("cdata.plist"));
    assert_eq!(findings.iter().filter(|f| f.kind != FindingKind::Exposed).count(), 0);
    assert_eq!(config.blocked_path_regex.as_deref(), Some("^/tmp/.*&.*"));
    assert_eq!(config.machine_owner.as_deref(), Some("a&bc"));
    assert_eq!(config.extra_headers[0].1.expose(), "Bearer a&b");
    let cel = &config.static_rules[0].details.as_ref().expect("texts").cel_expr;
    assert_eq!(cel, r#"euid == 0 && path != "/x" ? BLOCKLIST : ALLOWLIST"#);

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.mobileconfig");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        examine(&path).config
    };
    let plain = examine(&fixture("plain.plist")).config;
    let text = fs::read_to_string(fixture("plain.plist")).expect("text").replace("UTF-8", "UTF-16");
    let utf_16: Vec<u8> = "\u{feff}"
        .chars()
        .chain(text.chars())
        .collect::<String>()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(read(&utf_16), plain);
    let signed = fs::read(fixture("signed.mobileconfig")).expect("bytes");
    let signed = base64::engine::general_purpose::STANDARD.encode(signed);
    let armoured = format!("-----BEGIN PKCS7-----\n{signed}\n-----END PKCS7-----\n");
    assert_eq!(read(armoured.as_bytes()), plain);
    // JSON of the command line, as an editor on another system writes it.
    let set = "SyncExtraHeaders=\u{feff}{\"X\":\"1\"}".to_owned();
    let loaded = Config::examine(&Sources { sets: vec![set], ..Sources::default() });
    assert_eq!(loaded.config.extra_headers.len(), 1, "{:?}", loaded.findings);
}

/// CONF-1: what form builders of management systems write.
#[test]
fn conf_1_roots_may_be_data_pem_text_or_base64_text() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.plist");
    let roots = |value: &str| {
        let text = format!("<plist><dict><key>ServerAuthRootsData</key>{value}</dict></plist>");
        fs::write(&path, text).expect("written");
        Config::load(&Sources { file: Some(path.clone()), ..Sources::default() })
            .map(|loaded| loaded.config.server_auth_roots_data.clone())
    };
    for value in [
        format!("<data>{encoded}</data>"),
        format!("<string>{pem}</string>"),
        format!("<string>{}</string>", encoded.replace('A', "A\n ")),
    ] {
        assert_eq!(roots(&value).expect(&value).as_deref(), Some(pem.as_bytes()), "{value}");
    }
    assert!(roots("<string>no certificate</string>").is_err());
}

/// CONF-2: a key of Santa is no mistake, whatever it is for; following advice to
/// remove it would drop a protection.
#[test]
fn conf_2_every_key_of_santa_is_known_in_silence() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("com.northpolesec.santa.plist");
    let keys: Vec<_> =
        SANTA_KEYS.iter().map(|(name, _)| format!("<key>{name}</key><true/>")).collect();
    let keys = keys.concat();
    fs::write(&path, format!("<plist><dict>{keys}</dict></plist>")).expect("written");
    assert_eq!(examine(&path).findings, []);
    for name in ["EnableBadSignatureProtection", "FCMProject", "SyncTypeRequired", "TMM"] {
        assert!(SANTA_KEYS.iter().any(|(known, _)| *known == name), "{name}");
    }
    let text = "<plist><dict><key>Foo</key><true/><key>MachineId</key><true/></dict></plist>";
    fs::write(&path, text).expect("written");
    let fixes: Vec<_> = examine(&path).findings.into_iter().map(|finding| finding.fix).collect();
    let spelling = "check its spelling: neither Santa nor this agent has such a key";
    assert_eq!(fixes, [spelling, "did you mean MachineID?"]);
}

/// CONF-2: values that are of their type and cannot work.
#[test]
fn conf_2_the_check_names_values_that_cannot_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("ids.plist");
    fs::write(
        &list,
        "<plist><dict><key>serial</key><integer>4711</integer><key>up</key><true/>
         <key>unfilled</key><string>$SERIALNUMBER</string></dict></plist>",
    )
    .expect("written");
    let check = |sets: &[&str]| {
        let sets: Vec<_> = sets.iter().map(|set| format!("--set={set}")).collect();
        let sets: Vec<_> = sets.iter().map(String::as_str).collect();
        let url = "--set=SyncBaseURL=https://h/";
        let text = run(&[&["config", "check", url], &sets[..]].concat());
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    let proxy = |keys: &str| format!("SyncProxyConfiguration={{{keys}}}");
    let lists = format!("MachineIDPlist={}", list.display());
    let owners = format!("MachineOwnerPlist={}", list.display());
    insta::assert_snapshot!(
        [
            check(&["SyncBaseURL=https://h/santa/preflight/"]),
            check(&[&proxy(r#""HTTPEnable":1,"HTTPProxy":"p","HTTPPort":3128"#)]),
            check(&[&proxy(r#""HTTPSEnable":1,"HTTPSProxy":"p:3128""#)]),
            check(&[&lists, "MachineIDKey=Serial"]),
            check(&[&lists, "MachineIDKey=serial"]),
            check(&[&owners, "MachineOwnerKey=up", "MachineOwnerGroupsKey=serial"]),
            check(&["MachineOwner={{ user.email }}", r#"MachineOwnerGroups=["staff","%Group%"]"#]),
            check(&[&lists, "MachineIDKey=unfilled"]),
            check(&[&owners, "MachineOwnerKey=unfilled"]),
            check(&["AllowedPathRegex=^/opt/(a|b", r"BlockedPathRegex=^/tmp/[)(\]]+\)$"]),
            check(&["AllowedPathRegex=^/opt/[a-z"]),
        ]
        .join("\n")
    );
}

/// CONF-2: for scripts that deploy a profile.
#[test]
fn conf_2_a_strict_check_fails_on_warnings() {
    let args = ["config", "check", "--set=SyncBaseURL=https://h/", "--set=SyncDeadline=1"];
    assert!(run(&args).ends_with("exit 0"));
    let strict = run(&[&args[..], &["--strict", "--json"]].concat());
    assert!(strict.contains("\"exit_code\": 1") && strict.ends_with("exit 1"), "{strict}");
    assert!(run(&[&args[..3], &["--strict"]].concat()).ends_with("exit 0"));
    let refused = with(&["config", "check", "--strict"], "five-mistakes.mobileconfig");
    assert!(refused.ends_with("exit 78"), "{refused}");
}

/// HOST-2, CONF-2: a profile as it is before a management system fills it in.
#[test]
fn host_2_a_template_is_checked_but_for_its_placeholders() {
    insta::assert_snapshot!(with(&["config", "check", "--template"], "template.mobileconfig"));
    let filled = with(&["config", "check"], "template.mobileconfig");
    assert!(filled.contains("placeholder") && filled.ends_with("exit 78"), "{filled}");
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.plist");
    let kind = |path: &Path| {
        let error = Config::load(&Sources { file: Some(path.to_owned()), ..Sources::default() });
        let text = error.expect_err("an unusable file").to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        examine(path).findings.first().map(|finding| finding.kind)
    };
    assert_eq!(kind(&path), Some(FindingKind::Unreadable));
    assert_eq!(kind(dir.path()), Some(FindingKind::Unreadable));
    fs::write(&path, "{\"SyncBaseURL\": \"https://h/\"}").expect("written");
    assert_eq!(kind(&path), Some(FindingKind::Malformed));
    fs::File::create(&path).and_then(|f| f.set_len(9 << 20)).expect("a large file");
    assert_eq!(kind(&path), Some(FindingKind::Malformed));
}

/// RELAY-1, CONF-1: what the check says of a relay that cannot work.
#[test]
fn relay_1_the_check_names_what_a_relay_cannot_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = dir.path().join("open");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("a mode");
    let check = |sets: &[&str]| {
        let sets: Vec<_> = sets.iter().map(|set| format!("--set={set}")).collect();
        let sets: Vec<_> = sets.iter().map(String::as_str).collect();
        let text = run(&[&["config", "check"], &sets[..]].concat());
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    let url = "SyncBaseURL=https://h/";
    let directory = format!("RelayDirectory={}", open.join("relay").display());
    let listen = "RelayListen=127.0.0.1:917";
    insta::assert_snapshot!(
        [
            check(&[url, "RelayListen=0.0.0.0:917"]),
            check(&["SyncBaseURL=http://localhost:917/", listen]),
            check(&[url, listen, "RelayClientCertificate=true"]),
            check(&[url, listen, "RelayNudge=/nowhere/santactl sync", "RelayTLS=1", &directory]),
            check(&[url, "RelayTLS=true"]),
            check(&[url, listen, "RelaySecret=5ecretm4rk"]),
        ]
        .join("\n")
    );
    let shown = run(&["config", "show", "--set", listen, "--set", "RelaySecret=5ecretm4rk"]);
    assert!(shown.contains("RelaySecret = (secret)"), "{shown}");
}

#[test]
fn a_secret_in_a_file_for_everyone_is_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.plist");
    let text = "<plist><dict><key>SyncExtraHeaders</key><dict><key>Authorization</key>\
                <string>s3cret</string></dict></dict></plist>";
    fs::write(&path, text).expect("written");
    let exposed = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        examine(&path).findings.iter().any(|f| f.kind == FindingKind::Exposed)
    };
    assert!(exposed(0o644) && !exposed(0o640));
}

/// CONF-2: the whole of what a new administrator gets to see.
#[test]
fn conf_2_a_profile_with_five_typical_mistakes_has_all_five_named() {
    insta::assert_snapshot!(with(&["config", "check"], "five-mistakes.mobileconfig"), @r#"
    error: SyncBaseURL: "http://sync.example.com/santa/" would send everything in the clear
        in fixtures/config/five-mistakes.mobileconfig
        fix: change http:// to https:// (http is for localhost, 127.0.0.1 and ::1 only)
    error: MachineID: the machine id "%HardwareUUID%" is a placeholder that was not replaced
        in fixtures/config/five-mistakes.mobileconfig
        fix: write the id itself, or remove the key to use the hardware UUID
    error: ServerAuthRootsFile: the trust roots in /Library/Security/no-such-roots.pem (ServerAuthRootsFile) cannot be read (No such file or directory (os error 2))
        in fixtures/config/five-mistakes.mobileconfig
        fix: put the CA certificates there as PEM, or remove the key to trust the system's roots
    warning: SyncExtraHeader: is not a known key and has no effect
        in fixtures/config/five-mistakes.mobileconfig
        fix: did you mean SyncExtraHeaders?
    warning: ClientMode: is a string, not an integer
        in fixtures/config/five-mistakes.mobileconfig
        fix: write it as an integer
    3 errors, 2 warnings
    exit 78
    "#);
    insta::assert_snapshot!(with(&["config", "check", "--json"], "five-mistakes.mobileconfig"), @r#"
    {
      "schema_version": 1,
      "result": "error",
      "exit_code": 78,
      "sources": [
        "fixtures/config/five-mistakes.mobileconfig"
      ],
      "errors": 3,
      "warnings": 2,
      "findings": [
        {
          "severity": "error",
          "kind": "rejected_url",
          "key": "SyncBaseURL",
          "source": "fixtures/config/five-mistakes.mobileconfig",
          "message": "\"http://sync.example.com/santa/\" would send everything in the clear",
          "fix": "change http:// to https:// (http is for localhost, 127.0.0.1 and ::1 only)"
        },
        {
          "severity": "error",
          "kind": "bad_value",
          "key": "MachineID",
          "source": "fixtures/config/five-mistakes.mobileconfig",
          "message": "the machine id \"%HardwareUUID%\" is a placeholder that was not replaced",
          "fix": "write the id itself, or remove the key to use the hardware UUID"
        },
        {
          "severity": "error",
          "kind": "unreadable",
          "key": "ServerAuthRootsFile",
          "source": "fixtures/config/five-mistakes.mobileconfig",
          "message": "the trust roots in /Library/Security/no-such-roots.pem (ServerAuthRootsFile) cannot be read (No such file or directory (os error 2))",
          "fix": "put the CA certificates there as PEM, or remove the key to trust the system's roots"
        },
        {
          "severity": "warning",
          "kind": "unknown_key",
          "key": "SyncExtraHeader",
          "source": "fixtures/config/five-mistakes.mobileconfig",
          "message": "is not a known key and has no effect",
          "fix": "did you mean SyncExtraHeaders?"
        },
        {
          "severity": "warning",
          "kind": "wrong_type",
          "key": "ClientMode",
          "source": "fixtures/config/five-mistakes.mobileconfig",
          "message": "is a string, not an integer",
          "fix": "write it as an integer"
        }
      ]
    }
    exit 78
    "#);
}

#[test]
fn files_that_keys_name_and_nobody_can_use_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let hook = dir.path().join("hook");
    let set = |key: &str, path: &Path| format!("--set={key}={}", path.display());
    let url = "--set=SyncBaseURL=https://h/";
    let missing = set("EventsDatabase", &dir.path().join("none.db"));
    fs::write(&hook, "#!/bin/sh\n").expect("written");
    let text = run(&["config", "check", url, &missing, &set("NotificationHook", &hook)]);
    assert!(
        text.contains("warning: EventsDatabase: ") && text.contains("cannot be read"),
        "{text}"
    );
    assert!(
        text.contains("NotificationHook: is not run: ") && text.contains("not an executable file"),
        "{text}"
    );
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).expect("a mode");
    let text = run(&["config", "check", url, &set("NotificationHook", &hook)]);
    assert!(text.starts_with("The configuration is fine."), "{text}");
}

/// A client certificate with its key as PEM, valid for so many days from now.
fn client_certificate(days: i64) -> String {
    use santa_sync::clock::Clock as _;
    let now = santa_sync::clock::SystemClock::new().now().wall.as_secs();
    let day =
        |days| time::OffsetDateTime::from_unix_timestamp(now + days * 86_400).expect("a time");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "host-1");
    (params.not_before, params.not_after) = (day(-400), day(days));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    certificate.pem() + &key.serialize_pem()
}

/// HTTP-12: a certificate's end is told while there is time to act.
#[test]
fn http_12_the_check_looks_into_the_client_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("client.pem");
    let set = format!("ClientAuthCertificateFile={}", path.display());
    let check = |content: &str| {
        fs::write(&path, content).expect("written");
        run(&["config", "check", "--set", "SyncBaseURL=https://h/", "--set", &set])
    };
    let fine = check(&client_certificate(365));
    assert!(fine.starts_with("The configuration is fine."), "{fine}");
    let soon = check(&client_certificate(7));
    assert!(
        soon.contains("warning: ClientAuthCertificateFile: the client certificate expires in 6 d")
    );
    assert!(soon.ends_with("exit 0"), "{soon}");
    let late = check(&client_certificate(-7));
    assert!(late.contains("error: ClientAuthCertificateFile: the client certificate expired at"));
    assert!(late.ends_with("exit 78"), "{late}");
    let broken = check("no certificate");
    assert!(broken.contains("error: ClientAuthCertificateFile: "), "{broken}");
    assert!(broken.contains("    fix: ") && broken.ends_with("exit 78"), "{broken}");
}

#[test]
fn a_static_rule_whose_expression_does_not_parse_is_named() {
    let rules = r#"StaticRules=[{"identifier":"ABCDEFGHIJ","policy":"CEL","rule_type":"TEAMID",
        "cel_expr":"euid == "}]"#;
    let text = run(&["config", "check", "--set", "SyncBaseURL=https://h/", "--set", rules]);
    assert!(text.contains("the expression of ABCDEFGHIJ does not parse"), "{text}");
    assert!(text.ends_with("exit 0"), "{text}");
}

/// CONF-4, EXIT: 78 is "bad configuration"; what acts on one refuses it.
#[test]
fn conf_4_a_refused_configuration_ends_a_sync_with_78_and_its_object() {
    insta::assert_snapshot!(with(&["sync"], "five-mistakes.mobileconfig"));
    let json = with(&["sync", "--json", "--dry-run", "--clean"], "five-mistakes.mobileconfig");
    assert!(json.ends_with("exit 78"), "{json}");
    let record: Value = first_object(&json);
    assert_eq!(
        (&record["result"], &record["exit_code"], &record["dry_run"]),
        (&json!("bad_configuration"), &json!(78), &json!(true))
    );
    assert!(record["error"]["message"].as_str().is_some_and(|text| text.contains("SyncBaseURL")));
    let usage = run(&["sync", "--json", "--set", "MachineID"]);
    assert!(usage.contains("\"exit_code\": 64") && usage.ends_with("exit 64"), "{usage}");
}

/// The JSON object that a text begins with.
fn first_object(text: &str) -> Value {
    serde_json::Deserializer::from_str(text).into_iter().next().expect("an object").expect("JSON")
}

/// CONF-4: what only reads shows the same as with a good configuration, and
/// says what is wrong with this one.
#[test]
fn conf_4_what_only_reads_works_with_a_refused_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state").display().to_string();
    let rules = dir.path().join("rules.json");
    let rule = json!({"identifier": "ABCDEFGHIJ", "policy": "ALLOWLIST", "rule_type": "TEAMID"});
    fs::write(&rules, json!({ "rules": [rule] }).to_string()).expect("written");
    let run = |args: &[&str]| {
        let args = [&["--state-dir", &state, "--set", "MachineID=host-1"], args].concat();
        program().args(args).output().expect("it ran")
    };
    let imported = run(&["rules", "import", &rules.display().to_string()]);
    assert!(imported.status.success(), "{imported:?}");
    let refused = fixture("five-mistakes.mobileconfig").display().to_string();
    for command in [
        &["status"][..],
        &["history"],
        &["rules", "list"],
        &["rules", "check", "--team-id", "ABCDEFGHIJ"],
        &["rules", "verify"],
        &["rules", "export"],
        &["events", "list"],
        &["events", "bundles"],
        &["whoami"],
    ] {
        let good = run(command);
        let shown = run(&[command, &["--config", &refused]].concat());
        assert_eq!(shown.status.code(), good.status.code(), "{command:?}: {shown:?}");
        assert_eq!(shown.stdout, good.stdout, "{command:?}");
        let told = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(told.contains("note: the configuration is refused: "), "{command:?}: {told}");
        let with = |more: &[&str]| {
            let output = run(&[command, &["--json"], more].concat());
            first_object(&String::from_utf8_lossy(&output.stdout))
        };
        let (good, mut shown) = (with(&[]), with(&["--config", &refused]));
        if command != ["rules", "export"] {
            let error = shown.as_object_mut().and_then(|o| o.remove("configuration_error"));
            let fix = &error.expect("an error")["fix"];
            assert!(fix.as_str().is_some_and(|fix| fix.contains("https://")), "{fix}");
        }
        assert_eq!(shown, good, "{command:?}");
    }
    let missing = run(&["status", "--config", "/nowhere/profile"]);
    assert!(missing.status.success(), "{missing:?}");
    // What changes the stores does not go on.
    let imported = run(&["rules", "import", "--config", &refused, &rules.display().to_string()]);
    assert_eq!(imported.status.code(), Some(78));
}

#[test]
fn a_good_configuration_is_called_so() {
    insta::assert_snapshot!(with(&["config", "check"], "profile.mobileconfig"), @r"
    The configuration is fine.
    exit 0
    ");
    insta::assert_snapshot!(with(&["config", "check", "--json"], "profile.mobileconfig"), @r#"
    {
      "schema_version": 1,
      "result": "ok",
      "exit_code": 0,
      "sources": [
        "fixtures/config/profile.mobileconfig"
      ],
      "errors": 0,
      "warnings": 0,
      "findings": []
    }
    exit 0
    "#);
}

#[test]
fn show_tells_what_holds_and_where_it_comes_from() {
    let set = "--set=MachineOwner=alex";
    let headers = "--set=SyncExtraHeaders={\"Authorization\":\"Bearer s3cret\"}";
    let file = "profile.mobileconfig";
    insta::assert_snapshot!(with(&["config", "show"], file), @r"
    SyncBaseURL = https://sync.example.com/santa/
    MachineOwner = kim
    ClientMode = 1
    EnableAllEventUpload = true
    exit 0
    ");
    insta::assert_snapshot!(with(&["config", "show", "--origin", set, headers], file), @r#"
    SyncBaseURL = https://sync.example.com/santa/
        from fixtures/config/profile.mobileconfig
    SyncExtraHeaders = {"Authorization":"(secret)"}
        from --set
    MachineOwner = alex
        from --set
        over kim from fixtures/config/profile.mobileconfig
    ClientMode = 1
        from fixtures/config/profile.mobileconfig
        the server's setting wins
    EnableAllEventUpload = true
        from fixtures/config/profile.mobileconfig
        the server's setting wins
    exit 0
    "#);
    insta::assert_snapshot!(with(&["config", "show", "--json", set], file), @r#"
    {
      "schema_version": 1,
      "keys": [
        {
          "key": "SyncBaseURL",
          "value": "https://sync.example.com/santa/",
          "source": "fixtures/config/profile.mobileconfig",
          "overrides": [],
          "server_may_override": false
        },
        {
          "key": "MachineOwner",
          "value": "alex",
          "source": "--set",
          "overrides": [
            {
              "value": "kim",
              "source": "fixtures/config/profile.mobileconfig"
            }
          ],
          "server_may_override": false
        },
        {
          "key": "ClientMode",
          "value": 1,
          "source": "fixtures/config/profile.mobileconfig",
          "overrides": [],
          "server_may_override": true
        },
        {
          "key": "EnableAllEventUpload",
          "value": true,
          "source": "fixtures/config/profile.mobileconfig",
          "overrides": [],
          "server_may_override": true
        }
      ]
    }
    exit 0
    "#);
    let all = with(&["config", "show", "--all"], file);
    assert!(all.contains("SyncDeadline = (3600)"), "{all}");
}

/// EXIT: 64 is "usage".
#[test]
fn a_set_without_a_value_is_a_usage_error() {
    insta::assert_snapshot!(run(&["whoami", "--set", "MachineID"]), @r"
    error: the configuration is refused: --set: a --set has no `=`; write --set Key=Value
    exit 64
    ");
}

/// The JSON Schema of the keys, as the table in the code has them.
/// A property for each name, of that type and with a title: the form builders of
/// management systems show titles, and only what has properties.
fn titled(names: &[(&str, &str, &str)]) -> serde_json::Value {
    let property = |(name, kind, meaning): &(&str, &str, &str)| {
        let property = json!({"title": name, "type": kind, "description": meaning});
        ((*name).to_owned(), property)
    };
    serde_json::Value::Object(names.iter().map(property).collect())
}

fn proxy_properties() -> serde_json::Value {
    titled(&[
        ("HTTPSEnable", "integer", "1: use the proxy for https URLs"),
        ("HTTPSProxy", "string", "Host name or address of the proxy for https URLs"),
        ("HTTPSPort", "integer", "Port of the proxy for https URLs"),
        ("HTTPSUser", "string", "User name for the proxy for https URLs"),
        ("HTTPSPassword", "string", "Password for the proxy for https URLs"),
        ("SOCKSEnable", "integer", "1: use a SOCKS 5 proxy for URLs without another"),
        ("SOCKSProxy", "string", "Host name or address of the SOCKS proxy"),
        ("SOCKSPort", "integer", "Port of the SOCKS proxy"),
        ("SOCKSUser", "string", "User name for the SOCKS proxy"),
        ("SOCKSPassword", "string", "Password for the SOCKS proxy"),
        ("ExcludeSimpleHostnames", "integer", "1: reach names without a dot directly"),
    ])
}

fn rule_properties() -> serde_json::Value {
    let mut rule = titled(&[
        ("identifier", "string", "What the rule is about: a hash, a team or a signing identifier"),
        ("rule_type", "string", "What kind of identifier it is"),
        ("policy", "string", "What the rule does"),
        ("custom_msg", "string", "Message shown on a block"),
        ("custom_url", "string", "URL of the button shown on a block"),
        ("cel_expr", "string", "The expression of a CEL rule"),
        ("comment", "string", "A note for administrators"),
    ]);
    rule["rule_type"]["enum"] = json!(["BINARY", "CERTIFICATE", "SIGNINGID", "TEAMID", "CDHASH"]);
    rule
}

fn schema() -> serde_json::Value {
    let property = |key: &Key| {
        let mut property = match key.kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Integer(low, high) => {
                json!({"type": "integer", "minimum": low, "maximum": high})
            }
            Kind::Text => json!({"type": "string"}),
            Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
            Kind::Path => json!({"type": "string", "pattern": "^/"}),
            Kind::Data => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Command => {
                json!({"type": ["string", "array"], "items": {"type": "string"}})
            }
            Kind::Headers => {
                json!({
                    "type": "object",
                    "properties": {"Authorization": {"title": "Authorization", "type": "string"}},
                    "additionalProperties": {"type": "string"},
                })
            }
            Kind::Proxy => json!({"type": "object", "properties": proxy_properties()}),
            Kind::Rules => json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "title": "Rule",
                    "properties": rule_properties(),
                    "required": ["identifier", "rule_type", "policy"],
                },
            }),
        };
        property["title"] = key.name.into();
        property["description"] = key.meaning.into();
        match key.origin {
            Origin::Deprecated(instead) => {
                property["deprecated"] = true.into();
                property["description"] = format!("Older name of {instead}").into();
            }
            Origin::Unsupported(instead) => {
                property["description"] =
                    format!("{} (not supported: {instead})", key.meaning).into();
            }
            Origin::Santa | Origin::Own => {}
        }
        property
    };
    let santas = |name: &str| json!({"title": name, "description": "A key of Santa that a sync does not need"});
    let own = KEYS.iter().map(|key| (key.name.to_owned(), property(key)));
    let santas = SANTA_KEYS.iter().map(|(name, _)| ((*name).to_owned(), santas(name)));
    let properties: serde_json::Map<_, _> = own.chain(santas).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration keys in the domains com.santa-sync and com.northpolesec.santa",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^Payload": {}},
        "additionalProperties": false,
    })
}

/// With `UPDATE_DOCUMENTS=1` in the environment the file is written instead.
fn in_step(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(&path, expected).expect("written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not in step with the key table; run the tests with UPDATE_DOCUMENTS=1",
        path.display()
    );
}

/// The table of the keys for which `wanted` holds.
fn table(wanted: impl Fn(&Key) -> bool) -> String {
    let mut rows =
        vec!["| key | type | default | meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    for key in KEYS.iter().filter(|key| wanted(key)) {
        let kind = match key.kind {
            Kind::Integer(low, high) => format!("integer, {low} to {high}"),
            Kind::Choice(choices) => format!("`{}`", choices.join("`, `")),
            Kind::Path => "path".to_owned(),
            kind @ (Kind::Bool
            | Kind::Text
            | Kind::Data
            | Kind::Texts
            | Kind::Command
            | Kind::Headers
            | Kind::Proxy
            | Kind::Rules) => kind.name().to_owned(),
        };
        let mut meaning = match key.origin {
            Origin::Deprecated(instead) => format!("{} of `{instead}`", key.meaning),
            Origin::Unsupported(instead) => format!("{}. Not supported: {instead}", key.meaning),
            Origin::Santa | Origin::Own => key.meaning.to_owned(),
        };
        let marks = [(key.server_wins, "S"), (key.strict, "E"), (key.secret, "X")];
        let marks: Vec<_> = marks.iter().filter(|(set, _)| *set).map(|(_, m)| *m).collect();
        if !marks.is_empty() {
            meaning = format!("{meaning} ({})", marks.join(", "));
        }
        rows.push(format!("| `{}` | {kind} | {} | {meaning} |", key.name, key.default));
    }
    rows.join("\n") + "\n"
}

/// The documented tables of keys, each between its two marks.
#[test]
fn the_documented_tables_of_keys_follow_the_key_table() {
    const PAGE: &str = "docs/configuration.md";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let mut page = fs::read_to_string(path).expect("the page");
    let is_own = |key: &Key| key.origin == Origin::Own;
    for (name, table) in [("santa", table(|key| !is_own(key))), ("own", table(is_own))] {
        let (begin, end) = (format!("<!-- keys: {name} -->\n"), "<!-- end of keys -->");
        let (before, rest) = page.split_once(&begin).expect("the mark before the table");
        let (_, after) = rest.split_once(end).expect("the mark behind the table");
        page = format!("{before}{begin}{table}{end}{after}");
    }
    in_step(PAGE, &page);
}

/// RELAY-14: the sample for both sides of a relay is one that `doctor` has nothing
/// to say against.
#[test]
fn relay_14_the_sample_leads_both_sides() {
    let path = "launchd/com.santa-sync.relay.mobileconfig";
    let loaded = examine(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    assert_eq!(loaded.findings, [], "nothing that leads to the relay is worth a note");
    let relay = loaded.config.relay.as_ref().expect("a relay");
    let profile = loaded.config.santa_profile.as_ref().expect("Santa's");
    assert!(profile.points_to(relay) && relay.tls && relay.client_certificate);
    assert!(profile.clean_sync_event_upload && !profile.has_proxy && !profile.has_push);
    let scheme = profile.sync_base_url.as_ref().map(|url| url.as_url().scheme().to_owned());
    assert_eq!(scheme.as_deref(), Some("https"));
    let url = loaded.config.sync_base_url.as_ref().map(ToString::to_string);
    assert_eq!(url.as_deref(), Some("https://sync.example.com/santa"));
    assert_eq!(profile.static_rules.len(), 1);
    assert!(profile.client_password.is_some());
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it");
    let is_proxy = |line: &str| line.contains("SyncProxyConfiguration</key>");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let proxy = lines.iter().position(|line| is_proxy(line)).expect("the key");
    assert_eq!(lines[proxy + 1], "<dict/>", "no proxy on the way to the relay");
}

/// CONF-2: a running Santa lets nobody open its events.
#[test]
fn conf_2_santas_own_events_database_is_warned_of() {
    let url = "--set=SyncBaseURL=https://h/";
    let database = "--set=EventsDatabase=/var/db/santa/events.db";
    let text = run(&["config", "check", url, database]);
    assert!(text.contains("which a running Santa lets nobody open"), "{text}");
}

#[test]
fn the_schema_of_the_keys_follows_the_table() {
    let text = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    in_step("launchd/configuration.schema.json", &text);
}

#[test]
fn the_sample_profile_has_no_mistake_and_only_known_keys() {
    let path = "launchd/com.santa-sync.sample.mobileconfig";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let loaded = examine(&path);
    assert_eq!(loaded.findings, []);
    let names: Vec<_> = loaded.effective.iter().map(|(key, _)| key.name).collect();
    assert!(names.contains(&"SyncBaseURL") && names.len() > 3, "{names:?}");
    let domains = read_domains(&fs::read(path).expect("the profile")).expect("keys");
    let names: Vec<_> = domains.iter().flat_map(|domain| domain.keys.keys()).collect();
    assert!(names.iter().all(|name| keys::find(name).is_some()), "{names:?}");
}

/// Each sample profile is one that macOS installs for the whole Mac.
#[test]
fn conf_1_the_sample_profiles_are_whole() {
    let text = |dict: &plist::Dictionary, key: &str| {
        let value = dict.get(key).and_then(plist::Value::as_string);
        value.unwrap_or_else(|| panic!("{key} is missing")).to_owned()
    };
    let mut ids = std::collections::HashSet::new();
    let mut kinds = Vec::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("launchd");
    let files = fs::read_dir(&dir).expect("the directory").map(|entry| entry.expect("one").path());
    for path in files.filter(|path| path.extension().is_some_and(|ext| ext == "mobileconfig")) {
        let profile = plist::Value::from_file(&path).expect("a property list");
        let profile = profile.as_dictionary().expect("a dictionary");
        assert_eq!(text(profile, "PayloadType"), "Configuration");
        assert_eq!(text(profile, "PayloadScope"), "System", "{path:?}");
        let payloads = profile.get("PayloadContent").and_then(plist::Value::as_array);
        let payloads = payloads.expect("payloads").iter().filter_map(plist::Value::as_dictionary);
        for dict in std::iter::once(profile).chain(payloads) {
            for key in ["PayloadUUID", "PayloadIdentifier"] {
                assert!(ids.insert(text(dict, key)), "{path:?}: {key} is not unique");
            }
            text(dict, "PayloadOrganization");
            text(dict, "PayloadDisplayName");
            kinds.push(text(dict, "PayloadType"));
        }
    }
    for kind in [
        "com.santa-sync",
        "com.northpolesec.santa",
        "com.apple.servicemanagement",
        "com.apple.TCC.configuration-profile-policy",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "{kind}");
    }
    // The label and the path are those of the service.
    let job = fs::read_to_string(dir.join("com.santa-sync.daemon.plist")).expect("the job");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a profile");
    let services = read("com.santa-sync.servicemanagement.mobileconfig");
    assert!(job.contains("com.santa-sync.daemon") && services.contains("com.santa-sync.daemon"));
    let privacy = read("com.santa-sync.privacy.mobileconfig");
    let program = "<string>/usr/local/santa-sync/bin/santa-sync</string>";
    assert!(job.contains(program) && privacy.contains(program));
    let loaded = examine(&dir.join("com.santa-sync.santa.mobileconfig"));
    assert!(loaded.findings.iter().all(|finding| finding.key.is_none()), "{:?}", loaded.findings);
    assert!(loaded.effective.get("StaticRules").is_some());
}
