//! `relay setup`, `show` and `remove` as commands (RELAY-14).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use plist::Value;
use santa_sync::config::{Config, Domain, Loaded, Sources, read_domains};

use crate::program::program;

/// The file for the agent's side.
const OWN: &str =
    if cfg!(target_os = "macos") { "relay-agent.mobileconfig" } else { "relay-agent.plist" };

/// A host with a profile for Santa, as it is before there is a relay.
struct Host {
    dir: tempfile::TempDir,
}

const DIRECT: &str = "<key>SyncBaseURL</key><string>https://sync.example.com/santa/</string>\
    <key>SyncExtraHeaders</key><dict><key>X-Key</key><string>5ecretm4rk</string></dict>\
    <key>MachineOwner</key><string>kim</string><key>FCMProject</key><string>p</string>";

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().expect("a directory") };
        fs::create_dir(host.path("out")).expect("a directory");
        host.write_profile(&[(Domain::Santa, DIRECT.to_owned())]);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the management system has installed.
    fn write_profile(&self, domains: &[(Domain, String)]) {
        let payload = |(domain, keys): &(Domain, String)| {
            let name = domain.name();
            format!("<dict><key>PayloadType</key><string>{name}</string>{keys}</dict>")
        };
        let payloads: String = domains.iter().map(payload).collect();
        let text = format!(
            "<plist><dict><key>PayloadContent</key><array>{payloads}</array></dict></plist>"
        );
        fs::write(self.path("installed.mobileconfig"), text).expect("written");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path("installed.mobileconfig"), mode).expect("a mode");
    }

    /// Installs what `relay setup` has written.
    fn install(&self, santas: &str, own: &str) {
        let keys = |file: &str| {
            let bytes = fs::read(self.path("out").join(file)).expect(file);
            let domains = read_domains(&bytes).expect("keys");
            let mut text = Vec::new();
            Value::Dictionary(domains[0].keys.clone()).to_writer_xml(&mut text).expect("text");
            let text = String::from_utf8(text).expect("UTF-8");
            let (_, inner) = text.split_once("<dict>").expect("a dictionary");
            inner.rsplit_once("</dict>").expect("its end").0.to_owned()
        };
        self.write_profile(&[(Domain::Agent, keys(own)), (Domain::Santa, keys(santas))]);
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.path("installed.mobileconfig")), ..Sources::default() }
    }

    fn loaded(&self) -> Loaded {
        Config::load(&self.sources()).expect("a configuration")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = program();
        command.arg("--config").arg(self.path("installed.mobileconfig"));
        command.arg("--state-dir").arg(self.path("state")).args(args);
        command.current_dir(self.path("out")).output().expect("the program runs")
    }

    fn relay(&self, args: &[&str]) -> String {
        let directory = format!("--set=RelayDirectory={}", self.path("public").display());
        let output = self.run(&[&["relay"], args, &[&directory]].concat());
        let text = self.text(&output);
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    /// What was written, with this run's paths made the same in all.
    fn text(&self, output: &Output) -> String {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        text.replace(&self.dir.path().display().to_string(), "DIR")
    }

    fn text_of(&self, path: &Path) -> String {
        path.display().to_string().replace(&self.dir.path().display().to_string(), "DIR")
    }

    fn out(&self, file: &str) -> Vec<u8> {
        fs::read(self.path("out").join(file)).expect(file)
    }
}

fn santas_keys(profile: &[u8]) -> plist::Dictionary {
    read_domains(profile).expect("keys").remove(0).keys
}

/// RELAY-14: from Santa's own sync to the relay and back, by what the commands
/// write.
#[test]
fn relay_14_setup_leads_both_sides_and_remove_leads_them_back() {
    let host = Host::new();
    let said = host.relay(&["setup", "--tls"]);
    assert!(said.contains("FCMProject is left out"), "{said}");
    assert!(!said.contains("5ecret"), "{said}");
    let (santas, own) = ("relay-santa.mobileconfig", OWN);
    for file in [santas, own] {
        let mode = fs::metadata(host.path("out").join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let first = (host.out(santas), host.out(own));
    host.relay(&["setup", "--tls"]);
    assert_eq!((host.out(santas), host.out(own)), first, "the same in every run");

    // Santa's side first; the agent then has no server until its own is there.
    host.install(santas, own);
    let loaded = host.loaded();
    let (config, profile) = (&loaded.config, loaded.config.santa_profile.as_ref());
    let relay = config.relay.as_ref().expect("a relay");
    assert!(relay.tls && relay.client_certificate && relay.listen.port() == 917);
    let profile = profile.expect("a profile");
    assert!(profile.points_to(relay) && profile.clean_sync_event_upload && !profile.has_push);
    let url = config.sync_base_url.as_ref().map(ToString::to_string);
    assert_eq!(url.as_deref(), Some("https://sync.example.com/santa"));
    assert_eq!(config.extra_headers.len(), 1);
    assert_eq!(config.machine_owner.as_deref(), Some("kim"));
    let public = host.path("public");
    assert_eq!(profile.roots_file.as_deref(), Some(&*public.join("ca.pem")));
    assert!(public.join("ca.pem").exists() && public.join("client.p12").exists());
    let check = host.text(&host.run(&["config", "check"]));
    assert!(!check.contains("error:") && !check.contains("warning:"), "{check}");
    // The password is the profile's from now on.
    host.relay(&["setup"]);
    assert_eq!(santas_keys(&host.out(santas)), santas_keys(&first.0));

    // And back.
    let said = host.relay(&["remove", "--wait", "0"]);
    assert!(said.contains("no daemon with a relay runs"), "{said}");
    assert!(!said.contains("from now on"), "nobody hands anything out: {said}");
    let back = santas_keys(&host.out(santas));
    let text = |key: &str| back.get(key).and_then(Value::as_string);
    assert_eq!(text("SyncBaseURL"), Some("https://sync.example.com/santa/"));
    assert!(back.contains_key("SyncExtraHeaders") && !back.contains_key("ServerAuthRootsFile"));
    assert!(public.join("ca.pem").exists(), "Santa still comes here");
    host.install(santas, own);
    // It no longer comes, but the daemon would make everything anew.
    let said = host.relay(&["remove"]);
    let file = host.text_of(&host.path("installed.mobileconfig"));
    assert!(said.contains(&format!("Remove RelayListen and the other Relay keys from {file}")));
    assert!(said.contains("relay remove --finish --set RelayDirectory=DIR/public` removes"));
    let output = host.run(&["relay", "remove", "--finish"]);
    let said = host.text(&output);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains(&format!("RelayListen is set in {file}")), "{said}");
    assert!(public.join("ca.pem").exists());
    host.write_profile(&[(Domain::Santa, DIRECT.to_owned())]);
    let said = host.relay(&["remove", "--finish"]);
    assert!(said.contains("are removed"), "{said}");
    assert!(!public.exists() && !host.path("state/relay-keys.json").exists());
}

/// RELAY-14: Santa's profile may have been changed before the agent's.
#[test]
fn relay_14_a_santa_that_is_led_here_already_is_not_taken_for_the_server() {
    let host = Host::new();
    let here = "<key>SyncBaseURL</key><string>http://127.0.0.1:917/</string>";
    host.write_profile(&[(Domain::Santa, here.to_owned())]);
    let said = host.relay(&["setup", "--plain"]);
    assert!(said.contains("Add SyncBaseURL, the real server's URL"), "{said}");
    assert!(!said.contains("in place of the profile that Santa has now"), "{said}");
    let own = santas_keys(&host.out(OWN));
    assert!(!own.contains_key("SyncBaseURL"));
    assert!(!host.path("public").exists(), "plain HTTP needs no certificates");
}

/// RELAY-14: the words of a new user's way. On a Mac they are others.
#[cfg(target_os = "linux")]
#[test]
fn relay_14_setup_and_show_name_the_next_step() {
    let host = Host::new();
    let mut said = vec![host.relay(&["show"]), host.relay(&["setup", "--plain"])];
    host.install("relay-santa.mobileconfig", OWN);
    said.push(host.relay(&["show"]));
    said.push(host.relay(&["setup", "--tls", "--port", "1917"]));
    host.write_profile(&[(
        Domain::Agent,
        "<key>RelayListen</key><string>127.0.0.1:917</string>\
         <key>RelayTLS</key><true/>"
            .to_owned(),
    )]);
    fs::remove_dir_all(host.path("public")).expect("removed");
    said.push(host.relay(&["show"]));
    said.push(host.relay(&["show", "--json"]));
    let hidden = said.join("\n---\n");
    insta::with_settings!({filters => vec![
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\b[0-9a-f]{64}\b", "SHA256"),
    ]}, {
        insta::assert_snapshot!(hidden);
    });
}

/// RELAY-14: a configuration that cannot be read is not one without a relay.
#[test]
fn relay_14_a_configuration_that_cannot_be_read_is_told_from_none() {
    let host = Host::new();
    fs::write(host.path("installed.mobileconfig"), "no property list").expect("written");
    let said = host.relay(&["show"]);
    assert!(said.contains("Relay              not known: "), "{said}");
    assert!(!said.contains("RelayListen is not set"), "{said}");
}

/// RELAY-14: the commands that setup prints do what they say.
#[cfg(target_os = "linux")]
#[test]
fn relay_14_the_command_that_setup_prints_installs_the_agents_side() {
    let host = Host::new();
    let said = host.relay(&["setup", "--plain"]);
    let (_, rest) = said.split_once("as root: `").expect("a command");
    let (command, _) = rest.split_once('`').expect("its end");
    let real = host.dir.path().display().to_string();
    let installed = host.path("new directory/config.plist");
    let target = format!("'{}'", installed.display());
    let command = command.replace("DIR/installed.mobileconfig", &target).replace("DIR", &real);
    let status = std::process::Command::new("/bin/sh").args(["-c", &command]).status();
    assert!(status.expect("a shell").success(), "{command}");
    assert_eq!(fs::metadata(&installed).expect("installed").permissions().mode() & 0o777, 0o640);
    let sources = Sources { file: Some(installed), ..Sources::default() };
    let loaded = Config::load(&sources).expect("a configuration");
    assert!(loaded.config.relay.is_some());
}

/// RELAY-13: pedro is led by flags.
#[test]
fn relay_13_setup_for_pedro_names_its_flags() {
    let host = Host::new();
    let said = host.relay(&["setup", "--set=RelayManner=pedro"]);
    let flags = "pedro with --sync-endpoint http://127.0.0.1:917 --sync-interval 60s";
    assert!(said.contains(flags), "{said}");
    assert!(!host.path("out").join("relay-santa.mobileconfig").exists());
    let output = host.run(&["relay", "setup", "--tls", "--set=RelayManner=pedro"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

/// RELAY-14: what cannot be done is said.
#[test]
fn relay_14_what_setup_cannot_write_is_told() {
    let host = Host::new();
    let directory = format!("RelayDirectory={}", host.path("public").display());
    let args = ["relay", "setup", "--tls", "--output", "/nowhere", "--set", &directory];
    let output = host.run(&args);
    assert_eq!(output.status.code(), Some(73));
    assert!(!host.path("public").exists(), "nothing was made before");
    let text = host.text(&output);
    assert!(text.contains("name another directory with --output"), "{text}");
    for wrong in [&["setup", "--tls", "--plain"][..], &["setup", "--port", "0"], &["setup", "-x"]] {
        let output = host.run(&[&["relay"], wrong].concat());
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
    }
}

/// RELAY-14: the service is not taken from under Santa.
#[test]
fn relay_14_uninstall_is_refused_while_santa_comes_here() {
    let host = Host::new();
    let own = "<key>RelayListen</key><string>127.0.0.1:917</string>".to_owned();
    let here = "<key>SyncBaseURL</key><string>http://127.0.0.1:917/</string>".to_owned();
    host.write_profile(&[(Domain::Agent, own), (Domain::Santa, here)]);
    let output = host.run(&["service", "uninstall"]);
    assert_eq!(output.status.code(), Some(78));
    let text = host.text(&output);
    assert!(text.contains("Santa's profile leads to the relay"), "{text}");
    assert!(text.contains("santa-sync relay remove"), "{text}");
}

fn image(root: &Path, manager: &str, args: &[&str]) -> Output {
    let mut command = program();
    command.args(["service", "install", "--manager", manager, "--program", "/usr/bin/santa-sync"]);
    command.arg("--root").arg(root).args(args).output().expect("the program runs")
}

/// RELAY-1, DAEMON-5: the service manager holds the port.
#[test]
fn relay_1_the_service_manager_holds_the_port_of_an_image() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let socket = root.join("etc/systemd/system/santa-sync.socket");
    let unit = root.join("etc/systemd/system/santa-sync.service");
    let output = image(root, "systemd", &["--relay=[::1]:918"]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&socket).expect("the socket's unit");
    assert!(text.contains("\nListenStream=[::1]:918\n"), "{text}");
    assert!(text.contains("\nFileDescriptorName=relay\n"), "{text}");
    let text = fs::read_to_string(&unit).expect("the unit");
    assert!(text.contains("\nRequires=santa-sync.socket\n"), "{text}");
    // Without a relay it goes again.
    assert!(image(root, "systemd", &[]).status.success());
    assert!(!socket.exists());
    assert!(!fs::read_to_string(&unit).expect("the unit").contains("santa-sync.socket"));

    assert!(image(root, "launchd", &["--relay=127.0.0.1:917"]).status.success());
    let job = root.join("Library/LaunchDaemons/com.santa-sync.daemon.plist");
    let job = Value::from_file(job).expect("a property list").into_dictionary().expect("a job");
    let sockets = job.get("Sockets").and_then(Value::as_dictionary).expect("sockets");
    let entries = sockets.get("relay").and_then(Value::as_dictionary).expect("the relay's");
    let text = |key: &str| entries.get(key).and_then(Value::as_string);
    assert_eq!(
        ["SockNodeName", "SockServiceName", "SockFamily", "SockType"].map(text),
        [Some("127.0.0.1"), Some("917"), Some("IPv4"), Some("stream")]
    );
    assert!(job.contains_key("KeepAlive"));

    // The configuration of the image says where, too: a file in it, one that it will have,
    // or a key of the command line, which is not carried into the service.
    let held = |args: &[&str]| {
        let output = image(root, "systemd", &[&["--relay"], args].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        fs::read_to_string(&socket).expect("the socket's unit")
    };
    let plist = |port: u16| {
        format!(
            "<plist><dict><key>RelayListen</key><string>127.0.0.1:{port}</string></dict></plist>"
        )
    };
    let outside = tempfile::tempdir().expect("a directory");
    let file = outside.path().join("config.plist");
    fs::write(&file, plist(919)).expect("written");
    let set = "RelayListen=127.0.0.1:920";
    assert!(held(&["--set", set]).contains("\nListenStream=127.0.0.1:920\n"));
    assert!(!fs::read_to_string(&unit).expect("the unit").contains("--set"));
    assert!(held(&["--config", file.to_str().expect("UTF-8")]).contains(":919\n"));
    fs::create_dir_all(root.join("etc/santa-sync")).expect("made");
    fs::write(root.join("etc/santa-sync/config.plist"), plist(921)).expect("written");
    assert!(held(&[]).contains(":921\n"));
    fs::remove_dir_all(root.join("etc/santa-sync")).expect("removed");
    let output = image(root, "systemd", &["--relay", "--set", "LogLevel=debug"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");

    for wrong in ["--relay", "--relay=0.0.0.0:917", "--relay=127.0.0.1:0", "--relay=917"] {
        let output = image(root, "systemd", &[wrong]);
        assert_eq!(output.status.code(), Some(64), "{wrong}: {output:?}");
    }
}
