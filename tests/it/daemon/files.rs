//! Files that are moved under a running daemon: its log and its program.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::*;

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a file has these words.
fn wait_for(path: &Path, words: &str) -> String {
    let clock = SystemClock::new();
    let end = clock.now().elapsed + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.contains(words) {
            return text;
        }
        assert!(clock.now().elapsed < end, "{words:?} is not in {text}");
        std::thread::yield_now();
    }
}

/// DAEMON-5: a log file that is moved away is opened again on SIGHUP; what follows,
/// of syncs too, is in the new one.
#[test]
fn daemon_5_a_rotated_log_goes_on_in_a_new_file() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("log.0"));
    let url = format!("SyncBaseURL={}", agent.base_url);
    let opened = OpenOptions::new().append(true).create(true).open(&log).unwrap();
    let mut command = Daemon::command(&agent, 1, &["--set", &url]);
    command.stdin(Stdio::null()).stdout(opened.try_clone().unwrap()).stderr(opened);
    heed_signals();
    let mut daemon = Process(command.spawn().unwrap());
    wait_for(&log, "daemon started");
    let pid = daemon.0.id().cast_signed();
    let signal = |signal| {
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    };

    fs::rename(&log, &old).unwrap();
    let before = fs::read_to_string(&old).unwrap();
    signal(Signal::HUP);
    let clock = SystemClock::new();
    let end = clock.now().elapsed + PATIENCE;
    while !log.exists() {
        assert!(clock.now().elapsed < end, "it is not opened again");
    }
    assert_eq!(sync(&agent).result, SyncResult::Success);
    wait_for(&log, "sync ends");
    signal(Signal::TERM);
    assert!(daemon.0.wait().unwrap().success());
    assert!(fs::read_to_string(&log).unwrap().contains("daemon stopped"));
    assert_eq!(fs::read_to_string(&old).unwrap(), before, "nothing more in the old one");
}

/// DAEMON-5: a daemon under a service manager ends once its program was replaced,
/// after the sync that runs, for the manager to start the new one.
#[test]
#[cfg(target_os = "linux")]
fn daemon_5_a_replaced_program_ends_the_daemon_between_syncs() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixDatagram;

    let server =
        FakeServer::builder().fault(Stage::RuleDownload, nth(1), Fault::Hold).start().unwrap();
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = dir.path().join("santa-sync");
    fs::hard_link(program().get_program(), &own).unwrap();
    let notify = dir.path().join("notify");
    let _manager = UnixDatagram::bind(&notify).unwrap();
    let url = format!("SyncBaseURL={}", agent.base_url);
    let of_tests = Daemon::command(&agent, 100, &["--set", &url]);
    let mut command = Command::new(&own);
    command.args(of_tests.get_args()).env_clear().env("NOTIFY_SOCKET", &notify);
    let mut daemon = Daemon::of(&mut command);
    daemon.signal(Signal::USR1);
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));

    let new = dir.path().join("new");
    fs::write(&new, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &own).unwrap();
    let mut client = client(&agent);
    client.ask(&ControlRequest::Subscribe).unwrap();
    server.release();
    assert_eq!(synced(&mut client).result, SyncResult::Success);
    daemon.says("the program was replaced");
    let status = daemon.child.wait().unwrap();
    assert!(status.success(), "{status}");
}
