//! `doctor` as a user runs it: a healthy host, and one failure of each layer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use assert_cmd::Command;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use santa_sync::harness::{FakeServer, Fault, Preset, Route, every};
use santa_sync::model::Stage;

/// A host with a state directory that does not exist yet.
struct Host {
    dir: tempfile::TempDir,
    sets: Vec<String>,
}

impl Host {
    fn of(url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, sets: vec![format!("SyncBaseURL={url}"), "MachineID=host-1".to_owned()] }
    }

    fn set(mut self, set: impl Into<String>) -> Self {
        self.sets.push(set.into());
        self
    }

    /// The report without what differs from machine to machine.
    fn doctor(&self, args: &[&str]) -> String {
        let mut command = Command::cargo_bin("santa-sync").expect("the program");
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(variable);
        }
        command.arg("--state-dir").arg(self.dir.path().join("state")).arg("doctor").args(args);
        for set in &self.sets {
            command.arg("--set").arg(set);
        }
        let output = command.output().expect("it ran");
        let text = String::from_utf8_lossy(&output.stdout)
            .replace(&self.dir.path().display().to_string(), "DIR");
        let of_machine = |line: &&str| {
            // What the machine's own state and clock decide, and the sum of all.
            let varying = [
                " service  ",
                "service install",
                "warning  identity",
                "whoami",
                " clock  ",
                "problem",
                "No problem",
                "Everything",
            ];
            !varying.iter().any(|word| line.contains(word))
        };
        let lines: Vec<_> = text.lines().filter(of_machine).collect();
        format!("{}\nexit {}", lines.join("\n"), output.status.code().expect("an exit code"))
    }
}

/// Snapshots with ports and days left made stable.
fn stable(text: &str) -> String {
    let mut stable = String::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').map(stable_word).collect();
        // The number of an error is another one on each system.
        let line = words.join(" ");
        stable.push_str(line.split(" (os error").next().unwrap_or_default());
        stable.push('\n');
    }
    stable
}

fn stable_word(word: &str) -> String {
    let Some(start) = word.find("127.0.0.1:").or_else(|| word.find("localhost:")) else {
        return word.to_owned();
    };
    let (before, rest) = word.split_at(start);
    let rest = &rest[10..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    format!("{before}HOST:PORT{}", &rest[end..])
}

#[test]
fn a_healthy_host_has_nothing_to_mend_and_is_left_as_it_was() {
    let server = FakeServer::builder().start().expect("a server");
    let host = Host::of(&server.url());
    insta::assert_snapshot!(stable(&host.doctor(&[])), @r"
    ok       configuration      2 keys from --set
    ok       identity           machine id host-1 (MachineID)
    ok       state directory    DIR/state does not exist yet; the first sync makes it
    skipped  stores             there is no state directory yet
    ok       dns                127.0.0.1 is an address, not a name
    ok       connection         HOST:PORT answers at HOST:PORT
    skipped  tls                plain http, to this host itself
    skipped  client certificate plain http, to this host itself
    ok       http               http://HOST:PORT/preflight/host-1 answers 200 over HTTP/1.1
    ok       body               a preflight answer: MONITOR, NORMAL, batch size 50
    skipped  history            no sync has run yet
    exit 0
    ");
    assert_eq!(server.count(Stage::Preflight), 1);
    assert_eq!(server.hosts(), ["host-1"], "the probe goes in this host's own name");
    let left: Vec<_> = fs::read_dir(host.dir.path()).expect("a directory").collect();
    assert!(left.is_empty(), "doctor never changes state: {left:?}");
}

#[test]
fn the_report_as_json() {
    let server = FakeServer::builder().start().expect("a server");
    let text = Host::of(&server.url()).doctor(&["--json"]);
    let (json, exit) = text.rsplit_once('\n').expect("two parts");
    assert_eq!(exit, "exit 0");
    let report: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let layers: Vec<_> = report["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| line["layer"].as_str().expect("a layer"))
        .collect();
    assert_eq!(
        layers,
        [
            "configuration",
            "identity",
            "state_directory",
            "stores",
            "service",
            "dns",
            "connection",
            "tls",
            "client_certificate",
            "http",
            "body",
            "clock",
            "history"
        ]
    );
}

#[test]
fn without_a_probe_the_server_hears_nothing() {
    let server = FakeServer::builder().start().expect("a server");
    let text = Host::of(&server.url()).doctor(&["--no-probe"]);
    assert!(text.contains("skipped  http               --no-probe"), "{text}");
    assert!(text.contains("ok       connection"), "{text}");
    assert!(server.transcript().is_empty());
}

#[test]
fn a_server_that_is_not_there_is_told_at_its_layer() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let host = Host::of(&format!("http://{free}/"));
    insta::assert_snapshot!(stable(&host.doctor(&[])), @r"
    ok       configuration      2 keys from --set
    ok       identity           machine id host-1 (MachineID)
    ok       state directory    DIR/state does not exist yet; the first sync makes it
    skipped  stores             there is no state directory yet
    ok       dns                127.0.0.1 is an address, not a name
    PROBLEM  connection         HOST:PORT cannot be reached (HOST:PORT: Connection refused
                                fix: check that the server runs and no firewall is in between; behind a proxy, set SyncProxyConfiguration
    skipped  tls                the server is not reached
    skipped  client certificate the server is not reached
    skipped  http               the server is not reached
    skipped  body               the server is not reached
    skipped  history            no sync has run yet
    exit 1
    ");
    // A label of 64 letters is none, which the resolver knows without asking.
    let host = Host::of(&format!("https://{}.invalid/", "a".repeat(64)));
    let text = host.doctor(&[]);
    assert!(text.contains("PROBLEM  dns                aaaa"), "{text}");
}

/// EXIT: 6 is "no usable `SyncBaseURL`".
#[test]
fn without_a_url_the_exit_code_is_a_syncs() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Host { dir, sets: vec!["MachineID=host-1".to_owned()] };
    let text = host.doctor(&[]);
    assert!(text.starts_with("PROBLEM  configuration      SyncBaseURL: is not set"), "{text}");
    assert!(text.ends_with("exit 6"), "{text}");
}

/// HTTP-4 and the errors of HTTP, each with its fix.
#[test]
fn what_the_server_answers_is_told() {
    for (fault, told) in [
        (Fault::Html, "PROBLEM  body               the answer is HTML"),
        (Fault::EmptyBody, "warning  body               the answer is empty"),
        (Fault::Status(403, Vec::new(), "who are you".to_owned()), "PROBLEM  http"),
        (Fault::Status(404, Vec::new(), String::new()), "PROBLEM  http"),
        (Fault::Status(503, Vec::new(), String::new()), "PROBLEM  http"),
        (Fault::Redirect("https://elsewhere.example.com/".to_owned()), "PROBLEM  http"),
        (Fault::Truncate, "PROBLEM  http"),
    ] {
        let name = format!("{fault:?}");
        let route = Route::from(Stage::Preflight);
        let server = FakeServer::builder().fault(route, every(), fault).start().expect("a server");
        let text = Host::of(&server.url()).doctor(&[]);
        assert!(text.contains(told), "{name}: {text}");
        let fixed = text.lines().skip_while(|line| !line.contains(told)).nth(1);
        assert!(fixed.is_some_and(|line| line.contains("fix: ")), "{name}: {text}");
    }
}

/// HTTP-5: a server that takes one encoding only, and another configured.
#[test]
fn http_5_the_encoding_the_server_takes_is_found() {
    let server = FakeServer::builder().preset(Preset::Moroz).start().expect("a server");
    let host = Host::of(&server.url()).set("SyncClientContentEncoding=none");
    let text = host.doctor(&["--encodings"]);
    let lines: Vec<_> =
        text.lines().skip_while(|line| !line.contains(" encodings ")).take(6).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    ok       encodings          the server takes JSON with deflate
    skipped  encodings          the server does not take JSON with gzip: status 500
    skipped  encodings          the server does not take JSON with none: status 500
    skipped  encodings          the server does not take protobuf with none: status 415
    PROBLEM  encodings          the server does not take what is configured, JSON with none
                                fix: set SyncClientContentEncoding to deflate and SyncEnableProtoTransfer to false
    ");
    assert!(text.ends_with("exit 1"), "{text}");
}

/// CONF-2: see also `config check` on the same profile.
#[test]
fn conf_2_a_profile_with_five_typical_mistakes_has_all_five_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profile = root.join("fixtures/config/five-mistakes.mobileconfig");
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::cargo_bin("santa-sync")
        .expect("the program")
        .arg("--config")
        .arg(&profile)
        .arg("--state-dir")
        .arg(dir.path())
        .arg("doctor")
        .output()
        .expect("it ran");
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.replace(&profile.display().to_string(), "PROFILE");
    let configuration: Vec<_> =
        text.lines().take_while(|line| !line.contains(" identity ")).collect();
    insta::assert_snapshot!(configuration.join("\n"), @r#"
    warning  configuration      SyncExtraHeader: is no known key and has no effect (in PROFILE)
                                fix: did you mean SyncExtraHeaders?
    warning  configuration      ClientMode: is a string, not an integer (in PROFILE)
                                fix: write it as an integer
    PROBLEM  configuration      SyncBaseURL: "http://sync.example.com/santa/" would send everything in the clear (in PROFILE)
                                fix: change http:// to https:// (http is for localhost, 127.0.0.1 and ::1 only)
    PROBLEM  configuration      MachineID: the machine id "%HardwareUUID%" is a placeholder that was not replaced (in PROFILE)
                                fix: write the id itself, or remove the key to use the hardware UUID
    PROBLEM  configuration      ServerAuthRootsFile: the trust roots in /Library/Security/no-such-roots.pem (ServerAuthRootsFile) cannot be read (No such file or directory (os error 2)) (in PROFILE)
                                fix: put the CA certificates there as PEM, or remove the key to trust the system's roots
    "#);
    assert_eq!(output.status.code(), Some(78));
}

/// A certificate authority, its certificate as PEM, and a server with a
/// certificate of it that answers every request with an empty object.
fn tls_server(days: i64) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Example CA");
    let key = KeyPair::generate().expect("a key");
    let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "sync server");
    let today =
        time::OffsetDateTime::from(std::time::UNIX_EPOCH) + time::Duration::seconds(now_secs());
    params.not_before = today - time::Duration::days(400);
    params.not_after = today + time::Duration::days(days);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &ca).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a TLS configuration");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), config) = (stream, Arc::clone(&config)) else { return };
            thread::spawn(move || {
                let mut tls = rustls::ServerConnection::new(config).expect("a session");
                let mut stream = rustls::Stream::new(&mut tls, &mut stream);
                let mut request = vec![0; 65536];
                // The head and the small body come in one or two records; the
                // answer does not depend on them.
                if stream.read(&mut request).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
                    );
                    let _ = stream.flush();
                    let _ = stream.read(&mut request);
                }
            });
        }
    });
    (format!("https://localhost:{port}/"), ca.pem())
}

fn now_secs() -> i64 {
    use santa_sync::clock::Clock as _;
    santa_sync::clock::SystemClock::new().now().wall.as_secs()
}

fn tls_lines(host: &Host) -> String {
    let text = stable(&host.doctor(&[]));
    let lines: Vec<_> = text
        .lines()
        .skip_while(|line| !line.contains(" tls  "))
        .take_while(|line| !line.contains(" body  "))
        .collect();
    lines.join("\n")
}

/// HTTP-12: whose certificate, by which roots, for how long.
#[test]
fn http_12_the_servers_certificate_is_shown_trusted_or_not() {
    let (url, ca) = tls_server(90);
    let host = Host::of(&url);
    let roots = host.dir.path().join("roots.pem");
    fs::write(&roots, &ca).expect("written");
    let trusted = Host::of(&url).set(format!("ServerAuthRootsFile={}", roots.display()));
    let text = tls_lines(&trusted);
    assert!(
        text.contains("ok       tls                the server shows \"sync server\""),
        "{text}"
    );
    assert!(text.contains("signed by Example CA") && text.contains("89 days left"), "{text}");
    assert!(text.contains("none is configured; the server did not ask for one"), "{text}");
    assert!(text.contains("ok       http "), "{text}");

    let (_, other) = tls_server(90);
    fs::write(&roots, &other).expect("written");
    let text = tls_lines(&trusted);
    assert!(
        text.contains("warning  tls                the server shows \"sync server\""),
        "{text}"
    );
    assert!(text.contains("PROBLEM  tls "), "{text}");
    assert!(text.contains("skipped  http               the connection is not made"), "{text}");

    let (url, ca) = tls_server(3);
    fs::write(&roots, &ca).expect("written");
    let soon = Host::of(&url).set(format!("ServerAuthRootsFile={}", roots.display()));
    assert!(tls_lines(&soon).contains("warning  tls "), "a certificate with 3 days left");
}
