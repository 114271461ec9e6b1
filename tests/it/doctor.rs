//! `doctor` as a user runs it: a healthy host, and one failure of each layer.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use assert_cmd::Command;
use santa_sync::harness::{FakeServer, Fault, Preset, Route, every};
use santa_sync::model::Stage;

mod tls;

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

    fn run(&self, command: &str, args: &[&str]) -> std::process::Output {
        let mut program = Command::cargo_bin("santa-sync").expect("the program");
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            program.env_remove(variable);
        }
        program.arg("--state-dir").arg(self.dir.path().join("state")).arg(command).args(args);
        for set in &self.sets {
            program.arg("--set").arg(set);
        }
        program.output().expect("it ran")
    }

    /// The report without what differs from machine to machine.
    fn doctor(&self, args: &[&str]) -> String {
        let output = self.run("doctor", args);
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

/// HTTP-13: behind a proxy that is not there, the proxy is named.
#[test]
fn http_13_a_proxy_that_is_not_there_is_told_from_the_server() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let port = free.port();
    let host = Host::of("https://sync.example.com/").set(format!(
        r#"SyncProxyConfiguration={{"HTTPSEnable":1,"HTTPSProxy":"127.0.0.1","HTTPSPort":{port}}}"#
    ));
    let text = stable(&host.doctor(&[]));
    let line = text.lines().find(|line| line.contains(" connection ")).expect("a line");
    assert!(line.contains("the proxy http://HOST:PORT of SyncProxyConfiguration"), "{text}");
    assert!(text.contains("fix: check SyncProxyConfiguration"), "{text}");
}

/// EXIT: 73 is "state directory or database cannot be used".
#[test]
fn state_3_a_damaged_store_is_found_and_left_alone() {
    let server = FakeServer::builder().start().expect("a server");
    let host = Host::of(&server.url());
    assert!(host.run("sync", &[]).status.success());
    let database = host.dir.path().join("state/rules.db");
    fs::write(&database, "garbage that is no database at all").expect("written");
    let text = host.doctor(&["--no-probe"]);
    assert!(text.contains("PROBLEM  stores             ") && text.contains("rules.db"), "{text}");
    assert!(text.ends_with("exit 73"), "{text}");
    let left = fs::read_to_string(&database).expect("the file");
    assert_eq!(left, "garbage that is no database at all");
}

#[test]
fn the_last_syncs_are_told_with_their_reason() {
    let route = Route::from(Stage::Preflight);
    let fault = Fault::Status(404, Vec::new(), String::new());
    let server = FakeServer::builder().fault(route, every(), fault).start().expect("a server");
    let host = Host::of(&server.url());
    assert_eq!(host.run("sync", &[]).status.code(), Some(1));
    server.clear_faults();
    let text = host.doctor(&[]);
    assert!(text.contains("warning  history            no sync has succeeded yet"), "{text}");
    assert!(text.contains("ended in preflight_failed"), "{text}");
    assert!(text.contains("a CLEAN_ALL sync is wished for since"), "{text}");
    assert!(host.run("sync", &[]).status.success());
    let text = host.doctor(&[]);
    assert!(text.contains("ok       history            the last success was "), "{text}");
    assert!(text.contains("ok       stores             rules.db holds 0 rules"), "{text}");
}
