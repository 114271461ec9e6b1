use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::host::MachineIdProblem;
use crate::host::RecordedHost;
use crate::model::{Proxy, Timestamp};
use crate::transport::CertificateFacts;

fn recorded(case: &str) -> RecordedHost {
    RecordedHost::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host").join(case))
}

fn texts(lines: &[Line]) -> String {
    lines.iter().map(Line::text).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_exit_code_is_that_of_the_first_problem() {
    let code = |lines: &[Line]| {
        let report = DoctorReport::new(lines.to_vec());
        (report.result, report.exit_code)
    };
    let ok = Line::ok(Layer::Dns, "");
    let skipped = Line::skipped(Layer::Http, "");
    let warning = Line::warning(Layer::Configuration, "", "");
    let problem = |layer| Line::problem(layer, "", "");
    assert_eq!(code(&[ok.clone(), skipped]), (Status::Ok, 0));
    assert_eq!(code(&[warning, ok]), (Status::Warning, 0));
    assert_eq!(code(&[problem(Layer::Configuration), problem(Layer::Dns)]).1, 78);
    assert_eq!(code(&[problem(Layer::Identity)]).1, 7);
    assert_eq!(code(&[problem(Layer::Stores)]).1, 73);
    assert_eq!(code(&[problem(Layer::Tls), problem(Layer::Stores)]), (Status::Problem, 1));
}

/// HTTP-13: a proxy that only a script names is not used, and doctor says so.
#[test]
fn http_13_a_proxy_by_pac_is_named_as_unsupported() {
    let line = |proxy: &Proxy, case| local::proxies(proxy, &recorded(case)).map(|line| line.text());
    let text = line(&Proxy::Environment, "macos-vm").expect("a warning");
    assert!(text.contains("PAC") && text.contains("SyncProxyConfiguration"), "{text}");
    assert_eq!(line(&Proxy::Configured(Box::default()), "macos-vm"), None);
    for other in ["macos-laptop", "macos-intel", "macos-hanging", "linux-server"] {
        assert_eq!(line(&Proxy::Environment, other), None, "{other}");
    }
}

/// DAEMON-5: a job counts as running by its own state, not by words elsewhere in
/// what launchd prints, however short that is.
#[test]
fn daemon_5_the_state_of_a_launchd_job_is_read() {
    let macs = ["macos-laptop", "macos-26-older-sdk", "macos-intel", "macos-vm"];
    insta::assert_snapshot!(texts(&macs.map(|case| local::service(&recorded(case)))), @r#"
    ok       service            launchd runs com.santa-sync.daemon
    warning  service            launchd has com.santa-sync.daemon, but its state is "spawn scheduled" (last exit code "78: EX_CONFIG")
                                fix: `launchctl kickstart system/com.santa-sync.daemon`, and see its log
    warning  service            launchd has com.santa-sync.daemon, but its state is "not running" (last exit code "0")
                                fix: `launchctl kickstart system/com.santa-sync.daemon`, and see its log
    warning  service            launchd has com.santa-sync.daemon, but its state is "xpcproxy" (last exit code "(never exited)")
                                fix: `launchctl kickstart system/com.santa-sync.daemon`, and see its log
    "#);
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("commands")).expect("made");
    fs::write(dir.path().join("uname"), "Darwin\n").expect("written");
    let output = dir.path().join("commands/launchctl");
    for other in ["", "system/x = {", "system/x = {\n\tjob state = running\n\tstate = "] {
        fs::write(&output, other).expect("written");
        let line = local::service(&RecordedHost::new(dir.path()));
        assert_eq!(line.status, Status::Warning, "{other:?}");
    }
}

/// DAEMON-5: doctor asks for the job that `service install` installs.
#[test]
fn the_service_manager_is_asked_in_its_own_words() {
    insta::assert_snapshot!(
        texts(&[
            "macos-laptop",
            "macos-vm-without-serial",
            "macos-hanging",
            "linux-server",
            "linux-container",
        ]
        .map(|case| local::service(&recorded(case)))),
        @r"
    ok       service            launchd runs com.santa-sync.daemon
    warning  service            launchd has no com.santa-sync.daemon, so nothing syncs by itself
                                fix: `santa-sync service install`
    warning  service            launchd cannot be asked for com.santa-sync.daemon: /bin/launchctl did not end within 10000 ms
                                fix: `sudo santa-sync service status`
    warning  service            systemd has santa-sync.service, but it is failed
                                fix: `systemctl restart santa-sync.service`, and see `journalctl -u santa-sync.service`
    skipped  service            there is no systemd to ask
    "
    );
}

#[test]
fn a_state_directory_for_others_is_named_with_the_command_that_mends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let line = |mode| {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("a mode");
        let text = texts(&state::examine(dir.path(), false)[..1]);
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    insta::assert_snapshot!([line(0o700), line(0o750), line(0o777)].join("\n"), @r"
    ok       state directory    DIR exists and is private
    warning  state directory    DIR can be entered by others (mode 750)
                                fix: chmod 0700 DIR
    PROBLEM  state directory    DIR can be written by others (mode 777), so nothing uses it
                                fix: chmod 0700 DIR
    ");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o710)).expect("a mode");
    assert_eq!(state::examine(dir.path(), true)[0].status, Status::Ok, "as the daemon sets it");
    assert_eq!(state::examine(dir.path(), false)[0].status, Status::Warning);
    let missing = dir.path().join("a/b");
    let text = texts(&state::examine(&missing, false));
    assert!(text.contains("does not exist yet") && !missing.exists(), "{text}");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    assert_eq!(state::examine(&file, false)[0].status, Status::Problem);
}

#[test]
fn files_of_the_wrong_user_are_named_with_the_command_that_mends_it() {
    let rights = state::Rights {
        me: 502,
        owner: 501,
        unusable: vec!["rules.db".into(), "rules.db-wal".into()],
        foreign: vec!["events.db".into()],
        loose: vec!["agent.lock".into(), "daemon.json".into()],
    };
    let mut lines = vec![state::not_ours(Path::new("DIR"), 0, 501)];
    lines.extend(rights.lines(Path::new("DIR")));
    insta::assert_snapshot!(texts(&lines), @r"
    PROBLEM  state directory    DIR belongs to user 0 and this is user 501, who may not use it
                                fix: run as that user or as root (sudo), or name another with --state-dir
    PROBLEM  state directory    user 502, who runs this, may not read and write rules.db, rules.db-wal
                                fix: as root: chown -R 501 DIR && chmod -R go=,u+rwX DIR
    warning  state directory    the directory is user 501's, but not events.db: a daemon of that user cannot use what root or another user created
                                fix: as root: chown -R 501 DIR
    warning  state directory    others may read or write agent.lock, daemon.json
                                fix: chmod 0600 DIR/agent.lock DIR/daemon.json
    ");
}

#[test]
fn a_full_disk_is_seen_before_a_commit_fails() {
    const MIB: u64 = 1 << 20;
    let room = |free, files, rules| state::Room { free, files, rules };
    let lines = [
        room(20 << 30, Some(100_000), 190 * MIB),
        room(570 * MIB, None, 190 * MIB),
        room(569 * MIB, None, 190 * MIB),
        room(63 * MIB, None, 0),
        room(7 * MIB, None, 0),
        room(0, Some(0), 0),
    ]
    .map(|room| room.line(Path::new("DIR")));
    insta::assert_snapshot!(texts(&lines), @r"
    ok       state directory    20 GiB free on its file system
    ok       state directory    570 MiB free on its file system
    warning  state directory    569 MiB free, and a clean sync may take 570 MiB
                                fix: free space on the file system of DIR
    warning  state directory    only 63 MiB free
                                fix: free space on the file system of DIR
    PROBLEM  state directory    the disk is full: 7 MiB free, too little for any commit
                                fix: free space on the file system of DIR
    PROBLEM  state directory    no more files can be created on the file system of DIR
                                fix: delete files on it (`df -i DIR` counts them)
    ");
}

#[test]
fn a_wrong_clock_is_measured() {
    let now = Timestamp::from_secs(1_795_000_000);
    let server = |secs: i64| Some(Timestamp::from_secs(1_795_000_000 + secs));
    let lines: Vec<_> = [None, server(0), server(-90), server(90), server(-4000)]
        .into_iter()
        .flat_map(|date| {
            let mut lines = ReportLines { shown: false, all: Vec::new() };
            network::clock_skew(date, now, &mut lines);
            lines.all
        })
        .collect();
    insta::assert_snapshot!(texts(&lines), @r"
    skipped  clock              the server does not report its time
    ok       clock              this host and the server agree within 1 s
    warning  clock              this host's clock is 90 s ahead of the server's
                                fix: set this host's clock by a time server
    warning  clock              this host's clock is 90 s behind the server's
                                fix: set this host's clock by a time server
    PROBLEM  clock              this host's clock is 4000 s ahead of the server's
                                fix: set this host's clock by a time server
    ");
}

/// HTTP-12: a client certificate is judged by this time, whatever the server
/// makes of it.
#[test]
fn http_12_a_client_certificate_out_of_its_time_is_a_problem() {
    let at = |days: u64| Timestamp::from_secs(1_795_000_000).after(Duration::from_hours(24 * days));
    let facts = CertificateFacts {
        subject: "CN=host-1".to_owned(),
        issuer: "CN=ca".to_owned(),
        not_before: at(10),
        not_after: at(100),
        sha256: String::new(),
    };
    let lines = [at(0), at(20), at(90), at(101)]
        .map(|now| network::certificate_line(&facts, "c.pem", "the server asked for one", now));
    assert_eq!(
        lines.each_ref().map(|line| line.status),
        [Status::Problem, Status::Ok, Status::Warning, Status::Problem]
    );
    for line in [&lines[0], &lines[3]] {
        assert!(!line.message.contains("good until"), "{}", line.message);
        assert_eq!(line.kind, Some("client_certificate_expired"));
    }
}

#[test]
fn the_report_as_json() {
    let report = DoctorReport::new(vec![
        Line::ok(Layer::Configuration, "2 keys from --set"),
        Line::skipped(Layer::Stores, "there is no state directory yet"),
        Line::of_error(Layer::Identity, &MachineIdProblem::Missing(None), ""),
        Line { kind: Some("html"), ..Line::problem(Layer::Body, "HTML", "check SyncBaseURL") },
    ]);
    insta::assert_json_snapshot!(report, @r#"
    {
      "schema_version": 1,
      "result": "problem",
      "exit_code": 7,
      "lines": [
        {
          "layer": "configuration",
          "status": "ok",
          "message": "2 keys from --set"
        },
        {
          "layer": "stores",
          "status": "skipped",
          "message": "there is no state directory yet"
        },
        {
          "layer": "identity",
          "status": "problem",
          "message": "no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID is unknown",
          "fix": "set MachineID"
        },
        {
          "layer": "body",
          "status": "problem",
          "message": "HTML",
          "fix": "check SyncBaseURL",
          "kind": "html"
        }
      ]
    }
    "#);
    assert_eq!(report.summary(), "2 problems, 0 warnings; fix the first problem first.");
}
