use std::cell::{Cell, RefCell};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use plist::Value;

use super::*;
use crate::cli::service::{CommandResult, safe_program};
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

const DAEMON: u32 = 512;

fn yes(said: &str) -> CommandResult {
    CommandResult { success: true, code: Some(0), output: said.to_owned() }
}

fn no(code: i32, said: &str) -> CommandResult {
    CommandResult { success: false, code: Some(code), output: said.to_owned() }
}

/// What `launchctl print` writes of a job.
fn job(state: &str, pid: u32) -> CommandResult {
    yes(&format!("system/x = {{\n\tstate = {state}\n\n\tpid = {pid}\n\tlast exit code = 78\n}}"))
}

fn no_job() -> CommandResult {
    no(113, "Could not find service \"com.santa-sync.daemon\" in domain for system")
}

impl Runner for FakeManager {
    fn run(&self, program: &'static str, args: &[&str]) -> io::Result<CommandResult> {
        let program = program.rsplit('/').next().unwrap_or_default();
        self.asked.borrow_mut().push(format!("{program} {}", args.first().unwrap_or(&"")));
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
                    no(3, "Boot-out failed: 3: No such process")
                }
            }
            "is-active" if self.running.get() => yes("active"),
            "is-active" => no(3, "failed"),
            "print" if self.running.get() => job("running", DAEMON),
            "print" => no_job(),
            _ => yes(""),
        })
    }

    fn pause(&self, _: Duration) {}

    fn daemon_process(&self) -> Option<u32> {
        self.running.get().then_some(DAEMON)
    }
}

/// A launchd that needs its time, as it passes in the pauses.
#[derive(Default)]
struct SlowLaunchd {
    now: Cell<Duration>,
    /// When it lets go of the job that it was told to take out.
    gone_at: Cell<Option<Duration>>,
    /// When it was told to start a job.
    began: Cell<Option<Duration>>,
    leaving: Duration,
    /// How long it takes until the daemon's process runs, and until that says so.
    starting: Duration,
    reporting: Duration,
    /// The job's processes end at once.
    crashes: bool,
    bootstraps: Cell<u32>,
}

impl SlowLaunchd {
    fn with_a_job(self) -> Self {
        self.began.set(Some(Duration::ZERO));
        self.now.set(Duration::from_mins(1));
        self
    }

    /// How long ago the job was started, if there is one.
    fn job_age(&self) -> Option<Duration> {
        self.began.get().map(|began| self.now.get().saturating_sub(began))
    }

    fn print(&self) -> CommandResult {
        let now = self.now.get();
        if self.gone_at.get().is_some_and(|gone| now < gone) {
            return job("running", DAEMON - 1);
        }
        match self.job_age() {
            None => no_job(),
            Some(age) if age < self.starting => job("xpcproxy", DAEMON),
            Some(_) if self.crashes && now.as_secs() % 2 == 1 => job("spawn scheduled", DAEMON),
            Some(_) => job("running", DAEMON),
        }
    }
}

impl Runner for SlowLaunchd {
    fn run(&self, _: &'static str, args: &[&str]) -> io::Result<CommandResult> {
        let now = self.now.get();
        Ok(match *args.first().unwrap_or(&"") {
            "print" => self.print(),
            "bootout" if self.began.take().is_some() => {
                self.gone_at.set(Some(now + self.leaving));
                yes("")
            }
            "bootout" => no(3, "Boot-out failed: 3: No such process"),
            "bootstrap" if self.gone_at.get().is_some_and(|gone| now < gone) => {
                self.bootstraps.set(self.bootstraps.get() + 1);
                no(5, "Bootstrap failed: 5: Input/output error")
            }
            "bootstrap" => {
                self.bootstraps.set(self.bootstraps.get() + 1);
                self.began.set(Some(now));
                yes("")
            }
            _ => yes(""),
        })
    }

    fn pause(&self, duration: Duration) {
        self.now.set(self.now.get() + duration);
    }

    fn daemon_process(&self) -> Option<u32> {
        let reports = self.starting + self.reporting;
        let lives = self.job_age().is_some_and(|age| reports <= age) && !self.crashes;
        lives.then_some(DAEMON)
    }
}

fn installed_by(launchd: &SlowLaunchd) -> Result<Outcome, ServiceError> {
    let root = tempfile::tempdir().expect("a directory");
    Installer::new(Manager::Launchd, &program(), root.path(), launchd)
        .expect("an installer")
        .install()
}

/// DAEMON-5: installing waits for launchd, which lets go of a job, and starts one,
/// after its commands have returned.
#[test]
fn daemon_5_installing_waits_for_launchd() {
    let seconds = Duration::from_secs;
    let fresh = SlowLaunchd { starting: seconds(3), reporting: seconds(9), ..Default::default() };
    assert_eq!(installed_by(&fresh).expect("installed"), Outcome::Changed);
    assert_eq!(fresh.now.get(), seconds(12), "as soon as the daemon has reported");
    let busy = SlowLaunchd { leaving: seconds(9), ..Default::default() }.with_a_job();
    assert_eq!(installed_by(&busy).expect("installed"), Outcome::Changed);
    assert_eq!(busy.bootstraps.get(), 1, "after it has let go");
    // Longer than it should need: `bootstrap` fails until then.
    let slow = SlowLaunchd { leaving: seconds(20), ..Default::default() }.with_a_job();
    assert_eq!(installed_by(&slow).expect("installed"), Outcome::Changed);
    assert!(slow.bootstraps.get() > 1);
    let stuck = SlowLaunchd { leaving: seconds(1000), ..Default::default() }.with_a_job();
    let error = installed_by(&stuck).expect_err("it never lets go");
    assert!(error.to_string().contains("Bootstrap failed: 5"), "{error}");
}

/// DAEMON-5: a job that ends at once is running for an instant, and one that hangs
/// is for ever; neither counts.
#[test]
fn daemon_5_a_job_runs_once_its_daemon_says_so() {
    let crashing = SlowLaunchd { crashes: true, ..Default::default() };
    let error = installed_by(&crashing).expect_err("it crashes").to_string();
    assert!(error.contains("does not run"), "{error}");
    let hanging = SlowLaunchd { reporting: Duration::from_hours(1), ..Default::default() };
    let error = installed_by(&hanging).expect_err("it hangs").to_string();
    assert!(error.contains("process 512 has not reported itself within 30 s"), "{error}");
    let never = SlowLaunchd { starting: Duration::from_hours(1), ..Default::default() };
    let error = installed_by(&never).expect_err("it does not start").to_string();
    assert!(error.contains("its state is \"xpcproxy\", its last exit code \"78\""), "{error}");
}

/// DAEMON-5: an error of `bootstrap` that no retry cures is reported at once.
#[test]
fn daemon_5_a_job_that_launchd_refuses_is_an_error_at_once() {
    struct Refusing;
    impl Runner for Refusing {
        fn run(&self, _: &'static str, args: &[&str]) -> io::Result<CommandResult> {
            Ok(match *args.first().unwrap_or(&"") {
                "print" => no_job(),
                "bootstrap" => no(122, "Bootstrap failed: 122: Path had bad ownership"),
                _ => yes(""),
            })
        }

        fn pause(&self, _: Duration) {
            panic!("there is nothing to wait for");
        }

        fn daemon_process(&self) -> Option<u32> {
            None
        }
    }
    let root = tempfile::tempdir().expect("a directory");
    let service = Installer::new(Manager::Launchd, &program(), root.path(), &Refusing);
    let error = service.expect("an installer").install().expect_err("refused").to_string();
    assert!(error.contains("bootstrap system") && error.contains("bad ownership"), "{error}");
}

/// DAEMON-5: root is not made to run what another user can replace; launchd gets
/// the program's own path, not that of a link.
#[test]
fn daemon_5_a_program_that_others_can_replace_is_not_installed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().canonicalize().expect("it is there");
    let (program, link) = (dir.join("santa-sync"), dir.join("link"));
    fs::write(&program, "").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    symlink(&program, &link).expect("a link");
    for manager in [Manager::Launchd, Manager::Systemd] {
        let safe = safe_program(&link, manager).expect("nobody else can replace it");
        assert_eq!(safe == program, manager == Manager::Launchd);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("a mode");
        let error = safe_program(&link, manager).expect_err("others can").with_fix();
        assert!(error.contains("root is not to run this program: others may write"), "{error}");
        assert!(error.contains("/usr/local/") && error.contains("owned by root"), "{error}");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a mode");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o775)).expect("a mode");
        safe_program(&link, manager).expect_err("the group can change it");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
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
            vec![
                "launchctl bootout",
                "launchctl print",
                "launchctl enable",
                "launchctl bootstrap",
                "launchctl print",
            ],
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
        assert!(text.contains("/opt/santa/bin/santa-sync") && !text.contains(JOB_PROGRAM));
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
    assert_eq!(args, [JOB_PROGRAM, "daemon"]);
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
    // launchd ends what is left of the job's own process group. Each sync has a group
    // of its own and ends itself once the daemon is gone (DAEMON-6).
    assert!(job.get("AbandonProcessGroup").is_none());
}

/// DAEMON-5: the sample for newsyslog names the job's log, and the file in which the
/// daemon has its process id.
#[test]
fn daemon_5_newsyslog_rotates_the_log_of_the_job() {
    let sample = include_str!("../../../../launchd/com.santa-sync.newsyslog.conf");
    let mut lines = sample.lines().filter(|line| !line.starts_with('#'));
    let fields: Vec<_> = lines.next().expect("a line").split_whitespace().collect();
    assert_eq!(lines.next(), None);
    let [log, owner, mode, _count, _size, when, flags, process, signal] = fields[..] else {
        panic!("{fields:?}");
    };
    let job = plist::from_bytes::<Value>(LAUNCHD_PLIST.as_bytes()).expect("a property list");
    let job = job.as_dictionary().expect("a dictionary");
    assert_eq!(job["StandardErrorPath"].as_string(), Some(log));
    assert_eq!((owner, mode, when, signal), ("root:wheel", "640", "*", "1"));
    // A compressed file would lose the last lines of a sync that runs meanwhile.
    assert!(!flags.contains(['J', 'Z']), "{flags}");
    let lock = Path::new("/var/db/santa-sync").join(crate::control::INSTANCE_LOCK_FILE);
    assert_eq!(Path::new(process), lock);
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
