//! What a user can get wrong, and the exit code of each.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::store::Store;

use crate::agent::Agent;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server")
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// EXIT 6: no server.
#[test]
fn without_a_url_there_is_nothing_to_sync_with() {
    let mut agent = Agent::at("");
    agent.base_url = String::new();
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(6), "missing_sync_base_url"));
    assert!(
        synced.json["error"]["fix"].as_str().is_some_and(|fix| fix.contains("--set SyncBaseURL="))
    );
}

/// EXIT 7: no machine id.
#[test]
fn a_placeholder_is_no_machine_id() {
    let server = server();
    let mut agent = Agent::of(&server);
    agent.machine_id = "%SerialNumber%".to_owned();
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(7), "missing_machine_id"));
    assert_eq!(server.count(santa_sync::model::Stage::Preflight), 0);
}

/// HTTP-11, EXIT 78: plain http to another host.
#[test]
fn http_11_plain_http_to_another_host_is_refused() {
    let agent = Agent::at("http://sync.example.com/");
    let output = agent.run(&["sync"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("change http:// to https://"), "{}", stderr(&output));
    assert!(!agent.state_dir.exists());
}

/// HTTP-3, EXIT 1: nobody listens.
#[test]
fn an_unreachable_server_fails_preflight_after_six_attempts() {
    let agent = Agent::at("http://127.0.0.1:1/");
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.kind()), (Some(1), "connection_refused"));
    assert_eq!(synced.json["stages"][0]["attempts"], 6);
}

/// EXIT 64: a command line that means nothing.
#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let agent = Agent::at("http://127.0.0.1:1/");
    for args in
        [&["sync", "--no-such-flag"][..], &["no-such-command"], &["sync", "--log-level", "loud"]]
    {
        assert_eq!(agent.run(args).status.code(), Some(64), "{args:?}");
    }
}

/// EXIT 73: a state directory that is a file, or that anybody may write to.
#[test]
fn a_state_directory_that_cannot_be_used_is_named() {
    let server = server();
    let mut agent = Agent::of(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    agent.state_dir = file.join("state");
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(73), "state_unusable"));
    assert!(synced.json["error"]["fix"].as_str().is_some_and(|fix| fix.contains("--state-dir")));

    agent.state_dir = dir.path().join("open");
    fs::create_dir(&agent.state_dir).expect("a directory");
    fs::set_permissions(&agent.state_dir, fs::Permissions::from_mode(0o777)).expect("a mode");
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(73));
    assert!(synced.json["error"]["fix"].as_str().is_some_and(|m| m.contains("chmod go-w")));
}

/// STATE-3, PRE-3, STATE-5: a corrupt database is set aside; a clean sync
/// makes its rules anew.
#[test]
fn state_3_a_corrupt_rule_store_is_set_aside_and_made_anew() {
    let server = server();
    let agent = Agent::of(&server);
    agent.sync(&[]);
    let db = agent.state_dir.join("rules.db");
    fs::write(&db, "this is no database, though it is long enough to look at").expect("written");
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, &synced.json["rules_processed"]), (Some(0), &serde_json::json!(10)));
    assert_eq!(synced.json["requested_sync_type"], "CLEAN_ALL");
    assert!(synced.stderr.contains("set aside"), "{}", synced.stderr);
    let aside = fs::read_dir(&agent.state_dir)
        .expect("a directory")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .find(|name| {
            let beside = name.ends_with("-wal") || name.ends_with("-shm");
            name.starts_with("rules.db.corrupt-") && !beside
        })
        .expect("the corrupt file is kept");
    let kept = fs::read_to_string(agent.state_dir.join(aside)).expect("a file");
    assert!(kept.starts_with("this is no database"));
}

/// RULE-7, EXIT 73: a database of a newer program is refused and left alone.
#[test]
fn rule_7_a_newer_database_is_refused_and_left_alone() {
    let server = server();
    let agent = Agent::of(&server);
    agent.sync(&[]);
    let db = agent.state_dir.join("rules.db");
    let mut bytes = fs::read(&db).expect("a database");
    // PRAGMA user_version lies in the header, big-endian, at offset 60.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&db, &bytes).expect("written");
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(73), "state_unusable"));
    let message = synced.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains("99") && message.contains("16"), "{message}");
    assert_eq!(fs::read(&db).expect("a database"), bytes);
}

/// STATE-1, NEVER: whatever a sync makes is for its user alone, and in the
/// state directory.
#[test]
fn state_1_files_are_for_their_owner_alone() {
    let server = server();
    let agent = Agent::of(&server);
    let mut command = agent.command(&["sync"]);
    let empty = tempfile::tempdir().expect("a directory");
    command.current_dir(empty.path()).env("TMPDIR", empty.path()).env("HOME", empty.path());
    assert!(command.output().expect("the program runs").status.success());
    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&agent.state_dir), 0o700);
    let mut seen = 0;
    for entry in fs::read_dir(&agent.state_dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4, "{seen} files");
    assert_eq!(fs::read_dir(empty.path()).expect("a directory").count(), 0, "written elsewhere");
}

/// EXIT 70: an answer that could not be written is no success.
#[cfg(target_os = "linux")]
#[test]
fn output_that_is_lost_is_an_error() {
    let server = server();
    let agent = Agent::of(&server);
    agent.sync(&[]);
    for args in [&["status"][..], &["status", "--json"], &["rules", "export"], &["man"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let output = agent.command(args).stdout(full).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(70), "{args:?}");
        assert!(stderr(&output).contains("cannot be written"), "{args:?}: {}", stderr(&output));
    }
}

/// Runs the program against its own clock: what hangs is killed, and has no
/// exit code then.
fn run_in_time(agent: &Agent, args: &[&str]) -> (Option<i32>, String) {
    let command = agent.command(args);
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(std::time::Duration::from_mins(1)).output().expect("it ran");
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&told).into_owned())
}

/// Makes a FIFO, for which a program must not wait.
pub(crate) fn mkfifo(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("it ran");
    assert!(made.success());
}

/// EXIT 73: opening a FIFO would wait for its writer, and creating through a
/// dangling link would write elsewhere.
#[test]
fn what_lies_in_a_files_place_and_is_none_is_named() {
    let syncing: &[&[&str]] = &[&["sync"]];
    let rules: &[&[&str]] =
        &[&["sync"], &["status"], &["history"], &["rules", "list"], &["rules", "verify"]];
    let events: &[&[&str]] = &[&["status"], &["events", "list"], &["events", "add"]];
    for (name, commands) in [("rules.db", rules), ("events.db", events), ("agent.lock", syncing)] {
        for (what, words) in [("fifo", "is a FIFO"), ("link", "is a link to /nowhere/file")] {
            let agent = Agent::at("http://127.0.0.1:1/");
            Store::prepare_dir(&agent.state_dir).expect("a directory");
            let place = agent.state_dir.join(name);
            match what {
                "fifo" => mkfifo(&place),
                _ => symlink("/nowhere/file", place).expect("a link"),
            }
            for command in commands {
                let (code, told) = run_in_time(&agent, command);
                assert_eq!(code, Some(73), "{name} {command:?}: {told}");
                assert!(
                    told.contains(words)
                        && (told.contains("move it away")
                            || told.contains("put a file of its own")),
                    "{told}"
                );
            }
            let (_, told) = run_in_time(&agent, &["doctor"]);
            assert!(told.contains(words), "{name}: {told}");
        }
    }
    let agent = Agent::at("http://127.0.0.1:1/");
    Store::prepare_dir(&agent.state_dir).expect("a directory");
    mkfifo(&agent.state_dir.join("daemon.json"));
    mkfifo(&agent.state_dir.join("daemon.lock"));
    assert_eq!(run_in_time(&agent, &["status"]).0, Some(0));
}

/// EXIT 64 and 78: the same of files that the command line names.
#[test]
fn what_is_no_file_is_not_read() {
    let agent = Agent::at("http://127.0.0.1:1/");
    Store::prepare_dir(&agent.state_dir).expect("a directory");
    let fifo = agent.state_dir.join("fifo");
    mkfifo(&fifo);
    let (fifo, dir) = (fifo.to_str().expect("UTF-8"), agent.state_dir.to_str().expect("UTF-8"));
    for (path, words) in [
        (fifo, "is a FIFO; name a regular file"),
        ("/dev/zero", "is a device; name a regular file"),
        (dir, "is a directory; name the executable in it"),
        ("/nowhere/file", "check the path"),
    ] {
        let (code, told) = run_in_time(&agent, &["rules", "check", "--path", path]);
        assert!(code == Some(64) && told.contains(words), "{path}: {code:?} {told}");
    }
    let (code, told) = run_in_time(&agent, &["config", "check", "--config", fifo]);
    assert!(code == Some(78) && told.contains("is a FIFO, not a file"), "{code:?} {told}");
}

/// A process that died while it made the databases leaves empty ones.
#[test]
fn a_store_that_was_made_and_never_filled_says_so() {
    let mut agent = Agent::at("http://127.0.0.1:1/");
    Store::prepare_dir(&agent.state_dir).expect("a directory");
    for name in ["rules.db", "events.db"] {
        fs::write(agent.state_dir.join(name), "").expect("written");
    }
    for command in [&["rules", "list"], &["rules", "export"], &["rules", "verify"]]
        .into_iter()
        .chain([&["events", "list"], &["events", "bundles"]])
    {
        let output = agent.run(command);
        assert_eq!(output.status.code(), Some(73), "{command:?}");
        let told = stderr(&output);
        assert!(told.contains("no sync has written to it; run `santa-sync sync` once"), "{told}");
    }
    assert_eq!(agent.run(&["status"]).status.code(), Some(0));
    let server = server();
    agent.base_url = server.url();
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.rules(), 10);
}

/// STATE-1: what was loosened is private again after a sync.
#[test]
fn state_1_a_sync_takes_back_the_rights_of_others() {
    let server = server();
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let files = ["rules.db", "rules.db-wal", "rules.db-shm", "events.db", "agent.lock"];
    for name in files {
        let loose = fs::Permissions::from_mode(0o644);
        fs::set_permissions(agent.state_dir.join(name), loose).expect("a mode");
    }
    assert_eq!(agent.sync(&[]).code, Some(0));
    for name in files {
        let mode = fs::metadata(agent.state_dir.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
