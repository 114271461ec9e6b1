//! Signals that a process was started to ignore, as by `nohup` or the shell of
//! a background job.

use std::os::unix::process::CommandExt as _;

use super::*;

/// The command with these signals ignored from its start.
pub(super) fn ignoring(command: &Command, signals: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("trap '' {signals}; exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().stdin(Stdio::null()).process_group(0);
    shell
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("it runs");
}

/// SYNC-6: a sync under `nohup` or in the background goes on when its terminal
/// goes away or somebody presses Ctrl-C; SIGTERM still ends it.
#[test]
fn sync_6_ignored_signals_do_not_end_a_sync() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let agent = Agent::of(&server);
    server.fault(Stage::RuleDownload, nth(1), Fault::Hold);
    let start = |signals: &str| {
        let mut command = ignoring(&agent.command(&["sync", "--json"]), signals);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = start("HUP INT");
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    signal(&child, Signal::HUP);
    signal(&child, Signal::INT);
    server.release();
    let synced = crate::agent::synced(&child.wait_with_output().unwrap());
    assert_eq!((synced.code, synced.result()), (Some(0), "success"), "{synced:?}");

    server.fault(Stage::RuleDownload, nth(2), Fault::Hold);
    let child = start("HUP INT");
    assert!(server.wait_for(Stage::RuleDownload, 2, PATIENCE));
    signal(&child, Signal::TERM);
    let synced = crate::agent::synced(&child.wait_with_output().unwrap());
    assert_eq!(synced.kind(), "cancelled", "{synced:?}");
}

/// DAEMON-3: the daemon leaves alone what it was started to ignore, and its
/// syncs can be stopped all the same.
#[test]
#[cfg(target_os = "linux")]
fn daemon_3_the_daemon_leaves_ignored_signals_alone() {
    let server =
        FakeServer::builder().fault(Stage::RuleDownload, nth(1), Fault::Hold).start().unwrap();
    let agent = Agent::of(&server);
    let url = format!("SyncBaseURL={}", agent.base_url);
    let command = Daemon::command(&agent, 100, &["--set", &url]);
    let daemon = Daemon::of(&mut ignoring(&command, "HUP TERM"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 0x4001, 0x4001, "SIGHUP and SIGTERM are still ignored: {status}");
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::TERM);
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE), "its time is fast");
    let (code, took) = daemon.stop(Signal::INT);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let history = agent.store().history(1).unwrap();
    assert_eq!(history[0].error.as_ref().unwrap().kind, "cancelled");
}
