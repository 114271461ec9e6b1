//! The layer of the daemon.

use rustix::process::Signal;
use santa_sync::harness::FakeServer;
use serde_json::Value;

use crate::agent::Agent;
use crate::daemon::Daemon;

/// What `doctor` says of the daemon: status and message of each line, and its
/// exit code.
fn examined(agent: &Agent, args: &[&str], env: &[(&str, &str)]) -> (Vec<String>, Option<i32>) {
    let mut command = agent.command(&[&["doctor", "--json", "--no-probe"], args].concat());
    let output = command.envs(env.iter().copied()).output().expect("it ran");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = report["lines"].as_array().expect("lines").iter();
    let of_daemon = lines.filter(|line| line["layer"] == "daemon");
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let shown =
        of_daemon.map(|line| format!("{}: {}", text(line, "status"), text(line, "message")));
    (shown.collect(), output.status.code())
}

/// DAEMON-6: whoever looks learns that nothing syncs by itself, and why.
#[test]
fn daemon_6_doctor_tells_a_daemon_that_lives_from_one_that_does_not() {
    let server = FakeServer::builder().start().expect("a server");
    let agent = Agent::of(&server);
    let (lines, _) = examined(&agent, &[], &[]);
    assert_eq!(lines, ["skipped: no daemon has run on this state directory"]);
    let daemon = Daemon::start(&agent, 1, &[]);
    let pid = daemon.pid();
    let deadline = ["--set", "SyncDeadline=86400"];
    let (lines, code) = examined(&agent, &deadline, &[]);
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(
        lines,
        [format!(
            "ok: process {pid} of version {} is alive, as user {user}",
            env!("CARGO_PKG_VERSION")
        )]
    );
    assert_eq!(code, Some(0));
    daemon.signal(Signal::STOP);
    let (lines, code) = examined(&agent, &deadline, &[]);
    assert_eq!(
        lines,
        [format!("problem: the daemon (process {pid}) is stuck: no response within 3 s")]
    );
    assert_eq!(code, Some(69));
    daemon.signal(Signal::CONT);
    drop(daemon);
    let (lines, code) = examined(&agent, &deadline, &[]);
    assert!(
        lines[0].starts_with(&format!("problem: the daemon (process {pid}) is dead")),
        "{lines:?}"
    );
    assert_eq!(code, Some(69));
    let daemon = Daemon::start(&agent, 1, &[]);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
    let (lines, code) = examined(&agent, &deadline, &[]);
    assert!(lines[0].starts_with("warning: the daemon was stopped at "), "{lines:?}");
    assert_eq!(code, Some(0));
}

/// CONF-3: a daemon that keeps its previous configuration looks healthy, and does not
/// do what the file says.
#[test]
fn conf_3_doctor_reports_a_configuration_that_the_daemon_refuses() {
    let server = FakeServer::builder().start().expect("a server");
    let agent = Agent::of(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.plist");
    let write = |url: &str| {
        let values = plist::Dictionary::from_iter([("SyncBaseURL", url)]);
        plist::Value::Dictionary(values).to_file_xml(&file).expect("written");
    };
    write(&server.url());
    let mut daemon = Daemon::bare(&agent, 1, &["--config", file.to_str().expect("UTF-8")]);
    write("http://not-this-host.example/");
    daemon.signal(Signal::HUP);
    daemon.says("a new configuration is refused");
    let own = ["--set", "LogLevel=debug"];
    let mut command = agent.command(&[&["doctor", "--json", "--no-probe"], &own[..]].concat());
    let output = command.output().expect("it ran");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let refused = report["lines"].as_array().expect("lines").iter().find(|line| {
        line["layer"] == "daemon"
            && line["message"].as_str().is_some_and(|message| message.contains("refuses"))
    });
    let refused = refused.expect("a line about the refused configuration");
    assert_eq!(refused["status"], "problem");
    let message = refused["message"].as_str().expect("text");
    assert!(
        message.starts_with(
            "the daemon refuses the configuration it finds, and keeps the previous one: "
        ) && message.contains("SyncBaseURL"),
        "{message}"
    );
    assert_eq!(refused["fix"], "`santa-sync config check` names each mistake and its fix");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("another configuration"), "it has been said: {text}");

    // In order again, and no longer a problem.
    write(&server.url());
    daemon.signal(Signal::HUP);
    daemon.says("the configuration can be used again");
    let (lines, _) = examined(&agent, &own, &[]);
    assert!(!lines.iter().any(|line| line.contains("refuses")), "{lines:?}");
}

/// CONF-3, HTTP-13: what doctor finds in its own shell need not hold for the
/// daemon, so it asks.
#[test]
fn conf_3_doctor_compares_its_configuration_with_the_daemons() {
    let server = FakeServer::builder().start().expect("a server");
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &["--set", "ServerAuthRootsFile=/nowhere/roots.pem"]);
    let (lines, code) = examined(&agent, &["--set", "LogLevel=debug"], &[]);
    let [_, file, other] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        file,
        "problem: the daemon cannot use ServerAuthRootsFile /nowhere/roots.pem: it does not exist"
    );
    assert!(other.starts_with("warning: the daemon has another configuration"), "{other}");
    assert_eq!(code, Some(69));
    drop(daemon);
    // A proxy that only the shell knows is not the daemon's way.
    let mut far = Agent::at("https://sync.example.com/");
    far.machine_id = "host-1".to_owned();
    let _daemon = Daemon::start(&far, 1, &[]);
    let shell = [("https_proxy", "http://127.0.0.1:1")];
    let (lines, _) = examined(&far, &["--set", "SyncDeadline=86400"], &shell);
    let shown =
        "warning: the daemon's proxy is none, and this shell's http://127.0.0.1:1 (https_proxy)";
    assert_eq!(lines[1..], [shown]);
}
