//! A socket that systemd opened for the relay.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::*;

/// A daemon that is started as systemd does: with that socket as file descriptor 3.
fn activated(agent: &Agent, socket: TcpListener, more: &[&str]) -> Daemon {
    let command = Daemon::command(agent, 100, more);
    let mut shell = Command::new("/bin/sh");
    let script =
        "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=relay; exec \"$@\" 3<&0 </dev/null";
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().stdin(OwnedFd::from(socket));
    Daemon::of_with_stdin(&mut shell)
}

/// What a process has open, as the kernel names it.
fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect()
}

/// The processes that this one has started.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

#[test]
fn relay_1_a_socket_that_was_handed_over_is_used_and_goes_to_no_other_process() {
    let server =
        FakeServer::builder().fault(Stage::RuleDownload, nth(1), Fault::Hold).start().unwrap();
    let agent = Agent::of(&server);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let url = format!("SyncBaseURL={}", agent.base_url);
    let listen = format!("RelayListen={address}");
    let daemon = activated(&agent, socket, &["--set", &url, "--set", &listen]);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"POST /nowhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));

    // A sync runs: it has neither the socket nor the variables.
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    let socket = std::fs::read_link(format!("/proc/{}/fd/3", daemon.pid())).unwrap();
    assert!(socket.to_string_lossy().starts_with("socket:"), "{socket:?}");
    let syncs = children(daemon.pid());
    assert!(!syncs.is_empty());
    for sync in syncs {
        assert!(!open_files(sync).contains(&socket));
        let environment = std::fs::read(format!("/proc/{sync}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"));
    }
    server.release();
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}

/// The relay does not listen elsewhere than it is configured to.
#[test]
fn relay_1_a_socket_of_another_address_is_refused() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let given = socket.local_addr().unwrap();
    let url = format!("SyncBaseURL={}", agent.base_url);
    let _daemon = activated(&agent, socket, &["--set", &url, "--set", "RelayListen=127.0.0.1:1"]);
    let error = std::iter::repeat_with(|| {
        let ControlResponse::Status(status) = ask(&agent, &ControlRequest::Status) else {
            panic!("no status");
        };
        status.relay.and_then(|relay| relay.error)
    });
    let error = error.flatten().find(|error| !error.is_empty()).unwrap();
    assert!(error.contains(&given.to_string()), "{error}");
}
