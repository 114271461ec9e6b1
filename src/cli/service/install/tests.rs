use std::cell::{Cell, RefCell};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use plist::Value;

use super::*;
use crate::cli::service::CommandResult;
use crate::failure::Remedy as _;

/// A service manager that does as it is told, and writes it down.
#[derive(Default)]
struct FakeManager {
    running: Cell<bool>,
    broken: Cell<bool>,
    asked: RefCell<Vec<String>>,
}

impl FakeManager {
    fn asked(&self) -> Vec<String> {
        self.asked.take()
    }
}

impl Runner for FakeManager {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<CommandResult> {
        let program = program.rsplit('/').next().unwrap_or_default();
        self.asked.borrow_mut().push(format!("{program} {}", args.first().unwrap_or(&"")));
        let yes = |said: &str| CommandResult { success: true, output: said.to_owned() };
        let no = |said: &str| CommandResult { success: false, output: said.to_owned() };
        if args.last() == Some(&SOCKET_UNIT) {
            return Ok(yes(""));
        }
        Ok(match *args.first().unwrap_or(&"") {
            "restart" | "bootstrap" => {
                self.running.set(!self.broken.get());
                yes("")
            }
            "disable" | "bootout" => {
                if self.running.replace(false) {
                    yes("")
                } else {
                    no("not loaded")
                }
            }
            "is-active" if self.running.get() => yes("active"),
            "is-active" => no("failed"),
            "print" if self.running.get() => yes("system/x = {\n\tstate = running\n}"),
            "print" => no("Could not find service"),
            _ => yes(""),
        })
    }
}

fn unit(program: &str) -> Unit {
    Unit { program: PathBuf::from(program), ..Unit::default() }
}

fn program() -> Unit {
    unit("/opt/santa/bin/santa-sync")
}

/// DAEMON-5: installed twice is installed once, with either manager.
#[test]
fn daemon_5_installing_is_idempotent_and_verified() {
    for (manager, first) in [
        (
            Manager::Systemd,
            vec![
                "systemctl daemon-reload",
                "systemctl enable",
                "systemctl restart",
                "systemctl is-active",
            ],
        ),
        (
            Manager::Launchd,
            vec!["launchctl bootout", "launchctl enable", "launchctl bootstrap", "launchctl print"],
        ),
    ] {
        let root = tempfile::tempdir().expect("a directory");
        let fake = FakeManager::default();
        let service =
            Installer::new(manager, &program(), root.path(), &fake).expect("an installer");
        assert_eq!(service.status().expect("a status"), (false, false));
        assert_eq!(service.install().expect("installed"), Outcome::Changed);
        assert_eq!(fake.asked(), first);
        let text = fs::read_to_string(service.path()).expect("the file");
        assert!(text.contains("/opt/santa/bin/santa-sync") && !text.contains(TEMPLATE_PROGRAM));
        let mode = fs::metadata(service.path()).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);

        assert_eq!(service.install().expect("installed"), Outcome::Unchanged);
        assert_eq!(fake.asked().len(), 1, "it only looks");
        assert_eq!(service.status().expect("a status"), (true, true));
        assert_eq!(service.uninstall().expect("removed"), Outcome::Changed);
        assert_eq!(service.uninstall().expect("removed"), Outcome::Unchanged);
        assert!(!service.path().exists() && !fake.running.get());
    }
}

/// DAEMON-5: a service that does not stay up is an error, and says where to
/// look.
#[test]
fn daemon_5_a_service_that_does_not_run_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    let fake = FakeManager::default();
    fake.broken.set(true);
    for (manager, place) in
        [(Manager::Systemd, "journalctl -u santa-sync"), (Manager::Launchd, "/var/log")]
    {
        let service =
            Installer::new(manager, &program(), root.path(), &fake).expect("an installer");
        let error = service.install().expect_err("it does not run");
        assert!(matches!(error, ServiceError::NotRunning { .. }), "{error}");
        assert!(error.with_fix().contains(place), "{error}");
    }
}

#[test]
fn a_program_whose_path_needs_quoting_is_refused() {
    let fake = FakeManager::default();
    for path in ["relative", "/a b/santa-sync", "/a\"b", "/a%b", "/a$b", "/a<b"] {
        let refused = Installer::new(Manager::Launchd, &unit(path), Path::new("/"), &fake);
        assert!(matches!(refused, Err(ServiceError::Program(_))), "{path}");
    }
}

/// DAEMON-5: the launchd job runs in the foreground, is kept alive, and is
/// held back if it fails at once.
#[test]
fn daemon_5_the_launchd_job_has_the_keys_it_needs() {
    let job = plist::from_bytes::<Value>(LAUNCHD_PLIST.as_bytes()).expect("a property list");
    let job = job.as_dictionary().expect("a dictionary");
    let get = |key: &str| job.get(key).unwrap_or_else(|| panic!("{key} is missing"));
    assert_eq!(get("Label").as_string(), Some(LABEL));
    let args = get("ProgramArguments").as_array().expect("an array");
    let args: Vec<_> = args.iter().filter_map(Value::as_string).collect();
    assert_eq!(args, [TEMPLATE_PROGRAM, "daemon"]);
    assert_eq!(get("RunAtLoad").as_boolean(), Some(true));
    assert_eq!(get("KeepAlive").as_boolean(), Some(true));
    assert_eq!(get("ThrottleInterval").as_signed_integer(), Some(10));
    assert_eq!(get("ExitTimeOut").as_signed_integer(), Some(10));
    assert_eq!(get("Umask").as_signed_integer(), Some(0o077));
    // A background job and every command it runs get the lowest priority for
    // processor, disk and network.
    assert!(job.get("ProcessType").is_none(), "the standard type");
    for key in ["StandardErrorPath", "StandardOutPath"] {
        assert_eq!(get(key).as_string(), Some("/var/log/santa-sync.log"));
    }
    for key in ["SoftResourceLimits", "HardResourceLimits"] {
        let limits = get(key).as_dictionary().expect("a dictionary");
        let files = limits.get("NumberOfFiles").and_then(Value::as_signed_integer);
        assert!(files >= Some(256), "64 clients and a sync");
    }
    assert!(job.get("AbandonProcessGroup").is_none(), "what it started ends with it");
}

/// DAEMON-5: the unit waits for the daemon's word, watches it, and locks it in.
#[test]
fn daemon_5_the_unit_notifies_watches_and_is_hardened() {
    let mut section = "";
    for line in UNIT_FILE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else {
            assert!(line.contains('=') && !section.is_empty(), "{line:?}");
        }
    }
    for line in [
        "Type=notify",
        "WatchdogSec=300",
        "ExecStart=/usr/local/bin/santa-sync daemon",
        "Restart=always",
        "KillMode=mixed",
        "StateDirectory=santa-sync",
        "StateDirectoryMode=0700",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "WantedBy=multi-user.target",
    ] {
        assert!(UNIT_FILE.lines().any(|l| l == line), "{line}");
    }
    // `systemctl restart` would wait for a network, for 2 minutes by default.
    let mut settings = UNIT_FILE.lines().filter(|line| !line.starts_with('#'));
    assert!(!settings.any(|line| line.contains("network-online")));
}

/// STATE-1: in an image no link leads out of it, and nothing but a regular file
/// is replaced.
#[test]
fn state_1_nothing_is_installed_through_a_link_or_over_a_fifo() {
    let outer = tempfile::tempdir().expect("a directory");
    let (root, host) = (outer.path().join("image"), outer.path().join("host"));
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::create_dir_all(host.join("system")).expect("made");
    symlink(&host, root.join("etc/systemd")).expect("a link");
    let manager = FakeManager::default();
    let installer =
        || Installer::new(Manager::Systemd, &program(), &root, &manager).expect("an installer");
    let error = installer().install().expect_err("refused").to_string();
    assert!(error.contains("etc/systemd is a link, not a directory"), "{error}");
    assert_eq!(fs::read_dir(host.join("system")).expect("listed").count(), 0);
    fs::write(host.join("system").join(UNIT), "the host's").expect("written");
    installer().uninstall().expect_err("refused");
    assert!(host.join("system").join(UNIT).exists());

    fs::remove_file(root.join("etc/systemd")).expect("removed");
    fs::create_dir_all(root.join("etc/systemd/system")).expect("made");
    let unit = root.join("etc/systemd/system").join(UNIT);
    let made = std::process::Command::new("mkfifo").arg(&unit).status().expect("it ran");
    assert!(made.success());
    let error = installer().install().expect_err("refused").to_string();
    assert!(error.contains("a FIFO, not a file"), "{error}");
}

/// DAEMON-5: the options of `service install`, and what the configuration needs, are
/// in the service file.
#[test]
fn daemon_5_the_service_has_the_options_and_rights_that_it_needs() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificate = dir.path().join("client.p12");
    fs::write(&certificate, "").expect("written");
    fs::set_permissions(&certificate, fs::Permissions::from_mode(0o600)).expect("a mode");
    let owner = certificate.metadata().expect("there").uid();
    let config = Config {
        client_auth_certificate_file: Some(certificate),
        metrics_file: Some("/var/lib/node_exporter/santa.prom".into()),
        events_database: Some("/var/db/santa/events.db".into()),
        ..Config::default()
    };
    let arguments = ["--config", "/etc/x.plist", "--state-dir", "/srv/santa"];
    let arguments = arguments.map(str::to_owned).to_vec();
    let mut unit = Unit { arguments, ..program() };
    unit.fit(&config);
    unit.writable.insert("/srv/santa".into());
    assert_eq!(unit.reads_private_files, owner != 0);
    unit.reads_private_files = true;
    let fake = FakeManager::default();
    let text = |manager| {
        let installer = Installer::new(manager, &unit, Path::new("/"), &fake);
        installer.expect("an installer").text().to_owned()
    };
    let unit_file = text(Manager::Systemd);
    for line in [
        "ExecStart=/opt/santa/bin/santa-sync --config /etc/x.plist --state-dir /srv/santa daemon",
        "ReadWritePaths=-/srv/santa -/var/db/santa -/var/lib/node_exporter",
        "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_READ_SEARCH",
    ] {
        assert!(unit_file.lines().any(|of| of == line), "{line} is not in {unit_file}");
    }
    let job = plist::from_bytes::<Value>(text(Manager::Launchd).as_bytes()).expect("a plist");
    let args = job.as_dictionary().expect("a dictionary")["ProgramArguments"].as_array();
    let args: Vec<_> = args.expect("an array").iter().filter_map(Value::as_string).collect();
    assert_eq!(args[1..], ["--config", "/etc/x.plist", "--state-dir", "/srv/santa", "daemon"]);
}

/// RELAY-1: systemd listens before the service starts, and no longer once there is
/// no relay.
#[test]
fn relay_1_the_socket_is_taken_up_before_the_service_and_given_back() {
    let root = tempfile::tempdir().expect("a directory");
    let fake = FakeManager::default();
    let with = |relay_socket: Option<&str>| {
        let relay_socket = relay_socket.map(|address| address.parse().expect("an address"));
        Unit { relay_socket, ..program() }
    };
    let install = |unit: &Unit| {
        let service = Installer::new(Manager::Systemd, unit, root.path(), &fake);
        service.expect("an installer").install().expect("installed")
    };
    assert_eq!(install(&with(None)), Outcome::Changed);
    assert!(!Installer::has_socket(Manager::Systemd, root.path()));
    fake.asked();
    assert_eq!(install(&with(Some("127.0.0.1:917"))), Outcome::Changed);
    assert!(Installer::has_socket(Manager::Systemd, root.path()));
    let words = ["daemon-reload", "enable", "enable", "stop", "restart", "restart", "is-active"];
    assert_eq!(fake.asked(), words.map(|word| format!("systemctl {word}")));
    assert_eq!(install(&with(Some("127.0.0.1:917"))), Outcome::Unchanged);
    assert_eq!(install(&with(Some("127.0.0.1:918"))), Outcome::Changed);
    let socket = fs::read_to_string(root.path().join(SOCKET_PATH)).expect("the socket's unit");
    assert!(socket.contains("ListenStream=127.0.0.1:918"), "{socket}");
    assert_eq!(install(&with(None)), Outcome::Changed);
    assert!(!root.path().join(SOCKET_PATH).exists());

    install(&with(Some("127.0.0.1:917")));
    fake.asked();
    let unit = with(Some("127.0.0.1:917"));
    let service = Installer::new(Manager::Systemd, &unit, root.path(), &fake).expect("one");
    assert_eq!(service.uninstall().expect("removed"), Outcome::Changed);
    assert!(!root.path().join(SOCKET_PATH).exists() && !service.path().exists());
}

/// RELAY-1: the rights that a relay needs of systemd.
#[test]
fn relay_1_the_unit_has_the_rights_that_the_relay_needs() {
    let fitted = |relay_socket: Option<&str>, sets: &[&str]| {
        let sets = sets.iter().map(|&set| set.to_owned()).collect();
        let sources = crate::config::Sources { sets, ..Default::default() };
        let loaded = Config::load(&sources).expect("a configuration");
        let relay_socket = relay_socket.map(|address| address.parse().expect("an address"));
        let mut unit = Unit { relay_socket, ..program() };
        unit.fit(&loaded.config);
        unit_text("/usr/bin/santa-sync", &unit)
    };
    let capabilities = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        line.expect("capabilities").to_owned()
    };
    let listen = "RelayListen=127.0.0.1:917";
    assert_eq!(capabilities(&fitted(None, &[])), "CAP_CHOWN");
    assert_eq!(capabilities(&fitted(None, &[listen])), "CAP_CHOWN CAP_NET_BIND_SERVICE");
    assert_eq!(capabilities(&fitted(Some("127.0.0.1:917"), &[listen])), "CAP_CHOWN");
    assert_eq!(capabilities(&fitted(None, &["RelayListen=127.0.0.1:1917"])), "CAP_CHOWN");
    let tls = ["RelayTLS=true", "RelayClientCertificate=true", "RelayDirectory=/srv/relay", listen];
    let text = fitted(Some("127.0.0.1:917"), &tls);
    assert_eq!(capabilities(&text), "CAP_CHOWN CAP_DAC_READ_SEARCH");
    assert!(text.contains("ReadWritePaths=-/srv/relay\n"), "{text}");
}
