use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::host::RecordedHost;
use crate::model::Timestamp;

fn recorded(case: &str) -> RecordedHost {
    RecordedHost::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host").join(case))
}

fn texts(lines: &[Line]) -> String {
    lines.iter().map(Line::text).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_exit_code_is_that_of_the_first_problem() {
    let code = |lines: &[Line]| {
        let report = Report::new(lines.to_vec());
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

#[test]
fn the_service_manager_is_asked_in_its_own_words() {
    insta::assert_snapshot!(
        texts(&["macos-laptop", "macos-hanging", "linux-server", "linux-container"]
            .map(|case| local::service(&recorded(case)))),
        @r"
    ok       service            launchd runs com.northpolesec.santa-sync
    warning  service            launchd knows no com.northpolesec.santa-sync, so nothing syncs by itself
                                fix: `santa-sync service install`
    warning  service            systemd knows santa-sync.service, and it is failed
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
        let text = texts(&local::state_directory(dir.path()));
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    insta::assert_snapshot!([line(0o700), line(0o750), line(0o777)].join("\n"), @r"
    ok       state directory    DIR is there and private
    warning  state directory    DIR can be read by others (mode 750)
                                fix: chmod 0700 DIR
    PROBLEM  state directory    DIR can be written by others (mode 777)
                                fix: chmod 0700 DIR
    ");
    let missing = dir.path().join("a/b");
    let text = texts(&local::state_directory(&missing));
    assert!(text.contains("does not exist yet") && !missing.exists(), "{text}");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    assert_eq!(local::state_directory(&file)[0].status, Status::Problem);
}

#[test]
fn a_wrong_clock_is_measured() {
    let now = Timestamp::from_secs(1_795_000_000);
    let server = |secs: i64| Some(Timestamp::from_secs(1_795_000_000 + secs));
    let lines: Vec<_> = [None, server(0), server(-90), server(90), server(-4000)]
        .into_iter()
        .flat_map(|date| {
            let mut lines = Lines { shown: false, all: Vec::new() };
            network::clock_skew(date, now, &mut lines);
            lines.all
        })
        .collect();
    insta::assert_snapshot!(texts(&lines), @r"
    skipped  clock              the server does not tell its time
    ok       clock              this host and the server agree within 1 s
    warning  clock              this host's clock is 90 s ahead of the server's
                                fix: set this host's clock by a time server
    warning  clock              this host's clock is 90 s behind the server's
                                fix: set this host's clock by a time server
    PROBLEM  clock              this host's clock is 4000 s ahead of the server's
                                fix: set this host's clock by a time server
    ");
}

#[test]
fn the_report_as_json() {
    let report = Report::new(vec![
        Line::ok(Layer::Configuration, "2 keys from --set"),
        Line::skipped(Layer::Stores, "there is no state directory yet"),
        Line::of_error(Layer::Identity, "no machine id; set MachineID", ""),
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
          "message": "no machine id",
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
    assert_eq!(report.summary(), "2 problems, 0 warnings; mend the first problem first.");
}
